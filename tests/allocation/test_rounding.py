"""Integer tokens: exact against brute force, never worse than nearest or floor, bounded losses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane, stack
from problems import hard_workloads, qwen3_8b, random_workloads

from jaxalloc import Status, objective, round_tokens, rounding_loss, solve, solve_batch

MANY = jax.jit(jax.vmap(round_tokens))
WAYS = ("nearest", "floor", "best")


def rounded(fields, dtype=np.float64):
    """Roundings of a batch as NumPy arrays, with the integer box of its lanes."""
    workloads = as_workload(fields, dtype)
    result = MANY(workloads, solve_batch(workloads))
    box = {**fields, "min_tokens": np.ceil(fields["min_tokens"])}
    box["max_tokens"] = np.floor(fields["max_tokens"])
    return jax.tree.map(np.asarray, result), box


def value(fields, tokens):
    """J of one lane at many points, [M]."""
    batch = {k: np.broadcast_to(v, (len(tokens), *np.shape(v))) for k, v in fields.items()}
    return oracles.objective(batch, tokens)


@pytest.mark.parametrize("num_types", [1, 3, 12, 14])
def test_the_best_neighbour_is_exact(num_types):
    """Among all neighbours up to twelve types; beyond, the climb ends where no change helps."""
    n = 8
    result, box = rounded(random_workloads(81, n, num_types))
    np.testing.assert_array_equal(result.status, Status.CONVERGED)
    optimum = np.asarray(solve_batch(as_workload(box)).tokens)
    # A coordinate within rounding of an integer has no other neighbour.
    near = np.round(optimum)
    optimum = np.where(np.abs(optimum - near) < 1e-6, near, optimum)
    for index in range(n):
        one, best = lane(box, index), result.best[index]
        low, high = np.floor(optimum[index]), np.ceil(optimum[index])
        if num_types <= 12:
            others = itertools.product(*map(sorted, map(set, zip(low, high, strict=True))))
        else:
            others = np.where(np.eye(num_types, dtype=bool), np.where(best == low, high, low), best)
        values, got = value(one, np.array(list(others))), value(one, best[None])[0]
        assert got >= values.max() - 1e-15 * np.abs(values.max())


@pytest.mark.parametrize("num_types", [6, 30])
@pytest.mark.parametrize("draw", [random_workloads, hard_workloads])
def test_what_every_rounding_keeps(num_types, draw):
    result, box = rounded(draw(82, 60, num_types))
    found = result.status == Status.CONVERGED
    assert found.mean() > (0.95 if draw is random_workloads else 0.2)
    optimum = np.asarray(solve_batch(as_workload(box)).tokens)[found]
    result, box = lane(result, found), {name: v[found] for name, v in box.items()}
    for tokens in (result.nearest, result.floor, result.best):
        np.testing.assert_array_equal(tokens, np.round(tokens))
        assert np.all((box["min_tokens"] <= tokens) & (tokens <= box["max_tokens"]))
        assert np.all(np.abs(tokens - optimum) <= 1 + 1e-6 * np.maximum(1, optimum))
    top, near, low, chosen = (
        oracles.objective(box, at) for at in (optimum, result.nearest, result.floor, result.best)
    )
    assert np.all(np.isfinite(low))  # floor is stable
    assert np.all(np.isfinite(chosen))  # so is best
    scale, noise = np.abs(top).astype(float), 1e-15 * np.abs(top)
    assert np.all(chosen >= np.maximum(low, near) - noise)
    # The gap is what the oracle says, and its bound holds.
    gap, bound = result.gap, result.gap_bound
    told = (top - chosen).astype(float)
    np.testing.assert_allclose(gap, told, rtol=1e-5, atol=1e-9 * scale.max())
    assert np.all(top - chosen <= bound * (1 + 1e-9) + noise)
    assert np.all(gap <= bound * (1 + 1e-9) + 1e-14 * scale)
    assert np.all(bound >= -1e-14 * scale)


def test_the_gap_is_small_in_practice():
    result, _ = rounded({name: np.asarray(v)[None] for name, v in qwen3_8b(0.5).items()})
    np.testing.assert_array_equal(result.nearest[0], [946, 1419, 100, 2134, 67])
    assert 0 <= result.gap[0] <= result.gap_bound[0] < 1e-5


def one_type(**changes):
    fields = {
        "arrival_rate": 0.1, "mix": [1.0], "gain": [0.5], "decay": [1e-2], "floor": [0.0],
        "base_time": [0.1], "time_per_token": [1e-2], "min_tokens": [0.0], "max_tokens": [1000.0],
        "accuracy_weight": 20.0, "service_cv": [0.0],
    }  # fmt: skip
    return {name: np.asarray(v, np.float64) for name, v in {**fields, **changes}.items()}


EDGES = [
    (one_type(min_tokens=[3.2], max_tokens=[3.8]), Status.INVALID),  # no integer between
    (one_type(min_tokens=[3.0], max_tokens=[3.0]), Status.CONVERGED),
    (one_type(min_tokens=[2.1], max_tokens=[3.9]), Status.CONVERGED),  # only 3
    # ρ = 0.1 (0.1 + 0.01 l): stable at 989.5, not at 990.
    (one_type(min_tokens=[989.5]), Status.INFEASIBLE),
    (one_type(gain=[np.nan]), Status.NON_FINITE),
    (one_type(decay=[-1.0]), Status.INVALID),
    (one_type(arrival_rate=100.0), Status.INFEASIBLE),
    (one_type(gain=[0.0], min_tokens=[0.5]), Status.CONVERGED),
]


def test_the_integer_box_and_its_statuses():
    workloads = stack([as_workload(fields) for fields, _ in EDGES])
    result = MANY(workloads, solve_batch(workloads))
    lost = jax.jit(jax.vmap(rounding_loss))(workloads)
    for status in (result.status, lost.status):
        np.testing.assert_array_equal(status, [status for _, status in EDGES])
        assert status.dtype == np.int32
    failed = np.asarray(result.status) != Status.CONVERGED
    for leaf in (*result[:5], lost.objective, lost.best.loss):
        np.testing.assert_array_equal(np.isnan(leaf).reshape(len(EDGES), -1).all(axis=1), failed)
    np.testing.assert_array_equal(result.best[[1, 2, 7], 0], [3, 3, 1])
    np.testing.assert_array_equal(result.gap[jnp.array([1, 2, 7])], 0)


def test_nearest_may_be_unstable_and_best_never_is():
    """An optimum within half a token of saturation: rounding up would cross it."""
    # ρ = 0.1 (0.1 + l): 1 at l = 9.9; a huge α pushes l* above 9.5.
    fields = one_type(time_per_token=[1.0], decay=[1e-1], accuracy_weight=1e6)
    workload = as_workload(fields)
    answer = solve(workload)
    assert 9.5 < float(answer.tokens[0]) < 9.9
    result = round_tokens(workload, answer)
    assert result.status == Status.CONVERGED
    assert float(result.nearest[0]) == 10
    assert float(result.floor[0]) == float(result.best[0]) == 9
    assert np.isfinite(result.gap)
    assert float(result.gap) <= float(result.gap_bound)
    assert np.isposinf(rounding_loss(workload).nearest.loss)
    # The same among more types than are enumerated.
    many = {name: np.repeat(v, 20) if v.ndim else v for name, v in fields.items()}
    many["mix"] = np.full(20, 0.05)
    result = round_tokens(as_workload(many), solve(as_workload(many)))
    assert result.status == Status.CONVERGED
    best, nearest = (value(many, np.asarray(at)[None])[0] for at in (result.best, result.nearest))
    assert np.isfinite(best)
    assert np.isneginf(nearest)
    assert 9 < float(result.best.mean()) < 10  # some types take ten: better than floor


def test_alone_and_in_a_batch():
    workloads = as_workload(random_workloads(82, 60, 6))
    found = solve_batch(workloads)
    together = MANY(workloads, found)
    for index in (0, 59):
        alone = round_tokens(lane(workloads, index), lane(found, index))
        np.testing.assert_array_equal(alone.best, together.best[index])
        np.testing.assert_array_equal(alone.nearest, together.nearest[index])


def test_in_float32():
    fields = random_workloads(82, 60, 6)
    (result, box), (exact, _) = rounded(fields, np.float32), rounded(fields)
    assert result.best.dtype == result.gap.dtype == result.gap_bound.dtype == np.float32
    found = result.status == Status.CONVERGED
    assert found.mean() > 0.95
    box = {name: v[found] for name, v in box.items()}
    ours, best = (oracles.objective(box, r.best[found]) for r in (result, exact))
    assert np.all(ours >= best - 1e-5 * np.abs(best))


def test_losses_are_differences_of_the_objective_and_below_their_bounds():
    many = as_workload(random_workloads(82, 60, 6))
    lost, rounding = jax.jit(jax.vmap(rounding_loss))(many), MANY(many, solve_batch(many))
    found = np.asarray(lost.status) == Status.CONVERGED
    assert found.sum() >= 55
    scale = 1e-12 * np.asarray(many.accuracy_weight)
    for way in WAYS:
        loss = getattr(lost, way)
        np.testing.assert_array_equal(loss.tokens[found], getattr(rounding, way)[found])
        plain = lost.objective - jax.vmap(objective)(many, loss.tokens)
        stable = found & np.isfinite(loss.loss)
        off = np.abs(loss.loss - plain)
        assert np.all(off[stable] <= (scale + 1e-6 * np.abs(loss.loss))[stable])
        assert np.all(lost.best.loss[found] <= loss.loss[found])
        assert np.all(loss.loss[found] <= loss.bound[found])
        assert np.all(np.isnan(loss.simulated))


def test_losses_on_sample_paths():
    # Few, dear tokens: a token more or less is seen.
    coarse = one_type(
        arrival_rate=0.4, gain=[0.5], decay=[0.3], time_per_token=[0.2], max_tokens=[50.0],
        accuracy_weight=10.0,
    )  # fmt: skip
    lost = rounding_loss(as_workload(coarse), jax.random.key(0), 200_000)
    for way in WAYS:
        loss = getattr(lost, way)
        assert loss.low - 1e-12 <= loss.loss <= loss.high + 1e-12
        assert loss.low <= loss.simulated <= loss.high
    assert lost.floor.high - lost.floor.low < 0.02  # either path alone leaves ten times as much
