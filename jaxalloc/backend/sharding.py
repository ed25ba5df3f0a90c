"""Arrays on several devices: the meshes that they are sharded over, and how lanes follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.sharding import (
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
    reshard,
    use_abstract_mesh,
)

Outputs = TypeVar("Outputs")
Arrays = Sequence[Any]


def over_lanes(run: Callable[..., Outputs], axes: int) -> Callable[..., Outputs]:
    """`run` of one lane, mapped over any number of leading axes, sharded alike.

    Arrays that are not sharded over explicit axes become so, as `jax.vmap` asks them to be.
    """
    mapped = run
    for _ in range(axes):
        mapped = jax.vmap(mapped)

    def call(*inputs: Any) -> Outputs:
        with mesh_of(inputs):
            return mapped(*_shard_alike(inputs, axes))

    return call


def _shard_alike(inputs: Any, axes: int) -> Any:
    """All arrays with their leading axes sharded like those of one of them."""
    types = [jax.typeof(leaf) for leaf in jax.tree.leaves(inputs)]
    lanes, mesh = lanes_of(types, axes)

    def shard(leaf: Any) -> Any:
        own = jax.typeof(leaf).sharding.spec
        if tuple(own[:axes]) == lanes:
            return leaf
        return reshard(leaf, NamedSharding(mesh, PartitionSpec(*lanes, *own[axes:])))

    return jax.tree.map(shard, inputs) if any(lanes) else inputs


def lanes_of(types: Arrays, axes: int) -> tuple[tuple[Any, ...], Any]:
    """Over which explicit axes of a mesh the leading axes are sharded, and the mesh."""
    under_mesh = [x.sharding for x in types if not x.sharding.mesh.empty]
    if not under_mesh:
        return (None,) * axes, types[0].sharding.mesh
    lanes = [next((x.spec[i] for x in under_mesh if x.spec[i]), None) for i in range(axes)]
    return tuple(lanes), under_mesh[0].mesh


def mesh_of(inputs: Any) -> contextlib.AbstractContextManager[Any]:
    """The scope of the mesh that traced arrays are sharded over, if there is one.

    `jax.jit` of arrays on explicit axes knows their mesh without a scope, `jax.vmap` inside does
    not ("Resource axis … is not found").
    """
    for leaf in jax.tree.leaves(inputs):
        mesh = getattr(getattr(jax.typeof(leaf), "sharding", None), "mesh", None)
        if isinstance(leaf, jax.core.Tracer) and mesh is not None and not mesh.empty:
            return (
                contextlib.nullcontext() if get_abstract_mesh() == mesh else use_abstract_mesh(mesh)
            )
    return contextlib.nullcontext()


def no_mesh() -> contextlib.AbstractContextManager[Any]:
    """The scope in which arrays are traced as on one device, of the kind that they are on."""
    here = get_abstract_mesh()
    return use_abstract_mesh(here.update(axis_sizes=(), axis_names=(), axis_types=()))


def _varying(value: Any) -> frozenset[Any]:
    """Over which manual axes of a mesh an array varies (`jax.shard_map`)."""
    return frozenset(getattr(getattr(jax.typeof(value), "mat", None), "varying", ()))


def vary_alike(leaves: Arrays) -> Arrays:
    """All arrays varying over all axes over which one of them does."""
    every = frozenset[Any]().union(*map(_varying, leaves))
    return [
        lax.pcast(leaf, tuple(every - _varying(leaf)), to="varying")
        if every - _varying(leaf)
        else leaf
        for leaf in leaves
    ]


def no_tangent(value: Any) -> Any:
    """The tangent of integers, which have none, for a rule of derivatives."""
    none = np.zeros(value.shape, jax.dtypes.float0)
    axes = tuple(_varying(value))
    return lax.pcast(none, axes, to="varying") if axes else none
