"""Every row of a design is a pure function of its number; points fall where they should."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy.stats import kstest, qmc

from jaxalloc import sweep
from jaxalloc.allocation.model.domain import FIELDS
from jaxalloc.sweep import allocations, designs

SPANS = {"arrival_rate": "0.01:2:log", "accuracy_weight": "3:5", "gain": [0.1, 0.2, 0.3]}


def draws(method, points, seed=0):
    return sweep.plan("qwen3-8b", SPANS, design=method, points=points, seed=seed).design


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_any_slice_agrees_with_the_whole(method):
    design = draws(method, 1000)
    whole = design.rows(0, 1000)
    for start, stop in ((0, 1), (1, 7), (511, 514), (998, 1000)):
        part = design.rows(start, stop)
        for name, column in whole.items():
            np.testing.assert_array_equal(part[name], column[start:stop])


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_points_fill_their_spans_evenly(method):
    rows = draws(method, 4096, seed=3).rows(0, 4096)
    logs = np.log(rows["arrival_rate"] / 0.01) / np.log(200)
    assert kstest(logs, "uniform").pvalue > 1e-3
    assert kstest((rows["accuracy_weight"] - 3) / 2, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(logs, rows["accuracy_weight"])[0, 1]) < 0.05
    values, counts = np.unique(rows["gain"], return_counts=True)
    np.testing.assert_array_equal(values, [0.1, 0.2, 0.3])
    assert abs(counts - 4096 / 3).max() < 150
    assert rows["arrival_rate"].min() >= 0.01
    assert rows["arrival_rate"].max() <= 2
    other = draws(method, 4096, seed=4).rows(0, 4096)
    assert not np.any(other["accuracy_weight"] == rows["accuracy_weight"])


@pytest.mark.parametrize("dimensions", [1, 3, 40])
def test_sobols_points_are_scipys(dimensions):
    size = 3000
    expected = qmc.Sobol(dimensions, scramble=False).random(4096)[:size]
    for place in range(dimensions):
        shifted = designs._sobol(dimensions, place, size, 7, 0, size)
        shift = int(designs._uniform(7, place, 0, 1)[0] * 2**30)
        found = (np.rint(shifted * 2**30).astype(int) ^ shift) / 2**30
        np.testing.assert_array_equal(found, expected[:, place])


def test_a_table_is_taken_row_by_row(tmp_path):
    columns = {"arrival_rate": [0.1, 0.5, 0.2], "decay.GSM8K": [1e-3, 2e-3, 3e-3]}
    pa.csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    plans = [sweep.plan("qwen3-8b", table=t) for t in (tmp_path / "t.csv", tmp_path / "t.parquet")]
    plans.append(sweep.plan("qwen3-8b", table=columns))
    assert len({plan.digest for plan in plans}) == 1
    result = sweep.run(plans[0], tmp_path / "out").to_pandas()
    assert result["arrival_rate"].tolist() == columns["arrival_rate"]
    alone = sweep.run(sweep.plan("qwen3-8b", {k: v[1] for k, v in columns.items()}), tmp_path / "o")
    assert alone.to_pandas()["tokens.GSM8K"][0] == pytest.approx(result["tokens.GSM8K"][1])


def test_the_share_of_a_task_leaves_the_rest_in_proportion(tmp_path):
    plan = sweep.plan("qwen3-8b", {"mix.GSM8K": [0.0, 0.6, 1.0]})
    found = sweep.run(plan, tmp_path / "out").to_pandas()
    from jaxalloc.workloads import files

    file = files.load("qwen3-8b")
    shares = {"AIME24": 0.1, "AIME25": 0.1, "GPQA-D": 0.1, "GSM8K": 0.6, "HMMT25": 0.1}
    import dataclasses

    import jax.numpy as jnp

    import jaxalloc

    mixed = dataclasses.replace(files.to_workload(file), mix=jnp.array(list(shares.values())))
    best = jaxalloc.solve(mixed)
    tokens = [found[f"tokens.{task}"][1] for task in shares]
    np.testing.assert_allclose(tokens, best.tokens, rtol=1e-6, atol=1e-6)


def test_a_mix_that_cannot_sum_to_one_is_named():
    with pytest.raises(ValueError, match=r"the sum of mix = 1\.2 must be 1"):
        sweep.plan("qwen3-8b", {"mix.GSM8K": [0.6], "mix.AIME24": [0.1, 0.6]})
    with pytest.raises(ValueError, match=r"mix = 1\.5 must not exceed 1"):
        sweep.plan("qwen3-8b", {"mix.GSM8K": [1.5]})


def test_whole_numbers_are_spread_in_the_logarithm():
    def plan(capacity, **drawn):
        fields = {"requests": 5, "prompt": "1"}
        study = sweep.plan(
            schedule="uniform:least=1,most=2", axes={"capacity": capacity}, fields=fields, **drawn
        )
        return study.design.rows(0, study.size)["capacity"]

    np.testing.assert_array_equal(plan("16:4096:9:log"), 2 ** np.arange(4, 13))
    found = plan("100:1000000:log", design="random", points=4096)
    assert kstest(np.log(found / 100) / np.log(10_000), "uniform").pvalue > 1e-3
    few = plan("9:7:log", design="sobol", points=64)
    assert set(few.tolist()) == {7, 8, 9}


def test_the_rows_of_a_table_are_judged_one_by_one():
    table = {"gain.GSM8K": [0.1, 0.9], "floor.GSM8K": [0.9, 0.05]}
    assert sweep.plan("qwen3-8b", table=table).size == 2
    with pytest.raises(ValueError, match=r"floor \+ gain = 1\.1 of task GSM8K must not exceed 1"):
        sweep.plan("qwen3-8b", table=table | {"floor.GSM8K": [0.9, 0.2]})


def test_a_column_of_numbers_is_text_where_text_is_wanted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt,policy\n8,a_min\n16,h_sf\n")
    fields = {"capacity": 400, "requests": 5}
    plan = sweep.plan(schedule="geometric:mean=20", fields=fields, table=path)
    assert plan.design.rows(0, 2)["prompt"].tolist() == ["8", "16"]


def test_a_share_of_all_leaves_nothing_to_tasks_without_a_share():
    lanes = allocations._fill(
        allocations.Workload(
            **{name: np.ones(()) for name in ("arrival_rate", "accuracy_weight")},
            **{name: np.ones(2) for name in FIELDS if FIELDS[name].per_type and name != "mix"},
            mix=np.array([1.0, 0.0]),
        ),
        1,
        (np.ones(1),),
        (("mix", 0),),
    )
    np.testing.assert_array_equal(lanes.mix, [[1.0, 0.0]])
