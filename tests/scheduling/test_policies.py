"""Every policy on random instances: as the plain-Python reference plays them, and what it promises.

`benchmarks/scheduling_agreement.py` does the same on 100,000 instances. The seed is drawn anew and
printed on failure; JAXALLOC_SEED takes it back. A new policy is one more line of `ZOO`.
"""

import functools
import os
import secrets

import jax
import numpy as np
import pytest

from jaxalloc import ScheduleStatus, policies
from tests.scheduling import reference
from tests.scheduling.instances import (
    EXACT_SECONDS,
    ZOO,
    Case,
    differences,
    hard_case,
    package_outcome,
    random_case,
    stacked,
)

SEED = int(os.environ.get("JAXALLOC_SEED", secrets.randbits(32)))
ROUNDS = 4096  # of which the tokens held are kept
IN_SECONDS = ("a_min", "a_min later", "a_max", "vllm", "alpha 0.25")
CLEARING = policies.AlphaBetaClearing(0.2, 0.3)


def case(prompt, capacity, output, lower, upper):
    """All at once, predicted exactly."""
    full = [np.broadcast_to(x, len(output)).tolist() for x in (prompt, 0, lower, upper)]
    return Case(full[0], output, *full[1:], output, capacity)


# An instance; then completion times of H-SF, A_max and A_min, worked by hand.
BY_HAND = [
    (case(1, 8, [2, 4, 3], 1, 4), [2, 5, 3], [2, 6, 7], [5, 4, 3]),
    (case(1, 10, [2, 2, 5, 2], 2, 5), [2, 2, 7, 2], [2, 4, 9, 8], [2, 2, 5, 4]),
    (case(2, 9, [3, 1, 4], [1, 1, 3], [3, 2, 6]), [3, 1, 5], [3, 1, 5], [6, 1, 4]),
    (case(1, 7, [3, 1, 2], [3, 1, 2], [3, 1, 2]), [3, 1, 2], [3, 1, 2], [3, 1, 2]),
    (case([3, 1, 1], 9, [2, 4, 4], 1, 4), [2, 4, 6], [2, 6, 7], [5, 8, 4]),
]
SPECIAL = [
    # A_min takes 4.8 rounds an output token.
    case([0, 23, 23, 23, 23], 276, [253, 2, 2, 2, 2], [252, 252, 252, 276, 276], 276),
    case(1, 60, [20] * 20, 1, 20),  # α-protection repeats its reset for ever
]


@functools.cache
def drawn(in_seconds=False):
    """The same instances for all policies, so that each is compiled once."""
    rng = np.random.default_rng(SEED)
    cases = [random_case(rng, seconds=in_seconds) for _ in range(26)]
    # α-protection may repeat a reset until the last arrival.
    cases += [hard_case(rng, seconds=in_seconds, latest=2_000) for _ in range(20)]
    perfect = [case(x.prompt, x.capacity, x.output, x.output, x.output) for x in cases[:4]]
    return cases if in_seconds else cases + perfect + SPECIAL + [made for made, *_ in BY_HAND]


@functools.cache
def played(policy):
    """What becomes of them."""
    return package_outcome(drawn(), policy, record=ROUNDS)


@pytest.mark.parametrize("name", ZOO)
def test_exact_agreement(name):
    policy, rules = ZOO[name]
    for lane, one in enumerate(drawn()):
        assert differences(one, rules, played(policy), lane) == [], (SEED, one)


@pytest.mark.parametrize("name", IN_SECONDS)
def test_exact_agreement_in_seconds(name):
    policy, rules = ZOO[name]
    schedule = package_outcome(drawn(in_seconds=True), policy, EXACT_SECONDS)
    for lane, one in enumerate(drawn(in_seconds=True)):
        assert differences(one, rules, schedule, lane, EXACT_SECONDS) == [], (SEED, one)


@pytest.mark.parametrize("name", ["h_sf", "a_max", "a_min"])
def test_instances_by_hand(name):
    policy, rules = ZOO[name]
    lanes = range(len(drawn()) - len(BY_HAND), len(drawn()))
    for lane, (one, *finishes) in zip(lanes, BY_HAND, strict=True):
        wanted = finishes[("h_sf", "a_max", "a_min").index(name)]
        assert played(policy).finish[lane, : len(wanted)].tolist() == wanted
        jobs = reference.simulate(*vars(one).values(), rules).jobs
        assert [job.finish for job in jobs] == wanted


@pytest.mark.parametrize("policy", [*(policy for policy, _ in ZOO.values()), CLEARING], ids=str)
def test_what_every_policy_promises(policy):
    requests, capacity = stacked(drawn())
    schedule = played(policy)
    real, done = np.asarray(requests.output) > 0, schedule.finish >= 0
    finished = schedule.status == ScheduleStatus.FINISHED
    # Statuses are honest, and only what resets may give up.
    assert ((done == real).all(axis=1) == finished).all()
    assert (finished | (schedule.status == ScheduleStatus.MAX_ROUNDS)).all()
    assert finished.all() or policy.beta
    assert np.isinf(schedule.total_latency[~finished]).all()
    # Memory: within M in every round, and as much as the last runs alone hold at the least.
    assert (schedule.peak_occupancy <= capacity).all()
    short = schedule.rounds <= ROUNDS
    peak = schedule.occupancy.max(axis=1)
    assert (peak[short] == schedule.peak_occupancy[short]).all()
    for lane in np.flatnonzero(short & finished):
        held = held_by_last_runs(requests, schedule, lane)
        assert (held <= schedule.occupancy[lane, : held.size]).all()
        if schedule.evictions[lane].sum() == 0:
            assert (held == schedule.occupancy[lane, : held.size]).all()
    # Nobody finishes sooner than possible; who never evicts starts once.
    earliest = np.asarray(requests.arrival + requests.output)
    assert (schedule.finish[done] >= earliest[done]).all()
    assert (schedule.first_start[done] >= np.asarray(requests.arrival)[done]).all()
    assert (schedule.start[done] >= schedule.first_start[done]).all()
    assert (schedule.wasted >= schedule.recomputed).all()
    assert policy.evicts or schedule.evictions.sum() == 0
    # Padding is as if it were not there.
    assert (schedule.start[~real] == -1).all()
    assert np.isnan(schedule.latency[~real]).all()
    assert schedule.evictions[~real].sum() == 0


def held_by_last_runs(requests, schedule, lane):
    """Tokens held after every round by those who run and will not be killed."""
    held = np.zeros(schedule.rounds[lane], int)
    for i in np.flatnonzero(schedule.finish[lane] >= 0):
        start, finish = schedule.start[lane, i], schedule.finish[lane, i]
        first = int(requests.prompt[lane, i] + requests.output[lane, i]) - (finish - start)
        held[start:finish] += first + 1 + np.arange(finish - start)
    return held


def test_predictions_that_make_policies_one():
    """Perfect ones make three policies one; too long ones let MC-SF evict no one."""
    lanes = slice(46, 50)
    wanted = played(policies.HindsightShortestFirst()).finish[lanes]
    for policy in (policies.AMax(), policies.AMin(), policies.MCSF()):
        assert (played(policy).finish[lanes] == wanted).all()
    cases = [Case(**vars(one) | {"predicted": one.upper}) for one in drawn()]
    assert package_outcome(cases, policies.MCSF(), record=ROUNDS).evictions.sum() == 0


def test_alpha_protection_repeats_its_reset_for_ever():
    schedule = played(ZOO["alpha 0"][0])
    lane = len(drawn()) - len(BY_HAND) - 1
    assert schedule.status[lane] == ScheduleStatus.MAX_ROUNDS
    assert schedule.rounds[lane] < 10


def test_clearing_with_probability_one_is_alpha_protection():
    sure = played(policies.AlphaBetaClearing(0.25, 1.0))
    jax.tree.map(np.testing.assert_array_equal, sure, played(ZOO["alpha 0.25"][0]))
