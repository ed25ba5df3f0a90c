"""What every benchmark shares: its command, its clocks, and the report of where it ran on what.

    python benchmarks/ROOM_CLAIM.py [--quick]

writes `results/ROOM_CLAIM.json`, from which `tables.py` makes the tables of `benchmarks/README.md`;
`--quick` does it in little, prints the document and writes nothing.
"""

import argparse
import ast
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "figures"
DATA = Path(os.environ.get("JAXALLOC_DATA", ROOT.parent / "shared" / "data"))
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "pyarrow", "numba", "cvxpy", "clarabel", "moreau")
PACKAGES += ("cvxpylayers", "jaxopt", "simpy", "ciw", "jax-cuda12-plugin", "jax-cuda13-plugin")
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the zoo, the oracles and the rivals

# ------------------------------------------------------------------------------- the command


def main(script, measure, *, x64=True, whole=False, **options):
    """Run `measure(quick=…, **options)` and save what it returns under the name of the script.

    `whole` says that the work is done in other processes, by any module of the package.
    """
    parser = argparse.ArgumentParser(
        description=inspect.getmodule(measure).__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="in little; saves nothing")
    for name, default in options.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(default), default=default, help="default: %(default)s")
    given = vars(parser.parse_args())
    jax.config.update("jax_enable_x64", x64)
    save(Path(script).stem, measure(**given), given["quick"], whole)


def save(name, document, quick=False, whole=False):
    """Write results/NAME.json; a quick run prints it and leaves the file alone."""
    text = json.dumps({"environment": environment(whole), **document}, indent=1, default=_plain)
    if quick:
        print(text)
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(f"wrote benchmarks/results/{name}.json")


def _plain(value):
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else float(value)


# ------------------------------------------------------------------------- where it ran, on what


def environment(whole=False):
    """Device, versions, commit, and the code that this process imported."""
    device = jax.devices()[0]
    return {
        "date": date.today().isoformat(),
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if version(name)},
        "commit": COMMIT,
        "code": code(package_modules() if whole else imported_modules()),
    }


def processor():
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git(*words):
    """What git says of this repository; None where it is not one, or git objects."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()


def commit():
    """The commit that runs, marked if the package itself has changes."""
    found, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "jaxalloc")
    return (found or "unknown") + ("-modified" if changes else "")


def imported_modules():
    return sorted(name for name in sys.modules if name.partition(".")[0] == "jaxalloc")


def package_modules():
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "jaxalloc").rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def code(modules):
    """The modules and their digest; no digest if one changed while it ran."""
    changed = any(source(name).stat().st_mtime > BEGAN for name in modules if source(name))
    return {"modules": modules, "digest": None if changed else digest(modules)}


def source(module):
    """The file of a module of the package; None if it is gone."""
    path = ROOT.joinpath(*module.split("."))
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in found if file.exists()), None)


def digest(modules):
    """Of the parsed source of modules, without comments and docstrings; None if one is gone."""
    found = hashlib.sha256()
    for name in modules:
        if not source(name):
            return None
        found.update(f"{name} {_tree(ast.parse(source(name).read_text()))}\n".encode())
    return found.hexdigest()[:16]


def _tree(node):
    """A syntax tree in words, the same in all versions of Python: what is empty is left out."""
    if isinstance(node, list):
        return [_tree(child) for child in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    match fields.get("body"):
        case [ast.Expr(ast.Constant(str())), *rest]:
            fields["body"] = rest
    kept = {k: _tree(v) for k, v in fields.items() if v not in (None, []) and k != "kind"}
    return type(node).__name__, kept


# --------------------------------------------------------------------------------- the clocks


def clock(run):
    """Wall and processor seconds of a call, until its arrays are there."""
    wall, processor_time = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor_time


def interleave(sides, rounds, calls=1, unclocked=0, pause=0.0):
    """Every side in every round: seconds of its first call, which compiles, and of the others.

    In a round a side waits for `pause` (idle threads of the side before may spin for a while), is
    called `unclocked` times to wake its threads up, and `calls` times on the clock.
    """
    first = {name: clock(run)[0] for name, run in sides.items()}
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            time.sleep(pause)
            for _ in range(unclocked):
                run()
            seconds[name] += [clock(run) for _ in range(calls)]
    return {
        name: {
            "first_call_seconds": first[name],
            "wall": spread([wall for wall, _ in pairs]),
            "processor": spread([used for _, used in pairs]),
        }
        for name, pairs in seconds.items()
    }


def spread(seconds):
    """Median, quartiles and the best of repeated timings."""
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return {"median": median, "q1": low, "q3": high, "best": min(seconds), "repeats": len(seconds)}


def quantiles(values):
    """Median, 99th percentile and largest, each one of the values."""
    p50, p99 = np.quantile(np.asarray(values, float), [0.5, 0.99], method="nearest")
    return {"p50": p50, "p99": p99, "max": np.max(values)}


# --------------------------------------------------------------------------------- the inputs


def workloads(fields, dtype=np.float64):
    """A batch of the zoo as a `jaxalloc.Workload` of the given dtype."""
    import jaxalloc

    return jaxalloc.Workload(**{name: jax.numpy.asarray(v, dtype) for name, v in fields.items()})


BEGAN, COMMIT = time.time(), commit()  # now: the tree may move on during a long run
