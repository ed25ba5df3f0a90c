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
