"""What may stand inside a native function: whatever the operation and its size, it compiles."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convert import as_workload
from jax import lax
from problems import random_workloads

from jaxalloc import BatchTime, Newton, Requests, policies, simulate, simulate_batch, solve_batch
from jaxalloc.backend import native
from jaxalloc.backend.dispatch import dispatch

STEPS = {
    "arithmetic": lambda x, i: jnp.where(x > 1, x / 2, x * x + 0.3),
    "long chain": lambda x, i: sum(jnp.sin(x * k) for k in range(12)),
    "sum": lambda x, i: x + 1e-3 * jnp.sum(x),
    "largest": lambda x, i: x + 1e-3 * jnp.max(x) + jnp.argmax(x),
    "sort": lambda x, i: jnp.sort(x) * 0.5,
    "cumulative": lambda x, i: jnp.cumsum(x) * 1e-3,
    "scatter": lambda x, i: x.at[i * jnp.arange(x.size) % x.size].add(1.0),
    "gather": lambda x, i: x[i * jnp.arange(x.size) % x.size],
    "product": lambda x, i: x + jnp.dot(x, x) * 1e-6,
    "update": lambda x, i: lax.dynamic_update_slice(x, x[:1] + 1, (i,)),
    "top": lambda x, i: x + lax.top_k(x, 2)[0].sum(),
    "random": lambda x, i: (
        x + jax.random.uniform(jax.random.fold_in(jax.random.key(0), i), x.shape)
    ),
    "shift": lambda x, i: jnp.concatenate([x[1:], x[:1]])[::-1],
    "callback": lambda x, i: jax.pure_callback(lambda y: y + 1, x, x, vmap_method="sequential"),
}
OUTSIDE = {"sort", "cumulative", "scatter", "product", "top", "callback"}  # at any size
SIZES = [3, 5000, 70_000]  # on both sides of what XLA splits or hands to a library


def loop(step):
    def run(x):
        turn = lambda carry: (step(carry[0], carry[1]), carry[1] + 1)  # noqa: E731
        return lax.while_loop(lambda carry: carry[1] < 3, turn, (x, jnp.int32(0)))[0]

    return run


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", STEPS)
def test_every_operation_compiles_at_every_size(name, size):
    run = loop(STEPS[name])
    x = jnp.asarray(np.random.default_rng(size).uniform(size=(2, size)))
    found = jax.jit(jax.vmap(lambda lane: dispatch(run, lane)))(x)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(run))(x), rtol=1e-9)
    inside = native.obstacle(jax.make_jaxpr(run)(x[0])) is None
    assert not inside if name in OUTSIDE or size == SIZES[-1] else inside or size > 3


def test_a_wide_instance_and_many_types_run_as_the_rest_do():
    requests = Requests.create(prompt=1, output=np.full((4, 30_000), 2))
    model = BatchTime(base=1.0, per_request=0.0, per_token=0.0, per_prefill=0.0)
    options = {"batch_time": model, "slots": 64, "max_rounds": 3}
    many = simulate_batch(requests, 100_000, policies.AMin(), **options)
    one = simulate(jax.tree.map(lambda x: x[0], requests), 100_000, policies.AMin(), **options)
    np.testing.assert_array_equal(many.start[3], one.start)
    assert np.all(solve_batch(as_workload(random_workloads(5, 2, 1100))).status == 0)


@pytest.mark.parametrize("switch", ["0", "1"])
def test_a_wing_is_few_native_functions_or_none(switch, monkeypatch):
    """One function solves, one begins and one plays; nothing within is marked."""
    monkeypatch.setenv("JAXALLOC_CPU_KERNELS", switch)
    workloads = as_workload(random_workloads(5, 3))
    requests = Requests.create(prompt=1, output=[[2, 4, 3]], upper=4)
    solve = jax.jit(lambda given: solve_batch(given, Newton(max_steps=43)))
    simulate = jax.jit(lambda given: simulate_batch(given, 9, policies.AlphaBetaClearing()))
    for lowered, functions in ((solve.lower(workloads), 1), (simulate.lower(requests), 2)):
        assert lowered.as_text().count("xla_cpu_small_call") == functions * int(switch)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the native function is for CPUs")
@pytest.mark.parametrize("policy", [policies.AMin(), policies.VLLMFirstCome()], ids=str)
def test_what_is_compiled_is_one_function_that_copies_no_array(policy):
    requests = Requests.create(prompt=1, output=np.ones((4, 1000), int))
    text = jax.jit(lambda r: simulate_batch(r, 100, policy)).lower(requests).compile().as_text()
    assert 'inlineable="false",xla_cpu_small_call="true"' in text
    # The ledger, the slots, and the usage or the waiting keys of one instance.
    carried = {"7,1000", "6,1024", "1024"}
    assert all(f"s32[{shape}]" in text for shape in carried)
    assert carried & set(re.findall(r"= s32\[([\d,]+)\]\S* copy\(", text)) == set()
