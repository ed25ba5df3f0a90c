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

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jaxalloc.allocation.solvers.fixed_point import FixedPoint
from jaxalloc.allocation.solvers.newton import Newton
from jaxalloc.allocation.solvers.projected_gradient import ProjectedGradient
from jaxalloc.messages import shown, suggest
from jaxalloc.tables import SUFFIXES
from jaxalloc.workloads.files import builtin_names

SOLVERS = {
    re.sub(r"(?<!^)(?=[A-Z])", "-", solver.__name__).lower(): solver
    for solver in (Newton, FixedPoint, ProjectedGradient)
}
_MARKS = {"workload", "schedule", "axes", "table", "design", "points"}  # which only plans have


class PlanFile(BaseModel):
    """A plan file; `jaxalloc.sweep.plan` takes the same by the same names.

    The description of a field is what an error asks for.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    workload: str | None = Field(
        None, description="a built-in workload or the path of a workload file"
    )
    schedule: str | None = Field(
        None, description="a law such as geometric:mean=100 or the path of a trace"
    )
    design: str = Field("grid", description="grid, sobol or random")
    points: int | None = Field(None, ge=1, description="how many configurations to draw")
    seed: int = Field(0, ge=0, description="a whole number, 0 or more")
    table: str | None = Field(None, description="the path of a .csv or .parquet file")
    solver: str | None = Field(None, description=", ".join(SOLVERS))
    max_steps: int | None = Field(
        None, ge=1, lt=1 << 31, description="the cap on the solver's steps"
    )
    tolerance: float | None = Field(
        None, gt=0, lt=1, description="the largest residual that counts as converged, such as 1e-8"
    )
    fields: dict[str, Any] = Field({}, description="a table [fields] of what does not vary")
    axes: dict[str, Any] = Field({}, description="a table [axes] of what varies")


def read_plan_file(path: Path) -> dict[str, Any] | None:
    """The arguments of `jaxalloc.sweep.plan`; None where nothing in it is of a plan alone.

    Raises:
      ValueError: one line that names the file, the field, the value and the fix.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError):  # what is no TOML is for others to judge
        return None
    if not _MARKS & set(document):
        return None
    try:
        file = PlanFile.model_validate(document)
    except ValidationError as error:
        raise ValueError(f"{path}: {_describe(error.errors(include_url=False)[0])}") from None
    if (file.workload is None) == (file.schedule is None):
        raise ValueError(f"{path}: give workload = … or schedule = …, and not both")
    arguments = file.model_dump(include={"fields", "design", "points", "seed"})
    arguments |= {"axes": _flatten(file.axes), "table": file.table and path.parent / file.table}
    if file.workload is not None:
        built_in = file.workload in builtin_names()
        study = file.workload if built_in else str(path.parent / file.workload)
        return arguments | {"study": study, "solver": _solver(path, file)}
    if file.solver or file.max_steps or file.tolerance:
        raise ValueError(f"{path}: solver, max_steps and tolerance are of workloads: drop them")
    schedule = str(file.schedule)
    is_trace = Path(schedule).suffix.lower() in SUFFIXES
    return arguments | {"schedule": str(path.parent / schedule) if is_trace else schedule}


def _solver(path: Path, file: PlanFile) -> Any:
    name = file.solver or "newton"
    if name not in SOLVERS:
        raise ValueError(f"{path}: solver = {name!r} is unknown: give one of {', '.join(SOLVERS)}")
    given = file.model_dump(include={"max_steps", "tolerance"}, exclude_none=True)
    return SOLVERS[name](**given)


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
    known = {name: info.description for name, info in PlanFile.model_fields.items()}
    field = ".".join(str(part) for part in error["loc"])
    value, kind = shown(error["input"]), error["type"]
    if kind == "extra_forbidden":
        return f"{field} = {value} is not a field of a plan: {suggest(field, known)}"
    wanted = known.get(field, "another")
    if "ctx" in error and kind.startswith(("greater", "less")):
        limit = next(iter(error["ctx"].values()))
        rule = kind.removesuffix("_equal").replace("_", " ")
        bound = "or equal to " if kind.endswith("equal") else ""
        return f"{field} = {value} must be {rule} {bound}{limit:g}: give {wanted}"
    return f"{field} = {value} is not what is wanted there: give {wanted}"
