"""A folder of parts: continued exactly, whatever became of it; nothing valid is lost."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sweeps
from sweeps import CHUNK, ROWS, contents, names, run, small_disk, study

from jaxalloc import sweep
from jaxalloc.sweep import folder as folders, running
from jaxalloc.sweep.folder import MANIFEST
from jaxalloc.sweep.parts import part_name, seal, seal_name, unseal

PARTS = [part_name(index) for index in range(5)]
SEALS = [seal_name(part) for part in PARTS]
ALL = [MANIFEST, *SEALS, *PARTS]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A sweep that nothing ever interrupted."""
    return run(tmp_path_factory.mktemp("whole") / "w")


@pytest.fixture(scope="module")
def whole(original):
    """Its rows."""
    return original.table()


@pytest.fixture
def folder(original, tmp_path):
    """A copy of it."""
    path = tmp_path / "sweep"
    path.mkdir()
    for name, data in contents(original.path).items():
        (path / name).write_bytes(data)
    return path


def test_a_folder_holds_parts_in_order_and_a_manifest(folder, whole):
    assert names(folder) == ALL
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["configurations"], manifest["chunk_size"], manifest["chunks"]) == (33, 8, 5)
    assert (manifest["dtype"], manifest["device"]) == ("float64", "cpu")
    assert manifest["plan_hash"] == study().digest
    assert set(manifest["versions"]) >= {"jax", "jaxlib", "jaxalloc", "numpy", "pyarrow"}
    assert [len(pq.read_table(folder / name)) for name in PARTS] == [8, 8, 8, 8, 1]
    assert pq.read_table(folder).select(whole.column_names) == whole  # by any other reader
    assert whole.schema.field("steps").type == pa.int32()
    columns = pq.ParquetFile(folder / PARTS[0]).metadata.row_group(0)
    assert {columns.column(i).compression for i in range(columns.num_columns)} == {"ZSTD"}


def test_tables_frames_and_arrays_agree(original):
    frame, table = original.to_pandas(), original.table(["mean_wait", "arrival_rate"])
    assert table.column_names == ["mean_wait", "arrival_rate"]
    assert frame["mean_wait"].tolist() == table["mean_wait"].to_pylist()
    assert (original.complete, original.num_rows, original.shape) == (True, ROWS, (11, 3))
    assert original.axes == ("arrival_rate", "accuracy_weight")
    assert original.status() == {"CONVERGED": ROWS}
    arrays, row = original.to_xarray(), frame.iloc[3 * 4 + 2]
    assert dict(arrays.sizes) == {"arrival_rate": 11, "accuracy_weight": 3, "task": 5}
    point = arrays.sel({name: row[name] for name in original.axes})
    assert point.utilization.item() == row.utilization
    assert point.tokens.sel(task="GSM8K").item() == row["tokens.GSM8K"]
    assert point.status.item() == "CONVERGED"
    for wanted in (["mean_wait"], ["mean_wait", "arrival_rate", "mean_wait"]):
        assert list(original.to_xarray(wanted).data_vars) == ["mean_wait"]


def test_one_file_is_made_of_the_parts_and_opens_like_a_folder(original, tmp_path):
    path = tmp_path / "one.parquet"
    path.write_text("old")
    (tmp_path / "one.parquet.parts").mkdir()
    one = run(path)
    assert names(tmp_path) == ["one.parquet"]
    assert one.table() == original.table()
    assert one.to_xarray().equals(original.to_xarray())
    assert (one.plan, one.status()) == (original.plan, original.status())
    written = path.stat().st_mtime_ns
    assert run(path, resume=True).status() == original.status()
    assert path.stat().st_mtime_ns == written  # it was left as it is
    with pytest.raises(ValueError, match="is one file, which has no digests: drop it"):
        run(path, resume=True, verify=True)


def test_a_damaged_file_is_read_right_or_not_at_all(original, tmp_path):
    path = tmp_path / "one.parquet"
    run(path)
    data, rng = path.read_bytes(), np.random.default_rng(6)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    columns = range(footer, data.index(b"ARROW:schema"))  # types, pages and rows, as Parquet tells
    for place in {*rng.choice(len(data), 100, replace=False), *columns}:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            found = sweep.open(path)
            assert found.status() == original.status()
            assert found.table() == original.table()
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
    path.write_bytes(data)
    assert sweep.open(path).table() == original.table()
    with pytest.raises(ValueError, match="is no folder: give one"):
        sweep.open(path).verify()


def test_what_is_not_there_is_named(folder, original, tmp_path):
    with pytest.raises(ValueError, match="column 'waits' is not in"):
        original.table(["waits"])
    with pytest.raises(ValueError, match="does not exist: give a folder or file"):
        sweep.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no manifest, or a damaged one: give"):
        sweep.open(tmp_path)
    drawn = sweep.plan("qwen3-8b", {"arrival_rate": "0.1:1"}, design="random", points=33)
    with pytest.raises(ValueError, match=r"is no grid but random: use to_pandas\(\)"):
        run(tmp_path / "drawn", drawn).to_xarray()
    (folder / PARTS[2]).unlink()
    part = sweep.open(folder)
    assert (part.complete, len(part.table())) == (False, ROWS - CHUNK)
    with pytest.raises(ValueError, match="has 25 of 33 rows: resume the sweep"):
        part.to_xarray()


@pytest.mark.parametrize(
    "gone",
    [
        PARTS[:1],
        PARTS[2:4],
        PARTS,
        SEALS[:1],
        [MANIFEST],
        [MANIFEST, *PARTS[1:]],
        [MANIFEST, *PARTS],
    ],
)
def test_what_is_missing_is_named_and_solved_and_nothing_else(folder, original, gone):
    for name in gone:
        (folder / name).unlink()
    again = {PARTS[0]: "it has no digest"} if gone == SEALS[:1] else {}
    again |= {name: "it is missing" for name in gone if name in PARTS}
    if MANIFEST not in gone:
        assert sweep.open(folder).verify() == again
    kept = {name: (folder / name).stat().st_mtime_ns for name in set(PARTS) - set(again)}
    (folder / f".{PARTS[1]}.123.tmp").write_text("half a part")
    reports = []
    # Without the size of a chunk, which lives in the folder, if anything does.
    size = CHUNK if gone == [MANIFEST, *PARTS] else None
    assert run(folder, resume=True, report=reports.append, chunk_size=size).complete
    assert contents(folder) == contents(original.path)
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert len(reports) == len(again)
    assert not reports or reports[-1].done == ROWS


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_truncated_part_is_named_and_solved_again(folder, whole, keep):
    data = (folder / PARTS[2]).read_bytes()
    (folder / PARTS[2]).write_bytes(data[:keep])
    outcome = running.run_plan(study(), folder, resume=True)
    assert (set(outcome.damaged), outcome.here) == ({PARTS[2]}, CHUNK)
    assert sweep.open(folder).table() == whole


def test_no_damaged_byte_is_accepted(folder, original):
    """A slice of benchmarks/sweep_damages.py."""
    rng, manifest = np.random.default_rng(2), unseal((folder / MANIFEST).read_bytes())
    footer = json.loads((folder / SEALS[3]).read_text())["footer_length"]
    for name in (PARTS[3], SEALS[3], MANIFEST):
        data = (folder / name).read_bytes()
        for place in rng.choice(len(data), 40, replace=False):
            broken = bytearray(data)
            broken[place] ^= rng.integers(1, 256)
            (folder / name).write_bytes(broken)
            if name == MANIFEST:
                with pytest.raises(ValueError, match="is missing or damaged: --resume makes it"):
                    folders.verify(folder)
            else:
                assert folders.verify(folder)[1].keys() == {PARTS[3]}
                quick = folders.inspect(folder, manifest, whole=False)
                seen = name == SEALS[3] or place >= len(data) - footer
                assert quick.damaged.keys() == ({PARTS[3]} if seen else set())
                with pytest.raises(ValueError, match="cannot be read"):
                    sweep.open(folder).table()
        outcome = running.run_plan(study(), folder, resume=True, verify=True)
        assert outcome.damaged.keys() == (set() if name == MANIFEST else {PARTS[3]})
        assert folders.verify(folder) == (5, {})
        assert contents(folder) == contents(original.path)


def test_a_resume_reads_footers_and_a_verification_the_rest(folder, monkeypatch):
    read = []
    read_bytes = type(folder).read_bytes
    monkeypatch.setattr(
        type(folder), "read_bytes", lambda path: read.append(path.name) or read_bytes(path)
    )
    run(folder, resume=True)
    assert not any(name.endswith(".parquet") for name in read)
    run(folder, resume=True, verify=True)
    assert {name for name in read if name.endswith(".parquet")} == set(PARTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"format": 3, "sha256": 1}',
        "9" * 5000,
        seal({"format": 1, "plan": {}}),
        seal({"format": 3}).replace("3", "4", 1),
        b"\xff\xfe".decode("latin-1"),
    ],
)
def test_a_manifest_that_says_something_else_is_none_and_made_again(folder, original, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="has no manifest, or a damaged one") as caught:
        sweep.open(folder)
    assert len(str(caught.value).splitlines()) == 1
    run(folder, resume=True)
    assert contents(folder) == contents(original.path)


def unchanged(folder, **options):
    """The error of a run that must leave the folder as it was."""
    before = contents(folder)
    with pytest.raises(ValueError, match=r"--out = |chunk_size = ") as caught:
        sweep.run(options.pop("plan", study()), folder, **options)
    assert contents(folder) == before
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_another_plan_is_named(folder):
    assert "is not empty: add --resume" in unchanged(folder)
    other, turned = study(accuracy_weight="1:300:4:log"), dict(reversed(sweeps.AXES.items()))
    message = unchanged(folder, plan=other, resume=True)
    assert "of another plan (axes.accuracy_weight.count was 3, is 4)" in message
    message = unchanged(folder, plan=sweep.plan("qwen3-8b", turned), resume=True)
    assert "of another plan (the order of its axes)" in message
    assert "has chunks of 8 rows: drop it" in unchanged(folder, resume=True, chunk_size=9)
    (folder / MANIFEST).unlink()
    message = unchanged(folder, plan=other, resume=True)
    assert f"holds {PARTS[0]}, which is no part of this sweep: move it away" in message


def test_a_foreign_part_is_named(folder):
    for name in (PARTS[0], SEALS[0]):  # one that has taken the place of another
        (folder / name).rename(folder / name.replace("0000000", "0000001"))
    with pytest.raises(ValueError, match=f"holds {PARTS[1]}, which is no part of this sweep"):
        sweep.open(folder).verify()
    pq.write_table(pa.table({"x": [1]}), folder / PARTS[1])
    (folder / SEALS[1]).unlink()
    assert f"holds {PARTS[1]}, which is no part of" in unchanged(folder, resume=True)
    (folder / PARTS[1]).rename(folder / "mine.parquet")
    assert "holds mine.parquet, which is no part of" in unchanged(folder, resume=True)
    (folder / "mine.parquet").unlink()
    (folder / "part-0000009.parquet").write_text("damaged")
    assert "holds part-0000009.parquet, which is no part of" in unchanged(folder, resume=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("mine")
    for more in ({"resume": True}, {"process_id": 0, "num_processes": 2}):
        assert "holds 'notes.txt' and no manifest" in unchanged(folder, **more)


@pytest.mark.parametrize("key", ["jax", "dtype", "device", "jaxalloc"])
def test_a_folder_that_would_not_be_continued_exactly_is_named(folder, key):
    manifest = unseal((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).write_text(seal(manifest | {key: "another"}))
    assert f"was begun with {key} = another" in unchanged(folder, resume=True)


def test_a_full_disk_is_named_and_the_sweep_goes_on_later(folder, original):
    (folder / PARTS[1]).unlink()
    with small_disk(2000), pytest.raises(OSError, match="File too large"):
        run(folder, resume=True)
    assert names(folder) == [name for name in ALL if name != PARTS[1]]
    run(folder, resume=True)
    assert contents(folder) == contents(original.path)


def test_one_file_that_does_not_fit_leaves_its_parts(tmp_path):
    path = tmp_path / "one.parquet"
    run(path)
    size = path.stat().st_size
    path.unlink()
    with small_disk(size - 1), pytest.raises(OSError, match="File too large"):
        run(path)
    assert names(tmp_path) == ["one.parquet.parts"]
    assert run(path, resume=True).complete
    assert names(tmp_path) == ["one.parquet"]


def test_float32_where_jax_is_so(tmp_path):
    with jax.enable_x64(False):
        stored = run(tmp_path / "out")
    assert stored.manifest["dtype"] == "float32"
    assert stored.table()["tokens.GSM8K"].type == "float"
    assert np.isfinite(stored.to_pandas()["objective"]).all()
    assert "was begun with dtype = float32 and this is float64" in unchanged(
        tmp_path / "out", resume=True
    )
