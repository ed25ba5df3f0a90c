"""`simulate` and `simulate_batch`: statuses, metrics, transformations, time in seconds."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc import (
    BatchTime,
    Requests,
    ScheduleStatus,
    policies,
    simulate,
    simulate_batch,
)
from jaxalloc.scheduling import loop, simulation
from tests.scheduling.instances import MODEL

BOTH_KINDS = pytest.mark.parametrize(
    "policy", [policies.AMin(), policies.AlphaBetaClearing(0.3, 0.5)], ids=lambda x: x.name
)


def batch(num_instances=4, num_requests=12, seed=0, **changes):
    rng = np.random.default_rng(seed)
    shape = (num_instances, num_requests)
    output = rng.integers(1, 20, shape)
    fields = {
        "prompt": rng.integers(1, 8, shape),
        "output": output,
        "lower": output // 2,
        "upper": output + 5,
        "predicted": np.maximum(output + rng.integers(-3, 4, shape), 1),
        "arrival": rng.integers(0, 15, shape),
    }
    return Requests.create(**(fields | changes))


def lane(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


@BOTH_KINDS
def test_one_lane_of_every_status_alone_in_a_batch_of_any_rank_and_under_vmap(policy):
    requests = batch(6)
    # Too large for the cache, too few rounds, all padding, and all well.
    output = requests.output.at[0, 3].set(300).at[2].set(0)
    requests = Requests(**vars(requests) | {"output": output})
    key = jax.random.split(jax.random.key(1), 6)
    rounds = jnp.array([2_000, 3, 2_000, 2_000, 2_000, 2_000])
    given = requests, key, rounds
    cube = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), given)

    def play(run, requests, key, rounds):
        return run(requests, 40, policy, key=key, max_rounds=rounds)

    one, many = functools.partial(play, simulate), functools.partial(play, simulate_batch)
    together = many(*cube)
    chex.assert_trees_all_equal(together, jax.jit(many)(*cube))
    chex.assert_trees_all_equal(together, jax.vmap(jax.vmap(one))(*cube))
    together = jax.tree.map(lambda x: x.reshape(6, *x.shape[2:]), together)
    for i in range(6):
        chex.assert_trees_all_equal(lane(together, i), one(*lane(given, i)))
    statuses = ["INVALID", "MAX_ROUNDS", "FINISHED", "FINISHED", "FINISHED", "FINISHED"]
    assert [ScheduleStatus(int(s)).name for s in together.status] == statuses
    assert together.total_latency[0] == together.total_latency[1] == np.inf
    assert together.total_latency[2] == 0
    assert (together.start[0] == -1).all()


@pytest.mark.parametrize("policy", [policies.AMin(), policies.VLLMFirstCome()], ids=str)
def test_padding_changes_nothing(policy):
    requests = batch(6)
    fields = {name: x for name, x in vars(requests).items() if x is not None}
    longer = Requests.create(
        **{name: np.pad(np.asarray(x), ((0, 0), (3, 20))) for name, x in fields.items()}
    )
    short, long = simulate_batch(requests, 40, policy), simulate_batch(longer, 40, policy)
    assert (long.finish[:, 3:15] == short.finish).all()
    assert (long.evictions[:, 3:15] == short.evictions).all()
    for name in ("total_latency", "mean_latency", "rounds", "peak_occupancy", "status"):
        assert (getattr(long, name) == getattr(short, name)).all()
    for percent in (50, 95, 99):
        wanted = np.percentile(short.latency, percent, axis=1)
        np.testing.assert_allclose(long.latency_percentile(percent), wanted)


def test_one_trace_a_shape_and_policy():
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(lambda r, m: simulate(r, m, policies.AMin()), 1))
    requests = batch(2)
    for capacity in (40, 50):
        for i in range(2):
            counted(lane(requests, i), capacity)
    before = simulation._many._cache_size()
    simulate(lane(requests, 0), 40, policies.AMin(aging=7))
    simulate(lane(requests, 1), 44, policies.AMin(aging=7), max_rounds=None)
    assert simulation._many._cache_size() == before + 1


def test_constants_of_a_traced_function():
    requests = lane(batch(), 0)
    wanted = simulate(requests, 40, policies.AMin())
    found = jax.jit(lambda: simulate(requests, 40, policies.AMin()))()
    chex.assert_trees_all_equal(found, wanted)


def test_too_few_slots():
    requests = Requests.create(prompt=1, output=[3, 3, 3, 0])
    tight = simulate(requests, 100, policies.AMin(), slots=2)
    assert int(tight.status) == ScheduleStatus.SLOTS_EXCEEDED
    assert np.isinf(tight.total_latency)
    enough = simulate(requests, 100, policies.AMin(), slots=3)
    assert int(enough.status) == ScheduleStatus.FINISHED
    assert enough.finish.tolist() == [3, 3, 3, -1]


def test_metrics_by_hand():
    # I1 of the instances by hand: evicted at 1 and 2 after one token each, prompt of 1.
    requests = Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4, arrival=0)
    schedule = simulate(requests, 8, policies.AMin(), record=True)
    assert schedule.start.tolist() == [3, 0, 0]
    assert schedule.first_start.tolist() == [0, 0, 0]
    assert schedule.time_to_first_token.tolist() == [1, 1, 1]
    assert schedule.recomputed.tolist() == [2, 0, 0]
    assert schedule.wasted.tolist() == [4, 0, 0]
    assert (int(schedule.total_evictions), int(schedule.total_wasted)) == (2, 4)
    assert schedule.occupancy.tolist() == [6, 8, 8, 7, 3]
    assert int(schedule.peak_occupancy) == 8
    assert float(schedule.mean_occupancy) == pytest.approx(32 / 5)
    assert (int(schedule.rounds), float(schedule.makespan)) == (5, 5)
    assert float(schedule.mean_latency) == 4
    assert float(schedule.mean_time_to_first_token) == 1
    assert float(schedule.time_to_first_token_percentile(99)) == 1
    assert schedule.evictions.dtype == schedule.status.dtype == jnp.int32


def test_idle_time_in_rounds_and_in_seconds():
    requests = Requests.create(prompt=2, output=[2, 1], arrival=[3, 100])
    in_rounds = simulate(requests, 10, policies.HindsightShortestFirst(), record=True)
    assert in_rounds.finish.tolist() == [5, 101]
    assert int(in_rounds.rounds) == in_rounds.occupancy.shape[0] == 101
    model = BatchTime(base=2.0, per_request=1.0, per_token=0.5, per_prefill=0.25)
    in_seconds = simulate(requests, 10, policies.HindsightShortestFirst(), batch_time=model)
    # 2 + 1 + 3/2 + 2/4 = 5 s for the first token, 2 + 1 + 4/2 = 5 s for the second.
    assert in_seconds.finish_seconds.tolist() == [13, 105]
    assert in_seconds.latency.tolist() == [10, 5]
    assert in_seconds.time_to_first_token.tolist() == [5, 5]
    assert in_seconds.start.tolist() == [0, 2]
    assert int(in_seconds.rounds) == 3


def test_a_float32_clock_does_not_drift():
    # 70,000 rounds of 45.0378 ms: a plain sum in float32 is off by tens of milliseconds.
    model = BatchTime(base=jnp.float32(0.0450378))
    arrival = np.zeros(1, np.float32)
    requests = Requests.create(prompt=1, output=[70_000], arrival=arrival)
    schedule = simulate(requests, 80_000, policies.VLLMFirstCome(), batch_time=model)
    assert schedule.makespan.dtype == jnp.float32
    exact = 70_000 * float(np.float32(0.0450378))
    assert abs(float(schedule.makespan) - exact) <= np.spacing(np.float32(exact))


def test_keys_that_would_overflow_are_invalid():
    wide = {"prompt": 1, "output": [5, 6, 7], "lower": [1, 2, 2**30]}
    requests = Requests.create(**wide)
    assert int(simulate(requests, 50, policies.AMin()).status) == ScheduleStatus.INVALID
    with pytest.raises(ValueError, match=r"lower\[2\] = 1073741824 is too large"):
        requests.check(50, policies.AMin())
    # A_max orders by ranks: an endless upper bound is no harm.
    endless = Requests.create(prompt=1, output=[5, 6, 7], upper=2**31 - 1)
    assert int(simulate(endless, 50, policies.AMax()).status) == ScheduleStatus.FINISHED


@pytest.mark.parametrize(
    ("changes", "policy", "message"),
    [
        ({"output": [2, 9]}, policies.AMin(), r"output\[1\] = 9 does not fit"),
        ({"upper": [2, 1]}, policies.AMax(), r"upper\[1\] = 1 does not suit AMax"),
        ({"lower": 9}, policies.AMax(), r"upper\[0\] = 4 does not suit AMax"),
        ({"arrival": [0.5, 1.0]}, policies.MCSF(), r"arrival\[0\] = 0.5 must be a whole round"),
    ],
)
def test_invalid_instances(changes, policy, message):
    requests = Requests.create(**{"prompt": 2, "output": [2, 4], "upper": 4} | changes)
    schedule = simulate(requests, 10, policy)
    assert int(schedule.status) == ScheduleStatus.INVALID
    assert schedule.finish.tolist() == [-1, -1]
    assert int(schedule.rounds) == 0
    with pytest.raises(ValueError, match=message):
        requests.check(10, policy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": [2, -1]}, r"output\[1\] = -1 must not be negative"),
        ({"lower": 1.5}, r"lower = 1.5 must be a whole number of tokens: round it"),
        ({"arrival": [0.0, np.nan]}, r"arrival\[1\] = nan must be finite"),
        ({"prompt": [1, 2, 3]}, r"fields do not broadcast to one \[\*B, N\]: prompt \(3,\)"),
        ({"prompt": "many"}, r"prompt = 'many' is not a number"),
    ],
)
def test_create_says_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        Requests.create(**{"prompt": 1, "output": [2, 4]} | changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: policies.AMin(tie="none"), "tie = 'none' must be 'oldest' or 'newest'"),
        (lambda: policies.AMin(aging=-1), "aging = -1 must be a whole number"),
        (lambda: policies.VLLMFirstCome(max_batch=0), "max_batch = 0 must be at least 1"),
        (lambda: policies.AlphaProtection(1.0), r"alpha = 1.0 must be in \[0, 1\)"),
        (lambda: policies.AlphaBetaClearing(0.1, 0.0), r"beta = 0.0 must be in \(0, 1\]"),
    ],
)
def test_policies_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_clearing_depends_on_the_key_alone():
    requests = lane(batch(num_requests=30), 0)
    policy = policies.AlphaBetaClearing(0.1, 0.3)
    one = simulate(requests, 30, policy, key=jax.random.key(1))
    same = simulate(requests, 30, policy, key=jax.random.key(1), slots=20)
    other = simulate(requests, 30, policy, key=jax.random.key(2))
    assert (one.finish == same.finish).all()
    assert not (one.finish == other.finish).all()


def test_recording_under_tracing_needs_a_length():
    requests = lane(batch(), 0)
    with pytest.raises(ValueError, match="record = True under tracing"):
        jax.jit(lambda r: simulate(r, 40, policies.AMin(), record=True))(requests)
    found = jax.jit(lambda r: simulate(r, 40, policies.AMin(), record=64))(requests)
    eager = simulate(requests, 40, policies.AMin(), record=True)
    assert found.occupancy.shape == (64,)
    assert (found.occupancy[: eager.rounds] == eager.occupancy).all()
    assert (found.occupancy[eager.rounds :] == 0).all()


@BOTH_KINDS
def test_lanes_side_by_side_as_on_an_accelerator(policy, monkeypatch):
    requests = batch(5)
    key = jax.random.split(jax.random.key(2), 5)

    def run(requests, key):
        words = jax.random.key_data(key) if policy.draws else None
        options = {"policy": policy, "slots": None, "record": 16}
        return loop.schedule_of(requests, np.int32(40), words, MODEL, np.int32(500), **options)

    wanted = jax.jit(jax.vmap(run))(requests, key)
    monkeypatch.setattr(loop, "dispatch", lambda run, inputs: run(inputs))
    chex.assert_trees_all_equal(jax.jit(jax.vmap(run))(requests, key), wanted)
