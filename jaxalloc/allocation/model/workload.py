"""The problem: one server, K task types, and what their thinking tokens cost and buy."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxalloc.allocation.model.domain import FIELDS, MIX_TOLERANCE, PER_SERVER
from jaxalloc.allocation.model.validity import rules
from jaxalloc.numerics import cast, floating_dtype, require

# Axis letters, here and in every docstring: K task types, *B any leading batch axes.
PerServer = Float[Array, "*B"]
PerType = Float[Array, "*B K"]
# What the functions of one workload take and return; `jax.vmap` adds the batch.
Tokens = Float[Array, "K"]
Mask = Bool[Array, "K"]
Scalar = Float[Array, ""]
Flag = Bool[Array, ""]

_ABSENT: Any = object()  # an argument of the constructor that was not given


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """One server's traffic and tasks (Ozbas & Bastopcu, 2026, arXiv 2601.10274).

    Type k arrives with probability `mix[k]`, takes `base_time + time_per_token * tokens` seconds of
    service, and is answered correctly with probability
    `floor + gain * (1 - exp(-decay * tokens))`.

    The constructor takes the arrays as they are and checks nothing, so that JAX can rebuild it from
    tracers and a batch may hold lanes of NaN; `Workload.create` casts, broadcasts and validates.

    Attributes:
      arrival_rate: [*B] rate λ of the Poisson arrivals, queries / s; 0 is allowed.
      mix: [*B, K] probability π_k of each type; sums to 1, zeros allowed.
      gain: [*B, K] accuracy A_k that unlimited thinking adds.
      decay: [*B, K] rate b_k > 0 at which accuracy saturates, 1 / token.
      floor: [*B, K] accuracy D_k without thinking.
      base_time: [*B, K] service time t0_k without thinking, s.
      time_per_token: [*B, K] service time c_k > 0 of a thinking token, s / token.
      min_tokens: [*B, K] lower token budget.
      max_tokens: [*B, K] upper token budget.
      accuracy_weight: [*B] what one unit of accuracy is worth, α, s.
      service_cv: [*B, K] coefficient of variation of each type's service time (derived here: the
        paper's service is deterministic, which is 0).
      token_price: [*B] what a thinking token costs beyond its time, μ, s / token: the objective is
        J = α Σ π_k p_k - E[T] - μ Σ π_k l_k (derived here; 0 in the paper, and if not given).
    """

    arrival_rate: PerServer
    mix: PerType
    gain: PerType
    decay: PerType
    floor: PerType
    base_time: PerType
    time_per_token: PerType
    min_tokens: PerType
    max_tokens: PerType
    accuracy_weight: PerServer
    service_cv: PerType
    token_price: PerServer = _ABSENT

    def __post_init__(self) -> None:
        if self.token_price is _ABSENT:  # with the batch axes, so that `jax.vmap` can map it
            rate = self.arrival_rate
            free = np.zeros(np.shape(rate), getattr(rate, "dtype", None) or floating_dtype())
            object.__setattr__(self, "token_price", free)

    @classmethod
    def create(
        cls,
        *,
        arrival_rate: Any,
        mix: Any,
        gain: Any,
        decay: Any,
        floor: Any,
        base_time: Any,
        time_per_token: Any,
        max_tokens: Any,
        accuracy_weight: Any,
        min_tokens: Any = 0.0,
        service_cv: Any = 0.0,
        token_price: Any = 0.0,
        allow_accuracy_above_one: bool = False,
    ) -> Workload:
        """Cast, broadcast and validate the fields of a workload or of a batch of them.

        `arrival_rate`, `accuracy_weight` and `token_price` have shape [*B], the others [*B, K];
        scalars stand for every type, and everything is broadcast to one leading shape *B. The dtype
        is the widest floating dtype among the arrays given, and float32 at least; Python numbers
        and integers follow it, or JAX's default where there is none. Values are checked unless they
        are traced.

        Args:
          arrival_rate, mix, gain, decay, floor, base_time, time_per_token, max_tokens,
            accuracy_weight, min_tokens, service_cv, token_price: as `Workload` says.
          allow_accuracy_above_one: accept `floor + gain` above 1, which the mathematics allows.

        Raises:
          ValueError: a field has the wrong shape or a value outside its domain; the message names
            the field, the value and the fix.

        >>> workload = Workload.create(
        ...     arrival_rate=0.1, mix=[0.5, 0.5], gain=0.7, decay=[1e-4, 3e-3], floor=[0.0, 0.3],
        ...     base_time=0.2, time_per_token=1e-3, max_tokens=16384, accuracy_weight=30.0)
        >>> workload.gain.shape, workload.num_types
        ((2,), 2)
        """
        arguments = locals()
        given = {name: arguments[name] for name in FIELDS}
        arrays = _in_one_dtype(given)
        wide = {k: v if k in PER_SERVER or np.ndim(v) else v.reshape(1) for k, v in arrays.items()}
        num_types = max(v.shape[-1] for k, v in wide.items() if k not in PER_SERVER)
        fields = aligned(wide, _batch_shape(wide), num_types)
        if not any(isinstance(value, jax.core.Tracer) for value in arrays.values()):
            _check(arrays, num_types, allow_accuracy_above_one)
        return cls(**{name: _placed(given[name], value) for name, value in fields.items()})

    @property
    def num_types(self) -> int:
        """K, the number of task types."""
        return int(np.shape(self.mix)[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes *B that all fields broadcast to; `()` for one workload."""
        return _batch_shape(vars(self))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The widest floating dtype of the fields, float32 at least."""
        return floating_dtype(*jax.tree.leaves(self))


def aligned(arrays: dict[str, Any], batch: tuple[int, ...], num_types: int) -> dict[str, Any]:
    """Each array broadcast to (*batch, num_types), or to `batch` if it is a field of the server.

    Raises:
      ValueError: it has another shape; names the field.
    """
    broadcast = {}
    for name, value in arrays.items():
        wanted, shape = batch if name in PER_SERVER else (*batch, num_types), value.shape
        own = zip(reversed(shape), reversed(wanted), strict=False)
        if len(shape) > len(wanted) or any(size not in (1, most) for size, most in own):
            raise ValueError(
                f"{name} has shape {shape} where another field has {wanted}: "
                "give one number a type, or a scalar for all"
            )
        xp = jnp if isinstance(value, jax.Array) else np
        broadcast[name] = value if shape == wanted else xp.broadcast_to(value, wanted)
    return broadcast


def as_array(name: str, value: Any) -> Any:
    """Numbers as an array: JAX's if they are one or a list with some, else NumPy's.

    Raises:
      ValueError: they are no numbers, or a ragged list; names them.
    """
    of_jax = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
    try:
        array: Any = jnp.asarray(value) if of_jax else np.asarray(value)
    except (TypeError, ValueError) as error:
        shown = textwrap.shorten(repr(value), 100)
        raise ValueError(f"{name} = {shown} is not an array: {error}") from None
    if array.dtype == np.longdouble:
        array = array.astype(np.float64)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        shown = textwrap.shorten(repr(value), 100)
        raise ValueError(f"{name} = {shown} is not a number: give numbers or arrays of them")
    return array


def _in_one_dtype(given: dict[str, Any]) -> dict[str, Any]:
    """Every field as an array of one floating dtype: NumPy's where concrete, JAX's where traced."""
    arrays = {name: as_array(name, value) for name, value in given.items()}
    dtype = floating_dtype(
        *(array if isinstance(array, jax.Array) else given[name] for name, array in arrays.items())
    )
    with np.errstate(over="ignore"):  # inf is rejected with the field's name
        return {
            name: cast(value, dtype)
            if isinstance(value, jax.core.Tracer)
            else np.asarray(value, dtype=dtype)
            for name, value in arrays.items()
        }


def _batch_shape(fields: dict[str, Any]) -> tuple[int, ...]:
    """One leading shape for all fields."""
    shapes = {name: np.shape(value) for name, value in fields.items()}
    try:
        return jnp.broadcast_shapes(
            *(shape if name in PER_SERVER else shape[:-1] for name, shape in shapes.items())
        )
    except ValueError:
        named = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        raise ValueError(f"leading axes do not broadcast: {named}") from None


def _placed(given: Any, field: Any) -> Array:
    """A field on a device: where it was, if it was given as it is."""
    same = isinstance(given, jax.Array) and (given.shape, given.dtype) == (field.shape, field.dtype)
    return cast(given if same else field, field.dtype)


def _check(arrays: dict[str, Any], num_types: int, allow_accuracy_above_one: bool) -> None:
    """Raise ValueError for the first value outside the domain of its field."""
    for name, value in arrays.items():
        require(np.isfinite(value), name, value, "must be finite")
    with np.errstate(all="ignore"):
        for rule in rules(arrays, np):
            require(rule.kept, rule.name, rule.value, rule.text)
    mix = np.atleast_1d(np.asarray(arrays["mix"], dtype=np.float64))
    total = np.sum(np.broadcast_to(mix, (*mix.shape[:-1], num_types)), axis=-1)
    near = np.abs(total - 1) <= MIX_TOLERANCE
    require(near, "the sum of mix", total, "must be 1: normalize it")
    best = arrays["floor"] + arrays["gain"]
    most = np.inf if allow_accuracy_above_one else 1 + 4 * np.finfo(best.dtype).eps
    fix = "must not exceed 1, or pass allow_accuracy_above_one=True"
    require(best <= most, "floor + gain", best, fix)
