"""The parts of `gpu.py`, each run in a process of its own: one line of JSON a row.

    python benchmarks/gpu_parts.py PART [ARGUMENT ...] --full | --smoke

Without a GPU only `--smoke` works: tiny sizes, the kernels in interpret mode.
"""

import itertools
import sys

import allocation_numba
import common
import jax
import jax.numpy as jnp
import numba
import numpy as np
import oracles
import problems
import scheduling_numba
import scheduling_speed

from jaxalloc import Newton, Requests, Workload, policies, simulate_batch, solve_batch
from jaxalloc.backend import dispatch as backend

SMOKE = "--smoke" in sys.argv
SEEDS = itertools.count(100)  # caps on steps that nothing was traced for
JUDGED = 2_000  # lanes beside the oracle and the CPU
TOLERANCE = {"float64": 1e-8, "float32": 1e-5}


def emit(**row):
    """One row of the report."""
    common.show(row)


def timed(run, repeats):
    """Seconds of a first call, which compiles, and of the others."""
    times = common.interleave({"": run}, repeats)[""]
    wall = times["wall"]
    return {
        "first_call_seconds": times["first_call_seconds"],
        "seconds": wall["median"],
        "seconds_quartiles": [wall["q1"], wall["q3"]],
        "repeats": repeats,
    }


def memory(name):
    """What this device says of its memory, in bytes."""
    return (jax.devices()[0].memory_stats() or {}).get(name, 0)


def device():
    """What bounds any kernel here: how fast bytes move."""
    found = jax.devices()[0]
    emit(device=found.device_kind, platform=found.platform, jax=jax.__version__)
    x = jnp.ones(1 << (16 if SMOKE else 28), "float32")
    copy = jax.jit(lambda x: x + 1)
    emit(bytes_per_second=2 * x.nbytes / timed(lambda: copy(x), 5)["seconds"])


def draw(lanes, num_types, dtype):
    """Random workloads on the device; beyond a million (K = 6) they repeat."""
    distinct = min(lanes, 6_000_000 // num_types)
    fields = problems.random_workloads(0, distinct, num_types)

    def tile(value):
        once = jnp.asarray(value, dtype)
        times = (-(-lanes // distinct), *[1] * (once.ndim - 1))
        return jnp.tile(once, times)[:lanes] if lanes > distinct else once

    return Workload(**{name: tile(value) for name, value in fields.items()}), distinct


def allocation(dtype, num_types, plain):
    """Workloads a second from and to device memory, from few to as many as there is room for."""
    sizes = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    room = memory("bytes_limit") or 1 << 62
    if plain:
        sizes = sizes[1:3]
    for lanes in [300] if SMOKE else sizes:
        batch, distinct = None, 0
        bytes_a_lane = (9 * num_types + 2 + num_types + 2) * np.dtype(dtype).itemsize + 8
        if 2.2 * lanes * bytes_a_lane > room:  # a batch, and a part of it in work
            emit(lanes=lanes, dtype=dtype, num_types=num_types, skipped="no room on the device")
            continue
        batch, distinct = draw(lanes, num_types, dtype)
        jax.block_until_ready(batch)
        time_of = timed(lambda batch=batch: solve_batch(batch), 3 if lanes > 10**7 else 7)
        answer = solve_batch(batch)
        steps = float(jnp.mean(answer.steps[:distinct].astype(jnp.float32)))
        emit(
            lanes=lanes,
            distinct=distinct,
            dtype=dtype,
            num_types=num_types,
            form="plain" if plain else "kernel",
            **time_of,
            workloads_per_second=lanes / time_of["seconds"],
            steps_mean=steps,
            steps_most=jnp.max(answer.steps),
            least_bytes=lanes * bytes_a_lane,
            peak_bytes=memory("peak_bytes_in_use"),
            converged=jnp.mean(answer.status == 0),
            **judge(batch, answer, num_types, dtype),
        )


def judge(batch, answer, num_types, dtype):
    """The first lanes beside the extended-precision oracle and beside the CPU's answers."""
    first = {name: np.asarray(leaf[:JUDGED]) for name, leaf in vars(batch).items()}
    tokens, status = np.asarray(answer.tokens[:JUDGED]), np.asarray(answer.status[:JUDGED])
    residual = np.asarray(oracles.residual(first, tokens), np.float64)
    with jax.default_device(jax.devices("cpu")[0]):
        cpu = solve_batch(
            Workload(**{name: jax.device_put(leaf) for name, leaf in first.items()}),
            Newton(max_steps=next(SEEDS)),
        )
    scale = 1 + np.abs(np.asarray(cpu.tokens))
    return {
        "judged": len(residual),
        "false_claims": np.sum((status == 0) & ~(residual <= TOLERANCE[dtype])),
        "worst_residual": float(residual.max()),
        "other_status_than_cpu": np.sum(status != np.asarray(cpu.status)),
        "worst_distance_from_cpu": np.max(np.abs(tokens - np.asarray(cpu.tokens)) / scale),
    }


def requests_of(size, num):
    """As in `scheduling_speed.py`; beyond 2,000 instances they repeat."""
    distinct = min(size, 2_000)
    arrays = scheduling_speed.instances(distinct, num)
    return tuple(np.tile(array, (-(-size // distinct), 1))[:size] for array in arrays)


def scheduling(name, plain):
    """Requests a second from and to device memory, 2,000 an instance."""
    num, capacity = (20, 400) if SMOKE else (2_000, 16_492)
    sizes = (64,) if plain else (64, 1_000, 4_000, 20_000) if name == "AMin" else (4_000,)
    policy = getattr(policies, name)()
    for size in (3,) if SMOKE else sizes:
        prompt, output, lower = requests_of(size, num)
        given = {"prompt": prompt, "output": output, "lower": lower, "upper": output}
        requests = Requests.create(**given)
        run = lambda requests=requests: simulate_batch(requests, capacity, policy)  # noqa: E731
        time_of = timed(run, 3)
        schedule = run()
        with jax.default_device(jax.devices("cpu")[0]):
            few = Requests.create(**{key: value[:32] for key, value in given.items()})
            cpu = simulate_batch(few, capacity, policy, slots=num + next(SEEDS))
        same = np.array_equal(np.asarray(schedule.finish[:32]), np.asarray(cpu.finish))
        rounds = float(jnp.mean(schedule.rounds.astype(jnp.float32)))
        emit(
            policy=name,
            form="plain" if plain else "kernel",
            instances=size,
            requests=num,
            **time_of,
            requests_per_second=size * num / time_of["seconds"],
            rounds_mean=rounds,
            evictions_mean=jnp.mean(schedule.total_evictions.astype(jnp.float32)),
            least_bytes=size * num * (6 + 9) * 4,
            peak_bytes=memory("peak_bytes_in_use"),
            finished=jnp.mean(schedule.status == 0),
            exact_beside_cpu=same,
        )


def numba_sides():
    """The hand-written loops on all cores of this machine, on the same inputs."""
    for num_types, lanes in ((6, 1_000_000), (64, 100_000)):
        fields = problems.random_workloads(0, 300 if SMOKE else lanes, num_types)
        size = fields["mix"].shape[0]
        time_of = timed(allocation_numba.prepare(fields), 3)
        emit(
            job="allocation",
            num_types=num_types,
            lanes=size,
            threads=numba.get_num_threads(),
            **time_of,
            workloads_per_second=size / time_of["seconds"],
        )
    size, num = (3, 20) if SMOKE else (4_000, 2_000)
    prompt, output, lower = requests_of(size, num)
    finish, evictions = np.zeros_like(output), np.zeros_like(output)
    arguments = prompt, output, lower, 400 if SMOKE else 16_492, finish, evictions
    time_of = timed(lambda: scheduling_numba.run_batch(*arguments), 3)
    emit(
        job="scheduling",
        policy="AMin",
        instances=size,
        requests=num,
        threads=numba.get_num_threads(),
        **time_of,
        requests_per_second=size * num / time_of["seconds"],
    )


def main():
    part, *rest = [word for word in sys.argv[1:] if not word.startswith("--")]
    jax.config.update("jax_enable_x64", True)
    plain = rest[-1:] == ["plain"]
    if SMOKE:
        backend.kernel_form = (lambda: None) if plain else (lambda: "interpret")
    elif not plain and part in ("allocation", "scheduling"):
        assert backend.kernel_form() == "gpu", "no GPU for the kernels here"
    if part == "allocation":
        allocation(rest[0], int(rest[1]), plain)
    elif part == "scheduling":
        scheduling(rest[0], plain)
    else:
        {"device": device, "numba": numba_sides}[part]()


if __name__ == "__main__":
    main()
