"""`jaxalloc schedule`: table, JSON, picture, exit codes."""

import json

import jax
import numpy as np
import pytest

from jaxalloc import sweep

FAST = "geometric:mean=20 --capacity 400 --requests 40 --policies a_min,a_max,h_sf"


@pytest.fixture
def schedule(command):
    return lambda line: command(f"schedule {line}")


def test_json_and_table_tell_the_same(schedule):
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


def test_a_trace_in_seconds(tmp_path, schedule):
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


def test_a_picture_names_all_that_it_draws(tmp_path, schedule):
    code, _, _ = schedule(f"{FAST} --plot {tmp_path / 'picture.SVG'}")
    assert code == 0
    text = (tmp_path / "picture.SVG").read_text()
    for name in ("A_min", "A_max", "H-SF (hindsight)", "capacity, 400 tokens"):
        assert f"<!-- {name} -->" in text


@pytest.mark.parametrize(
    ("source", "axis"),
    [("geometric:mean=20", {"seed": [4, 5, 6]}), ("t.csv", {"stretch": "0:2:3"})],
)
def test_the_replications_are_those_of_a_sweep(source, axis, tmp_path, monkeypatch, schedule):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{i},{rng.integers(1, 50)},{rng.integers(1, 60)}" for i in range(90)]
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "\n".join(rows) + "\n")
    given = {"intervals": "noise:0.7", "arrivals": "poisson:0.1", "requests": 25, "capacity": 400}
    flags = " ".join(f"--{name} {value}" for name, value in given.items())
    line = f"{source} {flags} --policies alpha_beta --replications 3 --seed 4 --json"
    document = json.loads(schedule(line).out)
    with jax.enable_x64(True):
        fields = given | {"policy": "alpha_beta"} | ({} if "seed" in axis else {"seed": 4})
        plan = sweep.plan(schedule=source, axes=axis, fields=fields)
        swept = sweep.run(plan, tmp_path / "out").to_pandas()
    assert len(swept) == 3
    row = document["policies"][0] | document["calibration"]
    for figure in ("mean_latency", "p95_latency", "total_evictions", "makespan", "mean_width"):
        assert row[figure] == pytest.approx(swept[figure].mean(), rel=1e-12), figure


def test_what_is_left_out_is_counted(tmp_path, schedule):
    path = tmp_path / "half.csv"
    lines = [f"{i},{s},{o}" for i in range(4) for s, o in ((10, 10), (100, 10), (10, 0))]
    path.write_text("arrival_ms,prompt,output\n" + "\n".join(lines) + "\n")
    line = (
        f"{path} --columns arrival=arrival_ms --capacity 50 --requests 4 --policies vllm "
        "--arrivals trace --batch-time 1:0:0:0"
    )
    document = json.loads(schedule(f"{line} --json").out)
    assert document["too_long"] == {"requests": 4, "of": 8, "token_share": 440 / 520}
    assert document["without_output"] == 4
    assert document["time_unit"] == "ms"
    text = " ".join(schedule(line).out.split())
    assert "4 of 8 requests, with 84.6% of all tokens, are left out" in text
    assert "4 requests without output are left out" in text
    assert "arrivals of the trace, read as ms" in text


def test_no_policy_finishes(schedule):
    code, out, error = schedule(f"{FAST} --max-rounds 3 --json")
    assert code == 1
    assert "MAX_ROUNDS" in error
    assert [row["finished"] for row in json.loads(out)["policies"]] == [False] * 3
    assert json.loads(out)["policies"][0]["mean_latency"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing.csv --capacity 100", "nothing.csv does not exist"),
        ("zipf:mean=3 --capacity 100", "source = zipf:mean=3 must be a file"),
        ("geometric:mode=3 --capacity 100", "source = geometric:mode=3: mode is unknown"),
        ("geometric:mean=x --capacity 100", "source = geometric:mean=x: mean = x is not a number"),
        ("geometric:mean=-4 --capacity 100", "source = geometric:mean=-4: mean = -4.0 must be"),
        (f"{FAST} --prompt geometric:mean=0", "--prompt = geometric:mean=0: mean = 0.0 must be"),
        (f"{FAST} --intervals bins:0", "--intervals = bins:0: bins = 0 must be from 1 to"),
        ("geometric:mean=9 --capacity 1", "--capacity = 1 must be at least 2"),
        ("geometric:mean=9 --capacity 20", "--capacity = 20 holds fewer than half"),
        (f"{FAST} --policies best", "--policies = best is unknown: choose from a_min"),
        (f"{FAST} --intervals wide", "--intervals = wide must be exact, one"),
        (f"{FAST} --intervals own", "the trace has no column lower"),
        (f"{FAST} --arrivals trace", "--arrivals = trace are seconds: add batch_time"),
        (f"{FAST} --arrivals poisson:0", "--arrivals = poisson:0 must have a rate from 1e-12"),
        (f"{FAST} --batch-time 1:2", "--batch-time = 1:2 must be llama2-70b or four"),
        (f"{FAST} --aging -1", "--aging = -1 must be at least 0"),
        (f"{FAST} --seed -1", "--seed = -1 must be a whole number from 0 to"),
        (f"{FAST} --plot nowhere/x.png", "--plot = 'nowhere/x.png': there is no folder"),
        (f"{FAST} --plot x.txt", "--plot = 'x.txt' must end in .png"),
        (f"{FAST} --requests 0", "--requests = 0 must be at least 1"),
        (f"{FAST} --requests 1000000000", "--requests = 1000000000 must be at most 10000000"),
        (f"{FAST} --replications 1000000", "is more than 10000000: lower one"),
        (f"{FAST} --max-rounds 99999999999", "--max-rounds = 99999999999 must be at most"),
        ("geometric:mean=9 --capacity 9999999999", "--capacity = 9999999999 must be at most"),
        (f"{FAST} --intervals bins:2.9", "= bins:2.9: 2.9 must be a whole number"),
        (f"{FAST} --intervals one:3:2", "from 3 to 2 must rise"),
        (f"{FAST} --intervals relative:nan", "width = nan must not be negative"),
        (f"{FAST} --arrivals poisson:inf", "--arrivals = poisson:inf must have a rate"),
        (f"{FAST} --arrivals trace --batch-time 1:0:0:0", "no column of the trace is known to be"),
        (f"{FAST} --batch-time 1:0:0:nan", "--batch-time = 1:0:0:nan must be llama2-70b or four"),
        (f"{FAST} --time-unit ms", "is no file: drop --columns and --time-unit"),
        (f"{FAST} --columns output=o", "is no file: drop --columns and --time-unit"),
        (f"{FAST} --intervals one:1:3", "= 3 does not suit AMax: it must cover the output"),
    ],
)
def test_bad_input(line, message, schedule):
    code, out, error = schedule(line)
    assert code == 2
    assert out == ""
    assert message in error
    assert error.count("\n") == 1
