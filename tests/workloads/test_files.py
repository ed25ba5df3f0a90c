"""Workload files: what may stand in one, and what is said about the rest."""

import numpy as np
import pytest

from jaxalloc.workloads import files as workloads

TEXT = workloads.builtin_text("qwen3-8b")


def message(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml: ") as caught:
        workloads.load(path)
    line = str(caught.value).removeprefix(f"{path}: ")
    assert "\n" not in line
    return line


def test_builtin_parameters():
    # arXiv 2608.13315, Tables I and II: one row of each table.
    qwen = workloads.to_workload(workloads.load("qwen3-8b"))
    llama = workloads.to_workload(workloads.load("r1-distill-llama-8b"))
    assert workloads.load("qwen3-8b").task_names[3] == "GSM8K"
    fields = ("base_time", "time_per_token", "floor", "gain", "decay")
    np.testing.assert_array_equal(
        [getattr(qwen, name)[3] for name in fields], [0.0663, 0.000125, 0.276, 0.677, 2.66e-3]
    )
    np.testing.assert_array_equal(
        [getattr(llama, name)[0] for name in fields], [0.1759, 0.000611, 0.011, 0.260, 1.94e-4]
    )


@pytest.mark.parametrize("name", workloads.builtin_names())
def test_builtin_workloads_share_one_setting_and_say_where_they_come_from(name):
    file = workloads.load(name)
    workload = workloads.to_workload(file)
    assert (file.arrival_rate, file.accuracy_weight) == (0.1, 30)
    np.testing.assert_array_equal(workload.mix, np.full(5, 0.2))
    np.testing.assert_array_equal(workload.max_tokens, np.full(5, 16384))
    np.testing.assert_array_equal(workload.min_tokens, np.zeros(5))
    assert "2608.13315" in file.source
    assert "amortized over a vLLM batch" in file.note


@pytest.mark.parametrize("name", workloads.builtin_names())
def test_save_and_load_give_back_the_same(tmp_path, name):
    file = workloads.load(name)
    workloads.save(file, tmp_path / "copy.toml")
    assert workloads.load(tmp_path / "copy.toml") == file
    assert [path.name for path in tmp_path.iterdir()] == ["copy.toml"]


def test_uncertainties_survive_the_round_trip(tmp_path):
    covariance = [[4e-4, 1e-9, -1e-4], [1e-9, 1e-12, 0.0], [-1e-4, 0.0, 1e-4]]
    text = TEXT.replace(
        "decay = 2.66e-3", f"decay = 2.66e-3\ndecay_se = 1e-6\ncovariance = {covariance}"
    )
    (tmp_path / "a.toml").write_text(text)
    file = workloads.load(tmp_path / "a.toml")
    assert (file.task[3].decay_se, file.task[3].covariance) == (1e-6, covariance)
    workloads.save(file, tmp_path / "b.toml")
    assert workloads.load(tmp_path / "b.toml") == file


def test_a_service_cv_and_whole_numbers_are_accepted(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(
        "arrival_rate = 1\naccuracy_weight = 3\n[[task]]\nname = 'a'\nmix = 1\ngain = 0.5\n"
        "decay = 1e-3\nfloor = 0\nbase_time = 0\ntime_per_token = 1e-3\nmax_tokens = 9\n"
        "service_cv = 1\n"
    )
    workload = workloads.to_workload(workloads.load(path))
    assert float(workload.service_cv[0]) == 1
    assert float(workload.min_tokens[0]) == 0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "decay = 2.66e-3",
            "decay = -1",
            "task 4 (GSM8K): decay = -1 must be greater than 0: give",
        ),
        ("decay = 2.66e-3", "decay = 'x'", "task 4 (GSM8K): decay = 'x' is not a number: give"),
        ("decay = 2.66e-3", "decay = true", "task 4 (GSM8K): decay = True is not a number: give"),
        ("decay = 2.66e-3", "decay = nan", "task 4 (GSM8K): decay = nan must be"),
        ("decay = 2.66e-3", "", "task 4 (GSM8K): decay is missing: add the rate"),
        (
            "decay = 2.66e-3",
            "decey = 1",
            "task 4 (GSM8K): decey = 1 is not a field: did you mean d",
        ),
        (
            "decay = 2.66e-3",
            "note = 'x'",
            "task 4 (GSM8K): note = 'x' is not a field: move it abov",
        ),
        ("decay = 2.66e-3", "decay = 1\ndecay_se = -1", "task 4 (GSM8K): decay_se = -1 must be at"),
        (
            "decay = 2.66e-3",
            "decay = 1\ncovariance = [[1]]",
            "task 4 (GSM8K): covariance has 1 row",
        ),
        ("gain = 0.677", "gain = 0.8", "task 4 (GSM8K): floor + gain = 1.076 must not exceed 1: l"),
        ("min_tokens = 0", "min_tokens = 99999", "task 1 (AIME24): min_tokens = 99999 must not ex"),
        ("mix = 0.2", "mix = 0.3", "the sum of mix = 1.5 must be 1: divide"),
        ("AIME24", "AIME25", "name = 'AIME25' is given to more than one task: rename"),
        ("arrival_rate = 0.1", "mix = 0.1", "mix = 0.1 is not a field: move it into the [[task]]"),
        ("arrival_rate = 0.1", "", "arrival_rate is missing: add the arrival rate, queries / s"),
        ("[[task]]", "[[tasks]]", "tasks = "),
        ("[[task]]", "[[task]", "is not TOML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_fix(tmp_path, old, new, expected):
    assert message(tmp_path, TEXT.replace(old, new)).startswith(expected)


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]],  # not symmetric
        [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]],  # correlation 2
        [[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],  # negative variance
    ],
)
def test_an_impossible_covariance_is_named(tmp_path, rows):
    text = TEXT.replace("decay = 2.66e-3", f"decay = 2.66e-3\ncovariance = {rows}")
    assert message(tmp_path, text).startswith("task 4 (GSM8K): covariance = ")


@pytest.mark.parametrize("name", ["nope", "nope/nope.toml", "."])
def test_an_absent_workload_names_itself(name):
    with pytest.raises(ValueError, match="workload = ") as caught:
        workloads.load(name)
    assert repr(name) in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"arrival_rate = \xff")
    with pytest.raises(ValueError, match="is not UTF-8"):
        workloads.load(tmp_path / "a.toml")


def test_overrides_reach_the_server_and_every_task():
    file = workloads.override(
        workloads.load("qwen3-8b"), {"arrival_rate": 0.5, "service_cv": 1.0}, "qwen3-8b"
    )
    assert file.arrival_rate == 0.5
    assert [task.service_cv for task in file.task] == [1.0] * 5


def test_an_override_that_makes_no_workload_is_named():
    with pytest.raises(ValueError, match=r"^mine: task 1 \(AIME24\): min_tokens = 99999 must"):
        workloads.override(workloads.load("qwen3-8b"), {"min_tokens": 99999}, "mine")
