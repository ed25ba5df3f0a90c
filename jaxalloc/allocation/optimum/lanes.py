"""A function of one lane, run on a block of lanes that lie side by side in the last axis.

`jax.vmap` puts the lanes first. In a GPU kernel they belong last: then neighbouring threads hold
neighbouring lanes, and a sum over the types of a lane stays inside few threads, or one. So the
function is traced for one lane, and what it was traced to is carried out on arrays with one more
axis at their end. A loop turns while any lane wants another turn, and a finished lane keeps what it
has, as under `jax.vmap`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Shaped

Outputs = TypeVar("Outputs")
Flags = Bool[Array, " B"]

# A branch of more operations is entered only if some lane wants it; a shorter one always is.
_FREE_OPERATIONS = 8

_ELEMENTWISE = {
    "abs", "add", "and", "bitcast_convert_type", "ceil", "convert_element_type", "div", "eq", "exp",
    "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "lt", "mul",
    "ne", "neg", "not", "or", "pow", "shift_left", "shift_right_arithmetic", "sign", "sqrt",
    "square", "sub", "tanh", "xor",
}  # fmt: skip
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


class Value(NamedTuple):
    """An array, and whether it has the axis of lanes."""

    array: Shaped[Array, "..."]
    wide: bool


def side_by_side(run: Callable[..., Outputs], *inputs: Any) -> Outputs:
    """`run` on every lane of `inputs`, whose arrays are [..., B]; so are those of the outputs.

    Args:
      run: a function of one lane, of arithmetic, sums, extrema, loops and branches.
      inputs: its arguments, pytrees of arrays with one more axis, the last.

    >>> import jax.numpy as jnp
    >>> side_by_side(lambda x, y: jnp.sum(x) / y, jnp.ones((3, 2)), jnp.array([1.0, 2.0])).tolist()
    [3.0, 1.5]
    """
    leaves = jax.tree.leaves(inputs)
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[:-1], x.dtype), inputs)
    traced, shapes = jax.make_jaxpr(run, return_shape=True)(*one)
    found = _evaluate(traced, [Value(leaf, True) for leaf in leaves], leaves[0].shape[-1])
    wide = [_widen(value, leaves[0].shape[-1]) for value in found]
    outputs: Outputs = jax.tree.unflatten(jax.tree.structure(shapes), wide)
    return outputs


def _evaluate(traced: Any, inputs: Sequence[Value], size: int) -> list[Value]:
    """What a traced function of one lane returns for many."""
    if traced.consts:
        raise NotImplementedError("an array from outside has no form for lanes side by side")
    jaxpr = getattr(traced, "jaxpr", traced)
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        if hasattr(atom, "val"):
            return Value(jnp.asarray(atom.val, atom.aval.dtype), False)
        return known[atom]

    for equation in jaxpr.eqns:
        values = [read(atom) for atom in equation.invars]
        found = _carry_out(equation, values, size)
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _carry_out(equation: Any, values: list[Value], size: int) -> Sequence[Value]:
    """One operation."""
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _evaluate(params[_CALLS[name]], values, size)
    if name == "while":
        return _loop(params, values, size)
    if name == "cond":
        return _branch(params["branches"], values, size)
    if name == "reduce":
        return _reduce(params, values)
    wide = any(value.wide for value in values)
    shape = (*equation.outvars[0].aval.shape, *((size,) if wide else ()))
    if name in _ELEMENTWISE:
        arrays = [_stretch(value, shape) for value in values]
        return [Value(equation.primitive.bind(*arrays, **params), wide)]
    if name not in _RULES:
        raise NotImplementedError(f"{name} has no form for lanes side by side")
    return [Value(_RULES[name](params, values, shape), wide)]


def _stretch(value: Value, shape: tuple[int, ...]) -> Array:
    """The array in a shape of which it may lack the axis of lanes, or all others."""
    rank = value.array.ndim - value.wide
    dimensions = (*range(rank), *((len(shape) - 1,) if value.wide else ()))
    if value.array.shape == shape:
        return value.array
    return lax.broadcast_in_dim(value.array, shape, dimensions)


def _widen(value: Value, size: int) -> Array:
    """The array with the axis of lanes."""
    return value.array if value.wide else _stretch(value, (*value.array.shape, size))


def _loop(params: Any, values: list[Value], size: int) -> list[Value]:
    """A loop; a lane that is finished keeps what it has."""
    first, second = params["cond_nconsts"], params["body_nconsts"]
    asked, done = values[:first], values[first : first + second]

    def unfinished(carry: list[Array]) -> Flags:
        wide = [Value(leaf, True) for leaf in carry]
        return _widen(_evaluate(params["cond_jaxpr"], [*asked, *wide], size)[0], size)

    def turn(state: tuple[Flags, list[Array]]) -> tuple[Flags, list[Array]]:
        active, carry = state
        wide = [Value(leaf, True) for leaf in carry]
        after = _evaluate(params["body_jaxpr"], [*done, *wide], size)
        new = [
            jnp.where(_stretch(Value(active, True), old.shape), _widen(value, size), old)
            for value, old in zip(after, carry, strict=True)
        ]
        return active & unfinished(new), new

    carry = [_widen(value, size) for value in values[first + second :]]
    _, carry = lax.while_loop(lambda state: _any(state[0]), turn, (unfinished(carry), carry))
    return [Value(leaf, True) for leaf in carry]


def _branch(branches: Sequence[Any], values: list[Value], size: int) -> list[Value]:
    """A choice among branches, each carried out if any lane chooses it."""
    index, *operands = values

    def carry_out(branch: Any) -> list[Array]:
        return [_widen(value, size) for value in _evaluate(branch, operands, size)]

    if not index.wide:
        wide = lax.switch(index.array, [functools.partial(carry_out, each) for each in branches])
        return [Value(array, True) for array in wide]
    chosen: list[Array] = []
    for number, branch in enumerate(branches):
        wanted = index.array == number
        if len(branch.eqns) > _FREE_OPERATIONS:
            shapes = [(*out.aval.shape, size) for out in _outvars(branch)]
            dtypes = [out.aval.dtype for out in _outvars(branch)]
            nothing = [jnp.zeros(s, d) for s, d in zip(shapes, dtypes, strict=True)]
            found = lax.cond(
                _any(wanted), functools.partial(carry_out, branch), lambda nothing=nothing: nothing
            )
        else:
            found = carry_out(branch)
        chosen = [
            jnp.where(_stretch(Value(wanted, True), new.shape), new, old)
            for new, old in zip(found, chosen or found, strict=True)
        ]
    return [Value(array, True) for array in chosen]


def _outvars(branch: Any) -> Any:
    return getattr(branch, "jaxpr", branch).outvars


def _any(flags: Flags) -> Bool[Array, ""]:
    return jnp.max(flags.astype(jnp.int32)) > 0


def _reduce(params: Any, values: list[Value]) -> list[Value]:
    """Several sums or extrema in one pass, as several passes."""
    terms, starts = values[: len(values) // 2], values[len(values) // 2 :]
    body, axes = params["jaxpr"], params["dimensions"]
    names = {equation.primitive.name for equation in getattr(body, "jaxpr", body).eqns}

    def one(term: Value, start: Value) -> Array:
        if names == {"add"}:
            return start.array + jnp.sum(term.array, axes)
        if names == {"max"}:
            return _larger(start.array, _extremum({"axes": axes}, [term], True))
        raise NotImplementedError(f"a reduction by {names} has no form for lanes side by side")

    return [Value(one(*pair), pair[0].wide) for pair in zip(terms, starts, strict=True)]


def _extremum(params: Any, values: list[Value], largest: bool) -> Array:
    """The largest or smallest over axes; NaN if there is one, which a GPU would leave out."""
    (value,), axes = values, params["axes"]
    found: Array = (jnp.max if largest else jnp.min)(value.array, axes)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return found
    unknown = jnp.max((value.array != value.array).astype(jnp.int32), axes)
    return jnp.where(unknown > 0, jnp.nan, found)


def _larger(a: Array, b: Array) -> Array:
    """The larger, or NaN if one is NaN."""
    return jnp.where((a >= b) | (a != a), a, b)


def _smaller(a: Array, b: Array) -> Array:
    return jnp.where((a <= b) | (a != a), a, b)


def _stretched(function: Callable[..., Array]) -> Callable[[Any, list[Value], Any], Array]:
    """A rule for a function of arrays of one shape."""
    return lambda _, values, shape: function(*(_stretch(value, shape) for value in values))


_RULES: dict[str, Callable[[Any, list[Value], tuple[int, ...]], Array]] = {
    "max": _stretched(_larger),
    "min": _stretched(_smaller),
    "clamp": _stretched(lambda low, x, high: _smaller(_larger(low, x), high)),
    "select_n": _stretched(lambda which, a, b: jnp.where(which, b, a)),
    "reduce_sum": lambda params, values, _: jnp.sum(values[0].array, params["axes"]),
    "reduce_max": lambda params, values, _: _extremum(params, values, True),
    "reduce_min": lambda params, values, _: _extremum(params, values, False),
    "reduce_or": lambda params, values, _: (
        jnp.max(values[0].array.astype(jnp.int32), params["axes"]) > 0
    ),
    "reduce_and": lambda params, values, _: (
        jnp.min(values[0].array.astype(jnp.int32), params["axes"]) > 0
    ),
    "broadcast_in_dim": lambda params, values, shape: lax.broadcast_in_dim(
        values[0].array,
        shape,
        (*params["broadcast_dimensions"], *((len(shape) - 1,) if values[0].wide else ())),
    ),
    "reshape": lambda _, values, shape: values[0].array.reshape(shape),
    "squeeze": lambda _, values, shape: values[0].array.reshape(shape),
    "reshard": lambda _, values, shape: values[0].array,  # under a mesh
}
