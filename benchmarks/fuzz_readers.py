"""Files of traces, runs and arrivals, of every format, sound and damaged: a target of `fuzz.py`."""

import json

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import parquet

from jaxalloc.measurements.runs import read_arrivals, read_runs
from jaxalloc.traces.readers import read_trace

SOUND = [  # the columns of formats that are read
    names.split()
    for names in (
        "arrival prompt output",
        "timestamp input_length output_length hash_ids",
        "TIMESTAMP ContextTokens GeneratedTokens",
        "input_lens output_lens start_times",
        "arrival_ms prompt output lower upper predicted",
        "time task",
        "task tokens correct seconds question",
    )
]
NAMES = sorted({name for names in SOUND for name in names} | {"when", "chat_id", "latency_ms"})
ODD_CELLS = [
    *"| 1 |5e-05|1e3|-1|nan|inf|1e308|-1e308|1e400|0x10|1_0|1,5|true|null|None|١".split("|"),
    *"2023-11-16 18:15:46.6805900|2024-11-03T01:59:00-04:00|2024-11-03T01:59:00Z".split("|"),
    *"0001-01-01|9999-12-31 23:59:59|yesterday|\x00|\x1b[2J|a\nb|\"|'|💥|\ufeff|\u2028".split("|"),
    "9" * 30,
]
CELLS = st.one_of(
    st.integers(0, 1000).map(str),
    st.floats(0, 1e4).map(str),
    st.sampled_from(ODD_CELLS),
    st.text(max_size=8),
)
JSON_CELLS = st.recursive(
    st.integers(0, 1000)
    | st.floats()
    | st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | CELLS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=5,
)
SOUND_CELLS = st.integers(0, 1).map(str)  # a time, a number of tokens, a flag or a name
COLUMNS = st.sampled_from(SOUND) | st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)
TYPES = (
    *(pa.int64(), pa.float64(), pa.string(), pa.timestamp("ns"), pa.timestamp("s", "UTC")),
    *(pa.date32(), pa.bool_(), pa.int8(), pa.large_string(), pa.list_(pa.int64()), pa.null()),
    *(pa.dictionary(pa.int32(), pa.string()), pa.decimal128(10, 2), pa.duration("ms")),
    *(pa.float16(), pa.uint64()),
)


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
        row |= JSON_CELLS
    return "\n".join(json.dumps(draw(row)) for _ in range(draw(st.integers(0, 4)))).encode()


@st.composite
def parquet_bytes(draw):
    names, size, sound = draw(COLUMNS), draw(st.integers(0, 3)), draw(st.booleans())
    arrays = []
    for _ in names:
        kind = pa.string() if sound else draw(st.sampled_from(TYPES))
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


FORMATS = {"csv": csv_text(), "json": json_text(), "jsonl": json_lines_text()}
FORMATS["parquet"] = parquet_bytes()
FIELDS = st.sampled_from(["prompt", "output", "arrival", "time", "tokens", "seconds"])


def readers(folder):
    """What is read, as what, with which columns named and which unit of time."""
    strategy = st.tuples(
        st.sampled_from(sorted(FORMATS)).flatmap(
            lambda kind: st.tuples(st.just(kind), FORMATS[kind] | damaged(FORMATS[kind]))
        ),
        st.sampled_from(("trace", "arrivals", "runs")),
        st.just({}) | st.dictionaries(FIELDS, st.sampled_from(NAMES), max_size=2),
        st.sampled_from((None, None, "s", "ns")),
    )

    def attempt(example):
        (suffix, data), kind, columns, unit = example
        path = folder / f"input.{suffix}"
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
