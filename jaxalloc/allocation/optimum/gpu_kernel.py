"""The solver's loop as one GPU kernel: a block of lanes a program, and all of a lane in registers.

Outside of a kernel a batch is one loop over arrays in device memory, which moves the state of every
lane through that memory at every step, until the slowest lane of all is done. Here a program reads
its lanes once, takes all their steps and writes the answers once, and a lane waits for those of its
own warp alone. The rules are those of `optimum`, traced for one lane (`lanes.side_by_side`).

A program is one warp. Triton asks for axes of a power of two: types are filled up with types that
weigh nothing and have no room to move, lanes with lanes that have nothing to solve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxalloc.allocation.model.workload import Workload
from jaxalloc.allocation.optimum.lanes import side_by_side

# Many lanes: [N, K] and [N] fields, tokens to start from or None, and what is idle at min_tokens,
# which is 0 where there is nothing to solve.
Lanes = tuple[Workload, Float[Array, "N K"] | None, Float[Array, " N"]]
Answers = tuple[Float[Array, "N K"], Int[Array, " N"]]  # tokens and steps

MOST_TYPES = 256  # with more, one lane no longer fits into the registers of a warp
_WARP = 32  # threads
_NUMBERS_A_THREAD = 4  # that it holds of an array with types
_PADDING = {"decay": 1.0, "time_per_token": 1.0}  # of a type that is none; other fields are 0


def padded_types(num_types: int) -> int:
    """K rounded up to a power of two."""
    return 1 << max(num_types - 1, 0).bit_length()


def lanes_a_program(num_types: int) -> int:
    """How many lanes a program solves: a power of two, and at most one a thread."""
    return max(1, min(_WARP, _WARP * _NUMBERS_A_THREAD // padded_types(num_types)))


def takes(workload: Workload) -> bool:
    """Whether there is a kernel for workloads of this size and dtype."""
    return workload.num_types <= MOST_TYPES and str(workload.dtype) in ("float32", "float64")


def in_blocks(
    run: Callable[..., tuple[Array, Array]], lanes: Lanes, *, interpret: bool = False
) -> Answers:
    """Tokens and steps of many lanes, as `run(workload, initial, most_idle)` has them for one.

    Args:
      run: start and loop, for one lane.
      lanes: workloads that the kernel `takes`, all fields of one dtype.
      interpret: run on any platform, slowly: for tests.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as gpu

    workload, initial, most_idle = lanes
    size, num_types = workload.mix.shape
    if size == 0:
        return workload.mix, jnp.zeros(0, jnp.int32)
    types, block = padded_types(num_types), lanes_a_program(num_types)
    names = [*vars(workload), *([] if initial is None else ["initial"]), "most_idle"]
    given = [*vars(workload).values(), *([] if initial is None else [initial]), most_idle]

    def program(*refs: Any) -> None:
        columns, *inputs, tokens, steps = refs
        lane = pl.program_id(0) * block + lax.iota(jnp.int32, block)
        inside = lane < size
        everywhere = (types, block)
        row = lax.broadcast_in_dim(lane, everywhere, (1,))
        # Read, not computed: from neighbouring addresses Triton would conclude that the types of a
        # lane belong to neighbouring threads.
        column = lax.broadcast_in_dim(columns[:], everywhere, (0,))
        real = lax.broadcast_in_dim(inside, everywhere, (1,)) & (column < num_types)

        def read(name: str, ref: Any) -> Array:
            padding = jnp.asarray(_PADDING.get(name, 0), ref.dtype)
            if ref.ndim == 1:
                return gpu.load(ref.at[lane], mask=inside, other=padding)
            return gpu.load(ref.at[row, column], mask=real, other=padding)

        fields = {name: read(name, ref) for name, ref in zip(names, inputs, strict=True)}
        idle, first = fields.pop("most_idle"), fields.pop("initial", None)
        found = side_by_side(run, type(workload)(**fields), first, idle)
        gpu.store(tokens.at[row, column], found[0], mask=real)
        gpu.store(steps.at[lane], found[1], mask=inside)

    answers: Answers = pl.pallas_call(
        program,
        out_shape=(
            jax.ShapeDtypeStruct((size, num_types), workload.dtype),
            jax.ShapeDtypeStruct((size,), jnp.int32),
        ),
        grid=(-(-size // block),),
        compiler_params=gpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="jaxalloc_solve",
    )(jnp.arange(types, dtype=jnp.int32), *given)
    return answers
