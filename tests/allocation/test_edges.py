"""The edges of the domain: unasked types, nothing to gain, no traffic, any scale, any start."""

import itertools

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import LANES, as_workload, lane, side_by_side, solve_all, solved
from problems import hard_workloads, lanes, priced, random_workloads

from jaxalloc import FixedPoint, Newton, Status, solve

FIELDS = priced(random_workloads(32, LANES))
FREE = {name: value for name, value in FIELDS.items() if name != "token_price"}


def own_optimum(fields, tokens):
    """Each type's tokens at the prices that the queue has at `tokens`."""
    f = oracles.cast(fields)
    _, _, second, idle = oracles.queue(f, np.asarray(tokens, np.longdouble))
    g = f["arrival_rate"] / idle
    return oracles.own_tokens(f, g, 1 + g**2 * second / 2).astype(float)


def without(k):
    """The same servers at the same least load, type k never asked."""
    mix = FREE["mix"].copy()
    mix[:, k] = 0
    mix /= mix.sum(axis=1, keepdims=True)
    time = FREE["base_time"] + FREE["time_per_token"] * FREE["min_tokens"]
    before, after = (np.sum(share * time, axis=1) for share in (FREE["mix"], mix))
    return {**FREE, "mix": mix, "arrival_rate": FREE["arrival_rate"] * before / after}


def test_a_type_nobody_asks_for_solves_its_own_balance_and_is_the_limit_of_a_rare_one():
    fields = without(2)
    limit = solved(fields).tokens
    expected = own_optimum(fields, limit)[:, 2]
    np.testing.assert_allclose(limit[:, 2], expected, rtol=1e-7, atol=1e-4)
    away = []
    for share in (1e-2, 1e-4, 1e-6, 1e-9, 1e-300):
        rare = {**fields, "mix": fields["mix"] * (1 - share)}
        rare["mix"][:, 2] = share
        away.append(np.max(np.abs(solved(rare).tokens - limit)))
    assert away[0] > 1e-2
    assert sorted(away[:4], reverse=True) == away[:4]
    assert max(away[3:]) < 1e-2
    # It does so too while all others are held.
    held = {**fields, "max_tokens": fields["min_tokens"].copy()}
    held["max_tokens"][:, 2] = fields["max_tokens"][:, 2]
    for start in (held["min_tokens"], held["max_tokens"]):
        answer = solved(held, initial=jnp.asarray(start))
        expected = own_optimum(held, held["min_tokens"])
        np.testing.assert_allclose(answer.tokens, expected, rtol=1e-7, atol=1e-5)
        assert answer.steps.max() <= 40


def test_all_the_traffic_on_one_type():
    time = FREE["base_time"] + FREE["time_per_token"] * FREE["min_tokens"]
    fields = {**FREE, "mix": np.tile(np.eye(6)[3], (LANES, 1)), "arrival_rate": 0.7 / time[:, 3]}
    single = {k: v if v.ndim == 1 else v[:, [3]] for k, v in fields.items()}
    one, all_six = solved(single).tokens, solved(fields).tokens
    np.testing.assert_allclose(all_six[:, [3]], one, rtol=1e-7, atol=1e-6)


def test_nothing_to_gain_nothing_to_decide_and_no_traffic():
    low, middle = FIELDS["min_tokens"], (FIELDS["min_tokens"] + FIELDS["max_tokens"]) / 2
    gain = FIELDS["gain"] * [1, 0, 1, 1, 0, 1]
    np.testing.assert_array_equal(
        solved({**FIELDS, "gain": gain}).tokens[:, [1, 4]], low[:, [1, 4]]
    )
    for changes in ({"gain": 0 * gain}, {"accuracy_weight": np.zeros(LANES)}, {"max_tokens": low}):
        for initial in (None, jnp.asarray(middle)):
            answer = solved({**FIELDS, **changes}, initial=initial)
            np.testing.assert_array_equal(answer.tokens, low)
            np.testing.assert_array_equal(answer.residual, 0)
    idle = {**FIELDS, "arrival_rate": np.zeros(LANES)}
    reward = idle["accuracy_weight"][:, None] * idle["gain"] * idle["decay"]
    cost = idle["time_per_token"] + idle["token_price"][:, None]
    expected = np.clip(np.log(reward / cost) / idle["decay"], low, idle["max_tokens"])
    np.testing.assert_allclose(solved(idle).tokens, expected, rtol=1e-9, atol=1e-6)
    little = solved({**idle, "arrival_rate": np.full(LANES, 1e-12)})  # the limit
    np.testing.assert_allclose(little.tokens, expected, rtol=1e-6, atol=1e-3)


def scaled(fields, seconds=1.0, tokens=1.0):
    """The same servers in other units."""
    powers = {
        "arrival_rate": 1 / seconds,
        "decay": 1 / tokens,
        "base_time": seconds,
        "time_per_token": seconds / tokens,
        "min_tokens": tokens,
        "max_tokens": tokens,
        "accuracy_weight": seconds,
        "token_price": seconds / tokens,
    }
    return {name: value * powers.get(name, 1.0) for name, value in fields.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_do_not_matter(dtype):
    """Powers of two change no digit, so not one bit of the answer may change."""
    most = 2.0 ** (60 if dtype == np.float64 else 20)
    reference = solved(FIELDS, dtype=dtype)
    for seconds, tokens in itertools.product((1 / most, 1.0, most), repeat=2):
        answer = solved(scaled(FIELDS, seconds, tokens), dtype=dtype)
        np.testing.assert_array_equal(answer.tokens / dtype(tokens), reference.tokens)
        np.testing.assert_array_equal(answer.objective / dtype(seconds), reference.objective)
        np.testing.assert_array_equal(answer.residual, reference.residual)
        np.testing.assert_array_equal(answer.steps, reference.steps)


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        (1e-290, Status.INVALID),  # λ above what the domain allows
        (1e153, Status.MAX_STEPS),  # squares of the longer times overflow
        (1e160, Status.INVALID),  # so do those of the shortest
    ],
)
def test_units_that_a_dtype_cannot_hold(seconds, status):
    fields = scaled(FREE, seconds)
    answer = solve_all(fields)
    assert np.all(np.isin(answer.status, [status, Status.CONVERGED]))
    said = answer.status == Status.CONVERGED
    assert said.mean() < 1 / 2
    assert np.all(oracles.residual(lanes(fields, said), answer.tokens[said]) < 1e-8)


def test_warm_starts_end_where_cold_ones_do():
    reference = solve_all(FIELDS)
    low, width = FIELDS["min_tokens"], FIELDS["max_tokens"] - FIELDS["min_tokens"]
    starts = {  # and the most steps from there
        "the optimum": (reference.tokens, 1),
        "near it": (reference.tokens * 1.001, 5),
        **{f"{share} of the box": (low + share * width, 40) for share in (0.0, 0.1, 1.0)},
        **{f"{x} tokens": (np.full_like(low, x), 40) for x in (-1e300, -5.0, 1e9, 1e300)},
        **{f"{x}": (np.where(np.arange(6) == 1, x, reference.tokens), 40)
           for x in (np.nan, np.inf, -np.inf)},
        "nothing finite": (np.full_like(low, np.nan), 40),
        "float32": (reference.tokens.astype(np.float32), 40),
        "integers": (np.zeros(low.shape, np.int32), 40),
        "one for all lanes": (np.zeros(6), 40),
    }  # fmt: skip
    for name, (start, most) in starts.items():
        answer = solved(FIELDS, initial=start)
        np.testing.assert_allclose(
            answer.tokens, reference.tokens, rtol=1e-8, atol=1e-5, err_msg=name
        )
        assert answer.steps.max() <= most, name
    alone = solve(as_workload(lane(FIELDS, 5)), initial=reference.tokens[5])
    np.testing.assert_allclose(alone.tokens, reference.tokens[5], rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("solver", [Newton(), FixedPoint()])
def test_warm_starts_from_beyond_any_use(solver):
    """So many tokens that not even the logarithm of what they bring is told."""
    rate = np.where(np.arange(LANES) % 2, 0.0, 1e-14)
    fields = {**FREE, "arrival_rate": rate, "max_tokens": np.full((LANES, 6), 1e16)}
    reference = solve_all(fields)
    for far in (1e9, 1e15):
        answer = solve_all(fields, solver, jnp.full((LANES, 6), far))
        np.testing.assert_array_equal(answer.status, Status.CONVERGED)
        np.testing.assert_allclose(answer.tokens, reference.tokens, rtol=1e-7, atol=1e-5)
        assert answer.steps.max() <= 40


def test_warm_starts_on_the_hard_set():
    fields = hard_workloads(54, LANES, 6)
    low, high = fields["min_tokens"], fields["max_tokens"]
    for share in (np.random.default_rng(55).random(low.shape), 1.0):
        solved(fields, initial=jnp.asarray(low + share * (high - low)))


def test_neither_the_order_of_the_types_nor_a_type_split_in_two_matters():
    order = np.array([3, 0, 5, 1, 4, 2])
    reference = solved(FIELDS).tokens
    shuffled = {k: v if v.ndim == 1 else v[:, order] for k, v in FIELDS.items()}
    np.testing.assert_allclose(solved(shuffled).tokens, reference[:, order], rtol=1e-8, atol=1e-5)
    twins = {k: v if v.ndim == 1 else v[:, [0, 1, 2, 3, 4, 0]] for k, v in FIELDS.items()}
    shares = twins["mix"] / twins["mix"].sum(axis=1, keepdims=True)
    both, one = ({**twins, "mix": shares.copy()} for _ in range(2))
    one["mix"][:, 0], one["mix"][:, 5] = 2 * shares[:, 0], 0
    both, one = ({**x, "arrival_rate": x["arrival_rate"] / 10} for x in (both, one))
    np.testing.assert_allclose(solved(both).tokens, solved(one).tokens, rtol=1e-7, atol=1e-5)


def test_accuracy_that_is_worth_more_is_bought_and_dear_tokens_are_saved():
    """J's maximum is convex in α and μ: accuracy rises with the one, tokens fall with the other."""
    one = lane(FIELDS, 7)
    sets = {"accuracy_weight": (1e-3, 1e8), "token_price": (1e-9, 1e2)}
    for name, ends in sets.items():
        values = np.geomspace(*ends, LANES)
        best = solved(side_by_side([{**one, name: np.asarray(value)} for value in values]))
        bought = np.diff(best.objective) / np.diff(values)
        assert np.all(np.diff(bought) >= -1e-6 * np.abs(bought).max())


def test_no_price_is_a_price_of_zero():
    before, after = solve_all(FREE), solve_all(FIELDS)
    free = FIELDS["token_price"] == 0
    for without_price, given in zip(before, after, strict=True):
        np.testing.assert_array_equal(given[free], without_price[free])
    spent = [np.sum(FIELDS["mix"] * answer.tokens, axis=1) for answer in (before, after)]
    assert np.all(spent[1] <= spent[0] * (1 + 1e-9))
    assert np.sum(spent[1] < 0.9 * spent[0]) > 10
