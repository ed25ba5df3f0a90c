"""A simulation as one GPU kernel: a program an instance, from its first round to its last.

Outside of a kernel a batch is one loop over arrays in device memory, in which every instance waits
for the slowest and plays every branch of every round. Here an instance is a program with branches
of its own. The slots, and with them the usage planned at every future round that matters, stay in
the registers of its threads; the requests, the queue and what becomes of them stay in device
memory, of which it reads and writes what a round touches. The rules are those of `rounds`; here
stands how they reach what is there.

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
from jaxtyping import Array

from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.rounds import arrays, cache, state, turn
from jaxalloc.scheduling.rounds.arrays import Scalar
from jaxalloc.scheduling.rounds.cache import Job, Slots
from jaxalloc.scheduling.rounds.state import Instance, State

FEW_SLOTS = 256  # that one warp holds: the first attempt
MOST_SLOTS = 4096  # that a program holds
_SLOTS_A_WARP = 256
_WARPS = 16  # at most


def takes(instance: Instance) -> bool:
    """Whether there is a kernel for it; a policy that draws has none."""
    return instance.random_key is None


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
        return turn.wait_for_arrival(instance, first)._replace(slots=_NO_SLOTS)

    firsts = jax.vmap(begin)(instances)
    if math.prod(instances.prompt.shape) == 0:
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

    warps = max(1, min(_WARPS, (2 * num_slots - 1) // _SLOTS_A_WARP))
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


def _bind(refs: Sequence[Any], settle: Callable[[], None]) -> list[Any]:
    """Arrays where they are, and numbers read."""
    return [InMemory(ref, settle) if ref.ndim else ref[...] for ref in refs]


def _last(instance: Instance, policy: Policy, first: State, num_slots: int) -> State:
    """One instance from its first state to its last, the slots on the chip."""
    width = 1 << max(num_slots - 1, 0).bit_length()
    slots: Any = OnChip(*[jnp.zeros(width, jnp.int32)] * len(Job._fields))
    return lax.while_loop(
        lambda now: ~turn.is_over(instance, now),
        lambda now: turn.play(instance, policy, now, num_slots),
        first._replace(slots=slots),
    )


def _write(last: State, results: Sequence[Any]) -> None:
    """The numbers; the arrays are there already."""
    leaves = jax.tree.leaves(
        last._replace(slots=_NO_SLOTS), is_leaf=lambda node: isinstance(node, InMemory)
    )
    for ref, leaf in zip(results, leaves, strict=True):
        if not isinstance(leaf, InMemory):
            ref[...] = leaf


_NO_SLOTS: Any = Slots(*[None] * 2)


class InMemory:
    """An array in device memory, behind a reference that a kernel was given; changed in place.

    Attributes:
      ref: the reference.
      settle: called before and after a change, for all threads must have read what was there, and
        then see what is.
    """

    def __init__(self, ref: Any, settle: Callable[[], None]) -> None:
        self.ref, self.settle, self.shape = ref, settle, ref.shape


# A reference is no value that a loop could carry: it is part of the structure of what carries it.
jax.tree_util.register_pytree_node(InMemory, lambda memory: ((), memory), lambda memory, _: memory)


@arrays.at.register
def _(values: InMemory, index: Scalar) -> Any:
    return values.ref[index]


def _write_all(values: InMemory, changes: Sequence[tuple[Any, Any]]) -> InMemory:
    values.settle()
    for index, value in changes:
        values.ref[index] = jnp.asarray(value).astype(values.ref.dtype)
    values.settle()
    return values


@arrays.put.register
def _(values: InMemory, index: Scalar, value: Array) -> InMemory:
    return _write_all(values, [(index, value)])


@arrays.row_at.register
def _(table: InMemory, index: Scalar) -> list[Array]:
    return [table.ref[line, index] for line in range(table.shape[0])]


@arrays.put_row.register
def _(table: InMemory, index: Scalar, row: Sequence[Array]) -> InMemory:
    return _write_all(table, [((line, index), value) for line, value in enumerate(row)])


@arrays.smallest.register
def _(values: InMemory, first: Scalar | int, width: int) -> Any:
    from jax.experimental import pallas as pl

    return jnp.min(values.ref[pl.ds(first, width)])


class OnChip(Job):
    """The jobs of all slots in the registers of the threads that run an instance together.

    Registers have no addresses, so an entry is found and changed by comparing every index, and a
    pass takes all slots at once.
    """

    __slots__ = ()


def _slots(jobs: OnChip) -> Array:
    return lax.iota(jnp.int32, jobs.usage.shape[0])


@cache.job_at.register
def _(slots: OnChip, slot: Scalar) -> tuple[list[Array], Array]:
    here = _slots(slots) == slot
    *others, usage = (jnp.sum(jnp.where(here, row, 0), dtype=row.dtype) for row in slots)
    return others, usage


@cache.put_job.register
def _(slots: OnChip, slot: Scalar, others: Any, usage: Scalar) -> OnChip:
    here = _slots(slots) == slot
    pairs = zip([*others, usage], slots, strict=True)
    return OnChip(*(jnp.where(here, *pair) for pair in pairs))


@cache.fold.register
def _(slots: OnChip, running: Scalar, read: Any, *combine: Any) -> list[Array]:
    found = read(slots, _slots(slots))
    return [arrays.REDUCE[how](values) for how, values in zip(combine, found, strict=True)]


@cache.plan.register
def _(slots: OnChip, running: Scalar, end: Scalar, offset: Scalar, sign: int) -> OnChip:
    return slots._replace(usage=cache.planned(slots, end, offset, sign))
