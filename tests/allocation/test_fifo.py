"""Sample paths: against a plain loop, closed forms, and their own intervals."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxalloc import (
    Workload,
    arrivals,
    mean_accuracy,
    mean_system_time,
    mean_wait,
    simulate_fifo,
    utilization,
)
from jaxalloc.allocation.queue import paths
from jaxalloc.allocation.queue.draws import gamma, make_cells, read_cells, two_words
from jaxalloc.allocation.queue.estimates import measure, student_quantile

TOKENS = jnp.array([100.0, 400.0])
KEY, POISSON = jax.random.key(0), arrivals.Poisson()


def server(rate=0.8, service_cv=0.0, dtype=np.float64):
    return Workload.create(
        arrival_rate=dtype(rate),
        mix=[0.7, 0.3],
        gain=[0.5, 0.8],
        decay=[1e-2, 2e-3],
        floor=[0.2, 0.0],
        base_time=[0.1, 0.2],
        time_per_token=[2e-3, 4e-3],
        max_tokens=1e4,
        accuracy_weight=1.0,
        service_cv=service_cv,
    )


@functools.lru_cache
def path(rate=0.8, service_cv=0.0, seed=0, law=POISSON):
    """All of one length, so that few programs are compiled."""
    workload = server(rate, service_cv)
    return simulate_fifo(jax.random.key(seed), workload, TOKENS, 200_000, arrivals=law)


def inside(result, name, value):
    return np.all((getattr(result.low, name) <= value) & (value <= getattr(result.high, name)))


@pytest.mark.parametrize(
    ("rate", "service_cv"), [(0.1, 0.0), (0.8, 0.0), (1.1, 0.0), (0.8, 1.0), (0.8, 2.5)]
)
def test_pollaczek_khinchine(rate, service_cv):
    workload, result = server(rate, service_cv), path(rate, service_cv)
    assert inside(result, "mean_system_time", mean_system_time(workload, TOKENS))
    assert inside(result, "mean_wait", mean_wait(workload, TOKENS))
    assert inside(result, "type_mean_wait", mean_wait(workload, TOKENS))  # arrivals see averages
    assert inside(result, "fraction_correct", mean_accuracy(workload, TOKENS))
    assert inside(result, "utilization", utilization(workload, TOKENS))
    assert float(result.relaxations) > 20


def test_against_a_plain_loop():
    shape = paths.Shape(lanes=64, groups=32, queries=150, bits=9, random_service=False)
    workload, chunk = server(), paths.CHUNK
    scenario = paths.Scenario(
        arrivals=POISSON,
        mean_gap=jnp.array(1 / 0.8),
        cells=make_cells(workload.mix, jnp.array([0.5, 0.9])),
        time=jnp.array([0.3, 1.8]),
        variability=jnp.zeros(2),
        scale=jnp.array(0.75),
        warm_up=jnp.int32(70),  # two chunks
    )
    totals = jax.jit(paths.run_block, static_argnames="shape")(scenario, KEY, shape)
    draw = jax.jit(lambda number: paths._draw(scenario, KEY, number, shape))
    chunks = [jax.tree.map(np.asarray, draw(jnp.int32(c))) for c in range(-2, 3)]
    wait, sums, waits, gaps = np.zeros(64), np.zeros((32, 2, 3)), [], np.zeros(32)
    for n in range(5 * chunk):
        gap, kind, service, right = (x[n % chunk] for x in chunks[n // chunk])
        if 2 * chunk <= n < 2 * chunk + 150:
            waits.append(wait)
            np.add.at(sums, (np.arange(64) // 2, kind), np.stack([wait, service, right], axis=-1))
            gaps += gap.reshape(32, 2).sum(axis=1)
        wait = np.maximum(wait + service - gap, 0)
    np.testing.assert_allclose(totals.sums, sums, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(totals.gaps, gaps, rtol=1e-12)
    numbers = paths.bin_of(jnp.array(waits) / 0.75, 9).ravel()
    counts = np.bincount(numbers, minlength=paths.num_bins(9))
    np.testing.assert_array_equal(totals.waits.sum(axis=0), counts)
    assert totals.system_times.sum() == 64 * 150


def test_the_two_forms_of_the_recursion_agree():
    rng = np.random.default_rng(0)
    wait, change = jnp.array(rng.exponential(1, 8)), jnp.array(rng.normal(-0.1, 1, (64, 8)))
    for one, two in zip(
        *(walk(wait, change) for walk in (paths._recursion, paths._prefix)), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-13)


def test_common_random_numbers():
    few = simulate_fifo(KEY, server(), TOKENS / 4, 200_000)
    assert few.warm_up < path().warm_up  # and yet what counts meets the same arrivals
    np.testing.assert_array_equal(few.num_of_type, path().num_of_type)
    difference = np.asarray(path().group_means - few.group_means)
    paired, alone = difference.std(axis=0), np.asarray(path().group_means).std(axis=0)
    assert np.all(paired < 1.2 * alone)
    slightly = simulate_fifo(KEY, server(), TOKENS + 0.5, 200_000)
    difference = np.asarray(path().group_means - slightly.group_means)
    assert np.all(difference.std(axis=0) < 0.1 * alone)


def test_float32_walks_the_same_path():
    single = simulate_fifo(KEY, server(dtype=np.float32), TOKENS.astype(np.float32), 200_000)
    assert single.mean_system_time.dtype == np.float32
    for name in ("mean_system_time", "mean_wait", "fraction_correct", "utilization"):
        one, two = getattr(single.estimate, name), getattr(path().estimate, name)
        np.testing.assert_allclose(one, two, rtol=2e-5)


def test_under_jit_and_vmap():
    rates = jnp.array([0.8, 1.1])
    many = dataclasses.replace(
        jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), server()), arrival_rate=rates
    )
    run = jax.jit(jax.vmap(lambda w: simulate_fifo(KEY, w, TOKENS, 200_000).estimate))
    for lane, rate in enumerate((0.8, 1.1)):
        alone = path(rate).estimate
        jax.tree.map(
            lambda x, y, lane=lane: np.testing.assert_allclose(x[lane], y, rtol=1e-9),
            run(many),
            alone,
        )


def test_intervals_cover_at_their_rate():
    # 100 paths at ρ = 0.6: what a coverage of 99 % and of 80 % may show (3 standard deviations).
    found = [path(seed=100 + seed) for seed in range(100)]
    value, high = np.array([(x.mean_system_time, x.high.mean_system_time) for x in found]).T
    truth = float(mean_system_time(server(), TOKENS))
    off = np.abs(value - truth) / (high - value) * student_quantile(0.99, 31)
    assert np.mean(off <= student_quantile(0.99, 31)) >= 0.95
    assert 0.68 <= np.mean(off <= student_quantile(0.8, 31)) <= 0.92


def test_percentiles_are_those_of_the_counts():
    result = path()
    share = np.cumsum(result.system_time_counts.sum(axis=0)) / result.num_queries
    for i, level in enumerate(result.levels):
        value = result.estimate.system_time_percentiles[i]
        here = np.searchsorted(result.edges, value)
        assert share[here] >= level / 100 > share[here - 1]
        assert result.low.system_time_percentiles[i] <= value
        assert value <= result.high.system_time_percentiles[i]
    assert result.edges.shape == result.wait_counts.shape


def test_more_than_two_to_the_31_queries():
    """Nine in ten do not wait, and a group's counts alone come near 2^31."""
    waits = jnp.zeros((32, paths.num_bins(6)), jnp.int32)
    waits = waits.at[:, 0].set(9 << 26).at[:, 700].set(1 << 26)
    levels, one = jnp.array([50.0, 89.0, 95.0], jnp.float32), jnp.ones(32, jnp.float32)
    totals = paths.Totals(jnp.ones((32, 1, 3), jnp.float32), one, waits, waits[:, None])
    with jax.enable_x64(False):
        found = measure(totals, levels, jnp.float32(1), jnp.array(True), 0.99, 6)
    edges = found["edges"]
    for end in ("estimate", "low", "high"):
        for name in ("wait_percentiles", "system_time_percentiles"):
            values = getattr(found[end], name)
            assert np.all(values[:2] <= edges[0])  # where the first bin ends
            assert edges[699] <= values[2] <= edges[700]
    for count in (found["num_queries"], found["wait_counts"].sum()):
        np.testing.assert_allclose(count, 320 * 2.0**26, rtol=1e-6)


def test_how_regular_arrivals_are():
    clockwork = path(rate=0.5, law=arrivals.Renewal(0.0))
    assert float(clockwork.high.mean_wait) == 0  # 2 s apart, at most 1.8 s of service
    poisson, bursty = (path(law=arrivals.Renewal(cv)) for cv in (1.0, 2.0))
    assert inside(poisson, "mean_wait", mean_wait(server(), TOKENS))
    assert bursty.low.mean_wait > poisson.high.mean_wait


def test_a_replay_against_a_plain_loop():
    """1 s of service for everyone, and arrivals of three chunks, the last one not full."""
    one = dataclasses.replace(server(), base_time=jnp.ones(2), time_per_token=jnp.full(2, 1e-9))
    times = np.cumsum(np.random.default_rng(0).exponential(1.2, 150))
    times[7] = times[6]
    result = simulate_fifo(KEY, one, TOKENS, 1, arrivals=arrivals.Replay.at(times))
    assert float(result.num_queries) == 150 * 32
    free, waits = 0.0, []
    for time in times:
        waits.append(max(free - time, 0.0))
        free = max(free, time) + 1.0
    np.testing.assert_allclose(result.estimate.mean_wait, np.mean(waits), rtol=1e-5)
    busy = 150 / (times[-1] - times[0])
    np.testing.assert_allclose(result.estimate.utilization, busy, rtol=1e-5)
    stretched = arrivals.Replay.at([0.0, 0.5, 3.0], rate=0.5)
    np.testing.assert_allclose(stretched.gaps, [2 / 3, 10 / 3])


def test_an_unstable_queue_has_no_mean_and_an_idle_one_no_wait():
    busy, idle = path(rate=3.0), path(rate=0.0)
    assert np.isposinf(busy.mean_system_time)
    assert np.isposinf(busy.estimate.system_time_percentiles).all()
    assert inside(busy, "fraction_correct", mean_accuracy(server(), TOKENS))
    assert float(idle.estimate.mean_wait) == 0
    assert float(idle.estimate.utilization) < 1e-20


def test_many_types():
    num = 20  # more than are told apart by comparisons, with coarser histograms
    workload = dataclasses.replace(
        server(),
        **{
            name: jnp.resize(getattr(server(), name), num)
            for name, value in vars(server()).items()
            if jnp.ndim(value) and name != "mix"
        },
        mix=jnp.full(num, 1 / num),
    )
    tokens = jnp.linspace(0, 200, num)
    result = simulate_fifo(KEY, workload, tokens, 100_000)
    assert inside(result, "mean_system_time", mean_system_time(workload, tokens))
    assert inside(result, "fraction_correct", mean_accuracy(workload, tokens))
    share = np.asarray(result.num_of_type) / float(result.num_queries)
    np.testing.assert_allclose(share, 1 / num, atol=0.005)
    assert inside(result, "type_mean_wait", mean_wait(workload, tokens))


def test_a_type_that_never_comes():
    workload = dataclasses.replace(server(), mix=jnp.array([1.0, 0.0]))
    result = simulate_fifo(KEY, workload, TOKENS, 200_000)
    assert float(result.num_of_type[1]) == 0
    assert np.isnan(result.estimate.type_mean_wait[1])
    assert np.isnan(result.estimate.type_system_time_percentiles[1]).all()
    assert np.isfinite(result.mean_system_time)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_words_are_random(implementation):
    words = two_words(jax.random.key(3, impl=implementation), (64, 512))
    assert words.shape == (2, 64, 512)
    assert words.dtype == np.uint32
    shares = np.asarray(words).reshape(2, -1) / 2**32
    assert all(scipy.stats.kstest(row, "uniform").pvalue > 1e-3 for row in shares)
    assert abs(np.corrcoef(shares)[0, 1]) < 4 / np.sqrt(shares.shape[1])
    assert abs(np.corrcoef(shares[0, 1:], shares[0, :-1])[0, 1]) < 4 / np.sqrt(shares.shape[1])


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0])
def test_gamma_draws(cv):
    draws = np.asarray(jax.jit(gamma)(KEY, jnp.full(20_000, cv**2)))
    law = scipy.stats.gamma(1 / cv**2, scale=cv**2)
    assert scipy.stats.kstest(draws, law.cdf).pvalue > 1e-3


def test_cells_have_their_probabilities():
    mix, right = np.full(20, 0.05), np.linspace(0, 1, 20)
    cells = make_cells(jnp.array(mix), jnp.array(right))
    bits = jnp.asarray(np.linspace(0, 2**32 - 1, 1_000_001).astype(np.uint32))
    kind, correct = (np.asarray(x) for x in read_cells(cells, bits))
    np.testing.assert_allclose(np.bincount(kind) / kind.size, mix, atol=2e-6)
    np.testing.assert_allclose(np.bincount(kind, correct) / kind.size, mix * right, atol=2e-6)
    few = read_cells(make_cells(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])), bits)
    np.testing.assert_allclose([np.mean(x) for x in few], [0.5, 0.5], atol=2e-6)


def test_bins_end_at_their_edges():
    edges = np.asarray(paths.upper_edges(jnp.float64(2.0), 9))
    ratio = np.concatenate([[0.0, 1e-9, 1e9], np.random.default_rng(0).lognormal(0, 3, 1000)])
    number = np.asarray(paths.bin_of(jnp.asarray(ratio), 9))
    starts = np.concatenate([[0.0], edges[:-1]])
    assert np.all((starts[number] <= 2 * ratio) & (2 * ratio < edges[number]))
    assert np.all(edges[1:-1] / edges[:-2] < 1 + 1 / 512 + 1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_queries": 0}, "num_queries = 0 must be from 1"),
        ({"num_queries": 1000.5}, "num_queries = 1000.5 must be from 1 to 2\\^35: give a whole"),
        ({"arrivals": arrivals.Renewal(-1.0)}, "cv = -1 must be at least 0 and finite"),
        ({"arrivals": arrivals.Renewal(float("nan"))}, "cv = nan must be at least 0"),
        ({"arrivals": arrivals.Replay(jnp.array([1.0, -2.0]))}, r"gaps\[1\] = -2 must be at least"),
        ({"percentiles": (50.0, 100.0)}, "100 must be between 0 and 100"),
        ({"confidence": 1.0}, "confidence = 1 must be between 0 and 1"),
        ({"tokens": jnp.ones(3)}, "use jax.vmap"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_fifo(KEY, **({"workload": server(), "tokens": TOKENS} | change))


@pytest.mark.parametrize("times", [[1.0], [0.0, 2.0, 1.0], [0.0, float("nan"), 1.0], [0, math.inf]])
def test_bad_times(times):
    with pytest.raises(ValueError, match="times"):
        arrivals.Replay.at(times)
    with pytest.raises(ValueError, match="no stretching"):
        arrivals.Replay.at([1.0, 1.0], rate=1.0)
    with pytest.raises(ValueError, match="rate = 0 must be above 0"):
        arrivals.Replay.at([1.0, 2.0], rate=0.0)
