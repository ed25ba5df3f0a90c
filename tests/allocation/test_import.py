"""What `import jaxalloc` and a first solve bring in: no backend, no library of the command."""

import subprocess
import sys

import pytest

LIBRARIES = ["typer", "rich", "pydantic", "pyarrow", "matplotlib", "scipy", "pandas"]


def run(script):
    """Run a script in a fresh interpreter, warnings being errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NO_BACKEND = """
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""


@pytest.mark.parametrize(
    "statement",
    [
        "import jaxalloc",
        "import jaxalloc; jaxalloc.solve",
        "from jaxalloc import *",
        "from jaxalloc import Newton, FixedPoint, ProjectedGradient; Newton(), FixedPoint()",
        "import jaxalloc.allocation.optimum.batch, jaxalloc.allocation.decisions.rounding",
    ],
)
def test_an_import_starts_no_backend(statement):
    run(statement + NO_BACKEND)


def test_the_core_needs_none_of_the_commands_libraries():
    script = f"""
import sys
import jax
before = set(sys.modules)
import jaxalloc
for name in jaxalloc.__all__:
    getattr(jaxalloc, name)
workload = jaxalloc.Workload.create(
    arrival_rate=0.1, mix=[0.5, 0.5], gain=0.5, decay=1e-3, floor=0.1, base_time=0.1,
    time_per_token=1e-3, max_tokens=1000, accuracy_weight=20.0)
answer = jaxalloc.solve_batch(workload)
assert int(answer.status) == 0
jaxalloc.round_tokens(workload, answer)
print(sorted((set(sys.modules) - before) & set({LIBRARIES})))
"""
    assert run(script).strip() == "[]"


def test_a_first_solve_brings_none_of_them_either():
    # JAX itself may use SciPy where it is installed; the package adds no other.
    script = f"""
import sys
import jaxalloc
jaxalloc.solve
print(sorted(set(sys.modules) & set({LIBRARIES}) - {{"scipy"}}))
"""
    assert run(script).strip() == "[]"


def test_no_global_flag_is_flipped():
    script = """
import jax
before = dict(jax.config.values)
import jaxalloc
for name in jaxalloc.__all__:
    getattr(jaxalloc, name)
assert dict(jax.config.values) == before
"""
    run(script)
