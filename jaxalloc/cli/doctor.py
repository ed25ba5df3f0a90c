"""`jaxalloc doctor`: is everything there, and does it compute what it should?"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxalloc.cli.compute import computing
from jaxalloc.cli.errors import explain
from jaxalloc.cli.options import AsJson
from jaxalloc.cli.report import Part, deliver

# The reference optimum of Qwen3-8B at the built-in traffic; all but the first are rounded.
_KNOWN_TOKENS = {"AIME24": 4072.46, "AIME25": 4702, "GPQA-D": 704, "GSM8K": 2245, "HMMT25": 1393}
_WITHIN = 0.6  # of a token: the references are rounded
_KNOWN_FINISH = [5, 4, 3]  # A_min on the first instance worked by hand (prompt 1, cache 8)
_LIBRARIES = (
    *("jax", "jaxlib", "numpy", "jaxtyping"),
    *("typer", "rich", "pydantic", "pyarrow", "matplotlib", "pandas", "xarray", "scipy"),
)


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed and where it runs, and solve two problems of known answers.

    What is broken is named; all else is still told.
    """
    document = _examine()
    problems = document["problems"]
    deliver(document, _tables(document), as_json=as_json, lines=problems, failed=bool(problems))


def _examine() -> dict[str, Any]:
    """Everything there is to tell; what could not be found out is null and among the problems."""
    document: dict[str, Any] = {"versions": {"python": platform.python_version()}}
    problems: list[str] = []

    def found(examine: Callable[[], Any]) -> Any:
        try:
            return examine()
        except Exception as error:  # whatever it is, the rest is examined all the same
            said = " ".join(f"{type(error).__name__}: {error}".split())
            problems.append(explain(error) or said)
            return None

    for name in ("jaxalloc", *_LIBRARIES):
        try:
            document["versions"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            document["versions"][name] = None
            if name != "jaxalloc":  # which may run from its sources
                problems.append(f"the package {name} is missing: install jaxalloc again")
    with contextlib.ExitStack() as stack:
        on_device = found(lambda: stack.enter_context(computing()) or True)
        devices = (found(_devices) if on_device else None) or []
        document |= {
            "platform": devices[0]["platform"] if devices else None,
            "devices": devices,
            "cores": found(_cores),
            "free_memory_bytes": found(_free_memory),
            "dtype": "float64",
            "tests": {
                name: found(test) if on_device else None
                for name, test in (("allocation", _allocation), ("schedule", _schedule))
            },
        }
    if not all(test["passed"] for test in document["tests"].values() if test):
        problems.append("a self-test failed: reinstall jax and jaxalloc")
    hint = hints(document["platform"] or "", gpu_present())
    return document | {"hints": hint, "problems": list(dict.fromkeys(problems))}


def _devices() -> list[dict[str, Any]]:
    import jax

    return [
        {
            "name": str(device),
            "kind": device.device_kind,
            "platform": device.platform,
            "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in jax.devices()
    ]


def _cores() -> int:
    from jaxalloc.backend.chunks import num_cores

    return num_cores()


def _free_memory() -> int:
    """Bytes of this machine that are free, or all there are where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _allocation() -> dict[str, Any]:
    """Budgets of a built-in workload against the reference."""
    import jax

    import jaxalloc
    from jaxalloc.workloads.files import load

    file = load("qwen3-8b")
    best = jax.jit(jaxalloc.solve)(file.workload)
    found = dict(zip(file.names, best.tokens.tolist(), strict=True))
    worst = max(abs(found[name] - tokens) for name, tokens in _KNOWN_TOKENS.items())
    return {
        "passed": worst <= _WITHIN and int(best.status) == jaxalloc.Status.CONVERGED,
        "expected": _KNOWN_TOKENS,
        "found": found,
        "residual": float(best.residual),
    }


def _schedule() -> dict[str, Any]:
    """A schedule against the one worked by hand."""
    import jaxalloc

    requests = jaxalloc.Requests.create(prompt=1, output=[2, 4, 3], lower=1, upper=4)
    found = jaxalloc.simulate(requests, 8, jaxalloc.policies.AMin()).finish.tolist()
    return {"passed": found == _KNOWN_FINISH, "expected": _KNOWN_FINISH, "found": found}


def gpu_present() -> bool:
    """Whether this machine shows an NVIDIA GPU, whatever JAX says."""
    files = ("/proc/driver/nvidia/gpus", "/dev/nvidia0")
    return any(Path(file).exists() for file in files) or shutil.which("nvidia-smi") is not None


def hints(platform: str, gpu: bool) -> list[str]:
    """What could be better: one line each."""
    if platform != "cpu" or not gpu:
        return []
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return [f"a GPU is present but JAX_PLATFORMS = {chosen!r} keeps JAX from it: unset it"]
    return [
        "a GPU is present but JAX does not use it: install jaxalloc[cuda12] or jaxalloc[cuda13]"
    ]


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    told = [(name, version or "missing") for name, version in document["versions"].items()]
    for device in document["devices"]:
        memory = device["memory_bytes"]
        size = f", {memory / 2**30:.1f} GiB" if memory else ""
        told.append(("device", f"{device['name']} ({device['kind']}{size})"))
    memory = document["free_memory_bytes"]
    free = f"{memory / 2**30:.1f} GiB free" if memory else "free memory unknown"
    told.append(("machine", f"{document['cores'] or 'unknown'} cores, {free}"))
    told.append(("commands in", document["dtype"]))
    for name, test in document["tests"].items():
        result = "as expected" if test else "not run"
        if test and not test["passed"]:
            result = f"{test['found']}, not {test['expected']}"
        told.append((f"self-test: {name}", result))
    yield told
    yield from (f"hint: {hint}" for hint in document["hints"])
