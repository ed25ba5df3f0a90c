"""How `gpu_parts.py` times and reports, what the device can do, and what a lane takes of it."""

import sys

import common
import jax
import jax.numpy as jnp
import problems
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxalloc import Newton, Workload
from jaxalloc.allocation.optimum import loop

SMOKE = "--smoke" in sys.argv


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
    """What bounds any kernel here: how fast bytes move, and how fast numbers are multiplied."""
    found = jax.devices()[0]
    emit(device=found.device_kind, platform=found.platform, jax=jax.__version__)
    for dtype in ("float32", "float64"):
        x = jnp.ones(1 << (16 if SMOKE else 28), dtype)
        copy = jax.jit(lambda x: x + 1)
        seconds = timed(lambda x=x, copy=copy: copy(x), 5)["seconds"]
        emit(dtype=dtype, bytes_per_second=2 * x.nbytes / seconds)
        multiply, steps = multiplication(dtype)
        emit(dtype=dtype, multiply_adds_per_second=steps / timed(multiply, 5)["seconds"])


def multiplication(dtype):
    """A kernel that multiplies and adds in registers, and how often it does."""
    programs, block, turns, unrolled = (2, 1024, 4, 16) if SMOKE else (132 * 64, 1024, 512, 16)

    def program(given, result):
        def turn(_, x):
            for _ in range(unrolled):
                x = x * 0.999 + 0.001
            return x

        result[:] = jax.lax.fori_loop(0, turns, turn, given[:])

    own = pl.BlockSpec((block,), lambda i: (i,))
    x = jnp.ones(programs * block, dtype)
    kernel = pl.pallas_call(
        program,
        out_shape=x,
        grid=(programs,),
        in_specs=[own],
        out_specs=own,
        interpret=SMOKE,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )
    jitted = jax.jit(kernel)
    return lambda: jitted(x), float(x.size * turns * unrolled)


def operations(num_types, dtype, steps):
    """Arithmetic operations that a lane of that many steps takes at the least, counted as traced.

    Every operation on a number counts as one, transcendental ones too; an inner loop is counted
    once and of two branches the cheaper.
    """
    fields = problems.random_workloads(0, 1, num_types)
    workload = Workload(**{k: jnp.asarray(v[0], dtype) for k, v in fields.items()})
    solver = Newton()
    start = loop.first_point(workload, None)
    state = solver.init(workload, start)
    first = jax.make_jaxpr(lambda w: loop.first_point(w, None))(workload)
    turn = jax.make_jaxpr(solver.step)(workload, state)
    return _count(first) + steps * _count(turn)


def _count(traced):
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
