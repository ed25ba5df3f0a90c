"""A folder of parts: continued exactly, whatever became of it; nothing valid is lost."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sweeps
from sweeps import CHUNK, ROWS, names, run, small_disk, study

from jaxalloc import sweep
from jaxalloc.sweep import directory, running
from jaxalloc.sweep.directory import part_name
from jaxalloc.sweep.manifest import MANIFEST
from jaxalloc.sweep.seals import seal, seal_name, unseal

PARTS = [part_name(index) for index in range(5)]
SEALS = [seal_name(part) for part in PARTS]
ALL = [MANIFEST, *SEALS, *PARTS]


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
    assert names(folder) == ALL
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
    assert names(folder) == ALL
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


def test_no_damaged_byte_is_accepted(folder, whole):
    """A slice of benchmarks/sweep_damages.py."""
    rng = np.random.default_rng(2)
    footer = json.loads((folder / SEALS[3]).read_text())["footer_length"]
    for name in (PARTS[3], SEALS[3], MANIFEST):
        data = (folder / name).read_bytes()
        for place in rng.choice(len(data), 40, replace=False):
            broken = bytearray(data)
            broken[place] ^= rng.integers(1, 256)
            (folder / name).write_bytes(broken)
            if name == MANIFEST:
                with pytest.raises(ValueError, match="is missing or damaged: --resume makes it"):
                    directory.verify(folder)
            else:
                assert directory.verify(folder)[1].keys() == {PARTS[3]}
                quick = directory._inspect(folder, "", study_manifest(folder), ALL, whole=False)
                seen = name == SEALS[3] or place >= len(data) - footer
                assert quick.damaged.keys() == ({PARTS[3]} if seen else set())
        outcome = running.run_plan(study(), folder, resume=True, verify=True)
        assert outcome.damaged.keys() == (set() if name == MANIFEST else {PARTS[3]})
        assert directory.verify(folder) == (5, {})
        assert sweep.open(folder).verify() == {}
        assert sweep.open(folder).table() == whole


def study_manifest(folder):
    return unseal((folder / MANIFEST).read_bytes())


def test_a_resume_reads_footers_and_a_verification_the_rest(folder, monkeypatch):
    read = []
    whole = type(folder).read_bytes
    monkeypatch.setattr(type(folder), "read_bytes", lambda path: read.append(path) or whole(path))
    run(folder, resume=True)
    assert not any(path.suffix == ".parquet" for path in read)
    run(folder, resume=True, verify=True)
    assert {path.name for path in read if path.suffix == ".parquet"} == set(PARTS)


@pytest.mark.parametrize("gone", [*SEALS[:1], PARTS[1]])
def test_what_is_gone_from_a_finished_folder_is_named(folder, whole, gone):
    (folder / gone).unlink()
    part = PARTS[0] if gone in SEALS else gone
    reason = "it has no digest" if gone in SEALS else "it is missing"
    assert sweep.open(folder).verify() == {part: reason}
    assert run(folder, resume=True).table() == whole
    assert sweep.open(folder).verify() == {}


def test_parts_that_changed_their_names_are_named(folder):
    for name in (PARTS[0], SEALS[0]):
        (folder / name).rename(folder / name.replace("0000000", "0000001"))
    with pytest.raises(ValueError, match=f"holds {PARTS[1]}, a part of another sweep"):
        sweep.open(folder).verify()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": 2, "sha256": 1}',
        "9" * 5000,
        seal({"format": 1, "plan": {}}),
        seal({"format": 2}).replace("2", "3", 1),
        b"\xff\xfe".decode("latin-1"),
    ],
)
def test_a_manifest_that_says_something_else_is_none_and_made_again(folder, whole, text):
    before = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="has no manifest, or a damaged one") as caught:
        sweep.open(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert run(folder, resume=True).table() == whole
    assert json.loads((folder / MANIFEST).read_text())["plan"] == json.loads(before)["plan"]


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
    pq.write_table(pa.table({"x": [1]}), folder / PARTS[1])
    (folder / SEALS[1]).unlink()
    assert f"holds {PARTS[1]}, which is no part: move it away" in unchanged(folder, resume=True)
    (folder / PARTS[1]).rename(folder / "mine.parquet")
    assert "holds mine.parquet, which is no part" in unchanged(folder, resume=True)
    (folder / "mine.parquet").unlink()
    (folder / "part-0000009.parquet").write_text("damaged")
    assert "holds part-0000009.parquet, which is no part of it" in unchanged(folder, resume=True)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "holds 'notes.txt' and no manifest" in unchanged(tmp_path, resume=True)


@pytest.mark.parametrize("key", ["jax", "dtype", "device", "jaxalloc"])
def test_a_folder_that_would_not_be_continued_exactly_is_named(folder, key):
    (folder / MANIFEST).write_text(seal(study_manifest(folder) | {key: "another"}))
    assert f"was begun with {key} = another" in unchanged(folder, resume=True)


def test_two_sweeps_do_not_share_a_folder(folder):
    with directory.locked(folder):
        assert "another sweep is writing there" in unchanged(folder, resume=True)


def test_a_full_disk_is_named_and_the_sweep_goes_on_later(tmp_path, whole):
    folder = tmp_path / "sweep"
    run(folder)
    (folder / PARTS[1]).unlink()
    with small_disk(2000), pytest.raises(OSError, match="File too large"):
        run(folder, resume=True)
    assert names(folder) == [name for name in ALL if name != PARTS[1]]
    assert run(folder, resume=True).table() == whole


def test_killed_anywhere_it_goes_on_to_the_same_rows(tmp_path):
    """A slice of benchmarks/sweep_kill_and_resume.py."""
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
