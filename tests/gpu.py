"""Kernels without a GPU: what they compute in interpret mode, and that they lower for CUDA."""

import contextlib
import warnings

import jax
import pytest

from jaxalloc.backend import dispatch as backend

TARGET = "__gpu$xla.gpu.triton"


@contextlib.contextmanager
def interpreted():
    """What is traced here runs its kernels, in interpret mode; give it what nothing has traced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "kernel_form", lambda: "interpret")
        yield


@contextlib.contextmanager
def _for_h200():
    """From JAX 0.11 on Triton's lowering asks for the device, which need not be there."""
    if jax.__version_info__ < (0, 11):
        yield
        return
    from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh

    device = AbstractDevice("NVIDIA H200", num_cores=None, platform="cuda")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with use_abstract_mesh(mesh):
        yield


def cuda_kernels(function, *inputs):
    """How many kernels there are in `function` as lowered for an NVIDIA GPU."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), _for_h200():
        patch.setattr(backend, "kernel_form", lambda: "gpu")
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated")
        lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count(TARGET)
