"""The allocator's GPU kernel, in interpret mode and lowered for CUDA, against the plain form.

`benchmarks/kernel_agreement.py` compares the whole random and hard sets; this is a slice of them.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload, lane
from gpu import cuda_kernels, interpreted
from problems import hard_workloads, lanes, random_workloads

from jaxalloc import FixedPoint, Newton, ProjectedGradient, Status, solve, solve_batch
from jaxalloc.allocation.optimum import gpu_kernel
from jaxalloc.allocation.optimum.lanes import side_by_side
from jaxalloc.backend import dispatch as backend

# A cap on steps that no other test has, so that nothing traced before is met again.
KERNEL = Newton(max_steps=88)
FAILURES = {
    "arrival_rate": (1e9, Status.INFEASIBLE),
    "gain": (np.nan, Status.NON_FINITE),
    "decay": (-1.0, Status.INVALID),
}


def mixed(size):
    """Random and hard lanes with one of every failure, which a kernel must leave alone."""
    drawn = random_workloads(61, size), hard_workloads(61, size, 6)
    fields = {name: np.concatenate([one[name] for one in drawn]) for name in drawn[0]}
    for place, (name, (value, _)) in enumerate(FAILURES.items()):
        fields[name][7 * place + 3] = value
    return fields


def with_kernels(function, *inputs):
    with interpreted():
        return jax.block_until_ready(function(*inputs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_to_the_plain_form(dtype):
    workloads = as_workload(mixed(40), dtype)
    plain, kernel = solve_batch(workloads), with_kernels(solve_batch, workloads, KERNEL)
    assert {status for _, status in FAILURES.values()} < {*np.asarray(plain.status).tolist()}
    reached = np.asarray(plain.status) == Status.CONVERGED
    if dtype == np.float64:  # in float32 rounding alone decides a hard lane or two
        np.testing.assert_array_equal(kernel.status, plain.status)
        np.testing.assert_array_equal(kernel.steps[~reached], 0)
    both = reached & (np.asarray(kernel.status) == Status.CONVERGED)
    assert np.mean(both == reached) > 0.95
    rtol, atol = (1e-9, 1e-9) if dtype == np.float64 else (1e-3, 1e-3)
    np.testing.assert_allclose(kernel.tokens[both], plain.tokens[both], rtol=rtol, atol=atol)
    steps = np.abs(np.asarray(kernel.steps) - np.asarray(plain.steps))
    assert np.mean(steps <= 1) > 0.95


@pytest.mark.parametrize("num_types", [64])
def test_types_are_filled_up_to_a_power_of_two(num_types):
    fields = hard_workloads(62, 21, num_types)  # nor do 21 lanes fill a block
    workloads = as_workload(fields)
    plain, kernel = solve_batch(workloads), with_kernels(solve_batch, workloads, KERNEL)
    np.testing.assert_array_equal(kernel.status, plain.status)
    np.testing.assert_allclose(kernel.tokens, plain.tokens, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", [FixedPoint(max_steps=88), ProjectedGradient(max_steps=88)])
def test_every_solver_has_its_kernel(solver):
    workloads = as_workload(random_workloads(63, 20))
    kernel = with_kernels(solve_batch, workloads, solver)
    plain = solve_batch(workloads, type(solver)(max_steps=89))
    reached = np.asarray(plain.status) == Status.CONVERGED
    assert np.mean(reached) > 0.4
    np.testing.assert_array_equal(kernel.status[reached], Status.CONVERGED)
    np.testing.assert_allclose(kernel.tokens[reached], plain.tokens[reached], rtol=1e-6, atol=1e-3)


def test_prices_warm_starts_and_nested_batches():
    drawn = as_workload(random_workloads(64, 20))
    price = jnp.linspace(0, 1e-3, 20)
    workloads = dataclasses.replace(drawn, token_price=price)
    plain = jax.vmap(solve)(workloads)
    assert np.max(np.abs(plain.tokens - solve_batch(drawn).tokens)) > 1
    folded = jax.tree.map(lambda leaf: leaf.reshape(4, 5, *leaf.shape[1:]), (workloads, plain))

    @jax.vmap
    @jax.vmap
    def resolve(workload, before):
        return solve(workload, KERNEL, before.tokens)

    kernel = with_kernels(resolve, *folded)
    np.testing.assert_array_equal(kernel.status, Status.CONVERGED)
    assert np.max(kernel.steps) <= 1
    np.testing.assert_allclose(kernel.tokens.reshape(20, 6), plain.tokens, rtol=1e-9, atol=1e-6)


def test_derivatives_are_those_of_the_plain_form():
    workload = as_workload(lane(random_workloads(65, 3), 1))

    def tokens(solver):
        return lambda workload: solve(workload, solver).tokens[0]

    kernel = with_kernels(jax.grad(tokens(KERNEL)), workload)
    plain = jax.grad(tokens(Newton()))(workload)
    for name, leaf in vars(plain).items():
        np.testing.assert_allclose(getattr(kernel, name), leaf, rtol=1e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_types", [6, 64])
def test_it_lowers_for_cuda(num_types, dtype):
    workloads = as_workload(random_workloads(66, 9, num_types), dtype)
    solver = Newton(max_steps=87)
    assert cuda_kernels(lambda given: solve_batch(given, solver), workloads) == 1


def test_what_lowers_for_cuda_besides():
    workloads = as_workload(random_workloads(66, 9))
    for solver in (FixedPoint(max_steps=87), ProjectedGradient(max_steps=87)):
        assert cuda_kernels(lambda given, solver=solver: solve_batch(given, solver), workloads) == 1
    solver = Newton(max_steps=86)
    assert cuda_kernels(lambda given: solve(given, solver), lane(workloads, 0)) == 1
    loss = jax.grad(lambda given: jnp.sum(solve_batch(given, solver).tokens))
    assert cuda_kernels(loss, workloads) == 1


def test_without_a_kernel_the_plain_form_runs(monkeypatch):
    """Too many types, no GPU, or kernels turned off."""
    many = as_workload(random_workloads(67, 2, gpu_kernel.MOST_TYPES + 1))
    solver = Newton(max_steps=85)
    assert cuda_kernels(lambda given: solve_batch(given, solver), many) == 0
    monkeypatch.setattr(backend, "_has_gpu", lambda: True)
    for switch, form in (("0", None), ("1", "gpu")):
        monkeypatch.setenv("JAXALLOC_GPU_KERNELS", switch)
        assert backend.kernel_form() == form
    monkeypatch.delenv("JAXALLOC_GPU_KERNELS")
    assert backend.kernel_form() is None


class Sorting(Newton):
    """A solver with an operation that has no form for lanes side by side."""

    def init(self, workload, start):
        return super().init(
            workload, start._replace(tokens=start.tokens + 0 * jnp.sort(start.tokens))
        )


@pytest.mark.parametrize("solver", [ProjectedGradient(max_steps=84, certified=True), Sorting()])
def test_what_a_kernel_cannot_express_runs_in_the_plain_form(solver):
    workloads = as_workload(random_workloads(69, 3))
    assert cuda_kernels(lambda given: solve_batch(given, solver), workloads) == 0
    found = with_kernels(jax.vmap(lambda given: solve(given, solver)), workloads)
    np.testing.assert_array_equal(found.status, solve_batch(workloads, solver).status)


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
    mapped = jax.vmap(run)(x, n)
    found = side_by_side(run, x.T, n)
    for got, wanted in zip(found, mapped, strict=True):
        np.testing.assert_allclose(np.asarray(got).T, wanted, rtol=1e-12)
    assert np.isnan(np.asarray(found[2])[5])


def test_lanes_side_by_side_name_what_they_cannot():
    with pytest.raises(NotImplementedError, match="sort has no form"):
        side_by_side(jnp.sort, jnp.ones((3, 2)))
    table = np.arange(3.0)
    with pytest.raises(NotImplementedError, match="an array from outside"):
        side_by_side(lambda x: x + jnp.asarray(table), jnp.ones((3, 2)))


def test_an_empty_batch_has_no_program():
    workloads = as_workload(lanes(random_workloads(68, 2), slice(0, 0)))
    assert with_kernels(solve_batch, workloads, KERNEL).tokens.shape == (0, 6)
