"""`simulate` and `simulate_batch`: a policy at work on one instance, or on many."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxalloc.backend.chunks import in_chunks, placement_of
from jaxalloc.backend.sharding import over_lanes
from jaxalloc.numerics import as_key, without_derivative
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.integers import as_int32
from jaxalloc.scheduling.loop import schedule_of
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.scheduling.schedule import Schedule

# A CPU runs the instances of a chunk one after another, and a chunk a thread; on an accelerator the
# lanes of a chunk run together.
CPU_CHUNK = 64
ACCELERATOR_CHUNK = 4096

# The requests, the capacity, the words of a random key, the batch time and the cap on rounds.
Arguments = tuple[Requests, Any, Array | None, BatchTime | None, Any]

_NO_DERIVATIVE = (
    "simulate has no derivative: put jax.lax.stop_gradient around what goes into it, or its "
    "schedule into an auxiliary output (has_aux=True)"
)


def simulate(
    requests: Requests,
    capacity: Any,
    policy: Policy,
    *,
    key: jax.Array | None = None,
    batch_time: BatchTime | None = None,
    max_rounds: Any = None,
    slots: int | None = None,
    record: bool | int = False,
) -> Schedule:
    """Serve one instance under a KV-cache limit, round by round.

    It never raises on values: an instance whose values are outside their domain is INVALID (ask
    `Requests.check` why). Works under `jax.jit` and `jax.vmap`; compiled once a shape and policy.
    It has no derivative, but may stand beside one, such as in an auxiliary output.

    Args:
      requests: one instance ([N] fields); `simulate_batch` runs many.
      capacity: M, tokens that the cache holds.
      policy: who runs, one of `jaxalloc.policies`.
      key: of the random policy (`AlphaBetaClearing`); None: key 0.
      batch_time: seconds a round; arrivals are then seconds. None: arrivals are rounds.
      max_rounds: rounds after which to give up, 2³⁰ at most; None: as many as it takes, which is
        proven to be finite, and for `AlphaBetaClearing` the last arrival (if in rounds)
        + 64 · (sum of the outputs) + 1024.
      slots: the most requests that may run together; None: N, which is always enough and costs
        memory alone.
      record: keep the tokens held after every round; under tracing, how many rounds to keep.

    Returns:
      The schedule; look at its `status` first.

    Raises:
      TypeError: an argument is of another kind, or a derivative is asked for.
      ValueError: a shape does not fit, or `slots` or `record` is outside its domain.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4)
    >>> schedule = jaxalloc.simulate(requests, 8, jaxalloc.policies.AMin())
    >>> schedule.finish.tolist(), float(schedule.total_latency), schedule.evictions.tolist()
    ([5, 4, 3], 12.0, [2, 0, 0])
    """
    if shape := getattr(requests, "batch_shape", ()):
        raise ValueError(f"requests have leading axes {shape}: use simulate_batch, or jax.vmap")
    return simulate_batch(
        requests,
        capacity,
        policy,
        key=key,
        batch_time=batch_time,
        max_rounds=max_rounds,
        slots=slots,
        record=record,
    )


def simulate_batch(
    requests: Requests,
    capacity: Any,
    policy: Policy,
    *,
    key: jax.Array | None = None,
    batch_time: BatchTime | None = None,
    max_rounds: Any = None,
    slots: int | None = None,
    record: bool | int = False,
) -> Schedule:
    """`simulate` over the leading axes of `requests`, all processor cores at work.

    `capacity`, `max_rounds` and the fields of `batch_time` broadcast to the leading axes *B. A
    single `key` is split, one for every instance; keys of shape [*B] are taken as they are.

    >>> import jaxalloc
    >>> requests = jaxalloc.Requests.create(prompt=1, output=[[2, 4, 3], [2, 2, 0]], upper=4)
    >>> schedule = jaxalloc.simulate_batch(requests, 8, jaxalloc.policies.AMax())
    >>> schedule.finish.tolist(), schedule.total_latency.tolist()
    ([[2, 6, 7], [2, 4, -1]], [15.0, 6.0])
    """
    if not isinstance(requests, Requests):
        raise TypeError(f"requests = {requests!r:.80} is no `Requests`: use `Requests.create`")
    if not isinstance(policy, Policy):
        raise TypeError(f"policy = {policy!r:.80} is no policy: give one, such as policies.AMin()")
    if not isinstance(batch_time, BatchTime | None):
        raise TypeError(f"batch_time = {batch_time!r:.80} is no `BatchTime`")
    if slots is not None and (int(slots) != slots or slots < 1):
        raise ValueError(f"slots = {slots} must be a whole number, at least 1, or None")
    if int(record) != record or record < 0:
        raise ValueError(f"record = {record} must be True or a number of rounds, 0 or more")
    typed = None if key is None else as_key(key)
    requests = requests.as_int32()
    shape = requests.batch_shape
    words = None
    if policy.draws:
        typed = jax.random.key(0) if typed is None else typed
        keys = typed if typed.ndim or not shape else jax.random.split(typed, shape)
        words = jnp.broadcast_to(jax.random.key_data(keys)[..., :2], (*shape, 2))
    arguments: Arguments = (
        requests,
        _wide("capacity", as_int32("capacity", capacity), shape),
        words,
        None if batch_time is None else _every(batch_time, requests.arrival, shape),
        None
        if max_rounds is None
        else _wide("max_rounds", as_int32("max_rounds", max_rounds), shape),
    )
    work = functools.partial(_many, policy=policy, slots=slots)
    play = functools.partial(_play, work, shape=shape, record=record)
    return without_derivative(play, arguments, _NO_DERIVATIVE)


def _every(batch_time: BatchTime, arrival: Any, shape: tuple[int, ...]) -> BatchTime:
    """A batch time for every instance, in the dtype of the arrivals if these are seconds."""
    floating = jnp.issubdtype(arrival.dtype, jnp.floating)
    dtype = arrival.dtype if floating else jax.dtypes.canonicalize_dtype(float)

    def every(name: str, value: Any) -> Any:
        seconds = value if isinstance(value, jax.Array) else np.asarray(value)
        return _wide(f"batch_time.{name}", seconds.astype(dtype), shape)

    return BatchTime(**{name: every(name, value) for name, value in vars(batch_time).items()})


def _wide(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    """A number for every instance; put on the device by name, where a transfer may be guarded."""
    own = np.shape(value)
    if own == shape:
        return value
    if len(own) > len(shape) or any(
        mine not in (1, other) for mine, other in zip(own[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(
            f"{name} of shape {own} does not broadcast to the leading axes {shape} of the requests"
        )
    traced = isinstance(value, jax.core.Tracer)
    return jnp.broadcast_to(value if traced else jax.device_put(value), shape)


def _play(work: Any, arguments: Arguments, shape: tuple[int, ...], record: bool | int) -> Schedule:
    """The schedules: in chunks where there are arrays, as one computation under tracing."""
    platform, _, spread = placement_of(arguments)

    def run(record: int) -> Schedule:
        recorded = functools.partial(work, record=record)
        if platform is None or spread or shape == () or 0 in shape:
            return recorded(arguments)
        flat = jax.tree.map(
            lambda x: x.reshape(math.prod(shape), *x.shape[len(shape) :]), arguments
        )
        idle = jax.tree.map(lambda _: 0, flat)  # no requests
        found = in_chunks(recorded, flat, cpu=CPU_CHUNK, accelerator=ACCELERATOR_CHUNK, idle=idle)
        return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), found)

    if record is True:  # as many rounds as are played without recording
        if platform is None:
            raise ValueError("record = True under tracing: give the number of rounds to keep")
        record = max(int(jnp.max(run(0).rounds, initial=1)), 1)
    return run(int(record))


@jax.jit(static_argnames=("policy", "slots", "record"))
def _many(arguments: Arguments, *, policy: Policy, slots: int | None, record: int) -> Schedule:
    """One chunk, or one instance."""
    one = functools.partial(schedule_of, policy=policy, slots=slots, record=record)
    schedule: Schedule = over_lanes(one, len(arguments[0].batch_shape))(*arguments)
    return schedule
