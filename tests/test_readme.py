"""The README's Python runs and prints what the README says; its commands are real ones."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_python_prints_what_follows_it(tmp_path):
    programs, outputs = blocks("python"), blocks("text")
    assert len(programs) == len(outputs) >= 1
    for program, output in zip(programs, outputs, strict=True):
        assert len(program.splitlines()) <= 12
        run = [sys.executable, "-W", "error", "-c", program]
        shell = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (shell.stdout, shell.stderr) == (output, "")


def test_the_first_command_sweeps_a_built_in_workload(capsys, tmp_path, monkeypatch):
    from jaxalloc.cli import main

    monkeypatch.chdir(tmp_path)
    install = blocks("sh")[0].replace("\\\n", " ").splitlines()[1]
    words = shlex.split(install.partition(".venv/bin/jaxalloc ")[2])
    assert words[:2] == ["sweep", "qwen3-8b"]
    assert main(words) == 0
    assert "CONVERGED" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frontier.png", "sweep.parquet"]


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", README.read_text()))
def test_every_link_leads_somewhere(link):
    assert (README.parent / link).exists()
