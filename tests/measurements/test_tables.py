"""Tables of runs and logs of arrivals: what is read, and what is said of what cannot be."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxalloc.measurements.goodness import group
from jaxalloc.measurements.runs import read_arrivals, read_runs

HEADER = "task,tokens,correct,seconds\n"


def write(tmp_path, text, name="runs.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_table_is_read_whatever_the_order_and_names_of_its_columns(tmp_path):
    text = "s,extra,q,ok,budget,kind\n0.5,x,7,true,256,B\n1.5,y,8,False,0,A\n2.5,z,7, 1 ,512,B\n"
    columns = {"task": "kind", "tokens": "budget", "correct": "ok", "seconds": "s", "question": "q"}
    runs = read_runs(write(tmp_path, text), columns)
    assert runs.tasks == ("A", "B")
    np.testing.assert_array_equal(runs.task, [1, 0, 1])
    np.testing.assert_array_equal(runs.tokens, [256, 0, 512])
    np.testing.assert_array_equal(runs.correct, [1, 0, 1])
    np.testing.assert_array_equal(runs.seconds, [0.5, 1.5, 2.5])
    np.testing.assert_array_equal(runs.question, [0, 1, 0])


def test_parquet_says_the_same_as_csv(tmp_path):
    table = {"task": ["a", "b"], "tokens": [1, 2], "correct": [True, False], "seconds": [1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "runs.parquet")
    text = HEADER + "a,1,1,1.0\nb,2,0,2.0\n"
    one, two = read_runs(tmp_path / "runs.parquet"), read_runs(write(tmp_path, text))
    for name in ("task", "tokens", "correct", "seconds"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.tasks == two.tasks
    assert one.question is two.question is None
    words = pa.array(["yes", "no"])
    for form in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        stored = table | {"correct": words.cast(form), "task": pa.array(["a", "b"]).cast(form)}
        pq.write_table(pa.table(stored), tmp_path / "runs.parquet")
        again = read_runs(tmp_path / "runs.parquet")
        np.testing.assert_array_equal(again.correct, one.correct)
        assert again.tasks == one.tasks


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (HEADER + "a,1,1,1\nb,x,1,1\n", "row 2 (line 3), column tokens: 'x' is not a number"),
        (HEADER + "\na,1,1,1\n\nb,-1,1,1\n", "row 2 (line 5), column tokens: '-1' must not be neg"),
        (HEADER + "a,1,1,nan\n", "row 1 (line 2), column seconds: 'nan' is not a number"),
        (HEADER + "a,1,1,inf\n", "row 1 (line 2), column seconds: 'inf' is not finite"),
        (HEADER + "a,1,2,1\n", "row 1 (line 2), column correct: '2' must be 0 or 1"),
        (HEADER + "a,1,,1\n", "row 1 (line 2), column correct: an empty cell must be 0 or 1"),
        (HEADER + "a,,1,1\n", "row 1 (line 2), column tokens: an empty cell is not a number"),
        (HEADER + "a,1,1,1\n,1,1,1\n", "row 2 (line 3), column task: an empty cell names nothing"),
        (
            HEADER + "a,1,1,1\nb,1,1\n",
            "row 2 (line 3), column 4: the row has 3 cells",
        ),
        (HEADER + "a,1,1,1,1\n", "row 1 (line 2), column 5: the row has 5 cells"),
        (HEADER, "is empty (0 rows)"),
        ("task,tokens,tokens,correct,seconds\na,1,2,1,1\n", "2 columns are called tokens: rename"),
        ("", "column task is missing"),
        ("task,tokens,correct\na,1,1\n", "column seconds is missing: name the one that is meant"),
        ('task,tokens,correct,seconds\n"a\nb",1,1,1\nb,1,9,1\n', "row 2 (line 4), column correct"),
    ],
)
def test_a_malformed_table_is_named_with_row_and_column(tmp_path, text, named):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"runs\.csv") as caught:
        read_runs(path)
    assert str(caught.value).startswith(str(path))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_malformed_parquet_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not Parquet"):
        read_runs(write(tmp_path, "x", "a.parquet"))
    table = {"task": ["a", "b"], "tokens": [1, None], "correct": [1, 0], "seconds": [1.0, 2.0]}
    pq.write_table(pa.table(table), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="row 2, column tokens: an empty cell is not a number"):
        read_runs(tmp_path / "b.parquet")
    pq.write_table(pa.table(table | {"task": [["a"], ["b"]]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match=r"row 1, column task: \['a'\] is not a name: correct it"):
        read_runs(tmp_path / "c.parquet")


@pytest.mark.parametrize("name", ["a.txt", "absent.csv"])
def test_a_file_that_cannot_be_one_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in|does not exist"):
        read_runs(tmp_path / name)


@pytest.mark.parametrize(
    "cells",
    [
        ["1.5", "3.0", "7.25"],
        ["2026-01-31 12:00:01.5", "2026-01-31 12:00:03", "2026-01-31 12:00:07.25"],
        ["2026-01-31T12:00:01.5Z", "2026-01-31T12:00:03Z", "2026-01-31T12:00:07.25Z"],
    ],
)
def test_times_of_any_form_are_seconds(tmp_path, cells):
    log = read_arrivals(write(tmp_path, "time\n" + "\n".join(cells) + "\n"))
    np.testing.assert_allclose(np.diff(log.time), [1.5, 4.25])
    assert log.task is None


def test_times_of_parquet_are_seconds(tmp_path):
    moments = [datetime.datetime(2026, 1, 31, 12, 0, s) for s in (1, 3)]
    pq.write_table(pa.table({"when": moments, "task": ["a", "b"]}), tmp_path / "log.parquet")
    log = read_arrivals(tmp_path / "log.parquet", {"time": "when"})
    np.testing.assert_allclose(np.diff(log.time), 2)
    assert log.tasks == ("a", "b")
    days = [datetime.date(2026, 1, day) for day in (30, 31)]
    for when in (pa.array(days), pa.array([f"{day} 12:00:00" for day in days], pa.large_string())):
        pq.write_table(pa.table({"time": when}), tmp_path / "log.parquet")
        np.testing.assert_allclose(np.diff(read_arrivals(tmp_path / "log.parquet").time), 86400)


def test_a_time_that_is_none_is_named(tmp_path):
    path = write(tmp_path, "time\n2026-01-31 12:00:01\nnoon\n")
    with pytest.raises(ValueError, match=r"row 2 \(line 3\), column time: 'noon' is not a time"):
        read_arrivals(path)


def test_rows_that_are_alike_are_counted_together(tmp_path):
    text = "task,tokens,correct,seconds,question\n"
    text += "a,1,1,1,p\na,1,0,1,p\na,1,1,1,q\na,2,1,1,p\n"
    counted = read_runs(write(tmp_path, text)).of_task(0).count()
    rows = zip(counted.question, counted.tokens, counted.correct, counted.trials, strict=True)
    assert sorted(rows) == [(0, 1, 1, 2), (0, 2, 1, 1), (1, 1, 1, 1)]


def test_deviance_by_bin_is_that_of_the_binomial(tmp_path):
    rng = np.random.default_rng(0)
    tokens = np.repeat([0, 100, 200, 400], 50)
    correct = rng.random(200) < 0.3 + 0.4 * -np.expm1(-0.01 * tokens)
    rows = "".join(f"a,{t},{int(c)},1\n" for t, c in zip(tokens, correct, strict=True))
    counted = read_runs(write(tmp_path, HEADER + rows)).of_task(0).count()
    bins = group(counted, 0.4, 0.01, 0.3)
    share = correct.reshape(4, 50).mean(axis=1)
    fitted = 0.3 + 0.4 * -np.expm1(-0.01 * np.array([0, 100, 200, 400]))
    terms = share * np.log(share / fitted) + (1 - share) * np.log((1 - share) / (1 - fitted))
    np.testing.assert_allclose(bins.deviance, 100 * terms, atol=1e-9)
    many = np.arange(200)
    rows = "".join(f"a,{t},{int(c)},1\n" for t, c in zip(many, correct, strict=True))
    wide = group(read_runs(write(tmp_path, HEADER + rows)).of_task(0).count(), 0.4, 0.01, 0.3)
    assert len(wide.tokens) == 10
    assert wide.trials.sum() == 200
