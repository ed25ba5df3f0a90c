"""Whether an M/G/1 answer can be trusted for the traffic of a trace.

The formulas want arrivals that know nothing of each other (Poisson) nor of the services. A trace is
replayed through the queue, its services scaled to a utilization, and its mean system time compared
with Pollaczek-Khinchine's for the same rate and the same first two moments of the service time.
A trace is short: even a true M/G/1 queue would not meet its mean over so few queries. So the same
number of Poisson arrivals with services drawn from the trace is simulated many times, from empty
too; only an error beyond the middle 99 % of those is blamed on the traffic. Replays with gaps and
services in random order tell whether their order is to blame (clusters, drift) or the distribution
of the gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TRUSTED, TOO_SHORT = "trusted", "too short to tell"
_SAID = {  # the verdicts, from good to bad
    TRUSTED: "can be trusted at utilization {}",
    TOO_SHORT: "cannot be judged at utilization {} (the trace is too short to tell)",
    "with care": "should be used with care at utilization {}",
    "not trusted": "should not be trusted at utilization {}",
}
VERDICTS = tuple(_SAID)
_REFERENCES = 200  # simulated M/G/1 paths
_MIDDLE = 0.99
_SHUFFLES = 50
_LAGS = 10
_PARTS = 10  # of the trace, whose rates are compared
_GOOD, _FAIR = 0.1, 0.3  # relative errors of the mean system time
_FEW = 100  # queries
_SHARE = 1 / 3  # of the largest cause, from which another one is named
_SAME = 1e-9  # mean gaps: no difference between two of them
_TICK = 1e-6  # s: finer grids of times are not looked for
_COARSE = 0.1  # mean gaps: a finer grid changes nothing


class Comparison(NamedTuple):
    """Prediction against replay at one utilization; times in s.

    The verdict is "trusted" (the error is at most 10 %, or not certain), "with care" (at most
    30 %), "not trusted", or "too short to tell" (an error of more than 30 % would not be certain
    either).
    """

    utilization: float  # service time over the trace's time
    predicted: float  # mean system time by Pollaczek-Khinchine
    replayed: float  # mean system time of the trace
    error: float  # (predicted - replayed) / replayed
    low: float  # 99 % of M/G/1 paths as short as the trace have their mean between this
    high: float  # and that
    shuffled: float  # mean system time with gaps and services in random order (mean of 50)
    gaps_shuffled: float  # with the gaps in random order, the services as they were
    services_shuffled: float  # with the services in random order, the gaps as they were
    # What the mean system time gains over the M/G/1 paths by the distribution of the gaps, by their
    # order, by the order of the services, and by both orders together.
    causes: dict[str, float]
    verdict: str


class Trust(NamedTuple):
    """What `trust` returns.

    The verdict is the worst of the comparisons'; "too short to tell" unless the trace tells at most
    of the utilizations, or already tells that one is to be used with care.
    """

    num_queries: int
    # s, the step of the times where they are rounded so coarsely that many coincide; they are then
    # spread at random over their steps before all else. None: they are not.
    grid: float | None
    arrival_rate: float  # 1 / s
    arrival_cv: float  # coefficient of variation of the gaps; 1 is Poisson
    autocorrelation: list[float]  # of the gaps, at lags 1 to 10; 0 is Poisson
    noise: float  # beyond ± this an autocorrelation is no accident (99 %)
    rate_range: tuple[float, float]  # of the arrival rate, among ten parts of as many queries
    load_range: tuple[float, float]  # of rate times mean service, over that of the whole trace
    service_cv: float  # coefficient of variation of the services
    comparisons: list[Comparison]  # one a utilization
    verdict: str
    sentence: str  # what they say, in plain words


def trust(
    trace: Any,
    *,
    utilizations: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
    base_time: float = 0.0,
    time_per_token: float = 1.0,
    seed: int = 0,
) -> Trust:
    """Compare the M/G/1 mean with a replay of a trace, and say whether to trust it.

    Args:
      trace: with `arrival` [N] s, in order, and `output` [N] tokens generated, such as
        `jaxalloc.read_trace` returns.
      utilizations: the trace's services are scaled to each of these; between 0 and 1.
      base_time: service time of a query without tokens, in the unit of `time_per_token`.
      time_per_token: service time of a token; with the base time it only shapes the services, whose
        scale the utilization sets.
      seed: of the simulated reference.

    Raises:
      ValueError: too short a trace, all arrivals at once, or a utilization out of range.

    >>> import numpy as np, types
    >>> rng = np.random.default_rng(0)
    >>> poisson = types.SimpleNamespace(
    ...     arrival=np.cumsum(rng.exponential(size=5000)), output=rng.integers(1, 500, 5000))
    >>> trust(poisson, utilizations=[0.5]).verdict
    'trusted'
    """
    arrival = np.asarray(trace.arrival, dtype=np.float64)
    service = base_time + time_per_token * np.asarray(trace.output, dtype=np.float64)
    _check(arrival, service, utilizations)
    streams = np.random.SeedSequence(seed).spawn(2)
    grid = _grid(arrival)
    if grid is not None:
        spread = grid * np.random.default_rng(streams[0]).random(arrival.size)
        arrival = np.sort(arrival + spread)
    gaps = np.diff(arrival)
    rate = gaps.size / gaps.sum()
    # Every utilization sees the same draws: its answer does not depend on the others asked for.
    comparisons = [
        _compare(gaps, service, rate, load, np.random.default_rng(streams[1]))
        for load in utilizations
    ]
    cv = float(np.std(gaps) * rate)
    verdict, sentence = _judge(comparisons, cv)
    if grid is not None:
        sentence += f" Arrivals lie on a grid of {grid:g} s: they were spread at random within it."
    parts = list(
        zip(np.array_split(gaps, _PARTS), np.array_split(service[1:], _PARTS), strict=True)
    )
    rates = [len(part) / max(part.sum(), np.finfo(float).tiny) for part, _ in parts]
    whole = service[1:].sum() / gaps.sum()
    loads = [rate * times.mean() / whole for rate, (_, times) in zip(rates, parts, strict=True)]
    return Trust(
        num_queries=arrival.size,
        grid=grid,
        arrival_rate=float(rate),
        arrival_cv=cv,
        autocorrelation=_autocorrelation(gaps),
        noise=float(2.576 / np.sqrt(gaps.size)),
        rate_range=(float(min(rates)), float(max(rates))),
        load_range=(float(min(loads)), float(max(loads))),
        service_cv=float(np.std(service) / np.mean(service)),
        comparisons=comparisons,
        verdict=verdict,
        sentence=sentence,
    )


def _check(arrival: Floats, service: Floats, utilizations: Sequence[float]) -> None:
    if arrival.size < _FEW:
        raise ValueError(f"the trace has {arrival.size} queries: give one of at least {_FEW}")
    if not np.all(np.diff(arrival) >= 0) or not arrival[-1] > arrival[0]:
        raise ValueError("arrival must rise from the first query to the last: give its times")
    if not np.all((service >= 0) & (service < np.inf)) or not service.sum() > 0:
        raise ValueError("the service times must be finite, not negative and not all 0")
    for load in utilizations:
        if not 0 < load < 1:
            raise ValueError(f"utilization = {load:g} must be between 0 and 1: try 0.7")


def _grid(arrival: Floats) -> float | None:
    """The step of coarsely rounded times, as many of which coincide as of a Poisson process."""
    span, gaps = arrival[-1] - arrival[0], np.diff(arrival)
    if not span / _TICK < 2.0**53:
        return None
    step = float(np.gcd.reduce(np.rint((arrival - arrival[0]) / _TICK).astype(np.int64))) * _TICK
    mean = step * gaps.size / span  # queries a step
    if mean < _COARSE:
        return None
    wanted = 1 + np.expm1(-mean) / mean  # of them coincide with the one before
    return step if np.mean(gaps == 0) >= wanted / 2 else None


def _autocorrelation(gaps: Floats) -> list[float]:
    centred = gaps - gaps.mean()
    least = gaps.size * (_SAME * gaps.mean()) ** 2  # what rounding leaves of equal gaps
    power = max(np.sum(np.square(centred)), least)
    lags = range(1, _LAGS + 1)
    return [float(np.sum(centred[lag:] * centred[:-lag]) / power) for lag in lags]


def mean_system_time_of(gaps: Floats, service: Floats) -> float:
    """Mean system time of one path from empty: Lindley's recursion as a sum and a minimum."""
    free = np.concatenate([[0.0], np.cumsum(service[:-1] - gaps)])
    waits = free - np.minimum.accumulate(free)
    return float(np.mean(waits) + np.mean(service))


def _compare(
    gaps: Floats, tokens: Floats, rate: float, load: float, rng: np.random.Generator
) -> Comparison:
    service = tokens * (load / (rate * tokens.mean()))
    wait = rate * np.mean(np.square(service)) / (2 * (1 - load))
    predicted, replayed = float(service.mean() + wait), mean_system_time_of(gaps, service)
    reference = [
        mean_system_time_of(rng.exponential(1 / rate, gaps.size), rng.choice(service, service.size))
        for _ in range(_REFERENCES)
    ]
    low, high = map(float, np.quantile(reference, [(1 - _MIDDLE) / 2, (1 + _MIDDLE) / 2]))
    shuffles = [(rng.permutation(gaps), rng.permutation(service)) for _ in range(_SHUFFLES)]
    both, by_gaps, by_services = (
        float(np.mean([mean_system_time_of(*path) for path in paths]))
        for paths in (
            shuffles,
            [(other, service) for other, _ in shuffles],
            [(gaps, other) for _, other in shuffles],
        )
    )
    return Comparison(
        utilization=load,
        predicted=predicted,
        replayed=replayed,
        error=(predicted - replayed) / replayed,
        low=low,
        high=high,
        shuffled=both,
        gaps_shuffled=by_gaps,
        services_shuffled=by_services,
        causes={
            "gaps": both - float(np.mean(reference)),
            "order of gaps": by_services - both,
            "order of services": by_gaps - both,
            "both orders": replayed - by_services - by_gaps + both,
        },
        verdict=_verdict(predicted, replayed, low, high),
    )


def _verdict(predicted: float, replayed: float, low: float, high: float) -> str:
    """What the error means; one within the band could be the shortness of the trace."""
    if low <= replayed <= high:
        told = all(abs(predicted - end) <= _FAIR * end for end in (low, high))
        return TRUSTED if told else TOO_SHORT
    error = abs(predicted - replayed) / replayed
    return TRUSTED if error <= _GOOD else VERDICTS[2] if error <= _FAIR else VERDICTS[3]


def _judge(comparisons: list[Comparison], cv: float) -> tuple[str, str]:
    """The verdict, and all of them in a sentence with the reason of the worst."""
    told = [one for one in comparisons if one.verdict != TOO_SHORT]
    worst = max(told or comparisons, key=lambda one: (VERDICTS.index(one.verdict), abs(one.error)))
    verdict = worst.verdict
    if verdict == TRUSTED and 2 * len(told) <= len(comparisons):
        verdict = TOO_SHORT
    loads = {
        kind: [f"{one.utilization:g}" for one in comparisons if one.verdict == kind]
        for kind in VERDICTS
    }
    said = "; ".join(_SAID[kind].format(", ".join(at)) for kind, at in loads.items() if at)
    ratio = worst.replayed / worst.predicted
    fact = f"At {worst.utilization:g} queries take {ratio:.2f} times the M/G/1 mean"
    if worst.verdict not in (TRUSTED, TOO_SHORT):
        fact += f": {_cause(worst, cv)}"
    return verdict, f"The allocation {said}. {fact}."


def _cause(worst: Comparison, cv: float) -> str:
    """What moves the mean system time the way it is off, the largest first."""
    sign = np.sign(worst.replayed - worst.predicted)
    pushed = {name: float(sign * moved) for name, moved in worst.causes.items()}
    least = _SHARE * max(pushed.values())
    many, few = ("many", "few") if sign > 0 else ("few", "many")
    words = {
        "gaps": f"the gaps between them have a coefficient of variation of {round(cv, 3):.2g} "
        "instead of 1",
        "order of gaps": "they come in clusters or at a drifting rate",
        "order of services": "long ones follow one another, or the lengths drift",
        "both orders": f"long ones come when {many} arrive",
    }
    named = sorted(pushed, key=pushed.__getitem__, reverse=True)
    said = ", and ".join(words[name] for name in named if pushed[name] >= least)
    opposed = pushed["both orders"] <= -least
    return f"{said}; less so as long ones come when {few} arrive" if opposed else said
