"""A sweep of schedules: every row is what `simulate` answers for its configuration."""

import jax
import numpy as np
import pytest
from sweeps import CHUNK, contents, run

import jaxalloc
from jaxalloc import sweep
from jaxalloc.traces.generators import Law, generate
from jaxalloc.traces.intervals import relative
from jaxalloc.traces.trace import to_requests
from tests.scheduling.reference import Rules, simulate

LAW = "geometric:mean=20"
AXES = {
    "policy": ["a_min", "h_sf"],
    "interval_width": [0.0, 0.5],
    "capacity": [300, 400],
    "seed": "0:2:3",
}


@pytest.fixture(scope="module")
def plan():
    return sweep.plan(schedule=LAW, axes=AXES, fields={"requests": 12, "prompt": "8"})


@pytest.fixture(scope="module")
def stored(plan, tmp_path_factory):
    return run(tmp_path_factory.mktemp("s") / "out", plan)


def test_rows_are_what_the_reference_answers(stored):
    table = stored.to_pandas()
    assert len(table) == 24
    assert set(table.status) == {"FINISHED"}
    for row in table.itertuples():
        drawn = generate(row.seed, 24, Law(name="geometric", mean=20, most=row.capacity), 8)
        trace, sizes = drawn.fitting(row.capacity).head(12), drawn.prompt + drawn.output
        long = sizes > row.capacity
        assert row.too_long_requests == long.sum()
        assert row.too_long_token_share == sizes[long].sum() / sizes.sum()
        made = relative(trace.output, row.interval_width)
        bounds = (made.lower, made.upper, made.predicted)
        given = [value.tolist() for value in (trace.prompt, trace.output, np.zeros(12), *bounds)]
        played = simulate(*given, row.capacity, Rules(row.policy))
        latency = [job.finish for job in played.jobs]
        assert row.mean_latency == np.mean(latency)
        assert row.makespan == max(latency)
        assert row.p95_latency == pytest.approx(np.percentile(latency, 95))
        assert row.total_evictions == sum(job.evictions for job in played.jobs)
        assert row.peak_occupancy == played.peak
        assert row.mean_width == np.mean(np.maximum(made.upper, 1) - np.maximum(made.lower, 1))


def test_a_grid_of_schedules_opens_as_arrays(stored):
    latency = stored.to_xarray().mean_latency
    assert latency.dims == ("policy", "interval_width", "capacity", "seed")
    exact = latency.sel(interval_width=0.0)
    np.testing.assert_array_equal(exact.sel(policy="a_min"), exact.sel(policy="h_sf"))


def test_it_goes_on_exactly(plan, stored, tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    for name, data in contents(stored.path).items():
        (path / name).write_bytes(data)
    (path / "part-0000001.parquet").unlink()
    run(path, plan, resume=True)
    assert contents(path) == contents(stored.path)


def test_impossible_and_random_configurations_have_their_rows(tmp_path):
    axes = {"policy": ["a_max", "alpha_beta"], "intervals": ["one:1:2", "bins:3"], "seed": [1, 2]}
    fields = {"requests": 12, "capacity": 200, "max_rounds": 9000}
    plan = sweep.plan(schedule=LAW, axes=axes, fields=fields)
    assert plan.size == CHUNK
    table = run(tmp_path / "out", plan).to_pandas()
    assert table.status.tolist() == ["INVALID"] * 2 + ["FINISHED"] * 6  # A_max must be covered
    requests = to_requests(
        generate(2, 24, Law(name="geometric", mean=20, most=200), 32).fitting(200).head(12)
    )
    policy = jaxalloc.policies.AlphaBetaClearing()
    key = jax.random.key(2)
    alone = jaxalloc.simulate(requests, 200, policy, key=key, max_rounds=9000)
    assert table.total_evictions[5] == table.total_evictions[7] == int(alone.total_evictions)


def test_arrivals_beyond_the_last_round_are_invalid_and_do_not_wrap_around(tmp_path):
    axes = {"policy": ["a_min", "h_sf"], "arrival_rate": [1e-11, 0.1], "seed": [0, 5]}
    fields = {"requests": 12, "prompt": "8", "capacity": 300}
    table = run(tmp_path / "out", sweep.plan(schedule=LAW, axes=axes, fields=fields)).to_pandas()
    assert table.status.tolist() == (["INVALID"] * 2 + ["FINISHED"] * 2) * 2


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
    assert (table.rounds[4], np.isnan(table.makespan[4])) == (-1, True)
    (tmp_path / "t.csv").write_text("arrival,prompt,output\n" + "\n".join(reversed(lines)) + "\n")
    assert sweep.plan(tmp_path / "plan.toml").digest != plan.digest
