"""The edges of the domain: unasked types, nothing to gain, no traffic, any scale, any start."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convert import as_workload, lane, stack
from problems import hard_workloads, lanes, random_workloads

from jaxalloc import FixedPoint, Newton, Status, solve, solve_batch

FIELDS = random_workloads(51, 64)


def solved(fields, initial=None, dtype=np.float64):
    """The answer as NumPy arrays, after the oracle has confirmed it."""
    fields = {name: np.asarray(value, dtype) for name, value in fields.items()}
    answer = solve_batch(as_workload(fields, dtype), initial=initial)
    answer = jax.tree.map(np.asarray, answer)
    np.testing.assert_array_equal(answer.status, Status.CONVERGED)
    tolerance = 1e-8 if dtype == np.float64 else 1e-5
    assert oracles.residual(fields, answer.tokens).max() <= tolerance
    return answer


def without(fields, k):
    """The same servers at the same least load, type k never asked."""
    mix = fields["mix"].copy()
    mix[:, k] = 0
    mix /= mix.sum(axis=1, keepdims=True)
    time = fields["base_time"] + fields["time_per_token"] * fields["min_tokens"]
    before, after = (np.sum(share * time, axis=1) for share in (fields["mix"], mix))
    return {**fields, "mix": mix, "arrival_rate": fields["arrival_rate"] * before / after}


def own_optimum(fields, tokens):
    """Each type's tokens at the prices that the queue has at `tokens`."""
    f = oracles.cast(fields)
    _, _, second, idle = oracles.queue(f, np.asarray(tokens, np.longdouble))
    g = f["arrival_rate"] / idle
    return oracles.own_tokens(f, g, 1 + g**2 * second / 2).astype(float)


def test_a_type_nobody_asks_for_solves_its_own_balance():
    fields = without(FIELDS, 2)
    answer = solved(fields)
    expected = own_optimum(fields, answer.tokens)
    np.testing.assert_allclose(answer.tokens[:, 2], expected[:, 2], rtol=1e-7, atol=1e-4)


def test_the_answer_is_continuous_as_a_mix_goes_to_zero():
    limit = solved(without(FIELDS, 2))
    away = []
    for share in (1e-2, 1e-4, 1e-6, 1e-9, 1e-30, 1e-300):
        fields = without(FIELDS, 2)
        fields["mix"] = fields["mix"] * (1 - share)
        fields["mix"][:, 2] = share
        away.append(np.max(np.abs(solved(fields).tokens - limit.tokens)))
    assert away[0] > 1e-2
    assert sorted(away[:4], reverse=True) == away[:4]
    assert max(away[3:]) < 1e-2


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0, None])
def test_a_type_nobody_asks_for_while_all_others_are_held(start):
    fields = without(FIELDS, 0)
    fixed = fields["min_tokens"].copy()
    fields = {**fields, "max_tokens": fields["max_tokens"].copy()}
    fields["max_tokens"][:, 1:] = fixed[:, 1:]
    initial = None
    if start is not None:
        width = fields["max_tokens"] - fields["min_tokens"]
        initial = jnp.asarray(fields["min_tokens"] + start * width)
    answer = solved(fields, initial)
    expected = own_optimum(fields, fixed)
    np.testing.assert_allclose(answer.tokens, expected, rtol=1e-7, atol=1e-5)
    assert answer.steps.max() <= 40


def test_all_the_traffic_on_one_type():
    fields = {**FIELDS, "mix": np.tile(np.eye(6)[3], (64, 1))}
    fields["arrival_rate"] = FIELDS["arrival_rate"] * 0
    time = fields["base_time"] + fields["time_per_token"] * fields["min_tokens"]
    fields["arrival_rate"] = 0.7 / time[:, 3]
    answer = solved(fields)
    single = {k: v if v.ndim == 1 else v[:, [3]] for k, v in fields.items()}
    np.testing.assert_allclose(answer.tokens[:, [3]], solved(single).tokens, rtol=1e-7, atol=1e-6)


def test_nothing_to_gain():
    gain = FIELDS["gain"].copy()
    gain[:, [1, 4]] = 0
    answer = solved({**FIELDS, "gain": gain})
    np.testing.assert_array_equal(answer.tokens[:, [1, 4]], FIELDS["min_tokens"][:, [1, 4]])
    for worthless in ({"gain": 0 * gain}, {"accuracy_weight": np.zeros(64)}):
        answer = solved({**FIELDS, **worthless})
        np.testing.assert_array_equal(answer.tokens, FIELDS["min_tokens"])
        np.testing.assert_array_equal(answer.residual, 0)
        # From anywhere else too.
        middle = (FIELDS["min_tokens"] + FIELDS["max_tokens"]) / 2
        answer = solved({**FIELDS, **worthless}, jnp.asarray(middle))
        np.testing.assert_array_equal(answer.tokens, FIELDS["min_tokens"])


def test_equal_bounds():
    low = FIELDS["min_tokens"].copy()
    high = FIELDS["max_tokens"].copy()
    high[:, ::2] = low[:, ::2]
    answer = solved({**FIELDS, "max_tokens": high})
    np.testing.assert_array_equal(answer.tokens[:, ::2], low[:, ::2])
    answer = solved({**FIELDS, "max_tokens": low})
    np.testing.assert_array_equal(answer.tokens, low)
    np.testing.assert_array_equal(answer.residual, 0)
    np.testing.assert_array_equal(answer.steps, 0)


def test_no_traffic():
    fields = {**FIELDS, "arrival_rate": np.zeros(64)}
    answer = solved(fields)
    reward = fields["accuracy_weight"][:, None] * fields["gain"] * fields["decay"]
    expected = np.log(reward / fields["time_per_token"]) / fields["decay"]
    expected = np.clip(expected, fields["min_tokens"], fields["max_tokens"])
    np.testing.assert_allclose(answer.tokens, expected, rtol=1e-9, atol=1e-6)
    # And it is the limit of little traffic.
    little = solved({**fields, "arrival_rate": np.full(64, 1e-12)})
    np.testing.assert_allclose(little.tokens, answer.tokens, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_type(dtype):
    fields = hard_workloads(52, 200, 1)
    if dtype == np.float64:
        assert solved(fields).tokens.shape == (200, 1)
    fields = random_workloads(53, 200, 1)
    assert solved(fields, dtype=dtype).tokens.shape == (200, 1)


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
    answer = jax.tree.map(np.asarray, solve_batch(as_workload(scaled(FIELDS, seconds))))
    assert np.all(np.isin(answer.status, [status, Status.CONVERGED]))
    said = answer.status == Status.CONVERGED
    assert np.count_nonzero(said) < len(said) / 2
    assert np.all(
        oracles.residual(lanes(scaled(FIELDS, seconds), said), answer.tokens[said]) < 1e-8
    )


class TestInitial:
    """Warm starts."""

    reference = solve_batch(as_workload(FIELDS))

    def check(self, initial):
        answer = solved(FIELDS, jnp.asarray(initial))
        np.testing.assert_allclose(answer.tokens, self.reference.tokens, rtol=1e-8, atol=1e-5)
        return answer

    def test_from_the_optimum(self):
        answer = self.check(self.reference.tokens)
        assert answer.steps.max() <= 1

    def test_from_near_the_optimum(self):
        near = np.asarray(self.reference.tokens) * 1.001
        assert self.check(near).steps.max() <= 4

    @pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
    def test_from_anywhere_in_the_box(self, share):
        low, high = FIELDS["min_tokens"], FIELDS["max_tokens"]
        self.check(low + share * (high - low))  # unstable on most lanes where it is 1

    @pytest.mark.parametrize("outside", [-1e300, -5.0, 1e9, 1e300])
    def test_from_outside_the_box(self, outside):
        self.check(np.full((64, 6), outside))

    @pytest.mark.parametrize("solver", [Newton(), FixedPoint()])
    def test_from_beyond_any_use(self, solver):
        """So many tokens that not even the logarithm of what they bring is told."""
        rate = np.where(np.arange(64) % 2, 0.0, 1e-14)
        fields = {**FIELDS, "arrival_rate": rate, "max_tokens": np.full((64, 6), 1e16)}
        batch = as_workload(fields)
        reference = solve_batch(batch)
        for far in (1e9, 1e12, 1e15):
            answer = solve_batch(batch, solver, jnp.full((64, 6), far))
            np.testing.assert_array_equal(answer.status, Status.CONVERGED)
            np.testing.assert_allclose(answer.tokens, reference.tokens, rtol=1e-7, atol=1e-5)
            assert answer.steps.max() <= 40

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_entries_that_are_not_finite_are_ignored(self, value):
        start = np.array(self.reference.tokens)
        start[:, 1] = value
        self.check(start)
        self.check(np.full((64, 6), value))

    def test_in_another_dtype(self):
        self.check(np.asarray(self.reference.tokens, np.float32))
        self.check(np.zeros((64, 6), np.int32))
        whole = as_workload(FIELDS, np.float32)
        answer = solve_batch(whole, initial=np.asarray(self.reference.tokens, np.float64))
        assert answer.tokens.dtype == np.float32

    def test_of_one_workload(self):
        one = as_workload(lane(FIELDS, 5))
        answer = solve(one, initial=self.reference.tokens[5])
        np.testing.assert_allclose(answer.tokens, self.reference.tokens[5], rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("num_types", [1, 3, 12])
def test_warm_starts_on_the_hard_set(num_types):
    fields = hard_workloads(54, 150, num_types)
    low, high = fields["min_tokens"], fields["max_tokens"]
    start = low + np.random.default_rng(55).random(low.shape) * (high - low)
    solved(fields, jnp.asarray(start))
    solved(fields, jnp.asarray(high))


def test_the_order_of_the_types_does_not_matter():
    order = np.array([3, 0, 5, 1, 4, 2])
    shuffled = {k: v if v.ndim == 1 else v[:, order] for k, v in FIELDS.items()}
    reference, answer = solved(FIELDS), solved(shuffled)
    np.testing.assert_allclose(answer.tokens, reference.tokens[:, order], rtol=1e-8, atol=1e-5)


def test_a_type_split_in_two_is_the_same_type():
    fields = lanes(FIELDS, slice(0, 16))
    split = {k: v if v.ndim == 1 else np.concatenate([v, v[:, :1]], 1) for k, v in fields.items()}
    split["mix"][:, 0] *= 0.25
    split["mix"][:, 6] *= 0.75
    reference, answer = solved(fields), solved(split)
    np.testing.assert_allclose(answer.tokens[:, :6], reference.tokens, rtol=1e-7, atol=1e-5)
    np.testing.assert_allclose(answer.tokens[:, 6], reference.tokens[:, 0], rtol=1e-7, atol=1e-5)


def test_more_reward_never_means_less_thinking_in_all():
    """J's maximum is convex in α, so the mean accuracy that it buys rises with α."""
    fields = lane(FIELDS, 7)
    weights = np.geomspace(1e-3, 1e8, 60)
    answers = solve_batch(
        stack([as_workload({**fields, "accuracy_weight": weight}) for weight in weights])
    )
    np.testing.assert_array_equal(answers.status, Status.CONVERGED)
    value = np.asarray(answers.objective)
    bought = np.diff(value) / np.diff(weights)
    assert np.all(np.diff(bought) >= -1e-9)
