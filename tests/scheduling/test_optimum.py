"""H-SF against the exact optimum of tiny instances, an integer program that SciPy's `milp` solves.

The full comparison on 200 instances is `benchmarks/scheduling_optimality.py`.
"""

import jax
import numpy as np
import pytest
from scipy import optimize, sparse

from jaxalloc import Requests, latency_bound, policies, simulate_batch
from jaxalloc.scheduling.bounds import a_max_ratio


def optimal_latency(prompt, output, capacity, known):
    """Total latency of the best schedule without evictions, all arrivals 0.

    No start of a schedule at least as good as the `known` latency is later than that less Σ o.
    """
    horizon = min(int(output.sum()), int(known - output.sum() + output.max()))
    choices = [(i, t) for i in range(len(output)) for t in range(horizon - output[i] + 1)]
    cost = np.array([t + output[i] for i, t in choices])
    once = sparse.lil_array((len(output), len(choices)))
    usage = sparse.lil_array((horizon, len(choices)))
    for column, (i, t) in enumerate(choices):
        once[i, column] = 1
        for x in range(t + 1, t + output[i] + 1):
            usage[x - 1, column] = prompt[i] + x - t
    answer = optimize.milp(
        cost,
        integrality=np.ones(len(choices)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(once.tocsr(), 1, 1),
            optimize.LinearConstraint(usage.tocsr(), -np.inf, capacity),
        ],
    )
    assert answer.status == 0, answer.message
    return round(answer.fun)


def tiny_instance(rng):
    """6 to 10 requests, M ~ U{12..20}, prompts U{1..5}, outputs U{1..M − s}."""
    num, capacity = int(rng.integers(6, 11)), int(rng.integers(12, 21))
    prompt = rng.integers(1, 6, num)
    return prompt, rng.integers(1, capacity - prompt + 1), capacity


@pytest.fixture(scope="module")
def tiny():
    rng = np.random.default_rng(1)
    return [tiny_instance(rng) for _ in range(4)]


def test_nothing_beats_the_optimum_and_the_optimum_keeps_the_bound(tiny):
    padded = [(np.pad(s, (0, 10 - len(s))), np.pad(o, (0, 10 - len(o)))) for s, o, _ in tiny]
    prompt, output = (np.stack(x) for x in zip(*padded, strict=True))
    capacity = np.array([m for _, _, m in tiny])
    requests = Requests.create(prompt=prompt, output=output)
    shortest = simulate_batch(requests, capacity, policies.HindsightShortestFirst())
    known = np.asarray(shortest.total_latency)
    best = np.array([optimal_latency(*tiny[i], known[i]) for i in range(len(tiny))])
    bound = np.asarray(latency_bound(requests, capacity))
    assert (bound <= best).all()
    assert (known >= best).all()
    assert np.mean(known / best) < 1.1
    # Killed requests that start anew are of no help; those that resume would be.
    for policy in (policies.AMin(), policies.VLLMFirstCome(resume=False)):
        schedule = simulate_batch(requests, capacity, policy)
        assert (np.asarray(schedule.total_latency) >= best).all()


def test_the_bound_holds_for_late_arrivals():
    rng = np.random.default_rng(4)
    requests = Requests.create(
        prompt=rng.integers(1, 6, (50, 30)),
        output=rng.integers(0, 20, (50, 30)),
        arrival=rng.integers(0, 60, (50, 30)),
    )
    schedule = simulate_batch(requests, 40, policies.HindsightShortestFirst())
    assert (schedule.status == 0).all()
    assert (latency_bound(requests, 40) <= schedule.total_latency).all()


def test_the_bound_works_under_jit_and_vmap():
    requests = Requests.create(prompt=1, output=[[2, 4, 3], [5, 0, 0]])
    wanted = latency_bound(requests, np.array([8, 8]))
    found = jax.jit(jax.vmap(latency_bound, (0, None)))(requests, 8)
    assert found.tolist() == wanted.tolist() == [9.0, 5.0]


def test_measured_ratios_stay_below_the_proven_one():
    rng = np.random.default_rng(1)
    longest = np.array([2, 5, 20])
    output = np.where(rng.random((10, 3, 300)) < 0.9, 1, longest[:, None])
    upper = np.broadcast_to(longest[:, None], output.shape)
    requests = Requests.create(prompt=1, output=output, lower=1, upper=upper)
    best, worst = (
        simulate_batch(requests, np.broadcast_to(20 * (longest + 1), (10, 3)), policy).total_latency
        for policy in (policies.HindsightShortestFirst(), policies.AMax())
    )
    assert (np.max(worst / best, axis=0) <= a_max_ratio(1 / longest)[1]).all()
