"""A loop over lanes as one native function of a CPU, and when it may be one.

A solver or a simulator is a loop whose turn takes a few hundred nanoseconds. On a CPU that is less
than XLA's runtime spends on starting one operation, and lanes in lockstep would all wait for the
slowest: so the whole loop is compiled into one native function (a "small call" of XLA), in which a
batch runs its lanes one after another, with real branches.

Not everything can stand inside. The function is a kernel without a runtime: what XLA hands to a
library (sorts, products of matrices, large sums), to other threads (large arrays) or to the host
has no symbol there, and compiling fails. `obstacle` names what stands in the way, from what the
function was traced to alone; then, and where the variable JAXALLOC_CPU_KERNELS is 0, the lanes run
one after another in the ordinary runtime, which costs speed and nothing else. So does a release of
XLA that ignores the marks.

**What is split over threads** (XLA's `ParallelTaskAssignment`). Of operations, fused or not, with
an array as their result: those of 512 KiB or more; and those with more arithmetic than bytes moved
that cost 200,000 or more, at 1 for each arithmetic operation, 2 for a transcendental one and 10 for
a byte. What an operation may be fused with is at most all that it depends on within its loop. If
that is no more arithmetic than the result has bytes, it is not of the second kind; and since those
move less bytes than they compute, 11 · arithmetic + 2 · transcendental is more than they cost.
"""

from __future__ import annotations

import functools
import math
import operator
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax._src import dispatch as jax_dispatch
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import mlir

Arrays = Sequence[Any]
Run = Callable[..., Arrays]  # of the flat arrays of a lane

_MOST_BYTES = 512 << 10  # of an array, from which on XLA splits its loop
_MOST_COST = 200_000  # of what is fused into one
_MOST_SUMMED = 4096  # floating numbers, from which on XLA hands a reduction to a library

_CHEAP = {
    "abs", "add", "and", "bitcast_convert_type", "ceil", "clamp", "convert_element_type", "copy",
    "div", "eq", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lt", "max", "min", "mul",
    "ne", "neg", "nextafter", "not", "or", "population_count", "rem", "round", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "square", "sub", "xor",
}  # fmt: skip
_TRANSCENDENTAL = {
    "atan2", "cos", "exp", "exp2", "expm1", "log", "log1p", "logistic", "pow", "rsqrt", "sin",
    "sqrt", "tan", "tanh",
}  # fmt: skip
_MOVES = {
    "broadcast_in_dim", "concatenate", "copy_p", "dynamic_slice", "dynamic_update_slice", "gather",
    "iota", "optimization_barrier", "pad", "pvary", "reshape", "reshard", "rev", "slice", "split",
    "squeeze", "stack", "stop_gradient", "transpose", "unstack",
}  # fmt: skip
_REDUCTIONS = {
    "argmax", "argmin", "reduce", "reduce_and", "reduce_max", "reduce_min", "reduce_or",
    "reduce_prod", "reduce_sum",
}  # fmt: skip
# Expanded into many operations: how many to count for each number.
_EXPANDED = {
    "erf": 60, "erf_inv": 60, "lgamma": 120, "random_bits": 120, "random_fold_in": 120,
    "random_seed": 120, "random_split": 120, "random_unwrap": 0, "random_wrap": 0,
    "threefry2x32": 120,
}  # fmt: skip
# What is traced within an operation, by the name of its parameter.
_LOOPS = {"while": ("cond_jaxpr", "body_jaxpr"), "scan": ("jaxpr",)}
_INLINED = {
    "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "jaxalloc_lanes": "traced",
    "jit": "jaxpr", "pjit": "jaxpr",
}  # fmt: skip


def may_stand_inside(traced: Any) -> bool:
    """Whether a traced function of one lane is to be one native function."""
    wanted = os.environ.get("JAXALLOC_CPU_KERNELS", "1") != "0" and not is_inside()
    return wanted and obstacle(traced) is None


def obstacle(traced: Any) -> str | None:
    """What keeps a traced function from being one native function, if anything does.

    >>> import jax, jax.numpy as jnp
    >>> obstacle(jax.make_jaxpr(lambda x: jnp.sort(x) + 1)(jnp.ones(3)))
    'sort'
    >>> obstacle(jax.make_jaxpr(lambda x: jnp.outer(x, x))(jnp.ones(1 << 9, jnp.float32)))
    'mul of 1024 KiB'
    """
    jaxpr = getattr(traced, "jaxpr", traced)
    try:
        _check_bytes("an input", jaxpr.invars)  # which is cut out of those of all lanes
        _Walk().follow(traced, None)
    except _Obstacle as found:
        return str(found)
    return None


class _Obstacle(Exception):
    """What cannot stand inside."""


class _Walk:
    """A walk over all operations, which raises at the first that cannot stand inside.

    With every value goes the set of operations (the bits of an integer) that XLA may fuse with one
    that reads it. A loop ends that set, and so does a sum to one number, since what reads that
    reads it many times.
    """

    def __init__(self) -> None:
        self.costs: list[tuple[int, int]] = []  # operations, and 11 or 13 for each

    def follow(self, traced: Any, behind: Sequence[int] | None) -> list[int]:
        """The operations behind each output, given those behind each input."""
        jaxpr = getattr(traced, "jaxpr", traced)
        behind = [0] * len(jaxpr.invars) if behind is None else behind
        known: dict[Any, int] = dict(zip(jaxpr.invars, behind, strict=True))

        def read(atom: Any) -> int:
            return 0 if hasattr(atom, "val") else known.get(atom, 0)

        for equation in jaxpr.eqns:
            found = self.step(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def step(self, equation: Any, behind: list[int]) -> list[int]:
        """The operations behind each result of one operation."""
        name, params = equation.primitive.name, equation.params
        if name in _LOOPS:
            for part in _LOOPS[name]:
                self.follow(params[part], None)
            _check_bytes(name, equation.outvars)
            return [0] * len(equation.outvars)
        if name == "cond":  # small branches may become a choice between their results
            found = [self.follow(branch, behind[1:]) for branch in params["branches"]]
            return [functools.reduce(operator.or_, each) for each in zip(*found, strict=True)]
        if name in _INLINED and not params.get("axes"):
            return self.follow(params[_INLINED[name]], behind)
        _check_bytes(name, equation.outvars)
        operations, weight = _work_of(equation)
        fused = functools.reduce(operator.or_, behind, 1 << len(self.costs))
        self.costs.append((operations, operations * weight))
        if all(not out.aval.shape for out in equation.outvars):
            return [0 if name in _REDUCTIONS else fused] * len(equation.outvars)
        self.check_cost(equation, fused)
        return [fused] * len(equation.outvars)

    def check_cost(self, equation: Any, fused: int) -> None:
        """Raise if XLA might find enough to compute in a result to split it."""
        costs = [cost for place, cost in enumerate(self.costs) if fused >> place & 1]
        operations, cost = map(sum, zip(*costs, strict=True))
        size = min(_bytes_of(out) for out in equation.outvars)
        if operations > size and cost >= _MOST_COST:
            raise _Obstacle(f"{equation.primitive.name} at the end of {operations} operations")


def _work_of(equation: Any) -> tuple[int, int]:
    """How much one operation computes, and the most that a unit of it costs; raises for some."""
    name = equation.primitive.name
    if name in _REDUCTIONS:
        size = max(math.prod(value.aval.shape) for value in equation.invars)
        floating = any(jnp.issubdtype(x.aval.dtype, jnp.inexact) for x in equation.invars)
        if floating and size >= _MOST_SUMMED:
            raise _Obstacle(f"{name} of {size} numbers")
        return size, 11
    size = max(math.prod(out.aval.shape) for out in equation.outvars)
    if name in _CHEAP:
        return size, 11
    if name in _TRANSCENDENTAL:
        return size, 13
    if name in _EXPANDED:
        return size * _EXPANDED[name], 13
    # At one place a scatter is an update of a slice; at several XLA cannot compile it inside.
    at_one_place = name == "scatter" and math.prod(equation.invars[1].aval.shape[:-1]) == 1
    if name not in _MOVES and not at_one_place:
        raise _Obstacle(name)
    return 0, 11


def _bytes_of(value: Any) -> int:
    size: int = math.prod(value.aval.shape) * value.aval.dtype.itemsize
    return size


def _check_bytes(name: str, values: Sequence[Any]) -> None:
    """Raise if an array is so large that XLA splits what makes it."""
    size = max(map(_bytes_of, values), default=0)
    if size >= _MOST_BYTES:
        raise _Obstacle(f"{name} of {size >> 10} KiB")


def in_turn(run: Run) -> Run:
    """`run` of every lane, one after another in one native function.

    Args:
      run: of arrays of one lane, which `may_stand_inside`.

    Returns:
      A function of arrays with one leading axis.
    """

    def lanes(inputs: Arrays, outputs: Arrays) -> Arrays:
        # The arrays to write into come from outside, where XLA may split what fills them.
        def turn(carry: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
            lane, outputs = carry
            found = run(*(lax.dynamic_index_in_dim(x, lane, 0, keepdims=False) for x in inputs))
            written = [
                lax.dynamic_update_index_in_dim(old, new, lane, 0)
                for old, new in zip(outputs, found, strict=True)
            ]
            return lane + 1, written

        size = inputs[0].shape[0]
        first = jnp.int32(0), list(outputs)
        written: Arrays = lax.while_loop(lambda carry: carry[0] < size, turn, first)[1]
        return written

    def call(*inputs: Any) -> Arrays:
        lane = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in inputs]
        size = inputs[0].shape[0]
        outputs = [jnp.zeros((size, *x.shape), x.dtype) for x in jax.eval_shape(run, *lane)]
        if isinstance(size, int) and size == 0:
            return outputs
        return as_one_function(lanes)(inputs, outputs)

    return call


def as_one_function(run: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """`run`, compiled as one native function on a CPU."""

    def body(inputs: Any) -> tuple[Arrays, Any]:
        # XLA aborts on an argument that the function does not read: read a bit of each.
        read = [x.reshape(-1)[:1].astype(jnp.float32) for x in jax.tree.leaves(inputs)]
        return run(*inputs), jnp.stack([jnp.sum(x) for x in read])

    def call(*inputs: Any) -> Arrays:
        # A large constant among the operands makes XLA's emitter abort: the barrier hides it.
        inputs = lax.optimization_barrier(inputs)
        traced, shapes = jax.make_jaxpr(body, return_shape=True)(inputs)
        found = native_p.bind(*jax.tree.leaves(inputs), traced=traced)
        answers: Arrays = jax.tree.unflatten(jax.tree.structure(shapes), found)[0]
        return answers

    return call


def tell_devices(primitive: Primitive) -> None:
    """Let the lowering of a primitive know for which devices it is: those on this list do."""
    told: set[Any] = getattr(jax_dispatch, "prim_requires_devices_during_lowering", set())
    told.add(primitive)


native_p = Primitive("jaxalloc_native")
native_p.multiple_results = True
native_p.def_abstract_eval(lambda *_, traced: traced.out_avals)
_MARKS = {"xla_cpu_small_call": "true", "inlineable": "false"}
_scope = threading.local()


def is_inside() -> bool:
    """Whether what is lowered now is part of a native function already."""
    return getattr(_scope, "inside", False)


def _lower(context: Any, *inputs: Any, traced: Any) -> Any:
    """A call, marked for XLA's CPU compiler."""
    _scope.inside = True
    try:
        found = mlir.lower_fun(jax.jit(jaxpr_as_fun(traced)))(context, *inputs)
    finally:
        _scope.inside = False
    marks: dict[str, Any] = {name: mlir.ir.StringAttr.get(value) for name, value in _MARKS.items()}
    found[0].owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get(marks)
    return found


mlir.register_lowering(native_p, _lower, platform="cpu")
