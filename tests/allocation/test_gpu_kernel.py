"""The allocator's GPU kernel, in interpret mode and lowered for CUDA, against the plain form.

`benchmarks/kernel_agreement.py` compares the whole random and hard sets; this is a slice of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import LANES, as_workload, lane
from gpu import cuda_kernels, interpreted
from problems import hard_workloads, lanes, priced, random_workloads

from jaxalloc import FixedPoint, Newton, ProjectedGradient, Status, solve, solve_batch
from jaxalloc.allocation.optimum import gpu_kernel
from jaxalloc.allocation.optimum.lanes import side_by_side
from jaxalloc.backend import dispatch as backend

# A cap on steps that no other test has, so that nothing traced before is met again.
KERNEL = Newton(max_steps=88)
RANDOM = as_workload(priced(random_workloads(32, LANES)))


def mixed():
    """Random and hard lanes with one of every failure, which a kernel must leave alone."""
    drawn = random_workloads(61, LANES // 2), hard_workloads(61, LANES // 2, 6)
    fields = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
    fields["arrival_rate"][3], fields["gain"][10], fields["decay"][17] = 1e9, np.nan, -1.0
    return fields


def with_kernels(function, *inputs):
    with interpreted():
        return jax.tree.map(np.asarray, function(*inputs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_the_plain_form(dtype):
    workloads = as_workload(mixed(), dtype)
    plain, kernel = solve_batch(workloads), with_kernels(solve_batch, workloads, KERNEL)
    assert {2, 3, 4} < {*np.asarray(plain.status).tolist()}
    reached = np.asarray(plain.status) == Status.CONVERGED
    if dtype == np.float64:  # in float32 rounding alone decides a hard lane or two
        np.testing.assert_array_equal(kernel.status, plain.status)
        np.testing.assert_array_equal(kernel.steps[~reached], 0)
    both = reached & (kernel.status == Status.CONVERGED)
    assert np.mean(both == reached) > 0.95
    rtol, atol = (1e-9, 1e-9) if dtype == np.float64 else (1e-3, 1e-3)
    np.testing.assert_allclose(kernel.tokens[both], plain.tokens[both], rtol=rtol, atol=atol)
    assert np.mean(np.abs(kernel.steps - np.asarray(plain.steps)) <= 1) > 0.95


def test_another_solver_has_its_kernel():
    solver = FixedPoint(max_steps=88)
    kernel, plain = with_kernels(solve_batch, RANDOM, solver), solve_batch(RANDOM, FixedPoint())
    reached = kernel.status == Status.CONVERGED
    assert np.mean(reached) > 0.3
    plain_reached = np.asarray(plain.status) == Status.CONVERGED
    np.testing.assert_array_equal(reached, plain_reached & (np.asarray(plain.steps) <= 88))
    np.testing.assert_allclose(kernel.tokens[reached], plain.tokens[reached], rtol=1e-6, atol=1e-3)


def test_warm_starts_and_nested_batches_that_fill_no_block():
    answer = solve_batch(RANDOM)
    few = jax.tree.map(lambda leaf: leaf[:21], (RANDOM, answer.tokens))
    folded = jax.tree.map(lambda leaf: leaf.reshape(3, 7, *leaf.shape[1:]), few)
    resolve = jax.vmap(jax.vmap(lambda workload, before: solve(workload, KERNEL, before)))
    kernel = with_kernels(resolve, *folded)
    np.testing.assert_array_equal(kernel.status, Status.CONVERGED)
    assert np.max(kernel.steps) <= 1
    np.testing.assert_allclose(kernel.tokens.reshape(21, 6), few[1], rtol=1e-9, atol=1e-6)
    empty = as_workload(lanes(random_workloads(68, 2), slice(0, 0)))
    assert with_kernels(solve_batch, empty, KERNEL).tokens.shape == (0, 6)


class Sorting(Newton):
    """A solver with an operation that has no form for lanes side by side."""

    def init(self, workload, start):
        tokens = start.tokens + 0 * jnp.sort(start.tokens)
        return super().init(workload, start._replace(tokens=tokens))


LOSS = lambda given: jnp.sum(solve_batch(given, Newton(max_steps=86)).tokens)  # noqa: E731
LOWERED = {  # what is lowered for CUDA, of what, and how many kernels there are in it
    "float32": (lambda w: solve_batch(w, Newton(max_steps=87)), (6, np.float32), 1),
    "many types": (lambda w: solve_batch(w, Newton(max_steps=87)), (64, np.float64), 1),
    "fixed point": (lambda w: solve_batch(w, FixedPoint(max_steps=87)), (6, np.float64), 1),
    "gradient": (lambda w: solve_batch(w, ProjectedGradient(max_steps=87)), (6, np.float64), 1),
    "one lane": (lambda w: solve(lane(w, 0), Newton(max_steps=86)), (6, np.float64), 1),
    "a loss": (jax.grad(LOSS), (6, np.float64), 1),
    "too many types": (
        lambda w: solve_batch(w, Newton(max_steps=85)),
        (gpu_kernel.MOST_TYPES + 1, np.float64),
        0,
    ),
    "certified": (
        lambda w: solve_batch(w, ProjectedGradient(max_steps=84, certified=True)),
        (6, np.float64),
        0,
    ),
    "sorting": (lambda w: solve_batch(w, Sorting()), (6, np.float64), 0),
}


@pytest.mark.parametrize("name", LOWERED)
def test_what_lowers_for_cuda(name):
    function, (num_types, dtype), count = LOWERED[name]
    workloads = as_workload(random_workloads(66, 9, num_types), dtype)
    assert cuda_kernels(function, workloads) == count


def test_what_a_kernel_cannot_express_runs_in_the_plain_form():
    found = with_kernels(solve_batch, RANDOM, Sorting())
    np.testing.assert_array_equal(found.status, Status.CONVERGED)


def test_kernels_run_where_there_is_a_gpu_and_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(backend, "_has_gpu", lambda: True)
    for switch, form in (("0", None), ("1", "gpu")):
        monkeypatch.setenv("JAXALLOC_GPU_KERNELS", switch)
        assert backend.kernel_form() == form
    monkeypatch.delenv("JAXALLOC_GPU_KERNELS")
    assert backend.kernel_form() is None


def test_lanes_side_by_side_are_lanes_mapped():
    """Loops of unequal length, branches cheap and dear, several sums at once, and NaN."""

    def run(x, n):
        def turn(carry):
            y, count = carry
            y = jax.lax.cond(jnp.sum(y) > 2, lambda: y / 2, lambda: y + jnp.sum(y))
            dear = lambda: worked(y)  # noqa: E731
            y = y + jax.lax.cond(count == 1, dear, lambda: jnp.zeros_like(y))
            return y, count + 1

        y, count = jax.lax.while_loop(lambda carry: carry[1] < n, turn, (x, jnp.int32(0)))
        top, low = jnp.max(y), jnp.clip(jnp.min(y), -1.0, 1.0)
        return y, count, jnp.where(jnp.any(y > 3) | jnp.all(y < 0), top, low)

    def worked(y):
        for _ in range(5):
            y = jnp.exp(-y) - jnp.minimum(y, 0.3)
        return y

    x = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)))
    x = x.at[5, 1].set(jnp.nan)
    n = jnp.arange(12) % 5
    mapped, found = jax.vmap(run)(x, n), jax.jit(lambda x, n: side_by_side(run, x, n))(x.T, n)
    for got, wanted in zip(found, mapped, strict=True):
        np.testing.assert_allclose(np.asarray(got).T, wanted, rtol=1e-12)
    assert np.isnan(np.asarray(found[2])[5])


def test_lanes_side_by_side_name_what_they_cannot():
    with pytest.raises(NotImplementedError, match="sort has no form"):
        side_by_side(jnp.sort, jnp.ones((3, 2)))
    table = np.arange(3.0)
    with pytest.raises(NotImplementedError, match="an array from outside"):
        side_by_side(lambda x: x + jnp.asarray(table), jnp.ones((3, 2)))
