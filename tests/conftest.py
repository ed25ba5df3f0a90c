"""Every test runs in float64 unless it says otherwise, with no silent promotion of ranks."""

import gc
import os
from pathlib import Path

# What one worker, process or run of the tests has compiled, no other has to compile again.
PROGRAMS = Path(__file__).parents[1] / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(PROGRAMS))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

DATA = Path(os.environ.get("JAXALLOC_DATA", Path(__file__).parents[2] / "shared" / "data"))

# Linux lets a process have 65,530 mappings, a compiled program takes some, and XLA crashes without.
MAPPINGS, MOST_MAPPINGS = Path("/proc/self/maps"), 25_000


@pytest.fixture(scope="module", autouse=True)
def few_mappings():
    """Forget what was compiled before there is too much of it."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def azure_trace() -> Path:
    """The Azure conversation trace of 2023, which the project does not ship."""
    path = DATA / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        pytest.skip(f"no trace at {path}: set JAXALLOC_DATA to the folder that holds it")
    return path
