"""Every row of a design is a pure function of its number; points fall where they should."""

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy.stats import kstest, qmc

from jaxalloc import sweep
from jaxalloc.sweep.axes import Quantity, read_axis
from jaxalloc.workloads import files

SPANS = {"arrival_rate": "0.01:2:log", "accuracy_weight": "3:5", "gain": [0.1, 0.2, 0.3]}
METHODS = pytest.mark.parametrize("method", ["sobol", "random"])


def draws(method, points, seed=0):
    return sweep.plan("qwen3-8b", SPANS, design=method, points=points, seed=seed).design


def values(given, kind="number"):
    return read_axis("x", given, Quantity(kind, lambda value: None)).values


@METHODS
def test_any_slice_agrees_with_the_whole(method):
    design = draws(method, 1000)
    whole = design.rows(0, 1000)
    for start, stop in ((998, 1000), (0, 1), (1, 7), (511, 514), (0, 3)):
        part = design.rows(start, stop)
        for name, column in whole.items():
            np.testing.assert_array_equal(part[name], column[start:stop])


@METHODS
def test_points_fill_their_spans_evenly(method):
    rows = draws(method, 4096, seed=3).rows(0, 4096)
    logs = np.log(rows["arrival_rate"] / 0.01) / np.log(200)
    assert kstest(logs, "uniform").pvalue > 1e-3
    assert kstest((rows["accuracy_weight"] - 3) / 2, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(logs, rows["accuracy_weight"])[0, 1]) < 0.05
    found, counts = np.unique(rows["gain"], return_counts=True)
    np.testing.assert_array_equal(found, [0.1, 0.2, 0.3])
    assert abs(counts - 4096 / 3).max() < 150
    assert rows["arrival_rate"].min() >= 0.01
    assert rows["arrival_rate"].max() <= 2
    other = draws(method, 4096, seed=4).rows(0, 4096)
    assert not np.any(other["accuracy_weight"] == rows["accuracy_weight"])


def test_sobols_points_are_more_even_than_chance():
    cubes = []
    for method in ("sobol", "random"):
        rows = draws(method, 1024).rows(0, 1024)
        pair = [
            np.log(rows["arrival_rate"] / 0.01) / np.log(200),
            rows["accuracy_weight"] / 2 - 1.5,
        ]
        cubes.append(qmc.discrepancy(np.stack(pair, axis=1)))
    assert cubes[0] < cubes[1] / 20


def test_axes_include_both_ends():
    np.testing.assert_allclose(values("0.1:0.7:7"), np.arange(1, 8) / 10, rtol=1e-15)
    log = values("1e-3:10:5:log")
    np.testing.assert_allclose(log, [1e-3, 1e-2, 1e-1, 1, 10], rtol=1e-15)
    assert (log[0], log[-1]) == (1e-3, 10)
    np.testing.assert_array_equal(values("100:50:2"), [100, 50])
    np.testing.assert_array_equal(values("0.25"), [0.25])
    np.testing.assert_array_equal(values("16:4096:9:log", "whole"), 2 ** np.arange(4, 13))


def test_whole_numbers_are_drawn_evenly_in_the_logarithm():
    def drawn(capacity, method):
        fields = {"requests": 5, "prompt": "1"}
        more = {"fields": fields, "design": method, "points": 4096}
        plan = sweep.plan(schedule="uniform:least=1,most=2", axes={"capacity": capacity}, **more)
        return plan.design.rows(0, 4096)["capacity"]

    found = drawn("100:1000000:log", "random")
    assert kstest(np.log(found / 100) / np.log(10_000), "uniform").pvalue > 1e-3
    assert set(drawn("9:7:log", "sobol").tolist()) == {7, 8, 9}


def test_rows_run_in_the_order_of_the_axes_and_become_workloads():
    axes = {"accuracy_weight": "1:3:3", "decay.GSM8K": "0.1:0.2:2", "max_tokens": "8:9:2"}
    plan = sweep.plan("qwen3-8b", axes)
    rows = list(itertools.product([1.0, 2.0, 3.0], [0.1, 0.2], [8.0, 9.0]))
    columns = plan.design.rows(0, 12)
    assert (plan.size, list(columns)) == (12, list(axes))
    np.testing.assert_allclose(np.stack(list(columns.values()), axis=1), rows, rtol=1e-15)
    part = plan.design.rows(5, 8)  # any slice agrees with the whole
    np.testing.assert_allclose(np.stack(list(part.values()), axis=1), rows[5:8], rtol=1e-15)

    batch, base = plan.job.workloads(part), files.load("qwen3-8b").workload
    weight, decay, tokens = (np.array(column) for column in zip(*rows[5:8], strict=True))
    np.testing.assert_allclose(batch.accuracy_weight, weight, rtol=1e-15)
    np.testing.assert_allclose(batch.decay[:, 3], decay, rtol=1e-15)
    np.testing.assert_array_equal(batch.decay[:, 0], np.full(3, 9.25e-5))
    np.testing.assert_array_equal(batch.max_tokens, np.tile(tokens[:, None], (1, 5)))
    np.testing.assert_array_equal(batch.gain, np.tile(base.gain, (3, 1)))

    alone = sweep.plan("qwen3-8b")
    assert (alone.size, alone.design.rows(0, 1)) == (1, {})
    np.testing.assert_array_equal(alone.job.workloads({}).decay, base.decay[None])


def test_the_share_of_a_task_leaves_the_rest_in_proportion():
    job = sweep.plan("qwen3-8b", {"mix.GSM8K": [0.0, 0.6, 1.0]}).job
    mix = job.workloads({"mix.GSM8K": np.array([0.0, 0.6, 1.0])}).mix
    np.testing.assert_allclose(mix[:, 3], [0, 0.6, 1])
    np.testing.assert_allclose(mix[:, [0, 1, 2, 4]], np.tile([[0.25], [0.1], [0]], 4))
    # A share of all leaves nothing to tasks that had none.
    mix = job.workloads({f"mix.{task}": np.array([0.5]) for task in job.tasks[:2]}).mix
    np.testing.assert_array_equal(mix, [[0.5, 0.5, 0, 0, 0]])


def test_a_table_is_taken_row_by_row(tmp_path):
    columns = {"arrival_rate": [0.1, 0.5, 0.2], "decay.GSM8K": [1e-3, 2e-3, 3e-3]}
    pa.csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    tables = (tmp_path / "t.csv", tmp_path / "t.parquet", columns)
    plans = [sweep.plan("qwen3-8b", table=table) for table in tables]
    assert len({plan.digest for plan in plans}) == 1
    np.testing.assert_equal(plans[0].design.rows(1, 3), {k: v[1:] for k, v in columns.items()})
    (tmp_path / "t.csv").write_text("prompt,policy\n8,a_min\n16,h_sf\n")  # text where it is wanted
    fields = {"capacity": 400, "requests": 5}
    plan = sweep.plan(schedule="geometric:mean=20", fields=fields, table=tmp_path / "t.csv")
    assert plan.design.rows(0, 2)["prompt"].tolist() == ["8", "16"]


@pytest.mark.parametrize(("size", "rows"), [(33, 4096), (10**5, 8192), (10**6, 65536)])
def test_the_size_of_a_chunk_depends_on_the_plan_alone(monkeypatch, size, rows):
    plan = sweep.plan("qwen3-8b", {"arrival_rate": f"0.1:1:{size}"})
    assert plan.chunk_size == rows
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    assert plan.chunk_size == rows
