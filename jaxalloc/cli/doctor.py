"""`jaxalloc doctor`: is everything there, and does it compute what it should?"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import typer

from jaxalloc.cli.flags import AsJson

FAILED = 1
# The reference optimum of Qwen3-8B at the built-in traffic; all but the first are rounded.
_KNOWN_TOKENS = {"AIME24": 4072.46, "AIME25": 4702, "GPQA-D": 704, "GSM8K": 2245, "HMMT25": 1393}
_WITHIN = 0.6  # of a token: the references are rounded
_KNOWN_FINISH = [5, 4, 3]  # A_min on the first instance worked by hand (prompt 1, cache 8)
_LIBRARIES = ("jax", "jaxlib", "numpy", "scipy", "pyarrow", "pandas", "xarray", "matplotlib")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed and where it runs, and solve two problems of known answers."""
    from jaxalloc.cli.output import print_json
    from jaxalloc.cli.precision import float64

    with float64():
        document = _examine()
    if as_json:
        print_json(document)
    else:
        _print(document)
    if not all(test["passed"] for test in document["tests"].values()):
        typer.echo("jaxalloc: a self-test failed: reinstall jax and jaxalloc", err=True)
        raise typer.Exit(FAILED)


def _examine() -> dict[str, Any]:
    import jax

    from jaxalloc.backend.chunks import num_cores
    from jaxalloc.sweep.manifest import versions
    from jaxalloc.sweep.placement import host_memory

    devices = [
        {
            "name": str(device),
            "kind": device.device_kind,
            "platform": device.platform,
            "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in jax.devices()
    ]
    return {
        "versions": versions() | _versions(),
        "platform": jax.default_backend(),
        "devices": devices,
        "cores": num_cores(),
        "free_memory_bytes": host_memory(),
        "dtype": "float64",
        "tests": {"allocation": _allocation(), "schedule": _schedule()},
        "hints": hints(jax.default_backend(), gpu_present()),
    }


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {name: metadata.version(name) for name in _LIBRARIES}


def _allocation() -> dict[str, Any]:
    """Budgets of a built-in workload against the reference."""
    import jaxalloc
    from jaxalloc.workloads.files import load, to_workload

    file = load("qwen3-8b")
    best = jaxalloc.solve(to_workload(file))
    found = dict(zip(file.task_names, best.tokens.tolist(), strict=True))
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
    return any(
        (
            Path("/proc/driver/nvidia/gpus").is_dir(),
            Path("/dev/nvidia0").exists(),
            shutil.which("nvidia-smi") is not None,
        )
    )


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


def _print(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_totals, show

    totals = make_totals()
    for name, version in document["versions"].items():
        totals.add_row(name, version)
    for device in document["devices"]:
        memory = device["memory_bytes"]
        size = f", {memory / 2**30:.1f} GiB" if memory else ""
        totals.add_row("device", f"{device['name']} ({device['kind']}{size})")
    memory = document["free_memory_bytes"] / 2**30
    totals.add_row("machine", f"{document['cores']} cores, {memory:.1f} GiB free")
    totals.add_row("commands in", document["dtype"])
    for name, test in document["tests"].items():
        found = "as expected" if test["passed"] else f"{test['found']}, not {test['expected']}"
        totals.add_row(f"self-test: {name}", found)
    show(totals, *(f"hint: {hint}" for hint in document["hints"]))
