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
    assert file.names == tuple(sorted(NAMES))
    solved = json.loads(command("solve mine.toml --json").out)
    said = document["decision"]
    for task, again in zip(said["tasks"], solved["tasks"], strict=True):
        assert task["tokens"]["value"] == pytest.approx(again["tokens"], rel=1e-6)
        assert task["tokens"]["low"] < again["tokens"] < task["tokens"]["high"]
    assert command("sweep mine.toml --arrival-rate 0.1:0.3:3 --out a.parquet").code == 0
    # The true workload, in the order of the file.
    order = [NAMES.index(name) for name in file.names]
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
        own = file.task[file.names.index(task["name"])]
        assert own.covariance == pytest.approx(np.array(task["accuracy"]["covariance"]), rel=1e-6)
        assert own.decay_se == pytest.approx(math.sqrt(own.covariance[1][1]))
        bins = task["accuracy"]["goodness"]["bins"]
        assert [b["tokens"] for b in bins] == measured.LEVELS.tolist()
    assert math.prod(imread(tables / "fits.png").shape) > 100_000


def test_without_a_log_the_traffic_is_the_default_or_as_given(command, tables):
    code, out, _ = command("fit runs.csv --out a.toml")
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
    assert command(f"fit runs.csv --out b.toml {line}").code == 0
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
    assert file.names == ("easy", "hard", "middling")
    assert [task.mix for task in file.task] == pytest.approx([1 / 3] * 3)


LAWS = {
    "rises": lambda tokens: measured.share([measured.CURVES[3]], tokens)[0],
    "flat": lambda tokens: np.full(8, 0.5),
    "perfect": lambda tokens: np.ones(8),
    "s": lambda tokens: np.array([0.1, 0.1, 0.12, 0.2, 0.5, 0.85, 0.93, 0.95]),
}
EACH = 200  # answers at each of eight budgets


def exact(laws, budgets=measured.LEVELS, base=0.2, slope=2e-4):
    """Columns of runs whose shares are those of the laws, and whose times scatter by a tenth."""
    columns = {name: [] for name in ("task", "tokens", "correct", "seconds")}
    noise = np.random.default_rng(0).gamma(100, 0.01, EACH)
    for name in laws:
        for tokens, share in zip(budgets, LAWS[name](budgets), strict=True):
            columns["task"] += [name] * EACH
            columns["tokens"] += [int(tokens)] * EACH
            columns["correct"] += (np.arange(EACH) < round(EACH * share)).astype(int).tolist()
            columns["seconds"] += ((base + slope * tokens) * noise).tolist()
    return columns


def test_partial_writes_constants_in_the_mix_and_laws_that_miss(command, tmp_path):
    names = ("flat", "perfect", "s")
    budgets = measured.LEVELS + 256
    write(tmp_path / "runs.csv", exact(names, budgets))
    rng = np.random.default_rng(0)
    time = np.cumsum(rng.exponential(10, 400)).tolist()
    write(tmp_path / "log.csv", {"time_ms": [1e3 * t for t in time], "task": [*names, "s"] * 100})
    line = "fit runs.csv --arrivals log.csv --arrival-columns time=time_ms --out a.toml --json"
    code, out, err = command(line)
    assert code == 1
    assert not (tmp_path / "a.toml").exists()
    tasks = {task["name"]: task for task in json.loads(out)["tasks"]}
    found = {name: tasks[name]["accuracy"]["status"] for name in names}
    assert found == dict(zip(names, ("FLAT", "ALL_CORRECT", "LACK_OF_FIT"), strict=True))
    assert tasks["s"]["accuracy"]["goodness"]["p_value"] < 1e-3 < tasks["s"]["service"]["p_value"]
    assert "do not determine flat, perfect, and the laws miss those of s: measure more" in err
    code, out, err = command(line + " --partial")
    assert code == 0
    file = files.load(tmp_path / "a.toml")
    task = dict(zip(file.names, file.task, strict=True))
    assert sorted(task) == sorted(names)
    assert [own.mix for own in file.task] == [0.25, 0.25, 0.5]
    assert file.arrival_rate == pytest.approx(399 / (time[-1] - time[0]))
    assert (task["flat"].gain, task["flat"].floor) == (0, 0.5)
    assert (task["perfect"].gain, task["perfect"].floor) == (0, 1)
    best = {own["name"]: own["tokens"] for own in json.loads(out)["decision"]["tasks"]}
    assert best["flat"]["value"] == best["perfect"]["value"] == 256
    assert "flat: written as constant: its smallest measured budget, 256 tokens, is its best" in err
    solved = json.loads(command("solve a.toml --json").out)
    assert solved["status"] == "CONVERGED"


def test_an_optimum_where_nothing_was_measured_is_flagged(command, tmp_path):
    write(tmp_path / "runs.csv", exact(["rises"], measured.LEVELS / 4 + 64))
    for line, beyond in (
        ("--accuracy-weight 0.1", "tokens, is below the smallest measured budget, 64: an extrap"),
        (
            "--accuracy-weight 1e6",
            "is the largest that was measured, a bound that only the default",
        ),
        ("--accuracy-weight 1e6 --max-tokens 99999", "above the largest measured budget, 4,160"),
        ("--accuracy-weight 30", None),
    ):
        code, out, err = command(f"fit runs.csv --json {line}")
        assert code == 0
        (task,) = json.loads(out)["decision"]["tasks"]
        assert (task["extrapolation"] is None) == (beyond is None)
        assert "the optimum" not in err if beyond is None else beyond in err


def test_nothing_without_an_optimum_is_written(command, tmp_path):
    write(tmp_path / "runs.csv", exact(["rises"], base=20.0))
    code, out, err = command("fit runs.csv --out a.toml")
    assert code == 1
    assert "0.1 queries / s overload the server even at the smallest budgets" in err
    assert not (tmp_path / "a.toml").exists()
    assert "nan" not in (out + err).lower()


def test_latencies_in_a_batch_are_no_service_times(command, tmp_path):
    write(tmp_path / "runs.csv", exact(["rises"], base=6.4, slope=64e-4))
    times = np.cumsum(np.random.default_rng(0).exponential(0.5, 300)).tolist()
    write(tmp_path / "log.csv", {"time": times})
    for known in ("--arrivals log.csv", "--arrival-rate 2"):
        code, out, err = command(f"fit runs.csv {known}")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "in service at once" in err
        assert "give --concurrency" in err
    code, out, err = command("fit runs.csv --arrival-rate 2 --concurrency 32 --json --out a.toml")
    assert code == 0
    assert "--concurrency 32: times are those measured / 32" in err
    (task,) = files.load(tmp_path / "a.toml").task
    assert task.base_time == pytest.approx(0.2, rel=0.1)
    assert task.time_per_token == pytest.approx(2e-4, rel=0.02)


def test_milliseconds_are_told_by_their_name_or_doubted(command, tmp_path):
    columns = exact(["rises"])
    columns["latency_ms"] = [1e3 * time for time in columns.pop("seconds")]
    write(tmp_path / "runs.csv", columns)
    code, out, err = command("fit runs.csv --columns seconds=latency_ms --json")
    assert (code, err) == (0, "")
    service = json.loads(out)["tasks"][0]["service"]
    assert service["time_per_token"]["value"] == pytest.approx(2e-4, rel=0.02)
    columns["latency"] = [1e7 * time for time in columns.pop("latency_ms")]
    write(tmp_path / "runs.csv", columns)
    err = command("fit runs.csv --columns seconds=latency").err
    assert "s a token is implausible: check the unit of the times" in err


def test_what_is_left_out_is_said_with_its_traffic(command, tmp_path):
    columns = exact(["rises", "flat"])
    columns["correct"][8 * EACH :] = [0] * (8 * EACH)
    write(tmp_path / "runs.csv", columns)
    for mix, said in (
        ("--mix rises=3,flat=1", "flat left out with 25.0% of the arrivals: 0.15 / s of 0.2 / s"),
        ("", "flat left out: the workload has nothing of their arrivals"),
    ):
        code, _, err = command(f"fit runs.csv --partial --arrival-rate 0.2 --out a.toml {mix}")
        assert code == 0
        assert said in err
    code, _, err = command("fit runs.csv --partial --mix rises=2")
    assert code == 0
    assert "--mix names no flat: a share of 0" in err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("fit runs.csv --mix easy=0.8", "--mix sums to 0.8 without hard, middling: give every"),
        ("fit runs.csv --concurrency 0", "--concurrency = 0 must be a number at least 1"),
        ("fit absent.csv", "absent.csv does not exist: give"),
        ("fit runs.txt", "runs.txt must end in .csv, .jsonl"),
        ("fit runs.csv --out a.txt", "--out = 'a.txt' must end in .toml"),
        ("fit runs.csv --plot a.txt", "--plot = 'a.txt' must end in .png"),
        ("fit runs.csv --columns tokens", "--columns = 'tokens' must be FIELD=NAME"),
        ("fit runs.csv --columns tokens=no", "column no (for tokens) is missing"),
        ("fit runs.csv --columns token=no", "field 'token' is unknown: did you mean tokens"),
        ("fit runs.csv --mix easy=1,none=2", "--mix: task 'none' has no runs: measure it"),
        ("fit runs.csv --mix easy=x", "--mix = easy=x: easy = 'x' is not a number"),
        ("fit runs.csv --mix easy=0", "--mix sums to 0"),
        (
            "fit runs.csv --arrivals log.csv --mix easy=1",
            "--mix and arrivals say the same: drop one",
        ),
        ("fit runs.csv --arrivals other.csv", "--arrivals: task 'x' has no runs"),
        ("fit runs.csv --arrivals runs.csv", "runs.csv: column time is missing"),
        ("fit runs.csv --arrival-rate -1", "--arrival-rate = -1 must not be neg"),
        ("fit runs.csv --min-tokens 9 --max-tokens 8", "--min-tokens = 9 must not exceed"),
        ("fit runs.csv --seed -1", "--seed = -1 must be a whole number from 0 to"),
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
