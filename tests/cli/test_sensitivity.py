"""`jaxalloc sensitivity`: its numbers, its predictions, its exit codes, its picture."""

import json

import pytest

import jaxalloc
from jaxalloc.workloads import files as workloads


def document(command, line, code=0):
    outcome = command(f"sensitivity {line} --json")
    assert outcome.code == code, outcome.err
    return json.loads(outcome.out)


def test_the_document_agrees_with_the_library(command):
    answer = document(command, "qwen3-8b --max-tokens 4000")
    file = workloads.override(workloads.load("qwen3-8b"), {"max_tokens": 4000}, "")
    report = jaxalloc.sensitivity(file.workload)
    entries = {entry["parameter"]: entry for entry in answer["parameters"]}
    assert len(entries) == 3 + 9 * 5
    assert answer["status"] == "CONVERGED"
    decay = entries["decay.GSM8K"]
    assert decay["value"] == 2.66e-3
    assert decay["derivative"]["tokens.AIME24"] == pytest.approx(float(report.tokens.decay[0, 3]))
    assert decay["elasticity"]["tokens.GSM8K"] == pytest.approx(
        float(report.elasticity.decay[3, 3])
    )
    rate = entries["arrival_rate"]["derivative"]["objective"]
    assert rate == pytest.approx(float(report.derivatives.objective.arrival_rate))
    assert "along_simplex" not in decay
    mix = entries["mix.GSM8K"]["along_simplex"]["utilization"]
    assert mix == pytest.approx(float(report.along_simplex.utilization[3]))
    # The caps that bind have a price.
    prices = {entry["task"]: entry["max_tokens"] for entry in answer["bound_prices"]}
    assert prices["AIME25"] > 0
    assert prices["GSM8K"] == 0


def test_predictions_come_true_to_second_order(command):
    coarse, fine = (document(command, f"qwen3-8b --step {step}") for step in (1e-2, 1e-3))
    for one, two in zip(coarse["parameters"], fine["parameters"], strict=True):
        assert one["solved_status"] == two["solved_status"] == "CONVERGED"
        for name, solved in one["solved"].items():
            miss = abs(one["predicted"][name] - solved)
            finer = abs(two["predicted"][name] - two["solved"][name])
            scale = abs(coarse["values"][name])
            assert finer <= 0.02 * miss + 1e-7 * scale, (one["parameter"], name)
            assert finer <= 1e-3 * abs(two["solved"][name]) * 30 + 1e-6 * scale


def test_the_table_leads_with_what_moves_most(command):
    code, out, err = command("sensitivity qwen3-8b --top 3")
    assert (code, err) == (0, "")
    for text in ("elasticity to", "time_per_token.GPQA-D", "-3.842 GPQA-D", "predicted", "solved"):
        assert text in out
    assert "45 parameters not shown" in out
    assert "shadow prices" not in out
    everything = command("sensitivity qwen3-8b --top 0 --max-tokens 4000").out
    assert "a token more of max_tokens, AIME24" in everything
    assert "floor.GSM8K" in everything


def test_an_overloaded_server_has_no_sensitivity(command):
    answer = document(command, "qwen3-8b --arrival-rate 90", code=1)
    assert answer["status"] == "INFEASIBLE"
    assert all(
        value is None for entry in answer["parameters"] for value in entry["derivative"].values()
    )
    code, _, err = command("sensitivity qwen3-8b --arrival-rate 90")
    assert code == 1
    assert err.startswith("jaxalloc: INFEASIBLE: ")
