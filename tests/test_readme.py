"""Every page's programs and commands run and print what the page says; its links lead somewhere."""

import re
import shlex

import pytest
from pages import PAGES, ROOT, agree, run_in_a_process

from jaxalloc.cli import main

EVERY = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@EVERY
def test_what_a_page_shows_is_what_runs(page, tmp_path):
    assert run_in_a_process(page, tmp_path) == page.read_text()


@EVERY
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_first_command_sweeps_a_built_in_workload(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "README.md").read_text().replace("\\\n", " ")
    words = shlex.split(re.search(r"pip install \. && jaxalloc (sweep qwen3-8b .*)", page)[1])
    assert main(words) == 0
    assert "CONVERGED" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frontier.png", "sweep.parquet"]


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_outputs_agree_in_words_and_in_numbers():
    assert agree("mean 1.00 s after … steps\n", "mean  1.01 s after 4 steps\n")
    assert not agree("mean 1.00 s\n", "mean 1.03 s\n")
    assert not agree("mean 1.00 s\n", "wait 1.00 s\n")
