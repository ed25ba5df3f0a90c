"""The loss of rounding: three ways, their bounds, their sample paths."""

import jax
import jax.numpy as jnp
import numpy as np
from convert import as_workload, lane
from problems import random_workloads

from jaxalloc import Status, objective, round_tokens, rounding_loss, solve

WAYS = ("nearest", "floor", "best")


def test_losses_are_differences_of_the_objective_and_below_their_bounds():
    many = as_workload(random_workloads(4, 20, 3))
    lost = jax.jit(jax.vmap(rounding_loss))(many)
    rounding = jax.jit(jax.vmap(lambda w: round_tokens(w, solve(w))))(many)
    found = np.asarray(lost.status) == Status.CONVERGED
    assert found.sum() >= 15
    for way in WAYS:
        loss = getattr(lost, way)
        np.testing.assert_array_equal(loss.tokens[found], getattr(rounding, way)[found])
        plain = lost.objective - jax.vmap(objective)(many, loss.tokens)
        scale = 1e-12 * np.asarray(many.accuracy_weight)
        assert np.all(np.abs(loss.loss - plain)[found] <= scale[found] + 1e-6 * loss.loss[found])
        assert np.all(loss.loss[found] <= loss.bound[found])
        assert np.all(np.isnan(loss.simulated))
    assert np.all(lost.best.loss[found] <= lost.nearest.loss[found])
    assert np.all(lost.best.loss[found] <= lost.floor.loss[found])


def test_on_sample_paths():
    # Few, dear tokens: a token more or less is seen.
    fields = random_workloads(4, 20, 3)
    workload = lane(as_workload(fields), 0)
    coarse = {
        "arrival_rate": jnp.array(0.4),
        "decay": jnp.full(3, 0.3),
        "base_time": jnp.full(3, 0.1),
        "time_per_token": jnp.full(3, 0.2),
        "min_tokens": jnp.zeros(3),
        "max_tokens": jnp.full(3, 50.0),
        "accuracy_weight": jnp.array(10.0),
        "service_cv": jnp.zeros(3),
    }
    workload = type(workload)(**(vars(workload) | coarse))
    lost = rounding_loss(workload, jax.random.key(0), 200_000)
    for way in WAYS:
        loss = getattr(lost, way)
        assert loss.low - 1e-12 <= loss.loss <= loss.high + 1e-12
        assert loss.low <= loss.simulated <= loss.high
    assert lost.floor.high - lost.floor.low < 0.02  # either path alone leaves ten times as much


def test_an_infeasible_workload():
    workload = lane(as_workload(random_workloads(4, 20, 3)), 0)
    busy = type(workload)(**(vars(workload) | {"arrival_rate": jnp.array(1e9)}))
    lost = rounding_loss(busy)
    assert int(lost.status) == Status.INFEASIBLE
    assert np.isnan(lost.best.loss)
