"""Trace files of every kind: recognized columns, named columns, and what is wrong with bad ones."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxalloc.traces.readers import read_trace

ROWS = {"prompt": [374, 396, 12], "output": [44, 109, 5], "arrival": [0.0, 4.3145, 10.0]}


def write_azure(path):
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9950900,396,109\n"
        "2023-11-16 18:15:56.6805900,12,5\n"
    )


def write_mooncake(path):
    rows = zip([1000, 5314.5, 11000], ROWS["prompt"], ROWS["output"], strict=True)
    lines = [
        json.dumps({"timestamp": t, "input_length": s, "output_length": o, "hash_ids": [1]})
        for t, s, o in rows
    ]
    path.write_text("\n".join(lines) + "\n")


def write_burstgpt(path):
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,374,44,418,Conversation log\n"
        "7,GPT-4,9,0,9,API log\n"
        "9.3145,ChatGPT,396,109,505,Conversation log\n"
        "15,ChatGPT,12,5,17,Conversation log\n"
    )


def write_vllm(path):
    document = {
        "backend": "vllm",
        "input_lens": ROWS["prompt"],
        "output_lens": ROWS["output"],
        "start_times": [2.0, 6.3145, 12.0],
    }
    path.write_text(json.dumps(document))


def write_parquet(path):
    parquet.write_table(pa.table(ROWS), path)


KINDS = {
    "azure.csv": write_azure,
    "mooncake.jsonl": write_mooncake,
    "burstgpt.csv": write_burstgpt,
    "vllm.json": write_vllm,
    "any.parquet": write_parquet,
}


@pytest.mark.parametrize("name", KINDS)
def test_recognized_columns(name, tmp_path):
    KINDS[name](tmp_path / name)
    trace = read_trace(tmp_path / name)
    assert trace.prompt.tolist() == ROWS["prompt"]
    assert trace.output.tolist() == ROWS["output"]
    np.testing.assert_allclose(trace.arrival, ROWS["arrival"])
    assert trace.dropped == (1 if name == "burstgpt.csv" else 0)


def test_named_columns_and_units(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("in,out,when,lo,hi\n7,3,200,1,4\n8,2,100,1,9\n")
    columns = {"prompt": "in", "output": "out", "arrival": "when", "lower": "lo", "upper": "hi"}
    trace = read_trace(path, columns=columns, seconds_per_unit=0.5)
    assert trace.prompt.tolist() == [8, 7]  # in order of arrival
    assert trace.arrival.tolist() == [0, 50]
    assert trace.upper.tolist() == [9, 4]
    assert trace.predicted is None


def test_without_arrivals_all_arrive_at_once(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_text("prompt,output\n7,3\n8,2\n")
    trace = read_trace(path)
    assert trace.arrival.tolist() == [0, 0]
    assert np.isnan(trace.arrival_cv)


def test_only_the_lists_that_are_read_need_one_length(tmp_path):
    write_vllm(tmp_path / "plain.json")
    document = json.loads((tmp_path / "plain.json").read_text())
    other = {"rps_change_events": [{"rps": 1}], "acceptance_rates": [0.8, 0.5, 0.3, 0.1], "e": []}
    (tmp_path / "more.json").write_text(json.dumps(document | other))
    plain, more = (read_trace(tmp_path / name) for name in ("plain.json", "more.json"))
    assert plain.arrival.tolist() == more.arrival.tolist()
    assert more.output.tolist() == ROWS["output"]


def test_a_field_that_is_not_needed_may_be_absent(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("When,Out\n3,7\n1,5\n")
    columns = {"arrival": "When", "output": "Out"}
    trace = read_trace(path, columns=columns, needed=("arrival", "output"))
    assert trace.output.tolist() == [5, 7]
    assert trace.prompt.tolist() == [0, 0]
    assert trace.time_unit == "s"
    with pytest.raises(ValueError, match="known to be the prompt"):
        read_trace(path, columns=columns)


def test_every_row_of_json_lines_is_read_for_columns(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": 1, "output": 2}\n{"prompt": 1, "output": 2, "arrival": 4}\n')
    with pytest.raises(ValueError, match="arrival = an empty cell in row 1"):
        read_trace(path)


@pytest.mark.parametrize(
    ("name", "text", "columns", "message"),
    [
        ("x.csv", None, None, "x.csv does not exist: give the path"),
        ("x.txt", "a", None, r"x.txt must end in .csv, .jsonl, .json, .parquet"),
        ("x.csv", "in,output\n1,2\n", None, "no column of .* is known to be the prompt: name it"),
        ("x.csv", "prompt,output\n1,2\n", {"lower": "lo"}, "column of lower = 'lo' is not in"),
        ("x.csv", "prompt,output\n1,2\n", {"low": "prompt"}, "field 'low' is unknown: choose"),
        ("x.csv", "prompt,output\n1,2\nx,3\n", None, "prompt = 'x' in row 2 is not a number"),
        ("x.csv", "prompt,output\n1,2.5\n", None, "output = 2.5 in row 1 must be a whole number"),
        ("x.csv", "prompt,output\n1,-2\n", None, "output = -2 in row 1 must be a whole number"),
        ("x.csv", "prompt,output\n1,nan\n", None, "output = nan in row 1 must be finite"),
        ("x.csv", "prompt,output\n1\n", None, "row 2 of .* has 1 cells, not 2"),
        ("x.csv", "prompt,output\n1,0\n", None, "no request that generates a token"),
        (
            "x.csv",
            "prompt,output,TIMESTAMP\n1,2,yesterday\n",
            None,
            "TIMESTAMP = 'yesterday' in row 1 is not a time",
        ),
        ("x.csv", "prompt,output,output\n1,2,3\n", None, "has two columns 'output': rename one"),
        (
            "x.csv",
            "prompt,output\n1,3000000000\n",
            None,
            "must be a whole number of tokens, from 0",
        ),
        ("x.json", "{", None, "is not json"),
        ("x.json", "[" * 100_000, None, "nested too deeply"),
        ("x.json", '[{"prompt": true, "output": 1}]', None, "prompt = True in row 1 is not a num"),
        ("x.jsonl", '{"prompt": 1, "output": 2}\n{"prom', None, "line 2 of .* is not JSON: .* cut"),
        ("x.json", "3", None, "must hold a list of objects, or an object of lists"),
        ("x.json", "[1]", None, r"row 1 of .*x.json is 1, not an object"),
        ("x.json", '{"prompt": [1, 2], "output": [1]}', None, "lists of unequal length"),
        ("x.jsonl", "[1, 2]", None, r"row 1 of .*x.jsonl is \[1, 2\], not an object"),
        ("x.parquet", "no", None, "is not parquet"),
    ],
)
def test_what_is_wrong_with_a_file(name, text, columns, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_trace(tmp_path / name, columns=columns)


def test_the_azure_trace(azure_trace):
    trace = read_trace(azure_trace)
    assert trace.num_requests + trace.dropped == 19_366
    assert trace.prompt.mean() == pytest.approx(1155, abs=1)
    assert trace.output.mean() == pytest.approx(211, abs=1)
    assert trace.arrival[-1] == pytest.approx(3502, abs=1)
    assert trace.arrival_cv == pytest.approx(1.09, abs=0.01)
