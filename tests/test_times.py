"""Columns of times: every unit and form is read as what it says, and none is guessed."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from jaxalloc.measurements.runs import read_arrivals
from jaxalloc.tables import Column
from jaxalloc.times import TIME_UNITS, named_unit, read_durations, read_times
from jaxalloc.traces.readers import read_trace

NAMES = {
    "s": "seconds, time (s), t_s, elapsedSec",
    "ms": "arrival_ms, arrivalMs, Time [ms], t.millis, timestamp_ms",
    "us": "arrival_us, ts_µs, microseconds",
    "ns": "arrival_time_ns, startNanos",
    None: "arrival, requests, start_times, when, items, bonus",
}


DAWN, DUSK = datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)


def read(cells, name, **given):
    return read_times(Column.create(name, cells), **given)


@pytest.mark.parametrize("unit", NAMES)
def test_names_tell_units(unit):
    size, other = TIME_UNITS[unit or "s"], "ms" if unit == "s" else "s"
    for name in NAMES[unit].split(", "):
        assert named_unit(name) == unit
        assert read([1, 3], name).seconds.tolist() == [0, 2 * size]
        assert read_durations(Column.create(name, ["250"])).tolist() == [250 * size]
        for function in (read_durations, read_times):
            if unit is None:
                function(Column.create(name, [1]), time_unit=other)
            else:
                with pytest.raises(ValueError, match=r"^time_unit = .* by its name: drop one"):
                    function(Column.create(name, [1]), time_unit=other)


@given(
    start=st.integers(-(2**40), 2**40),
    steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=5),
    unit=st.sampled_from(sorted(TIME_UNITS)),
    form=st.sampled_from((int, float, str, lambda x: f" {float(x)!r} ", lambda x: f"{x:.15e}")),
)
def test_numbers_of_every_form_are_the_same_times(start, steps, unit, form):
    values = np.cumsum([start, *steps])
    found = read([form(int(x)) for x in values], "when", time_unit=unit)
    np.testing.assert_allclose(found.seconds, (values - start) * TIME_UNITS[unit], rtol=1e-12)
    assert found.unit == unit


def test_no_digit_of_an_integer_is_lost_and_of_dates_those_beyond_a_nanosecond():
    dates = ["2023-11-16 18:15:46.6805900001234", "2023-11-16 18:15:47.680590000"]
    assert read(dates, "t").seconds.tolist() == [0, 1]
    late = 1_700_000_000_000_000_000
    for cells in ([late, late + 1], [str(late), str(late + 1)], pa.array([late, late + 1])):
        assert read(cells, "t_ns").seconds.tolist() == [0, 1e-9]
    # Apart by more than their own type holds.
    assert read(pa.array([-100, 100], pa.int8()), "t").seconds.tolist() == [0, 200]
    assert read([-(2**63), 2**63 - 1], "t_ns").seconds[1] == pytest.approx(2**64 * 1e-9)


@given(
    moments=st.lists(st.datetimes(DAWN, DUSK), min_size=2, max_size=4),
    hours=st.lists(st.integers(-12, 14), min_size=4, max_size=4),
)
def test_offsets_are_moments(moments, hours):
    zones = [datetime.timezone(datetime.timedelta(hours=h)) for h in hours]
    local = [m.replace(tzinfo=z) for m, z in zip(moments, zones, strict=False)]
    wanted = [(m - min(local)).total_seconds() for m in local]
    for cells in (
        [m.isoformat() for m in local],
        [m.isoformat(sep=" ") for m in local],
        pa.array([m.astimezone(datetime.UTC) for m in local], pa.timestamp("us", "UTC")),
    ):
        found = read(cells, "TIMESTAMP")
        np.testing.assert_allclose(found.seconds, wanted, rtol=1e-12, atol=1e-9)
        assert found.unit == "date"


@pytest.mark.parametrize(
    ("beside", "start", "unit"),
    [
        (("hash_ids",), 0, "ms"),
        (("hash_ids", "chat_id", "turn"), 0, "s"),
        (("Request tokens",), 5, "s"),
        ((), 1_700_000_000, "s"),
        ((), 1_700_000_000_000, "ms"),
        ((), 1_700_000_000_000_000_000, "ns"),
    ],
)
def test_a_timestamp_is_what_its_marks_say(beside, start, unit):
    assert read([start, start + 60], "timestamp", beside=beside).unit == unit


@pytest.mark.parametrize(
    ("cells", "name", "given", "message"),
    [
        ([0, 3000], "timestamp", {}, "row 1, column timestamp: 0 could be seconds or milliseconds"),
        (
            [1.7e9, 1.8e9],
            "timestamp",
            {"beside": ["hash_ids"]},
            "looks like Unix time in s: rename",
        ),
        ([1.7e12, 1.8e12], "arrival", {}, "looks like Unix time in ms: rename it, or say which"),
        ([1, 2], "arrival_minutes", {}, "'arrival_minutes' is not in seconds: convert it"),
        (
            [1, 2],
            "arrival",
            {"time_unit": "min"},
            "time_unit = 'min' is unknown: choose from s, ms",
        ),
        (["1", "x"], "t", {}, "row 2, column t: 'x' is not a time: write seconds, or 2023"),
        (["1", "2023-01-01"], "t", {}, "row 2, column t: '2023-01-01' is of another form than row"),
        (
            ["2023-01-01T00:00:00Z", "2023-01-01"],
            "t",
            {},
            "row 2, column t: .* of another form tha",
        ),
        (["1", ""], "t", {}, "row 2, column t: an empty cell must be a finite number"),
        (["2023-01-01", ""], "t", {}, "row 2, column t: an empty cell is not a time"),
        (["1", "nan"], "t", {}, "row 2, column t: 'nan' must be a finite number"),
        ([1.0, float("inf")], "t", {}, "row 2, column t: inf must be a finite number"),
        ([-1.5e308, 1.5e308], "t", {}, "are too far apart"),
        (["0001-01-01", "2023-01-01"], "t", {}, "row 1, column t: '0001-01-01' is not a time"),
        (pa.array([0, 2**62], pa.timestamp("s")), "t", {}, "has times before 1678 or after 2262"),
        ([True, False], "t", {}, "'true' is not a time"),
        ([[1], [2]], "t", {}, "column t holds list<item: int64>: name one of numbers or text"),
    ],
)
def test_what_is_no_time(cells, name, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(cells, name, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("arrival_ms", ["1e3", "5e-05", "2500"]),
        ("when", ["2024-11-03T01:59:59-04:00", "2024-11-03T01:00:00-05:00", "2024-11-03T07:00Z"]),
        ("TIMESTAMP", ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:47", "2023-11-16"]),
        ("time", ["1700000000.25", "1700000000.5", "1700000001"]),
    ],
)
def test_traces_and_logs_read_the_same_times(name, cells, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f"{name},output\n" + "\n".join(f"{cell},1" for cell in cells) + "\n")
    trace = read_trace(path, columns={"arrival": name}, needed=("arrival",))
    log = read_arrivals(path, {"time": name})
    np.testing.assert_array_equal(np.sort(log.time), trace.arrival)
    assert log.time_unit == trace.time_unit
    path.write_text("timestamp\n0\n3000\n")
    with pytest.raises(ValueError, match="could be seconds or milliseconds"):
        read_arrivals(path, {"time": "timestamp"})
