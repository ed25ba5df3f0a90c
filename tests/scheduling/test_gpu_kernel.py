"""The scheduler's GPU kernel, in interpret mode and lowered for CUDA, against the plain form.

`benchmarks/kernel_agreement.py` compares every policy on 2,000 instances; this is a slice of them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gpu import cuda_kernels, interpreted

from jaxalloc import Requests, ScheduleStatus, policies, simulate_batch
from jaxalloc.scheduling import gpu_kernel
from tests.scheduling.instances import MODEL, ZOO, random_case, stacked

WIDTH = 20
ROUNDS = 900


def draw(seed, count, seconds=False):
    rng = np.random.default_rng(seed)
    cases = [random_case(rng, seconds=seconds, max_requests=WIDTH) for _ in range(count)]
    return stacked(cases, WIDTH)


def assert_same(kernel, plain):
    """Every field, bit for bit."""
    for name, wanted in vars(plain).items():
        np.testing.assert_array_equal(getattr(kernel, name), wanted, err_msg=name)


def in_kernel(requests, capacity, policy, **options):
    # A width of its own, so that nothing traced for the plain form is met again.
    with interpreted():
        return simulate_batch(requests, capacity, policy, **options, slots=WIDTH + 1)


@pytest.mark.parametrize("name", ["a_min all flags", "vllm", "alpha 0.25"])
def test_equal_to_the_plain_form(name):
    policy = ZOO[name][0]
    requests, capacity = draw(71, 40)
    plain = simulate_batch(requests, capacity, policy, max_rounds=ROUNDS)
    kernel = in_kernel(requests, capacity, policy, max_rounds=ROUNDS)
    assert_same(kernel, plain)
    assert np.sum(plain.evictions) > 0
    assert np.sum(np.asarray(plain.status) == ScheduleStatus.FINISHED) > 10


def test_seconds_and_a_record_too():
    requests, capacity = draw(72, 40, seconds=True)
    options = {"batch_time": MODEL, "max_rounds": ROUNDS, "record": 50}
    plain = simulate_batch(requests, capacity, policies.AMin(), **options)
    kernel = in_kernel(requests, capacity, policies.AMin(), **options)
    assert_same(kernel, plain)
    assert np.any(plain.finish_seconds != plain.finish)


def test_what_runs_out_of_slots_is_played_again(monkeypatch):
    """With 2 slots at first, then 4, and by the plain form at last."""
    monkeypatch.setattr(gpu_kernel, "FEW_SLOTS", 2)
    monkeypatch.setattr(gpu_kernel, "MOST_SLOTS", 4)
    requests, capacity = draw(73, 60)
    policy = policies.AMin(aging=5)
    few = simulate_batch(requests, capacity, policy, slots=4)
    exceeded = np.asarray(few.status) == ScheduleStatus.SLOTS_EXCEEDED
    assert 5 < np.sum(exceeded) < 55
    kernel = in_kernel(requests, capacity, policy)
    assert_same(kernel, simulate_batch(requests, capacity, policy))
    assert np.all(kernel.status == ScheduleStatus.FINISHED)


@pytest.mark.parametrize("name", ["mc_sf aging", "a_min all flags", "alpha 0"])
def test_it_lowers_for_cuda(name):
    requests, capacity = draw(75, 3)

    def run(requests, capacity):
        return simulate_batch(requests, capacity, ZOO[name][0], slots=WIDTH + 2)

    assert cuda_kernels(run, requests, capacity) == 1


def test_it_lowers_for_cuda_with_many_slots_and_in_seconds():
    shape = jax.ShapeDtypeStruct((2, 5000), jnp.int32)
    times = jax.ShapeDtypeStruct((2, 5000), jnp.float64)
    names = ("prompt", "output", "lower", "upper", "predicted")
    requests = Requests(**dict.fromkeys(names, shape), arrival=times)

    def run(requests):
        return simulate_batch(requests, 9000, policies.AMin(), batch_time=MODEL)

    assert cuda_kernels(run, requests) == 2  # few slots, most slots; then the plain form


def test_a_policy_that_draws_keeps_the_plain_form():
    requests, capacity = draw(76, 3)

    def run(requests, capacity):
        return simulate_batch(requests, capacity, policies.AlphaBetaClearing(), slots=WIDTH + 2)

    assert cuda_kernels(run, requests, capacity) == 0
