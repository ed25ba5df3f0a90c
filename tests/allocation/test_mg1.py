"""The queue: textbook closed forms, and what is said where it is not stable."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload
from problems import random_workloads

from jaxalloc import Workload, mean_system_time, mean_wait, objective, utilization


def single(rate, time, service_cv):
    return Workload.create(
        arrival_rate=rate,
        mix=[1.0],
        gain=0.5,
        decay=1e-3,
        floor=0.0,
        base_time=time,
        time_per_token=1e-3,
        max_tokens=1e4,
        accuracy_weight=1.0,
        service_cv=service_cv,
    )


@pytest.mark.parametrize("rho", [0.0, 1e-6, 0.3, 0.9, 0.999])
def test_mm1_and_md1(rho):
    time, tokens = 0.4, jnp.array([100.0])  # 0.5 s of service
    exponential = single(rho / 0.5, time, 1.0)
    constant = single(rho / 0.5, time, 0.0)
    # M/M/1: E[T] = t / (1 - ρ). M/D/1: E[W] is half as long.
    np.testing.assert_allclose(utilization(exponential, tokens), rho, rtol=1e-14)
    np.testing.assert_allclose(mean_system_time(exponential, tokens), 0.5 / (1 - rho), rtol=1e-11)
    np.testing.assert_allclose(mean_wait(exponential, tokens), 0.5 * rho / (1 - rho), rtol=1e-11)
    np.testing.assert_allclose(mean_wait(constant, tokens), 0.25 * rho / (1 - rho), rtol=1e-11)


def test_two_exponential_types_by_hand():
    # Half of 1 s, half of 3 s, at 0.25 / s: m1 = 2, V = 2 (1 + 9) / 2 = 10, ρ = 1/2, E[W] = 2.5.
    workload = Workload.create(
        arrival_rate=0.25,
        mix=[0.5, 0.5],
        gain=0.0,
        decay=1.0,
        floor=0.0,
        base_time=[0.5, 1.0],
        time_per_token=[0.5, 0.25],
        max_tokens=10.0,
        accuracy_weight=1.0,
        service_cv=1.0,
    )
    tokens = jnp.array([1.0, 8.0])
    assert float(utilization(workload, tokens)) == 0.5
    assert float(mean_wait(workload, tokens)) == 2.5
    assert float(mean_system_time(workload, tokens)) == 4.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_workloads_against_plain_numpy(dtype):
    fields = random_workloads(1, 200)
    exact = {name: value.astype(dtype).astype(np.longdouble) for name, value in fields.items()}
    tokens = fields["min_tokens"].astype(dtype)
    time = exact["base_time"] + exact["time_per_token"] * tokens
    first = np.sum(exact["mix"] * time, axis=1)
    second = np.sum(exact["mix"] * (1 + exact["service_cv"] ** 2) * time**2, axis=1)
    rate = exact["arrival_rate"]
    wait = rate * second / (2 * (1 - rate * first))
    workloads = as_workload(fields, dtype)
    rtol = 200 * np.finfo(dtype).eps  # λ up to 0.95 of what the server can carry
    for function, expected in [
        (utilization, rate * first),
        (mean_wait, wait),
        (mean_system_time, first + wait),
    ]:
        got = jax.vmap(function)(workloads, jnp.asarray(tokens))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected.astype(dtype), rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_near_saturation_every_answer_has_its_digits(dtype):
    """M/M/1 with ρ up to the last number below 1: E[T] = t / d, of either sign of J."""
    eps = float(np.finfo(dtype).eps)
    for away in (eps / 2, eps, 3 * eps, 1e3 * eps, 1e6 * eps):
        workload = as_workload(vars(single(1 - away, 0.75, 1.0)), dtype)
        tokens = jnp.array([250.0], dtype)
        # ρ as the dtype stores it: c = 1e-3 is not a dyadic number.
        slope, rate = float(workload.time_per_token[0]), float(workload.arrival_rate)
        exact = 1 - Fraction(rate) * (Fraction(3, 4) + Fraction(slope) * 250)
        assert (utilization(workload, tokens) < 1) == (exact > 0)
        wait = mean_wait(workload, tokens)
        expected = float(Fraction(rate) / exact) if exact > 0 else np.inf
        np.testing.assert_allclose(wait, expected, rtol=8 * eps + 40 * eps**2 / float(abs(exact)))
        np.testing.assert_allclose(objective(workload, tokens), -wait, rtol=3 * float(exact) + eps)


@pytest.mark.parametrize("rate", [2.0, 2.5, 1e6])  # ρ = 1 exactly, above, far above
def test_an_unstable_queue_waits_for_ever(rate):
    workload, tokens = single(rate, 0.25, 0.0), jnp.array([250.0])
    assert float(utilization(workload, tokens)) >= 1
    assert np.isposinf(mean_wait(workload, tokens))
    assert np.isposinf(mean_system_time(workload, tokens))
    assert np.isneginf(objective(workload, tokens))


@pytest.mark.parametrize("rate", [2.0, 2.5, 1e6])
@pytest.mark.parametrize("differentiate", [jax.grad, jax.jacfwd])
def test_an_unstable_queue_has_no_misleading_slope(rate, differentiate):
    workload, tokens = single(rate, 0.25, 0.0), jnp.array([250.0])
    for function in (mean_wait, mean_system_time, objective):
        assert not np.any(np.isfinite(differentiate(function, 1)(workload, tokens)))
        by_rate = differentiate(function)(workload, tokens).arrival_rate
        assert not np.isfinite(by_rate)
