"""A slice of `benchmarks/fuzz.py`: made-up files and flags end in an answer or in one line."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("target", "examples"), [("toml", 20), ("flags", 25)])
def test_no_traceback(target, examples, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from benchmarks.fuzz import fuzz

    monkeypatch.chdir(tmp_path)
    found = fuzz(target, rounds=1, seed=7, examples=examples)
    assert found["failures"] == []
    assert found["refused"] > examples / 4
