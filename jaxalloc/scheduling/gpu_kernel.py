"""A simulation as one GPU kernel: a program an instance, from its first round to its last.

Outside of a kernel a batch is one loop over arrays in device memory, in which every instance waits
for the slowest and plays every branch of every round. Here an instance is a program with branches
of its own. The slots, and with them the usage planned at every future round that matters, stay in
the registers of its threads; the requests, the queue and what becomes of them stay in device
memory, of which it reads and writes what a round touches. The rules are those of `rounds`.

Registers hold a limited number of slots, and few instances run many requests together. So a batch
is first played with few slots; what runs out of them is played again with more, and by the plain
form if it needs more than a kernel has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxalloc.scheduling import rounds, state
from jaxalloc.scheduling.kvcache import NUM_ROWS, Slots
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.state import Instance, State
from jaxalloc.scheduling.storage import InMemory, OnChip

FEW_SLOTS = 256  # that one warp holds: the first attempt
MOST_SLOTS = 4096  # that a program holds
_SLOTS_A_WARP = 256
_WARPS = 16  # at most


def takes(instance: Instance) -> bool:
    """Whether there is a kernel for it; a policy that draws has none."""
    return instance.key is None


def in_programs(
    instances: Instance,
    policy: Policy,
    num_slots: int,
    record: int,
    plain: Callable[[Instance], State],
    *,
    interpret: bool = False,
) -> State:
    """The last state of many instances, but for their slots.

    Args:
      instances: every array with a leading axis.
      policy: a policy that does not draw.
      num_slots: the most requests that may run together.
      record: rounds of which to keep the tokens held.
      plain: what to do with one instance that needs more than `MOST_SLOTS`.
      interpret: run on any platform, slowly: for tests.
    """
    last = _play(instances, policy, min(num_slots, FEW_SLOTS), record, interpret)
    if num_slots > FEW_SLOTS:
        more = min(num_slots, MOST_SLOTS)
        last = _again(last, instances, lambda few: _play(few, policy, more, record, interpret))
    if num_slots > MOST_SLOTS:
        last = _again(last, instances, jax.vmap(plain))
    return last


def _again(last: State, instances: Instance, play: Callable[[Instance], State]) -> State:
    """The last states, those that ran out of slots played again."""

    def replace() -> State:
        # Nothing is left to do for the others.
        few = instances._replace(total=jnp.where(last.exceeded, instances.total, 0))

        def choose(new: Any, old: Any) -> Any:
            return jnp.where(last.exceeded.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

        new = play(few)._replace(slots=last.slots)
        chosen: State = jax.tree.map(choose, new, last)
        return chosen

    replaced: State = lax.cond(jnp.any(last.exceeded), replace, lambda: last)
    return replaced


def _play(
    instances: Instance, policy: Policy, num_slots: int, record: int, interpret: bool
) -> State:
    """The last states after at most `num_slots` ran together."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as gpu

    def begin(instance: Instance) -> State:
        first = state.initial(instance, policy, 1, record)
        return rounds.wait_for_arrival(instance, first)._replace(slots=_NO_SLOTS)

    firsts = jax.vmap(begin)(instances)
    if math.prod(instances.jobs.shape) == 0:
        return firsts
    read, read_tree = jax.tree.flatten(instances)
    kept, kept_tree = jax.tree.flatten(firsts)

    def settle() -> None:
        if not interpret:
            gpu.debug_barrier()

    def program(*refs: Any) -> None:
        results = refs[len(read) + len(kept) :]  # where the first states are already
        instance = jax.tree.unflatten(read_tree, _bind(refs[: len(read)], settle))
        first = jax.tree.unflatten(kept_tree, _bind(results, settle))
        _write(_last(instance, policy, first, num_slots), results)

    def own(leaf: Any) -> Any:
        shape = leaf.shape[1:]
        return pl.BlockSpec((None, *shape), lambda i: (i, *(0,) * len(shape)))

    warps = max(1, min(_WARPS, _width(num_slots) // _SLOTS_A_WARP))
    last = pl.pallas_call(
        program,
        out_shape=[jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in kept],
        grid=(instances.total.shape[0],),
        in_specs=[own(leaf) for leaf in (*read, *kept)],
        out_specs=[own(leaf) for leaf in kept],
        input_output_aliases={len(read) + i: i for i in range(len(kept))},
        compiler_params=gpu.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name="jaxalloc_simulate",
    )(*read, *kept)
    found: State = jax.tree.unflatten(kept_tree, last)
    return found


def _width(num_slots: int) -> int:
    """Slots rounded up to a power of two."""
    return 1 << max(num_slots - 1, 0).bit_length()


def _bind(refs: Sequence[Any], settle: Callable[[], None]) -> list[Any]:
    """Arrays where they are, and numbers read."""
    return [InMemory(ref, settle) if ref.ndim else ref[...] for ref in refs]


def _last(instance: Instance, policy: Policy, first: State, num_slots: int) -> State:
    """One instance from its first state to its last, the slots on the chip."""
    row = jnp.zeros(_width(num_slots), jnp.int32)
    table, usage = OnChip(*[row] * NUM_ROWS), OnChip(row)
    return lax.while_loop(
        lambda now: ~rounds.is_over(instance, now),
        lambda now: rounds.play(instance, policy, now, num_slots),
        first._replace(slots=Slots(table, usage)),
    )


def _write(last: State, results: Sequence[Any]) -> None:
    """The numbers; the arrays are there already."""
    leaves = jax.tree.leaves(
        last._replace(slots=_NO_SLOTS), is_leaf=lambda node: isinstance(node, InMemory)
    )
    for ref, leaf in zip(results, leaves, strict=True):
        if not isinstance(leaf, InMemory):
            ref[...] = leaf


_NO_SLOTS = Slots(None, None)
