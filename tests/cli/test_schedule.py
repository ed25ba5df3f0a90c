"""`jaxalloc schedule`: table, JSON, picture, exit codes."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from jaxalloc.cli import schedule as module
from jaxalloc.cli.errors import BadInput

FAST = "geometric:mean=20 --capacity 400 --requests 40 --policies a_min,a_max,h_sf"


class Outcome(NamedTuple):
    code: int
    out: str
    error: str


def schedule(line):
    app = typer.Typer()
    app.callback()(lambda: None)
    module.register(app)
    result = CliRunner().invoke(app, ["schedule", *line.split()])
    if isinstance(result.exception, BadInput):
        return Outcome(2, result.stdout, str(result.exception))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def test_json_and_table_tell_the_same():
    code, out, _ = schedule(f"{FAST} --replications 3 --seed 4 --json")
    assert code == 0
    document = json.loads(out)
    assert (document["replications"], document["requests"], document["seed"]) == (3, 40, 4)
    assert document["calibration"]["coverage"] == 1
    rows = {row["policy"]: row for row in document["policies"]}
    assert list(rows) == ["a_min", "a_max", "h_sf"]
    assert rows["h_sf"]["ratio_to_h_sf"] == 1
    assert rows["h_sf"]["total_evictions"] == rows["a_max"]["total_evictions"] == 0
    assert rows["h_sf"]["ratio_to_bound"] >= 1
    for row in rows.values():
        assert row["statuses"] == {"FINISHED": 3}
        assert row["mean_latency"] == pytest.approx(row["total_latency"] / 40)
        assert row["peak_occupancy"] <= 400
    code, table, _ = schedule(f"{FAST} --replications 3 --seed 4")
    assert code == 0
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    for name, row in rows.items():
        mean = row["mean_latency"]
        assert lines[name].split()[1] == (f"{mean:.1f}" if mean < 100 else f"{mean:,.0f}")


def test_a_trace_in_seconds(tmp_path):
    path = tmp_path / "trace.csv"
    rng = np.random.default_rng(0)
    rows = [f"{i / 4},{rng.integers(1, 50)},{rng.integers(1, 30)}" for i in range(60)]
    path.write_text("arrival,In,output\n" + "\n".join(rows) + "\n")
    line = (
        f"{path} --columns prompt=In --capacity 300 --requests 30 --replications 2 --json "
        "--arrivals trace --batch-time llama2-70b --policies vllm,mc_sf --intervals noise:0.3"
    )
    code, out, _ = schedule(line)
    assert code == 0
    document = json.loads(out)
    assert document["unit"] == "seconds"
    assert document["mean_latency_bound"] is None
    assert document["arrival_cv"] == pytest.approx(0, abs=1e-9)
    for row in document["policies"]:
        assert 0.04 < row["mean_time_to_first_token"] <= row["mean_latency"] < 60


def test_a_picture(tmp_path):
    code, _, _ = schedule(f"{FAST} --plot {tmp_path / 'picture.svg'}")
    assert code == 0
    text = (tmp_path / "picture.svg").read_text()
    assert text.startswith("<?xml")


def test_no_policy_finishes():
    code, out, error = schedule(f"{FAST} --max-rounds 3 --json")
    assert code == 1
    assert "MAX_ROUNDS" in error
    assert [row["finished"] for row in json.loads(out)["policies"]] == [False] * 3
    assert json.loads(out)["policies"][0]["mean_latency"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing.csv --capacity 100", "nothing.csv does not exist"),
        ("zipf:mean=3 --capacity 100", "TRACE = zipf:mean=3 must be a file"),
        ("geometric:mode=3 --capacity 100", "TRACE = geometric:mode=3: mode is unknown"),
        ("geometric:mean=x --capacity 100", "TRACE = geometric:mean=x: mean = x is not a number"),
        ("geometric:mean=-4 --capacity 100", "TRACE = geometric:mean=-4: mean = -4.0 must be"),
        (f"{FAST} --prompt geometric:mean=0", "--prompt = geometric:mean=0: mean = 0.0 must be"),
        (f"{FAST} --intervals bins:0", "--intervals = bins:0: bins = 0 must be at least 1"),
        ("geometric:mean=9 --capacity 1", "--capacity = 1 must be at least 2"),
        ("geometric:mean=9 --capacity 20", "--capacity = 20 holds fewer than half"),
        (f"{FAST} --policies best", "--policies = best is unknown: choose from a_min"),
        (f"{FAST} --intervals wide", "--intervals = wide must be exact, one"),
        (f"{FAST} --intervals own", "the trace has no column lower"),
        (f"{FAST} --arrivals trace", "--arrivals = trace are seconds: add --batch-time"),
        (f"{FAST} --arrivals poisson:0", "--arrivals = poisson:0 must have a rate above 0"),
        (f"{FAST} --batch-time 1:2", "--batch-time = 1:2 must be llama2-70b or four"),
        (f"{FAST} --aging -1", "--aging = -1 must be at least 0"),
        (f"{FAST} --seed -1", "--seed = -1 must be from 0 to"),
        (f"{FAST} --plot nowhere/x.png", "--plot = nowhere/x.png must be a .png"),
        (f"{FAST} --requests 0", "--requests = 0 must be at least 1"),
        (f"{FAST} --intervals one:1:3", "= 3 does not suit AMax: it must cover the output"),
    ],
)
def test_bad_input(line, message):
    code, out, error = schedule(line)
    assert code == 2
    assert out == ""
    assert message in error
    assert "\n" not in error
