"""What `jaxalloc sweep` says: what was swept, what came of it, where the rows are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jaxalloc.cli.flags import ADVICE
from jaxalloc.cli.output import complain as say

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
        "complete": outcome.complete,
        "solved": outcome.here,
        "chunk_size": outcome.chunk_size,
        "seconds": outcome.seconds,
        "per_second": outcome.here / outcome.seconds,
    }
    for name, reason in outcome.damaged.items():
        say(f"{name} was damaged ({reason}): solved again")
    return document | ({"out": str(out)} if out is not None else {})


def complain(plan: Plan, statuses: Mapping[str, int]) -> None:
    """Say what failed, and exit with 1 if anything did."""
    failed = {name: statuses[name] for name in plan.job.failures if statuses.get(name)}
    for name, count in failed.items():
        advice = ADVICE[name] if plan.job.kind == "allocation" else _IMPOSSIBLE
        say(f"{name}: {count:,} configurations: {advice}")
    if plan.job.kind == "schedule" and not statuses.get("FINISHED"):
        say("no configuration finished: raise capacity or max_rounds")
        failed["FINISHED"] = 0
    if failed:
        raise typer.Exit(FAILED)


def print_answer(document: dict[str, Any]) -> None:
    """The answer as a table."""
    from jaxalloc.cli.output import make_totals, show

    size, totals = document["configurations"], make_totals()
    totals.add_row("configurations", f"{size:,}")
    for name, axis in document["axes"].items():
        totals.add_row(name, _axis_words(axis))
    for name, words in _rows(document, size):
        totals.add_row(name, words)
    show(totals)
    if "status" in document and "out" in document:
        out = document["out"]
        done = f"wrote {out}" if document["solved"] else f"{out} is complete"
        rest = f"{out} is not complete: other processes, or --resume, do the rest"
        show(done if document["complete"] else rest)
    if "plot" in document:
        show(f"wrote {document['plot']}")


def _rows(document: dict[str, Any], size: int) -> list[tuple[str, str]]:
    """What a verification, a dry run or a sweep found, by name."""
    if "damaged" in document:
        parts = f"{document['parts']:,} parts"
        return [*document["damaged"].items(), ("as they were written", parts)]
    seconds = document["seconds"]
    if "timed" in document:
        chunks = f"{document['chunks']:,} of {document['chunk_size']:,} configurations"
        time = f"about {seconds:,.1f} s, and {document['compile_seconds']:.1f} s to compile"
        return [
            ("chunks", chunks),
            ("on the disk", f"{document['bytes'] / 1e6:,.1f} MB"),
            ("time", f"{time} ({document['timed']} chunks timed)"),
        ]
    rows = [("solved now", f"{document['solved']:,} in {seconds:.2f} s")]
    if document["solved"] == size:
        rate = f"{document['per_second']:,.0f} / s, compiling and writing included"
        rows = [("time", f"{seconds:.2f} s ({rate})")]
    counts = sorted(document["status"].items())
    return rows + [(status, f"{count:,} ({count / size:.1%})") for status, count in counts]


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
