"""How `gpu_parts.py` times and reports, and what this device does at the most."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMOKE = "--smoke" in sys.argv


def emit(**row: Any) -> None:
    """One row of the report."""
    print("ROW " + json.dumps(row, default=float), flush=True)


def timed(run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds of a first call, which compiles, and of the others."""
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    low, median, high = np.quantile(seconds[1:], [0.25, 0.5, 0.75])
    return {
        "first_call_seconds": seconds[0],
        "seconds": median,
        "seconds_quartiles": [low, high],
        "repeats": repeats,
    }


def peak_bytes() -> int:
    """The most device memory that this process has used."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def device() -> None:
    """What bounds any kernel here: how fast bytes move, and how fast numbers are multiplied."""
    found = jax.devices()[0]
    emit(device=found.device_kind, platform=found.platform, jax=jax.__version__)
    for dtype in ("float32", "float64"):
        x = jnp.ones(1 << (16 if SMOKE else 28), dtype)
        copy = jax.jit(lambda x: x + 1)
        time_of = timed(lambda x=x, copy=copy: copy(x), 5)
        emit(dtype=dtype, bytes_per_second=2 * x.nbytes / time_of["seconds"])
        multiply, steps = multiplication(dtype)
        time_of = timed(multiply, 5)
        emit(dtype=dtype, multiply_adds_per_second=steps / time_of["seconds"])


def multiplication(dtype: str) -> tuple[Callable[[], Any], float]:
    """A kernel that multiplies and adds in registers, and how often it does."""
    from jax.experimental import pallas as pl

    programs, block, turns, unrolled = (2, 1024, 4, 16) if SMOKE else (132 * 64, 1024, 512, 16)

    def program(given: Any, result: Any) -> None:
        def turn(_: Any, x: Any) -> Any:
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
        compiler_params=gpu_compiler_params(),
    )
    jitted = jax.jit(kernel)
    return lambda: jitted(x), float(x.size * turns * unrolled)


def gpu_compiler_params() -> Any:
    from jax.experimental.pallas import triton

    return triton.CompilerParams(num_warps=4, num_stages=1)
