"""A folder of parts: continued exactly, whatever became of it; nothing valid is lost."""

import json
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sweeps
from sweeps import CHUNK, ROWS, names, run, study

from jaxalloc import sweep
from jaxalloc.sweep import directory, running
from jaxalloc.sweep.directory import part_name
from jaxalloc.sweep.manifest import MANIFEST

PARTS = [part_name(index) for index in range(5)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The rows of the sweep that nothing ever interrupted."""
    return run(tmp_path_factory.mktemp("whole") / "w").table()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "sweep"
    run(path)
    return path


def test_a_folder_holds_parts_in_order_and_a_manifest(folder, whole):
    assert names(folder) == [MANIFEST, *PARTS]
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["complete"] is True
    assert (manifest["configurations"], manifest["chunk_size"], manifest["chunks"]) == (33, 8, 5)
    assert manifest["status"] == {"CONVERGED": ROWS}
    assert (manifest["dtype"], manifest["device"]) == ("float64", "cpu")
    assert manifest["plan_hash"] == study().digest
    assert set(manifest["versions"]) >= {"jax", "jaxlib", "jaxalloc", "numpy", "pyarrow"}
    assert [len(pq.read_table(folder / name)) for name in PARTS] == [8, 8, 8, 8, 1]
    assert pq.read_table(folder).select(whole.column_names) == whole  # by any other reader
    columns = pq.ParquetFile(folder / PARTS[0]).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}


@pytest.mark.parametrize(
    "gone", [PARTS[:1], PARTS[2:4], PARTS, [MANIFEST], [MANIFEST, *PARTS[1:]], [MANIFEST, *PARTS]]
)
def test_what_is_missing_is_solved_and_nothing_else(folder, whole, gone):
    for name in gone:
        (folder / name).unlink()
    kept = {name: (folder / name).stat().st_mtime_ns for name in set(PARTS) - set(gone)}
    (folder / f".{PARTS[1]}.123.tmp").write_text("half a part")
    reports = []
    result = run(folder, resume=True, report=reports.append)
    assert result.complete
    assert result.table() == whole
    assert names(folder) == [MANIFEST, *PARTS]
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert len(reports) == len(set(gone) - {MANIFEST})
    if reports:
        assert reports[-1].done == ROWS


def test_an_absent_and_an_empty_folder_start_afresh(tmp_path, whole):
    assert run(tmp_path / "absent", resume=True).table() == whole
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty").table() == whole


def test_the_chunk_size_lives_in_the_folder(folder, whole):
    (folder / PARTS[0]).unlink()
    assert sweep.run(study(), folder, resume=True).table() == whole
    (folder / MANIFEST).unlink()
    (folder / PARTS[1]).unlink()
    assert sweep.run(study(), folder, resume=True).table() == whole
    with pytest.raises(ValueError, match="has chunks of 8 rows: drop it"):
        sweep.run(study(), folder, resume=True, chunk_size=9)


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_truncated_part_is_named_and_solved_again(folder, whole, keep):
    data = (folder / PARTS[2]).read_bytes()
    (folder / PARTS[2]).write_bytes(data[:keep])
    outcome = running.run_plan(study(), folder, resume=True, chunk_size=CHUNK)
    assert set(outcome.damaged) == {PARTS[2]}
    assert outcome.here == CHUNK
    assert sweep.open(folder).table() == whole


def test_a_flipped_bit_changes_no_row_unseen(folder, whole):
    data = (folder / PARTS[3]).read_bytes()
    rng = np.random.default_rng(2)
    found = 0
    for place in rng.choice(len(data), 60, replace=False):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        (folder / PARTS[3]).write_bytes(broken)
        try:
            outcome = running.run_plan(study(), folder, resume=True)
        except ValueError as error:  # its label was hit
            assert PARTS[3] in str(error) or "was begun with" in str(error)  # noqa: PT017
            found += 1
            continue
        found += set(outcome.damaged) == {PARTS[3]}
        assert sweep.open(folder).table() == whole
    assert found > 30


def unchanged(folder, **options):
    """The error of a run that must leave the folder as it was."""
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(ValueError, match=r"--out = ") as caught:
        sweep.run(options.pop("plan", study()), folder, **options)
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_folder_that_is_not_empty_needs_resume(folder):
    assert "is not empty: add --resume" in unchanged(folder)


def test_another_plan_is_named(folder):
    other = study(accuracy_weight="1:300:4:log")
    message = unchanged(folder, plan=other, resume=True)
    assert "of another plan (axes.accuracy_weight.count was 3, is 4)" in message
    (folder / MANIFEST).unlink()
    message = unchanged(folder, plan=other, resume=True)
    assert f"holds {PARTS[0]}, a part of another sweep: move it away" in message
    axes = dict(reversed(sweeps.AXES.items()))
    message = unchanged(folder, plan=sweep.plan("qwen3-8b", axes), resume=True)
    assert "a part of another sweep" in message


def test_the_order_of_the_axes_is_a_part_of_the_plan(folder):
    axes = dict(reversed(sweeps.AXES.items()))
    assert sweep.plan("qwen3-8b", axes).digest != study().digest
    message = unchanged(folder, plan=sweep.plan("qwen3-8b", axes), resume=True)
    assert "of another plan (the order of its axes)" in message


def test_a_foreign_part_is_named(folder):
    pq.write_table(pa.table({"x": [1]}), folder / "part-0000009.parquet")
    assert "holds part-0000009.parquet, a part of another" in unchanged(folder, resume=True)
    (folder / "part-0000009.parquet").rename(folder / "mine.parquet")
    assert "holds mine.parquet, a part of another" in unchanged(folder, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds 'notes.txt' and no manifest" in unchanged(tmp_path, resume=True)


def test_a_manifest_that_lacks_entries_is_none_and_made_again(folder, whole):
    whole_manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text('{"format": 1}')
    with pytest.raises(ValueError, match="has no manifest: give the folder of a sweep"):
        sweep.open(folder)
    run(folder, resume=True)
    assert json.loads((folder / MANIFEST).read_text())["plan"] == whole_manifest["plan"]
    assert sweep.open(folder).table() == whole


@pytest.mark.parametrize("key", ["jax", "dtype", "device", "jaxalloc"])
def test_a_folder_that_would_not_be_continued_exactly_is_named(folder, key):
    manifest = json.loads((folder / MANIFEST).read_text()) | {key: "another"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert f"was begun with {key} = another" in unchanged(folder, resume=True)


def test_two_sweeps_do_not_share_a_folder(folder):
    with directory.locked(folder):
        assert "another sweep is writing there" in unchanged(folder, resume=True)


@contextmanager
def small_disk(most):
    """No file may grow beyond that many bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_sweep_goes_on_later(tmp_path, whole):
    folder = tmp_path / "sweep"
    run(folder)
    (folder / PARTS[1]).unlink()
    with small_disk(2000), pytest.raises(OSError, match="File too large"):
        run(folder, resume=True)
    assert names(folder) == [MANIFEST, PARTS[0], *PARTS[2:]]
    assert run(folder, resume=True).table() == whole


def test_killed_anywhere_it_goes_on_to_the_same_rows(tmp_path):
    """A slice of benchmarks/sweep/kill_and_resume.py."""
    line = ["sweep", "qwen3-8b", "--arrival-rate", "0.01:2:500:log", "--accuracy-weight"]
    line += ["1:300:100:log", "--chunk-size", "500", "--resume", "--out"]
    rng = np.random.default_rng(5)
    killed = tmp_path / "killed"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-m", "jaxalloc", *line, str(killed)])
        wanted = len(list(killed.glob("part-*"))) + rng.integers(1, 30)
        while len(list(killed.glob("part-*"))) < wanted and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < len(list(killed.glob("part-*"))) < 100
    axes = {"arrival_rate": "0.01:2:500:log", "accuracy_weight": "1:300:100:log"}
    plan = sweep.plan("qwen3-8b", axes)
    assert sweep.run(plan, killed, resume=True).complete
    sweep.run(plan, tmp_path / "whole", chunk_size=500)
    assert names(killed) == names(tmp_path / "whole")
    for name in names(killed):
        if name != MANIFEST:
            assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
