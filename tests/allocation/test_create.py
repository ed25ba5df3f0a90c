"""`Workload.create`: what it casts, what it broadcasts, what it rejects and how it says so."""

import dataclasses
import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc import Workload, objective
from jaxalloc.allocation.model.domain import FIELDS, PER_SERVER

BASE = {
    "arrival_rate": 0.1,
    "mix": [0.5, 0.5],
    "gain": 0.5,
    "decay": 1e-3,
    "floor": 0.1,
    "base_time": 0.1,
    "time_per_token": 1e-3,
    "max_tokens": 1000,
    "accuracy_weight": 20.0,
}


def create(**changes):
    return Workload.create(**{**BASE, **changes})


def dtypes(workload):
    return {leaf.dtype for leaf in jax.tree.leaves(workload)}


def test_every_field_has_its_domain():
    assert tuple(FIELDS) == tuple(field.name for field in dataclasses.fields(Workload))
    defaults = inspect.signature(Workload.create).parameters
    for name, field in FIELDS.items():
        given = defaults[name].default
        assert field.default == (None if given is inspect.Parameter.empty else given)


@pytest.mark.parametrize(
    ("changes", "batch", "num_types"),
    [
        ({}, (), 2),
        ({"mix": 1.0}, (), 1),
        ({"mix": 0.5, "gain": [0.5, 0.4]}, (), 2),
        ({"mix": [1.0]}, (), 1),
        ({"arrival_rate": [0.1, 0.2, 0.3]}, (3,), 2),
        ({"arrival_rate": np.zeros((4, 1)), "accuracy_weight": np.ones(3)}, (4, 3), 2),
        ({"gain": [[0.1], [0.2], [0.3]]}, (3,), 2),
        ({"gain": np.full((3, 2), 0.2), "arrival_rate": np.zeros((5, 1))}, (5, 3), 2),
        ({"arrival_rate": np.zeros(0)}, (0,), 2),
        ({"mix": np.full((7, 1, 4), 0.25), "decay": np.ones((2, 4))}, (7, 2), 4),
    ],
)
def test_broadcasting(changes, batch, num_types):
    workload = create(**changes)
    assert workload.batch_shape == batch
    assert workload.num_types == num_types
    for name, value in vars(workload).items():
        assert value.shape == (batch if name in PER_SERVER else (*batch, num_types)), name


def test_values_land_where_they_belong():
    workload = create(arrival_rate=[0.1, 0.2, 0.3], gain=[0.5, 0.4], min_tokens=[[1.0], [2], [3]])
    np.testing.assert_array_equal(workload.arrival_rate, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(workload.gain, [[0.5, 0.4]] * 3)
    np.testing.assert_array_equal(workload.min_tokens, [[1, 1], [2, 2], [3, 3]])
    np.testing.assert_array_equal(workload.service_cv, np.zeros((3, 2)))


HALF = [0.5, 0.5]
WIDEST = [
    ({}, np.float64),  # JAX's default, under x64
    ({"gain": np.float32(HALF)}, np.float32),
    ({"gain": np.float32(0.5)}, np.float32),
    ({"gain": np.float64(HALF)}, np.float64),
    ({"gain": jnp.asarray(HALF, jnp.float32)}, np.float32),
    ({"gain": [jnp.float32(0.5), 0.5]}, np.float32),
    ({"gain": np.float32(HALF), "decay": np.float64(1e-3)}, np.float64),
    ({"gain": np.float32(HALF), "max_tokens": np.array([1, 2])}, np.float32),
    ({"max_tokens": np.array([1, 2])}, np.float64),
    ({"gain": np.float16(HALF)}, np.float32),  # the least that can be solved in
    ({"gain": jnp.asarray(HALF, jnp.bfloat16)}, np.float32),
    ({"gain": np.longdouble(HALF)}, np.float64),
]


@pytest.mark.parametrize(("changes", "dtype"), WIDEST)
def test_the_widest_floating_dtype_among_the_arrays(changes, dtype):
    workload = create(**changes)
    assert dtypes(workload) == {np.dtype(dtype)}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(workload))
    assert workload.dtype == dtype
    with jax.enable_x64(False), warnings.catch_warnings(action="error"):
        workload = create(**changes)
    assert dtypes(workload) == {np.dtype(np.float32)}


NOT_BOTH = "give one number a type, or a scalar for all"
REJECTED = [
    ({"arrival_rate": -0.1}, "arrival_rate = -0.1 must not be negative"),
    ({"arrival_rate": [0.1, np.inf]}, "arrival_rate[1] = inf must be finite"),
    ({"accuracy_weight": -1}, "accuracy_weight = -1 must not be negative"),
    ({"gain": [0.1, np.nan]}, "gain[1] = nan must be finite"),
    ({"gain": [[0.1, 0.2], [0.1, -0.2]]}, "gain[1, 1] = -0.2 must not be negative"),
    ({"decay": 0}, "decay = 0 must be greater than 0"),
    ({"decay": [1e-3, -1e-3]}, "decay[1] = -0.001 must be greater than 0"),
    ({"time_per_token": 0.0}, "time_per_token = 0 must be greater than 0"),
    ({"base_time": -1.0}, "base_time = -1 must not be negative"),
    ({"floor": -0.5}, "floor = -0.5 must not be negative"),
    ({"service_cv": -1.0}, "service_cv = -1 must not be negative"),
    ({"min_tokens": -1.0}, "min_tokens = -1 must not be negative"),
    ({"min_tokens": [0, 1001]}, "min_tokens[1] = 1001 must not exceed max_tokens"),
    ({"mix": [0.5, 0.4]}, "the sum of mix = 0.9 must be 1: normalize it"),
    ({"mix": [0.5, 0.500002]}, "the sum of mix = 1.00000"),
    ({"mix": [1.5, -0.5]}, "mix[1] = -0.5 must not be negative"),
    ({"mix": 1.0, "gain": [0.5, 0.4]}, "the sum of mix = 2 must be 1: normalize it"),
    ({"mix": [1.0], "gain": [0.5, 0.4]}, "the sum of mix = 2 must be 1: normalize it"),
    (
        {"floor": [0.1, 0.6]},
        "floor + gain[1] = 1.1 must not exceed 1, or pass allow_accuracy_above_one=True",
    ),
    ({"gain": [0.1, 0.2, 0.3]}, f"mix has shape (2,) where another field has (3,): {NOT_BOTH}"),
    (
        {"min_tokens": [0, 0, 0], "max_tokens": np.ones(5)},
        f"mix has shape (2,) where another field has (5,): {NOT_BOTH}",
    ),
    ({"gain": None}, "gain = None is not a number: give numbers or arrays of them"),
    ({"gain": "a"}, "gain = 'a' is not a number: give numbers or arrays of them"),
    ({"max_tokens": 10**30}, f"max_tokens = {10**30} is not a number"),
    ({"gain": np.array([1j, 0])}, "gain = array([0.+1.j, 0.+0.j]) is not a number"),
    ({"gain": jnp.array([1j, 0])}, "gain = Array([0.+1.j, 0.+0.j], dtype=complex128) is not a"),
    ({"gain": [["a"] * 99] * 99}, "gain = [['a', 'a',"),
    ({"gain": [[0.1], [0.1, 0.2]]}, "gain = [[0.1], [0.1, 0.2]] is not an array"),
    (
        {"arrival_rate": [1.0, 2, 3], "accuracy_weight": [1.0, 2]},
        "leading axes do not broadcast: arrival_rate (3,)",
    ),
    ({"max_tokens": 1e300, "gain": np.float32(0.5)}, "max_tokens = inf must be finite"),
    ({"decay": 1e-310}, "decay = 1e-310 is below 2.2e-308, which counts as 0: give 0, or more"),
    ({"gain": np.float32(1e-40)}, "gain = 9.99995e-41 is below 1.2e-38, which counts as 0"),
    ({"accuracy_weight": 1e-200, "decay": 1e-200}, "accuracy_weight * decay"),
    ({"base_time": 1e155}, "(1 + service_cv^2) * time^2 = inf is the second moment"),
    ({"arrival_rate": 1e153}, "arrival_rate = 1e+153 must not exceed 1.5e+138: use a longer unit"),
]


@pytest.mark.parametrize(("changes", "message"), REJECTED)
def test_errors_are_one_line_that_names_field_value_and_fix(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole line is compared
        create(**changes)
    line = str(caught.value)
    assert line.startswith(message)
    assert "\n" not in line
    assert len(line) < 320


def test_accuracy_above_one_on_request():
    workload = create(floor=[0.1, 0.6], allow_accuracy_above_one=True)
    np.testing.assert_allclose(workload.floor + workload.gain, [0.6, 1.1])


def test_rounding_of_sums_is_forgiven():
    create(floor=0.9, gain=0.1)
    create(floor=np.float32(0.7), gain=np.float32(0.3))
    create(mix=np.full(3, 1 / 3), gain=0.1)
    create(mix=np.random.default_rng(0).dirichlet(np.ones(1000)).astype(np.float32))


def test_under_tracing_nothing_is_checked_and_numbers_follow_the_arrays():
    wrong = {"arrival_rate": -1.0, "gain": np.nan, "decay": 0.0, "min_tokens": 1e9}
    made = jax.jit(lambda given: create(**given))(wrong)
    assert float(made.arrival_rate) == -1
    made = jax.vmap(lambda rate: create(arrival_rate=rate))(jnp.array([-1.0, 1.0]))
    assert made.mix.shape == (2, 2)
    made = jax.jit(lambda share: create(mix=[share, 1 - share]))(0.25)
    np.testing.assert_array_equal(made.mix, [0.25, 0.75])
    for dtype in (np.float32, np.float64):
        gain = np.asarray(HALF, dtype)
        traced = jax.jit(lambda rate, gain=gain: create(arrival_rate=rate, gain=gain))(0.1)
        assert dtypes(traced) == {np.dtype(dtype)}


def test_derivatives_through_create():
    def value(rate, share):
        return objective(create(arrival_rate=rate, mix=[share, 1 - share]), jnp.array([9.0, 400]))

    slope = jax.grad(value, (0, 1))(0.2, 0.3)
    step = 1e-6
    by_rate = (value(0.2 + step, 0.3) - value(0.2 - step, 0.3)) / (2 * step)
    by_share = (value(0.2, 0.3 + step) - value(0.2, 0.3 - step)) / (2 * step)
    np.testing.assert_allclose(slope, (by_rate, by_share), rtol=1e-8)


def test_round_trip_as_a_pytree():
    workload = create(arrival_rate=[0.1, 0.2])
    leaves, structure = jax.tree.flatten(workload)
    assert len(leaves) == 12
    again = jax.tree.unflatten(structure, leaves)
    assert all(getattr(again, name) is value for name, value in vars(workload).items())
    # JAX rebuilds it with whatever a transformation carries.
    assert jax.tree.unflatten(structure, [None] * 12).gain is None
    identity = jax.jit(lambda given: given)(workload)
    np.testing.assert_array_equal(identity.arrival_rate, workload.arrival_rate)
    with pytest.raises(dataclasses.FrozenInstanceError):
        workload.gain = 0
