"""A sweep of schedules: every row is what `simulate` answers for its configuration."""

import jax
import numpy as np
import pytest

import jaxalloc
from jaxalloc import sweep
from jaxalloc.traces.generators import Law, generate
from jaxalloc.traces.intervals import relative
from jaxalloc.traces.trace import to_requests

AXES = {
    "policy": ["a_min", "h_sf"],
    "interval_width": [0.0, 0.5],
    "capacity": [300, 400],
    "seed": "0:2:3",
}
FIELDS = {"requests": 25, "prompt": "8"}
POLICIES = {
    "a_min": jaxalloc.policies.AMin(),
    "h_sf": jaxalloc.policies.HindsightShortestFirst(),
}


@pytest.fixture(scope="module")
def plan():
    return sweep.plan(schedule="geometric:mean=20", axes=AXES, fields=FIELDS)


@pytest.fixture(scope="module")
def stored(plan, tmp_path_factory):
    return sweep.run(plan, tmp_path_factory.mktemp("s") / "out", chunk_size=7)


def test_rows_are_what_simulate_answers(stored):
    table = stored.to_pandas()
    assert len(table) == 24
    assert set(table.status) == {"FINISHED"}
    for row in table.iloc[::5].itertuples():
        law = Law(name="geometric", mean=20, most=row.capacity)
        drawn = generate(row.seed, 50, law, 8)
        trace, sizes = drawn.fitting(row.capacity).head(25), drawn.prompt + drawn.output
        long = sizes > row.capacity
        assert row.too_long_requests == long.sum()
        assert row.too_long_token_share == sizes[long].sum() / sizes.sum()
        made = relative(trace.output, row.interval_width)
        requests = to_requests(trace, lower=made.lower, upper=made.upper, predicted=made.predicted)
        alone = jaxalloc.simulate(requests, row.capacity, POLICIES[row.policy])
        assert row.mean_latency == float(alone.mean_latency)
        assert row.p95_latency == float(alone.latency_percentile(95))
        assert row.total_evictions == int(alone.total_evictions)
        assert row.peak_occupancy == int(alone.peak_occupancy)
        assert row.makespan == float(alone.makespan)
        assert row.mean_width == np.mean(made.upper - made.lower)


def test_a_grid_of_schedules_opens_as_arrays(stored):
    latency = stored.to_xarray().mean_latency
    assert latency.dims == ("policy", "interval_width", "capacity", "seed")
    exact = latency.sel(interval_width=0.0)
    np.testing.assert_array_equal(exact.sel(policy="a_min"), exact.sel(policy="h_sf"))


def test_it_goes_on_exactly(plan, stored, tmp_path):
    path = tmp_path / "out"
    sweep.run(plan, path, chunk_size=7)
    for name in ("part-0000001.parquet", "part-0000003.parquet"):
        (path / name).unlink()
    assert sweep.run(plan, path, resume=True).table() == stored.table()


def test_impossible_and_random_configurations_have_their_rows(tmp_path):
    axes = {"policy": ["a_max", "alpha_beta"], "intervals": ["one:1:2", "bins:3"], "seed": [1, 2]}
    fields = {"requests": 12, "capacity": 200, "max_rounds": 9000}
    plan = sweep.plan(schedule="geometric:mean=20", axes=axes, fields=fields)
    table = sweep.run(plan, tmp_path / "out").to_pandas()
    assert table.status.tolist() == ["INVALID"] * 2 + ["FINISHED"] * 6  # A_max must be covered
    law = Law(name="geometric", mean=20, most=200)
    requests = to_requests(generate(2, 24, law, 32).fitting(200).head(12))
    alone = jaxalloc.simulate(
        requests, 200, jaxalloc.policies.AlphaBetaClearing(), key=jax.random.key(2), max_rounds=9000
    )
    assert table.total_evictions[5] == table.total_evictions[7] == int(alone.total_evictions)


def test_a_sweep_of_nothing_but_impossible_schedules_is_refused():
    def plan(axes, **more):
        fields = {"requests": 12, "policy": "a_max"} | more
        return sweep.plan(schedule="geometric:mean=20", axes=axes, fields=fields)

    with pytest.raises(ValueError, match=r"every configuration is INVALID: of the first, upper\["):
        plan({"intervals": ["one:1:2", "one:1:3"], "seed": [1, 2]}, capacity=200)
    with pytest.raises(ValueError, match=r"of the first, .* holds fewer than half"):
        plan({"capacity": [36, 37]})
    assert plan({"intervals": ["one:1:2", "exact", "one:1:3"]}, capacity=200).size == 3


def test_a_trace_is_played_in_stretches_and_seconds(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{i / 4},{rng.integers(3, 9)},{rng.integers(2, 30)}" for i in range(40)]
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "\n".join(lines) + "\n")
    (tmp_path / "plan.toml").write_text(
        'schedule = "t.csv"\n[fields]\nrequests = 10\ncapacity = 60\npolicy = "vllm"\n'
        'batch_time = "llama2-70b"\narrivals = "trace"\n[axes]\nstretch = "0:4:5"\n'
    )
    plan = sweep.plan(tmp_path / "plan.toml")
    table = sweep.run(plan, tmp_path / "out").to_pandas()
    assert table.status.tolist() == ["FINISHED"] * 4 + ["INVALID"]  # beyond the 40 requests
    assert table.makespan[:4].between(1, 60).all()
    digest = plan.digest
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "\n".join(reversed(lines)) + "\n")
    assert sweep.plan(tmp_path / "plan.toml").digest != digest
