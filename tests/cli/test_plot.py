"""`jaxalloc plot`: every kind of picture of every kind of sweep."""

import matplotlib.image
import pytest

from jaxalloc import sweep

SCHEDULE = {
    "policy": ["a_max", "h_sf"],
    "interval_width": [0.0, 0.5],
    "capacity": [300, 400],
    "seed": [1, 2],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sweeps of all kinds, by name."""
    path = tmp_path_factory.mktemp("sweeps")
    axes = {"arrival_rate": "0.01:90:6:log", "accuracy_weight": "1:300:4", "service_cv": [0, 1]}
    spans = {"arrival_rate": "0.01:2:log", "mix.GSM8K": "0:1"}
    plans = {
        "grid": sweep.plan("qwen3-8b", axes),
        "line": sweep.plan("qwen3-8b", {"accuracy_weight": "1:300:5"}),
        "points": sweep.plan("qwen3-8b", spans, design="random", points=40),
        "schedule": sweep.plan(
            schedule="geometric:mean=20", axes=SCHEDULE, fields={"requests": 10, "prompt": "8"}
        ),
    }
    for name, plan in plans.items():
        sweep.run(plan, path / name, chunk_size=5)  # one shape for all workloads
    return path


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("grid", "heat"),
        ("grid --x service_cv --y arrival_rate --values tokens.GSM8K,steps", "heat"),
        ("grid --at service_cv=1 --at arrival_rate=0.5 --x accuracy_weight --y service_cv", "heat"),
        ("grid --kind frontier", "frontier"),
        ("line", "frontier"),
        ("points", "heat"),
        ("schedule", "policies"),
        ("schedule --x capacity --y seed --values p95_latency", "policies"),
        ("schedule --kind heat --at policy=h_sf", "heat"),
    ],
)
def test_pictures_are_drawn(command, folder, tmp_path, line, kind):
    code, out, err = command(f"plot {folder}/{line} --json")
    assert (code, err) == (0, "")
    assert f'"kind": "{kind}"' in out
    (picture,) = tmp_path.iterdir()
    pixels = matplotlib.image.imread(picture)
    assert picture.name == f"{line.split()[0]}.png"
    assert pixels.std() > 0.02  # something was drawn


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("nothing", "does not exist: give a folder or file"),
        ("grid --kind pie", "--kind = 'pie' is unknown: give one of heat, frontier, policies"),
        ("grid --x gain", "--x = 'gain' is no axis: give one of arrival_rate, accuracy_weight"),
        ("grid --values status", "--values = 'status' is no column of numbers: give some of obj"),
        ("grid --values arrival_rate", "--values = 'arrival_rate' is an axis: give some of obj"),
        ("points --values arrival_rate", "--values = 'arrival_rate' is an axis: give some of"),
        ("schedule --values capacity", "--values = 'capacity' is an axis: give some of mean_lat"),
        ("grid --at gain=1", "--at = 'gain=1': give AXIS=VALUE of one of arrival_rate"),
        ("grid --kind policies", "--kind = policies needs an axis policy"),
        ("schedule --kind frontier", "--kind = frontier needs a grid with an axis accuracy_weight"),
        ("line --kind heat", "a map needs two axes of numbers and "),
        ("grid --x service_cv --y service_cv", "a map needs two axes of numbers, of arrival_rate"),
        ("schedule --kind heat --at policy=x", "--at policy = 'x' is not there: give one of a_max"),
        ("grid --out a.csv", "--out = 'a.csv' must end in .png or .pdf or .svg"),
    ],
)
def test_bad_input_is_one_line(command, folder, line, named):
    code, out, err = command(f"plot {folder}/{line}")
    assert (code, out) == (2, "")
    assert named in err
    assert len(err.splitlines()) == 1
