"""What `import jaxalloc` and a first solve bring in: no backend, no library of the command."""

import subprocess
import sys

LIBRARIES = {"typer", "rich", "pydantic", "pyarrow", "matplotlib", "pandas"}


def run(script):
    """Run a script in a fresh interpreter, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_import_starts_no_backend_and_flips_no_flag():
    run("""
import jax
before = dict(jax.config.values)
import jaxalloc
from jaxalloc import *
jaxalloc.Newton(), jaxalloc.FixedPoint(), jaxalloc.ProjectedGradient()
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
assert dict(jax.config.values) == before
""")


def test_the_core_needs_none_of_the_commands_libraries():
    # JAX itself may use SciPy where it is installed; the package adds no other.
    run(f"""
import sys
import jax
before = set(sys.modules)
import jaxalloc
for name, home in jaxalloc._HOMES.items():
    if home.startswith(("jaxalloc.allocation", "jaxalloc.scheduling", "jaxalloc.calibration")):
        getattr(jaxalloc, name)
workload = jaxalloc.Workload.create(
    arrival_rate=0.1, mix=[0.5, 0.5], gain=0.5, decay=1e-3, floor=0.1, base_time=0.1,
    time_per_token=1e-3, max_tokens=1000, accuracy_weight=20.0)
assert int(jaxalloc.solve_batch(workload).status) == 0
assert not (set(sys.modules) - before) & {LIBRARIES | {"scipy"}}
assert not set(sys.modules) & {LIBRARIES}
""")


def test_the_table_of_fields_needs_no_jax():
    run("import sys, jaxalloc.allocation.model.domain, jaxalloc.allocation.optimum.status\n"
        "assert not {'jax', 'numpy'} & set(sys.modules)")  # fmt: skip
