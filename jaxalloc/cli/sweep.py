"""`jaxalloc sweep`: many configurations of one workload, solved in chunks."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.flags import (
    ADVICE,
    PICTURES,
    AsJson,
    MaxSteps,
    PicturePath,
    Solver,
    SolverName,
    Tolerance,
    WorkloadName,
    check_target,
    flag,
    make_solver,
    read_workload,
    with_field_flags,
)

if TYPE_CHECKING:
    import numpy as np

    from jaxalloc.sweep.grid import Grid
    from jaxalloc.workloads.files import WorkloadFile

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells count
FAILURES = ("MAX_STEPS", "NON_FINITE")  # the others are answers
CHUNK_SIZE = 16_384
_WORDS = "jaxalloc.words"
# What a picture needs of every row.
_DRAWN = ("mean_system_time", "mean_accuracy", "status")


class _WithOrder(TyperCommand):
    """Remembers the words of the command: the order of its axes is the order of the rows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the command."""
    flags = with_field_flags(
        "AXIS", "Axes (for every task): a number, FROM:TO:COUNT or FROM:TO:COUNT:log"
    )
    app.command("sweep", cls=_WithOrder)(flags(sweep))


def sweep(
    context: typer.Context,
    workload: WorkloadName,
    numbers: Mapping[str, str],
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis", metavar="NAME=AXIS", help="An axis of one task: decay.GSM8K=1e-3:1e-2:5:log."
        ),
    ] = None,
    solver: Solver = SolverName.NEWTON,
    max_steps: MaxSteps = None,
    tolerance: Tolerance = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write one row a configuration: .parquet."),
    ] = None,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Solve every configuration of a grid; rows in the order of the axes, the last one fastest.

    Ctrl-C stops after the chunk at hand and leaves the rows so far in a file beside --out, whose
    name ends in .partial.parquet. A second Ctrl-C stops at once.
    """
    named = _named_axes(context.meta[_WORDS], numbers, axis or [])
    file = read_workload(workload, {})
    check_target(out, (".parquet",), "--out")
    check_target(plot, PICTURES, "--plot")
    method = make_solver(solver, max_steps, tolerance)
    from jaxalloc.cli.output import print_json
    from jaxalloc.cli.precision import float64

    document: dict[str, Any] = {"workload": workload, "solver": solver.value}
    with float64():
        grid = _grid(file, named, plot)
        kept = () if plot is None else _DRAWN
        drawn = _run(grid, method, out, kept, document, quiet=as_json)
        if plot is not None:
            from jaxalloc.cli.plots.frontier import frontier_figure
            from jaxalloc.cli.plots.style import save

            save(frontier_figure(grid, drawn, file.name or Path(workload).stem), plot)
            document["plot"] = str(plot)
    if as_json:
        print_json(document)
    else:
        _print(document)
    failed = {name: document["status"].get(name, 0) for name in FAILURES}
    for name, count in failed.items():
        if count:
            sys.stderr.write(f"jaxalloc: {name}: {count:,} configurations: {ADVICE[name]}\n")
    if any(failed.values()):
        raise typer.Exit(FAILED)


def _grid(file: WorkloadFile, named: list[tuple[str, str]], plot: Path | None) -> Grid:
    """The grid of the command line, checked."""
    from jaxalloc.sweep.grid import make_grid, parse_axis
    from jaxalloc.workloads.files import to_workload

    try:
        axes = [parse_axis(name, text, file.task_names) for name, text in named]
        grid = make_grid(to_workload(file), file.task_names, axes)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if plot is not None and not any(
        axis.field == "accuracy_weight" and len(axis.values) > 1 for axis in axes
    ):
        raise BadInput(
            f"--plot = {str(plot)!r} draws the frontier along the accuracy weight: "
            "give an axis --accuracy-weight a:b:n"
        )
    return grid


def _named_axes(
    words: list[str], numbers: Mapping[str, str], axis: list[str]
) -> list[tuple[str, str]]:
    """Name and text of every axis in the order of the command line."""
    flags = {flag(name): name for name in numbers}
    left = iter(axis)
    named: list[tuple[str, str]] = []
    for word in words:
        key = word.partition("=")[0]
        if key == "--axis":
            text = next(left)
            name, equals, values = text.rpartition("=")
            if not equals:
                raise BadInput(f"--axis = {text!r} has no values: give NAME=a:b:n")
            field, dot, task = name.partition(".")
            named.append((field.replace("-", "_") + dot + task, values))
        elif key in flags:
            name = flags[key]
            if any(name == other for other, _ in named):
                raise BadInput(f"{key} = {numbers[name]!r} is given twice: drop one")
            named.append((name, numbers[name]))
    return named


def _run(
    grid: Grid,
    solver: Any,
    out: Path | None,
    kept: tuple[str, ...],
    document: dict[str, Any],
    quiet: bool,
) -> dict[str, np.ndarray[Any, Any]]:
    """Solve the grid, write the rows, fill the document; return the columns to keep."""
    import numpy as np

    from jaxalloc.sweep.chunks import column_names, solve_grid
    from jaxalloc.sweep.store import parquet_file

    axes = {axis.label: _describe(axis.values, axis.log) for axis in grid.axes}
    document |= {"configurations": grid.size, "axes": axes}
    store: AbstractContextManager[Callable[[Any], None]] = nullcontext(lambda rows: None)
    if out is not None:
        store = parquet_file(out, column_names(grid), dict(document))
        document["out"] = str(out)
    counts: Counter[str] = Counter()
    columns: list[dict[str, np.ndarray[Any, Any]]] = []
    done = 0
    began = time.perf_counter()
    try:
        with _interruptible() as stopped, _progress(grid.size, quiet) as advance, store as append:
            for chunk in solve_grid(grid, solver, CHUNK_SIZE):
                append(chunk.columns)
                counts.update(chunk.columns["status"].tolist())
                columns.append({name: chunk.columns[name] for name in kept})
                done = chunk.stop
                advance(done)
                if stopped() and done < grid.size:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        _say_stopped(done, grid.size, out)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        if out is None:
            raise
        reason = error.strerror or error
        raise BadInput(f"--out = {str(out)!r}: {reason}: make room or give another") from None
    seconds = time.perf_counter() - began
    document |= {"status": dict(counts), "seconds": seconds, "per_second": grid.size / seconds}
    return {name: np.concatenate([rows[name] for rows in columns]) for name in kept}


def _describe(values: np.ndarray[Any, Any], log: bool) -> dict[str, Any]:
    return {
        "start": float(values[0]),
        "stop": float(values[-1]),
        "count": len(values),
        "spacing": "log" if log else "linear",
    }


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the first is noted, the second interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals belong to the main thread
        return
    pressed = threading.Event()

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal; called with the configurations done."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("solving"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("solving", total=total)
        yield lambda done: bar.update(task, completed=done)


def _say_stopped(done: int, total: int, out: Path | None) -> None:
    """Where the rows are that were solved before Ctrl-C."""
    from jaxalloc.sweep.store import partial_path

    message = f"jaxalloc: interrupted after {done:,} of {total:,} configurations"
    if out is not None and done:
        message += f": they are in {partial_path(out)}; {out} was not touched"
    sys.stderr.write(message + "\n")


def _print(document: dict[str, Any]) -> None:
    from jaxalloc.cli.output import make_totals, show

    size, seconds = document["configurations"], document["seconds"]
    totals = make_totals()
    totals.add_row("configurations", f"{size:,}")
    for name, axis in document["axes"].items():
        span = f"{axis['start']:g} to {axis['stop']:g}, {axis['count']} values, {axis['spacing']}"
        totals.add_row(name, span if axis["count"] > 1 else f"{axis['start']:g}")
    rate = f"{document['per_second']:,.0f} / s, compiling and writing included"
    totals.add_row("time", f"{seconds:.2f} s ({rate})")
    for status, count in sorted(document["status"].items()):
        totals.add_row(status, f"{count:,} ({count / size:.1%})")
    show(totals)
    for key in ("out", "plot"):
        if key in document:
            show(f"wrote {document[key]}")
