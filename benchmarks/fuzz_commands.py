"""Made-up TOML files and flags for the commands: targets of `fuzz.py`."""

import contextlib
import copy
import io
import os

import numpy as np
import tomlkit
import typer
from hypothesis import strategies as st

from jaxalloc.cli import main
from jaxalloc.cli.app import COMMANDS, make_app

TASK = {"name": "a", "mix": 0.5, "gain": 0.5, "decay": 1e-3, "floor": 0.1, "base_time": 0.1}
TASK |= {"time_per_token": 1e-3, "min_tokens": 0, "max_tokens": 4096, "service_cv": 0.5}
WORKLOAD = {
    "name": "mine",
    "arrival_rate": 0.3,
    "accuracy_weight": 30.0,
    "task": [TASK, TASK | {"name": "b", "decay": 2e-4}],
}
PLAN = {"workload": "qwen3-8b", "design": "grid", "points": 4, "seed": 1, "solver": "newton"}
PLAN |= {
    "max_steps": 50,
    "tolerance": 1e-8,
    "fields": {"service_cv": 0.5},
    "axes": {"arrival_rate": "0.1:1:2", "accuracy_weight": [1, 10]},
}
SCHEDULE = {
    "schedule": "geometric:mean=5",
    "fields": {"requests": 4, "capacity": 100, "prompt": "3", "intervals": "bins:2"},
    "axes": {"policy": ["a_min", "h_sf"], "seed": "0:1:2"},
}
NUMBERS = (0, 1, -1, 2, 0.5, 1e-300, 5e-324, 1e300, -0.0, np.nan, np.inf, 2**70, 10**400)
TEXTS = ["", "中" * 40, "n" * 300, *"x $\\frac$ \x1b[2J [red] a.b a=b 0:1:2 1:2:2:log".split()]
VALUES = st.one_of(
    st.sampled_from(NUMBERS),
    st.floats(),
    st.floats(0, 1e4),
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from(TEXTS),
    st.lists(st.floats(0, 10) | st.sampled_from(TEXTS) | st.booleans(), max_size=3),
    st.just({}),
    st.just([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
)
EXTRA = "decay_se covariance service_covariance table schedule decey task mix".split()
READING = (
    "solve in.toml --json",
    "solve in.toml --integer --certificates",
    "solve in.toml --plot out.png",
    "frontier in.toml --weights 1:10:2 --accuracy 0.4 --plot out.svg",
    "sensitivity in.toml",
    "queue in.toml --queries 64 --target 2",
    "sweep in.toml --arrival-rate 0.1:1:2 --out out.parquet",
)
# What starts others, waits for them or takes long.
NOT_TRIED = ("coordinator", "num_processes", "process_id", "distributed", "help")
SOURCES = "qwen3-8b w.toml p.toml t.csv r.csv sweep.parquet geometric:mean=5".split()
WORDS = [
    *"0 1 2 3 -1 nan inf -inf 1e3 0.5 0.95 1e-300 1e308 1e-320 99999999999999999999 2.9 x".split(),
    *"a=b a=1 task=a,tokens=b = 0.1:1:3:log 1:2:3 1:0:2 0:1:2:log 1:2:-1 1:2:nan a:b:c".split(),
    *"1:2:3:4:5 poisson poisson:0.5 poisson:nan cv:2 cv:nan trace:t.csv trace:no trace".split(),
    *"zero exact one one:5:2 bins:2.9 bins:0 noise:nan noise:0.5 own relative:0.5".split(),
    *"a_min,h_sf a_min, llama2-70b 1:1:1:1 uniform:low=1,high=5 a.png d.png /proc/x.png".split(),
    *"a.PDF no/a.svg a.toml a.parquet folder \x1b[2J sobol random newton fixed-point heat".split(),
    *"policies frontier arrival_rate arrival_rate=0.5 decay.AIME24=1e-3:1e-2:2".split(),
    *"utilization tokens.GSM8K,steps 50,50".split(),
    *("", " ", *SOURCES),
]
# So that what is tried is small where a flag says how much.
SMALL = {
    "queue": "--queries 64",
    "schedule": "--requests 5 --capacity 100 --policies a_min,h_sf",
    "frontier": "--weights 1:10:3",
    "sweep": "--out s.parquet",
}


class Wrong(AssertionError):
    """What a command must not do."""


def run(words):
    """Run a command in this folder; raise ValueError with its complaint where it refuses."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            raise Wrong(f"{words}: exit {error.code!r}") from None
    said = err.getvalue()
    if code not in (0, 1, 2) or "Traceback" in said:
        raise Wrong(f"{words}: exit code {code}, stderr {said!r}")
    if not (out.getvalue() + said).replace("\n", "").isprintable():
        raise Wrong(f"{words}: what it says does not print: {out.getvalue() + said!r}")
    if code == 2:
        if out.getvalue() or not said.startswith("jaxalloc: "):
            raise Wrong(f"{words}: stdout {out.getvalue()!r}, stderr {said!r}")
        raise ValueError(said.removesuffix("\n"))
    if " nan" in out.getvalue():
        raise Wrong(f"{words}: says nan: {out.getvalue()!r}")


@st.composite
def documents(draw):
    """A workload or a plan, sound but for a few values."""
    document = copy.deepcopy(draw(st.sampled_from((WORKLOAD, WORKLOAD, PLAN, SCHEDULE))))
    for _ in range(draw(st.integers(0, 3))):
        tables = [document]
        tables += [table for table in document.get("task", []) if isinstance(table, dict)]
        tables += [
            document[key] for key in ("fields", "axes") if isinstance(document.get(key), dict)
        ]
        table = draw(st.sampled_from(tables))
        key = draw(st.sampled_from([*table, *EXTRA]))
        if draw(st.integers(0, 5)):
            table[key] = draw(VALUES)
        else:
            table.pop(key, None)
        if not isinstance(document.get("task", []), list):
            break
    return document


@st.composite
def toml_text(draw):
    kind = draw(st.integers(0, 40))
    if kind == 40:
        return b"a = " + b"[" * 100_000
    if kind == 39:
        return draw(st.binary(max_size=40))
    try:
        data = bytearray(tomlkit.dumps(draw(documents())).encode())
    except (ValueError, TypeError, RecursionError):  # numbers and keys that TOML lacks
        return b"a"
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 3)))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=2))
    return bytes(data)


def toml(folder):
    """Workload and plan files for every command that reads one."""

    def attempt(example):
        text, line = example
        os.chdir(folder)
        for path in folder.iterdir():
            path.unlink()
        (folder / "in.toml").write_bytes(text)
        run(line.split())

    return st.tuples(toml_text(), st.sampled_from(READING)), attempt


def flags(folder):
    """Every command with flags and arguments of every kind."""
    _prepare(folder)
    known = typer.main.get_command(make_app()).commands
    commands = {name: known[name].params for name in COMMANDS if name != "doctor"}

    @st.composite
    def lines(draw):
        name = draw(st.sampled_from(sorted(commands)))
        words = [name, draw(st.sampled_from(SOURCES)), *SMALL.get(name, "").split()]
        options = [
            param
            for param in commands[name]
            if param.param_type_name == "option" and param.name not in NOT_TRIED
        ]
        for _ in range(draw(st.integers(0, 4))):
            option = draw(st.sampled_from(options))
            words.append(option.opts[0])
            if not option.is_flag:
                words.append(draw(st.one_of(st.sampled_from(WORDS), st.text(max_size=5))))
        return words

    def attempt(words):
        os.chdir(folder)
        run(words)

    return lines(), attempt


def _prepare(folder):
    """The files that the flags name."""
    os.chdir(folder)
    (folder / "d.png").mkdir()
    (folder / "w.toml").write_text(tomlkit.dumps(WORKLOAD))
    (folder / "p.toml").write_text(tomlkit.dumps(PLAN | {"design": "grid"}))
    rows = [f"{i * 0.7},{3 + i % 5},{1 + i % 7}" for i in range(40)]
    (folder / "t.csv").write_text("\n".join(["arrival,prompt,output", *rows]))
    rows = [
        f"{task},{tokens},{int((tokens + i) % 3 > 0)},{0.1 + tokens / 1000 + i / 100}"
        for task in "ab"
        for tokens in (0, 100, 500, 2000)
        for i in range(8)
    ]
    (folder / "r.csv").write_text("\n".join(["task,tokens,correct,seconds", *rows]))
    run(["sweep", "w.toml", "--accuracy-weight", "1:10:3", "--out", "sweep.parquet"])
