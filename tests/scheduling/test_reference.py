"""The package against the plain-Python reference, and both against instances worked by hand.

`benchmarks/scheduling_agreement.py` does the same on 100,000 instances. The seed is drawn anew and
printed on failure; JAXALLOC_SEED takes it back.
"""

import os
import secrets

import numpy as np
import pytest

from jaxalloc import Requests, policies, simulate
from tests.scheduling.instances import (
    EXACT_SECONDS,
    ZOO,
    Case,
    differences,
    hard_case,
    package_outcome,
    random_case,
)
from tests.scheduling.reference import Rules, simulate as play

# prompt, capacity, output, lower, upper; then (completion times, total latency) of H-SF, A_max and
# A_min, and A_min's evictions.
BY_HAND = {
    "I1": ((1, 8, [2, 4, 3], 1, 4), ([2, 5, 3], 10), ([2, 6, 7], 15), ([5, 4, 3], 12), [2, 0, 0]),
    "I2": (
        (1, 10, [2, 2, 5, 2], 2, 5),
        ([2, 2, 7, 2], 13),
        ([2, 4, 9, 8], 23),
        ([2, 2, 5, 4], 13),
        [0, 0, 0, 0],
    ),
    "I3": (
        (2, 9, [3, 1, 4], [1, 1, 3], [3, 2, 6]),
        ([3, 1, 5], 9),
        ([3, 1, 5], 9),
        ([6, 1, 4], 11),
        [2, 0, 0],
    ),
    "I4": (
        (1, 7, [3, 1, 2], [3, 1, 2], [3, 1, 2]),
        ([3, 1, 2], 6),
        ([3, 1, 2], 6),
        ([3, 1, 2], 6),
        [0, 0, 0],
    ),
    "I5": (
        ([3, 1, 1], 9, [2, 4, 4], 1, 4),
        ([2, 4, 6], 12),
        ([2, 6, 7], 15),
        ([5, 8, 4], 17),
        [1, 1, 0],
    ),
}
SEED = int(os.environ.get("JAXALLOC_SEED", secrets.randbits(32)))
# A_min takes 4.8 rounds an output token.
LONG = Case(
    prompt=[0, 23, 23, 23, 23],
    output=[253, 2, 2, 2, 2],
    arrival=[0] * 5,
    lower=[252, 252, 252, 276, 276],
    upper=[276] * 5,
    predicted=[252, 252, 252, 276, 276],
    capacity=276,
)
IN_SECONDS = ("a_min", "a_min later", "a_max", "mc_sf aging", "vllm", "alpha 0.25")


def full(value, num):
    return list(np.broadcast_to(value, num))


@pytest.mark.parametrize("name", BY_HAND)
def test_instances_by_hand(name):
    (prompt, capacity, output, lower, upper), *expected, evictions = BY_HAND[name]
    requests = Requests.create(prompt=prompt, output=output, lower=lower, upper=upper)
    played = [
        simulate(requests, capacity, policy)
        for policy in (policies.HindsightShortestFirst(), policies.AMax(), policies.AMin())
    ]
    for schedule, (finish, total) in zip(played, expected, strict=True):
        assert schedule.finish.tolist() == finish
        assert float(schedule.total_latency) == total
    assert played[2].evictions.tolist() == evictions


@pytest.mark.parametrize("name", BY_HAND)
def test_the_reference_on_instances_by_hand(name):
    (prompt, capacity, output, lower, upper), *expected, evictions = BY_HAND[name]
    num = len(output)
    for policy, (finish, _) in zip(("h_sf", "a_max", "a_min"), expected, strict=True):
        jobs = play(
            full(prompt, num), output, [0] * num, full(lower, num), full(upper, num), output,
            capacity, Rules(policy),
        ).jobs  # fmt: skip
        assert [job.finish for job in jobs] == finish
    assert [job.evictions for job in jobs] == evictions


@pytest.mark.parametrize("name", ZOO)
def test_exact_agreement(name):
    agree(name, seconds=None)


@pytest.mark.parametrize("name", IN_SECONDS)
def test_exact_agreement_in_seconds(name):
    agree(name, seconds=EXACT_SECONDS)


def agree(name, seconds):
    rng = np.random.default_rng(SEED)
    policy, rules = ZOO[name]
    options = {"seconds": seconds is not None}
    cases = [random_case(rng, **options) for _ in range(20)]
    # α-protection may repeat a reset until the last arrival.
    cases += [hard_case(rng, **options, latest=2_000) for _ in range(20)]
    cases += [LONG] * (seconds is None)
    schedule = package_outcome(cases, policy, seconds)
    for lane, case in enumerate(cases):
        assert differences(case, rules, schedule, lane, seconds) == [], (SEED, case)
