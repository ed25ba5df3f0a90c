"""What the words of `jaxalloc schedule` and of a plan mean.

Errors are ValueErrors of one line that begins with the name of the setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxalloc.messages import choices, within
from jaxalloc.scheduling import policies
from jaxalloc.scheduling.batch_time import BatchTime
from jaxalloc.scheduling.policies import Policy
from jaxalloc.tables import SUFFIXES
from jaxalloc.traces import intervals
from jaxalloc.traces.generators import LAWS, Law, generate, stream
from jaxalloc.traces.intervals import Predictions
from jaxalloc.traces.readers import read_trace
from jaxalloc.traces.trace import MOST_TOKENS, Trace

_LEAST_RATE = 1e-12  # a round, or a second
_LATEST = 2.0**62


def read_policies(words: str, aging: int) -> dict[str, Policy]:
    """`a_min,h_sf` as policies by name."""
    names = [name.strip() for name in words.split(",") if name.strip()]
    for name in names or [words]:
        if name not in policies.by_name:
            raise ValueError(f"policies = {name} is unknown: {choices(policies.by_name)}")
    return {name: policies.by_name[name](aging=aging) for name in names}


def read_batch_time(words: str | None) -> BatchTime | None:
    """`llama2-70b` or `BASE:PER_REQUEST:PER_TOKEN:PER_PREFILL`."""
    if words is None:
        return None
    if words == "llama2-70b":
        return BatchTime.llama2_70b()
    numbers = _numbers("batch_time", words, words.split(":"))
    if len(numbers) != 4 or not all(0 <= x < math.inf for x in numbers) or not numbers[0]:
        raise ValueError(
            f"batch_time = {words} must be llama2-70b or four times in seconds, the first above "
            "0: try 0.0446:0.00052:0.0000027:0.000378"
        )
    names = ("base", "per_request", "per_token", "per_prefill")
    return BatchTime(**dict(zip(names, numbers, strict=True)))


class TooLong(NamedTuple):
    """Requests that are left out as they do not fit into the cache.

    Attributes:
      requests: how many.
      of: requests of the file, or of all that were drawn.
      token_share: their share of all tokens of prompts and outputs.
    """

    requests: int
    of: int
    token_share: float


class Source(NamedTuple):
    """What `read_source` returns: B replications of N requests.

    Attributes:
      traces: [B] the requests.
      seeds: [B] whose streams the replications draw from.
      stretches: [B] which streams of the seed, and which stretch of a file.
      too_long: requests that are left out.
    """

    traces: Sequence[Trace]
    seeds: Sequence[int]
    stretches: Sequence[int]
    too_long: TooLong


def is_file(source: str) -> bool:
    """Whether the words of a source are the name of a file, and no law."""
    return Path(source).suffix.lower() in SUFFIXES and source.partition(":")[0] not in LAWS


def read_source(
    source: str,
    prompt: str,
    capacity: int,
    num_requests: int,
    replications: int,
    seed: int,
    **reading: Any,
) -> Source:
    """Replications whose requests fit into the cache: stretches of a file, or seeds of a law.

    Args:
      source: a file, or a law and its numbers.
      prompt, capacity, num_requests: as `draw` says.
      replications: B.
      seed: of the first replication.
      **reading: how `read_trace` reads a file.
    """
    given: Trace | str = read_trace(source, **reading) if is_file(source) else source
    each, of_file = range(replications), isinstance(given, Trace)
    streams = [(seed, b) if of_file else (seed + b, 0) for b in each]
    drawn = [draw(given, prompt, capacity, num_requests, *stream) for stream in streams]
    traces, whole = zip(*drawn, strict=True)
    seeds, stretches = zip(*streams, strict=True)
    return Source(traces, seeds, stretches, too_long(whole[: 1 if of_file else None], capacity))


def draw(
    source: Trace | str, prompt: str, capacity: int, num_requests: int, seed: int, stretch: int = 0
) -> tuple[Trace, Trace]:
    """N requests that fit into the cache, and all those that they are taken from.

    Args:
      source: a trace, of which they are a stretch, or a law and its numbers.
      prompt: tokens of the prompts of a law, or their law.
      capacity: M.
      num_requests: N.
      seed: of a law.
      stretch: which N of a trace.
    """
    if isinstance(source, Trace):
        fitting = source.fitting(capacity)
        if fitting.num_requests < (stretch + 1) * num_requests:
            raise ValueError(
                f"requests = {num_requests}: stretch {stretch} of so many is beyond the "
                f"{fitting.num_requests} requests that fit into capacity = {capacity}"
            )
        return fitting.tail(stretch * num_requests).head(num_requests), source
    if source.partition(":")[0] not in LAWS:
        raise ValueError(
            f"source = {source} must be a file that ends in {', '.join(SUFFIXES)}, or a law: "
            f"{', '.join(LAWS)}"
        )
    with within(f"source = {source}"):
        output = Law.parse(source, capacity)
    with within(f"prompt = {prompt[:40]}"):
        prompts = int(prompt) if prompt.isdecimal() else Law.parse(prompt, capacity)
        if isinstance(prompts, int) and prompts > MOST_TOKENS:
            raise ValueError(f"more than {MOST_TOKENS} tokens fit into no cache")
    drawn = generate(seed, 2 * num_requests, output, prompts)
    fitting = drawn.fitting(capacity)
    if fitting.num_requests < num_requests:
        raise ValueError(
            f"capacity = {capacity} holds fewer than half of the requests: raise it, or lower "
            "the prompts or the outputs"
        )
    return fitting.head(num_requests), drawn


def too_long(drawn: Sequence[Trace], capacity: int) -> TooLong:
    """What of these requests does not fit into the cache."""
    sizes = np.concatenate([trace.prompt + trace.output for trace in drawn])
    long = sizes > capacity
    return TooLong(int(long.sum()), sizes.size, float(sizes[long].sum() / sizes.sum()))


def read_arrivals(words: str, trace: Trace, in_seconds: bool, seed: int, stretch: int = 0) -> Any:
    """[N] arrivals of a replication, whole rounds or seconds."""
    name, _, rest = words.partition(":")
    if words == "zero":
        return np.full(trace.num_requests, 0.0 if in_seconds else 0)
    if words == "trace":
        if not in_seconds:
            raise ValueError("arrivals = trace are seconds: add batch_time, or use poisson:RATE")
        if trace.time_unit is None and not trace.arrival.any():
            raise ValueError(
                "arrivals = trace, but no column of the trace is known to be the arrival: name "
                "it (columns arrival=NAME), or use zero or poisson:RATE"
            )
        return trace.arrival
    if name != "poisson":
        raise ValueError(f"arrivals = {words} must be zero, poisson:RATE or trace")
    (rate,) = _numbers("arrivals", words, [rest])
    if not _LEAST_RATE <= rate <= 1 / _LEAST_RATE:
        raise ValueError(
            f"arrivals = {words} must have a rate from {_LEAST_RATE:g} to {1 / _LEAST_RATE:g}"
        )
    gaps = stream(seed, "gaps", stretch).exponential(1 / rate, trace.num_requests)
    times = np.minimum(np.cumsum(gaps), _LATEST)
    return times if in_seconds else np.floor(times).astype(np.int64)


def policy_keys(seeds: Sequence[int], stretches: Sequence[int]) -> Any:
    """[B] random keys of policies: that of the seed, another one for every further stretch."""
    keys = jax.vmap(jax.random.key)(np.asarray(seeds))
    others = jax.vmap(jax.random.fold_in)(keys, np.asarray(stretches))
    return jnp.where(np.asarray(stretches) > 0, others, keys)


def read_intervals(words: str, trace: Trace, seed: int, stretch: int = 0) -> Predictions:
    """Predictions of one replication."""
    name, *rest = words.split(":")
    output = trace.output
    if words == "own":
        return _own(trace)
    numbers = _numbers("intervals", words, rest)
    with within(f"intervals = {words}"):
        match name, numbers:
            case "exact", []:
                return Predictions(output, output, output)
            case "one", [] | [_, _]:
                return intervals.one_interval(output, *map(_whole, numbers))
            case "bins", [count]:
                return intervals.bins(output, _whole(count))
            case "relative", [width]:
                return intervals.relative(output, width)
            case "noise", [sigma]:
                return intervals.noisy(output, sigma, seed, stretch)
    raise ValueError(
        f"intervals = {words} must be exact, one, one:LO:HI, bins:B, relative:X, noise:SIGMA or own"
    )


def _numbers(name: str, words: str, parts: list[str]) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise ValueError(f"{name} = {words} must have numbers between its colons") from None


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError(f"{number:g} must be a whole number")
    return int(number)


def _own(trace: Trace) -> Predictions:
    """The predictions that the trace brings; one missing stands for no knowledge."""
    if trace.lower is None and trace.upper is None and trace.predicted is None:
        raise ValueError(
            "intervals = own, but the trace has no column lower, upper or predicted: name them"
        )
    none = intervals.one_interval(trace.output)
    lower = none.lower if trace.lower is None else trace.lower
    upper = none.upper if trace.upper is None else trace.upper
    middle = (lower + upper) // 2
    return Predictions(lower, upper, middle if trace.predicted is None else trace.predicted)
