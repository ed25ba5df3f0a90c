"""Run with eight virtual devices: one batch in every form that JAX can give it, on fresh input.

A program of its own, as the number of devices is fixed when JAX starts. Prints the seed first; the
variable JAXALLOC_TEST_SEED gives one back.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from convert import as_workload
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from problems import random_workloads

from jaxalloc import Requests, Workload, policies, simulate, simulate_batch, solve, solve_batch
from jaxalloc.allocation.optimum import batch as allocation_batch
from jaxalloc.scheduling import simulation

jax.config.update("jax_enable_x64", True)
LANES, WIDTH, CAPACITY = 16, 12, 40
POLICY = policies.AMin()


def draw(seed):
    rng = np.random.default_rng(seed)
    fields = random_workloads(seed, LANES, 4)
    fields["arrival_rate"][3], fields["gain"][5] = 1e9, np.nan  # a failure of two kinds
    output = rng.integers(0, 12, (LANES, WIDTH))
    arrival = rng.integers(0, 9, (LANES, WIDTH))
    return as_workload(fields), Requests.create(prompt=2, output=output, arrival=arrival)


def play(requests):
    return simulate_batch(requests, CAPACITY, POLICY)


def put(tree, mesh):
    return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P("x"))), tree)


def forms(mesh, explicit):
    """Ways to run a batch on eight devices, by name."""

    def checked(run):
        return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("x"), out_specs=P("x")))

    return {
        "auto": lambda run, given: jax.jit(run)(put(given, mesh)),
        "explicit": lambda run, given: jax.jit(run)(put(given, explicit)),
        "shard_map": lambda run, given: checked(run)(put(given, mesh)),
        "eager": lambda run, given: run(put(given, mesh)),
    }


def same_schedule(found, wanted, form):
    for name, leaf in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), leaf, err_msg=f"{form}: {name}")


def same_allocation(found, wanted, form):
    np.testing.assert_array_equal(found.status, wanted.status, err_msg=form)
    for name, rtol in (("tokens", 1e-7), ("objective", 1e-11)):
        got, right = getattr(found, name), getattr(wanted, name)
        np.testing.assert_allclose(got, right, rtol=rtol, atol=1e-5, err_msg=f"{form}: {name}")


def is_spread(tree, form):
    for leaf in jax.tree.leaves(tree):
        assert leaf.sharding.spec[0] == "x", f"{form}: {leaf.sharding}"
        assert len(leaf.devices()) == 8, f"{form}: {leaf.sharding}"


def gradient(scale, workloads):
    """Of a loss, as in a step of training that changes the gain."""

    def loss(scale):
        fields = {**vars(workloads), "gain": jnp.clip(workloads.gain * scale, 1e-3, 1.0)}
        return jnp.sum(solve_batch(Workload(**fields)).objective) / LANES

    return jax.grad(loss)(scale)


def stays_where_it_is(workloads, requests):
    """What is on a device is answered there, and what is nowhere yet on the default one."""
    second = jax.devices()[1]
    here = jax.device_put((workloads, requests), second)
    for answer in (solve_batch(here[0]), play(here[1])):
        assert all(leaf.devices() == {second} for leaf in jax.tree.leaves(answer))
    nowhere = jax.tree.map(np.asarray, (workloads, requests))
    with jax.default_device(second):
        for answer in (solve_batch(nowhere[0]), play(nowhere[1])):
            assert all(leaf.devices() == {second} for leaf in jax.tree.leaves(answer))


def check(seed):
    workloads, requests = draw(seed)
    optimum, schedule = solve_batch(workloads), play(requests)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *(
        simulate(jax.tree.map(lambda x, i=i: x[i], requests), CAPACITY, POLICY)
        for i in range(LANES)
    ))  # fmt: skip
    same_schedule(alone, schedule, "one by one")
    singles = [solve(jax.tree.map(lambda x, i=i: x[i], workloads)) for i in range(LANES)]
    same_allocation(jax.tree.map(lambda *x: jnp.stack(x), *singles), optimum, "one by one")
    allocation_batch._CPU_LANES = simulation.CPU_CHUNK = 3
    stays_where_it_is(workloads, requests)
    same_allocation(solve_batch(workloads), optimum, "other chunks")
    same_schedule(play(requests), schedule, "other chunks")
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    explicit = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))
    for form, run in forms(mesh, explicit).items():
        found = run(solve_batch, workloads)
        same_allocation(found, optimum, form)
        is_spread(found, form)
        found = run(play, requests)
        same_schedule(found, schedule, form)
        is_spread(found, form)
    safe = jax.tree.map(lambda x: jnp.asarray(x).at[jnp.array([3, 5])].set(x[:2]), workloads)
    scale = jnp.asarray(0.9)
    wanted = gradient(scale, safe)
    spread = jax.shard_map(gradient, mesh=mesh, in_specs=(P(), P("x")), out_specs=P())
    found = [jax.jit(gradient)(scale, put(safe, mesh)), jax.jit(spread)(scale, put(safe, mesh))]
    np.testing.assert_allclose(found, [wanted] * 2, rtol=1e-6)


if __name__ == "__main__":
    number = int(os.environ.get("JAXALLOC_TEST_SEED") or np.random.SeedSequence().entropy % 2**32)
    print(f"JAXALLOC_TEST_SEED={number}", flush=True)
    check(number)
    print("all forms agree")
