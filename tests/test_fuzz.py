"""A slice of what `benchmarks/fuzz.py` does for minutes: no reader ends in a traceback."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def fuzz():
    path = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"
    spec = importlib.util.spec_from_file_location("fuzz", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("target", ["readers"])
def test_input_is_read_or_refused_in_one_line(target, fuzz):
    found = fuzz.fuzz(target, rounds=1, examples=150)
    assert found["failures"] == []
    assert found["done"] > 0
    assert found["refused"] > 0
