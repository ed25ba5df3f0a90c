"""Workload files: what may stand in one, and what is said about the rest."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.workloads import files as workloads

TEXT = workloads.builtin_text("qwen3-8b")
QWEN = workloads.load("qwen3-8b")
ROWS = [[4e-4, 1e-9, -1e-4], [1e-9, 1e-12, 0.0], [-1e-4, 0.0, 1e-4]]
NUMBERS = st.floats(0, allow_infinity=False, allow_nan=False)


def message(data):
    with pytest.raises(ValueError, match=r"^mine: ") as caught:
        workloads.validate(data, "mine")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("mine: ")


def test_builtin_workloads_are_those_of_the_paper():
    # arXiv 2608.13315, Tables I and II: one row of each table.
    rows = {"qwen3-8b": (3, [0.0663, 0.000125, 0.276, 0.677, 2.66e-3])}
    rows |= {"r1-distill-llama-8b": (0, [0.1759, 0.000611, 0.011, 0.260, 1.94e-4])}
    assert tuple(rows) == workloads.builtin_names()
    assert QWEN.names[3] == "GSM8K"
    for name, (k, numbers) in rows.items():
        file = workloads.load(name)
        fields = ("base_time", "time_per_token", "floor", "gain", "decay")
        assert [float(getattr(file.workload, field)[k]) for field in fields] == numbers
        assert (file.arrival_rate, file.accuracy_weight) == (0.1, 30)
        for field, value in {"mix": 0.2, "max_tokens": 16384, "min_tokens": 0}.items():
            np.testing.assert_array_equal(getattr(file.workload, field), np.full(5, value))
        assert "2608.13315" in file.source
        assert "amortized over a vLLM batch" in file.note


def test_a_file_shows_its_names_and_units():
    lines = repr(QWEN).split("\n")
    assert lines[0] == "WorkloadFile 'Qwen3-8B'"
    assert lines[1].split() == list(QWEN.names)
    assert [line.split()[0] for line in lines[2:]] == list(FIELDS)
    assert lines[5].split()[1] == "9.25e-05"
    assert lines[5].endswith("rate at which accuracy saturates, 1 / token")


@settings(max_examples=25, deadline=None)  # each waits for the disk
@given(
    name=st.text(min_size=1).filter(str.isprintable),
    note=st.text(),
    decay=NUMBERS.filter(bool),
    price=NUMBERS,
    most=st.integers(0, 2**60),
    error=st.one_of(st.none(), NUMBERS),
    covariance=st.sampled_from([None, ROWS]),
)
def test_save_and_load_give_back_the_same(
    tmp_path_factory, name, note, decay, price, most, error, covariance
):
    task = {"name": name, "decay": decay, "min_tokens": 0.0, "max_tokens": float(most)}
    task |= {"decay_se": error, "covariance": covariance}
    own = dataclasses.replace(QWEN.task[0], **task)
    top = {"name": name, "note": note, "token_price": price}
    file = dataclasses.replace(QWEN, **top, task=[own, *QWEN.task[1:]])
    folder = tmp_path_factory.mktemp("saved")
    if name not in QWEN.names[1:]:
        workloads.save(file, folder / "copy.toml")
        assert workloads.load(folder / "copy.toml") == file
        assert [path.name for path in folder.iterdir()] == ["copy.toml"]


def test_what_has_a_default_may_be_left_out_and_whole_numbers_are_numbers():
    task = {"name": "a", "mix": 1, "gain": 1, "decay": 1, "floor": 0, "base_time": 0}
    task |= {"time_per_token": 1, "max_tokens": 9}
    file = workloads.validate({"arrival_rate": 1, "accuracy_weight": 3, "task": [task]}, "mine")
    for name, field in FIELDS.items():
        if field.default is not None:
            np.testing.assert_array_equal(getattr(file.workload, name), field.default)


# Field of the fourth task, what stands there, and what is said; None: it is missing.
WRONG = [
    ("decay", -1, "decay = -1 must be greater than 0: give the rate at which"),
    ("decay", "x", "decay = 'x' is not a number: give the rate"),
    ("decay", True, "decay = True is not a number: give the rate"),
    ("decay", [], "decay = [] is not a number: give the rate"),
    ("decay", float("nan"), "decay = nan must be finite: give the rate"),
    ("decay", 10**400, "decay = inf must be finite: give the rate"),
    ("decay", None, "decay is missing: add the rate at which"),
    ("mix", -0.1, "mix = -0.1 must not be negative: give the probability"),
    ("decey", 1, "decey = 1 is not a field: did you mean decay?"),
    ("note", "x", "note = 'x' is not a field: move it above the first [[task]]"),
    ("decay_se", -1, "decay_se = -1 must be finite and at least 0: give a standard error"),
    ("name", 1, "name = 1 is not text: give a name in quotes"),
    ("covariance", [[1]], "covariance = [[1]] is of another shape or not of numbers: give 3 rows"),
    ("covariance", [[1], [1, 2], 3], "covariance = [[1], [1, 2], 3] is of another shape"),
    ("covariance", [[np.nan] * 3] * 3, "covariance = [[nan, nan, nan], [nan, nan, nan], [nan,"),
    ("covariance", [[1, 0, 0], [0.5, 1, 0], [0, 0, 1]], "is not symmetric"),
    ("covariance", [[1, 2, 0], [2, 1, 0], [0, 0, 1]], "a correlation above 1"),
    ("covariance", [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], "a variance below 0"),
    ("gain", 0.8, "floor + gain = 1.076 must not exceed 1: lower one of them"),
    ("min_tokens", 99999, "min_tokens = 99999 must not exceed max_tokens = 16384: lower"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_what_is_wrong_with_a_task_is_named_with_its_fix(name, value, said):
    data = QWEN.to_dict()
    data["task"][3] |= {name: value}
    if value is None:
        del data["task"][3][name]
    line = message(data)
    assert line.startswith("task 4 (GSM8K): " if name != "name" else "task 4: ")
    assert said in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mix": 0.1}, "mix = 0.1 is not a field: move it into the [[task]] tables"),
        ({"arrival_rte": 1.0}, "arrival_rte = 1.0 is not a field: did you mean arrival_rate?"),
        ({"arrival_rate": -1}, "arrival_rate = -1 must not be negative: give the arrival rate"),
        ({"name": "a\x1b[2J"}, r"name = 'a\x1b[2J' has characters that do not print: remove them"),
        ({"name": ""}, "name = '' is not text: give a name in quotes"),
        ({"task": []}, "task = [] is not a list: give one [[task]] table for each task type"),
        ({"task": 3}, "task = 3 is not a list: give one [[task]] table for each task type"),
        ({"task": [3]}, "task 1 = 3 is no table: give one [[task]] table for each task type"),
        ({"task": [QWEN.to_dict()["task"][0]] * 5}, "name = 'AIME24' is given to more than one ta"),
        ({"task": QWEN.to_dict()["task"][:4]}, "the sum of mix = 0.8 must be 1: divide each mix"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_fix(change, said):
    assert message(QWEN.to_dict() | change).startswith(said)
    without = QWEN.to_dict()
    del without["arrival_rate"]
    assert message(without) == "arrival_rate is missing: add the arrival rate, queries / s"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.replace("[[task]]", "[[task]", 1), "is not TOML: Expected"),
        (TEXT.replace("[[task]]", "[[tasks]]"), r"tasks = \[.* did you mean task\?"),
        ("a = " + "[" * 100_000, "is nested too deep: flatten it"),
        ("a = " + "9" * 5000, "is not TOML: Exceeds the limit"),
        ("a = \udcff", "byte 4 is not UTF-8: save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_names_itself(content, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=f"^{path}: {said}"):
        workloads.load(path)


@pytest.mark.parametrize("name", ["nope", "nope/nope.toml", "."])
def test_an_absent_workload_names_itself(name):
    with pytest.raises(ValueError, match=f"^workload = {name!r} (is no file|cannot be read)"):
        workloads.load(name)


def test_overrides_reach_the_server_and_every_task_and_are_checked():
    file = workloads.override(QWEN, {"arrival_rate": 0.5, "service_cv": 1.0}, "qwen3-8b")
    assert file.arrival_rate == 0.5
    assert [task.service_cv for task in file.task] == [1.0] * 5
    with pytest.raises(ValueError, match=r"^mine: task 1 \(AIME24\): min_tokens = 99999 must"):
        workloads.override(QWEN, {"min_tokens": 99999}, "mine")
