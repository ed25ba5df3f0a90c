"""How lanes end: which status wins, and what tokens, objective, residual and steps go with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload, lane, stack
from problems import qwen3_8b, random_workloads

from jaxalloc import (
    FixedPoint,
    Newton,
    ProjectedGradient,
    Status,
    mean_system_time,
    solve,
    solve_batch,
    utilization,
)
from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.allocation.model.mg1 import queue
from jaxalloc.allocation.optimum.optimum import classify, first_point, run

SOLVERS = [Newton(), FixedPoint(), ProjectedGradient(), ProjectedGradient(certified=True)]
NAMES = tuple(qwen3_8b(0.1))
PER_SERVER = ("arrival_rate", "accuracy_weight", "token_price")


def changed(**changes):
    fields = {name: np.array(value, dtype=np.float64) for name, value in qwen3_8b(0.1).items()}
    for name, value in changes.items():
        if name in PER_SERVER:
            fields[name] = np.asarray(value)
        else:
            fields[name][2] = value
    return fields


INFEASIBLE = changed(arrival_rate=100.0)


def test_the_numbers_of_the_statuses():
    assert {status.name: int(status) for status in Status} == {
        "CONVERGED": 0,
        "MAX_STEPS": 1,
        "INFEASIBLE": 2,
        "NON_FINITE": 3,
        "INVALID": 4,
    }


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_in_any_field(value):
    batch = [changed(**{name: value}) for name in NAMES]
    # With the least and with the most that could be said besides.
    worse = {"arrival_rate": 1e9, "decay": -1.0}
    batch += [changed(**{**worse, name: value}) for name in NAMES]
    answers = solve_batch(stack([as_workload(fields) for fields in batch]))
    for index, fields in enumerate(batch):
        check_failed(lane(answers, index), Status.NON_FINITE, fields)


def test_a_value_outside_the_domain_in_any_field():
    batch = [changed(**{name: -1e-3}) for name in NAMES]
    batch += [changed(decay=0.0), changed(time_per_token=0.0), changed(min_tokens=20000.0)]
    batch += [changed(arrival_rate=1e9, gain=-1.0)]  # would be infeasible too
    answers = solve_batch(stack([as_workload(fields) for fields in batch]))
    for index, fields in enumerate(batch):
        check_failed(lane(answers, index), Status.INVALID, fields)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("initial", [None, np.full(5, 100.0)])
def test_every_solver_names_the_lanes_that_cannot_be_solved(solver, initial):
    batch = [
        (changed(gain=np.nan), Status.NON_FINITE),
        (changed(gain=-1.0), Status.INVALID),
        (INFEASIBLE, Status.INFEASIBLE),
        ({**changed(arrival_rate=0.4), "min_tokens": np.full(5, 4000.0)}, Status.INFEASIBLE),
    ]
    workloads = stack([as_workload(fields) for fields, _ in batch])
    start = None if initial is None else jnp.broadcast_to(initial, (len(batch), 5))
    answers = solve_batch(workloads, solver, start)
    for index, (fields, status) in enumerate(batch):
        check_failed(lane(answers, index), status, fields)


def test_without_accuracy_above_one_being_an_error():
    answer = solve(as_workload({**changed(), "floor": np.full(5, 0.9)}))
    assert answer.status == Status.CONVERGED  # a matter of meaning, not of mathematics


@pytest.mark.parametrize("num_types", [1, 2, 8, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_threshold_of_infeasibility(num_types, dtype):
    """A queue is feasible iff any idle time is left, be it one last bit of the arrival rate."""
    fields = lane(random_workloads(41, 1, num_types), 0)
    fields["base_time"] = np.full(num_types, 1.0)
    fields["min_tokens"] = np.zeros(num_types)
    fields["mix"] = np.full(num_types, 1 / num_types)
    eps = np.finfo(dtype).eps
    rates = [1.5, 1 + eps, 1.0, 1 - eps / 2, 1 - eps, 1 - 8 * eps, 1 - 1e-5]
    workloads = stack([as_workload({**fields, "arrival_rate": rate}, dtype) for rate in rates])
    answers = solve_batch(workloads)
    infeasible = np.asarray(answers.status) == Status.INFEASIBLE
    np.testing.assert_array_equal(infeasible, np.asarray(workloads.arrival_rate) >= 1)
    np.testing.assert_array_equal(infeasible, np.isneginf(answers.objective))
    for function, stable in ((mean_system_time, np.isfinite), (utilization, lambda x: x < 1)):
        said = stable(np.asarray(jax.vmap(function)(workloads, workloads.min_tokens)))
        np.testing.assert_array_equal(infeasible, ~said)
    # Just feasible lanes get an honest answer, whatever it is.
    said = np.asarray(answers.status) == Status.CONVERGED
    assert np.all(np.isfinite(np.asarray(answers.tokens)[~infeasible]))
    tolerance = 1e-5 if dtype == np.float32 else 1e-8
    assert np.all(np.asarray(answers.residual)[said] <= tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_dtype_cannot_hold_is_invalid(dtype):
    tiny, huge = (float(x) for x in (np.finfo(dtype).tiny, np.finfo(dtype).max))
    rate = float(np.finfo(dtype).eps) / tiny**0.5
    invalid = [changed(**{name: tiny / 4}) for name, field in FIELDS.items() if field.scales]
    invalid += [
        changed(arrival_rate=2 * rate, base_time=0.0),
        changed(accuracy_weight=4 * tiny),  # α b
        changed(base_time=2 * huge**0.5),  # its square
        changed(service_cv=2 * huge**0.5),
    ]
    answers = solve_batch(stack([as_workload(fields, dtype) for fields in invalid]))
    for index, fields in enumerate(invalid):
        check_failed(lane(answers, index), Status.INVALID, fields)
    # In the other fields a subnormal weighs nothing, and the smallest normal number is one.
    valid = [changed(**{n: tiny / 4}) for n in ("mix", "floor", "base_time", "service_cv")]
    valid += [changed(**{n: tiny}) for n in ("arrival_rate", "gain", "min_tokens", "max_tokens")]
    fields = {name: np.stack([one[name] for one in valid]) for name in NAMES}
    answers = solve_batch(as_workload(fields, dtype))
    np.testing.assert_array_equal(answers.status, Status.CONVERGED)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_steps_allowed(solver):
    idle = {**changed(arrival_rate=0.0), "gain": np.zeros(5)}  # the optimum is where it starts
    batch = [as_workload(changed()), as_workload(idle), as_workload(INFEASIBLE)]
    none = type(solver)(**{**vars(solver), "max_steps": 0})
    answers = solve_batch(stack(batch), none)
    expected = [Status.MAX_STEPS, Status.CONVERGED, Status.INFEASIBLE]
    np.testing.assert_array_equal(answers.status, expected)
    np.testing.assert_array_equal(answers.steps, 0)
    np.testing.assert_array_equal(answers.tokens[1], np.zeros(5))
    assert answers.residual[1] == 0
    assert 1e-8 < answers.residual[0] <= 1 + 1e-12
    assert np.all(np.isfinite(answers.tokens))


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

    for sound, called in [(changed(), True), (changed(gain=np.nan), False)]:
        taken = steps(stack([as_workload(fields) for fields in (INFEASIBLE, sound)]))
        jax.block_until_ready(taken)
        jax.effects_barrier()
        assert taken[0] == 0
        assert bool(counted) == bool(taken[1] > 0) == called
        counted.clear()
