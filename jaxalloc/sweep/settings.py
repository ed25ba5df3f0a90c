"""The settings of a schedule that a plan can fix or vary, and the instance they amount to."""

from __future__ import annotations

import difflib
import functools
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.scheduling import policies
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.sweep.axes import Array, Axis, Quantity, Span, read_axis, read_drawn
from jaxalloc.tables import SUFFIXES
from jaxalloc.traces.intervals import Predictions, calibration
from jaxalloc.traces.readers import read_trace
from jaxalloc.traces.trace import Trace, to_requests
from jaxalloc.traces.words import (
    TooLong,
    read_arrivals,
    read_batch_time,
    read_intervals,
    read_source,
    too_long,
)


class Setting(NamedTuple):
    """One setting: its kind ("text", "whole", "number"), default, least and largest value."""

    meaning: str
    kind: str
    default: Any
    least: float = -math.inf
    most: float = math.inf


SETTINGS = {
    "source": Setting("law of the outputs, or a trace", "text", None),
    "policy": Setting("who schedules", "text", "a_min"),
    "capacity": Setting("tokens that the cache holds", "whole", None, 2, 1 << 30),
    "requests": Setting("number of requests", "whole", 1000, 1, 10**7),
    "intervals": Setting("predictions, as --intervals of jaxalloc schedule", "text", "bins:10"),
    "interval_width": Setting(
        "x: predictions from (1 - x) to (1 + x) times", "number", None, 0, 1 << 20
    ),
    "arrivals": Setting("zero, poisson:RATE or trace", "text", "zero"),
    "arrival_rate": Setting("rate of Poisson arrivals", "number", None, 1e-12),
    "prompt": Setting("tokens of a prompt, or their law", "text", "32"),
    "batch_time": Setting("llama2-70b, or four numbers with colons", "text", None),
    "aging": Setting("tokens of precedence a round of waiting", "whole", 0, 0, 1 << 30),
    "alpha": Setting("share of the cache that admissions leave free", "number", 0.1, 0, 1),
    "beta": Setting("probability of being reset", "number", 0.2, 0, 1),
    "max_rounds": Setting("rounds after which to give up", "whole", None, 1, 1 << 30),
    "stretch": Setting("which stretch of a trace", "whole", 0, 0, 10**9),
    "seed": Setting("seed of all random numbers", "whole", 0, 0, 2**31 - 1),
}
_EXCLUSIVE = (("intervals", "interval_width"), ("arrivals", "arrival_rate"))


class Instance(NamedTuple):
    """One configuration, ready to be played: N requests and who schedules them."""

    policy: Policy
    trace: Trace
    too_long: TooLong
    predictions: Predictions
    arrival: Array
    capacity: int
    batch_time: BatchTime | None
    max_rounds: int | None
    seed: int
    stretch: int


def parse_axis(name: str, given: Any) -> Axis:
    """An axis of a setting.

    Raises:
      ValueError: names the axis, the values and the fix.
    """
    return read_axis(name, None, *_understood(name, given))


def parse_drawn(name: str, given: Any) -> Axis | Span:
    """As `parse_axis`; `a:b` and `a:b:log` are spans (see `read_drawn`)."""
    return read_drawn(name, None, *_understood(name, given))


def _understood(name: str, given: Any) -> tuple[Any, Quantity]:
    """The values of a setting, and what they may be."""
    if name not in SETTINGS:
        close = difflib.get_close_matches(name, SETTINGS, n=1)
        fix = f"did you mean {close[0]}?" if close else f"give one of {', '.join(SETTINGS)}"
        raise ValueError(f"axis {name}: {name!r} is no setting of a schedule: {fix}")
    if SETTINGS[name].kind == "text":
        given = _as_text(given)
    return given, Quantity(SETTINGS[name].kind, functools.partial(_problem, name))


def _as_text(given: Any) -> Any:
    """Numbers among texts (`prompt = 32`) as text."""
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if isinstance(given, list | tuple):
        return [_as_text(value) for value in given]
    return given


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with a value, and the fix; None if nothing is."""
    setting = SETTINGS[name]
    if setting.kind != "text":
        if setting.least <= value <= setting.most and (name, value) not in (
            ("alpha", 1),
            ("beta", 0),
        ):
            return None
        ends = f"at least {setting.least:g}"
        ends += f" and at most {setting.most:g}" if math.isfinite(setting.most) else ""
        return f"{name} = {value:g} must be {ends}: give the {setting.meaning}"
    try:
        _read_text(name, str(value))
    except ValueError as error:
        return str(error).removeprefix("--")
    return None


def _read_text(name: str, words: str) -> None:
    """Raise ValueError unless the words mean something."""
    tiny = Trace(arrival=np.zeros(2), prompt=np.ones(2, int), output=np.array([1, 2]))
    if name == "policy" and words not in policies.by_name:
        raise ValueError(f"policy = {words} is unknown: choose from {', '.join(policies.by_name)}")
    if name == "source":
        if Path(words).suffix.lower() in SUFFIXES:
            _whole_trace(words)
        else:
            read_source(words, "1", 1 << 20, 1, 1, 0)
    elif name == "intervals" and words != "own":
        read_intervals(words, tiny, 0)
    elif name == "arrivals" and words != "trace":
        read_arrivals(words, tiny, False, 0)
    elif name == "batch_time":
        read_batch_time(words)
    elif name == "prompt" and not words.isdecimal():
        read_source("uniform:least=1,most=1", words, 1 << 20, 1, 1, 0)
    elif name == "prompt" and int(words) > SETTINGS["capacity"].most:
        raise ValueError(f"prompt = {words[:20]} … must fit into the cache: give fewer tokens")


def check_fixed(given: Mapping[str, Any], varied: set[str]) -> dict[str, Any]:
    """The settings that do not vary, defaults filled in.

    Raises:
      ValueError: an unknown setting, one that also varies, a missing or impossible value.
    """
    fixed: dict[str, Any] = {}
    for name, value in given.items():
        if name in varied:
            if name == "source":  # the plan's `schedule` gives way to an axis
                continue
            raise ValueError(f"fields: {name} = {value!r} is an axis too: drop one")
        try:
            axis = parse_axis(name, value)
        except ValueError as error:
            called = "schedule" if name == "source" else f"fields: {name}"
            raise ValueError(str(error).replace(f"axis {name}", called, 1)) from None
        if len(axis.values) != 1:
            raise ValueError(f"fields: {name} = {value!r} has several values: make it an axis")
        fixed[name] = axis.values[0].item()
    for first, second in _EXCLUSIVE:
        if len({first, second} & (set(fixed) | varied)) == 2:
            raise ValueError(f"fields: {first} and {second} say the same: drop one")
    for name, setting in SETTINGS.items():
        if name in fixed or name in varied:
            continue
        if setting.default is None and name in ("source", "capacity"):
            raise ValueError(f"fields: {name} is missing: give the {setting.meaning}")
        fixed[name] = setting.default
    return {name: fixed[name] for name in SETTINGS if name in fixed}


def make_instance(settings: Mapping[str, Any]) -> Instance:
    """The instance that one value of every setting amounts to.

    Raises:
      ValueError: it cannot be, for example since too few requests fit into the cache.
    """
    get = settings.__getitem__
    in_seconds = get("batch_time") is not None
    seed, stretch, capacity = int(get("seed")), int(get("stretch")), int(get("capacity"))
    trace, left_out = _trace(
        get("source"), get("prompt"), capacity, int(get("requests")), stretch, seed
    )
    words = get("intervals")
    if get("interval_width") is not None:
        words = f"relative:{float(get('interval_width'))!r}"
    arrivals = get("arrivals")
    if get("arrival_rate") is not None:
        arrivals = f"poisson:{float(get('arrival_rate'))!r}"
    return Instance(
        policy=_policy(get("policy"), int(get("aging")), float(get("alpha")), float(get("beta"))),
        trace=trace,
        too_long=left_out,
        predictions=read_intervals(words, trace, seed, stretch),
        arrival=read_arrivals(arrivals, trace, in_seconds, seed, stretch),
        capacity=capacity,
        batch_time=read_batch_time(get("batch_time")),
        max_rounds=None if get("max_rounds") is None else int(get("max_rounds")),
        seed=seed,
        stretch=stretch,
    )


def check_instance(instance: Instance) -> None:
    """Raise ValueError if `simulate` would call it INVALID."""
    made = instance.predictions
    requests = to_requests(
        instance.trace,
        arrival=instance.arrival,
        lower=made.lower,
        upper=made.upper,
        predicted=made.predicted,
    )
    requests.check(instance.capacity, instance.policy, batch_time=instance.batch_time)


def quality(instance: Instance) -> dict[str, float]:
    """Coverage and mean width of the predictions; what does not fit into the cache."""
    report = calibration(instance.trace.output, instance.predictions)
    return {
        "coverage": report.coverage,
        "mean_width": report.mean_width,
        "too_long_requests": instance.too_long.requests,
        "too_long_token_share": instance.too_long.token_share,
    }


@functools.lru_cache(maxsize=64)
def _policy(name: str, aging: int, alpha: float, beta: float) -> Policy:
    own: dict[str, dict[str, Any]] = {
        "alpha": {"alpha": alpha},
        "alpha_beta": {"alpha": alpha, "beta": beta},
    }
    policy: Policy = policies.by_name[name](aging=aging, **own.get(name, {}))
    return policy


@functools.lru_cache(maxsize=1024)
def _trace(
    source: str, prompt: str, capacity: int, num_requests: int, stretch: int, seed: int
) -> tuple[Trace, TooLong]:
    """N requests that fit into the cache: drawn, or a stretch of a file; and those that do not."""
    if Path(source).suffix.lower() not in SUFFIXES:
        drawn = read_source(source, prompt, capacity, num_requests, 1, seed)
        return drawn.traces[0], drawn.too_long
    whole = _whole_trace(source)
    fitting = whole.fitting(capacity)
    if fitting.num_requests < (stretch + 1) * num_requests:
        raise ValueError(
            f"stretch = {stretch} of {num_requests} requests is beyond the "
            f"{fitting.num_requests} requests of {source} that fit into capacity = {capacity}"
        )
    stretch_of_it = fitting.tail(stretch * num_requests).head(num_requests)
    return stretch_of_it, too_long([whole], capacity)


@functools.lru_cache(maxsize=8)
def _whole_trace(path: str) -> Trace:
    return read_trace(path)


def trace_digests(sources: list[str]) -> dict[str, str]:
    """SHA-256 of those sources that are files, by path."""
    files = [source for source in sources if Path(source).suffix.lower() in SUFFIXES]
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
