"""Waits and system times: closed forms, derivatives, quantiles at and between jumps."""

import dataclasses
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalloc import (
    Workload,
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
from jaxalloc.allocation.queue.quantiles import tail_law
from jaxalloc.allocation.queue.tails import system_times, waits

TOKENS = jnp.array([100.0, 400.0, 900.0])
TIMES = np.array([0.3, 1.8, 2.4])  # s of service
MIXED = (0.0, 1.0, 2.0)  # deterministic, exponential and wilder service
CURVES = {cdf: jax.jit(jax.vmap(cdf, (None, None, 0))) for cdf in (wait_cdf, system_time_cdf)}


def curve(cdf, workload, seconds):
    """At any number of times, a dozen at once, so that one compilation serves all."""
    rows = np.resize(seconds, (-(-len(seconds) // 12), 12))
    return np.concatenate([CURVES[cdf](workload, TOKENS, row) for row in rows])[: len(seconds)]


def quantiles(function, workload, q):
    """One at a time, so that a compilation serves any number of levels."""
    return np.array([function(workload, TOKENS, level) for level in np.asarray(q)])


def server(load=0.8, cv=0.0, mix=(0.6, 0.3, 0.1), dtype=np.float64):
    mix = np.asarray(mix)
    return Workload.create(
        arrival_rate=dtype(load / (mix @ TIMES)), mix=mix.astype(dtype), gain=0.5, decay=1e-2,
        floor=0.2, base_time=[0.1, 0.2, 0.6], time_per_token=[2e-3, 4e-3, 2e-3], max_tokens=1e4,
        accuracy_weight=1.0, service_cv=cv,
    )  # fmt: skip


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
    md1 = curve(wait_cdf, alone(load, 0.0), 1.8 * x)
    np.testing.assert_allclose(md1, [erlang(load, y) for y in x], atol=1e-9)
    x = np.append(x, [30.0, 100.0, 1000.0])
    mm1 = curve(wait_cdf, alone(load, 1.0), 1.8 * x)
    np.testing.assert_allclose(mm1, 1 - load * np.exp(-(1 - load) * x), atol=1e-9)
    stays = curve(system_time_cdf, alone(load, 1.0), 1.8 * x)
    np.testing.assert_allclose(stays, 1 - np.exp(-(1 - load) * x), atol=1e-9)


def test_float32_reaches_four_digits():
    x = np.array([0.5, 1.0, 1.5, 2.5, 5.3, 9.0])
    got = [wait_cdf(alone(0.9, 0.0, np.float32), TOKENS.astype(np.float32), 1.8 * y) for y in x]
    assert got[0].dtype == np.float32
    np.testing.assert_allclose(got, [erlang(0.9, y) for y in x], atol=2e-4)


@pytest.mark.parametrize(
    ("cdf", "mean", "cv"), [(wait_cdf, mean_wait, MIXED), (system_time_cdf, mean_system_time, 0.7)]
)
def test_means_are_integrals_of_tails(cdf, mean, cv):
    workload = server(0.5, cv)
    tail = 1 - curve(cdf, workload, np.arange(0.1, 120, 0.2))
    np.testing.assert_allclose(0.2 * tail.sum(), mean(workload, TOKENS), rtol=2e-3)


def test_jumps_and_ends():
    workload, load = server(0.6), 0.6
    below, at = (curve(system_time_cdf, workload, TIMES * f) for f in (1 - 1e-12, 1 + 1e-12))
    np.testing.assert_allclose(at - below, np.array([0.6, 0.3, 0.1]) * (1 - load), atol=1e-9)
    np.testing.assert_allclose(curve(wait_cdf, workload, [-1.0, 0.0, np.inf]), [0, 1 - load, 1])
    unstable = dataclasses.replace(workload, arrival_rate=jnp.array(10.0))
    assert not np.any(curve(system_time_cdf, unstable, TIMES))
    assert np.isposinf(system_time_quantile(unstable, TOKENS, 0.5))
    assert np.isposinf(wait_quantile(unstable, TOKENS, 0.5))


def test_mixtures_against_a_sample_path():
    workload = server(0.7, MIXED)
    path = simulate_fifo(jax.random.key(5), workload, TOKENS, 500_000)
    exact = quantiles(system_time_quantile, workload, path.levels / 100)
    assert np.all(path.low.system_time_percentiles <= exact)
    assert np.all(exact <= path.high.system_time_percentiles)
    by_type = type_system_time_quantiles(workload, TOKENS, 0.95)
    assert np.all(path.low.type_system_time_percentiles[:, 1] <= by_type)
    assert np.all(by_type <= path.high.type_system_time_percentiles[:, 1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quantiles_of_mm1_to_any_level_at_any_load(dtype):
    """E[e^{-(μ - λ) x}] = 1 - q and ρ e^{-(μ - λ) x} = 1 - q, for λ and μ as the dtype has them."""
    for load in (0.5, 0.99, 1 - 1e-6):
        workload, tokens = alone(load, 1.0, dtype), TOKENS.astype(dtype)
        time = Fraction(float(workload.base_time[1]))
        time += Fraction(float(workload.time_per_token[1])) * 400
        rate = Fraction(float(workload.arrival_rate))
        for q in (0.0, 0.15, 0.6, 0.99, 0.9999, 1 - 1e-8, 1 - 1e-12):
            close = {"rtol": 1e-4 if q > 0.9 else 1e-3, "atol": 1e-4 if dtype == np.float32 else 0}
            if dtype == np.float64 and q <= 0.9999 and load < 0.999:
                close = {"rtol": 1e-7, "atol": 1e-9}
            for function, remain in ((system_time_quantile, 1), (wait_quantile, rate * time)):
                exact = max(math.log(float(remain) / (1 - q)) / float(1 / time - rate), 0)
                np.testing.assert_allclose(function(workload, tokens, q), exact, **close)


@pytest.mark.parametrize("cv", [0.0, MIXED])
def test_the_law_of_the_tail_is_where_the_inversion_goes(cv):
    workload, share = server(0.8, cv), np.array([1e-2, 1e-4, 1e-6])
    for cdf, times in ((wait_cdf, waits), (system_time_cdf, system_times)):
        law = tail_law(times(workload, TOKENS))
        remain = 1 - curve(cdf, workload, (law.log_factor - np.log(share)) / law.rate)
        np.testing.assert_allclose(remain / share, 1, rtol=5e-2 if cv else 2e-3)
    # Deeper than any inversion, on the same straight line.
    found = quantiles(system_time_quantile, workload, [1 - 1e-9, 1 - 1e-11])
    np.testing.assert_allclose(np.diff(found), math.log(100) / law.rate, rtol=1e-4)


def test_no_law_no_number():
    """So light a load that 1e-8 never wait for two services: no exponential is near."""
    assert np.isnan(system_time_quantile(server(1e-5), TOKENS, 1 - 1e-12))


def test_quantiles_invert_and_sit_at_jumps():
    workload, q = server(0.4), np.linspace(0.01, 0.99, 10)
    assert np.isposinf(system_time_quantile(workload, TOKENS, 1.0))
    levels = jax.vmap(system_time_quantile, (None, None, 0))  # whose traced values are not checked
    assert np.all(np.isnan(levels(workload, TOKENS, jnp.array([-0.1, 1.5]))))
    stay = quantiles(system_time_quantile, workload, q)
    assert np.all(np.diff(stay) >= 0)
    after = curve(system_time_cdf, workload, stay)
    sits = np.isin(stay, np.asarray(workload.base_time + workload.time_per_token * TOKENS))
    assert sits.sum() >= 4
    np.testing.assert_allclose(after[~sits], q[~sits], atol=1e-9)
    assert np.all(after[sits] >= q[sits])


@pytest.mark.parametrize("cv", [0.0, MIXED])
def test_slopes_are_differences_and_at_a_jump_those_of_its_type(cv):
    """By token in reverse, and where some service is random in one direction forward."""
    workload, step, direction = server(0.4, cv), 1e-2, jnp.array([1.0, -0.5, 2.0])

    def at(tokens, q):
        return system_time_quantile(workload, tokens, q)

    @jax.jit
    def along(q):
        if cv == 0:
            return jnp.sum(jax.grad(at)(TOKENS, q) * direction)
        return jax.jvp(lambda tokens: at(tokens, q), (TOKENS,), (direction,))[1]

    up, down = (at(TOKENS + sign * step * direction, 0.95) for sign in (1, -1))
    np.testing.assert_allclose(along(0.95), (up - down) / (2 * step), rtol=1e-5)
    np.testing.assert_allclose(along(0.3), 2e-3, atol=1e-12)


def test_largest_arrival_rate():
    workload = server(0.8, MIXED)
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
    for missed in ({"seconds": 0.5}, {"seconds": 2.0, "q": 0.95}):
        assert np.isnan(largest_arrival_rate(workload, TOKENS, **missed))
    idle = dataclasses.replace(workload, base_time=0 * workload.base_time)
    for q in (None, 0.95):  # no service, no limit
        assert np.isposinf(largest_arrival_rate(idle, 0 * TOKENS, 1.0, q=q))


@pytest.mark.parametrize(("seconds", "q"), [(7.0, 0.95), (60.0, 1 - 1e-10)])
def test_the_largest_rate_of_mm1(seconds, q):
    """e^{-(μ - λ) x} = 1 - q, by inversion and by the law of the tail."""
    found = largest_arrival_rate(alone(0.1, 1.0), TOKENS, seconds, q=q)
    np.testing.assert_allclose(found, 1 / 1.8 + math.log(1 - q) / seconds, rtol=1e-6)
