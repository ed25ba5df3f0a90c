"""What is on the disk, as Arrow, pandas and xarray; one trace for a whole sweep."""

import numpy as np
import pytest
from sweeps import CHUNK, ROWS, run, study

from jaxalloc import sweep
from jaxalloc.sweep import allocations


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return run(tmp_path_factory.mktemp("stored") / "out")


def test_tables_and_frames_agree(stored):
    frame, table = stored.to_pandas(), stored.table(["mean_wait", "arrival_rate"])
    assert table.column_names == ["mean_wait", "arrival_rate"]
    assert frame["mean_wait"].tolist() == table["mean_wait"].to_pylist()
    assert (stored.complete, stored.num_rows, stored.shape) == (True, ROWS, (11, 3))
    assert stored.axes == ("arrival_rate", "accuracy_weight")
    assert stored.status() == {"CONVERGED": ROWS}


def test_a_grid_is_an_array_over_its_axes(stored):
    arrays, frame = stored.to_xarray(), stored.to_pandas()
    assert dict(arrays.sizes) == {"arrival_rate": 11, "accuracy_weight": 3, "task": 5}
    row = frame.iloc[3 * 4 + 2]
    place = {"arrival_rate": row.arrival_rate, "accuracy_weight": row.accuracy_weight}
    point = arrays.sel(place)
    assert point.utilization.item() == row.utilization
    assert point.tokens.sel(task="GSM8K").item() == row["tokens.GSM8K"]
    assert point.status.item() == "CONVERGED"
    for names in (["mean_wait"], ["mean_wait", "arrival_rate", "mean_wait"]):
        some = stored.to_xarray(names)
        assert list(some.data_vars) == ["mean_wait"]


def test_one_file_opens_like_a_folder(stored, tmp_path):
    one = sweep.run(study(), tmp_path / "one.parquet", chunk_size=CHUNK)
    assert one.table() == stored.table()
    assert one.to_xarray().equals(stored.to_xarray())
    assert one.plan == stored.plan


def test_a_damaged_file_is_read_right_or_not_at_all(stored, tmp_path):
    whole, path = stored.table(), tmp_path / "one.parquet"
    sweep.run(study(), path, chunk_size=CHUNK)
    data = path.read_bytes()
    rng = np.random.default_rng(6)
    for place in rng.choice(len(data), 100, replace=False):
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        try:
            found = sweep.open(path)
            assert found.status()
            assert found.table().schema == whole.schema
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
    path.write_bytes(data)
    assert sweep.open(path).table() == whole
    with pytest.raises(ValueError, match="is no folder: give one"):
        sweep.open(path).verify()


def test_what_is_not_there_is_named(stored, tmp_path):
    with pytest.raises(ValueError, match="column 'waits' is not in"):
        stored.table(["waits"])
    with pytest.raises(ValueError, match="does not exist: give a folder or file"):
        sweep.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no manifest, or a damaged one: give"):
        sweep.open(tmp_path)
    drawn = sweep.plan("qwen3-8b", {"arrival_rate": "0.1:1"}, design="random", points=33)
    path = tmp_path / "drawn"
    with pytest.raises(ValueError, match=r"is no grid but random: use to_pandas\(\)"):
        run(path, drawn).to_xarray()
    run(tmp_path / "part")
    (tmp_path / "part" / "part-0000002.parquet").unlink()
    part = sweep.open(tmp_path / "part")
    assert (part.complete, len(part.table())) == (False, ROWS - CHUNK)
    with pytest.raises(ValueError, match="has 25 of 33 rows: resume the sweep"):
        part.to_xarray()


def test_one_trace_for_a_whole_sweep(tmp_path, monkeypatch):
    traces = []
    dispatch = allocations.dispatch

    def counted(*arguments, **options):
        traces.append(1)
        return dispatch(*arguments, **options)

    monkeypatch.setattr(allocations, "dispatch", counted)
    allocations._solver.cache_clear()
    run(tmp_path / "out", study(base_time=[0.1, 0.2]))
    assert len(traces) == 1
    run(tmp_path / "other", study(base_time=[0.3], decay=[1e-3, 2e-3]))
    assert len(traces) == 1  # for another sweep neither


def test_what_is_compiled_does_not_grow_with_the_tasks():
    import jax

    import jaxalloc

    def size(tasks):
        numbers = {"gain": 0.5, "decay": 1e-3, "floor": 0.1, "base_time": 0.1}
        numbers |= {"time_per_token": 1e-3, "max_tokens": 100, "accuracy_weight": 9}
        mix = np.full(tasks, 1 / tasks)
        one = jaxalloc.Workload.create(arrival_rate=0.1, mix=mix, **numbers)
        lanes = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (2, *leaf.shape)), one)
        made = jax.make_jaxpr(allocations._solver(jaxalloc.Newton(), None))((), lanes)
        return len(str(made).splitlines())

    assert size(12) < 1.05 * size(7)


def test_float32_where_jax_is_so(tmp_path):
    import jax

    with jax.enable_x64(False):
        jax.config.update("jax_enable_x64", False)
        try:
            stored = run(tmp_path / "out")
        finally:
            jax.config.update("jax_enable_x64", True)
    assert stored.manifest["dtype"] == "float32"
    assert stored.table()["tokens.GSM8K"].type == "float"
    assert np.isfinite(stored.to_pandas()["objective"]).all()
    with pytest.raises(ValueError, match="was begun with dtype = float32 and this is float64"):
        run(tmp_path / "out", resume=True)
