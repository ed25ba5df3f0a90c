"""Integer tokens: exact against brute force, never worse than nearest or floor, gaps certified."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane, stack
from problems import hard_workloads, qwen3_8b, random_workloads

from jaxalloc import Status, round_tokens, solve, solve_batch


def rounded(fields, dtype=np.float64):
    """Roundings of a batch as NumPy arrays, with the integer box of its lanes."""
    workloads = as_workload(fields, dtype)
    found = solve_batch(workloads)
    result = jax.jit(jax.vmap(round_tokens))(workloads, found)
    box = {**fields, "min_tokens": np.ceil(fields["min_tokens"])}
    box["max_tokens"] = np.floor(fields["max_tokens"])
    return jax.tree.map(np.asarray, result), box


def neighbours(box, optimum):
    """All floor/ceil neighbours of one lane's continuous optimum, [M, K]."""
    choices = [sorted({np.floor(x), np.ceil(x)}) for x in optimum]
    return np.array(list(itertools.product(*choices)))


def value(fields, tokens):
    """J of one lane at many points, [M]."""
    batch = {
        name: np.broadcast_to(np.asarray(v), (len(tokens), *np.shape(v)))
        for name, v in fields.items()
    }
    return oracles.objective(batch, tokens)


@pytest.mark.parametrize("num_types", [1, 3, 12])
def test_the_best_neighbour_is_exact(num_types):
    n = 4 if num_types == 12 else 40
    fields = random_workloads(81, n, num_types)
    result, box = rounded(fields)
    np.testing.assert_array_equal(result.status, Status.CONVERGED)
    optimum = np.asarray(solve_batch(as_workload(box)).tokens)
    for index in range(n):
        one = lane(box, index)
        # A coordinate within rounding of an integer has no other neighbour.
        snapped = np.where(
            np.abs(optimum[index] - np.round(optimum[index])) < 1e-6,
            np.round(optimum[index]),
            optimum[index],
        )
        values = value(one, neighbours(one, snapped))
        got = value(one, result.best[[index]])[0]
        assert got >= values.max() - 1e-15 * np.abs(values.max())
        assert np.isfinite(values.max())


@pytest.mark.parametrize("num_types", [1, 6, 30])
@pytest.mark.parametrize("draw", [random_workloads, hard_workloads])
def test_what_every_rounding_keeps(num_types, draw):
    fields = draw(82, 60, num_types)
    result, box = rounded(fields)
    found = result.status == Status.CONVERGED
    assert found.mean() > (0.95 if draw is random_workloads else 0.2)
    box = {name: v[found] for name, v in box.items()}
    nearest, floor, best = result.nearest[found], result.floor[found], result.best[found]
    optimum = np.asarray(solve_batch(as_workload(box)).tokens)
    for tokens in (nearest, floor, best):
        np.testing.assert_array_equal(tokens, np.round(tokens))
        assert np.all((box["min_tokens"] <= tokens) & (tokens <= box["max_tokens"]))
        assert np.all(np.abs(tokens - optimum) <= 1 + 1e-6 * np.maximum(1, optimum))
    top, near, low, chosen = (oracles.objective(box, at) for at in (optimum, nearest, floor, best))
    assert np.all(np.isfinite(low))  # floor is stable
    assert np.all(np.isfinite(chosen))  # so is best
    noise = 1e-15 * np.abs(top)
    assert np.all(chosen >= low - noise)
    assert np.all(chosen >= near - noise)
    # The gap is what the oracle says, and its bound holds.
    gap, bound = result.gap[found], result.gap_bound[found]
    scale = np.abs(top).astype(float)
    np.testing.assert_allclose(
        gap, (top - chosen).astype(float), rtol=1e-5, atol=1e-9 * scale.max()
    )
    assert np.all(top - chosen <= bound * (1 + 1e-9) + noise)
    assert np.all(gap <= bound * (1 + 1e-9) + 1e-14 * scale)
    assert np.all(bound >= 0 - 1e-14 * scale)


def test_the_gap_is_small_in_practice():
    result, _ = rounded({name: np.asarray(v)[None] for name, v in qwen3_8b(0.5).items()})
    np.testing.assert_array_equal(result.nearest[0], [946, 1419, 100, 2134, 67])
    assert 0 <= result.gap[0] <= result.gap_bound[0] < 1e-5


def one_type(**changes):
    fields = {
        "arrival_rate": 0.1,
        "mix": [1.0],
        "gain": [0.5],
        "decay": [1e-2],
        "floor": [0.0],
        "base_time": [0.1],
        "time_per_token": [1e-2],
        "min_tokens": [0.0],
        "max_tokens": [1000.0],
        "accuracy_weight": 20.0,
        "service_cv": [0.0],
    }
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
    result = jax.vmap(round_tokens)(workloads, solve_batch(workloads))
    np.testing.assert_array_equal(result.status, [status for _, status in EDGES])
    failed = np.asarray(result.status) != Status.CONVERGED
    for leaf in result[:5]:
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
    # The same among more types than are enumerated.
    many = {name: np.repeat(v, 20) if v.ndim else v for name, v in fields.items()}
    many["mix"] = np.full(20, 0.05)
    result = round_tokens(as_workload(many), solve(as_workload(many)))
    assert result.status == Status.CONVERGED
    best = np.asarray(result.best)
    at = {name: np.asarray(v)[None] for name, v in many.items()}
    assert np.isfinite(oracles.objective(at, best[None])[0])
    assert np.isneginf(oracles.objective(at, np.asarray(result.nearest)[None])[0])
    # Some types take ten: better than floor.
    assert 9 < best.mean() < 10


def test_more_than_twelve_types_beats_chance():
    """The climb ends where no single change helps; all pairs are checked here on top."""
    fields = random_workloads(83, 10, 14)
    result, box = rounded(fields)
    for index in range(10):
        one, best = lane(box, index), result.best[index]
        got = value(one, best[None])[0]
        optimum = np.asarray(solve(as_workload(one)).tokens)
        low, high = np.floor(optimum), np.ceil(optimum)
        flipped = np.where(best == low, high, low)
        singles = np.where(np.eye(14, dtype=bool), flipped, best)
        assert np.all(value(one, singles) <= got + 1e-15 * np.abs(got))


def test_under_jit_vmap_and_alone():
    fields = random_workloads(84, 12)
    workloads = as_workload(fields)
    found = solve_batch(workloads)
    together = jax.vmap(round_tokens)(workloads, found)
    for index in (0, 5, 11):
        alone = round_tokens(lane(workloads, index), lane(found, index))
        jitted = jax.jit(round_tokens)(lane(workloads, index), lane(found, index))
        for got in (alone, jitted):
            np.testing.assert_array_equal(got.best, together.best[index])
            np.testing.assert_array_equal(got.nearest, together.nearest[index])
            assert got.status.dtype == np.int32


def test_in_float32():
    fields = random_workloads(85, 60)
    result, box = rounded(fields, np.float32)
    assert result.best.dtype == result.gap.dtype == result.gap_bound.dtype == np.float32
    found = result.status == Status.CONVERGED
    assert found.mean() > 0.95
    box = {name: v[found] for name, v in box.items()}
    exact, _ = rounded(fields)
    values = [oracles.objective(box, r.best[found]) for r in (exact, result)]
    assert np.all(values[1] >= values[0] - 1e-5 * np.abs(values[0]))
