"""Plan files and plan calls say the same; a bad one is one line that names field, value and fix."""

import pytest

import jaxalloc
from jaxalloc import sweep
from jaxalloc.sweep.settings import SETTINGS
from jaxalloc.workloads import files

FILE = """
workload = "qwen3-8b"
[fields]
service_cv = 0.5
[axes]
arrival_rate = "0.01:2:11:log"
accuracy_weight = [1, 30]
decay.GSM8K = "1e-3:1e-2:4"
"""
AXES = {"arrival_rate": "0.01:2:11:log", "accuracy_weight": [1, 30], "decay.GSM8K": "1e-3:1e-2:4"}
LAW = "geometric:mean=20"


def write(folder, text):
    path = folder / "plan.toml"
    path.write_text(text)
    return str(path)


def refused(named, *arguments, **options):
    """The plan is refused in one line that names what is wrong."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        sweep.plan(*arguments, **options)
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_and_a_call_say_the_same(tmp_path):
    called = sweep.plan("qwen3-8b", AXES, fields={"service_cv": 0.5})
    assert sweep.plan(write(tmp_path, FILE)).digest == called.digest
    assert called.size == 88
    (tmp_path / "mine.toml").write_text(files.builtin_text("qwen3-8b"))
    text = FILE.replace('"qwen3-8b"', '"mine.toml"')  # seen from the plan
    assert sweep.plan(write(tmp_path, text)).digest == called.digest
    for more in ({"design": "sobol", "points": 9}, {"seed": 1}, {"solver": jaxalloc.FixedPoint()}):
        refused("is a plan that says it all", write(tmp_path, FILE), **more)


def test_all_that_makes_an_answer_makes_the_digest():
    axes = {"arrival_rate": "0.1:1", "gain": "0:0.1"}
    drawn = {"design": "sobol", "points": 9}
    plans = [
        sweep.plan("qwen3-8b", AXES),
        sweep.plan("qwen3-8b", dict(reversed(AXES.items()))),
        sweep.plan("qwen3-8b", AXES, fields={"service_cv": 0.6}),
        sweep.plan("qwen3-8b", AXES, solver=jaxalloc.Newton(max_steps=3)),
        *(sweep.plan("qwen3-8b", axes, **drawn, seed=seed) for seed in (0, 1)),
        sweep.plan("qwen3-8b", axes, **drawn | {"design": "random"}),
        sweep.plan(schedule=LAW, fields={"capacity": 400, "requests": 5}),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("worklod = 1", "worklod = 1 is not a field of a plan: did you mean workload?"),
        ("points = 'many'", "points = 'many' is not what is wanted there: give how many"),
        ("points = 0", "points = 0 must be greater than or equal to 1: give how many"),
        ("points = 9", "points = 9: a grid has as many as its axes"),
        ("design = 'lhs'", "design = 'lhs' is unknown: give one of grid"),
        ("design = 'sobol'\naxes = {gain = '0:0.1'}", "points = None: design = 'sobol' needs how"),
        ("design = 'sobol'\npoints = 9", "axes: design = 'sobol' needs at least one"),
        ("table = 'no.csv'", "no.csv does not exist: give the path"),
        ("table = 'plan.toml'", "must end in .csv, .jsonl, .json, .parquet: convert it"),
        ("axes = 3", "axes = 3 is not what is wanted there: give a table"),
        ("axes = {decay = 1}\nsolver = 'x'", "solver = 'x' is unknown: give one of newton"),
        ("fields = {gain = 'x'}\naxes = {}", "fields: gain = 'x' is not an axis: give a number"),
        ("fields = {gain = -1}\naxes = {}", "fields: gain = -1: gain = -1 must not be negative"),
        ("fields = {mix = 1}\naxes = {}", "fields: mix: the sum of mix is fixed at 1"),
    ],
)
def test_a_bad_plan_file_is_one_line(tmp_path, text, named):
    refused(named, write(tmp_path, f"workload = 'qwen3-8b'\n{text}"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workload = 'nope'\n[axes]", "nope' is no file and not built in"),
        ("[axes]\ndecay = 1", "give workload = … or schedule = …, and not both"),
        ("schedule = 'geometric:mean=20'", "fields: capacity is missing: give the tokens that"),
        ("schedule = 'zipf:mean=2'\n[fields]\ncapacity = 9", "schedule = 'zipf:mean=2': source"),
        ("schedule = 'no.csv'\n[fields]\ncapacity = 9", "no.csv does not exist"),
        ("schedule = 'geometric:mean=90'\nfields = {capacity = 40}", "holds fewer than half"),
        ("schedule = 'a:b=1'\nsolver = 'newton'", "solver, max_steps and tolerance are of"),
    ],
)
def test_a_plan_of_nothing_that_is_there_is_one_line(tmp_path, text, named):
    refused(named, write(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        ("arrival_rate", "1:2", "axis arrival_rate = '1:2' is not an axis: give a number, a:b:n"),
        ("arrival_rate", "1:2:x", "is not an axis"),
        ("arrival_rate", "1:2:3:lin", "is not an axis"),
        ("arrival_rate", "1:2:3:log:4", "is not an axis"),
        ("arrival_rate", "log", "is not an axis"),
        ("arrival_rate", "", "is not an axis"),
        ("arrival_rate", "1:2:0", "has 0 values: give at least 2"),
        ("arrival_rate", "1:2:1", "has 1 values: give at least 2"),
        ("arrival_rate", "1:2:1000000000000", "give at most 10000000"),
        ("arrival_rate", "1:inf:3", "has an end that is not finite"),
        ("arrival_rate", "nan", "has a value that is not finite"),
        ("arrival_rate", "0:1:3:log", "has an end at or below 0"),
        ("arrival_rate", "-1:1:3", "must not be negative"),
        ("arrival_rate.GSM8K", "1", "has one value a server"),
        ("decay", "0", "must be greater than 0"),
        ("decay", [], "axis decay = [] has no values"),
        ("decay", [[1], [2, 3]], "axis decay = [[1], [2, 3]] is not a list of values"),
        ("decay", [[1], [2]], "axis decay = [[1], [2]] is not a list of values"),
        ("decay", ["a"], "axis decay = ['a'] is not a list of numbers"),
        ("decay", True, "axis decay = True is not a list of numbers"),
        ("decay.MATH", "1", "axis decay.MATH: no task 'MATH': give one of AIME24"),
        ("decey", "1", "did you mean decay?"),
        ("mix", "0.5", "the sum of mix is fixed at 1"),
        ("mix.GSM8K", [1.5], "mix = 1.5 must not exceed 1"),
        ("", "1", "'' is no field"),
    ],
)
def test_a_bad_axis_is_named(name, given, named):
    refused(named, "qwen3-8b", {name: given})


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({"policy": ["best"]}, "policy = best is unknown: choose from a_min"),
        ({"intervals": ["wide"]}, "intervals = wide must be exact, one"),
        ({"capacity": [8, 9]}, "fields: capacity = 400 is an axis too: drop one"),
        ({"seed": "0:1:3"}, "axis seed = '0:1:3' must be whole numbers"),
        ({"interval_width": [-1]}, "interval_width = -1 must be at least 0"),
        ({"width": 1}, "'width' is no setting of a schedule"),
        ({"alpha": [0.5, 1]}, "alpha = 1 must be at least 0"),
        ({"prompt": [0.5]}, "axis prompt = [0.5] is not text: put the values in quotes"),
        ({"arrivals": ["zero"], "arrival_rate": 1}, "arrivals and arrival_rate say the same"),
    ],
)
def test_a_bad_axis_of_schedules_is_named(axes, named):
    refused(named, schedule=LAW, axes=axes, fields={"capacity": 400})


LONG = "1:2:100000"


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({"decay": "1:2:2", "decay.GSM8K": "1:2:2"}, "axis decay.GSM8K: axis decay sets the same"),
        ({"decay.GSM8K": "1:2:2", "decay": "1:2:2"}, "sets the same number"),
        ({"gain": "0.1:0.9:3"}, "task GPQA-D must not exceed 1"),
        ({"mix.GSM8K": [0.6], "mix.AIME24": [0.1, 0.6]}, "the sum of mix = 1.2 must be 1"),
        (dict.fromkeys(("decay", "base_time", "service_cv"), LONG), "= 1e+15 configurations: give"),
    ],
)
def test_axes_that_do_not_suit_each_other_are_named(axes, named):
    refused(named, "qwen3-8b", axes)


def test_tables_with_mistakes_are_named(tmp_path):
    refused("columns of one length", "qwen3-8b", table={"decay": [1.0, 2.0], "gain": [0.1]})
    for text, named in (
        ("decay,gain\n1,\n", "row 1 (line 2), column gain: an empty cell is no value: fill it"),
        ("decay\n-1\n", "must be greater than 0"),
        ("decay,decay\n1,2\n", "t.csv: two columns are called decay: rename one"),
        ("decay\n", "t.csv is empty (0 rows)"),
    ):
        (tmp_path / "t.csv").write_text(text)
        refused(named, "qwen3-8b", table=tmp_path / "t.csv")
    rows = {"gain.GSM8K": [0.1, 0.9], "floor.GSM8K": [0.9, 0.05]}  # row by row they are fine
    assert sweep.plan("qwen3-8b", table=rows).size == 2
    named = "floor + gain = 1.1 of task GSM8K must not exceed 1"
    refused(named, "qwen3-8b", table=rows | {"floor.GSM8K": [0.9, 0.2]})


HUGE = [2**63, 10**30, 10**400, 10**5000, -(10**30), True]


@pytest.mark.parametrize("value", HUGE, ids=range(len(HUGE)))
def test_huge_numbers_are_a_plan_or_one_line(value):
    drawn = {"axes": {"arrival_rate": "0.1:1"}, "design": "random"}
    tries = [{"fields": {name: value}} for name in ("max_tokens", "service_cv")]
    tries += [{"axes": {n: v}} for n in ("max_tokens", "mix.GSM8K") for v in (value, [1, value])]
    tries += [drawn | {"points": value}, drawn | {"points": 9, "seed": value}]
    tries += [{"table": {"max_tokens": [1, value]}}]
    tries = [{"study": "qwen3-8b"} | one for one in tries]
    for name, setting in SETTINGS.items():
        small = {"capacity": 400, "requests": 5, "intervals": "exact"}
        small.pop("intervals" if name == "interval_width" else name, None)
        if setting.kind != "text" or name == "prompt":
            for axes in ({name: value}, {name: [1, value]}):
                tries.append({"schedule": LAW, "fields": small, "axes": axes})
    plans = 0
    for one in tries:
        try:
            sweep.plan(**one)
            plans += 1
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert len(str(error)) < 400  # noqa: PT017
    assert plans < len(tries)


def test_a_sweep_of_nothing_but_impossible_schedules_is_refused():
    fields = {"requests": 12, "policy": "a_max", "capacity": 200}
    every = {"intervals": ["one:1:2", "one:1:3"], "seed": [1, 2]}
    named = "every configuration is INVALID: of the first, upper["
    refused(named, schedule=LAW, axes=every, fields=fields)
    fields = fields | {"capacity": 36}
    refused("holds fewer than half", schedule=LAW, axes={"seed": [1, 2]}, fields=fields)
