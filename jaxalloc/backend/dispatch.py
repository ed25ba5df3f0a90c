"""`dispatch`: a function of one lane, batched in the form that the platform runs best.

A function of one lane is one operation to JAX (a primitive), until it is compiled: then there are
as many lanes as `jax.vmap`, nested or not, has made of it, and the platform and its devices are
known. A CPU runs the lanes one after another in one native function (`native`), where it can; a GPU
runs its kernel, where it has one and is told to; elsewhere the lanes run side by side.

**Several devices.** The partitioner must not look into a native function, or it puts collectives
there: where it is at work (`jax.jit` of sharded arrays, on automatic or explicit axes) it is told
that lanes are independent, and each device has a native function for its share. Within
`jax.shard_map` there is no partitioner. A lane is traced as if there were no mesh, so that
what it starts from may be a plain number under any of them.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

from jaxalloc.backend import native
from jaxalloc.backend.sharding import lanes_of, no_mesh, no_tangent, vary_alike

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")
Arrays = Sequence[Any]
Run = Callable[..., Any]  # of the flat arrays

_LEAST_CAPABILITY = 8.0  # of an NVIDIA GPU, for the kernels


def dispatch(run: Callable[[Inputs], Outputs], inputs: Inputs) -> Outputs:
    """`run(inputs)`, which `jax.vmap` batches in the form that the platform runs best.

    To be called within `jax.jit`; outside of it every call compiles.

    Args:
      run: a function of one lane.
      inputs: its one argument, a pytree of arrays (random keys as their data).
    """
    return _bind(run, inputs, kernel=None)


def with_kernel(
    plain: Callable[[Inputs], Outputs], kernel: Callable[..., Outputs], inputs: Inputs
) -> Outputs:
    """`plain(inputs)`, or on a GPU what a kernel makes of the whole batch.

    Args:
      plain: a function of one lane.
      kernel: the same of many, every array with a leading axis; with `interpret=True` it runs
        anywhere, slowly. If it raises NotImplementedError while it is traced, there is no kernel
        for this function, and the plain one is taken.
      inputs: a pytree of arrays.
    """
    form = kernel_form()
    if form is None:
        return plain(inputs)
    many = functools.partial(kernel, interpret=form == "interpret")
    try:
        jax.eval_shape(many, jax.tree.map(lambda x: _type(x, (1, *x.shape)), inputs))
    except NotImplementedError:
        return plain(inputs)
    return _bind(plain, inputs, kernel=many)


def kernel_form() -> str | None:
    """How GPU kernels run: "gpu", or None if they do not; "interpret" in tests.

    They run where there is a GPU for them and the environment variable JAXALLOC_GPU_KERNELS is 1.
    """
    if os.environ.get("JAXALLOC_GPU_KERNELS", "0") != "1":
        return None
    return "gpu" if _has_gpu() else None


@functools.cache
def _has_gpu() -> bool:
    """Whether there is a GPU that Triton, which compiles the kernels, has code for."""
    try:
        devices = jax.devices("cuda")
    except RuntimeError:  # how JAX says that there is none
        return False
    return all(float(device.compute_capability) >= _LEAST_CAPABILITY for device in devices)


def _type(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """An array's type without its sharding."""
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _bind(
    run: Callable[[Inputs], Outputs], inputs: Inputs, kernel: Callable[..., Any] | None
) -> Outputs:
    """The primitive, with what `run` is traced to; what it closes over becomes an input."""
    leaves, structure = jax.tree.flatten(jax.tree.map(jnp.asarray, inputs))

    def flat(*leaves: Any) -> Outputs:
        return run(jax.tree.unflatten(structure, leaves))

    def flat_kernel(*leaves: Any) -> Arrays:
        assert kernel is not None
        return jax.tree.leaves(kernel(jax.tree.unflatten(structure, leaves)))

    with no_mesh():
        types = [_type(leaf, leaf.shape) for leaf in leaves]
        traced, shapes = jax.make_jaxpr(flat, return_shape=True)(*types)
    found = lanes_p.bind(*vary_alike(leaves), traced=traced, axes=0, kernel=kernel and flat_kernel)
    outputs: Outputs = jax.tree.unflatten(jax.tree.structure(shapes), found)
    return outputs


lanes_p = Primitive("jaxalloc_lanes")
lanes_p.multiple_results = True
native.tell_devices(lanes_p)


def _run(*inputs: Any, **params: Any) -> Arrays:
    found: Arrays = jax.jit(functools.partial(lanes_p.bind, **params))(*inputs)
    return found


def _types(*inputs: Any, traced: Any, axes: int, **_: Any) -> Arrays:
    """Types of the results: the lanes in front, sharded like those of the inputs."""
    lanes, mesh = lanes_of(inputs, axes)
    like = next(x for x in inputs if x.sharding.mesh == mesh)

    def result(out: Any) -> Any:
        spec = PartitionSpec(*lanes, *(None,) * len(out.shape))
        return like.update(
            shape=(*inputs[0].shape[:axes], *out.shape),
            dtype=out.dtype,
            weak_type=False,
            sharding=NamedSharding(mesh, spec),
        )

    return [result(out) for out in traced.out_avals]


lanes_p.def_impl(_run)
lanes_p.def_abstract_eval(_types)


def _batch(inputs: Arrays, dims: Sequence[int | None], *, axes: int, **params: Any) -> Any:
    """One more axis of lanes."""
    size = next(x.shape[dim] for x, dim in zip(inputs, dims, strict=True) if dim is not None)
    wide = [
        jnp.broadcast_to(x, (size, *jnp.shape(x))) if dim is None else jnp.moveaxis(x, dim, 0)
        for x, dim in zip(inputs, dims, strict=True)
    ]
    found = lanes_p.bind(*vary_alike(wide), axes=axes + 1, **params)
    return found, [0] * len(found)


batching.primitive_batchers[lanes_p] = _batch


def _push_forward(primals: Arrays, tangents: Arrays, *, traced: Any, axes: int, **_: Any) -> Any:
    """The derivative, of the plain form."""
    moved = [
        no_tangent(x)
        if not jnp.issubdtype(x.dtype, jnp.inexact)
        else jnp.zeros_like(x)
        if type(dx) is ad.Zero
        else dx
        for x, dx in zip(primals, tangents, strict=True)
    ]
    return jax.jvp(_side_by_side(traced, axes), tuple(primals), tuple(moved))


ad.primitive_jvps[lanes_p] = _push_forward


def _lower(context: Any, *inputs: Any, platform: str | None, **params: Any) -> Any:
    """The operation as XLA is to compile it, for one platform."""
    run = _form(platform=platform, **params)
    where = context.module_context.axis_context
    if run is not None and not _is_alone(where):
        run = _on_each_device(**params) if _can_be_split(context) else None
    elif run is not None:
        # Within a call, since a partitioner takes away the marks of what is outermost.
        run = jax.jit(run)
    if run is None:
        run = _side_by_side(params["traced"], params["axes"])
    with no_mesh():
        context = context.replace(
            avals_in=[ShapedArray(x.shape, x.dtype) for x in context.avals_in]
        )
        return mlir.lower_fun(run, multiple_results=True)(context, *inputs)


for _platform in ("cpu", "cuda", None):
    mlir.register_lowering(
        lanes_p, functools.partial(_lower, platform=_platform), platform=_platform
    )


def _form(*, traced: Any, axes: int, kernel: Any, platform: str | None) -> Run | None:
    """What one device runs, if it is not the lanes side by side."""
    if kernel is not None:
        wanted = platform == "cuda" or kernel_form() == "interpret"
        return _over_one_axis(kernel, axes) if wanted else None
    if platform != "cpu":
        return None
    run = jaxpr_as_fun(traced)
    if native.may_stand_inside(traced):
        many = native.as_one_function(run) if axes == 0 else native.in_turn(run)
    else:
        many = run if axes == 0 else lambda *x: lax.map(lambda lane: run(*lane), x)
    return _over_one_axis(many, axes) if axes else many


def _side_by_side(traced: Any, axes: int) -> Run:
    """The lanes in lockstep."""
    run = jaxpr_as_fun(traced)
    for _ in range(axes):
        run = jax.vmap(run)
    return run


def _over_one_axis(many: Run, axes: int) -> Run:
    """A function of arrays with one axis of lanes, for arrays with any number of them."""

    def call(*inputs: Any) -> Arrays:
        lanes = inputs[0].shape[:axes]
        size = math.prod(lanes)
        found = many(*(x.reshape(size, *x.shape[axes:]) for x in inputs))
        return [x.reshape(*lanes, *x.shape[1:]) for x in found]

    return call


def _is_alone(where: Any) -> bool:
    """Whether no partitioner will spread what is lowered here over several devices."""
    if hasattr(where, "manual_axes"):
        return set(where.manual_axes) == set(where.mesh.axis_names)
    return getattr(where, "num_devices", 1) == 1


def _can_be_split(context: Any) -> bool:
    """Whether the partitioner can be told how: not in part of a mesh, nor on another machine."""
    devices = getattr(context.module_context.axis_context, "device_assignment", None)
    return devices is not None and not context.module_context.lowering_parameters.for_export


def _on_each_device(*, traced: Any, axes: int, kernel: Any) -> Run:
    """The operation on each device's share of the lanes, whatever else is sharded gathered."""
    run = functools.partial(lanes_p.bind, traced=traced, axes=axes, kernel=kernel)

    def partition(mesh: Any, inputs: Any, results: Any) -> Any:
        specs = [x.sharding.spec for x in (*results, *inputs)]
        lanes = [next((spec[i] for spec in specs if spec[i]), None) for i in range(axes)]

        def share(x: Any) -> NamedSharding:
            return NamedSharding(mesh, PartitionSpec(*lanes, *(None,) * (len(x.shape) - axes)))

        return mesh, run, [share(x) for x in results], tuple(share(x) for x in inputs)

    def rule(mesh: Any, inputs: Any, results: Any) -> Any:
        del mesh
        others: list[str] = []

        def factors(value: Any) -> str:
            own = [f"own{len(others) + i}" for i in range(len(value.shape) - axes)]
            others.extend(own)
            return " ".join([f"lane{i}" for i in range(axes)] + own)

        sides = [", ".join(factors(value) for value in side) for side in (inputs, results)]
        return " -> ".join(sides), {"need_replication_factors": tuple(others)}

    spread = custom_partitioning(run)
    spread.def_partition(
        partition,
        infer_sharding_from_operands=lambda *known: partition(*known)[2],
        sharding_rule=rule,
    )
    return spread
