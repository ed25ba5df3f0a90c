"""`jaxalloc solve`: its numbers, its document, its exit codes."""

import json

import jax.numpy as jnp
import pytest

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
    numbers = {"service_cv": 1, "accuracy_weight": 10}
    file = workloads.override(workloads.load("r1-distill-llama-8b"), numbers, "")
    workload = file.workload
    tokens = jnp.array([task["tokens"] for task in document["tasks"]])
    for name in ("objective", "utilization", "mean_accuracy", "mean_wait", "mean_system_time"):
        assert document[name] == pytest.approx(float(getattr(jaxalloc, name)(workload, tokens)))
    assert [task["name"] for task in document["tasks"]] == list(file.names)
    assert sum(task["load_share"] for task in document["tasks"]) == pytest.approx(1)
    seconds = workload.base_time + workload.time_per_token * tokens
    assert [task["service_time"] for task in document["tasks"]] == pytest.approx(seconds.tolist())


@pytest.mark.parametrize("solver", ["newton", "fixed-point", "projected-gradient"])
def test_every_solver_either_converges_or_says_that_it_did_not(command, solver):
    line = f"solve qwen3-8b --arrival-rate 0.01 --accuracy-weight 3 --solver {solver} --json"
    code, out, err = command(line)
    document = json.loads(out)
    assert document["solver"] == solver
    converged = document["status"] == "CONVERGED"
    assert (code, converged) in {(0, True), (1, False)}
    assert converged == (err == "") == (document["residual"] <= 1e-8)


def test_too_few_steps_are_a_failure_with_advice(command):
    document = solve(command, "qwen3-8b --max-steps 1", code=1)
    assert (document["status"], document["steps"]) == ("MAX_STEPS", 1)
    assert document["residual"] > 1e-8
    assert solve(command, "qwen3-8b --max-steps 1 --tolerance 0.99999")["status"] == "CONVERGED"


def test_whole_tokens_and_certificates_on_request(command):
    document, plain = (
        solve(command, "qwen3-8b --integer --certificates"),
        solve(command, "qwen3-8b"),
    )
    assert not {"rounding", "certificates"} & set(plain)
    tokens, rounding = [task["tokens"] for task in document["tasks"]], document["rounding"]
    assert all(count == int(count) for count in tokens)
    assert all(abs(a - b) <= 1 for a, b in zip(tokens, rounding["continuous_tokens"], strict=True))
    assert 0 <= rounding["gap"] <= rounding["gap_bound"]
    loss = plain["objective"] - document["objective"]
    assert rounding["gap"] == pytest.approx(loss, abs=1e-12)
    bounds = document["certificates"]
    assert bounds["contraction_bound"] is None  # inf: the largest budgets overload the server
    assert bounds["lipschitz_bound"] > 0
    out = command("solve qwen3-8b --integer --certificates").out
    for text in ("AIME24", "4,072", "0.2207", "CONVERGED", "lost by rounding", "Lipschitz bound"):
        assert text in out


def test_an_overloaded_server_is_a_failure_with_advice(command):
    document = solve(command, "qwen3-8b --arrival-rate 90", code=1)
    assert (document["status"], document["steps"]) == ("INFEASIBLE", 0)
    assert document["residual"] is document["objective"] is None
    assert document["utilization"] > 1
    code, out, err = command("solve qwen3-8b --arrival-rate 90")
    assert code == 1
    assert "INFEASIBLE" in out
    assert err.startswith("jaxalloc: INFEASIBLE: the server is overloaded")
