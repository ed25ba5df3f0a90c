"""Waits and system times: closed forms, derivatives, quantiles at and between jumps."""

import dataclasses
import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc import (
    Workload,
    arrivals,
    largest_arrival_rate,
    largest_rates_along,
    mean_system_time,
    mean_wait,
    simulate_fifo,
    system_time_cdf,
    system_time_quantile,
    type_system_time_quantiles,
    utilization,
    wait_cdf,
    wait_quantile,
)
from jaxalloc.allocation.queue import tails
from jaxalloc.allocation.queue.tail_law import tail_law

TOKENS = jnp.array([100.0, 400.0, 900.0])
TIMES = np.array([0.3, 1.8, 2.4])  # s of service
CDFS = {cdf: jax.jit(jax.vmap(cdf, (None, None, 0))) for cdf in (wait_cdf, system_time_cdf)}


def quantiles(function, workload, q):
    """One at a time, so that a compilation serves any number of levels."""
    return np.array([function(workload, TOKENS, level) for level in np.asarray(q)])


def server(load=0.8, cv=0.0, mix=(0.6, 0.3, 0.1), dtype=np.float64):
    mix = np.asarray(mix)
    return Workload.create(
        arrival_rate=dtype(load / (mix @ TIMES)),
        mix=mix.astype(dtype),
        gain=0.5,
        decay=1e-2,
        floor=0.2,
        base_time=[0.1, 0.2, 0.6],
        time_per_token=[2e-3, 4e-3, 2e-3],
        max_tokens=1e4,
        accuracy_weight=1.0,
        service_cv=cv,
    )


def alone(load, cv, dtype=np.float64):
    """Every query of the second type, 1.8 s."""
    return server(load, cv, (0.0, 1.0, 0.0), dtype)


def erlang(load, x):
    """P(W <= x) of M/D/1 with service 1 (Erlang, 1909)."""
    terms = [
        math.exp(load * (x - k)) * (load * (k - x)) ** k / math.factorial(k)
        for k in range(math.floor(x) + 1)
    ]
    return (1 - load) * math.fsum(terms)


@pytest.mark.parametrize("load", [0.05, 0.5, 0.9, 0.99])
def test_mm1_and_md1(load):
    x = np.array([0.0, 1e-3, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 2.0, 2.5, 3.0, 5.3, 9.0])
    md1 = CDFS[wait_cdf](alone(load, 0.0), TOKENS, 1.8 * x)
    np.testing.assert_allclose(md1, [erlang(load, y) for y in x], atol=1e-9)
    mm1 = CDFS[wait_cdf](alone(load, 1.0), TOKENS, 1.8 * x)
    np.testing.assert_allclose(mm1, 1 - load * np.exp(-(1 - load) * x), atol=1e-9)
    stays = CDFS[system_time_cdf](alone(load, 1.0), TOKENS, 1.8 * x)
    np.testing.assert_allclose(stays, 1 - np.exp(-(1 - load) * x), atol=1e-9)
    later = np.array([30.0, 100.0, 1000.0])
    mm1 = CDFS[wait_cdf](alone(load, 1.0), TOKENS, 1.8 * np.resize(later, 12))[:3]
    np.testing.assert_allclose(mm1, 1 - load * np.exp(-(1 - load) * later), atol=1e-9)


def test_float32_reaches_four_digits():
    x = np.array([0.5, 1.0, 1.5, 2.5, 5.3, 9.0])
    got = [wait_cdf(alone(0.9, 0.0, np.float32), TOKENS.astype(np.float32), 1.8 * y) for y in x]
    assert got[0].dtype == np.float32
    np.testing.assert_allclose(got, [erlang(0.9, y) for y in x], atol=2e-4)


def test_means_are_integrals_of_tails():
    middles = np.arange(0.1, 120, 0.2)
    for cdf, mean, cv in (
        (wait_cdf, mean_wait, 0.0),
        (wait_cdf, mean_wait, (0.0, 1.0, 2.0)),
        (system_time_cdf, mean_system_time, 0.7),
    ):
        workload = server(0.5, cv)
        points = np.reshape(middles, (-1, 12))
        tail = np.array([1 - CDFS[cdf](workload, TOKENS, row) for row in points])
        np.testing.assert_allclose(0.2 * tail.sum(), mean(workload, TOKENS), rtol=2e-3)


def test_jumps_and_ends():
    workload, load = server(0.6), 0.6
    below, at = (
        CDFS[system_time_cdf](workload, TOKENS, np.resize(TIMES * f, 12))[:3]
        for f in (1 - 1e-12, 1 + 1e-12)
    )
    np.testing.assert_allclose(at - below, np.array([0.6, 0.3, 0.1]) * (1 - load), atol=1e-9)
    ends = CDFS[wait_cdf](workload, TOKENS, np.resize([-1.0, 0.0, np.inf], 12))[:3]
    np.testing.assert_allclose(ends, [0, 1 - load, 1])
    unstable = dataclasses.replace(workload, arrival_rate=jnp.array(10.0))
    assert not np.any(CDFS[system_time_cdf](unstable, TOKENS, np.resize(TIMES, 12)))


def test_mixtures_against_a_sample_path():
    workload = server(0.7, (0.0, 1.0, 2.0))
    path = simulate_fifo(jax.random.key(5), workload, TOKENS, 500_000)
    exact = quantiles(system_time_quantile, workload, path.levels / 100)
    assert np.all(path.low.system_time_percentiles <= exact)
    assert np.all(exact <= path.high.system_time_percentiles)
    by_type = jax.jit(type_system_time_quantiles)(workload, TOKENS, 0.95)
    assert np.all(path.low.type_system_time_percentiles[:, 1] <= by_type)
    assert np.all(by_type <= path.high.type_system_time_percentiles[:, 1])


def test_quantiles_of_mm1():
    q = np.array([0.0, 0.15, 0.5, 0.95, 0.999, 1 - 1e-7])
    wait = quantiles(wait_quantile, alone(0.8, 1.0), q)
    exact = np.maximum(-np.log((1 - q) / 0.8), 0) * 1.8 / 0.2
    np.testing.assert_allclose(wait, exact, rtol=1e-4, atol=1e-9)
    stay = quantiles(system_time_quantile, alone(0.8, 1.0), q)
    np.testing.assert_allclose(stay, -np.log(1 - q) * 1.8 / 0.2, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(wait[:-1], exact[:-1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_of_mm1_to_any_level_at_any_load(dtype):
    """E[e^{-(μ - λ) x}] = 1 - q and ρ e^{-(μ - λ) x} = 1 - q, for λ and μ as the dtype has them."""
    for load in (0.5, 0.99, 1 - 1e-6):
        workload, tokens = alone(load, 1.0, dtype), TOKENS.astype(dtype)
        time = Fraction(float(workload.base_time[1]))
        time += Fraction(float(workload.time_per_token[1])) * 400
        rate = Fraction(float(workload.arrival_rate))
        for q in (0.6, 0.99, 0.9999, 1 - 1e-8, 1 - 1e-12):
            exact = -math.log(1 - q) / float(1 / time - rate)
            np.testing.assert_allclose(
                system_time_quantile(workload, tokens, q), exact, rtol=1e-4 if q > 0.9 else 1e-3
            )
            exact = math.log(float(rate * time) / (1 - q)) / float(1 / time - rate)
            np.testing.assert_allclose(
                wait_quantile(workload, tokens, q), exact, rtol=1e-4 if q > 0.9 else 1e-3
            )


@pytest.mark.parametrize("cv", [0.0, (0.0, 1.0, 2.0)])
def test_the_law_of_the_tail_is_where_the_inversion_goes(cv):
    workload = server(0.8, cv)
    services = tails.services_of(workload, TOKENS)
    for own in (services, tails.no_service(services)):
        law = tail_law(tails.traffic_of(workload, TOKENS), services, own)
        cdf = CDFS[wait_cdf if own is not services else system_time_cdf]
        x = (law.log_factor - np.log(np.resize([1e-2, 1e-4, 1e-6], 12))) / law.rate
        remain = (1 - cdf(workload, TOKENS, x)) / np.resize([1e-2, 1e-4, 1e-6], 12)
        np.testing.assert_allclose(remain[:3], 1, rtol=5e-2 if cv else 2e-3)
    # Deeper than any inversion, on the same straight line.
    found = [float(system_time_quantile(workload, TOKENS, 1 - p)) for p in (1e-9, 1e-11)]
    law = tail_law(tails.traffic_of(workload, TOKENS), services, services)
    np.testing.assert_allclose(found[1] - found[0], math.log(100) / law.rate, rtol=1e-4)


def test_the_largest_rate_of_a_deep_target_meets_it():
    exact = 1 / 1.8 - math.log(1e10) / 60.0
    found = largest_arrival_rate(alone(0.1, 1.0), TOKENS, 60.0, q=1 - 1e-10)
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_no_law_no_number():
    """So light a load that 1e-8 never wait for two services: no exponential is near."""
    workload = server(1e-5)
    assert np.isnan(system_time_quantile(workload, TOKENS, 1 - 1e-12))


def test_quantiles_invert_and_sit_at_jumps():
    workload = server(0.4)
    q = np.concatenate([np.linspace(0.01, 0.99, 10), [1.0]])
    stay = quantiles(system_time_quantile, workload, q)
    assert np.isposinf(stay[-1])
    traced = jax.jit(lambda q: system_time_quantile(workload, TOKENS, q))
    assert np.isnan(traced(-0.1))
    assert np.isnan(traced(1.5))
    stay, q = np.asarray(stay[:-1]), q[:-1]
    assert np.all(np.diff(stay) >= 0)
    after = [float(system_time_cdf(workload, TOKENS, x)) for x in stay]
    sits = np.isin(stay, np.asarray(workload.base_time + workload.time_per_token * TOKENS))
    assert sits.sum() >= 4
    np.testing.assert_allclose(np.array(after)[~sits], q[~sits], atol=1e-9)
    assert np.all(np.array(after)[sits] >= q[sits])


@functools.lru_cache
def gradient(mode, cv=0.0):
    """Of the quantiles of one server, compiled once."""
    return jax.jit(mode(lambda tokens, q: system_time_quantile(server(0.4, cv), tokens, q)))


def test_the_slope_at_a_jump_is_that_of_its_type():
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(gradient(mode)(TOKENS, 0.3), [2e-3, 0, 0], atol=1e-12)


@pytest.mark.parametrize("cv", [0.0, (0.0, 1.0, 2.0)])
def test_slopes_are_differences(cv):
    workload, step = server(0.4, cv), 1e-2
    by_tokens = gradient(jax.jacrev, cv)(TOKENS, 0.95)
    moved = [TOKENS + sign * step * unit for unit in np.eye(3) for sign in (1, -1)]
    found = [system_time_quantile(workload, t, 0.95) for t in moved]
    difference = -np.diff(np.reshape(found, (3, 2)))[:, 0] / (2 * step)
    np.testing.assert_allclose(by_tokens, difference, rtol=1e-5)
    if cv == 0:
        np.testing.assert_allclose(by_tokens, gradient(jax.jacfwd)(TOKENS, 0.95), rtol=1e-9)


def test_an_unstable_queue():
    workload = server(1.5)
    assert np.isposinf(system_time_quantile(workload, TOKENS, 0.5))
    assert np.isposinf(wait_quantile(workload, TOKENS, 0.5))


def test_largest_arrival_rate():
    workload = server(0.8)
    for seconds in (1.2, 5.0, 50.0):
        rate = largest_arrival_rate(workload, TOKENS, seconds)
        loaded = dataclasses.replace(workload, arrival_rate=rate)
        assert mean_system_time(loaded, TOKENS) == pytest.approx(seconds)
    rate = largest_arrival_rate(workload, TOKENS, 7.0, q=0.95)
    loaded = dataclasses.replace(workload, arrival_rate=rate)
    assert system_time_cdf(loaded, TOKENS, 7.0) == pytest.approx(0.95, abs=1e-9)
    assert 0 < utilization(loaded, TOKENS) < 1
    along = largest_rates_along(workload, jnp.stack([TOKENS, TOKENS / 2]), 7.0, 0.95)
    assert along[0] == pytest.approx(rate)
    assert along[1] > rate  # fewer tokens, more queries
    # M/M/1: e^{-(μ - λ) x} = 1 - q.
    exact = 1 / 1.8 - math.log(20) / 7.0
    assert largest_arrival_rate(alone(0.1, 1.0), TOKENS, 7.0, q=0.95) == pytest.approx(exact)
    for missed in ({"seconds": 0.5}, {"seconds": 2.0, "q": 0.95}):
        assert np.isnan(largest_arrival_rate(workload, TOKENS, **missed))
    idle = dataclasses.replace(workload, base_time=0 * workload.base_time)
    for q in (None, 0.95):  # no service, no limit
        assert np.isposinf(largest_arrival_rate(idle, 0 * TOKENS, 1.0, q=q))


def test_the_laws_of_a_replay_and_of_poisson_arrivals_agree():
    # A Poisson trace, replayed: its sample path must have the analytic percentiles too.
    workload = server(0.6)
    times = np.cumsum(np.random.default_rng(3).exponential(1 / workload.arrival_rate, 200_001))
    path = simulate_fifo(jax.random.key(1), workload, TOKENS, 1, arrivals=arrivals.Replay.at(times))
    exact = quantiles(system_time_quantile, workload, path.levels / 100)
    np.testing.assert_allclose(path.estimate.system_time_percentiles, exact, rtol=0.03)
