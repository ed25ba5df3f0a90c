"""Flags that several commands share."""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.allocation.model.domain import FIELDS, SCALARS, domain_error
from jaxalloc.cli.errors import BadInput

if TYPE_CHECKING:
    from jaxalloc.workloads.files import WorkloadFile

PICTURES = (".png", ".pdf", ".svg")
MOST_SEED = 2**53  # a few more than it still fit into 64 bits
ADVICE = {
    "MAX_STEPS": "the residual is above the tolerance: try --solver newton or a larger --max-steps",
    "INFEASIBLE": "the server is overloaded even with the smallest budgets: "
    "lower --arrival-rate, --min-tokens or --base-time",
    "NON_FINITE": "a field of the workload is NaN or infinite: correct it",
    "INVALID": "a field of the workload is outside its domain: correct it",
}

WorkloadName = Annotated[
    str,
    typer.Argument(
        metavar="FILE|PRESET",
        help="A workload file (TOML) or a built-in workload (see jaxalloc presets).",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
PicturePath = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw a picture: .png, .pdf or .svg."),
]


class TimeUnitName(enum.StrEnum):
    """Units of numeric times by the names of their flag."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


TimeUnit = Annotated[
    TimeUnitName | None,
    typer.Option(
        "--time-unit",
        help="Unit of times that are numbers, where the column's name does not end in one.",
        show_default=False,
    ),
]


class SolverName(enum.StrEnum):
    """The solvers by the names of their flag."""

    NEWTON = "newton"
    FIXED_POINT = "fixed-point"
    PROJECTED_GRADIENT = "projected-gradient"


Solver = Annotated[SolverName, typer.Option("--solver", help="Which method finds the optimum.")]
MaxSteps = Annotated[
    int | None,
    typer.Option("--max-steps", metavar="N", help="Cap on its steps.", show_default=False),
]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance", metavar="X", help="Largest residual that counts as converged."),
]


def make_solver(name: SolverName, max_steps: int | None, tolerance: float | None) -> Any:
    """The solver of that name; None keeps its default."""
    if max_steps is not None and max_steps < 1:
        raise BadInput(f"--max-steps = {max_steps} must be at least 1: give a number of steps")
    if tolerance is not None and not 0 < tolerance < 1:
        raise BadInput(f"--tolerance = {tolerance:g} must be between 0 and 1: try 1e-8")
    import jaxalloc

    solver = getattr(jaxalloc, name.value.title().replace("-", ""))
    given = {"max_steps": max_steps, "tolerance": tolerance}
    return solver(**{key: value for key, value in given.items() if value is not None})


def flag(field: str) -> str:
    """`--arrival-rate` for `arrival_rate`."""
    return "--" + field.replace("_", "-")


def with_field_flags(metavar: str, panel: str) -> Callable[[Callable[..., None]], Any]:
    """Give a command one flag a scalar field of a workload.

    The command is called with `numbers`, the texts of the flags that were given, by field.

    Args:
      metavar: what the help calls a value.
      panel: the heading of these flags in the help.
    """

    def decorate(command: Callable[..., None]) -> Any:
        own = inspect.signature(command, eval_str=True)
        parameters = [p for p in own.parameters.values() if p.name != "numbers"]
        for name in SCALARS:
            option = typer.Option(
                flag(name), metavar=metavar, help=FIELDS[name].meaning, rich_help_panel=panel
            )
            parameters.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=None,
                    annotation=Annotated[str | None, option],
                )
            )

        @functools.wraps(command)
        def flagged(**arguments: Any) -> None:
            numbers = {name: arguments.pop(name) for name in SCALARS}
            given = {name: text for name, text in numbers.items() if text is not None}
            command(**arguments, numbers=given)

        # Typer reads a command's parameters off these two.
        shown: Any = flagged
        shown.__signature__ = own.replace(parameters=parameters)
        shown.__annotations__ = {p.name: p.annotation for p in parameters}
        return shown

    return decorate


def read_workload(name: str, numbers: Mapping[str, str]) -> WorkloadFile:
    """The named workload with the numbers of the flags in the place of its own."""
    values = {field: _number(field, text) for field, text in numbers.items()}
    from jaxalloc.workloads.files import load, override

    try:
        file = load(name)
        return override(file, values, f"{name} with {', '.join(map(flag, values))}")
    except ValueError as error:
        raise BadInput(str(error)) from None


def _number(field: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise BadInput(
            f"{flag(field)} = {text!r} is not a number: give the {FIELDS[field].meaning}"
        ) from None
    problem = domain_error(field, value)
    if problem:
        raise BadInput(f"{flag(field)}: {problem}")
    return value


def check_seed(seed: int) -> None:
    """Complain about a seed that no random key is made of."""
    if not 0 <= seed <= MOST_SEED:
        raise BadInput(f"--seed = {seed} must be from 0 to {MOST_SEED}: give such a whole number")


def check_target(path: Path | None, suffixes: tuple[str, ...], name: str) -> None:
    """Complain before any computing about a file that could not be written."""
    from jaxalloc.files import unfinished_file
    from jaxalloc.sweep.parquet import check_target as check

    if path is None:
        return
    try:
        check(path, suffixes, name)
        path.exists()  # or the name is too long
        with unfinished_file(path):
            pass
    except ValueError as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise BadInput(
            f"{name} = {str(path)!r} cannot be written ({error.strerror or error}): give another"
        ) from None
