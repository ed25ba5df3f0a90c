"""Slices of the studies under `benchmarks`, and the shape of the compiled loop."""

import re

import jax
import numpy as np
import pytest

from jaxalloc import Requests, policies, simulate, simulate_batch
from jaxalloc.scheduling.bounds import a_max_ratio
from jaxalloc.traces.intervals import bins


def test_wider_intervals_hurt_a_max_more_than_a_min():
    rng = np.random.default_rng(0)
    output = np.minimum(80, 1 + rng.exponential(18, (10, 150)).astype(int))
    latency = {}
    for count in (1, 10, 80):
        made = [bins(row, count, 80) for row in output]
        requests = Requests.create(
            prompt=4,
            output=output,
            lower=np.stack([m.lower for m in made]),
            upper=np.stack([m.upper for m in made]),
        )
        for policy in (policies.HindsightShortestFirst(), policies.AMax(), policies.AMin()):
            schedule = simulate_batch(requests, 400, policy)
            latency[type(policy).__name__, count] = float(np.mean(schedule.mean_latency))
    best = latency["HindsightShortestFirst", 1]
    assert latency["AMax", 80] == latency["AMin", 80] == best
    assert latency["AMax", 1] > 5 * best
    assert latency["AMin", 1] < 2 * best
    assert latency["AMax", 1] > latency["AMax", 10] > 1.1 * best
    assert latency["AMin", 10] < 1.15 * best


def test_measured_ratios_stay_below_the_proven_one():
    rng = np.random.default_rng(1)
    for longest in (2, 5, 20):
        output = np.where(rng.random((10, 300)) < 0.9, 1, longest)
        requests = Requests.create(prompt=1, output=output, lower=1, upper=longest)
        best, worst = (
            simulate_batch(requests, 20 * (longest + 1), policy).total_latency
            for policy in (policies.HindsightShortestFirst(), policies.AMax())
        )
        assert float(np.max(worst / best)) <= float(a_max_ratio(1 / longest)[1])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the one kernel is for CPUs")
@pytest.mark.parametrize("policy", [policies.AMin(), policies.VLLMFirstCome()], ids=str)
def test_the_cpu_loop_is_one_kernel_that_copies_no_array(policy):
    ones = np.ones((4, 1000), int)
    requests = Requests.create(prompt=ones, output=ones)
    run = jax.jit(jax.vmap(lambda r: simulate(r, 100, policy)))
    text = run.lower(requests).compile().as_text()
    assert 'inlineable="false",xla_cpu_small_call="true"' in text
    # The ledger, the table of the slots, and the usage or the waiting keys of one instance.
    carried = {"1000,8", "6,1024", "1024"}
    assert all(f"s32[{shape}]" in text for shape in carried)
    assert carried & set(re.findall(r"= s32\[([\d,]+)\]\S* copy\(", text)) == set()
