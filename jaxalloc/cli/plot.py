"""`jaxalloc plot`: pictures of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import PICTURES, AsJson, check_target, option
from jaxalloc.cli.report import deliver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxalloc.sweep.stored import Stored

_MOST_PANELS = 8
_MOST_CAPACITIES = 4
_ANSWERED = ("CONVERGED", "FINISHED")
# Axes of schedules that a picture of policies shows rather than averages over.
_SHOWN = ("interval_width", "intervals", "capacity", "arrival_rate", "arrivals", "requests")


def plot(
    sweep: Annotated[
        Path,
        typer.Argument(metavar="SWEEP", help="A folder or a Parquet file of jaxalloc sweep."),
    ],
    out: Annotated[Path | None, option("--out", "FILE", "The picture: .png, .pdf or .svg.")] = None,
    kind: Annotated[
        str | None, option("--kind", "KIND", "heat, frontier or policies; by default what suits.")
    ] = None,
    x: Annotated[str | None, option("--x", "AXIS", "The axis across.")] = None,
    y: Annotated[str | None, option("--y", "AXIS", "The axis up; of policies the panels'.")] = None,
    values: Annotated[
        str | None, option("--values", "A,B", "Columns: tokens.GSM8K,utilization.")
    ] = None,
    at: Annotated[
        list[str] | None, option("--at", "AXIS=VALUE", "Where another axis is held.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw maps over two axes, the frontier, or policies side by side."""
    from jaxalloc.sweep.stored import open as open_sweep

    kinds = {"heat": _heat, "frontier": _frontier, "policies": _policies}
    if kind is not None and kind not in kinds:
        raise BadInput(f"kind = {kind!r} is unknown: give one of {', '.join(kinds)}")
    out = Path(f"{sweep.resolve().stem}.png") if out is None else out
    check_target(out, PICTURES, "--out")
    stored = open_sweep(sweep)
    kind = kind or _suitable(stored)
    columns = [name.strip() for name in values.split(",")] if values else []
    _check_names(stored, x, y, columns)
    held = dict(_held(stored, text) for text in at or [])
    figure = kinds[kind](stored, x, y, columns, held)
    document = {"sweep": str(sweep), "kind": kind}
    deliver(document, (), figure=lambda: figure, plot=out, as_json=as_json)


def _suitable(stored: Stored) -> str:
    if "policy" in stored.axes:
        return "policies"
    varying = sum(count > 1 for count in stored.shape)
    along_weight = "accuracy_weight" in stored.axes and stored.plan["design"] == "grid"
    return "frontier" if varying == 1 and along_weight else "heat"


def _check_names(stored: Stored, x: str | None, y: str | None, columns: list[str]) -> None:
    for name, axis in (("x", x), ("y", y)):
        if axis is not None and axis not in stored.axes:
            raise BadInput(f"{name} = {axis!r} is no axis: give one of {', '.join(stored.axes)}")
    kinds = stored.manifest["columns"].items()
    numbers = [name for name, kind in kinds if kind != "text" and name not in stored.axes]
    for column in columns:
        if column not in numbers:
            what = "an axis" if column in stored.axes else "no column of numbers"
            raise BadInput(f"values = {column!r} is {what}: give some of {', '.join(numbers)}")


def _held(stored: Stored, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in stored.axes:
        raise BadInput(f"at = {text!r}: give AXIS=VALUE of one of {', '.join(stored.axes)}")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _heat(
    stored: Stored, x: str | None, y: str | None, columns: list[str], held: dict[str, Any]
) -> Figure:
    """Maps of a grid, or of points."""
    import numpy as np

    from jaxalloc.cli.plots.style import title_of
    from jaxalloc.cli.plots.sweep import along, maps_figure

    columns = columns or _telling(stored)
    grid = stored.plan["design"] == "grid"
    across, up = _two_axes(stored, x, y, held, grid)
    title = [stored.path.stem]
    if not grid:
        frame = stored.to_pandas([across, up, "status", *columns])
        bad = ~frame["status"].isin(_ANSWERED)
        maps = {name: frame[name].astype(float).mask(bad).to_numpy() for name in columns}
        places = {axis: frame[axis].to_numpy() for axis in (across, up)}
    else:
        arrays = stored.to_xarray(["status", *columns])
        for axis in stored.axes:
            if axis not in (across, up):
                known = arrays[axis].values
                place = _nearest(axis, known, held[axis]) if axis in held else len(known) // 2
                at = known[place]
                text = at if isinstance(at, str) else f"{at:.4g}"
                title.append(f"{title_of(axis)} = {text}")
                arrays = arrays.isel({axis: place})
        answered = arrays["status"].isin(_ANSWERED)
        maps = {}
        for name in columns:
            found = arrays[name] if name in arrays else _of_task(arrays, name)
            drawn = found.astype(float).where(answered)
            maps[name] = np.asarray(drawn.transpose(up, across).values)
        places = {axis: arrays[axis].values for axis in (across, up)}
    first, second = (along(stored, axis, places[axis]) for axis in (across, up))
    return maps_figure(maps, first, second, "; ".join(title))


def _of_task(arrays: Any, name: str) -> Any:
    """The tokens of one task, which stand in one array with those of all."""
    return arrays["tokens"].sel(task=name.removeprefix("tokens."), drop=True)


def _two_axes(
    stored: Stored, x: str | None, y: str | None, held: dict[str, Any], grid: bool
) -> tuple[str, str]:
    """The axes across and up: those given, else the first that vary."""
    texts = {name for name, kind in stored.manifest["columns"].items() if kind == "text"}
    numeric = [axis for axis in stored.axes if axis not in texts]
    if len(numeric) < 2:
        raise BadInput(
            f"a map needs two axes of numbers and {stored.path} has {len(numeric)}: sweep another, "
            "or open it in Python with jaxalloc.sweep.open"
        )
    sizes = dict(zip(stored.axes, stored.shape, strict=True)) if grid else {}
    varying = (axis for axis in numeric if sizes.get(axis, 2) > 1)
    free = (axis for axis in varying if axis not in (x, y) and axis not in held)
    across = x or next(free, None)
    up = y or next(free, None)
    if across is None or up is None or across == up:
        raise BadInput(
            f"a map needs two axes of numbers, of {', '.join(numeric)}: give --x and --y"
        )
    return across, up


def _nearest(axis: str, known: Any, wanted: Any) -> int:
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
    return ["utilization", "mean_accuracy", "mean_system_time", *tokens][:_MOST_PANELS]


def _frontier(stored: Stored, *ignored: Any) -> Figure:
    """Accuracy against time along the accuracy weight."""
    from jaxalloc.cli.plots.frontier import frontier_figure

    if "accuracy_weight" not in stored.axes or stored.plan["design"] != "grid":
        raise BadInput("kind = frontier needs a grid with an axis accuracy_weight: give another")
    return frontier_figure(stored, stored.path.stem)


def _policies(
    stored: Stored, x: str | None, y: str | None, columns: list[str], held: dict[str, Any]
) -> Figure:
    """A figure of every policy against an axis, averaged over the axes that are not shown."""
    import numpy as np

    from jaxalloc.cli.plots.sweep import Along, policies_figure

    if "policy" not in stored.axes:
        raise BadInput("kind = policies needs an axis policy: give another")
    value = (columns or ["mean_latency"])[0]
    frame = stored.to_pandas([*stored.axes, "status", value])
    frame[value] = frame[value].astype(float).where(frame["status"].isin(_ANSWERED))
    free = [axis for axis in stored.axes if axis != "policy" and frame[axis].nunique() > 1]
    along = x or next((axis for axis in _SHOWN if axis in free), free[0] if free else None)
    if along is None:
        raise BadInput("--x: no axis beside policy varies: sweep one")
    panel = y or next((axis for axis in _SHOWN if axis in free and axis != along), None)
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
    return policies_figure(curves, Along(along, places), panel, value, averaged, unit)
