"""What every benchmark shares: its command, its clocks, and the report of where it ran on what.

    python benchmarks/ROOM_CLAIM.py [--quick]

writes `results/ROOM_CLAIM.json`, from which `tables.py` makes the tables of `benchmarks/README.md`;
`--quick` does it in little, prints the document and writes nothing.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

import jax
import numpy as np
import provenance

ROOT = provenance.ROOT
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "figures"
DATA = Path(os.environ.get("JAXALLOC_DATA", ROOT.parent / "shared" / "data"))
PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "pyarrow", "numba", "cvxpy", "clarabel", "moreau")
PACKAGES += ("cvxpylayers", "jaxopt", "simpy", "ciw", "jax-cuda12-plugin", "jax-cuda13-plugin")
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the zoo, the oracles and the rivals
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])

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


def show(row):
    """Print a row of a result as soon as it is there."""
    print(json.dumps(row, default=_plain, ensure_ascii=False), flush=True)


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, (np.integer, np.bool_)) else float(value)


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
        "code": code(whole),
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


def code(whole):
    """The modules that this process imported, or all, and their digest; none if one has changed."""
    imported = sorted(name for name in sys.modules if name.partition(".")[0] == "jaxalloc")
    modules = provenance.package_modules() if whole else imported
    files = filter(None, map(provenance.source, modules))
    changed = any(file.stat().st_mtime > BEGAN for file in files)
    return {"modules": modules, "digest": None if changed else provenance.digest(modules)}


# --------------------------------------------------------------------------------- the clocks


def clock(run):
    """Wall and processor seconds of a call, until its arrays are there."""
    wall, processor_time = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - processor_time


def interleave(sides, rounds, calls=1, unclocked=0, pause=0.0):
    """Every side in every round: seconds of its first call, which compiles, and of the others.

    In a round a side waits for `pause` (idle threads of the side before may spin for a while) and
    has that many calls on the clock (a dictionary: of each side); before several of them there are
    `unclocked` ones, to wake the threads up.
    """
    first = {name: clock(run)[0] for name, run in sides.items()}
    seconds = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            time.sleep(pause)
            number = calls.get(name, 1) if isinstance(calls, dict) else calls
            for _ in range(unclocked if number > 1 else 0):
                run()
            seconds[name] += [clock(run) for _ in range(number)]
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


BEGAN, COMMIT = time.time(), provenance.commit()  # now: the tree may move on during a long run
