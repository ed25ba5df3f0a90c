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
MOONCAKE = [
    {"timestamp": time, "input_length": prompt, "output_length": output, "hash_ids": [1]}
    for time, prompt, output in zip([1000, 5314.5, 11000], PROMPT, OUTPUT, strict=True)
]
TRACES = {
    "azure.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:50.9950900,396,109\n2023-11-16 18:15:56.6805900,12,5\n",
    "mooncake.jsonl": "\n".join(map(json.dumps, MOONCAKE)),
    "burstgpt.csv": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,A,374,44,418,Chat\n7,B,9,0,9,API\n9.3145,A,396,109,505,Chat\n15,A,12,5,17,Chat\n",
    # Lists that are not read may have another length.
    "vllm.json": json.dumps(VLLM | {"rps_change_events": [{"rps": 1}], "acceptance": [1.0] * 4}),
    "any.parquet": pa.table({"prompt": PROMPT, "output": OUTPUT, "arrival": ARRIVAL}),
}


def write(path, content):
    if isinstance(content, pa.Table):
        parquet.write_table(content, path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", TRACES)
def test_columns_of_public_traces_are_recognized(name, tmp_path):
    trace = read_trace(write(tmp_path / name, TRACES[name]))
    assert (trace.prompt.tolist(), trace.output.tolist()) == (PROMPT, OUTPUT)
    np.testing.assert_allclose(trace.arrival, ARRIVAL)
    assert trace.dropped == (name == "burstgpt.csv")


def test_columns_of_other_traces_are_named(tmp_path):
    path = write(tmp_path / "own.csv", "in,out,when,lo,hi\n7,3,200,1,4\n8,2,100,1,9\n")
    columns = {"prompt": "in", "output": "out", "arrival": "when", "lower": "lo", "upper": "hi"}
    trace = read_trace(path, columns=columns, time_unit="ms")
    assert trace.prompt.tolist() == [8, 7]  # in order of arrival
    assert trace.arrival.tolist() == [0, 0.1]
    assert (trace.upper.tolist(), trace.predicted, trace.time_unit) == ([9, 4], None, "ms")
    at_once = read_trace(path, columns={"output": "out"}, needed=("output",))
    assert (at_once.arrival.tolist(), at_once.prompt.tolist()) == ([0, 0], [0, 0])
    assert at_once.time_unit is None
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
    plain = {"task": ["B", "A", "B"], "tokens": [256, 0, 512], "correct": [True, False, True]}
    plain |= {"seconds": [0.5, 1.5, 2.5], "question": [7, 8, 7]}
    tables = [read_runs(write(tmp_path / "a.csv", text), columns)]
    tables += [read_runs(write(tmp_path / "a.json", json.dumps(plain)))]
    exact = {"tokens": pa.array(plain["tokens"]).cast(pa.decimal128(21, 2))}
    for form in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        words = {"task": ["B", "A", "B"], "correct": ["yes", "no", "YES"]}
        stored = {name: pa.array(cells).cast(form) for name, cells in words.items()}
        tables += [read_runs(write(tmp_path / "a.parquet", pa.table(plain | exact | stored)))]
    for runs in tables:
        assert runs.tasks == ("A", "B")
        np.testing.assert_array_equal(runs.task, [1, 0, 1])
        np.testing.assert_array_equal(runs.tokens, [256, 0, 512])
        np.testing.assert_array_equal(runs.correct, [1, 0, 1])
        np.testing.assert_array_equal(runs.seconds, [0.5, 1.5, 2.5])
        np.testing.assert_array_equal(runs.question, [0, 1, 0])


def test_moments_of_parquet_are_seconds(tmp_path):
    days = [datetime.date(2026, 1, day) for day in (30, 31)]
    noons = [datetime.datetime(2026, 1, day, 12) for day in (30, 31)]
    for when in (pa.array(days), pa.array(noons), pa.array(map(str, noons), pa.large_string())):
        path = write(tmp_path / "log.parquet", pa.table({"when": when, "task": ["b", "a"]}))
        log = read_arrivals(path, {"time": "when"})
        assert (log.time.tolist(), log.tasks, log.time_unit) == ([0, 86400], ("a", "b"), "date")
        np.testing.assert_array_equal(log.task, [1, 0])


RUNS = "task,tokens,correct,seconds\n"
# Rows of runs, and what is said of them after the name of the file.
ROWS = {
    "a,1,1,1\nb,x,1,1": ": row 2 (line 3), column tokens: 'x' is not a number: correct it",
    "\na,1,1,1\n\nb,-1,1,1": ": row 2 (line 5), column tokens: '-1' must not be negative: correct",
    '"a\nb",1,1,1\nb,1,9,1': ": row 2 (line 4), column correct: '9' must be 0 or 1 (or true or",
    "a,1,1,nan": ": row 1 (line 2), column seconds: 'nan' is not a number: correct it",
    "a,1,1,inf": ": row 1 (line 2), column seconds: 'inf' is not finite: correct it",
    "a,1,,1": ": row 1 (line 2), column correct: an empty cell must be 0 or 1",
    "a,,1,1": ": row 1 (line 2), column tokens: an empty cell is not a number: correct it",
    "a,1_0,1,1": ": row 1 (line 2), column tokens: '1_0' is not a number: correct it",
    "a,1,1,1\n,1,1,1": ": row 2 (line 3), column task: an empty cell names nothing: correct it",
    "a,1,1,1\nb,1,1": ": row 2 (line 3), column 4: the row has 3 cells, the header 4: correct it",
    "a,1,1,1,1": ": row 1 (line 2), column 5: the row has 5 cells, the header 4: correct it",
    "": " is empty (0 rows): give another",
}
# File of runs, what it holds, and what is said of it.
FILES = [
    ("a.csv", b"", ": column task is missing: name what is meant, of []"),
    ("a.csv", b"task,tokens,correct\na,1,1\n", ": column seconds is missing: name what is meant"),
    (
        "a.csv",
        b"task,tokens,tokens,correct,seconds\na,1,2,1,1\n",
        ": two columns are called tokens",
    ),
    ("a.csv", b"\xff", " is not csv: 'utf-8' codec can't decode byte 0xff"),
    (
        "a.csv",
        b"task,tokens,correct,seconds\n\xff,1,1,1\n",
        " is not csv: 'utf-8' codec can't decode",
    ),
    (  # beyond what is read for the header, in a row of another length
        "a.csv",
        RUNS.encode() + b"a,1,1,1\n" * 20_000 + b"\xff,2,1,1,9\n",
        " is not csv: 'utf-8' codec can't decode",
    ),
    ("a.parquet", b"x", " is not parquet: "),
    ("a.txt", b"a", " must end in .csv, .jsonl, .json, .parquet: convert it"),
    ("a.csv", None, " does not exist: give the path of a file"),
]
CELLS = [
    ({"tokens": [1, None]}, ": row 2, column tokens: an empty cell is not a number: correct it"),
    ({"tokens": [True, False]}, ": row 1, column tokens: 'true' is not a number: correct it"),
    ({"task": [["a"], ["b"]]}, ": column task holds list<element: string>: name one of numbers"),
]
# Traces of JSON or JSON lines, and what is said of them.
JSON = {
    "{": " is not json: Expecting property name",
    "3": " must hold a list of objects, or an object of lists: correct it",
    "[1]": ": row 1 is 1, no object: correct it",
    "[" * 100_000: " is nested too deeply: give one object a row",
    '{"prompt": [1, 2], "output": [1]}': " has lists of unequal length: {'output': 1, 'prompt': 2}",
    '[{"prompt": true, "output": 1}]': ": row 1, column prompt: 'true' is not a number: correct it",
    '[{"prompt": 2, "output": 2.5}]': ": row 1, column output: 2.5 must be a whole number of tok",
    '[{"prompt": 2, "output": 3e9}]': ": row 1, column output: 3000000000.0 must be a whole number",
    '[{"prompt": 2, "output": 0}]': " has no request that generates a token: give another",
    '[{"in": 2, "output": 1}]': ": column prompt is missing: name what is meant, of ['in', 'o",
}
LINES = {
    '{"a": 1}\n{"prom': ": line 2 is not JSON: Unterminated string starting at: was the file cut",
    '{"prompt":1,"output":2}\n{"arrival":4}\n': ": row 2, column prompt: an empty cell is not a n",
}
SOUND = {"task": ["a", "b"], "tokens": [1, 2], "correct": [1, 0], "seconds": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("read", "name", "content", "said"),
    [(read_runs, "a.csv", RUNS + rows, said) for rows, said in ROWS.items()]
    + [(read_runs, *case) for case in FILES]
    + [(read_runs, "a.parquet", pa.table(SOUND | wrong), said) for wrong, said in CELLS]
    + [(read_trace, "a.json", text, said) for text, said in JSON.items()]
    + [(read_trace, "a.jsonl", text, said) for text, said in LINES.items()],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_malformed_table_is_named_with_row_column_and_value(read, name, content, said, tmp_path):
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(ValueError, match="a") as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{said}")
    assert "\n" not in str(caught.value)


def test_a_column_that_is_named_must_be_there_and_of_a_field(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,output\n1,2\n")
    with pytest.raises(ValueError, match=r"csv: column lo \(for lower\) is missing: name what is"):
        read_trace(path, columns={"lower": "lo"})
    with pytest.raises(ValueError, match=r"csv: field 'low' is unknown: did you mean lower\?"):
        read_trace(path, columns={"low": "prompt"})
