"""The commands under one name: help, version, bad input, what is imported when."""

import json
import re
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from jaxalloc.cli.app import COMMANDS


def test_help_names_every_command(command):
    code, out, err = command("--help")
    assert (code, err) == (0, "")
    assert all(f" {name} " in out for name in COMMANDS)
    assert command("") == (code, out, err)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command, name):
    code, out, _ = command(f"{name} --help")
    assert code == 0
    assert f"jaxalloc {name}" in out


def test_version(command):
    code, out, _ = command("--version")
    assert code == 0
    assert re.fullmatch(r"jaxalloc (\d+\.\d+\.\d+|\(not installed: .*\))\n", out)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("frob", "'frob'"),
        ("--bogus", "--bogus"),
        ("solve", "FILE|PRESET"),
        ("solve qwen3-8b --bogus", "--bogus"),
        ("solve qwen3-8b extra", "extra"),
        ("solve qwen3-8b --solver foo", "'foo' is not one of 'newton'"),
        ("solve qwen3-8b --arrival-rate", "--arrival-rate"),
        ("solve qwen3-8b --arrival-rate x", "--arrival-rate = 'x' is not a number: give"),
        ("solve qwen3-8b --arrival-rate -1", "--arrival-rate = -1 must not be negative: give"),
        ("solve qwen3-8b --decay 0", "--decay = 0 must be greater than 0: give"),
        ("solve qwen3-8b --max-tokens nan", "--max-tokens = nan must be finite: give"),
        ("solve qwen3-8b --gain 0.9", "qwen3-8b with --gain: task 3 (GPQA-D): floor + gain"),
        ("solve qwen3-8b --plot a.txt", "--plot = 'a.txt' must end in .png"),
        ("solve qwen3-8b --plot no/a.png", "--plot = 'no/a.png': there is no folder 'no': make"),
        ("solve nope", "workload = 'nope' is no file and not built in: give"),
        ("solve nope.toml", "workload = 'nope.toml' is no file and not built in: give"),
        ("solve qwen3-8b --max-steps 0", "--max-steps = 0 must be a whole number at least 1: see"),
        ("solve qwen3-8b --max-steps x", "--max-steps = x must be a whole number"),
        (
            "solve qwen3-8b --tolerance nan",
            "--tolerance = nan must be a number between 0",
        ),
        ("presets nope", "preset = 'nope' is not built in: give one of"),
        (
            "sweep qwen3-8b --dry-run --arrival-rate 1:2",
            "axis arrival_rate = '1:2' is not an axis: give",
        ),
        ("sweep qwen3-8b --axis decay.GSM8K", "--axis = 'decay.GSM8K' has no values: give"),
        (
            "sweep qwen3-8b --dry-run --axis decay.X=1",
            "axis decay.X: no task 'X': give one of AIME24",
        ),
        ("sweep qwen3-8b --decay 1 --decay 2", "--decay = '2' is given twice: drop one"),
        ("sweep qwen3-8b --out a.csv", "--out = 'a.csv' must end in .parquet"),
        ("sweep qwen3-8b --out no/a.parquet", "--out = 'no/a.parquet': there is no folder 'no'"),
        ("sweep qwen3-8b --plot a.png", "--plot = 'a.png' draws the frontier along the accuracy"),
        ("sweep nope --dry-run", "workload = 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_exits_with_2(command, tmp_path, line, named):
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert err.startswith("jaxalloc: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_named(command, tmp_path):
    (tmp_path / "mine.toml").write_text("arrival_rate = 'often'\n")
    code, out, err = command("solve mine.toml")
    assert (code, out) == (2, "")
    assert err == (
        "jaxalloc: mine.toml: arrival_rate = 'often' is not a number: "
        "give the arrival rate, queries / s\n"
    )


def test_presets_are_listed(command):
    code, out, err = command("presets")
    assert (code, err) == (0, "")
    assert "qwen3-8b" in out
    assert "r1-distill-llama-8b" in out
    assert "2608.13315" in out


def test_the_file_of_a_preset_is_a_workload_file(command, tmp_path):
    from jaxalloc.workloads import files as workloads

    code, out, _ = command("presets qwen3-8b")
    assert code == 0
    (tmp_path / "mine.toml").write_text(out)
    assert workloads.load("mine.toml") == workloads.load("qwen3-8b")


def test_help_is_quick_because_it_imports_no_numerical_library():
    script = (
        "import sys; from jaxalloc.cli import main; main(['--help']); main(['solve', '--help'])\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_a_sweep_is_in_float64_in_every_thread(tmp_path):
    line = f"-m jaxalloc sweep qwen3-8b --arrival-rate 0.01:1:64:log --out {tmp_path}/a.parquet"
    run = [sys.executable, *line.split()]
    shell = subprocess.run(run, check=True, capture_output=True, text=True)
    assert shell.stderr == ""
    assert max(pq.read_table(tmp_path / "a.parquet")["residual"].to_pylist()) <= 1e-8


def test_a_command_leaves_no_global_flag_behind():
    script = (
        "import sys, jax; from jaxalloc.cli import main\n"
        "code = main(['solve', 'qwen3-8b', '--json'])\n"
        "sys.exit(3 if jax.config.read('jax_enable_x64') else code)"
    )
    run = [sys.executable, "-c", script]
    shell = subprocess.run(run, check=True, capture_output=True, text=True)
    assert json.loads(shell.stdout)["residual"] <= 1e-8
    assert shell.stderr == ""
