"""`jaxalloc plot`: pictures of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import PICTURES, AsJson, check_target

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from jaxalloc.sweep.stored import Stored

KINDS = ("heat", "frontier", "policies")
_MOST_PANELS = 8
_MOST_CAPACITIES = 4
_ANSWERED = ("CONVERGED", "FINISHED")


def plot(
    sweep: Annotated[
        Path,
        typer.Argument(metavar="SWEEP", help="A folder or a Parquet file of jaxalloc sweep."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The picture: .png, .pdf or .svg."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="heat, frontier or policies; by default what suits."),
    ] = None,
    x: Annotated[str | None, typer.Option("--x", metavar="AXIS", help="The axis across.")] = None,
    y: Annotated[
        str | None,
        typer.Option("--y", metavar="AXIS", help="The axis up; of policies the panels'."),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option("--values", metavar="A,B", help="Columns: tokens.GSM8K,utilization."),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="AXIS=VALUE", help="Where another axis is held."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw maps over two axes, the frontier, or policies side by side."""
    from jaxalloc.sweep.stored import open_stored

    if kind is not None and kind not in KINDS:
        raise BadInput(f"--kind = {kind!r} is unknown: give one of {', '.join(KINDS)}")
    out = Path(f"{sweep.resolve().stem}.png") if out is None else out
    check_target(out, PICTURES, "--out")
    try:
        stored = open_stored(sweep)
        chosen = kind or _suitable(stored)
        columns = [name.strip() for name in values.split(",")] if values else None
        _check_names(stored, x, y, columns)
        held = dict(_held(stored, text) for text in at or [])
        if chosen == "heat":
            figure = _heat(stored, x, y, columns, held)
        elif chosen == "frontier":
            figure = _frontier(stored)
        else:
            figure = _policies(stored, x, y, columns)
    except ValueError as error:
        raise BadInput(str(error)) from None
    from jaxalloc.cli.plots.style import save
    from jaxalloc.cli.report import print_json, show

    save(figure, out)
    if as_json:
        print_json({"sweep": str(sweep), "kind": chosen, "plot": str(out)})
    else:
        show(f"wrote {out}")


def _suitable(stored: Stored) -> str:
    if "policy" in stored.axes:
        return "policies"
    varying = sum(count > 1 for count in stored.shape)
    along_weight = "accuracy_weight" in stored.axes and stored.plan["design"] == "grid"
    return "frontier" if varying == 1 and along_weight else "heat"


def _check_names(stored: Stored, x: str | None, y: str | None, columns: list[str] | None) -> None:
    for name, axis in (("--x", x), ("--y", y)):
        if axis is not None and axis not in stored.axes:
            raise BadInput(f"{name} = {axis!r} is no axis: give one of {', '.join(stored.axes)}")
    kinds = stored.manifest["columns"].items()
    numbers = [name for name, kind in kinds if kind != "text" and name not in stored.axes]
    for column in columns or []:
        if column not in numbers:
            what = "an axis" if column in stored.axes else "no column of numbers"
            raise BadInput(f"--values = {column!r} is {what}: give some of {', '.join(numbers)}")


def _held(stored: Stored, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in stored.axes:
        raise BadInput(f"--at = {text!r}: give AXIS=VALUE of one of {', '.join(stored.axes)}")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _is_log(stored: Stored, axis: str) -> bool:
    described = stored.plan.get("axes", {})
    return isinstance(described, dict) and described.get(axis, {}).get("spacing") == "log"


def _heat(
    stored: Stored, x: str | None, y: str | None, columns: list[str] | None, held: dict[str, Any]
) -> Figure:
    """Maps of a grid, or of points."""
    import numpy as np

    from jaxalloc.cli.plots.sweep import heat_figure, scatter_figure

    texts = {name for name, kind in stored.manifest["columns"].items() if kind == "text"}
    numeric = [axis for axis in stored.axes if axis not in texts]
    grid = stored.plan["design"] == "grid"
    sizes = dict(zip(stored.axes, stored.shape, strict=True)) if grid else {}
    varying = [axis for axis in numeric if sizes.get(axis, 2) > 1]
    given = [axis for axis in (x, y) if axis]
    free = [axis for axis in varying if axis not in given and axis not in held]
    across, up = x or (free.pop(0) if free else None), y or (free.pop(0) if free else None)
    if len(numeric) < 2:
        raise BadInput(
            f"a map needs two axes of numbers and {stored.path} has {len(numeric)}: sweep another, "
            "or open it in Python with jaxalloc.sweep.open"
        )
    if across is None or up is None or across == up:
        raise BadInput(
            f"a map needs two axes of numbers, of {', '.join(numeric)}: give --x and --y"
        )
    columns = columns or _telling(stored)
    if not grid:
        frame = stored.to_pandas([across, up, "status", *columns])
        bad = ~frame["status"].isin(_ANSWERED)
        panels = {name: frame[name].astype(float).mask(bad).to_numpy() for name in columns}
        points = [(axis, frame[axis].to_numpy(), _is_log(stored, axis)) for axis in (across, up)]
        return scatter_figure(panels, points[0], points[1], _title(stored, {}))
    arrays = _arrays(stored, columns)
    others: dict[str, Any] = {}
    for axis in stored.axes:
        if axis in (across, up):
            continue
        known = arrays[axis].values
        place = _nearest(axis, known, held[axis]) if axis in held else len(known) // 2
        others[axis] = known[place]
        arrays = arrays.isel({axis: place})
    maps = {name: np.asarray(arrays[name].transpose(up, across).values) for name in columns}
    lines = [(axis, arrays[axis].values, _is_log(stored, axis)) for axis in (across, up)]
    return heat_figure(maps, lines[0], lines[1], _title(stored, others))


def _nearest(axis: str, known: np.ndarray[Any, Any], wanted: Any) -> int:
    import numpy as np

    if known.dtype.kind == "U":
        if wanted not in known:
            raise BadInput(f"--at {axis} = {wanted!r} is not there: give one of {', '.join(known)}")
        return int(np.flatnonzero(known == wanted)[0])
    if isinstance(wanted, str):
        raise BadInput(f"--at {axis} = {wanted!r} is not a number: give the value of the axis")
    return int(np.abs(known - wanted).argmin())


def _telling(stored: Stored) -> list[str]:
    """The columns that are drawn unless others are asked for."""
    if stored.plan["job"] == "schedule":
        return ["mean_latency", "p95_latency", "total_evictions"]
    tokens = [name for name in stored.columns if name.startswith("tokens.")]
    measures = ["utilization", "mean_accuracy", "mean_system_time"]
    return (measures + tokens)[:_MOST_PANELS]


def _arrays(stored: Stored, columns: list[str]) -> Any:
    """The columns over the axes, tokens apart again, NaN where there is no answer."""
    found = stored.to_xarray(["status", *columns])
    answered = found["status"].isin(_ANSWERED)
    for name in columns:
        if name.startswith("tokens."):
            found[name] = found["tokens"].sel(task=name.removeprefix("tokens."), drop=True)
        found[name] = found[name].astype(float).where(answered)
    return found


def _title(stored: Stored, others: dict[str, Any]) -> str:
    from jaxalloc.cli.plots.style import title_of

    held = [
        f"{title_of(axis)} = {value if isinstance(value, str) else format(value, '.4g')}"
        for axis, value in others.items()
    ]
    return "; ".join([stored.path.stem, *held])


def _frontier(stored: Stored) -> Figure:
    """Accuracy against time along the accuracy weight."""
    from jaxalloc.cli.plots.frontier import frontier_figure
    from jaxalloc.sweep.axes import Axis
    from jaxalloc.sweep.designs import Grid

    if "accuracy_weight" not in stored.axes or stored.plan["design"] != "grid":
        raise BadInput("--kind = frontier needs a grid with an axis accuracy_weight: give another")
    arrays = stored.to_xarray(["status", "mean_system_time", "mean_accuracy"])
    named = [name.partition(".") for name in stored.axes]
    grid = Grid(
        tuple(
            Axis(field, task or None, arrays[label].values, _is_log(stored, label))
            for label, (field, _, task) in zip(stored.axes, named, strict=True)
        )
    )
    names = ("status", "mean_system_time", "mean_accuracy")
    columns = {name: arrays[name].values.ravel() for name in names}
    return frontier_figure(grid, columns, stored.path.stem)


def _policies(stored: Stored, x: str | None, y: str | None, columns: list[str] | None) -> Figure:
    """A figure of every policy against an axis, averaged over the axes that are not shown."""
    import numpy as np

    from jaxalloc.cli.plots.sweep import policies_figure

    if "policy" not in stored.axes:
        raise BadInput("--kind = policies needs an axis policy: give another")
    value = (columns or ["mean_latency"])[0]
    frame = stored.to_pandas([*stored.axes, "status", value])
    frame[value] = frame[value].astype(float).where(frame["status"].isin(_ANSWERED))
    free = [axis for axis in stored.axes if axis != "policy" and frame[axis].nunique() > 1]
    shown = ("interval_width", "intervals", "capacity", "arrival_rate", "arrivals", "requests")
    along = x or next((axis for axis in shown if axis in free), free[0] if free else None)
    if along is None:
        raise BadInput("--x: no axis beside policy varies: sweep one")
    rest = [axis for axis in shown if axis in free and axis != along]
    panel = y or (rest[0] if rest else None)
    averaged = [axis for axis in free if axis not in (along, panel)]
    places = frame[along].drop_duplicates().to_numpy()
    places = places.astype(str) if places.dtype.kind in "OU" else np.sort(places)
    curves: dict[Any, dict[str, tuple[Any, Any]]] = {}
    panels = [None] if panel is None else frame[panel].drop_duplicates().tolist()
    for at in panels[:_MOST_CAPACITIES]:
        part = frame if panel is None else frame[frame[panel] == at]
        for policy in frame["policy"].drop_duplicates():
            groups = part[part["policy"] == policy].groupby(along)[value]
            mean, error = groups.mean().reindex(places), groups.sem().reindex(places)
            line = (mean.to_numpy(float), np.nan_to_num(error.to_numpy(float)))
            curves.setdefault(at, {})[policy] = line
    unit = ""
    if value.endswith(("latency", "token", "makespan")) and "batch_time" not in stored.axes:
        unit = ", rounds" if stored.plan["fields"]["batch_time"] is None else ", s"
    return policies_figure(curves, (along, places), panel, value, averaged, unit)
