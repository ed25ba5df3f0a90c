"""How lanes end: which status wins, and what tokens, objective, residual and steps go with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import LANES, NEWTON, as_workload, lane, side_by_side, solve_all, stack
from problems import PER_SERVER, priced, qwen3_8b, random_workloads

from jaxalloc import (
    FixedPoint,
    Newton,
    ProjectedGradient,
    Status,
    mean_system_time,
    solve_batch,
    status_fractions,
    utilization,
)
from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.allocation.model.mg1 import queue
from jaxalloc.allocation.optimum.loop import first_point, run
from jaxalloc.allocation.optimum.solve import classify

SOLVERS = [Newton(), FixedPoint(), ProjectedGradient(), ProjectedGradient(certified=True)]


def changed(**changes):
    """The preset, six types, with a number of one type or of the server replaced."""
    fields = {k: v if k in PER_SERVER else np.append(v, v[0]) for k, v in qwen3_8b(0.1).items()}
    fields = {name: np.array(fields.get(name, 0.0), dtype=np.float64) for name in FIELDS}
    fields["mix"] = np.full(6, 1 / 6)
    for name, value in changes.items():
        fields[name][() if name in PER_SERVER else 2] = value
    return fields


def check_failed(answer, status, fields):
    assert answer.status == status
    assert answer.steps == 0
    assert np.isposinf(answer.residual)
    if status == Status.INFEASIBLE:
        np.testing.assert_array_equal(answer.tokens, fields["min_tokens"])
        assert np.isneginf(answer.objective)
    else:
        assert np.all(np.isnan(answer.tokens))
        assert np.isnan(answer.objective)


def check_all(cases, solver=NEWTON, dtype=np.float64):
    """Every case ends with its status, and with nothing else that is said."""
    answers = solve_all(side_by_side([fields for fields, _ in cases]), solver, dtype=dtype)
    for index, (fields, status) in enumerate(cases):
        check_failed(lane(answers, index), status, fields)


def test_the_numbers_and_texts_of_the_statuses():
    names = ["CONVERGED", "MAX_STEPS", "INFEASIBLE", "NON_FINITE", "INVALID"]
    assert [Status(number).name for number in range(5)] == names
    assert all(status.meaning for status in Status)
    assert [bool(status.advice) for status in Status] == [False, True, True, True, True]


def test_a_number_that_is_not_finite_in_any_field_wins_over_all_else():
    worse = {"arrival_rate": 1e9, "decay": -1.0}
    for value in (np.nan, np.inf, -np.inf):
        cases = [changed(**{**base, name: value}) for name in FIELDS for base in ({}, worse)]
        check_all([(fields, Status.NON_FINITE) for fields in cases])


def test_a_value_outside_the_domain_in_any_field_wins_over_an_unstable_queue():
    cases = [changed(**{name: -1e-3}) for name in FIELDS]
    cases += [changed(decay=0.0), changed(time_per_token=0.0), changed(min_tokens=20000.0)]
    cases += [changed(arrival_rate=1e9, gain=-1.0)]
    check_all([(fields, Status.INVALID) for fields in cases])


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_names_the_lanes_that_cannot_be_solved(solver):
    loaded = {**changed(arrival_rate=0.4), "min_tokens": np.full(6, 4000.0)}
    cases = [
        (changed(gain=np.nan), Status.NON_FINITE),
        (changed(gain=-1.0), Status.INVALID),
        (changed(arrival_rate=100.0), Status.INFEASIBLE),
        (loaded, Status.INFEASIBLE),
    ]
    check_all(cases, solver)


@pytest.mark.parametrize("num_types", [1, 6, 32])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_threshold_of_infeasibility(num_types, dtype):
    """A queue is feasible iff any idle time is left, be it one last bit of the arrival rate."""
    one = lane(random_workloads(41, 1, num_types), 0)
    one["base_time"] = np.full(num_types, 1.0)
    one["min_tokens"] = np.zeros(num_types)
    # Shares that every dtype adds up to 1 exactly.
    one["mix"] = np.array([0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125][:num_types])
    one["mix"] = np.full(num_types, 1 / num_types) if num_types != 6 else one["mix"]
    eps = np.finfo(dtype).eps
    rates = [1.5, 1 + eps, 1.0, 1 - eps / 2, 1 - eps, 1 - 8 * eps, 1 - 1e-5]
    fields = side_by_side([{**one, "arrival_rate": np.asarray(rate)} for rate in rates])
    answers, workloads = solve_all(fields, dtype=dtype), as_workload(fields, dtype)
    infeasible = answers.status == Status.INFEASIBLE
    np.testing.assert_array_equal(infeasible, np.asarray(workloads.arrival_rate) >= 1)
    np.testing.assert_array_equal(infeasible, np.isneginf(answers.objective))
    for function, stable in ((mean_system_time, np.isfinite), (utilization, lambda x: x < 1)):
        said = stable(np.asarray(jax.vmap(function)(workloads, workloads.min_tokens)))
        np.testing.assert_array_equal(infeasible, ~said)
    # Just feasible lanes get an honest answer, whatever it is.
    assert np.all(np.isfinite(answers.tokens))
    tolerance = 1e-5 if dtype == np.float32 else 1e-8
    assert np.all(answers.residual[answers.status == Status.CONVERGED] <= tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_dtype_cannot_hold_is_invalid(dtype):
    tiny, huge = (float(x) for x in (np.finfo(dtype).tiny, np.finfo(dtype).max))
    fastest = float(np.finfo(dtype).eps) / tiny**0.5
    cases = [changed(**{name: tiny / 4}) for name, field in FIELDS.items() if field.scales]
    cases += [
        changed(arrival_rate=2 * fastest, base_time=0.0),
        changed(accuracy_weight=4 * tiny),  # α b
        changed(time_per_token=2 * tiny),
        changed(base_time=2 * huge**0.5),  # its square
        changed(service_cv=2 * huge**0.5),
    ]
    check_all([(fields, Status.INVALID) for fields in cases], dtype=dtype)
    # In the other fields a subnormal weighs nothing, and the smallest normal number is one.
    valid = [changed(**{n: tiny / 4}) for n, field in FIELDS.items() if not field.scales]
    valid += [changed(**{n: tiny}) for n in ("arrival_rate", "gain", "min_tokens", "max_tokens")]
    valid += [changed() | {"floor": np.full(6, 0.9)}]  # accuracy above 1 is a matter of meaning
    answers = solve_all(side_by_side(valid), dtype=dtype)
    np.testing.assert_array_equal(answers.status, Status.CONVERGED)


def test_no_steps_allowed():
    idle = {**changed(arrival_rate=0.0), "gain": np.zeros(6)}  # the optimum is where it starts
    cases = [changed(), idle, changed(arrival_rate=100.0)]
    answers = solve_all(side_by_side(cases), Newton(max_steps=0))
    expected = [Status.MAX_STEPS, Status.CONVERGED, Status.INFEASIBLE]
    np.testing.assert_array_equal(answers.status[:3], expected)
    np.testing.assert_array_equal(answers.steps, 0)
    np.testing.assert_array_equal(answers.tokens[1], np.zeros(6))
    assert answers.residual[1] == 0
    assert 1e-8 < answers.residual[0] <= 1 + 1e-12
    assert np.all(np.isfinite(answers.tokens))


def test_shares_of_the_statuses():
    fields = priced(random_workloads(32, LANES))
    fields["arrival_rate"][:50], fields["gain"][50:60], fields["decay"][60:100] = 1e9, np.nan, -1
    answer = solve_batch(as_workload(fields))
    shares = {"CONVERGED": 0.5, "MAX_STEPS": 0.0, "INFEASIBLE": 0.25}
    shares |= {"NON_FINITE": 0.05, "INVALID": 0.2}
    assert status_fractions(answer) == pytest.approx(shares)
    traced = jax.jit(status_fractions)(answer)
    assert {name: float(share) for name, share in traced.items()} == pytest.approx(shares)
    nothing = jax.tree.map(lambda leaf: leaf[:0], answer)
    assert set(status_fractions(nothing).values()) == {0.0}


def test_a_failed_lane_takes_no_steps_in_a_vmapped_loop():
    """Lanes decided before the loop must not hold it back: no step is computed for them alone."""
    counted = []

    class Counting(Newton):
        def step(self, workload, state):
            jax.debug.callback(counted.append, state.distance)
            return super().step(workload, state)

    @jax.jit
    @jax.vmap
    def steps(workload):
        solvable = classify(workload) == Status.CONVERGED
        most_idle = jnp.where(solvable, queue(workload, workload.min_tokens).idle, 0)
        return run(workload, first_point(workload, None, most_idle), Counting())[1]

    overloaded = as_workload(changed(arrival_rate=100.0))
    for sound, called in [(changed(), True), (changed(gain=np.nan), False)]:
        taken = jax.block_until_ready(steps(stack([overloaded, as_workload(sound)])))
        jax.effects_barrier()
        assert taken[0] == 0
        assert bool(counted) == bool(taken[1] > 0) == called
        counted.clear()
