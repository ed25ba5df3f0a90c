"""The training examples under `benchmarks/learning` run, and do what they say, in a short form."""

import json
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks" / "learning"


def run(name):
    """The lines that a quick run prints, and its JSON document; it writes no file."""
    results = FOLDER.parent / "results"
    before = sorted((path, path.stat().st_mtime_ns) for path in results.glob("*"))
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick"]
    shell = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shell.returncode == 0, shell.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in results.glob("*")) == before
    text, brace, document = shell.stdout.partition("\n{")
    return text, json.loads(brace + document)


def test_decision_focused_learning_learns():
    text, document = run("decision_focused")
    assert re.search(r"held-out regret over 1 seeds: \d", text)
    for side in document["seeds"][0].values():
        first, *_, last = side["held_out_regret"]
        assert 0 < last < first


def test_online_tuning_keeps_its_promise_better_than_fixed_budgets():
    _, document = run("online_tuning")
    sides = document["sides"]
    assert sides["oracle"]["miss"] < 1e-6
    assert sides["followed"]["miss"] < 0.7 * sides["fixed"]["miss"]
    assert document["solver_steps"]["warm"] < document["solver_steps"]["cold"]
