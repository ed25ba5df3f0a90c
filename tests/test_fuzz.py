"""A slice of what `benchmarks/fuzz.py` does for minutes: an answer or one line of complaint."""

import pytest
from fuzz import fuzz


@pytest.mark.parametrize(
    ("target", "seed", "examples"), [("readers", 0, 150), ("toml", 7, 20), ("flags", 1, 25)]
)
def test_no_traceback(target, seed, examples, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = fuzz(target, rounds=1, seed=seed, examples=examples)
    assert found["failures"] == []
    assert found["done"] + (target == "flags") > 0
    assert found["refused"] > examples / 10
