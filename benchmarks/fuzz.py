"""Damaged and made-up input for what reads it: an answer or one line of complaint, no traceback.

    python benchmarks/fuzz.py readers --minutes 10

A target is an entry of `TARGETS`: a function from a folder to a Hypothesis strategy and what is
done with an example. Doing it may succeed or raise one of `REFUSALS` with a message of one line;
anything else is a failure, which Hypothesis shrinks and this script prints. Rounds of examples,
each with a new seed, follow one another until the time is over. Writes results/fuzz_TARGET.json.
"""

import argparse
import collections
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path

import common
import hypothesis
import numpy as np
import pyarrow as pa
from fuzz_commands import flags, toml
from hypothesis import strategies as st
from pyarrow import parquet

from jaxalloc.measurements.runs import read_arrivals, read_runs
from jaxalloc.traces.readers import read_trace

EXAMPLES_OF_A_ROUND = 500
EXAMPLES_OF_COMMANDS = 50  # which compile
REFUSALS = (ValueError,)  # what a library function may raise

# --------------------------------------------------------------------------- readers of files

SOUND = (
    ("arrival", "prompt", "output"),
    ("timestamp", "input_length", "output_length", "hash_ids"),
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("input_lens", "output_lens", "start_times"),
    ("arrival_ms", "prompt", "output", "lower", "upper", "predicted"),
    ("time", "task"),
    ("task", "tokens", "correct", "seconds", "question"),
)
NAMES = sorted({name for names in SOUND for name in names} | {"when", "chat_id", "latency_ms"})
ODD_CELLS = (
    "",
    " 1 ",
    "5e-05",
    "1e3",
    "-1",
    "nan",
    "inf",
    "1e308",
    "-1e308",
    "1e400",
    "9" * 30,
    "0x10",
    "1_0",
    "1,5",
    "true",
    "null",
    "None",
    "١",
    "2023-11-16 18:15:46.6805900",
    "2024-11-03T01:59:00-04:00",
    "2024-11-03T01:59:00Z",
    "0001-01-01",
    "9999-12-31 23:59:59",
    "yesterday",
    "\x00",
    "\x1b[2J",
    "a\nb",
    '"',
    "'",
    "💥",
    "\ufeff",
    "\u2028",
)
CELLS = st.one_of(
    st.integers(0, 1000).map(str),
    st.floats(0, 1e4).map(str),
    st.sampled_from(ODD_CELLS),
    st.text(max_size=8),
)
JSON_CELLS = st.recursive(
    st.one_of(
        st.integers(0, 1000),
        st.floats(),
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        CELLS,
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=5,
)
COLUMNS = st.one_of(
    st.sampled_from(SOUND).map(list), st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)
)
SOUND_CELLS = st.integers(0, 1).map(str)  # a time, a number of tokens, a flag or a name


@st.composite
def csv_text(draw):
    names = draw(COLUMNS)
    sign = draw(st.sampled_from(",,,,;\t"))
    cells = draw(st.sampled_from((SOUND_CELLS, CELLS)))
    rows = draw(st.lists(st.lists(cells, min_size=len(names), max_size=len(names)), max_size=6))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join([sign.join(row) for row in [names, *rows]]).encode("utf-8", "surrogatepass")


@st.composite
def json_text(draw):
    names, cells = draw(COLUMNS), draw(st.sampled_from((SOUND_CELLS, JSON_CELLS)))
    size = draw(st.integers(0, 3))
    rows = [{name: draw(cells) for name in names} for _ in range(size)]
    if draw(st.booleans()):
        rows = {name: draw(st.lists(cells, min_size=size, max_size=3)) for name in names}
    if draw(st.integers(0, 50)) == 50:
        return b"[" * 100_000
    return json.dumps(rows).encode()


@st.composite
def json_lines_text(draw):
    names, cells = draw(COLUMNS), draw(st.sampled_from((SOUND_CELLS, JSON_CELLS)))
    row = st.fixed_dictionaries(dict.fromkeys(names, cells))
    if cells is JSON_CELLS:
        row = st.one_of(row, JSON_CELLS)
    return "\n".join(json.dumps(draw(row)) for _ in range(draw(st.integers(0, 4)))).encode()


@st.composite
def parquet_bytes(draw):
    types = (
        pa.int64(),
        pa.float64(),
        pa.string(),
        pa.timestamp("ns"),
        pa.timestamp("s", "UTC"),
        pa.date32(),
        pa.bool_(),
        pa.int8(),
        pa.large_string(),
        pa.list_(pa.int64()),
        pa.null(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.decimal128(10, 2),
        pa.duration("ms"),
        pa.float16(),
        pa.uint64(),
    )
    size = draw(st.integers(0, 3))
    arrays = []
    names = draw(COLUMNS)
    sound = draw(st.booleans())
    for _ in names:
        kind = pa.string() if sound else draw(st.sampled_from(types))
        cells = SOUND_CELLS if sound else JSON_CELLS
        values = draw(st.lists(cells, min_size=size, max_size=size))
        try:
            arrays.append(pa.array(values, kind))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            arrays.append(pa.array([None] * size, kind))
    sink = pa.BufferOutputStream()
    try:
        parquet.write_table(pa.table(arrays, names), sink)
    except pa.ArrowException:
        return b"PAR1"
    return sink.getvalue().to_pybytes()


@st.composite
def damaged(draw, made):
    """Some bytes flipped, cut out or put in."""
    data = bytearray(draw(made))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("flip", "cut", "put", "end")))
        if kind == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[place : place + draw(st.integers(1, 20))]
        elif kind == "put":
            data[place:place] = draw(st.binary(max_size=4))
        else:
            del data[place:]
    return bytes(data)


def readers(folder):
    """Files of traces, runs and arrivals, of every format, sound and damaged."""
    formats = {
        ".csv": csv_text(),
        ".json": json_text(),
        ".jsonl": json_lines_text(),
        ".parquet": parquet_bytes(),
    }
    strategy = st.sampled_from(sorted(formats)).flatmap(
        lambda suffix: st.tuples(
            st.just(suffix),
            st.one_of(formats[suffix], damaged(formats[suffix])),
            st.sampled_from(("trace", "arrivals", "runs")),
            st.one_of(
                st.just({}),
                st.just({}),
                st.dictionaries(
                    st.sampled_from(("prompt", "output", "arrival", "time", "tokens", "seconds")),
                    st.sampled_from(NAMES),
                    max_size=2,
                ),
            ),
            st.sampled_from((None, None, "s", "ns")),
        )
    )

    def attempt(example):
        suffix, data, kind, columns, unit = example
        path = folder / f"input{suffix}"
        path.write_bytes(data)
        if kind == "trace":
            trace = read_trace(path, columns=columns, time_unit=unit)
            assert np.isfinite(trace.arrival).all()
            assert (np.diff(trace.arrival) >= 0).all()
            assert (trace.output >= 1).all()
        elif kind == "arrivals":
            assert np.isfinite(read_arrivals(path, columns).time).all()
        else:
            assert np.isfinite(read_runs(path, columns).seconds).all()

    return strategy, attempt


TARGETS = {"readers": readers, "toml": toml, "flags": flags}

# ------------------------------------------------------------------------------- the machinery


def check(attempt, example, counts):
    """Do it; count how it ended; raise for what must not happen."""
    try:
        attempt(example)
        counts["done"] += 1
    except REFUSALS as error:
        if len(str(error).splitlines()) != 1:
            raise AssertionError(f"the complaint is not one line: {error!r}") from None
        counts["refused"] += 1


def fuzz(name, *, seconds=np.inf, rounds=np.inf, seed=0, examples=EXAMPLES_OF_A_ROUND):
    """Rounds of examples until the time is over: how many were done and refused, and failures."""
    counts, failures = collections.Counter(done=0, refused=0), []
    began, number = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy, attempt = TARGETS[name](Path(folder))
        while time.monotonic() - began < seconds and number < rounds:

            @hypothesis.seed(seed + number)
            @hypothesis.settings(
                max_examples=examples,
                database=None,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                verbosity=hypothesis.Verbosity.quiet,
            )
            @hypothesis.given(strategy)
            def one_round(example):
                check(attempt, example, counts)

            try:
                one_round()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append("\n".join([repr(error), *getattr(error, "__notes__", [])]))
            number += 1
    return {
        "target": name,
        "seed": seed,
        "rounds": number,
        "seconds": time.monotonic() - began,
        **counts,
        "failures": failures,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    examples = EXAMPLES_OF_A_ROUND if arguments.target == "readers" else EXAMPLES_OF_COMMANDS
    found = fuzz(
        arguments.target,
        seconds=60 * arguments.minutes,
        seed=arguments.seed,
        examples=examples,
    )
    for failure in found["failures"]:
        print(failure, end="\n\n")
    print(f"{found['done']} done, {found['refused']} refused, {len(found['failures'])} failures")
    common.save(f"fuzz_{arguments.target}", found)
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
