"""What every policy promises on any instance; a new policy is one more line of `CONTRACT`."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxalloc import Requests, ScheduleStatus, policies, simulate

WIDTH = 24  # padded, so that every example runs what the first one compiled
ROUNDS = 3_000

# policy: does it evict? must it finish?
CONTRACT = {
    policies.HindsightShortestFirst(): (False, True),
    policies.MCSF(): (True, True),
    policies.MCBenchmark(): (True, True),
    policies.AMax(): (False, True),
    policies.AMin(): (True, True),
    policies.AMin(tie="newest", refine_next=True, restart_same_round=False): (True, True),
    policies.VLLMFirstCome(): (True, True),
    policies.VLLMFirstCome(resume=False): (True, True),
    policies.AlphaProtection(0.2): (True, False),
    policies.AlphaBetaClearing(0.2, 0.3): (True, False),
}


@st.composite
def instances(draw):
    num = draw(st.integers(1, WIDTH))
    capacity = draw(st.integers(5, 60))
    prompt = draw(st.lists(st.integers(0, capacity // 3), min_size=num, max_size=num))
    output = [draw(st.integers(1, capacity - s)) for s in prompt]
    lower = [draw(st.integers(0, o)) for o in output]
    upper = [o + draw(st.integers(0, capacity)) for o in output]
    predicted = [max(o + draw(st.integers(-5, 5)), 0) for o in output]
    arrival = draw(st.lists(st.integers(0, 40), min_size=num, max_size=num))
    fields = {
        "prompt": prompt, "output": output, "lower": lower, "upper": upper,
        "predicted": predicted, "arrival": arrival,
    }  # fmt: skip
    return fields, capacity


def run(fields, capacity, policy, record=ROUNDS):
    padded = {k: np.pad(np.asarray(v, np.int32), (0, WIDTH - len(v))) for k, v in fields.items()}
    requests = Requests.create(**padded)
    key = jax.random.key(3)
    schedule = simulate(requests, capacity, policy, key=key, max_rounds=ROUNDS, record=record)
    return requests, jax.tree.map(np.asarray, schedule)


@pytest.mark.parametrize("policy", CONTRACT, ids=str)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(instance=instances())
def test_contract(policy, instance):
    evicts, finishes = CONTRACT[policy]
    fields, capacity = instance
    requests, schedule = run(fields, capacity, policy)
    real = np.asarray(requests.output) > 0
    done = schedule.finish >= 0
    # Statuses are honest.
    if schedule.status == ScheduleStatus.FINISHED:
        assert (done == real).all()
    else:
        assert schedule.status == ScheduleStatus.MAX_ROUNDS
        assert not finishes
        assert not done[real].all()
        assert schedule.rounds == ROUNDS or policy.reset_probability == 1  # a standstill
        assert np.isinf(schedule.total_latency)
    # Memory: within M in every round, and as much as the last runs alone hold at the least.
    assert schedule.occupancy.max() == schedule.peak_occupancy <= capacity
    held = held_by_last_runs(requests, schedule)
    assert (held <= schedule.occupancy[: held.size]).all()
    if schedule.evictions.sum() == 0 and done[real].all():
        assert (held == schedule.occupancy[: held.size]).all()
    # Nobody finishes sooner than possible; who never evicts starts once.
    earliest = np.asarray(requests.arrival + requests.output)
    assert (schedule.finish[done] >= earliest[done]).all()
    assert (schedule.first_start[done] >= np.asarray(requests.arrival)[done]).all()
    assert (schedule.start[done] >= schedule.first_start[done]).all()
    assert (schedule.wasted >= schedule.recomputed).all()
    assert evicts or schedule.evictions.sum() == 0
    # Padding is as if it were not there.
    assert (schedule.start[~real] == -1).all()
    assert np.isnan(schedule.latency[~real]).all()
    assert schedule.evictions[~real].sum() == 0


def held_by_last_runs(requests, schedule):
    """Tokens held after every round by those who run and will not be killed."""
    held = np.zeros(ROUNDS, int)
    for i in np.flatnonzero(schedule.finish >= 0):
        start, finish = schedule.start[i], schedule.finish[i]
        first = int(requests.prompt[i] + requests.output[i]) - (finish - start)
        held[start:finish] += first + 1 + np.arange(finish - start)
    return held[: schedule.rounds]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(instance=instances())
def test_over_predicting_mc_sf_never_evicts(instance):
    fields, capacity = instance
    fields = fields | {"predicted": fields["upper"]}
    _, schedule = run(fields, capacity, policies.MCSF())
    assert schedule.evictions.sum() == 0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(instance=instances())
def test_perfect_predictions_make_three_policies_one(instance):
    fields, capacity = instance
    fields = fields | {"lower": fields["output"], "upper": fields["output"]}
    wanted = run(fields, capacity, policies.HindsightShortestFirst())[1].finish
    for policy in (policies.AMax(), policies.AMin()):
        assert (run(fields, capacity, policy)[1].finish == wanted).all()


def test_alpha_protection_repeats_its_reset_for_ever():
    requests = Requests.create(prompt=1, output=np.full(20, 20))
    schedule = simulate(requests, 60, policies.AlphaProtection(0.1))
    assert int(schedule.status) == ScheduleStatus.MAX_ROUNDS
    assert int(schedule.rounds) < 10
    assert np.isinf(schedule.total_latency)
