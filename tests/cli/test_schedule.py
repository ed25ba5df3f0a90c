"""`jaxalloc schedule`: table, JSON, picture, exit codes."""

import json

import jax
import numpy as np
import pytest

from jaxalloc import sweep

# One shape for all: three replications of 40 requests.
FAST = "geometric:mean=20 --capacity 400 --requests 40 --replications 3 --policies a_min,a_max,h_sf"


@pytest.fixture
def schedule(command):
    return lambda line: command(f"schedule {line}")


def test_json_and_table_tell_the_same(schedule):
    code, out, _ = schedule(f"{FAST} --seed 4 --json")
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
    code, table, _ = schedule(f"{FAST} --seed 4")
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
    rows = [f"{i},{rng.integers(1, 50)},{rng.integers(1, 60)}" for i in range(150)]
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "\n".join(rows) + "\n")
    given = {"intervals": "noise:0.7", "arrivals": "poisson:0.1", "requests": 40, "capacity": 400}
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
