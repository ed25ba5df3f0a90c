"""A Parquet file appears only when it is complete; what an interruption leaves is named."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from jaxalloc.sweep.parquet import (
    about_schema,
    check_target,
    parquet_file,
    partial_path,
    schema_of,
    to_table,
)
from sweeps import names, small_disk

COLUMNS = {"arrival_rate": "float64", "status": "text", "steps": "int32"}
SCHEMA = schema_of(COLUMNS, {"workload": "mine"})


def rows(*numbers):
    columns = {
        "arrival_rate": np.array(numbers),
        "status": np.zeros(len(numbers), int),
        "steps": np.arange(len(numbers), dtype=np.int32),
    }
    return to_table(columns, SCHEMA, ["CONVERGED"])


def write_and_interrupt(path, chunks):
    with parquet_file(path, SCHEMA, []) as append:
        for chunk in chunks:
            append(chunk)
        raise KeyboardInterrupt


def test_all_rows_are_there_at_the_end_and_nothing_before(tmp_path):
    path = tmp_path / "a.parquet"
    with parquet_file(path, SCHEMA, ["status"]) as append:
        append(rows(1.0, 2.0))
        append(rows(3.0))
        assert not path.exists()
    assert names(tmp_path) == ["a.parquet"]
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert table["arrival_rate"].to_pylist() == [1.0, 2.0, 3.0]
    assert [str(field.type) for field in table.schema] == ["double", "string", "int32"]
    assert about_schema(table.schema) == {"workload": "mine"}


def test_an_interruption_leaves_the_old_file_and_the_rows_so_far_beside_it(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt(path, [rows(1.0)])
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.parquet", "a.partial.parquet"]
    assert pq.read_table(partial_path(path))["arrival_rate"].to_pylist() == [1.0]


def test_an_interruption_before_the_first_row_leaves_nothing(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_and_interrupt(path, [])
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_file_that_cannot_be_read(tmp_path):
    def write():
        with parquet_file(tmp_path / "a.parquet", SCHEMA, []) as append:
            for start in range(100):
                append(rows(*np.random.default_rng(start).random(10_000)))

    with small_disk(200_000), pytest.raises(OSError, match="File too large"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.csv", "a", "nowhere/a.parquet", "folder.parquet"])
def test_a_target_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match=r"^--out = ") as caught:
        check_target(tmp_path / name, (".parquet",), "--out")
    assert name in str(caught.value)
    check_target(tmp_path / "fine.parquet", (".parquet",), "--out")
