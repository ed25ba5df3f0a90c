"""What the words of `jaxalloc schedule` and of a plan mean; errors are ValueErrors.

Messages call a setting as its flag is called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.scheduling import policies
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.traces import intervals
from jaxalloc.traces.generators import LAWS, Law, generate
from jaxalloc.traces.intervals import Predictions
from jaxalloc.traces.readers import SUFFIXES, read_trace
from jaxalloc.traces.trace import Trace

POLICIES = {
    "a_min": "AMin",
    "a_max": "AMax",
    "h_sf": "HindsightShortestFirst",
    "mc_sf": "MCSF",
    "mc_benchmark": "MCBenchmark",
    "vllm": "VLLMFirstCome",
    "alpha": "AlphaProtection",
    "alpha_beta": "AlphaBetaClearing",
}


def read_policies(words: str, aging: int) -> dict[str, Policy]:
    """`a_min,h_sf` as policies by name."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names:
        if name not in POLICIES:
            raise ValueError(f"--policies = {name} is unknown: choose from {', '.join(POLICIES)}")
    if not names:
        raise ValueError(f"--policies = {words!r} is empty: choose from {', '.join(POLICIES)}")
    return {name: getattr(policies, POLICIES[name])(aging=aging) for name in names}


def read_batch_time(words: str | None) -> BatchTime | None:
    """`llama2-70b` or `BASE:PER_REQUEST:PER_TOKEN:PER_PREFILL`."""
    if words is None:
        return None
    if words == "llama2-70b":
        return BatchTime.llama2_70b()
    numbers = _numbers(words.split(":"), "--batch-time", words)
    if len(numbers) != 4 or min(numbers) < 0 or not numbers[0] > 0:
        raise ValueError(
            f"--batch-time = {words} must be llama2-70b or four times in seconds, the first above "
            "0: try 0.0446:0.00052:0.0000027:0.000378"
        )
    base, per_request, per_token, per_prefill = numbers
    return BatchTime(
        base=base, per_request=per_request, per_token=per_token, per_prefill=per_prefill
    )


def read_source(
    source: str,
    columns: str | None,
    prompt: str,
    capacity: int,
    num_requests: int,
    replications: int,
    seed: int,
) -> list[Trace]:
    """[B] traces of N requests that fit into the cache: stretches of a file, or seeds."""
    if source.partition(":")[0] in LAWS:
        with _within("TRACE", source):
            output = _law(source, capacity)
        with _within("--prompt", prompt):
            prompts = int(prompt) if prompt.isdigit() else _law(prompt, capacity)
        return [
            _fill(generate(seed + b, 2 * num_requests, output, prompts), capacity, num_requests)
            for b in range(replications)
        ]
    if Path(source).suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"TRACE = {source} must be a file that ends in {', '.join(SUFFIXES)}, or a law: "
            f"{', '.join(LAWS)}"
        )
    named = dict(_pairs(columns, "--columns"))
    whole = read_trace(source, columns=named)
    fitting = whole.fitting(capacity)
    wanted = num_requests * replications
    if fitting.num_requests < wanted:
        raise ValueError(
            f"--requests = {num_requests} times --replications = {replications} is more than the "
            f"{fitting.num_requests} requests of {source} that fit into --capacity = {capacity}"
        )
    return [fitting.tail(b * num_requests).head(num_requests) for b in range(replications)]


def _fill(trace: Trace, capacity: int, num_requests: int) -> Trace:
    """The first N that fit."""
    fitting = trace.fitting(capacity)
    if fitting.num_requests < num_requests:
        raise ValueError(
            f"--capacity = {capacity} holds fewer than half of the requests: raise it, or lower "
            "--prompt or the outputs"
        )
    return fitting.head(num_requests)


def _law(words: str, capacity: int) -> Law:
    """`geometric:mean=100` as a law, cut off where the cache ends."""
    name, _, rest = words.partition(":")
    kinds = {"mean": float, "least": int, "most": int, "weight": float, "sigma": float}
    fields: dict[str, Any] = {"most": capacity}
    for key, text in _pairs(rest, words):
        if key not in kinds:
            raise ValueError(f"{key} is unknown: choose from {', '.join(kinds)}")
        try:
            fields[key] = kinds[key](text)
        except ValueError:
            raise ValueError(f"{key} = {text} is not a number: correct it") from None
    return Law(name=name, **fields)


@contextlib.contextmanager
def _within(flag: str, words: str) -> Iterator[None]:
    """Errors inside say which words they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{flag} = {words}: {error}") from None


def _pairs(words: str | None, where: str) -> list[tuple[str, str]]:
    """`a=1,b=2` as pairs."""
    pairs = []
    for part in (words or "").split(","):
        if not part.strip():
            continue
        key, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"{part!r} in {where} must be NAME=VALUE")
        pairs.append((key.strip(), value.strip()))
    return pairs


def _numbers(words: list[str], flag: str, whole: str) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{flag} = {whole} must have numbers between its colons") from None


def read_arrivals(words: str, traces: list[Trace], in_seconds: bool, seed: int) -> list[Any]:
    """[B] arrivals of every replication, whole rounds or seconds."""
    name, _, rest = words.partition(":")
    if name == "zero":
        zero = 0.0 if in_seconds else 0
        return [np.full(trace.num_requests, zero) for trace in traces]
    if name == "trace":
        if not in_seconds:
            raise ValueError(
                "--arrivals = trace are seconds: add --batch-time, or use poisson:RATE"
            )
        return [trace.arrival for trace in traces]
    if name != "poisson":
        raise ValueError(f"--arrivals = {words} must be zero, poisson:RATE or trace")
    (rate,) = _numbers([rest], "--arrivals", words)
    if not rate > 0 or not np.isfinite(rate):
        raise ValueError(f"--arrivals = {words} must have a rate above 0")
    rngs = [np.random.default_rng([seed, b]) for b in range(len(traces))]
    times = [
        np.cumsum(rng.exponential(1 / rate, trace.num_requests))
        for rng, trace in zip(rngs, traces, strict=True)
    ]
    return times if in_seconds else [np.floor(time).astype(np.int64) for time in times]


def read_intervals(words: str, trace: Trace, seed: int) -> Predictions:
    """Predictions of one trace."""
    name, *rest = words.split(":")
    output = trace.output
    numbers = _numbers(rest, "--intervals", words)
    if words == "own":
        return _own(trace)
    with _within("--intervals", words):
        match name, numbers:
            case "exact", []:
                return Predictions(output, output, output)
            case "one", []:
                return intervals.one_interval(output)
            case "one", [least, most]:
                return intervals.one_interval(output, int(least), int(most))
            case "bins", [count]:
                return intervals.bins(output, int(count))
            case "relative", [width]:
                return intervals.relative(output, width)
            case "noise", [sigma]:
                return intervals.noisy(output, sigma, seed)
    raise ValueError(
        f"--intervals = {words} must be exact, one, one:LO:HI, bins:B, relative:X, noise:SIGMA or "
        "own"
    )


def _own(trace: Trace) -> Predictions:
    """The predictions that the trace brings; one missing stands for no knowledge."""
    if trace.lower is None and trace.upper is None and trace.predicted is None:
        raise ValueError(
            "--intervals = own, but the trace has no column lower, upper or predicted: name them "
            "with --columns"
        )
    none = intervals.one_interval(trace.output)
    lower = none.lower if trace.lower is None else trace.lower
    upper = none.upper if trace.upper is None else trace.upper
    middle = (lower + upper) // 2
    return Predictions(lower, upper, middle if trace.predicted is None else trace.predicted)
