"""`jaxalloc solve`: its numbers, its document, its exit codes, its picture."""

import json

import jax.numpy as jnp
import pytest
from matplotlib.image import imread

import jaxalloc
from jaxalloc.workloads import files as workloads


def solve(command, line, code=0):
    outcome = command(f"solve {line} --json")
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


@pytest.mark.parametrize(
    ("rate", "tokens", "utilization", "accuracy", "system_time"),
    [
        # Reference optima computed independently; to the nearest token and the digits given.
        (0.1, [4072, 4702, 704, 2245, 1393], 0.221, 0.390, 2.67),
        (0.5, [946, 1419, 100, 2134, 67], 0.359, 0.303, 1.00),
    ],
)
def test_reference_optima(command, rate, tokens, utilization, accuracy, system_time):
    document = solve(command, f"qwen3-8b --arrival-rate {rate}")
    assert document["status"] == "CONVERGED"
    assert [round(task["tokens"]) for task in document["tasks"]] == tokens
    assert document["utilization"] == pytest.approx(utilization, abs=6e-4)
    assert document["mean_accuracy"] == pytest.approx(accuracy, abs=6e-4)
    assert document["mean_system_time"] == pytest.approx(system_time, abs=6e-3)
    assert document["residual"] <= 1e-8


def test_the_document_agrees_with_the_library(command):
    document = solve(command, "r1-distill-llama-8b --service-cv 1 --accuracy-weight 10")
    file = workloads.override(
        workloads.load("r1-distill-llama-8b"), {"service_cv": 1, "accuracy_weight": 10}, ""
    )
    workload = file.workload
    tokens = jnp.array([task["tokens"] for task in document["tasks"]])
    for name in ("objective", "utilization", "mean_accuracy", "mean_wait", "mean_system_time"):
        assert document[name] == pytest.approx(float(getattr(jaxalloc, name)(workload, tokens)))
    assert [task["name"] for task in document["tasks"]] == list(file.names)
    assert sum(task["load_share"] for task in document["tasks"]) == pytest.approx(1)
    for k, task in enumerate(document["tasks"]):
        entry = file.task[k]
        seconds = entry.base_time + entry.time_per_token * task["tokens"]
        assert task["service_time"] == pytest.approx(seconds)


def test_the_table_names_every_task_and_total(command):
    code, out, err = command("solve qwen3-8b --certificates")
    assert (code, err) == (0, "")
    for text in ("AIME24", "4,072.46", "HMMT25", "utilization", "0.2207", "mean wait"):
        assert text in out
    for text in ("mean system time", "objective", "CONVERGED", "contraction bound", "Lipschitz"):
        assert text in out


@pytest.mark.parametrize("solver", ["newton", "fixed-point", "projected-gradient"])
def test_every_solver_either_converges_or_says_that_it_did_not(command, solver):
    line = f"solve qwen3-8b --arrival-rate 0.01 --accuracy-weight 3 --solver {solver} --json"
    code, out, err = command(line)
    document = json.loads(out)
    assert document["solver"] == solver
    converged = document["status"] == "CONVERGED"
    assert (code, converged) in {(0, True), (1, False)}
    assert converged == (err == "")
    assert converged == (document["residual"] <= 1e-8)


def test_too_few_steps_are_a_failure_with_advice(command):
    document = solve(command, "qwen3-8b --max-steps 1", code=1)
    assert (document["status"], document["steps"]) == ("MAX_STEPS", 1)
    assert document["residual"] > 1e-8
    assert "jaxalloc: MAX_STEPS: " in command("solve qwen3-8b --max-steps 1").err
    assert solve(command, "qwen3-8b --max-steps 1 --tolerance 0.99999")["status"] == "CONVERGED"


def test_whole_tokens_with_their_loss(command):
    document = solve(command, "qwen3-8b --integer")
    tokens = [task["tokens"] for task in document["tasks"]]
    assert all(count == int(count) for count in tokens)
    rounding = document["rounding"]
    assert rounding["status"] == "CONVERGED"
    assert all(abs(a - b) <= 1 for a, b in zip(tokens, rounding["continuous_tokens"], strict=True))
    assert 0 <= rounding["gap"] <= rounding["gap_bound"]
    loss = solve(command, "qwen3-8b")["objective"] - document["objective"]
    assert rounding["gap"] == pytest.approx(loss, abs=1e-12)
    assert "lost by rounding" in command("solve qwen3-8b --integer").out


def test_certificates_on_request(command):
    assert "certificates" not in solve(command, "qwen3-8b")
    bounds = solve(command, "qwen3-8b --certificates")["certificates"]
    assert bounds["contraction_bound"] is None  # inf: the largest budgets overload the server
    assert bounds["lipschitz_bound"] > 0
    calm = "qwen3-8b --certificates --arrival-rate 1e-6"
    assert 0 < solve(command, calm)["certificates"]["contraction_bound"] < 1


def test_an_overloaded_server_is_a_failure_with_advice(command):
    document = solve(command, "qwen3-8b --arrival-rate 90", code=1)
    assert document["status"] == "INFEASIBLE"
    assert document["steps"] == 0
    assert document["residual"] is None
    assert document["objective"] is None
    assert document["utilization"] > 1
    code, out, err = command("solve qwen3-8b --arrival-rate 90")
    assert code == 1
    assert "INFEASIBLE" in out
    assert err.startswith("jaxalloc: INFEASIBLE: the server is overloaded")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_picture_is_written_whole(command, tmp_path, suffix):
    code, out, _ = command(f"solve qwen3-8b --plot a.{suffix}")
    assert code == 0
    assert f"wrote a.{suffix}" in out
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{suffix}"]
    if suffix == "png":
        pixels = imread(tmp_path / "a.png")
        assert pixels.shape[0] > 500
        assert pixels.std() > 0.05  # something is drawn on it
