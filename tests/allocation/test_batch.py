"""`solve_batch`: any leading axes, one lane of every status, under every transformation."""

import concurrent.futures
import dataclasses
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload, lane, stack
from problems import lanes, random_workloads

from jaxalloc import Newton, Status, Workload, solve, solve_batch, status_fractions
from jaxalloc.allocation.optimum import batch

FIELDS = random_workloads(21, 24)
FAILURES = {
    "infeasible": ("arrival_rate", 1e9, Status.INFEASIBLE),
    "nan": ("gain", np.nan, Status.NON_FINITE),
    "inf": ("max_tokens", np.inf, Status.NON_FINITE),
    "invalid": ("decay", -1.0, Status.INVALID),
    "box": ("min_tokens", 1e9, Status.INVALID),
}


def with_failures(fields):
    """Every fourth lane fails, each in its own way; and which lanes do."""
    fields = {name: value.copy() for name, value in fields.items()}
    expected = np.full(len(fields["mix"]), Status.CONVERGED)
    for index, (name, value, status) in enumerate(FAILURES.values()):
        fields[name][4 * index + 1] = value
        expected[4 * index + 1] = status
    return fields, expected


@pytest.mark.parametrize("shape", [(), (1,), (24,), (4, 6), (2, 3, 4), (0,), (3, 0, 2)])
def test_any_leading_axes(shape):
    count = int(np.prod(shape))
    fields = {
        name: value[:count].reshape(shape + value.shape[1:]) for name, value in FIELDS.items()
    }
    answer = solve_batch(as_workload(fields))
    assert answer.tokens.shape == (*shape, 6)
    for leaf in answer[1:]:
        assert leaf.shape == shape
    assert answer.steps.dtype == answer.status.dtype == np.int32
    whole = solve_batch(as_workload(FIELDS))
    np.testing.assert_allclose(
        np.reshape(answer.tokens, (-1, 6)), whole.tokens[:count], rtol=1e-9, atol=1e-6
    )


def test_fields_without_batch_axes_among_batched_ones():
    fields = lane(FIELDS, 0)
    rates = np.linspace(0.1, 1.5, 5) * fields["arrival_rate"]
    weights = np.array([[10.0], [100.0]])
    few = {**fields, "arrival_rate": rates, "accuracy_weight": weights, "service_cv": 0.0}
    # Arrays as they come, scalars for per-type fields too; nothing is broadcast beforehand.
    answer = solve_batch(Workload(**{name: jnp.asarray(value) for name, value in few.items()}))
    assert answer.tokens.shape == (2, 5, 6)
    for i, weight in enumerate(weights[:, 0]):
        for j, rate in enumerate(rates):
            changes = {"arrival_rate": rate, "accuracy_weight": weight}
            alone = solve(as_workload({**fields, "service_cv": np.zeros(6), **changes}))
            np.testing.assert_allclose(answer.tokens[i, j], alone.tokens, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("solver", [Newton(), Newton(max_steps=2)])
def test_a_failed_lane_never_disturbs_its_neighbours(solver):
    failed, expected = with_failures(FIELDS)
    clean = solve_batch(as_workload(FIELDS), solver)
    mixed = solve_batch(as_workload(failed), solver)
    sound = expected == Status.CONVERGED
    if solver.max_steps > 2:
        np.testing.assert_array_equal(mixed.status, expected)
    else:
        assert {*Status} == {*np.asarray(mixed.status).tolist()}
    for got, undisturbed in zip(mixed, clean, strict=True):
        np.testing.assert_array_equal(got[sound], undisturbed[sound])  # bit for bit
    np.testing.assert_array_equal(mixed.steps[~sound], 0)


@pytest.mark.parametrize("mapped", [jax.vmap(solve), jax.jit(jax.vmap(solve)), solve_batch])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_is_its_lanes_side_by_side(mapped, dtype):
    fields, expected = with_failures(FIELDS)
    workloads = as_workload(fields, dtype)
    alone = stack([solve(lane(workloads, index)) for index in range(len(expected))])
    together = mapped(workloads)
    np.testing.assert_array_equal(alone.status, expected)
    np.testing.assert_array_equal(together.status, alone.status)
    rtol = 2e-3 if dtype == np.float32 else 1e-8  # of tokens, at residuals of 1e-5 and 1e-8
    np.testing.assert_allclose(together.tokens, alone.tokens, rtol=rtol, atol=1e-3)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(together.objective, alone.objective, rtol=rtol, atol=rtol)
    assert {leaf.dtype for leaf in together} == {np.dtype(dtype), np.dtype(np.int32)}


def test_inside_jit_and_inside_vmap():
    fields, expected = with_failures(FIELDS)
    workloads = as_workload(fields)
    outside = solve_batch(workloads)
    inside = jax.jit(solve_batch)(workloads)
    folded = jax.tree.map(lambda leaf: leaf.reshape(4, 6, *leaf.shape[1:]), workloads)
    nested = jax.tree.map(
        lambda leaf: leaf.reshape(24, *leaf.shape[2:]), jax.jit(jax.vmap(solve_batch))(folded)
    )
    for answer in (inside, nested):
        np.testing.assert_array_equal(answer.status, expected)
        np.testing.assert_allclose(answer.tokens, outside.tokens, rtol=1e-8, atol=1e-6)
    # vmap over lanes alone: a batch of no axes.
    single = jax.vmap(solve_batch)(workloads)
    np.testing.assert_array_equal(single.status, expected)


def test_initial_tokens_are_broadcast_and_used():
    workloads = as_workload(FIELDS)
    cold = solve_batch(workloads)
    warm = solve_batch(workloads, initial=cold.tokens)
    assert np.max(warm.steps) <= 1
    np.testing.assert_allclose(warm.tokens, cold.tokens, rtol=1e-9, atol=1e-6)
    same = solve_batch(workloads, initial=jnp.zeros(6))
    np.testing.assert_array_equal(same.status, Status.CONVERGED)
    np.testing.assert_allclose(same.tokens, cold.tokens, rtol=1e-8, atol=1e-5)


def test_one_trace_per_shape_and_solver(monkeypatch):
    traced = []
    inner = batch.solve
    monkeypatch.setattr(batch, "solve", lambda *args: traced.append(args) or inner(*args))
    # 96 lanes are dealt to the cores in chunks, all of one shape.
    solver = Newton(max_steps=37)
    many = as_workload(random_workloads(22, 96))
    solve_batch(many, solver)
    first = len(traced)
    assert 1 <= first <= 2  # a CPU's and the other platforms' branch
    solve_batch(as_workload(random_workloads(23, 96)), Newton(max_steps=37))
    assert len(traced) == first
    solve_batch(as_workload(random_workloads(23, 96)), Newton(max_steps=38))
    assert len(traced) == 2 * first


def test_solve_is_traced_once_for_all_callers():
    traces = []

    class Counting(Newton):
        def init(self, workload, start):
            traces.append(workload)
            return super().init(workload, start)

    solve(as_workload(lane(FIELDS, 0)), Counting())
    assert 1 <= len(traces) <= 2  # a CPU's and the other platforms' branch
    first = len(traces)
    for index in range(1, 4):
        solve(as_workload(lane(FIELDS, index)), Counting())
    assert len(traces) == first


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 64])
def test_the_number_of_cores_changes_nothing(cores, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    fields, expected = with_failures(FIELDS)
    answer = solve_batch(as_workload(lanes(fields, slice(0, 23))))
    np.testing.assert_array_equal(answer.status, expected[:23])
    reference = jax.vmap(solve)(as_workload(lanes(fields, slice(0, 23))))
    np.testing.assert_allclose(answer.tokens, reference.tokens, rtol=1e-8, atol=1e-6)


def test_systems_without_an_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS, Windows
    answer = solve_batch(as_workload(FIELDS))
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)


def test_float64_in_the_scope_of_a_thread():
    """x64 is off everywhere but in some threads; each gets what its own scope says."""
    jax.config.update("jax_enable_x64", False)
    try:
        barrier = threading.Barrier(4, timeout=60)

        def work(float64):
            with jax.enable_x64(float64):
                barrier.wait()
                workloads = as_workload(FIELDS, np.float64 if float64 else np.float32)
                return jax.tree.map(np.asarray, solve_batch(workloads))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(work, [True, False, True, False]))
        assert [answer.tokens.dtype for answer in answers] == [np.float64, np.float32] * 2
        for answer in answers:
            np.testing.assert_array_equal(answer.status, Status.CONVERGED)
        assert np.max(answers[0].residual) <= 1e-8 < np.max(answers[1].residual)
        assert not jax.config.jax_enable_x64
    finally:
        jax.config.update("jax_enable_x64", True)


def test_float32_in_the_scope_of_a_caller_under_x64():
    with jax.enable_x64(False):
        answer = solve_batch(as_workload(FIELDS, np.float32))
    assert answer.tokens.dtype == answer.residual.dtype == np.float32
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)


def test_status_fractions():
    fields, _ = with_failures(FIELDS)
    answer = solve_batch(as_workload(fields))
    expected = {
        "CONVERGED": 19 / 24,
        "MAX_STEPS": 0.0,
        "INFEASIBLE": 1 / 24,
        "NON_FINITE": 2 / 24,
        "INVALID": 2 / 24,
    }
    assert status_fractions(answer) == pytest.approx(expected)
    traced = jax.jit(lambda given: status_fractions(solve_batch(given)))(as_workload(fields))
    assert {name: float(share) for name, share in traced.items()} == pytest.approx(expected)


def test_status_fractions_of_no_lanes_are_zero():
    nothing = solve_batch(as_workload(lanes(FIELDS, slice(0, 0))))
    assert status_fractions(nothing) == dict.fromkeys((status.name for status in Status), 0.0)


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
