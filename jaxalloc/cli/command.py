"""What the commands share: flags every one has, where it computes, how its answer is given back."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxalloc.allocation.model.domain import FIELDS, SCALARS, domain_error
from jaxalloc.cli.compute import computing
from jaxalloc.cli.options import AsJson, PicturePath, WorkloadName, flag
from jaxalloc.cli.report import Part, deliver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.workloads.files import WorkloadFile


class Given(NamedTuple):
    """The workload of a command.

    Attributes:
      name: as the command line gives it.
      file: with the numbers of the flags in the place of its own.
      workload: its arrays.
    """

    name: str
    file: WorkloadFile
    workload: Workload

    @property
    def names(self) -> tuple[str, ...]:
        """Of its tasks."""
        return self.file.names

    @property
    def title(self) -> str:
        """What a picture calls it."""
        return self.file.name or Path(self.name).stem

    def by_task(self, values: Any) -> dict[str, float]:
        """Numbers of the tasks by their names."""
        return dict(zip(self.names, values.tolist(), strict=True))


class Answer(NamedTuple):
    """What a command found.

    Attributes:
      document: what `--json` prints.
      tables: what a terminal gets instead.
      figure: draws what `--plot` writes.
      failures: lines for stderr; the command then exits with 1.
      doubts: lines for stderr.
    """

    document: dict[str, Any]
    tables: Iterable[Part]
    figure: Callable[[], Figure] | None = None
    failures: Sequence[str] = ()
    doubts: Sequence[str] = ()


def command(function: Callable[..., Answer]) -> Callable[..., None]:
    """The command of a function from the values of its flags to an `Answer`.

    It gets `--plot` and `--json`; and where the function takes `given`, a workload and a flag for
    every field that one number can stand for.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())
    of_workload = own[0].name == "given"
    head = [_parameter("workload", WorkloadName)] if of_workload else []
    tail = [_parameter("plot", PicturePath, None), _parameter("as_json", AsJson, False)]
    fields = _field_flags(field_number) if of_workload else []

    def run(plot: Path | None, as_json: bool, **values: Any) -> None:
        read = None
        if of_workload:
            read = _read(values.pop("workload"), {name: values.pop(name) for name in SCALARS})
        with computing():
            if read is not None:
                values["given"] = Given(*read, read[1].workload)
            answer = function(**values)
            deliver(
                ({"workload": read[0]} if read else {}) | answer.document,
                answer.tables,
                figure=answer.figure,
                plot=plot,
                as_json=as_json,
                lines=[*answer.failures, *answer.doubts],
                failed=bool(answer.failures),
            )

    return _shown(run, function, [*head, *own[of_workload:], *tail, *fields])


def _read(name: str, numbers: Mapping[str, float | None]) -> tuple[str, WorkloadFile]:
    """The named workload, with the numbers of the flags that were given."""
    from jaxalloc.workloads.files import load, override

    given = {field: value for field, value in numbers.items() if value is not None}
    return name, override(load(name), given, f"{name} with {', '.join(map(flag, given))}")


def field_number(field: str) -> Callable[[str], float]:
    """A parser of the numbers that a field of a workload may be."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            meaning = FIELDS[field].meaning
            raise typer.BadParameter(f"{text!r} is not a number: give the {meaning}") from None
        problem = domain_error(field, value)
        if problem:
            raise typer.BadParameter(problem.removeprefix(f"{field} = "))
        return value

    return parse


def _field_flags(
    parser: Callable[[str], Callable[[str], Any]],
    metavar: str = "NUMBER",
    panel: str = "Instead of the workload's own (for every task)",
) -> list[inspect.Parameter]:
    """A flag for every field that one number can stand for; `parser` of a field reads its text."""
    return [
        _parameter(
            name,
            Annotated[
                Any,
                typer.Option(
                    flag(name),
                    metavar=metavar,
                    parser=parser(name),
                    help=FIELDS[name].meaning,
                    rich_help_panel=panel,
                ),
            ],
            None,
        )
        for name in SCALARS
    ]


def _parameter(name: str, kind: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def with_axes(function: Callable[..., None]) -> Callable[..., None]:
    """The function of a command with a flag for an axis of every field.

    It is called with `numbers`: by field, the texts of the flags that were given.
    """
    own = inspect.signature(function, eval_str=True).parameters.values()

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in SCALARS}
        function(**values, numbers={k: v for k, v in given.items() if v is not None})

    panel = "Axes (for every task): a number, FROM:TO:COUNT or FROM:TO:COUNT:log"
    flags = _field_flags(lambda field: str, "AXIS", panel)
    return _shown(run, function, [*(p for p in own if p.name != "numbers"), *flags])


def _shown(
    run: Callable[..., None], function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """`run` as Typer sees it: with the name and the help of `function`, and these parameters."""
    shown: Any = functools.wraps(function)(run)
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    shown.__signature__ = inspect.Signature(named)
    shown.__annotations__ = {p.name: p.annotation for p in parameters}
    return shown
