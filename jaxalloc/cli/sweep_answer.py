"""What `jaxalloc sweep` says: what was swept, what came of it, where the rows are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxalloc.cli.errors import complain
from jaxalloc.cli.options import ADVICE
from jaxalloc.cli.report import Part

if TYPE_CHECKING:
    from jaxalloc.sweep.plans import Plan
    from jaxalloc.sweep.running import Outcome

_IMPOSSIBLE = "their requests cannot be scheduled: see capacity, intervals and stretch"


def about_plan(study: str, plan: Plan) -> dict[str, Any]:
    """What is swept, as plain Python."""
    described = plan.describe()
    axes = {a.label: a.describe() for a in plan.design.axes}
    if plan.design.kind == "table":
        axes = {label: {"rows": plan.size} for label in axes}
    source = "workload" if plan.job.kind == "allocation" else "schedule"
    about = {source: study, "design": plan.design.kind, "configurations": plan.size}
    if source == "workload":
        about["solver"] = described["solver"]["name"]
    return about | {"axes": axes}


def about_outcome(outcome: Outcome, out: Path | None) -> dict[str, Any]:
    """What came of it, as plain Python; names parts that were damaged."""
    for name, reason in outcome.damaged.items():
        complain(f"{name} was damaged ({reason}): solved again")
    document: dict[str, Any] = {
        "status": dict(outcome.statuses),
        "complete": outcome.complete,
        "solved": outcome.here,
        "chunk_size": outcome.chunk_size,
        "seconds": outcome.seconds,
        "per_second": outcome.here / outcome.seconds,
    }
    return document | ({"out": str(out)} if out is not None else {})


def failures(plan: Plan, document: dict[str, Any]) -> list[str]:
    """What to say of the configurations that have no answer."""
    statuses = document.get("status")
    if statuses is None:
        return []
    of_workloads = plan.job.kind == "allocation"
    advice = ADVICE if of_workloads else {"INVALID": _IMPOSSIBLE}
    failed = [
        f"{name}: {statuses[name]:,} configurations: {advice[name]}"
        for name in plan.job.failures
        if statuses.get(name)
    ]
    if not of_workloads and not statuses.get("FINISHED"):
        failed.append("no configuration finished: raise capacity or max_rounds")
    return failed


def tables(document: dict[str, Any]) -> Iterator[Part]:
    """The answer as a table."""
    size = document["configurations"]
    axes = [(name, _axis_words(axis)) for name, axis in document["axes"].items()]
    yield [("configurations", f"{size:,}"), *axes, *_found(document, size)]
    if "complete" in document and "out" in document:
        out = document["out"]
        done = f"wrote {out}" if document["solved"] else f"{out} is complete"
        rest = f"{out} is not complete: other processes, or --resume, do the rest"
        yield done if document["complete"] else rest


def _found(document: dict[str, Any], size: int) -> list[tuple[str, str]]:
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
