"""The derivative of the optimum: differences, both modes, transformations, edges, large K."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest
from derivatives import FIELDS, sides

import jaxalloc
from jaxalloc import (
    FixedPoint,
    Newton,
    ProjectedGradient,
    Status,
    Workload,
    solve,
    solve_batch,
)

LANES = 1_000


@functools.cache
def batch(seed=1, lanes=LANES, num_types=6):
    return Workload.create(**problems.random_workloads(seed, lanes, num_types))


def tokens_and_value(workload):
    answer = solve(workload)
    return answer.tokens, answer.objective


def direction(workload, name, seed=0):
    """A tangent of one field, in proportion to it: zeros stay zeros and inside the domain."""
    value = np.asarray(getattr(workload, name))
    factor = np.random.default_rng([seed, len(name)]).uniform(-1, 1, value.shape)
    zero = jax.tree.map(jnp.zeros_like, workload)
    return dataclasses.replace(zero, **{name: jnp.asarray(value * factor)})


def differences(workload, moved, relative_step=1e-3):
    """Fourth-order central differences of tokens and objective, and where they mean something.

    The step shrinks with the idle fraction d, the scale on which J changes near saturation. A lane
    whose set of bound types changes within the step is left out.
    """
    base = solve_batch(workload)
    idle = 1 - jax.vmap(jaxalloc.utilization)(workload, base.tokens)
    step = np.asarray(relative_step * idle)
    smooth, tokens, values = np.ones(len(step), bool), 0.0, 0.0
    for far, weight in ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12)):
        shift = far * step
        there = jax.tree.map(
            lambda leaf, tangent, shift=shift: (
                leaf + tangent * shift.reshape(-1, *[1] * (leaf.ndim - 1))
            ),
            workload,
            moved,
        )
        answer = solve_batch(there)
        same = np.all(sides(answer.tokens, there) == sides(base.tokens, workload), axis=1)
        smooth &= same & (np.asarray(answer.status) == Status.CONVERGED)
        tokens = tokens + weight * np.asarray(answer.tokens) / step[:, None]
        values = values + weight * np.asarray(answer.objective) / step
    # What rounding can do to tokens and value, eps l / d and eps J / d, over a step.
    noise = 4e-15 / (step * np.asarray(idle))
    return tokens, values, smooth, noise


def test_the_lanes_have_mixed_active_sets():
    held = sides(solve_batch(batch()).tokens, batch()) != 0
    assert 0.4 < held.mean() < 0.6
    assert np.mean(held.any(axis=1) & ~held.all(axis=1)) > 0.8


@pytest.mark.parametrize("name", FIELDS)
def test_forward_derivatives_are_differences(name):
    workload = batch()
    moved = direction(workload, name)
    tangent = jax.jvp(solve_batch, (workload,), (moved,))[1]
    tokens, values, smooth, noise = differences(workload, moved)
    assert smooth.mean() > 0.98
    assert np.median(noise) < 1e-10
    exact, value = np.asarray(tangent.tokens)[smooth], np.asarray(tangent.objective)[smooth]
    scale = np.abs(exact).max(axis=1, keepdims=True)
    rounding = noise[smooth, None] * np.asarray(workload.max_tokens)[smooth]
    assert np.all(np.abs(exact - tokens[smooth]) <= 1e-6 * scale + rounding)
    rounding = 10 * (noise * np.abs(np.asarray(solve_batch(workload).objective)))[smooth]
    assert np.all(np.abs(value - values[smooth]) <= 1e-6 * np.abs(value) + rounding)


def test_forward_and_reverse_agree_on_every_entry():
    forward = jax.jit(jax.vmap(jax.jacfwd(tokens_and_value)))(batch())
    reverse = jax.jit(jax.vmap(jax.jacrev(tokens_and_value)))(batch())
    for one, two in zip(jax.tree.leaves(forward), jax.tree.leaves(reverse), strict=True):
        axes = tuple(range(1, one.ndim))
        scale = np.max(np.abs(one), axis=axes, keepdims=True)
        assert np.all(np.abs(one - two) <= 1e-11 * scale)


def test_adjoint_identity():
    workload = batch()
    rng = np.random.default_rng(2)
    moved = jax.tree.map(lambda leaf: leaf * rng.uniform(-1, 1, leaf.shape), workload)
    primal, pull = jax.vjp(jax.vmap(tokens_and_value), workload)
    pushed = jax.jvp(jax.vmap(tokens_and_value), (workload,), (moved,))[1]
    weight = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), primal)
    (pulled,) = pull(weight)

    def terms(one, two):
        """The addends of an inner product, lane by lane."""
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
        return np.concatenate([np.reshape(a * b, (LANES, -1)) for a, b in pairs], axis=1)

    left, right = terms(pushed, weight), terms(moved, pulled)
    scale = np.maximum(np.abs(left).sum(axis=1), np.abs(right).sum(axis=1))
    assert np.all(np.abs(left.sum(axis=1) - right.sum(axis=1)) <= 1e-12 * scale)


@pytest.mark.parametrize("solver", [FixedPoint(), ProjectedGradient(), Newton()])
def test_the_derivative_does_not_depend_on_the_solver(solver):
    workload = problems.lanes(problems.random_workloads(3, 400, 4), slice(None))
    workload = Workload.create(**workload)
    answer = solve_batch(workload, solver)
    solved = np.asarray(answer.status) == Status.CONVERGED
    assert solved.mean() > 0.2
    weight = jnp.asarray(np.random.default_rng(0).normal(size=answer.tokens.shape))

    def slopes(solver):
        loss = lambda w: jnp.sum(solve_batch(w, solver).tokens * weight)  # noqa: E731
        return jax.grad(loss)(workload)

    mine, newton = slopes(solver), slopes(Newton())
    # Tokens that are right to 1e-8 of the balance need not sit at their bound exactly.
    same = solved & np.all(
        sides(answer.tokens, workload) == sides(solve_batch(workload).tokens, workload), axis=1
    )
    for name in FIELDS:
        one, two = np.asarray(getattr(mine, name)), np.asarray(getattr(newton, name))
        assert np.all(np.isnan(one[~solved]))
        np.testing.assert_allclose(one[same], two[same], rtol=1e-4, atol=1e-6 * np.abs(two).max())


def test_compositions_of_transformations_agree():
    workload = batch(4, 8, 3)
    weight = jnp.asarray(np.random.default_rng(0).normal(size=workload.mix.shape))

    def loss(solver, workload):
        return jnp.sum(jnp.sin(1e-3 * solver(workload).tokens) * weight)

    lane = lambda w, c: jnp.sum(jnp.sin(1e-3 * solve(w).tokens) * c)  # noqa: E731
    eager = jax.grad(functools.partial(loss, solve_batch))(workload)
    others = [
        jax.jit(jax.grad(functools.partial(loss, solve_batch)))(workload),
        jax.grad(jax.jit(functools.partial(loss, jax.vmap(solve))))(workload),
        jax.jit(jax.vmap(jax.grad(lane)))(workload, weight),
        jax.vmap(jax.jit(jax.grad(lane)))(workload, weight),
    ]
    for other in others:
        for name in FIELDS:
            one, two = getattr(eager, name), getattr(other, name)
            np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9 * np.max(np.abs(one)))


def two_types(**changes):
    fields = {
        "arrival_rate": 0.5,
        "mix": [0.5, 0.5],
        "gain": [0.6, 0.4],
        "decay": [2e-3, 1e-3],
        "floor": 0.2,
        "base_time": 0.1,
        "time_per_token": 1e-3,
        "min_tokens": [0.0, 300.0],
        "max_tokens": [4000.0, 300.0],
        "accuracy_weight": 10.0,
    }
    return Workload.create(**fields | changes)


def test_equal_bounds_move_with_half_of_each():
    workload = two_types()
    jacobian = jax.jacrev(lambda w: solve(w).tokens)(workload)
    forward = jax.jacfwd(lambda w: solve(w).tokens)(workload)
    for each in (jacobian, forward):
        assert each.min_tokens[1, 1] == each.max_tokens[1, 1] == 0.5
    # Moving both bounds moves the type with them, and the other type as differences say.
    both = jacobian.min_tokens[:, 1] + jacobian.max_tokens[:, 1]
    step = 1e-2
    moved = [
        solve(two_types(min_tokens=[0.0, 300.0 + h], max_tokens=[4000.0, 300.0 + h])).tokens
        for h in (step, -step)
    ]
    np.testing.assert_allclose(both, (moved[0] - moved[1]) / (2 * step), rtol=1e-7)


def test_a_bound_with_zero_gradient_has_the_derivative_of_one_that_holds():
    free = two_types(min_tokens=0.0, max_tokens=4000.0)
    best = solve(free).tokens
    # The free optimum of type 0 becomes its bound: the gradient there is zero.
    for bounds, at in (({"min_tokens": [float(best[0]), 0.0]}, "min_tokens"),
                       ({"max_tokens": [float(best[0]), 4000.0]}, "max_tokens")):  # fmt: skip
        workload = dataclasses.replace(free, **{k: jnp.array(v) for k, v in bounds.items()})
        answer = solve(workload, initial=best)
        assert answer.tokens[0] == best[0]
        jacobian = jax.jacrev(lambda w: solve(w, initial=best).tokens)(workload)
        # It counts as held: it moves with its bound and with nothing else.
        assert getattr(jacobian, at)[0, 0] == 1.0
        assert float(jacobian.accuracy_weight[0]) == 0.0
        step = 1e-4
        sign = 1.0 if at == "min_tokens" else -1.0
        # Differences into the side on which the bound stays active.
        held = dataclasses.replace(workload, accuracy_weight=workload.accuracy_weight - sign * step)
        slope = (solve(held).tokens - answer.tokens) / (-sign * step)
        np.testing.assert_allclose(jacobian.accuracy_weight, slope, rtol=1e-3, atol=1e-6)
        # And into the other, where it comes free: a different derivative.
        other = dataclasses.replace(
            workload, accuracy_weight=workload.accuracy_weight + sign * step
        )
        assert abs(solve(other).tokens[0] - best[0]) / step > 1.0


def test_a_type_that_never_arrives_has_the_derivatives_of_a_rare_one():
    def jacobian(rare):
        workload = two_types(mix=[1.0, rare], min_tokens=0.0, max_tokens=4000.0)
        return jax.jacrev(lambda w: solve(w).tokens)(workload)

    never, rare = jacobian(0.0), jacobian(1e-9)
    for name in FIELDS:
        one, two = getattr(never, name), getattr(rare, name)
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6 * np.max(np.abs(one), initial=0))
    assert never.decay[1, 1] != 0
    assert never.decay[0, 1] == 0  # it weighs nothing


def test_the_warm_start_moves_nothing():
    workload = two_types()
    start = solve(workload).tokens + 1.0
    slope = jax.grad(lambda start: jnp.sum(solve(workload, initial=start).tokens))(start)
    np.testing.assert_array_equal(slope, 0)


def test_derivatives_of_hard_workloads_are_finite_and_adjoint():
    for fields in problems.hard_batches(7, 1_000, (1, 6)):
        workload = Workload.create(**fields)
        answer = solve_batch(workload)
        solved = np.asarray(answer.status) == Status.CONVERGED
        rng = np.random.default_rng(0)
        moved = jax.tree.map(lambda leaf, rng=rng: leaf * rng.uniform(-1, 1, leaf.shape), workload)
        tangent = jax.jvp(solve_batch, (workload,), (moved,))[1]
        slope = jax.grad(lambda w: jnp.sum(solve_batch(w).tokens))(workload)
        for leaf in (tangent.tokens, tangent.objective, *jax.tree.leaves(slope)):
            finite = np.isfinite(np.asarray(leaf)).reshape(len(solved), -1)
            np.testing.assert_array_equal(finite.all(axis=1), solved)


def test_a_hundred_thousand_types():
    lane = problems.lanes(problems.random_workloads(8, 1, 100_000), 0)
    workload = Workload.create(**lane)
    value, slope = jax.jit(jax.value_and_grad(lambda w: solve(w).objective))(workload)
    tokens = solve(workload).tokens
    # The envelope theorem: ∂J*/∂α is the accuracy at the optimum.
    expected = jaxalloc.mean_accuracy(workload, tokens)
    np.testing.assert_allclose(slope.accuracy_weight, expected, rtol=1e-9)
    assert np.isfinite(value)
    weight = jnp.cos(jnp.arange(100_000.0))
    pulled = jax.jit(jax.grad(lambda w: jnp.vdot(solve(w).tokens, weight)))(workload)
    moved = jax.tree.map(lambda leaf: leaf * 0.5, workload)
    pushed = jax.jvp(lambda w: solve(w).tokens, (workload,), (moved,))[1]
    pairs = zip(jax.tree.leaves(pulled), jax.tree.leaves(moved), strict=True)
    terms = [np.asarray(a * b) for a, b in pairs]
    scale = sum(np.abs(term).sum() for term in terms)
    assert abs(sum(term.sum() for term in terms) - jnp.vdot(pushed, weight)) <= 1e-12 * scale


def test_single_precision_derivatives_follow_those_of_double():
    fields = problems.random_workloads(9, 200, 4)
    double = Workload.create(**fields)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), double)
    answer = solve_batch(single)
    assert answer.tokens.dtype == jnp.float32
    slopes = [jax.grad(lambda w: jnp.sum(solve_batch(w).objective))(w) for w in (double, single)]
    rho = np.asarray(jax.vmap(jaxalloc.utilization)(double, solve_batch(double).tokens))
    calm = (rho < 0.9) & (np.asarray(answer.status) == Status.CONVERGED)
    assert calm.mean() > 0.7
    for name in FIELDS:
        one, two = (np.asarray(getattr(slope, name))[calm] for slope in slopes)
        assert two.dtype == np.float32
        scale = np.abs(one).reshape(len(one), -1).max(axis=1).reshape(-1, *[1] * (one.ndim - 1))
        assert np.all(np.abs(one - two) <= 2e-3 * scale + 1e-30), name


def test_fields_that_are_constants_of_a_compiled_loss():
    """In a process of its own: XLA once aborted on large constants."""
    script = """
import dataclasses, jax, jax.numpy as jnp, jaxalloc
many = jaxalloc.Workload.create(
    arrival_rate=jnp.linspace(0.1, 0.5, 1000), mix=[0.5, 0.5], gain=jnp.full((1000, 2), 0.5),
    decay=jnp.full((1000, 2), 1e-3), floor=0.2, base_time=jnp.full((1000, 2), 0.1),
    time_per_token=1e-3, max_tokens=16384.0, accuracy_weight=20.0)
def loss(gain):
    return jaxalloc.solve_batch(dataclasses.replace(many, gain=gain)).objective.sum()
slope = jax.jit(jax.grad(loss))(many.gain)
assert slope.shape == (1000, 2) and bool(jnp.all(slope > 0))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
