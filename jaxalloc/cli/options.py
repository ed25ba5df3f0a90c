"""The flags of the commands, each declared once, and what their words mean.

A flag's parser refuses what is out of range before the command begins. What the library refuses
later is named as the library names it: `app` writes the flag for the argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from jaxalloc.allocation.optimum.status import Status
from jaxalloc.cli.errors import BadInput

PICTURES = (".png", ".pdf", ".svg")
MOST_SEED = 2**53  # a few more than it still fit into 64 bits


def number(
    least: float, most: float = math.inf, *, whole: bool = False, inside: bool = False
) -> Callable[[Any], Any]:
    """A parser of finite numbers from `least` to `most`.

    Args:
      least, most: the smallest and the largest.
      whole: whole numbers only; 1e6 is one.
      inside: the ends themselves are refused.
    """
    link = ("between", "and") if inside else ("from", "to")
    rule = f"{link[0]} {least:.16g} {link[1]} {most:.16g}"
    rule = f"at least {least:.16g}" if most == math.inf else rule

    def parse(text: Any) -> Any:
        try:
            value = int(text) if whole and not set(str(text)) & set(".eE") else float(text)
        except ValueError:
            value = math.nan
        allowed = least < value < most if inside else least <= value <= most
        if not allowed or value == math.inf or (whole and value % 1):
            kind = "whole number" if whole else "number"
            raise typer.BadParameter(f"{text} must be a {kind} {rule}")
        return int(value) if whole else value

    return parse


def numbers_in(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A parser of several numbers with commas between them."""
    return lambda text: tuple(dict.fromkeys(map(parse, str(text).split(","))))


def option(name: str, metavar: str, help: str, parse: Callable[[Any], Any] | None = None) -> Any:
    """A flag that takes a value, which `parse` reads where a type does not say enough."""
    return typer.Option(name, metavar=metavar, help=help, parser=parse)


def pairs(text: Any) -> dict[str, str]:
    """A parser of FIELD=NAME,FIELD=NAME."""
    from jaxalloc.messages import read_pairs

    try:
        return read_pairs(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def target(*suffixes: str) -> Callable[..., Any]:
    """A check of a flag before any work: could a file of that name be written?"""

    def check(param: typer.CallbackParam, value: Path | None) -> Path | None:
        check_target(value, suffixes, param.opts[0])
        return value

    return check


def check_target(path: Path | None, suffixes: tuple[str, ...], name: str) -> None:
    """Complain about a file that could not be written; `name` is the flag that gives it."""
    from jaxalloc.files import check_target as check, unfinished_file

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
    typer.Option(
        "--plot",
        metavar="FILE",
        callback=target(*PICTURES),
        help="Draw a picture: .png, .pdf or .svg.",
    ),
]
Seed = Annotated[
    int, option("--seed", "N", "Of all random draws.", number(0, MOST_SEED, whole=True))
]
TimeUnit = Annotated[
    Literal["s", "ms", "us", "ns"] | None,
    typer.Option(
        "--time-unit",
        help="Unit of times that are numbers, where the column's name does not end in one.",
        show_default=False,
    ),
]
SolverName = Literal["newton", "fixed-point", "projected-gradient"]
Solver = Annotated[SolverName, typer.Option("--solver", help="Which method finds the optimum.")]
MaxSteps = Annotated[
    int | None, option("--max-steps", "N", "Cap on its steps.", number(1, whole=True))
]
Tolerance = Annotated[
    float | None,
    option(
        "--tolerance",
        "X",
        "Largest residual that counts as converged.",
        number(0, 1, inside=True),
    ),
]


def make_solver(name: SolverName, max_steps: int | None, tolerance: float | None) -> Any:
    """The solver of that name; None keeps its default."""
    import jaxalloc

    solver = getattr(jaxalloc, name.title().replace("-", ""))
    given = {"max_steps": max_steps, "tolerance": tolerance}
    return solver(**{key: value for key, value in given.items() if value is not None})


def flag(field: str) -> str:
    """`--arrival-rate` for `arrival_rate`."""
    return "--" + field.replace("_", "-")


# What each status advises, the arguments as flags.
ADVICE = {
    status.name: re.sub(r"\b[a-z]+_[a-z_]+", lambda name: flag(name[0]), status.advice)
    for status in Status
}


def failures(*statuses: str) -> list[str]:
    """What to say of those that are not CONVERGED."""
    return [f"{status}: {ADVICE[status]}" for status in sorted({*statuses} - {"CONVERGED"})]
