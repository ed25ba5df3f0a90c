"""The training examples under `benchmarks` do what they say, in a short form."""

import allocation_decision_focused as decision_focused
import allocation_online_tuning as online_tuning
import jax


def test_decision_focused_learning_learns():
    with jax.numpy_rank_promotion("allow"):
        sides = decision_focused.run_seed(0, steps=20)
    for side in sides.values():
        first, *_, last = side["held_out_regret"]
        assert 0 < last < first


def test_online_tuning_keeps_its_promise_better_than_fixed_budgets():
    day = online_tuning.run_day(0, intervals=48)
    sides = online_tuning.summary(day)
    assert sides["oracle"]["miss"] < 1e-6
    assert sides["followed"]["miss"] < 0.7 * sides["fixed"]["miss"]
    assert day["steps"]["warm"] < day["steps"]["cold"]
