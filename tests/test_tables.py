"""Traces, runs and logs of arrivals in files of every kind, and what is said of malformed ones."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxalloc.measurements.runs import read_arrivals, read_runs
from jaxalloc.traces.readers import read_trace

PROMPT, OUTPUT, ARRIVAL = [374, 396, 12], [44, 109, 5], [0.0, 4.3145, 10.0]
VLLM = {"backend": "vllm", "input_lens": PROMPT, "output_lens": OUTPUT, "start_times": ARRIVAL}
TRACES = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9950900,396,109\n"
    "2023-11-16 18:15:56.6805900,12,5\n",
    "mooncake.jsonl": '{"timestamp":1000,"input_length":374,"output_length":44,"hash_ids":[1]}\n'
    '{"timestamp":5314.5,"input_length":396,"output_length":109,"hash_ids":[1]}\n'
    '{"timestamp":11000,"input_length":12,"output_length":5,"hash_ids":[1]}\n',
    "burstgpt.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,374,44,418,Conversation log\n"
    "7,GPT-4,9,0,9,API log\n"
    "9.3145,ChatGPT,396,109,505,Conversation log\n"
    "15,ChatGPT,12,5,17,Conversation log\n",
    "vllm.json": json.dumps(VLLM),
    # Lists that are not read may have another length.
    "more.json": json.dumps(VLLM | {"rps_change_events": [{"rps": 1}], "acceptance": [1.0] * 4}),
    "any.parquet": pa.table({"prompt": PROMPT, "output": OUTPUT, "arrival": ARRIVAL}),
}
RUNS = "task,tokens,correct,seconds\n"
TRACE = "prompt,output\n"


def write(path, content):
    if isinstance(content, pa.Table):
        parquet.write_table(content, path)
    else:
        path.write_text(content)
    return path


@pytest.mark.parametrize("name", TRACES)
def test_columns_of_public_traces_are_recognized(name, tmp_path):
    trace = read_trace(write(tmp_path / name, TRACES[name]))
    assert trace.prompt.tolist() == PROMPT
    assert trace.output.tolist() == OUTPUT
    np.testing.assert_allclose(trace.arrival, ARRIVAL)
    assert trace.dropped == (name == "burstgpt.csv")


def test_columns_of_other_traces_are_named(tmp_path):
    path = write(tmp_path / "own.csv", "in,out,when,lo,hi\n7,3,200,1,4\n8,2,100,1,9\n")
    columns = {"prompt": "in", "output": "out", "arrival": "when", "lower": "lo", "upper": "hi"}
    trace = read_trace(path, columns=columns, time_unit="ms")
    assert trace.prompt.tolist() == [8, 7]  # in order of arrival
    assert trace.arrival.tolist() == [0, 0.1]
    assert (trace.upper.tolist(), trace.predicted, trace.time_unit) == ([9, 4], None, "ms")
    del columns["prompt"]
    alone = read_trace(path, columns=columns, needed=("output",))
    assert alone.prompt.tolist() == [0, 0]
    at_once = read_trace(path, columns={"prompt": "in", "output": "out"})
    assert (at_once.arrival.tolist(), at_once.time_unit) == ([0, 0], None)
    assert np.isnan(at_once.arrival_cv)


def test_the_azure_trace(azure_trace):
    trace = read_trace(azure_trace)
    assert trace.num_requests + trace.dropped == 19_366
    assert trace.prompt.mean() == pytest.approx(1155, abs=1)
    assert trace.output.mean() == pytest.approx(211, abs=1)
    assert trace.arrival[-1] == pytest.approx(3502, abs=1)
    assert trace.arrival_cv == pytest.approx(1.09, abs=0.01)


def test_runs_of_any_order_names_and_types_of_columns(tmp_path):
    text = "s,extra,q,ok,budget,kind\n0.5,x,7,true,256,B\n1.5,y,8,No,0,A\n2.5,z,7, 1 ,512,B\n"
    columns = {"task": "kind", "tokens": "budget", "correct": "ok", "seconds": "s", "question": "q"}
    plain = {
        "task": ["B", "A", "B"],
        "tokens": [256, 0, 512],
        "correct": [True, False, True],
        "seconds": [0.5, 1.5, 2.5],
        "question": [7, 8, 7],
    }
    words = pa.array(["yes", "no", "yes"])
    exact = pa.array([256, 0, 512]).cast(pa.decimal128(21, 2))
    many = pa.table(plain | {"tokens": exact, "correct": words})
    tables = [read_runs(write(tmp_path / "a.csv", text), columns)]
    tables += [read_runs(write(tmp_path / "a.json", json.dumps(plain)))]
    for form in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        stored = many.set_column(0, "task", pa.array(plain["task"]).cast(form))
        stored = stored.set_column(2, "correct", words.cast(form))
        tables += [read_runs(write(tmp_path / "a.parquet", stored))]
    for runs in tables:
        assert runs.tasks == ("A", "B")
        np.testing.assert_array_equal(runs.task, [1, 0, 1])
        np.testing.assert_array_equal(runs.tokens, [256, 0, 512])
        np.testing.assert_array_equal(runs.correct, [1, 0, 1])
        np.testing.assert_array_equal(runs.seconds, [0.5, 1.5, 2.5])
        np.testing.assert_array_equal(runs.question, [0, 1, 0])


def test_moments_of_parquet_are_seconds(tmp_path):
    days = [datetime.date(2026, 1, day) for day in (30, 31)]
    for when in (
        pa.array(days),
        pa.array([datetime.datetime(2026, 1, day, 12) for day in (30, 31)]),
        pa.array([f"{day} 12:00:00" for day in days], pa.large_string()),
    ):
        path = write(tmp_path / "log.parquet", pa.table({"when": when, "task": ["b", "a"]}))
        log = read_arrivals(path, {"time": "when"})
        assert (log.time.tolist(), log.tasks, log.time_unit) == ([0, 86400], ("a", "b"), "date")
        np.testing.assert_array_equal(log.task, [1, 0])


def parquet_of(**columns):
    given = {"task": ["a", "b"], "tokens": [1, 2], "correct": [1, 0], "seconds": [1.0, 2.0]}
    return pa.table(given | columns)


# What reads it, the file, what it holds, the columns that are named, the complaint after the path.
MALFORMED = [
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,1\nb,x,1,1\n",
        {},
        ": row 2 (line 3), column tokens: 'x' is",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "\na,1,1,1\n\nb,-1,1,1\n",
        {},
        "row 2 (line 5), column tokens: '-1'",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,nan\n",
        {},
        "column seconds: 'nan' is not a number: correct",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,inf\n",
        {},
        "column seconds: 'inf' is not finite: correct it",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,2,1\n",
        {},
        "column correct: '2' must be 0 or 1 (or true or fa",
    ),
    (read_runs, "a.csv", RUNS + "a,1,,1\n", {}, "column correct: an empty cell must be 0 or 1"),
    (read_runs, "a.csv", RUNS + "a,,1,1\n", {}, "column tokens: an empty cell is not a number"),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1_0,1,1\n",
        {},
        "column tokens: '1_0' is not a number: correct it",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,1\n,1,1,1\n",
        {},
        "(line 3), column task: an empty cell names",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,1\nb,1,1\n",
        {},
        "row 2 (line 3), column 4: the row has 3 cells",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + "a,1,1,1,1\n",
        {},
        "row 1 (line 2), column 5: the row has 5 cells, th",
    ),
    (
        read_runs,
        "a.csv",
        RUNS + '"a\nb",1,1,1\nb,1,9,1\n',
        {},
        "row 2 (line 4), column correct: '9'",
    ),
    (read_runs, "a.csv", RUNS, {}, " is empty (0 rows): give another"),
    (read_runs, "a.csv", "", {}, ": column task is missing: name the one that is meant, of []"),
    (read_runs, "a.csv", "\n", {}, ": column task is missing: name the one that is meant, of []"),
    (read_runs, "a.csv", RUNS[:19] + "\na,1,1\n", {}, ": column seconds is missing: name the one"),
    (
        read_runs,
        "a.csv",
        "tokens," + RUNS + "1,a,2,1,1\n",
        {},
        ": 2 columns are called tokens: rena",
    ),
    (read_runs, "a.csv", "\udcff", {}, " is not csv: 'utf-8' codec can't decode byte 0xff"),
    (read_runs, "a.parquet", "x", {}, " is not parquet: "),
    (
        read_runs,
        "a.parquet",
        parquet_of(tokens=[1, None]),
        {},
        ": row 2, column tokens: an empty ce",
    ),
    (
        read_runs,
        "a.parquet",
        parquet_of(task=[["a"], ["b"]]),
        {},
        ": column task holds list<element",
    ),
    (
        read_runs,
        "a.parquet",
        parquet_of(tokens=[True, False]),
        {},
        "tokens: 'true' is not a number",
    ),
    (
        read_arrivals,
        "a.csv",
        "time\n2026-01-31\nnoon\n",
        {},
        "(line 3), column time: 'noon' is not a t",
    ),
    (read_trace, "a.csv", None, {}, " does not exist: give the path of a file"),
    (read_trace, "a.txt", "a", {}, " must end in .csv, .jsonl, .json, .parquet: convert it"),
    (
        read_trace,
        "a.csv",
        "in,output\n1,2\n",
        {},
        ": column prompt is missing: name the one that is",
    ),
    (
        read_trace,
        "a.csv",
        TRACE + "1,2\n",
        {"lower": "lo"},
        ": column lo (for lower) is missing: name",
    ),
    (
        read_trace,
        "a.csv",
        TRACE + "1,2\n",
        {"low": "prompt"},
        "field 'low' is unknown: did you mean l",
    ),
    (
        read_trace,
        "a.csv",
        TRACE + "1,2.5\n",
        {},
        "column output: '2.5' must be a whole number of tok",
    ),
    (
        read_trace,
        "a.csv",
        TRACE + "1,3000000000\n",
        {},
        "'3000000000' must be a whole number of token",
    ),
    (
        read_trace,
        "a.csv",
        TRACE + "1,0\n",
        {},
        " has no request that generates a token: give another",
    ),
    (read_trace, "a.json", "{", {}, " is not json: Expecting property name"),
    (
        read_trace,
        "a.json",
        "3",
        {},
        " must hold a list of objects, or an object of lists: correct it",
    ),
    (read_trace, "a.json", "[1]", {}, ": row 1 is 1, no object: correct it"),
    (read_trace, "a.json", "[" * 100_000, {}, " is nested too deeply: give one object a row"),
    (
        read_trace,
        "a.json",
        '{"prompt": [1, 2], "output": [1]}',
        {},
        " has lists of unequal length: {'",
    ),
    (
        read_trace,
        "a.json",
        '[{"prompt": true, "output": 1}]',
        {},
        "'true' is not a number: correct it",
    ),
    (
        read_trace,
        "a.jsonl",
        '{"a": 1}\n{"prom',
        {},
        ": line 2 is not JSON: Unterminated string start",
    ),
    # Every row is asked for its columns.
    (
        read_trace,
        "a.jsonl",
        '{"prompt":1,"output":2}\n{"arrival":4}\n',
        {},
        "row 2, column prompt: an",
    ),
]


@pytest.mark.parametrize(("read", "name", "content", "columns", "said"), MALFORMED)
def test_a_malformed_table_is_named_with_row_column_and_value(
    read, name, content, columns, said, tmp_path
):
    path = tmp_path / name
    if content == "\udcff":
        path.write_bytes(b"\xff")
    elif content is not None:
        write(path, content)
    with pytest.raises(ValueError, match=f"^({path}|field)") as caught:
        read(path, columns=columns)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
