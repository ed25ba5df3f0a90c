"""Plan files and plan calls say the same; a bad one is one line that names field, value and fix."""

import pytest

import jaxalloc
from jaxalloc import sweep
from jaxalloc.sweep.settings import SETTINGS

FILE = """
workload = "qwen3-8b"
[fields]
service_cv = 0.5
[axes]
arrival_rate = "0.01:2:11:log"
accuracy_weight = [1, 30]
decay.GSM8K = "1e-3:1e-2:4"
"""


def write(folder, text):
    path = folder / "plan.toml"
    path.write_text(text)
    return str(path)


def test_a_file_and_a_call_say_the_same(tmp_path):
    axes = {
        "arrival_rate": "0.01:2:11:log",
        "accuracy_weight": [1, 30],
        "decay.GSM8K": "1e-3:1e-2:4",
    }
    called = sweep.plan("qwen3-8b", axes, fields={"service_cv": 0.5})
    assert sweep.plan(write(tmp_path, FILE)).digest == called.digest
    assert called.size == 88
    for more in ({"design": "sobol", "points": 9}, {"seed": 1}, {"solver": jaxalloc.FixedPoint()}):
        with pytest.raises(ValueError, match="is a plan that says it all"):
            sweep.plan(write(tmp_path, FILE), **more)
    other = sweep.plan("qwen3-8b", axes, fields={"service_cv": 0.6})
    assert other.digest != called.digest


def test_a_path_in_a_plan_is_seen_from_the_plan(tmp_path):
    from jaxalloc.workloads import files

    (tmp_path / "mine.toml").write_text(files.builtin_text("qwen3-8b"))
    text = FILE.replace('"qwen3-8b"', '"mine.toml"')
    plan = sweep.plan(write(tmp_path, text))
    assert plan.digest == sweep.plan(write(tmp_path, FILE)).digest


SCHEDULE = """
schedule = "geometric:mean=20"
[fields]
capacity = 400
[axes]
"""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "workload = 'qwen3-8b'\nworklod = 1",
            "worklod = 1 is not a field of a plan: did you",
        ),
        ("workload = 'qwen3-8b'\n[axes]\nrate = '1:2:3'", "axis rate: 'rate' is no field"),
        ("workload = 'qwen3-8b'\n[axes]\ndecey = '1:2:3'", "did you mean decay?"),
        ("workload = 'qwen3-8b'\n[axes]\ndecay = []", "axis decay = [] has no values"),
        (
            "workload = 'qwen3-8b'\n[axes]\ndecay = [[1], [2, 3]]",
            "axis decay = [[1], [2, 3]] is not",
        ),
        ("workload = 'qwen3-8b'\n[axes]\ndecay = [[1], [2]]", "axis decay = [[1], [2]] is not a"),
        ("workload = 'qwen3-8b'\n[axes]\ndecay = ['a']", "axis decay = ['a'] is not a list of num"),
        ("workload = 'qwen3-8b'\n[axes]\ndecay = true", "axis decay = True is not a list of num"),
        ("workload = 'qwen3-8b'\n[axes]\ndecay.X = 1", "axis decay.X: no task 'X': give one of"),
        (
            "workload = 'qwen3-8b'\n[axes]\ndecay = '1:2:100000'\ngain = '0:0.1:100000'\n"
            "base_time = '1:2:100000'",
            "100000 x 100000 x 100000 = 1e+15 configurations: give fewer values",
        ),
        ("workload = 'qwen3-8b'\npoints = 'many'", "points = 'many' is not what is wanted there"),
        ("workload = 'qwen3-8b'\npoints = 0", "points = 0 must be greater than or equal to 1"),
        ("workload = 'qwen3-8b'\npoints = 9", "points = 9: a grid has as many as its axes"),
        ("workload = 'qwen3-8b'\ndesign = 'lhs'", "design = 'lhs' is unknown: give one of grid"),
        ("workload = 'qwen3-8b'\ndesign = 'sobol'", "points = None: design = 'sobol' needs how"),
        ("workload = 'qwen3-8b'\ntable = 'no.csv'", "no.csv' does not exist: give the path"),
        ("workload = 'qwen3-8b'\ntable = 'plan.toml'", "must end in .csv or .parquet: convert it"),
        ("workload = 'qwen3-8b'\naxes = 3", "axes = 3 is not what is wanted there: give a table"),
        ("workload = 'qwen3-8b'\n[fields]\ngain = 'x'", "fields: gain = 'x' is not a number"),
        ("workload = 'qwen3-8b'\nsolver = 'x'", "solver = 'x' is unknown: give one of newton"),
        ("workload = 'nope'\n[axes]", "nope' is no file and not built in"),
        ("[axes]\ndecay = 1", "give workload = … or schedule = …, and not both"),
        (SCHEDULE + "policy = ['best']", "policy = best is unknown: choose from a_min"),
        (SCHEDULE + "intervals = ['wide']", "intervals = wide must be exact, one"),
        (SCHEDULE + "capacity = [8, 9]", "fields: capacity = 400 is an axis too: drop one"),
        (SCHEDULE + "seed = '0:1:3'", "axis seed = '0:1:3' must be whole numbers"),
        (SCHEDULE + "interval_width = [-1]", "interval_width = -1 must be at least 0"),
        (SCHEDULE + "width = 1", "'width' is no setting of a schedule"),
        (SCHEDULE + "arrivals = ['zero']\narrival_rate = 1", "arrivals and arrival_rate say the"),
        ("schedule = 'geometric:mean=20'", "fields: capacity is missing: give the tokens that"),
        (
            "schedule = 'zipf:mean=2'\n[fields]\ncapacity = 9",
            "schedule = 'zipf:mean=2': source",
        ),
        ("schedule = 'no.csv'\n[fields]\ncapacity = 9", "no.csv does not exist"),
        ("schedule = 'geometric:mean=90'\n[fields]\ncapacity = 40", "holds fewer than half"),
    ],
)
def test_a_bad_plan_is_one_line(tmp_path, text, named):
    with pytest.raises(ValueError, match=r"\S") as caught:
        sweep.plan(write(tmp_path, text))
    message = str(caught.value)
    assert named in message
    assert len(message.splitlines()) == 1


HUGE = [2**63, 10**30, 10**400, 10**5000, -(10**30), True]


@pytest.mark.parametrize("value", HUGE, ids=range(len(HUGE)))
def test_huge_numbers_are_a_plan_or_one_line(value):
    drawn = {"axes": {"arrival_rate": "0.1:1"}, "design": "random"}
    tries = [{"fields": {name: value}} for name in ("max_tokens", "service_cv")]
    tries += [
        {"axes": {name: given}}
        for name in ("max_tokens", "mix.GSM8K")
        for given in (value, [1, value])
    ]
    tries += [drawn | {"points": value}, drawn | {"points": 9, "seed": value}]
    tries += [{"table": {"max_tokens": [1, value]}}]
    tries = [{"study": "qwen3-8b"} | one for one in tries]
    for name, setting in SETTINGS.items():
        small = {"capacity": 400, "requests": 5} | {"intervals": "exact"}
        small.pop(name, None)
        if name == "interval_width":
            small.pop("intervals")
        if setting.kind != "text" or name == "prompt":
            for axes in ({name: value}, {name: [1, value]}):
                tries.append({"schedule": "geometric:mean=20", "fields": small, "axes": axes})
    plans = 0
    for one in tries:
        try:
            sweep.plan(**one)
            plans += 1
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert len(str(error)) < 400  # noqa: PT017
    assert plans < len(tries)


def test_tables_with_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="columns of one length"):
        sweep.plan("qwen3-8b", table={"decay": [1.0, 2.0], "gain": [0.1]})
    (tmp_path / "t.csv").write_text("decay,gain\n1,\n")
    with pytest.raises(ValueError, match="column gain has empty cells: fill them"):
        sweep.plan("qwen3-8b", table=tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("decay\n-1\n")
    with pytest.raises(ValueError, match=r"axis decay .* must be greater than 0"):
        sweep.plan("qwen3-8b", table=tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("decay,decay\n1,2\n")
    with pytest.raises(ValueError, match=r"t.csv' has several columns decay: keep one"):
        sweep.plan("qwen3-8b", table=tmp_path / "t.csv")
