"""Bad input is one line that names the flag, the value and the fix; nothing is left behind."""

import re

import pytest

FAST = "schedule geometric:mean=20 --capacity 400 --requests 40 --policies a_min,a_max,h_sf"
LINES = [
    ("frob", "'frob'"),
    ("--bogus", "--bogus"),
    # Flags that several commands share.
    ("solve", "FILE|PRESET"),
    ("solve qwen3-8b --bogus", "--bogus"),
    ("solve qwen3-8b extra", "extra"),
    ("solve qwen3-8b --solver foo", "--solver = 'foo' is not one of 'newton'"),
    ("solve qwen3-8b --arrival-rate", "--arrival-rate"),
    ("solve qwen3-8b --arrival-rate x", "--arrival-rate = 'x' is not a number: give"),
    ("solve qwen3-8b --arrival-rate -1", "--arrival-rate = -1 must not be negative: give"),
    ("solve qwen3-8b --decay 0", "--decay = 0 must be greater than 0: give"),
    ("solve qwen3-8b --max-tokens nan", "--max-tokens = nan must be finite: give"),
    ("solve qwen3-8b --gain 0.9", "qwen3-8b with --gain: task 3 (GPQA-D): floor + gain"),
    ("solve qwen3-8b --plot a.txt", "--plot = 'a.txt' must end in .png"),
    ("solve qwen3-8b --plot no/a.png", "--plot = 'no/a.png': there is no folder 'no': make"),
    ("solve nope.toml", "workload = 'nope.toml' is no file and not built in: give"),
    ("solve qwen3-8b --max-steps 0", "--max-steps = 0 must be a whole number at least 1: see"),
    ("solve qwen3-8b --max-steps x", "--max-steps = x must be a whole number"),
    ("solve qwen3-8b --tolerance nan", "--tolerance = nan must be a number between 0"),
    ("presets nope", "preset = 'nope' is not built in: give one of"),
    ("frontier qwen3-8b --weights 1:2", "--weights: axis accuracy_weight = '1:2' is not an axis"),
    ("frontier qwen3-8b --system-time -1", "--system-time = -1 must be a number at least 0"),
    ("frontier qwen3-8b --mean-tokens inf", "--mean-tokens = inf must be a number"),
    ("frontier qwen3-8b --accuracy 1.5", "--accuracy = 1.5 must be a number from 0 to 1"),
    ("sensitivity qwen3-8b --step 0", "--step = 0 changes nothing"),
    ("sensitivity qwen3-8b --step nan", "--step = nan must be a number from -0.5 to 0.5"),
    ("sensitivity qwen3-8b --top -1", "--top = -1 must be a whole number at least 0"),
    ("queue qwen3-8b --queries 1.5", "--queries = 1.5 must be a whole number from 1"),
    ("queue qwen3-8b --queries 0", "--queries = 0 must be a whole number from 1"),
    ("queue qwen3-8b --percentiles 0.95", "--percentiles = 0.95 is in % and below 1: give 95 for"),
    ("queue qwen3-8b --percentiles 50,0.999", "0.999 is in % and below 1: give 99.9 for it"),
    ("queue qwen3-8b --percentiles 50,100", "--percentiles = 100 must be a number between"),
    ("queue qwen3-8b --arrivals often", "--arrivals = often must be poisson, cv:X"),
    ("queue qwen3-8b --arrivals cv:-1", "--arrivals = cv:-1: the cv must be from 0 to 100"),
    ("queue qwen3-8b --arrivals cv:x", "--arrivals = cv:x: the cv must be from 0 to 100"),
    ("queue qwen3-8b --arrivals trace:no.csv", "no.csv does not exist"),
    ("queue qwen3-8b --target 5 --arrivals cv:2", "--target = 5 is met by a formula for Poisson"),
    ("queue qwen3-8b --target inf", "--target = inf must be a number at least 0"),
    ("queue qwen3-8b --confidence 1", "--confidence = 1 must be a number between 0 and 1"),
    ("queue qwen3-8b --seed -1", "--seed = -1 must be a whole number from 0 to"),
    ("queue qwen3-8b --seed 9999999999999999999999", "--seed = 9999999999999999999999 must"),
    ("schedule nothing.csv --capacity 100", "nothing.csv does not exist"),
    ("schedule zipf:mean=3 --capacity 100", "source = zipf:mean=3 must be a file"),
    ("schedule geometric:mode=3 --capacity 100", "source = geometric:mode=3: mode is unknown"),
    ("schedule geometric:mean=-4 --capacity 100", "source = geometric:mean=-4: mean = -4.0 must"),
    ("schedule geometric:mean=9 --capacity 1", "--capacity = 1 must be a whole number from 2"),
    ("schedule geometric:mean=9 --capacity 20", "--capacity = 20 holds fewer than half"),
    ("schedule geometric:mean=9 --capacity 9999999999", "--capacity = 9999999999 must be a whole"),
    (f"{FAST} --prompt geometric:mean=0", "--prompt = geometric:mean=0: mean = 0.0 must be"),
    (f"{FAST} --intervals bins:0", "--intervals = bins:0: bins = 0 must be from 1"),
    (f"{FAST} --intervals bins:2.9", "2.9 must be a whole number"),
    (f"{FAST} --intervals one:3:2", "from 3 to 2 must rise"),
    (f"{FAST} --intervals one:1:3", "= 3 does not suit AMax: it must cover the output"),
    (f"{FAST} --intervals relative:nan", "width = nan must not be negative"),
    (f"{FAST} --intervals wide", "--intervals = wide must be exact, one"),
    (f"{FAST} --intervals own", "the trace has no column lower"),
    (f"{FAST} --policies best", "--policies = best is unknown: "),
    (f"{FAST} --arrivals trace", "--arrivals = trace are seconds: "),
    (f"{FAST} --arrivals trace --batch-time 1:0:0:0", "no column of the trace is known to be"),
    (f"{FAST} --arrivals poisson:0", "--arrivals = poisson:0 must have a rate from"),
    (f"{FAST} --arrivals poisson:inf", "--arrivals = poisson:inf must have a rate"),
    (f"{FAST} --batch-time 1:2", "--batch-time = 1:2 must be llama2-70b or four"),
    (f"{FAST} --batch-time 1:0:0:nan", "--batch-time = 1:0:0:nan must be llama2-70b or four"),
    (f"{FAST} --aging -1", "--aging = -1 must be a whole number from 0"),
    (f"{FAST} --requests 1000000000", "--requests = 1000000000 must be a whole number from 1 to"),
    (f"{FAST} --replications 1000000", "is more than 10000000: lower one"),
    (f"{FAST} --max-rounds 99999999999", "--max-rounds = 99999999999 must be a whole number"),
    (f"{FAST} --time-unit ms", "is no file: drop --columns and --time-unit"),
    (f"{FAST} --columns output=o", "is no file: drop --columns and --time-unit"),
    ("sweep qwen3-8b --dry-run --arrival-rate 1:2", "arrival_rate = '1:2' is not an axis: give"),
    ("sweep qwen3-8b --axis decay.GSM8K", "--axis = 'decay.GSM8K' has no values: give"),
    ("sweep qwen3-8b --dry-run --axis decay.X=1", "axis decay.X: no task 'X': give one of AIME24"),
    ("sweep qwen3-8b --decay 1 --decay 2", "--decay = '2' is given twice: drop one"),
    ("sweep qwen3-8b --out a.csv", "--out = 'a.csv' must end in .parquet"),
    ("sweep qwen3-8b --out no/a.parquet", "--out = 'no/a.parquet': there is no folder 'no'"),
    ("sweep qwen3-8b --plot a.png", "--plot = 'a.png' draws the frontier along the accuracy"),
    ("sweep nope --dry-run", "workload = 'nope'"),
]


@pytest.mark.parametrize(("line", "named"), LINES)
def test_bad_input_is_one_line_and_exits_with_2(command, tmp_path, line, named):
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert re.fullmatch("jaxalloc: .+\n", err)
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_named(command, tmp_path):
    (tmp_path / "mine.toml").write_text("arrival_rate = 'often'\n")
    code, out, err = command("solve mine.toml")
    assert (code, out) == (2, "")
    assert err.startswith("jaxalloc: mine.toml: arrival_rate = 'often' is not a number: give the a")


@pytest.mark.parametrize("line", ["solve a.toml", "sweep a.toml --arrival-rate 1 --dry-run"])
def test_what_is_nested_too_deep_is_refused(command, tmp_path, line):
    (tmp_path / "a.toml").write_text("a = " + "[" * 100_000)
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert re.fullmatch("jaxalloc: .+: is nested too deep: flatten it\n", err)


PICTURES = [
    "solve qwen3-8b --plot",
    "queue qwen3-8b --plot",
    "frontier qwen3-8b --plot",
    "sensitivity qwen3-8b --plot",
    "sweep qwen3-8b --accuracy-weight 1:2:3 --plot",
    "schedule geometric:mean=9 --capacity 99 --plot",
    "trust no.csv --plot",
    "fit no.csv --plot",
    "plot no --out",
]
TARGETS = ["d.png", "/proc/x.png", "no/a.png", "a.gif", "a", f"{'n' * 300}.png"]


@pytest.mark.parametrize(
    "line",
    [f"{PICTURES[0]} {one}" for one in TARGETS] + [f"{one} no/a.png" for one in PICTURES[1:]],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, line):
    (tmp_path / "d.png").mkdir()
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"jaxalloc: --(plot|out) = '.*\n", err)
    assert [path.name for path in tmp_path.iterdir()] == ["d.png"]
