"""Running commands in this process, as the shell would see them."""

import os
from typing import NamedTuple

import pytest

from jaxalloc.cli import main, sweep_progress

os.environ["JAXALLOC_CACHE"] = "0"  # the compiled programs of the user are not for tests


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty folder; words are split at spaces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    # However slow the machine is, a sweep says nothing unless a test lets it.
    monkeypatch.setattr(sweep_progress, "_LINE_EVERY", float("inf"))

    def run(line):
        capsys.readouterr()
        code = main(line.split())
        return Outcome(code, *capsys.readouterr())

    return run
