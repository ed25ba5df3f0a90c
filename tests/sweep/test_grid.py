"""Which configurations a grid holds, and in which order."""

import itertools

import numpy as np
import pytest

from jaxalloc import sweep
from jaxalloc.sweep.allocations import _fill, parse_axis
from jaxalloc.workloads import files as workloads

TASKS = ("AIME24", "AIME25", "GPQA-D", "GSM8K", "HMMT25")


def base():
    return workloads.to_workload(workloads.load("qwen3-8b"))


def grid(**axes):
    return sweep.plan("qwen3-8b", axes)


def coordinates(plan, start, stop):
    return plan.design.rows(start, stop)


def lanes(plan, start, stop):
    """The workloads of some rows."""
    columns = plan.design.rows(start, stop)
    places = [label.partition(".") for label in columns]
    targets = tuple((field, TASKS.index(task) if task else None) for field, _, task in places)
    return _fill(base(), stop - start, tuple(columns.values()), targets)


def test_axes_include_both_ends():
    linear = parse_axis("arrival_rate", "0.1:0.7:7", TASKS)
    np.testing.assert_allclose(linear.values, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], rtol=1e-15)
    log = parse_axis("arrival_rate", "1e-3:10:5:log", TASKS)
    np.testing.assert_allclose(log.values, [1e-3, 1e-2, 1e-1, 1, 10], rtol=1e-15)
    assert (log.values[0], log.values[-1], log.log) == (1e-3, 10, True)
    falling = parse_axis("max_tokens", "100:50:2", TASKS)
    np.testing.assert_array_equal(falling.values, [100, 50])
    np.testing.assert_array_equal(parse_axis("gain", "0.25", TASKS).values, [0.25])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("arrival_rate", "1:2"),
        ("arrival_rate", "1:2:x"),
        ("arrival_rate", "1:2:3:lin"),
        ("arrival_rate", "1:2:3:log:4"),
        ("arrival_rate", ""),
        ("arrival_rate", "1:2:0"),
        ("arrival_rate", "1:2:1"),
        ("arrival_rate", "1:inf:3"),
        ("arrival_rate", "nan"),
        ("arrival_rate", "0:1:3:log"),
        ("arrival_rate", "-1:1:3"),
        ("arrival_rate", "1:2:1000000000000"),
        ("arrival_rate.GSM8K", "1"),
        ("decay", "0"),
        ("decay.MATH", "1"),
        ("decey", "1"),
        ("mix", "0.5"),
        ("", "1"),
    ],
)
def test_a_bad_axis_is_named(name, text):
    with pytest.raises(ValueError, match=r"^axis ") as caught:
        parse_axis(name, text, TASKS)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"decay": "1:2:2", "decay.GSM8K": "1:2:2"}, "axis decay.GSM8K: axis decay sets the same"),
        ({"decay.GSM8K": "1:2:2", "decay": "1:2:2"}, "sets the same number"),
        ({"gain": "0.1:0.9:3"}, "task GPQA-D must not exceed 1"),
        ({"arrival_rate": "1:2:1000000", "accuracy_weight": "1:2:1000000"}, "1e\\+12 config"),
    ],
)
def test_a_bad_grid_is_named(axes, expected):
    with pytest.raises(ValueError, match=expected):
        grid(**axes)


def test_rows_run_in_the_order_of_the_axes_with_the_last_one_fastest():
    plan = grid(**{"accuracy_weight": "1:3:3", "decay.GSM8K": "0.1:0.2:2", "max_tokens": "8:9:2"})
    assert plan.size == 12
    rows = list(itertools.product([1.0, 2.0, 3.0], [0.1, 0.2], [8.0, 9.0]))
    columns = coordinates(plan, 0, 12)
    assert list(columns) == ["accuracy_weight", "decay.GSM8K", "max_tokens"]
    np.testing.assert_allclose(np.stack(list(columns.values()), axis=1), rows, rtol=1e-15)

    part = coordinates(plan, 5, 8)  # any slice agrees with the whole
    np.testing.assert_allclose(np.stack(list(part.values()), axis=1), rows[5:8], rtol=1e-15)

    batch = lanes(plan, 5, 8)
    weight, decay, tokens = (np.array(column) for column in zip(*rows[5:8], strict=True))
    np.testing.assert_allclose(batch.accuracy_weight, weight, rtol=1e-15)
    np.testing.assert_allclose(batch.decay[:, 3], decay, rtol=1e-15)
    np.testing.assert_array_equal(batch.decay[:, 0], np.full(3, 9.25e-5))
    np.testing.assert_array_equal(batch.max_tokens, np.tile(tokens[:, None], (1, 5)))
    np.testing.assert_array_equal(batch.gain, np.tile(base().gain, (3, 1)))


def test_a_grid_without_axes_is_the_workload_itself():
    plan = grid()
    assert (plan.size, coordinates(plan, 0, 1)) == (1, {})
    batch = lanes(plan, 0, 1)
    np.testing.assert_array_equal(batch.decay[0], base().decay)
