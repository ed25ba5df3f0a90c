"""`jaxalloc queue` and `jaxalloc trust`: their numbers, their exit codes, their pictures."""

import json

import numpy as np
import pytest
from matplotlib.image import imread

import jaxalloc
from jaxalloc import arrivals
from jaxalloc.cli.queue_answer import read_arrivals
from jaxalloc.workloads import files as workloads


def document(command, line, code=0):
    outcome = command(f"{line} --json")
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    """The costly command, once: with everything it offers."""
    from contextlib import redirect_stdout
    from io import StringIO

    from jaxalloc.cli import main

    picture = tmp_path_factory.mktemp("queue") / "a.png"
    out = StringIO()
    with redirect_stdout(out):
        line = f"queue qwen3-8b --integer --queries 1e5 --target 5 --plot {picture} --json"
        assert main(line.split()) == 0
    return json.loads(out.getvalue())


def test_formulas_and_sample_paths_agree(answer):
    assert answer["status"] == "CONVERGED"
    assert answer["queries"] >= 1e5
    for name, row in answer["measures"].items():
        assert row["low"] <= row["simulated"] <= row["high"], name
        assert row["low"] <= row["formula"] <= row["high"], name
    workload = workloads.load("qwen3-8b").workload
    tokens = np.array([task["tokens"] for task in answer["tasks"]])
    assert tokens.tolist() == [4072, 4702, 704, 2245, 1393]
    time = answer["measures"]["mean_system_time"]["formula"]
    assert time == pytest.approx(float(jaxalloc.mean_system_time(workload, tokens)))


def test_the_loss_of_rounding(answer):
    for loss in answer["rounding"].values():
        assert 0 <= loss["loss"] <= loss["bound"]
        assert loss["low"] <= loss["simulated"] <= loss["high"]


def test_the_picture_and_the_rates_that_meet_a_target(answer):
    assert imread(answer["plot"])[..., :3].std() > 0.02
    rates = answer["largest_arrival_rates"]
    assert rates.pop("target") == 5
    assert rates["p50"] > rates["mean"] > rates["p95"] > rates["p99"]


def test_laws_of_arrivals():
    assert read_arrivals("poisson", 1.0) == arrivals.Poisson()
    assert read_arrivals("cv:2.5", 1.0) == arrivals.Renewal(2.5)


FEW = "queue qwen3-8b --queries 1000 --percentiles 50,50,99.99999"


def test_the_table_of_a_replay(command, azure_trace):
    outcome = command(f"{FEW} --arrivals trace:{azure_trace}")
    assert outcome.code == 0
    for text in ("mean system time", "99% interval", "GSM8K", "wait p50"):
        assert text in outcome.out


def test_levels_and_queries_are_named_in_full(command):
    code, out, _ = command(f"{FEW} --confidence 0.995")
    assert code == 0
    for text in ("99.5% interval", "wait p99.99999", "1,000 asked, rounded up to whole repl"):
        assert text in out
    assert out.count("wait p50") == 1


def test_an_overloaded_server(command):
    code, _, err = command("queue qwen3-8b --arrival-rate 90")
    assert code == 1
    assert err.startswith("jaxalloc: INFEASIBLE: the server is overloaded")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nope.csv", "nope.csv does not exist"),
        ("a.txt", "must end in .csv"),
        ("a.csv --utilization 2", "--utilization = 2 must be a number between 0 and 1"),
        ("a.csv --utilization x", "--utilization = x must be a number between 0 and 1"),
        ("a.csv --columns x", "'x' must be FIELD=NAME"),
        ("a.csv --base-tokens -1", "--base-tokens = -1 must"),
    ],
)
def test_bad_input_of_trust(command, line, named):
    code, out, err = command(f"trust {line}")
    assert (code, out) == (2, "")
    assert named in err


def write_trace(folder):
    rng = np.random.default_rng(0)
    arrival, output = np.cumsum(rng.exponential(size=2000)), rng.integers(1, 300, 2000)
    rows = [f"{time},{tokens}" for time, tokens in zip(arrival, output, strict=True)]
    (folder / "t.csv").write_text("\n".join(["When,Out", *rows]))


def test_trust(command, tmp_path):
    write_trace(tmp_path)
    line = "trust t.csv --columns arrival=When,output=Out --utilization 0.5"
    found = document(command, line)
    assert (found["verdict"], found["time_unit"]) == ("trusted", "s")
    faster = document(command, f"{line} --time-unit ms")
    assert faster["arrival_rate"] == pytest.approx(1000 * found["arrival_rate"])
    assert [one["utilization"] for one in found["comparisons"]] == [0.5]
    outcome = command(f"{line} --plot a.png")
    assert outcome.code == 0
    assert "The allocation can be trusted at utilization 0.5" in outcome.out
    assert imread(tmp_path / "a.png")[..., :3].std() > 0.02
