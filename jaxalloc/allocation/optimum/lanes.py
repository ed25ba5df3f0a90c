"""A function of one lane, run on a block of lanes that lie side by side in the last axis.

`jax.vmap` puts the lanes first. In a GPU kernel they belong last: then neighbouring threads hold
neighbouring lanes, and a sum over the types of a lane stays inside few threads, or one. So the
function is traced for one lane, and what it was traced to is carried out on arrays with one more
axis at their end, constants too. A loop turns while any lane wants another turn, and a finished
lane keeps what it has, as under `jax.vmap`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

Outputs = TypeVar("Outputs")
Arrays = Sequence[Array]
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
    found = _evaluate(traced, leaves, leaves[0].shape[-1])
    outputs: Outputs = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return outputs


def _evaluate(traced: Any, inputs: Arrays, size: int) -> list[Array]:
    """What a traced function of one lane returns for many."""
    if traced.consts:
        raise NotImplementedError("an array from outside has no form for lanes side by side")
    jaxpr = traced.jaxpr
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Array:
        if hasattr(atom, "val"):
            return jnp.full((*atom.aval.shape, size), atom.val, atom.aval.dtype)
        return known[atom]

    for equation in jaxpr.eqns:
        found = _carry_out(equation, [read(atom) for atom in equation.invars], size)
        known.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _carry_out(equation: Any, values: Arrays, size: int) -> Arrays:
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
    shape = (*equation.outvars[0].aval.shape, size)
    if name in _ELEMENTWISE:
        stretched = [_stretch(value, shape) for value in values]
        return [equation.primitive.bind(*stretched, **params)]
    if name not in _RULES:
        raise NotImplementedError(f"{name} has no form for lanes side by side")
    return [_RULES[name](params, values, shape)]


def _stretch(value: Array, shape: tuple[int, ...]) -> Array:
    """The array in a shape of which it may lack all axes but that of the lanes."""
    if value.shape == shape:
        return value
    return lax.broadcast_in_dim(value, shape, (len(shape) - 1,))


def _loop(params: Any, values: Arrays, size: int) -> Arrays:
    """A loop; a lane that is finished keeps what it has."""
    first, second = params["cond_nconsts"], params["body_nconsts"]
    asked, done, carry = values[:first], values[first : first + second], values[first + second :]

    def unfinished(carry: Arrays) -> Flags:
        return _evaluate(params["cond_jaxpr"], [*asked, *carry], size)[0]

    def turn(state: tuple[Flags, list[Array]]) -> tuple[Flags, list[Array]]:
        active, carry = state
        after = _evaluate(params["body_jaxpr"], [*done, *carry], size)
        pairs = zip(after, carry, strict=True)
        new = [jnp.where(_stretch(active, old.shape), value, old) for value, old in pairs]
        return active & unfinished(new), new

    start = unfinished(carry), list(carry)
    return lax.while_loop(lambda state: _any(state[0]), turn, start)[1]


def _branch(branches: Sequence[Any], values: Arrays, size: int) -> Arrays:
    """A choice among branches, each carried out if any lane chooses it."""
    index, *operands = values
    chosen: list[Array] = []
    for number, branch in enumerate(branches):
        wanted = index == number
        run = functools.partial(_evaluate, branch, operands, size)
        if len(branch.jaxpr.eqns) > _FREE_OPERATIONS:
            nothing = [jnp.zeros((*out.shape, size), out.dtype) for out in branch.out_avals]
            found = lax.cond(_any(wanted), run, lambda nothing=nothing: nothing)
        else:
            found = run()
        pairs = zip(found, chosen or found, strict=True)
        chosen = [jnp.where(_stretch(wanted, new.shape), new, old) for new, old in pairs]
    return chosen


def _any(flags: Flags) -> Bool[Array, ""]:
    return jnp.max(flags.astype(jnp.int32)) > 0


def _reduce(params: Any, values: Arrays) -> Arrays:
    """Several sums or extrema in one pass, as several passes."""
    half, axes = len(values) // 2, params["dimensions"]
    pairs = list(zip(values[:half], values[half:], strict=True))
    names = {equation.primitive.name for equation in params["jaxpr"].jaxpr.eqns}
    if names == {"add"}:
        return [start + jnp.sum(term, axes) for term, start in pairs]
    if names == {"max"}:
        return [_larger(start, _extremum(jnp.max, term, axes)) for term, start in pairs]
    raise NotImplementedError(f"a reduction by {names} has no form for lanes side by side")


def _extremum(reduce: Any, value: Array, axes: Any) -> Array:
    """The largest or smallest over axes; NaN if there is one, which a GPU would leave out."""
    found: Array = reduce(value, axes)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return found
    unknown = jnp.max((value != value).astype(jnp.int32), axes)
    return jnp.where(unknown > 0, jnp.nan, found)


def _larger(a: Array, b: Array) -> Array:
    """The larger, or NaN if one is NaN."""
    return jnp.where((a >= b) | (a != a), a, b)


def _smaller(a: Array, b: Array) -> Array:
    return jnp.where((a <= b) | (a != a), a, b)


def _stretched(function: Callable[..., Array]) -> Callable[[Any, Arrays, Any], Array]:
    """A rule for a function of arrays of one shape."""
    return lambda _, values, shape: function(*(_stretch(value, shape) for value in values))


def _reduced(function: Callable[[Array, Any], Array]) -> Callable[[Any, Arrays, Any], Array]:
    """A rule for a function over axes."""
    return lambda params, values, _: function(values[0], params["axes"])


_RULES: dict[str, Callable[[Any, Arrays, tuple[int, ...]], Array]] = {
    "max": _stretched(_larger),
    "min": _stretched(_smaller),
    "clamp": _stretched(lambda low, x, high: _smaller(_larger(low, x), high)),
    "select_n": _stretched(lambda which, a, b: jnp.where(which, b, a)),
    "reduce_sum": _reduced(jnp.sum),
    "reduce_max": _reduced(functools.partial(_extremum, jnp.max)),
    "reduce_min": _reduced(functools.partial(_extremum, jnp.min)),
    "reduce_or": _reduced(lambda x, axes: jnp.max(x.astype(jnp.int32), axes) > 0),
    "reduce_and": _reduced(lambda x, axes: jnp.min(x.astype(jnp.int32), axes) > 0),
    "broadcast_in_dim": lambda params, values, shape: lax.broadcast_in_dim(
        values[0], shape, (*params["broadcast_dimensions"], len(shape) - 1)
    ),
    "reshape": lambda _, values, shape: values[0].reshape(shape),
    "squeeze": lambda _, values, shape: values[0].reshape(shape),
    "reshard": lambda _, values, shape: values[0],  # under a mesh
}
