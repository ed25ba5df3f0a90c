"""The settings of a schedule that a plan can fix or vary, and the instance they amount to."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.messages import suggest
from jaxalloc.scheduling import policies
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.scheduling.requests import Requests
from jaxalloc.sweep.axes import Quantity, read_one
from jaxalloc.traces.intervals import calibration
from jaxalloc.traces.readers import read_trace
from jaxalloc.traces.trace import Trace
from jaxalloc.traces.words import (
    TooLong,
    draw,
    is_file,
    read_arrivals,
    read_batch_time,
    read_intervals,
    too_long,
)

_TINY = Trace(arrival=np.zeros(2), prompt=np.ones(2, int), output=np.array([1, 2]))
_MOST = 1 << 30  # the scheduler counts in 32 bits


class Setting(NamedTuple):
    """One setting: its kind ("text", "whole", "number"), default, least and largest value.

    `read` raises ValueError unless a text means something.
    """

    meaning: str
    kind: str
    default: Any
    least: float = -math.inf
    most: float = math.inf
    read: Callable[[str], Any] = str


def _check_policy(words: str) -> None:
    if words not in policies.by_name:
        raise ValueError(f"policy = {words} is unknown: choose from {', '.join(policies.by_name)}")


def _check_source(words: str) -> None:
    _whole_trace(words) if is_file(words) else draw(words, "1", 1 << 20, 1, 0)


def _check_prompt(words: str) -> None:
    if not words.isdecimal():
        draw("uniform:least=1,most=1", words, 1 << 20, 1, 0)
    elif int(words) > _MOST:
        raise ValueError(f"prompt = {words[:20]} … must fit into the cache: give fewer tokens")


def _check_intervals(words: str) -> None:
    if words != "own":
        read_intervals(words, _TINY, 0)


def _check_arrivals(words: str) -> None:
    if words != "trace":
        read_arrivals(words, _TINY, False, 0)


_whole_trace = functools.lru_cache(maxsize=8)(read_trace)
SETTINGS = {
    "source": Setting("law of the outputs, or a trace", "text", None, read=_check_source),
    "policy": Setting("who schedules", "text", "a_min", read=_check_policy),
    "capacity": Setting("tokens that the cache holds", "whole", None, 2, _MOST),
    "requests": Setting("number of requests", "whole", 1000, 1, 10**7),
    "intervals": Setting(
        "predictions, as --intervals of jaxalloc schedule", "text", "bins:10", read=_check_intervals
    ),
    "interval_width": Setting(
        "x: predictions from (1 - x) to (1 + x) times", "number", None, 0, 1 << 20
    ),
    "arrivals": Setting("zero, poisson:RATE or trace", "text", "zero", read=_check_arrivals),
    "arrival_rate": Setting("rate of Poisson arrivals", "number", None, 1e-12),
    "prompt": Setting("tokens of a prompt, or their law", "text", "32", read=_check_prompt),
    "batch_time": Setting(
        "llama2-70b, or four numbers with colons", "text", None, read=read_batch_time
    ),
    "aging": Setting("tokens of precedence a round of waiting", "whole", 0, 0, _MOST),
    "alpha": Setting("share of the cache that admissions leave free", "number", 0.1, 0, 1),
    "beta": Setting("probability of being reset", "number", 0.2, 0, 1),
    "max_rounds": Setting("rounds after which to give up", "whole", None, 1, _MOST),
    "stretch": Setting("which stretch of a trace", "whole", 0, 0, 10**9),
    "seed": Setting("seed of all random numbers", "whole", 0, 0, 2**31 - 1),
}
_EXCLUSIVE = (("intervals", "interval_width"), ("arrivals", "arrival_rate"))
_OPEN_ENDS = (("alpha", 1), ("beta", 0))  # which the bounds above let through


class Instance(NamedTuple):
    """One configuration, ready to be played.

    Attributes:
      policy: who schedules.
      requests: [N] of NumPy arrays; seconds if there is a model of the batch time, else rounds.
      capacity, batch_time, max_rounds: as of `simulate`.
      streams: seed and stretch, from which the policy's random key is made.
      quality: how good the predictions are, and what does not fit into the cache.
    """

    policy: Policy
    requests: Requests
    capacity: int
    batch_time: BatchTime | None
    max_rounds: int | None
    streams: tuple[int, int]
    quality: dict[str, float]


def quantity_of(label: str) -> Quantity:
    """What an axis of schedules may hold.

    Raises:
      ValueError: there is no such setting; names the axis and the fix.
    """
    if label not in SETTINGS:
        fix = suggest(label, SETTINGS)
        raise ValueError(f"axis {label}: {label!r} is no setting of a schedule: {fix}")
    return Quantity(SETTINGS[label].kind, functools.partial(_problem, label))


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with a value, and the fix; None if nothing is."""
    setting = SETTINGS[name]
    if setting.kind != "text":
        if setting.least <= value <= setting.most and (name, value) not in _OPEN_ENDS:
            return None
        ends = f"at least {setting.least:g}"
        ends += f" and at most {setting.most:g}" if math.isfinite(setting.most) else ""
        return f"{name} = {value:g} must be {ends}: give the {setting.meaning}"
    try:
        setting.read(str(value))
    except ValueError as error:
        return str(error).removeprefix("--")
    return None


def read_fixed(given: Mapping[str, Any], varied: set[str]) -> dict[str, Any]:
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
        fixed[name] = read_one(name, value, quantity_of)
    for first, second in _EXCLUSIVE:
        if len({first, second} & (set(fixed) | varied)) == 2:
            raise ValueError(f"fields: {first} and {second} say the same: drop one")
    for name in ("source", "capacity"):
        if name not in fixed and name not in varied:
            raise ValueError(f"fields: {name} is missing: give the {SETTINGS[name].meaning}")
    settled = {name: setting.default for name, setting in SETTINGS.items()} | fixed
    return {name: value for name, value in settled.items() if name not in varied}


def make_instance(settings: Mapping[str, Any]) -> Instance:
    """The instance that one value of every setting amounts to.

    Raises:
      ValueError: it cannot be, for example since too few requests fit into the cache.
    """
    values = dict(settings)
    if values["interval_width"] is not None:
        values["intervals"] = f"relative:{float(values['interval_width'])!r}"
    if values["arrival_rate"] is not None:
        values["arrivals"] = f"poisson:{float(values['arrival_rate'])!r}"
    seed, stretch, capacity = (int(values[name]) for name in ("seed", "stretch", "capacity"))
    batch_time, rounds = read_batch_time(values["batch_time"]), values["max_rounds"]
    shared = values["source"], values["prompt"], capacity, int(values["requests"])
    trace, left_out = _trace(*shared, stretch, seed)
    made = read_intervals(values["intervals"], trace, seed, stretch)
    in_seconds = batch_time is not None
    arrival = read_arrivals(values["arrivals"], trace, in_seconds, seed, stretch)
    report = calibration(trace.output, made)
    sizes: dict[str, Any] = {"prompt": trace.prompt, "output": trace.output, **made._asdict()}
    return Instance(
        _policy(values["policy"], int(values["aging"]), values["alpha"], values["beta"]),
        Requests(arrival=arrival, **sizes),
        capacity,
        batch_time,
        None if rounds is None else int(rounds),
        (seed, stretch),
        {
            "coverage": report.coverage,
            "mean_width": report.mean_width,
            "too_long_requests": left_out.requests,
            "too_long_token_share": left_out.token_share,
        },
    )


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
    given = _whole_trace(source) if is_file(source) else source
    trace, whole = draw(given, prompt, capacity, num_requests, seed, stretch)
    return trace, too_long([whole], capacity)


def trace_digests(sources: list[str]) -> dict[str, str]:
    """SHA-256 of those sources that are files, by path."""
    files = filter(is_file, sources)
    return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
