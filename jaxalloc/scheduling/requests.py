"""The problem: requests with a prompt, an unknown output, what is predicted of it, an arrival."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

# Axis letters, here and in every docstring: N requests, R slots, *B any leading batch axes.
PerRequest = Int[Array, "*B N"]
PerRequestTime = Num[Array, "*B N"]

_LENGTHS = ("prompt", "output", "lower", "upper", "predicted")
_INT32_MAX = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
    """The requests of one instance, in no particular order; an output of 0 marks padding.

    Policies other than the hindsight scheduler never read `output` before a request ends. Bounds
    and predictions below 1 are read as 1.

    The constructor takes the six arrays as they are and checks nothing, so that JAX can rebuild it
    from tracers; `Requests.create` casts, broadcasts and validates.

    Attributes:
      prompt: [*B, N] tokens of the prompt s, held from the first round on.
      output: [*B, N] tokens o to generate; 0 is padding, which changes nothing.
      lower: [*B, N] lower bound of the output, the only one A_min reads.
      upper: [*B, N] upper bound of the output, the only one A_max reads.
      predicted: [*B, N] point prediction of the output.
      arrival: [*B, N] rounds, or seconds under a batch-time model.
    """

    prompt: PerRequest
    output: PerRequest
    lower: PerRequest
    upper: PerRequest
    predicted: PerRequest
    arrival: PerRequestTime

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
    ) -> Requests:
        """Cast, broadcast and validate the fields of one instance or of a batch of them.

        Fields have shape [*B, N]; scalars and shorter leading axes broadcast. Lengths become
        int32; arrivals become int32 if they are integers and floating otherwise. Values are checked
        unless they are traced.

        Args:
          prompt: tokens of the prompt.
          output: tokens to generate; 0 is padding.
          lower: lower bound of the output.
          upper: its upper bound; None stands for `output`.
          predicted: its point prediction; None stands for `output`.
          arrival: rounds, or seconds.

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
            shape = np.broadcast_shapes((1,), *(value.shape for value in arrays.values()))
        except ValueError:
            shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items() if v.ndim)
            raise ValueError(f"fields do not broadcast to one [*B, N]: {shapes}") from None
        return cls(**{k: jnp.asarray(jnp.broadcast_to(v, shape)) for k, v in arrays.items()})

    def as_int32(self) -> Requests:
        """The same with lengths in 32 bits, whatever the constructor was given."""
        lengths = {name: jnp.asarray(getattr(self, name), jnp.int32) for name in _LENGTHS}
        return Requests(arrival=jnp.asarray(self.arrival), **lengths)

    @property
    def num_requests(self) -> int:
        """N, padding included."""
        return self.output.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes *B; `()` for one instance."""
        return self.output.shape[:-1]


def _cast(name: str, value: Any) -> Any:
    """One field as an int32 array, or a floating one for arrivals that are not integers."""
    if isinstance(value, jax.core.Tracer):
        floating = name == "arrival" and jnp.issubdtype(value.dtype, jnp.floating)
        return value if floating else value.astype(jnp.int32)
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged nested lists
        raise ValueError(f"{name} = {value!r} is not an array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} = {value!r} is not a number: give numbers or arrays of them")
    require(np.isfinite(array), name, array, "must be finite")
    if name in ("prompt", "output", "arrival"):
        require(array >= 0, name, array, "must not be negative")
    if name == "arrival" and array.dtype.kind == "f":
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    require(array == np.floor(array), name, array, "must be a whole number of tokens: round it")
    require(np.abs(array) <= _INT32_MAX, name, array, "must fit in 32 bits")
    return array.astype(np.int32)


def require(valid: Any, name: str, value: Any, rule: str) -> None:
    """Raise a ValueError that names the first entry of `value` where `valid` is False."""
    if np.all(valid):
        return
    index = tuple(int(i) for i in np.argwhere(~np.asarray(valid))[0])
    place = f"[{', '.join(map(str, index))}]" if index else ""
    raise ValueError(f"{name}{place} = {np.asarray(value)[index]:.10g} {rule}")
