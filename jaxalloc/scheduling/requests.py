"""The problem: requests with a prompt, an unknown output, what is predicted of it, an arrival."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.domain import rules, timed
from jaxalloc.scheduling.integers import LARGEST, Rule, as_int32
from jaxalloc.scheduling.policies import Policy

# Axis letters, here and in every docstring: N requests, R slots, *B any leading batch axes.
PerRequest = Int[Array, "*B N"]
PerRequestTime = Num[Array, "*B N"]

_LENGTHS = ("prompt", "output", "lower", "upper", "predicted")
_TOLERANCE = 1e-3  # seconds by which a cast may move an arrival


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of one instance, in no particular order; an output of 0 marks padding.

    Policies other than the hindsight scheduler never read `output` before a request ends. Bounds
    and predictions below 1 are read as 1.

    The constructor takes the arrays as they are and checks nothing, so that JAX can rebuild it
    from tracers; `Requests.create` casts, broadcasts and validates.

    Attributes:
      prompt: [*B, N] tokens of the prompt s, held from the first round on.
      output: [*B, N] tokens o to generate; 0 is padding, which changes nothing.
      lower: [*B, N] lower bound of the output, the only one A_min reads.
      upper: [*B, N] upper bound of the output, the only one A_max reads.
      predicted: [*B, N] point prediction of the output.
      arrival: [*B, N] rounds, or seconds under a batch-time model.
      since: [*B, 1] seconds that `create` has taken off the arrivals, and `finish_seconds` lacks
        with them; None: nothing.
    """

    prompt: PerRequest
    output: PerRequest
    lower: PerRequest
    upper: PerRequest
    predicted: PerRequest
    arrival: PerRequestTime
    since: Float[Array, "*B 1"] | np.ndarray[Any, Any] | None = None

    @classmethod
    def create(
        cls,
        *,
        prompt: Any,
        output: Any,
        lower: Any = 1,
        upper: Any = None,
        predicted: Any = None,
        arrival: Any = 0,
        since: Any = None,
    ) -> Requests:
        """Cast, broadcast and validate the fields of one instance or of a batch of them.

        Fields have shape [*B, N]; scalars and shorter leading axes broadcast. Lengths become
        int32; arrivals become int32 if they are integers and floating otherwise. Values are checked
        unless they are traced. Seconds since an epoch, which float32 would round by more than a
        millisecond, are counted from the first arrival of each instance, which goes to `since`.

        Args:
          prompt: tokens of the prompt.
          output: tokens to generate; 0 is padding.
          lower: lower bound of the output.
          upper: its upper bound; None stands for `output`.
          predicted: its point prediction; None stands for `output`.
          arrival: rounds, or seconds.
          since: of requests made before.

        Raises:
          ValueError: a field does not broadcast or has a value outside its domain; the message
            names the field, the value and the fix.

        >>> requests = Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4)
        >>> requests.num_requests, requests.upper.tolist()
        (3, [4, 4, 4])
        """
        given = {
            "prompt": prompt,
            "output": output,
            "lower": lower,
            "upper": output if upper is None else upper,
            "predicted": output if predicted is None else predicted,
            "arrival": arrival,
        }
        arrays = {name: _cast(name, value) for name, value in given.items()}
        try:
            shape = jnp.broadcast_shapes((1,), *(value.shape for value in arrays.values()))
        except ValueError:
            shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items() if v.ndim)
            raise ValueError(f"fields do not broadcast to one [*B, N]: {shapes}") from None
        if since is None and isinstance(arrays["arrival"], np.ndarray):
            arrays["arrival"], since = _from_the_first(arrays["arrival"], arrays["output"], shape)
        fields = {k: jnp.asarray(jnp.broadcast_to(v, shape)) for k, v in arrays.items()}
        return cls(**fields, since=since)

    def as_int32(self) -> Requests:
        """The same in the dtypes of the loop, whatever the constructor was given.

        Lengths, and arrivals that are integers, have 32 bits (`integers.as_int32`); seconds have at
        least as many.

        Raises:
          TypeError: a field holds no numbers.
          ValueError: the fields have not all the same shape [*B, N].
        """
        fields = {name: as_int32(name, getattr(self, name)) for name in _LENGTHS}
        given: Any = self.arrival
        arrival: Any = given if isinstance(given, jax.Array) else np.asarray(given)
        if not jnp.issubdtype(arrival.dtype, jnp.floating):
            arrival = as_int32("arrival", arrival)
        elif arrival.dtype.itemsize < 4:
            arrival = arrival.astype(np.float32)
        fields["arrival"] = arrival
        if len({field.shape for field in fields.values()}) > 1 or not arrival.ndim:
            shapes = ", ".join(f"{name} {field.shape}" for name, field in fields.items())
            raise ValueError(f"fields must have one shape [*B, N]: {shapes}; `create` broadcasts")
        return Requests(**fields)

    @property
    def num_requests(self) -> int:
        """N, padding included."""
        return self.output.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes *B; `()` for one instance."""
        return self.output.shape[:-1]

    def check(
        self,
        capacity: Any,
        policy: Policy,
        *,
        batch_time: BatchTime | None = None,
        max_rounds: Any = None,
    ) -> None:
        """Raise a ValueError that says why `simulate` would call an instance INVALID.

        The values are concrete, those of one instance or of a batch; the arguments are as of
        `simulate`.

        >>> import jaxalloc
        >>> requests = Requests.create(prompt=3, output=[2, 7])
        >>> requests.check(8, jaxalloc.policies.AMin())
        Traceback (most recent call last):
        ValueError: output[1] = 7 does not fit: prompt + output must not exceed the capacity of 8
        """
        requests, batch_time, _ = timed(self.as_int32(), batch_time)
        given = {"capacity": capacity, "max_rounds": max_rounds}
        limits = (
            value if value is None else jnp.asarray(as_int32(name, value))
            for name, value in given.items()
        )
        for rule in rules(requests, policy, batch_time, *limits):
            value, text = given.get(rule.name, rule.value), rule.text.format(capacity=capacity)
            rule._replace(value=value, text=text).check()


def _cast(name: str, value: Any) -> Any:
    """One field as an int32 array, or a floating one for arrivals that are not integers."""
    if isinstance(value, jax.core.Tracer):
        floating = name == "arrival" and jnp.issubdtype(value.dtype, jnp.floating)
        return value if floating else as_int32(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged nested lists
        raise ValueError(f"{name} = {value!r} is not an array: {error}") from None
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} = {value!r} is not a number: give numbers or arrays of them")
    Rule(name, array, np.isfinite(array), "must be finite").check()
    if name in ("prompt", "output", "arrival"):
        Rule(name, array, array >= 0, "must not be negative").check()
    if name == "arrival" and array.dtype.kind == "f":
        return array
    whole = array == np.floor(array)
    Rule(name, array, whole, "must be a whole number of tokens: round it").check()
    Rule(name, array, abs(array.astype(float)) <= LARGEST, "must fit in 32 bits").check()
    return as_int32(name, array)


def _from_the_first(arrival: Any, output: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Arrivals in JAX's precision, and the first one where they had to be counted from it."""
    dtype = jax.dtypes.canonicalize_dtype(arrival.dtype)
    moved = np.abs(arrival.astype(dtype) - arrival, dtype=float)
    if not np.any(moved > _TOLERANCE):
        return arrival.astype(dtype), None
    arrival = np.broadcast_to(arrival, shape)
    real = np.broadcast_to(True if isinstance(output, jax.core.Tracer) else output > 0, shape)
    first = np.min(arrival, axis=-1, keepdims=True, initial=np.inf, where=real)
    first = np.where(np.isfinite(first), first, 0)
    return np.where(real, arrival - first, 0).astype(dtype), first
