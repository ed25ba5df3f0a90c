"""The parts of `gpu.py`, each run in a process of its own: one line of JSON a row.

    python benchmarks/gpu_parts.py PART [ARGUMENT ...] --full | --smoke

Without a GPU only `--smoke` works: tiny sizes, the kernels in interpret mode.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import common  # noqa: F401
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import problems
import scheduling_numba as numba_opponent
from gpu_rates import SMOKE, device, emit, peak_bytes, timed

import jaxalloc
from jaxalloc import Newton, Requests, Workload, policies, simulate_batch, solve_batch
from jaxalloc.allocation.optimum import gpu_kernel, optimum
from jaxalloc.backend import dispatch as backend

ROOT = Path(__file__).parents[1]
SEEDS = itertools.count(100)  # caps on steps that nothing was traced for
JUDGED = 2_000  # lanes beside the oracle and the CPU
TOLERANCE = {"float64": 1e-8, "float32": 1e-5}


def draw(lanes: int, num_types: int, dtype: str) -> tuple[Workload, int]:
    """Random workloads on the device; beyond a million (K = 6) they repeat."""
    distinct = min(lanes, 6_000_000 // num_types)
    fields = problems.random_workloads(0, distinct, num_types)

    def tile(value: Any) -> Any:
        once = jnp.asarray(value, dtype)
        times = (-(-lanes // distinct), *[1] * (once.ndim - 1))
        return jnp.tile(once, times)[:lanes] if lanes > distinct else once

    return Workload(**{name: tile(value) for name, value in fields.items()}), distinct


def operations(num_types: int, dtype: str, steps: float) -> float:
    """Arithmetic operations that a lane of that many steps takes at the least, counted as traced.

    Every operation on a number counts as one, transcendental ones too; an inner loop is counted
    once and of two branches the cheaper.
    """
    fields = problems.random_workloads(0, 1, num_types)
    workload = Workload(**{k: jnp.asarray(v[0], dtype) for k, v in fields.items()})
    solver = Newton()
    start = optimum.first_point(workload, None)
    state = solver.init(workload, start)
    first = jax.make_jaxpr(lambda w: optimum.first_point(w, None))(workload)
    turn = jax.make_jaxpr(solver.step)(workload, state)
    return _count(first) + steps * _count(turn)


def _count(traced: Any) -> float:
    total = 0.0
    for equation in getattr(traced, "jaxpr", traced).eqns:
        inner = [v for v in equation.params.values() if hasattr(v, "eqns")]
        branches = equation.params.get("branches")
        if branches:
            total += min(_count(branch) for branch in branches)
        elif equation.primitive.name == "reduce":
            total += sum(atom.aval.size for atom in equation.invars) / 2
        elif inner:
            total += sum(_count(each) for each in inner)
        elif "reduce" in equation.primitive.name:
            total += equation.invars[0].aval.size
        elif equation.primitive.name not in ("broadcast_in_dim", "reshape", "squeeze"):
            total += sum(out.aval.size for out in equation.outvars)
    return total


def allocation(dtype: str, num_types: int, plain: bool) -> None:
    """Workloads a second from and to device memory, from few to as many as there is room for."""
    sizes = [10_000, 100_000, 1_000_000, 10_000_000, 100_000_000]
    room = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 1 << 62)
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
            steps_most=int(jnp.max(answer.steps)),
            least_bytes=lanes * bytes_a_lane,
            least_operations=lanes * operations(num_types, dtype, steps),
            peak_bytes=peak_bytes(),
            converged=float(jnp.mean(answer.status == 0)),
            **judge(batch, answer, num_types, dtype),
        )


def judge(batch: Workload, answer: Any, num_types: int, dtype: str) -> dict[str, Any]:
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
        "false_claims": int(np.sum((status == 0) & ~(residual <= TOLERANCE[dtype]))),
        "worst_residual": float(residual.max()),
        "other_status_than_cpu": int(np.sum(status != np.asarray(cpu.status))),
        "worst_distance_from_cpu": float(np.max(np.abs(tokens - np.asarray(cpu.tokens)) / scale)),
    }


def blocks(dtype: str) -> None:
    """The kernel alone, with more and with fewer lanes a program: how the block was chosen."""
    lanes = 300 if SMOKE else 2_000_000
    batch, _ = draw(lanes, 6, dtype)
    # As if the server were idle at min_tokens: of the lanes' time that changes nothing.
    most_idle = jnp.ones(lanes, dtype)
    for numbers in (2, 4, 8):
        gpu_kernel._NUMBERS_A_THREAD = numbers

        def run(workload: Workload, most_idle: Any) -> Any:
            def one(workload: Workload, initial: Any, most_idle: Any) -> Any:
                start = optimum.first_point(workload, initial, most_idle)
                return optimum.run(workload, start, Newton())

            return gpu_kernel.in_blocks(one, (workload, None, most_idle), interpret=SMOKE)

        jitted = jax.jit(run)
        time_of = timed(lambda jitted=jitted: jitted(batch, most_idle), 5)
        emit(
            dtype=dtype,
            numbers_a_thread=numbers,
            lanes_a_program=gpu_kernel.lanes_a_program(6),
            **time_of,
            workloads_per_second=lanes / time_of["seconds"],
        )


def requests_of(size: int, num: int) -> tuple[np.ndarray, ...]:
    """As in `benchmarks/scheduling/speed.py`; beyond 2,000 instances they repeat."""
    rng = np.random.default_rng(0)
    distinct = min(size, 2_000)
    output = rng.integers(1, 256, (distinct, num)).astype(np.int32)
    prompt = rng.integers(1, 33, (distinct, num)).astype(np.int32)
    times = (-(-size // distinct), 1)
    arrays = prompt, output, np.maximum(output // 2, 1)
    return tuple(np.tile(array, times)[:size] for array in arrays)


def scheduling(name: str, plain: bool) -> None:
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
            evictions_mean=float(jnp.mean(schedule.total_evictions.astype(jnp.float32))),
            least_bytes=size * num * (6 + 9) * 4,
            peak_bytes=peak_bytes(),
            finished=float(jnp.mean(schedule.status == 0)),
            exact_beside_cpu=bool(same),
        )


def numba_sides() -> None:
    """The hand-written loops on all cores of this machine, on the same inputs."""
    import allocation_numba as numba_newton
    import numba

    for num_types, lanes in ((6, 1_000_000), (64, 100_000)):
        fields = problems.random_workloads(0, 300 if SMOKE else lanes, num_types)
        size = fields["mix"].shape[0]
        time_of = timed(lambda fields=fields: numba_newton.solve_batch(fields), 3)
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
    time_of = timed(lambda: numba_opponent.run_batch(*arguments), 3)
    emit(
        job="scheduling",
        policy="AMin",
        instances=size,
        requests=num,
        threads=numba.get_num_threads(),
        **time_of,
        requests_per_second=size * num / time_of["seconds"],
    )


def main() -> None:
    part, *rest = [word for word in sys.argv[1:] if not word.startswith("--")]
    jax.config.update("jax_enable_x64", True)
    plain = rest[-1:] == ["plain"]
    if SMOKE:
        backend.kernel_form = (lambda: None) if plain else (lambda: "interpret")
    elif not plain and part in ("allocation", "scheduling", "blocks"):
        assert backend.kernel_form() == "gpu", "no GPU for the kernels here"
    match part:
        case "device":
            device()
        case "allocation":
            allocation(rest[0], int(rest[1]), plain)
        case "blocks":
            blocks(rest[0])
        case "scheduling":
            scheduling(rest[0], plain)
        case "numba":
            numba_sides()
        case _:
            raise SystemExit(f"no part {part}")


if __name__ == "__main__":
    assert jaxalloc.__file__.startswith(str(ROOT)), "another jaxalloc is first on the path"
    main()
