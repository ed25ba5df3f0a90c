"""What `jaxalloc sweep` says: what was swept, what came of it, where the rows are."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxalloc.cli.options import ADVICE

if TYPE_CHECKING:
    from jaxalloc.sweep.plans import Plan
    from jaxalloc.sweep.running import Outcome

FAILED = 1
_IMPOSSIBLE = "their requests cannot be scheduled: see capacity, intervals and stretch"


def about_plan(study: str, plan: Plan) -> dict[str, Any]:
    """What is swept, as plain Python."""
    described = plan.describe()
    axes = {a.label: a.describe() for a in plan.design.axes}
    if described["design"] == "table":
        axes = {axis.label: {"rows": plan.size} for axis in plan.design.axes}
    source = "workload" if plan.job.kind == "allocation" else "schedule"
    about = {source: study, "design": described["design"], "configurations": plan.size}
    if source == "workload":
        about["solver"] = described["solver"]["name"]
    return about | {"axes": axes}


def about_outcome(outcome: Outcome, out: Path | None) -> dict[str, Any]:
    """What came of it, as plain Python; names parts that were damaged."""
    document: dict[str, Any] = {
        "status": dict(outcome.statuses),
        "solved": outcome.here,
        "chunk_size": outcome.chunk_size,
        "seconds": outcome.seconds,
        "per_second": outcome.here / outcome.seconds,
    }
    for name, reason in outcome.damaged.items():
        sys.stderr.write(f"jaxalloc: {name} was damaged ({reason}): solved again\n")
    return document | ({"out": str(out)} if out is not None else {})


def say_stopped(what: str, done: int | None, total: int, out: Path | None) -> None:
    """Where the rows are that were solved before."""
    from jaxalloc.sweep.parquet import partial_path

    message = f"jaxalloc: {what}"
    if done is not None:
        message += f" after {done:,} of {total:,} configurations"
    if out is not None and out.suffix.lower() != ".parquet":
        message += f": what was solved is in {out}: run it again with --resume"
    elif out is not None and done == total:
        message += f": they are in {out}"
    elif out is not None and done:
        message += f": they are in {partial_path(out)}; {out} was not touched"
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def no_room(out: Path, error: OSError, folder: bool, done: int, total: int) -> str:
    """What to do about a disk that is full."""
    reason = error.strerror or error
    advice = "make room, or give a folder, which keeps what was solved"
    if folder:
        advice = f"{done:,} of {total:,} configurations are kept: make room and add --resume"
    return f"--out = {str(out)!r}: {reason}: {advice}"


def complain(plan: Plan, statuses: Mapping[str, int]) -> None:
    """Say what failed, and exit with 1 if anything did."""
    failed = {name: statuses[name] for name in plan.job.failures if statuses.get(name)}
    for name, count in failed.items():
        advice = ADVICE[name] if plan.job.kind == "allocation" else _IMPOSSIBLE
        sys.stderr.write(f"jaxalloc: {name}: {count:,} configurations: {advice}\n")
    if plan.job.kind == "schedule" and not statuses.get("FINISHED"):
        sys.stderr.write("jaxalloc: no configuration finished: raise capacity or max_rounds\n")
        failed["FINISHED"] = 0
    if failed:
        raise typer.Exit(FAILED)


def print_answer(document: dict[str, Any]) -> None:
    """The answer as a table."""
    from jaxalloc.cli.output import make_totals, show

    size = document["configurations"]
    totals = make_totals()
    totals.add_row("configurations", f"{size:,}")
    for name, axis in document["axes"].items():
        totals.add_row(name, _axis_words(axis))
    if "damaged" in document:
        for name, reason in document["damaged"].items():
            totals.add_row(name, reason)
        totals.add_row("as they were written", f"{document['parts']:,} parts")
        show(totals)
        return
    seconds = document["seconds"]
    if "timed" in document:
        chunks = f"{document['chunks']:,} of {document['chunk_size']:,} configurations"
        totals.add_row("chunks", chunks)
        totals.add_row("on the disk", f"{document['bytes'] / 1e6:,.1f} MB")
        what = f"about {seconds:,.1f} s, and {document['compile_seconds']:.1f} s to compile"
        totals.add_row("time", f"{what} ({document['timed']} chunks timed)")
        show(totals)
        return
    if document["solved"] == size:
        rate = f"{document['per_second']:,.0f} / s, compiling and writing included"
        totals.add_row("time", f"{seconds:.2f} s ({rate})")
    else:
        totals.add_row("solved now", f"{document['solved']:,} in {seconds:.2f} s")
    for status, count in sorted(document["status"].items()):
        totals.add_row(status, f"{count:,} ({count / size:.1%})")
    show(totals)
    if "out" in document:
        show(f"wrote {document['out']}" if document["solved"] else f"{document['out']} is complete")
    if "plot" in document:
        show(f"wrote {document['plot']}")


def _axis_words(axis: dict[str, Any]) -> str:
    if "start" in axis:
        one = f"{axis['start']:g}"
        many = f"{one} to {axis['stop']:g}, {axis['count']} values, {axis['spacing']}"
        return many if axis["count"] > 1 else one
    if "from" in axis:
        return f"drawn from {axis['from']:g} to {axis['to']:g}, {axis['spacing']}"
    if "values" in axis:
        shown = [str(value) for value in axis["values"][:8]]
        return ", ".join(shown) + (", …" if len(axis["values"]) > 8 else "")
    return f"{axis.get('rows', axis.get('count'))} values"
