"""Every test runs in float64 unless it says otherwise, with no silent promotion of ranks."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

DATA = Path(os.environ.get("JAXALLOC_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def azure_trace() -> Path:
    """The Azure conversation trace of 2023, which the project does not ship."""
    path = DATA / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        pytest.skip(f"no trace at {path}: set JAXALLOC_DATA to the folder that holds it")
    return path
