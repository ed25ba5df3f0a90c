"""`jaxalloc sweep`: many configurations, solved in chunks on everything there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxalloc.cli.command import with_axes
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import (
    AsJson,
    MaxSteps,
    PicturePath,
    Solver,
    Tolerance,
    check_target,
    make_solver,
)
from jaxalloc.cli.sweep_answer import (
    FAILED,
    about_outcome,
    about_plan,
    complain,
    no_room,
    print_answer,
    say_stopped,
)
from jaxalloc.cli.sweep_flags import (
    WORDS,
    Axes,
    ChunkSize,
    Coordinator,
    Design,
    Distributed,
    DryRun,
    NumProcesses,
    Out,
    Points,
    ProcessId,
    Resume,
    Seed,
    Study,
    TableFile,
    Verify,
    WithOrder,
    named_axes,
)

if TYPE_CHECKING:
    from jaxalloc.sweep.plans import Plan
    from jaxalloc.sweep.processes import Group
    from jaxalloc.sweep.running import Outcome

CLASS = WithOrder
INTERRUPTED = 130  # 128 + SIGINT, as shells count
_NO_FOLDERS = (".csv", ".json", ".arrow", ".feather", ".xlsx", ".nc")  # someone means a file
# What a picture needs of every row.
_DRAWN = ("mean_system_time", "mean_accuracy", "status")


@with_axes
def sweep(
    context: typer.Context,
    study: Study,
    numbers: Mapping[str, str],
    axis: Axes = None,
    design: Design = "grid",
    points: Points = None,
    seed: Seed = 0,
    table: TableFile = None,
    solver: Solver = "newton",
    max_steps: MaxSteps = None,
    tolerance: Tolerance = None,
    out: Out = None,
    resume: Resume = False,
    verify: Verify = False,
    chunk_size: ChunkSize = None,
    dry_run: DryRun = False,
    plot: PicturePath = None,
    as_json: AsJson = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    distributed: Distributed = False,
) -> None:
    """Solve every configuration of a plan; rows in the order of the axes, the last one fastest.

    Ctrl-C stops after the chunk at hand; a folder is continued with --resume, and beside a file the
    rows so far are left under a name that ends in .partial.parquet. A second Ctrl-C stops at once.
    """
    named = named_axes(context.meta[WORDS], numbers, axis or [])
    if out is not None and out.suffix.lower() in (".parquet", *_NO_FOLDERS):
        check_target(out, (".parquet",), "--out")
    if out is None and (resume or verify):
        raise BadInput(f"{'--resume' if resume else '--verify'} is of a folder: add --out FOLDER")
    if verify and not resume and (plot is not None or dry_run):
        raise BadInput("--verify only reads: drop --plot and --dry-run, or add --resume")
    flags = {"design": design, "points": points, "seed": seed, "table": table}
    method = make_solver(solver, max_steps, tolerance)
    from jaxalloc.cli.compute import computing
    from jaxalloc.cli.report import print_json

    cluster = (coordinator, num_processes, process_id)
    with _processes(cluster, distributed, out) as group, computing():
        plan = _plan(study, named, flags, method)
        if out is None and plot is None and not dry_run:
            raise BadInput(
                "--out is missing: give a file (.parquet) or a folder, or --plot or --dry-run"
            )
        _check_plot(plan, plot)
        document = about_plan(study, plan)
        if dry_run or (verify and not resume):
            document |= _looked(plan, None if dry_run else out, chunk_size)
        else:
            quiet = as_json or group.index > 0
            wishes = {"resume": resume, "verify": verify, "chunk_size": chunk_size, "group": group}
            outcome, drawn = _run(plan, out, wishes, quiet, plot is not None)
            document |= about_outcome(outcome, out)
            if plot is not None and group.index == 0:
                _draw(plan, drawn, plot)
                document["plot"] = str(plot)
    if group.index == 0:
        if as_json:
            print_json(document)
        else:
            print_answer(document)
    if document.get("damaged"):
        raise typer.Exit(FAILED)
    if "status" in document:
        complain(plan, document["status"])


def _plan(study: str, named: list[tuple[str, str]], flags: dict[str, Any], solver: Any) -> Plan:
    """The plan of a file or of the flags, checked."""
    from jaxalloc.sweep.planfile import is_plan_file
    from jaxalloc.sweep.plans import make_plan

    try:
        if not is_plan_file(study):
            return make_plan(study, dict(named), solver=solver, **flags)
        given = [name for name, value in flags.items() if value not in (None, 0, "grid")]
        if solver != make_solver("newton", None, None):
            given.append("solver, max_steps or tolerance")
        if named or given:
            what = [name for name, _ in named] + given
            raise BadInput(f"{', '.join(what)}: {study} is a plan: write it there")
        return make_plan(study)
    except ValueError as error:
        raise BadInput(str(error)) from None


def _check_plot(plan: Plan, plot: Path | None) -> None:
    """Complain before any computing about a picture that cannot be drawn."""
    if plot is None:
        return
    from jaxalloc.sweep.designs import Grid

    axes = plan.design.axes if isinstance(plan.design, Grid) else ()
    if not any(axis.field == "accuracy_weight" and len(axis.values) > 1 for axis in axes):
        raise BadInput(
            f"--plot = {str(plot)!r} draws the frontier along the accuracy weight: "
            "give an axis --accuracy-weight a:b:n, or draw others with jaxalloc plot"
        )


@contextmanager
def _processes(
    cluster: tuple[str | None, int | None, int | None], distributed: bool, out: Path | None
) -> Iterator[Group]:
    """This process, or all that share the sweep."""
    from jaxalloc.sweep.processes import Alone, Lost, connected, leave_at_once

    if not distributed and cluster == (None, None, None):
        yield Alone()
        return
    if not distributed and None in cluster:
        raise BadInput("--coordinator, --num-processes and --process-id belong together: give all")
    try:
        with connected(*cluster) as group:
            yield group
    except Lost as error:
        say_stopped(str(error), None, 0, out)
        leave_at_once(FAILED)  # JAX would wait for the lost one
    except ValueError as error:
        raise BadInput(str(error)) from None


def _looked(plan: Plan, out: Path | None, chunk_size: int | None) -> dict[str, Any]:
    """What is damaged in a folder; without one, what the sweep would take."""
    from jaxalloc.sweep.directory import verify
    from jaxalloc.sweep.estimate import estimate

    try:
        if out is None:
            return estimate(plan, chunk_size)._asdict()
        count, damaged = verify(out, plan)
    except ValueError as error:
        raise BadInput(str(error)) from None
    return {"out": str(out), "parts": count, "damaged": damaged}


def _run(
    plan: Plan, out: Path | None, wishes: Mapping[str, Any], quiet: bool, drawn: bool
) -> tuple[Outcome, dict[str, Any]]:
    """Run the plan; return what it came to, and the columns of a picture."""
    from jaxalloc.cli.sweep_progress import interruptible, progress
    from jaxalloc.sweep.running import Progress, is_folder, run_plan

    columns: list[dict[str, Any]] = []
    last = Progress(0, plan.size, 0)

    def keep(chunk: Any) -> None:
        if drawn:
            columns.append({name: chunk.columns[name] for name in _DRAWN})

    with interruptible(out is not None and is_folder(out)) as stop:
        with progress(plan.size, quiet) as show, _explained(plan, out, lambda: last.done):

            def report(state: Progress) -> None:
                nonlocal last
                last = state
                show(state)

            outcome = run_plan(plan, out, report=report, stop=stop, keep=keep, **wishes)
        group = wishes["group"]
        if not outcome.complete:
            why = None if stop() else group.lost()
            what = f"interrupted ({why})" if why else "interrupted"
            say_stopped(what, outcome.done, plan.size, out)
            raise typer.Exit(INTERRUPTED)
    if not drawn or group.index > 0:
        return outcome, {}
    return outcome, _stored(out) if columns == [] and out else _joined(columns, plan.job.statuses)


@contextmanager
def _explained(plan: Plan, out: Path | None, done: Callable[[], int]) -> Iterator[None]:
    """Say what ended the sweep inside the block, and what is kept."""
    from jaxalloc.sweep.processes import leave_at_once
    from jaxalloc.sweep.running import Stopped, is_folder

    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        if out is None:
            raise
        raise BadInput(no_room(out, error, is_folder(out), done(), plan.size)) from None
    except Stopped as stopped:
        say_stopped("interrupted", stopped.done, plan.size, out)
        raise typer.Exit(INTERRUPTED) from None
    except KeyboardInterrupt:
        say_stopped("interrupted", done(), plan.size, out)
        leave_at_once(INTERRUPTED)


def _stored(out: Path) -> dict[str, Any]:
    """The columns of a picture from a folder."""
    from jaxalloc.sweep.stored import open_stored

    table = open_stored(out).table(_DRAWN)
    return {name: table[name].to_numpy() for name in _DRAWN}


def _joined(columns: list[dict[str, Any]], statuses: tuple[str, ...]) -> dict[str, Any]:
    import numpy as np

    whole = {name: np.concatenate([part[name] for part in columns]) for name in _DRAWN}
    return whole | {"status": np.array(statuses)[whole["status"]]}


def _draw(plan: Plan, columns: dict[str, Any], plot: Path) -> None:
    from jaxalloc.cli.plots.frontier import frontier_figure
    from jaxalloc.cli.plots.style import save
    from jaxalloc.sweep.designs import Grid

    assert isinstance(plan.design, Grid)
    save(frontier_figure(plan.design, columns, plan.name), plot)
