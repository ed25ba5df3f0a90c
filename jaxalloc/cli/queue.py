"""`jaxalloc queue`: the queue at the optimum, by formula and on sample paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from jaxalloc.cli.compute import computing
from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import (
    ADVICE,
    AsJson,
    PicturePath,
    Seed,
    WorkloadName,
    number,
    numbers_in,
    option,
    read_workload,
    title_of,
    with_field_flags,
)
from jaxalloc.cli.report import Column, Part, Table, deliver, number as shown

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.allocation.queue.arrivals import Arrivals

MOST_QUERIES = 10**10
FEW_RELAXATIONS = 20
MOST_CV = 100
EXACT = ("mean_system_time", "mean_wait", "mean_accuracy", "utilization")
ROUNDINGS = ("nearest", "floor", "best")


def _level(text: str) -> float:
    """A percentile, in %."""
    level: float = number(0, 100, inside=True)(text)
    if level < 1:
        raise typer.BadParameter(f"{text} is in % and below 1: give {100 * level:.12g} for it")
    return level


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("queue")(with_field_flags(queue))


def queue(
    workload: WorkloadName,
    numbers: Mapping[str, float],
    integer: Annotated[
        bool, typer.Option("--integer", help="Whole tokens, and what each way of rounding loses.")
    ] = False,
    queries: Annotated[
        Any,
        option(
            "--queries",
            "N",
            "Queries to simulate, such as 1e8.",
            number(1, MOST_QUERIES, whole=True),
        ),
    ] = "1e6",
    percentiles: Annotated[
        Any,
        option("--percentiles", "P,Q", "Percentiles of the times, %.", numbers_in(_level)),
    ] = "50,95,99",
    arrivals: Annotated[
        str,
        option(
            "--arrivals",
            "LAW",
            "poisson, cv:X (gamma gaps of that coefficient of variation), or trace:FILE (its gaps, "
            "stretched to the arrival rate).",
        ),
    ] = "poisson",
    target: Annotated[
        float | None,
        option(
            "--target",
            "S",
            "Find the arrival rates (Poisson) that keep the mean and the percentiles under S "
            "seconds.",
            number(0),
        ),
    ] = None,
    confidence: Annotated[
        float, option("--confidence", "C", "Of the intervals.", number(0, 1, inside=True))
    ] = 0.99,
    seed: Seed = 0,
    plot: PicturePath = None,
    as_json: AsJson = False,
) -> None:
    """Simulate the queue at the optimal tokens, beside what the M/G/1 formulas say."""
    file = read_workload(workload, numbers)
    if target is not None and arrivals != "poisson":
        raise BadInput(
            f"target = {target:g} is met by a formula for Poisson arrivals, which --arrivals = "
            f"{arrivals} are not: drop one, or try rates by --arrival-rate"
        )
    with computing():
        from jaxalloc.workloads.files import to_workload

        law = read_arrivals(arrivals, file.arrival_rate)
        problem = to_workload(file)
        wishes = _Wishes(integer, queries, percentiles, law, target, confidence, seed)
        answer, drawn = _answer(problem, file.task_names, wishes)
        document = {"workload": workload, "arrivals": arrivals} | answer

        def draw() -> Any:
            from jaxalloc.cli.plots.queue import queue_figure, tails

            return queue_figure(document, tails(problem, *drawn), title_of(file, workload))

        status, lines = document["status"], []
        failed = status != "CONVERGED"
        if failed:
            lines.append(f"{status}: {ADVICE[status]}")
        elif document["relaxations"] < FEW_RELAXATIONS:
            lines.append(
                f"a replication lasts only {document['relaxations']:.1f} relaxation times: "
                "the intervals are too narrow: raise --queries"
            )
        deliver(
            document,
            () if failed else _tables(document),
            figure=None if failed else draw,
            plot=plot,
            as_json=as_json,
            lines=lines,
            failed=failed,
        )


class _Wishes(NamedTuple):
    """What the command line asked for; percentiles are in %."""

    integer: bool
    queries: int
    levels: tuple[float, ...]
    arrivals: Arrivals
    target: float | None
    confidence: float
    seed: int


def read_arrivals(words: str, rate: float) -> Arrivals:
    """`poisson`, `cv:X` or `trace:FILE`."""
    from jaxalloc.allocation.queue.arrivals import Poisson, Renewal, Replay
    from jaxalloc.traces.readers import read_trace

    name, _, rest = words.partition(":")
    if words == "poisson":
        return Poisson()
    if name == "cv":
        try:
            return Renewal(number(0, MOST_CV)(rest))
        except typer.BadParameter as error:
            raise BadInput(f"arrivals = {words}: the cv {error.message}: try cv:2") from None
    if name == "trace":
        if not rate > 0:
            raise BadInput(f"arrivals = {words} needs an arrival rate above 0: --arrival-rate")
        return Replay.at(read_trace(rest, needed=("arrival",)).arrival, rate)
    raise BadInput(f"arrivals = {words} must be poisson, cv:X or trace:FILE")


def _answer(
    workload: Workload, names: tuple[str, ...], wishes: _Wishes
) -> tuple[dict[str, Any], tuple[Any, Any]]:
    """What `--json` prints; and the tokens and the sample path, for the picture."""
    import jax

    import jaxalloc
    from jaxalloc.allocation.model.mg1 import service_time

    best = jax.jit(jaxalloc.solve)(workload)
    status, tokens = best.status, best.tokens
    key = jax.random.key(wishes.seed)
    rounding = {}
    poisson = wishes.arrivals == jaxalloc.arrivals.Poisson()
    if wishes.integer:
        lost = jaxalloc.rounding_loss(
            workload, key if poisson else None, wishes.queries, confidence=wishes.confidence
        )
        status, tokens = lost.status, lost.best.tokens
        rounding = {"rounding": {name: _loss(getattr(lost, name)) for name in ROUNDINGS}}
    name = jaxalloc.Status(int(status)).name
    if name != "CONVERGED":
        return {"status": name}, (None, None)
    path = jax.device_get(
        jaxalloc.simulate_fifo(
            key,
            workload,
            tokens,
            wishes.queries,
            arrivals=wishes.arrivals,
            percentiles=wishes.levels,
            confidence=wishes.confidence,
        )
    )
    document = {
        "status": name,
        "queries": float(path.num_queries),
        "queries_asked": wishes.queries,
        "confidence": wishes.confidence,
        "warm_up": int(path.warm_up),
        "relaxations": float(path.relaxations),
        "measures": _measures(workload, tokens, path, wishes.levels),
        "tasks": _tasks(names, tokens, service_time(workload, tokens), path, wishes.levels),
    }
    if wishes.target is not None:
        document["largest_arrival_rates"] = _rates(workload, tokens, wishes.target, wishes.levels)
    return document | rounding, (tokens, path)


def _loss(loss: Any) -> dict[str, Any]:
    names = ("loss", "bound", "simulated", "low", "high")
    return {"tokens": loss.tokens.tolist()} | {key: float(getattr(loss, key)) for key in names}


def _measures(
    workload: Workload, tokens: Any, path: Any, levels: tuple[float, ...]
) -> dict[str, dict[str, float]]:
    """Formula, estimate and interval of everything over all queries."""
    import jax

    formulas = jax.device_get(jax.jit(_formulas, static_argnums=2)(workload, tokens, levels))
    sides = {"simulated": path.estimate, "low": path.low, "high": path.high}

    def simulated(side: Any, name: str) -> Any:
        kind, percentile, level = name.partition("_p")
        if not percentile:
            return getattr(side, name)
        at = [f"{known:.12g}" for known in levels].index(level)
        return getattr(side, f"{kind}_percentiles")[at]

    return {
        name: {"formula": float(formula)}
        | {key: float(simulated(side, name)) for key, side in sides.items()}
        for name, formula in formulas.items()
    }


def _formulas(workload: Workload, tokens: Any, levels: tuple[float, ...]) -> dict[str, Any]:
    import jaxalloc

    found = {name: getattr(jaxalloc, name)(workload, tokens) for name in EXACT}
    found["fraction_correct"] = found.pop("mean_accuracy")
    for kind in ("system_time", "wait"):
        quantile = getattr(jaxalloc, f"{kind}_quantile")
        for level in levels:
            found[f"{kind}_p{level:.12g}"] = quantile(workload, tokens, level / 100)
    return found


def _tasks(
    names: tuple[str, ...], tokens: Any, time: Any, path: Any, levels: tuple[float, ...]
) -> list[dict[str, Any]]:
    mean = path.estimate
    columns = {
        "queries": path.num_of_type,
        "tokens": tokens,
        "service_time": time,
        "mean_wait": mean.type_mean_wait,
        "mean_system_time": mean.type_mean_system_time,
        "fraction_correct": mean.type_fraction_correct,
    }
    for i, level in enumerate(levels):
        columns[f"system_time_p{level:.12g}"] = mean.type_system_time_percentiles[:, i]
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"name": name} | dict(zip(columns, map(float, row), strict=True))
        for name, row in zip(names, rows, strict=True)
    ]


def _rates(
    workload: Workload, tokens: Any, target: float, levels: tuple[float, ...]
) -> dict[str, float]:
    """The rate at which each measure meets the target, at these tokens."""
    import jaxalloc

    wanted = {"mean": {}} | {f"p{level:.12g}": {"q": level / 100} for level in levels}
    find = jaxalloc.largest_arrival_rate
    rates = {name: float(find(workload, tokens, target, **at)) for name, at in wanted.items()}
    return {"target": target} | rates


def _tables(document: dict[str, Any]) -> Iterator[Part]:
    def unit(name: str) -> str:
        return "" if name in ("fraction_correct", "utilization") else " s"

    def measure(title: str, key: str) -> Column:
        return Column(title, lambda row: shown(row[1][key], ".5g", unit(row[0])))

    def interval(row: Any) -> str:
        low, high = (shown(row[1][end], ".5g") for end in ("low", "high"))
        return f"{low} – {high}{unit(row[0])}"

    yield Table(
        (
            Column("", lambda row: row[0].replace("_", " ")),
            measure("M/G/1 formula", "formula"),
            measure("simulated", "simulated"),
            Column(f"{100 * document['confidence']:.6g}% interval", interval),
        ),
        [*document["measures"].items()],
    )
    paths = f"{document['queries']:,.0f} queries"
    if document["queries"] != document["queries_asked"]:
        paths += f" ({document['queries_asked']:,} asked, rounded up to whole replications)"
    yield f"{paths}, {document['arrivals']} arrivals; of each task, simulated, in s:"
    levels = [key for key in document["tasks"][0] if key.startswith("system_time_p")]
    seconds = {"service": "service_time", "wait": "mean_wait", "total": "mean_system_time"}
    seconds |= {key.removeprefix("system_time_"): key for key in levels}
    yield Table(
        (
            Column("task", "name"),
            Column("tokens", "tokens", ",.0f"),
            *(Column(title, key, ".4g") for title, key in seconds.items()),
            Column("correct", "fraction_correct", ".4f"),
        ),
        document["tasks"],
    )
    if "rounding" in document:
        yield "loss of whole tokens against the continuous optimum:"
        yield Table(_ROUNDING, [*document["rounding"].items()])
    if "largest_arrival_rates" in document:
        rates = dict(document["largest_arrival_rates"])
        told = [("target", f"{rates.pop('target'):g} s of system time")]
        for name, rate in rates.items():
            met = f"{rate:.5g} queries / s" if rate == rate else "not even at an idle server"
            told.append((f"largest arrival rate, {name}", met))
        yield "at these tokens:"
        yield told


def _between(row: Any) -> str:
    low, high = row[1]["low"], row[1]["high"]
    return f"{low:.3g} – {high:.3g} s" if low == low else ""


_ROUNDING = (
    Column("rounding", lambda row: row[0]),
    Column("loss", lambda row: row[1]["loss"], ".3g", " s"),
    Column("at most", lambda row: row[1]["bound"], ".3g", " s"),
    Column("simulated", lambda row: row[1]["simulated"], ".3g", " s"),
    Column("interval", _between),
)
