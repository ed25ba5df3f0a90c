"""`jaxalloc sweep`: many configurations, solved in chunks on everything there is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxalloc.cli.command import with_axes
from jaxalloc.cli.compute import computing
from jaxalloc.cli.errors import BadInput, complain
from jaxalloc.cli.options import (
    AsJson,
    MaxSteps,
    PicturePath,
    Solver,
    Tolerance,
    check_target,
    make_solver,
)
from jaxalloc.cli.report import deliver
from jaxalloc.cli.sweep_answer import about_outcome, about_plan, failures, tables
from jaxalloc.cli.sweep_flags import (
    WORDS,
    Axes,
    ChunkSize,
    Design,
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
    from matplotlib.figure import Figure

    from jaxalloc.sweep.plans import Plan
    from jaxalloc.sweep.running import Outcome

CLASS = WithOrder
INTERRUPTED = 130  # 128 + SIGINT, as shells count
_NO_FOLDERS = (".csv", ".json", ".arrow", ".feather", ".xlsx", ".nc")  # someone means a file


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
    process_id: ProcessId = None,
    num_processes: NumProcesses = None,
    dry_run: DryRun = False,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Solve every configuration of a plan; rows in the order of the axes, the last one fastest.

    Ctrl-C stops after the chunks at hand, and what was solved is continued with --resume. A second
    Ctrl-C stops at once.
    """
    named = named_axes(context.meta[WORDS], numbers, axis or [])
    if out is not None and out.suffix.lower() in (".parquet", *_NO_FOLDERS):
        check_target(out, (".parquet",), "--out")
    if out is None and (resume or verify):
        raise BadInput(f"{'--resume' if resume else '--verify'} needs what it is of: add --out")
    looks = dry_run or (verify and not resume)
    if verify and looks and (plot is not None or dry_run):
        raise BadInput("--verify only reads: drop --plot and --dry-run, or add --resume")
    flags = {"design": design, "points": points, "seed": seed, "table": table}
    method = make_solver(solver, max_steps, tolerance)
    wishes = {"resume": resume, "verify": verify, "chunk_size": chunk_size}
    with computing(), tempfile.TemporaryDirectory(prefix="jaxalloc-") as folder:
        plan = _plan(study, named, flags, method)
        if out is None and plot is None and not dry_run:
            raise BadInput(
                "--out is missing: give a file (.parquet) or a folder, or --plot or --dry-run"
            )
        _check_plot(plan, plot)
        document = about_plan(study, plan)
        where = Path(folder) / "sweep" if out is None else out  # nothing else is to be kept
        if looks:
            document |= _looked(plan, None if dry_run else where, chunk_size)
        else:
            outcome = _run(plan, where, out, wishes, (process_id, num_processes), as_json)
            document |= about_outcome(outcome, out)
        failed = failures(plan, document)
        deliver(
            document,
            tables(document),
            figure=lambda: _frontier(plan, where),
            plot=plot if document.get("complete") else None,
            as_json=as_json,
            lines=failed,
            failed=bool(failed or document.get("damaged")),
        )


def _plan(study: str, named: list[tuple[str, str]], flags: dict[str, Any], solver: Any) -> Plan:
    """The plan of a file or of the flags, checked."""
    from jaxalloc.sweep.planfile import read_plan_file
    from jaxalloc.sweep.plans import plan

    if read_plan_file(Path(study)) is None:
        return plan(study, dict(named), solver=solver, **flags)
    given = [name for name, value in flags.items() if value not in (None, 0, "grid")]
    if solver != make_solver("newton", None, None):
        given.append("solver, max_steps or tolerance")
    if named or given:
        what = [name for name, _ in named] + given
        raise BadInput(f"{', '.join(what)}: {study} is a plan: write it there")
    return plan(study)


def _check_plot(plan: Plan, plot: Path | None) -> None:
    """Complain before any computing about a picture that cannot be drawn."""
    along = [a for a in plan.design.axes if a.field == "accuracy_weight" and len(a.values) > 1]
    if plot is not None and not (plan.design.kind == "grid" and along):
        raise BadInput(
            f"--plot = {str(plot)!r} draws the frontier along the accuracy weight: "
            "give an axis --accuracy-weight a:b:n, or draw others with jaxalloc plot"
        )


def _looked(plan: Plan, out: Path | None, chunk_size: int | None) -> dict[str, Any]:
    """What is damaged in a folder; without one, what the sweep would take."""
    from jaxalloc.sweep.chunks import estimate
    from jaxalloc.sweep.folder import verify

    if out is None:
        return estimate(plan, chunk_size)
    count, damaged = verify(out, plan)
    return {"out": str(out), "parts": count, "damaged": damaged}


def _run(
    plan: Plan,
    where: Path,
    out: Path | None,
    wishes: Mapping[str, Any],
    share: tuple[int | None, int | None],
    quiet: bool,
) -> Outcome:
    """Run the plan, and say what is kept where it ends early."""
    from jaxalloc.cli.sweep_progress import interruptible, progress
    from jaxalloc.sweep.running import Progress, parts_of, run_plan, share_of

    last = Progress(0, plan.size, 0)
    with interruptible() as stop, progress(plan.size, quiet) as show:

        def report(state: Progress) -> None:
            nonlocal last
            last = state
            show(state)

        try:
            outcome = run_plan(
                plan, where, share=share_of(*share), report=report, stop=stop, **wishes
            )
        except OSError as error:
            if out is None:
                raise
            raise BadInput(
                f"--out = {str(out)!r}: {error.strerror or error}: {last.done:,} of "
                f"{plan.size:,} configurations are kept: make room and add --resume"
            ) from None
    if stop() and not outcome.complete:
        kept = f": what was solved is in {parts_of(where)}: run it again with --resume"
        message = f"interrupted after {outcome.statuses.total():,} of {plan.size:,} configurations"
        complain(message + (kept if out else ""))
        raise typer.Exit(INTERRUPTED)
    return outcome


def _frontier(plan: Plan, where: Path) -> Figure:
    """The picture of a finished sweep."""
    from jaxalloc.cli.plots.frontier import frontier_figure
    from jaxalloc.sweep.stored import open as open_sweep

    return frontier_figure(open_sweep(where), plan.job.name)
