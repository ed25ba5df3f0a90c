"""`jaxalloc frontier`: its points, its targets, its exit codes, its picture."""

import json

import pytest


def document(command, line, code=0):
    outcome = command(f"frontier {line} --json")
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


def test_points_agree_with_solve(command):
    answer = document(command, "qwen3-8b --weights 10:100:3:log --arrival-rate 0.2")
    assert [round(point["accuracy_weight"], 2) for point in answer["points"]] == [10, 31.62, 100]
    for point in answer["points"]:
        weight = point["accuracy_weight"]
        line = f"solve qwen3-8b --arrival-rate 0.2 --accuracy-weight {weight!r} --json"
        solved = json.loads(command(line).out)
        assert point["status"] == "CONVERGED"
        for name in ("mean_system_time", "mean_accuracy", "utilization"):
            assert point[name] == pytest.approx(solved[name], rel=1e-9)
        tokens = {task["name"]: task["tokens"] for task in solved["tasks"]}
        assert point["tokens"] == pytest.approx(tokens)
    assert answer["targets"] == {}


def test_targets_are_met(command):
    line = "qwen3-8b --weights 1:10:3 --system-time 2 --accuracy 0.45 --mean-tokens 1000"
    targets = document(command, line)["targets"]
    assert targets["accuracy"]["mean_accuracy"] == pytest.approx(0.45)
    assert targets["mean_tokens"]["mean_tokens"] == pytest.approx(1000)
    assert all(entry["status"] == "CONVERGED" for entry in targets.values())
    # The multipliers lead back to the same budgets.
    weight = targets["system_time"]["accuracy_weight"]
    solved = json.loads(command(f"solve qwen3-8b --accuracy-weight {weight!r} --json").out)
    assert solved["mean_system_time"] == pytest.approx(2)
    price = targets["mean_tokens"]["price_per_token"]
    solved = json.loads(command(f"solve qwen3-8b --token-price {price!r} --json").out)
    tokens = {task["name"]: task["tokens"] for task in solved["tasks"]}
    assert tokens == pytest.approx(targets["mean_tokens"]["tokens"], rel=1e-6)
    out = command(f"frontier {line}").out
    for text in ("price per token", "system time 2", "0.4500", "0.01 accuracy", "CONVERGED"):
        assert text in out


def test_an_unreachable_target_is_a_failure_with_advice(command):
    answer = document(command, "qwen3-8b --weights 1:10:3 --system-time 0.1 --accuracy 0.4", code=1)
    assert answer["targets"]["system_time"]["status"] == "INFEASIBLE"
    assert answer["targets"]["system_time"]["accuracy_weight"] is None
    assert answer["targets"]["accuracy"]["status"] == "CONVERGED"
    assert answer["targets"]["accuracy"]["advice"] is None


@pytest.mark.parametrize(
    ("target", "advice"),
    [
        ("--system-time = 0.1", "the smallest budgets take 0.2288 s: raise it, or lower --min-t"),
        ("--accuracy = 0.9", "no thinking brings more than 0.6424: lower it"),
        ("--accuracy = 0.6", "the largest budgets bring 0.5898: lower it, or raise --max-tokens"),
        ("--arrival-rate 0.5 --accuracy = 0.58", "the budgets that reach it overload the server"),
        ("--min-tokens 20 --mean-tokens = 10", "the smallest budgets have 20 tokens: raise it"),
        ("--arrival-rate 90 --accuracy = 0.3", "the server is overloaded even with the smallest"),
    ],
)
def test_advice_says_what_can_be_had(command, target, advice):
    code, out, err = command(f"frontier qwen3-8b --weights 1:10:3 {target.replace(' =', '')}")
    assert code == 1
    assert "nan" not in out
    named = target[target.rindex("--") :]
    assert f"jaxalloc: INFEASIBLE: {named}: {advice}" in err


def test_a_slack_cap_is_met_by_the_unconstrained_answer(command):
    line = "qwen3-8b --weights 1:10:3 --arrival-rate 0.001 --system-time 1000 --mean-tokens 100000"
    targets = document(command, line)["targets"]
    assert targets["system_time"]["accuracy_weight"] is None  # inf, which JSON lacks
    assert set(targets["system_time"]["tokens"].values()) == {16384.0}
    assert targets["mean_tokens"]["price_per_token"] == 0
