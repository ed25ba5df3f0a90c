"""`jaxalloc fit`: from a table of runs to a workload whose regret is as reported."""

import csv
import json
import math

import measured
import numpy as np
import pytest
from matplotlib.image import imread

import jaxalloc
from jaxalloc.workloads import files

NAMES = ("easy", "middling", "hard")
# A workload of three identifiable tasks: the truth behind the tables.
TRUTH = {
    "arrival_rate": 0.2,
    "mix": [0.5, 0.3, 0.2],
    "gain": measured.CURVES[[3, 5, 1], 0],
    "decay": measured.CURVES[[3, 5, 1], 1],
    "floor": measured.CURVES[[3, 5, 1], 2],
    "base_time": [0.1, 0.2, 0.4],
    "time_per_token": [2e-4, 5e-4, 8e-4],
    "max_tokens": 16384.0,
    "accuracy_weight": 30.0,
    "service_cv": 0.15,
}


def write(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def runs(seed, questions=80):
    """Columns of a table of runs: questions answered three times at each of eight budgets."""
    rng = np.random.default_rng(seed)
    columns = {name: [] for name in ("task", "question", "tokens", "correct", "seconds")}
    for k, name in enumerate(NAMES):
        curve = [TRUTH[field][k] for field in ("gain", "decay", "floor")]
        accuracy = measured.share([curve])[0]
        tokens = np.tile(np.repeat(measured.LEVELS, 3), questions)
        chance = np.tile(np.repeat(accuracy, 3), questions)
        mean = TRUTH["base_time"][k] + TRUTH["time_per_token"][k] * tokens
        shape = 1 / TRUTH["service_cv"] ** 2
        columns["task"] += [name] * len(tokens)
        columns["question"] += [f"{name}{i // 24}" for i in range(len(tokens))]
        columns["tokens"] += tokens.astype(int).tolist()
        columns["correct"] += (rng.random(len(tokens)) < chance).astype(int).tolist()
        columns["seconds"] += (mean * rng.gamma(shape, 1 / shape, len(tokens))).tolist()
    return columns


@pytest.fixture
def tables(tmp_path):
    rng = np.random.default_rng(1)
    write(tmp_path / "runs.csv", runs(0))
    times = np.cumsum(rng.exponential(1 / TRUTH["arrival_rate"], 1500))
    task = rng.choice(NAMES, 1500, p=TRUTH["mix"])
    write(tmp_path / "log.csv", {"time": times.tolist(), "task": task.tolist()})
    return tmp_path


def test_a_log_becomes_a_workload_whose_regret_is_as_reported(command, tables):
    code, out, err = command(
        "fit runs.csv --arrivals log.csv --max-tokens 16384 --out mine.toml --plot fits.png --json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert [task["accuracy"]["status"] for task in document["tasks"]] == ["CONVERGED"] * 3
    file = files.load(tables / "mine.toml")
    assert file.task_names == tuple(sorted(NAMES))
    solved = json.loads(command("solve mine.toml --json").out)
    said = document["decision"]
    for task, again in zip(said["tasks"], solved["tasks"], strict=True):
        assert task["tokens"]["value"] == pytest.approx(again["tokens"], rel=1e-6)
        assert task["tokens"]["low"] < again["tokens"] < task["tokens"]["high"]
    assert command("sweep mine.toml --arrival-rate 0.1:0.3:3 --out a.parquet").code == 0
    # The true workload, in the order of the file.
    order = [NAMES.index(name) for name in file.task_names]
    truth = jaxalloc.Workload.create(
        **{key: np.asarray(v)[order] if np.ndim(v) else v for key, v in TRUTH.items()}
    )
    chosen = np.array([task["tokens"] for task in solved["tasks"]])
    regret = float(jaxalloc.solve(truth).objective - jaxalloc.objective(truth, chosen))
    assert 0 <= regret <= said["regret"]["high"]
    assert 0 < said["regret"]["mean"] < said["regret"]["high"]
    assert said["measure_next"] in NAMES
    assert abs(document["arrivals"]["cv"] - 1) < 0.1
    low, high = document["arrivals"]["arrival_rate_interval"]
    assert low < TRUTH["arrival_rate"] < high
    for k, task in zip(order, document["tasks"], strict=True):
        for part, names in (("accuracy", ("gain", "decay", "floor")), ("service", ("base_time",))):
            for name in names:
                known = task[part][name]
                assert abs(known["value"] - TRUTH[name][k]) < 4 * known["standard_error"]
                assert known["interval"][0] < known["value"] < known["interval"][1]
        assert task["service"]["service_cv"]["value"] == pytest.approx(0.15, abs=0.02)
        own = file.task[file.task_names.index(task["name"])]
        assert own.covariance == pytest.approx(np.array(task["accuracy"]["covariance"]), rel=1e-6)
        assert own.decay_se == pytest.approx(math.sqrt(own.covariance[1][1]))
        bins = task["accuracy"]["goodness"]["bins"]
        assert [b["tokens"] for b in bins] == measured.LEVELS.tolist()
    assert math.prod(imread(tables / "fits.png").shape) > 100_000


def test_without_a_log_the_traffic_is_the_default_or_as_given(command, tables):
    code, out, _ = command("fit runs.csv --out a.toml --robust")
    assert code == 0
    for text in ("measure next", "regret", "wrote a.toml", "hard"):
        assert text in out
    file = files.load(tables / "a.toml")
    assert (file.arrival_rate, file.accuracy_weight) == (0.1, 30)
    assert [task.mix for task in file.task] == pytest.approx([1 / 3] * 3)
    assert [task.max_tokens for task in file.task] == [16384] * 3
    line = (
        "--arrival-rate 0.3 --accuracy-weight 9 --min-tokens 8 --max-tokens 999 --mix easy=3,hard=1"
    )
    assert command(f"fit runs.csv --out b.toml {line} --bootstrap 50").code == 0
    file = files.load(tables / "b.toml")
    assert (file.arrival_rate, file.accuracy_weight) == (0.3, 9)
    assert {task.name: task.mix for task in file.task} == {
        "easy": 0.75,
        "hard": 0.25,
        "middling": 0,
    }
    assert {(task.min_tokens, task.max_tokens) for task in file.task} == {(8, 999)}
    assert command("fit runs.csv --out c.toml --max-tokens 0").code == 0
    assert {task.max_tokens for task in files.load(tables / "c.toml").task} == {0}
    code, out, err = command("fit runs.csv --min-tokens 99999")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "(easy): min_tokens = 99999 must not exceed max_tokens = 16384: lower it" in err


def test_a_task_that_the_data_do_not_determine_is_named(command, tables):
    columns = runs(0)
    last = np.flatnonzero(np.array(columns["task"]) == "hard")
    extra = {name: [columns[name][i] for i in last] for name in columns}
    extra |= {"task": ["hopeless"] * len(last), "correct": [0] * len(last)}
    write(tables / "runs.csv", {name: columns[name] + extra[name] for name in columns})
    code, out, err = command("fit runs.csv --out mine.toml --plot fits.png")
    assert code == 1
    assert not (tables / "mine.toml").exists()
    assert (tables / "fits.png").exists()
    assert "hopeless: accuracy ALL_WRONG: every answer is wrong" in err
    assert "do not determine hopeless" in err
    assert "ALL_WRONG" in out
    code, out, err = command("fit runs.csv --out mine.toml --partial --json")
    assert code == 0
    assert "hopeless: accuracy ALL_WRONG" in err
    assert json.loads(out)["tasks"][2]["accuracy"]["gain"]["value"] is None
    file = files.load(tables / "mine.toml")
    assert file.task_names == ("easy", "hard", "middling")
    assert [task.mix for task in file.task] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("fit absent.csv", "absent.csv does not exist: give"),
        ("fit runs.txt", "runs.txt must end in .csv or .parquet"),
        ("fit runs.csv --out a.txt", "--out = 'a.txt' must end in .toml"),
        ("fit runs.csv --plot a.txt", "--plot = 'a.txt' must end in .png"),
        ("fit runs.csv --columns tokens", "'tokens' in --columns is no pair"),
        ("fit runs.csv --columns tokens=no", "column no (for tokens) is missing"),
        ("fit runs.csv --columns token=no", "field 'token' is unknown: choose from task"),
        ("fit runs.csv --mix easy=1,none=2", "--mix: runs.csv has no task 'none'"),
        ("fit runs.csv --mix easy=x", "--mix: easy = 'x' is not a number"),
        ("fit runs.csv --mix easy=0", "--mix = easy=0 sums to 0"),
        ("fit runs.csv --arrivals log.csv --mix easy=1", "--mix = easy=1 and --arrivals = log.csv"),
        ("fit runs.csv --arrivals other.csv", "other.csv: task 'x' has no runs"),
        ("fit runs.csv --arrivals runs.csv", "runs.csv: column time is missing"),
        ("fit runs.csv --arrival-rate -1", "--arrival-rate: arrival_rate = -1 must not be neg"),
        ("fit runs.csv --min-tokens 9 --max-tokens 8", "--min-tokens = 9 must not exceed"),
        ("fit runs.csv --bootstrap 1", "--bootstrap = 1 must be 0, or from 2"),
        ("fit runs.csv --seed -1", "--seed = -1 must be from 0 to"),
        ("fit runs.csv --seed 9999999999999999999999", "--seed = 9999999999999999999999 must be"),
        ("fit bad.csv", "bad.csv: row 1 (line 2), column tokens: 'x' is not a number: correct it"),
    ],
)
def test_bad_input(command, tmp_path, line, named):
    write(tmp_path / "runs.csv", runs(3, questions=2))
    write(tmp_path / "log.csv", {"time": [1, 2, 3]})
    write(tmp_path / "other.csv", {"time": [1, 2], "task": ["x", "easy"]})
    (tmp_path / "bad.csv").write_text("task,tokens,correct,seconds\na,x,1,1\n")
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert named in err
    assert err.count("\n") == 1
