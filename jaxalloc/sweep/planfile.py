"""Plan files: TOML that names a workload or a schedule, what is fixed and what varies.

workload = "qwen3-8b"            # or the path of a workload file, seen from the plan
[axes]
arrival_rate = "0.01:2:200:log"  # from, to, how many, evenly in the logarithm
accuracy_weight = [1, 10, 100]
decay.GSM8K = "1e-3:1e-2:5"      # of one task

schedule = "geometric:mean=100"  # or the path of a trace
[fields]
capacity = 16492
[axes]
policy = ["a_min", "a_max"]
seed = "0:19:20"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxalloc.messages import shown
from jaxalloc.tables import SUFFIXES
from jaxalloc.workloads.files import builtin_names

SOLVERS = {
    "newton": "Newton",
    "fixed-point": "FixedPoint",
    "projected-gradient": "ProjectedGradient",
}
_MARKS = {"workload", "schedule", "axes", "table", "design", "points"}
_WANTED = {
    "workload": "a built-in workload or the path of a workload file",
    "schedule": "a law such as geometric:mean=100 or the path of a trace",
    "design": "grid, sobol or random",
    "points": "how many configurations to draw",
    "seed": "a whole number, 0 or more",
    "table": "the path of a .csv or .parquet file",
    "solver": ", ".join(SOLVERS),
    "max_steps": "the cap on the solver's steps",
    "tolerance": "the largest residual that counts as converged, such as 1e-8",
    "fields": "a table [fields] of what does not vary",
    "axes": "a table [axes] of what varies",
}


class PlanFile(BaseModel):
    """A plan file; `jaxalloc.sweep.plan` takes the same by the same names."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    workload: str | None = None
    schedule: str | None = None
    design: str = "grid"
    points: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    table: str | None = None
    solver: str | None = None
    max_steps: int | None = Field(default=None, ge=1, lt=1 << 31)
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    fields: dict[str, Any] = {}
    axes: dict[str, Any] = {}


def is_plan_file(path: str | os.PathLike[str]) -> bool:
    """Whether this is a TOML file with something that only plans have."""
    try:
        return bool(_MARKS & set(tomllib.loads(Path(path).read_bytes().decode("utf-8"))))
    except (OSError, ValueError, RecursionError):  # what is no TOML is for others to judge
        return False


def read_plan_file(path: Path) -> dict[str, Any]:
    """The arguments of `make_plan`.

    Raises:
      ValueError: one line that names the file, the field, the value and the fix.
    """
    data = tomllib.loads(path.read_bytes().decode("utf-8"))
    try:
        file = PlanFile.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{path}: {_describe(error.errors(include_url=False)[0])}") from None
    if (file.workload is None) == (file.schedule is None):
        raise ValueError(f"{path}: give workload = … or schedule = …, and not both")
    arguments: dict[str, Any] = {
        "fields": file.fields,
        "axes": _flatten(file.axes),
        "design": file.design,
        "points": file.points,
        "seed": file.seed,
    }
    if file.table is not None:
        arguments["table"] = path.parent / file.table
    if file.workload is not None:
        built_in = file.workload in builtin_names()
        arguments["study"] = file.workload if built_in else str(path.parent / file.workload)
        arguments["solver"] = _solver(path, file)
        return arguments
    if file.solver or file.max_steps or file.tolerance:
        raise ValueError(f"{path}: solver, max_steps and tolerance are of workloads: drop them")
    is_trace = Path(str(file.schedule)).suffix.lower() in SUFFIXES
    return arguments | {
        "schedule": str(path.parent / str(file.schedule)) if is_trace else file.schedule
    }


def _solver(path: Path, file: PlanFile) -> Any:
    name = file.solver or "newton"
    if name not in SOLVERS:
        raise ValueError(f"{path}: solver = {name!r} is unknown: give one of {', '.join(SOLVERS)}")
    import jaxalloc.allocation.solvers.fixed_point as fixed_point
    import jaxalloc.allocation.solvers.newton as newton
    import jaxalloc.allocation.solvers.projected_gradient as projected_gradient

    homes = {"newton": newton, "fixed-point": fixed_point, "projected-gradient": projected_gradient}
    given = {"max_steps": file.max_steps, "tolerance": file.tolerance}
    solver = getattr(homes[name], SOLVERS[name])
    return solver(**{key: value for key, value in given.items() if value is not None})


def _flatten(axes: Mapping[str, Any]) -> dict[str, Any]:
    """`decay.GSM8K = …`, which TOML reads as a table in a table, by its dotted name."""
    flat: dict[str, Any] = {}
    for name, value in axes.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{task}": values for task, values in value.items()}
        else:
            flat[name] = value
    return flat


def _describe(error: Mapping[str, Any]) -> str:
    """One error of pydantic's as one line of ours."""
    import difflib

    field = ".".join(str(part) for part in error["loc"])
    value, kind = shown(error["input"]), error["type"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(field, _WANTED, n=1)
        fix = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(_WANTED)}"
        return f"{field} = {value} is not a field of a plan: {fix}"
    wanted = _WANTED.get(field, "another")
    if "ctx" in error and kind.startswith(("greater", "less")):
        limit = next(iter(error["ctx"].values()))
        rule = kind.removesuffix("_equal").replace("_", " ")
        bound = "or equal to " if kind.endswith("equal") else ""
        return f"{field} = {value} must be {rule} {bound}{limit:g}: give {wanted}"
    return f"{field} = {value} is not what is wanted there: give {wanted}"
