"""`solve_batch`: any leading axes, one lane of every status, under every transformation."""

import concurrent.futures
import dataclasses
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import LANES, as_workload, lane, solve_all, stack
from problems import priced, random_workloads

from jaxalloc import Newton, Status, Workload, solve, solve_batch
from jaxalloc.allocation.optimum import batch

FIELDS = priced(random_workloads(32, LANES))
FAILURES = [
    ("arrival_rate", 1e9, Status.INFEASIBLE),
    ("gain", np.nan, Status.NON_FINITE),
    ("max_tokens", np.inf, Status.NON_FINITE),
    ("decay", -1.0, Status.INVALID),
    ("min_tokens", 1e9, Status.INVALID),
]


def with_failures():
    """Some lanes fail, each in its own way; and which status each lane has."""
    fields = {name: value.copy() for name, value in FIELDS.items()}
    expected = np.full(LANES, Status.CONVERGED)
    for index, (name, value, status) in enumerate(FAILURES):
        fields[name][4 * index + 1] = value
        expected[4 * index + 1] = status
    return fields, expected


@pytest.mark.parametrize("shape", [(), (2, 10, 10), (3, 0, 2)])
def test_any_leading_axes(shape):
    count = int(np.prod(shape))
    fields = {k: v[:count].reshape(shape + v.shape[1:]) for k, v in FIELDS.items()}
    answer = solve_batch(as_workload(fields))
    assert answer.tokens.shape == (*shape, 6)
    assert {leaf.shape for leaf in answer[1:]} == {shape}
    assert answer.steps.dtype == answer.status.dtype == np.int32
    whole = solve_all(FIELDS).tokens[:count]
    np.testing.assert_allclose(np.reshape(answer.tokens, (-1, 6)), whole, rtol=1e-9, atol=1e-6)


def test_fields_without_batch_axes_among_batched_ones():
    one = lane(FIELDS, 0)
    rates = np.linspace(0.1, 1.5, 100) * one["arrival_rate"]
    few = {**one, "arrival_rate": rates, "accuracy_weight": np.array([[10.0], [100.0]])}
    few["service_cv"] = np.asarray(0.0)
    # Arrays as they come, scalars for per-type fields too; nothing is broadcast beforehand.
    answer = solve_batch(Workload(**{name: jnp.asarray(value) for name, value in few.items()}))
    assert answer.tokens.shape == (2, 100, 6)
    for i, j in ((0, 0), (1, 3), (1, 99)):
        changes = {"arrival_rate": rates[j], "accuracy_weight": few["accuracy_weight"][i, 0]}
        alone = solve(as_workload({**one, "service_cv": np.zeros(6), **changes}))
        np.testing.assert_allclose(answer.tokens[i, j], alone.tokens, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("solver", [Newton(), Newton(max_steps=2)])
def test_a_failed_lane_never_disturbs_its_neighbours(solver):
    failed, expected = with_failures()
    clean, mixed = solve_all(FIELDS, solver), solve_all(failed, solver)
    sound = expected == Status.CONVERGED
    if solver == Newton():
        np.testing.assert_array_equal(mixed.status, expected)
    else:
        assert {*Status} == {*mixed.status.tolist()}
    for got, undisturbed in zip(mixed, clean, strict=True):
        np.testing.assert_array_equal(got[sound], undisturbed[sound])  # bit for bit
    np.testing.assert_array_equal(mixed.steps[~sound], 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_its_lanes_side_by_side(dtype):
    fields, expected = with_failures()
    workloads = as_workload(fields, dtype)
    alone = stack([solve(lane(workloads, index)) for index in range(24)])
    np.testing.assert_array_equal(alone.status, expected[:24])
    answers = [solve_batch(workloads)]
    if dtype == np.float64:
        folded = jax.tree.map(lambda leaf: leaf.reshape(2, 100, *leaf.shape[1:]), workloads)
        nested = jax.jit(jax.vmap(solve_batch))(folded)
        nested = jax.tree.map(lambda leaf: leaf.reshape(LANES, *leaf.shape[2:]), nested)
        answers += [jax.vmap(solve)(workloads), nested]
    for together in answers:
        np.testing.assert_array_equal(together.status, expected)
        together = lane(together, slice(0, 24))
        rtol = 2e-3 if dtype == np.float32 else 1e-8  # of tokens, at residuals of 1e-5 and 1e-8
        np.testing.assert_allclose(together.tokens, alone.tokens, rtol=rtol, atol=1e-3)
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(together.objective, alone.objective, rtol=rtol, atol=rtol)
        assert {leaf.dtype for leaf in together} == {np.dtype(dtype), np.dtype(np.int32)}


def test_one_trace_for_all_callers_of_a_shape_and_a_solver(monkeypatch):
    traced = []
    inner = batch.solve
    monkeypatch.setattr(batch, "solve", lambda *args: traced.append(args) or inner(*args))
    for seed in (22, 23):  # dealt to the cores in chunks, all of one shape
        solve_all(random_workloads(seed, 96, 2), Newton(max_steps=37))
        assert 1 <= len(traced) <= 2  # a CPU's and the other platforms' branch

    class Counting(Newton):
        def init(self, workload, start):
            traced.append(workload)
            return super().init(workload, start)

    traced.clear()
    for index in range(3):
        solve(as_workload(lane(FIELDS, index)), Counting())
        assert 1 <= len(traced) <= 2


@pytest.mark.parametrize("cores", [None, 3])
def test_the_number_of_cores_changes_nothing(cores, monkeypatch):
    fields, expected = with_failures()
    reference = solve_all(fields)
    if cores is None:  # macOS, Windows
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    answer = solve_all(fields)
    np.testing.assert_array_equal(answer.status, expected)
    np.testing.assert_allclose(answer.tokens, reference.tokens, rtol=1e-8, atol=1e-6)


def test_the_precision_is_that_of_the_scope_of_a_thread():
    """x64 is off everywhere but in some threads; each gets what its own scope says."""
    barrier = threading.Barrier(2, timeout=60)

    def work(float64):
        with jax.enable_x64(float64):
            barrier.wait()
            return solve_all(FIELDS, dtype=np.float64 if float64 else np.float32)

    jax.config.update("jax_enable_x64", False)
    try:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            double, single = pool.map(work, [True, False])
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", True)
    assert (double.tokens.dtype, single.tokens.dtype) == (np.float64, np.float32)
    for answer in (double, single):
        np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    assert np.max(double.residual) <= 1e-8 < np.max(single.residual)


@pytest.mark.parametrize(
    ("initial", "changed", "named"),
    [
        (np.ones((4, 3)), {}, "initial has shape"),
        (np.ones((3, 2)), {}, "initial has shape"),
        (None, {"accuracy_weight": np.ones(3)}, "accuracy_weight"),
        (None, {"gain": np.ones((4, 3)) / 10}, "gain"),
    ],
)
def test_shapes_that_do_not_belong_together_are_one_line(initial, changed, named):
    workloads = as_workload(random_workloads(1, 4, 2))
    with pytest.raises(ValueError, match=named) as raised:
        solve_batch(dataclasses.replace(workloads, **changed), initial=initial)
    assert "\n" not in str(raised.value)
