"""Every file that the package writes appears whole, and no link leads it to another."""

import ast
import re
from pathlib import Path

import matplotlib.figure
import pytest
from sweeps import run, study

import jaxalloc
from jaxalloc.cli.plots.style import save as save_figure
from jaxalloc.files import new_file
from jaxalloc.workloads import files as workloads

PACKAGE = Path(jaxalloc.__file__).parent


def write_bytes(path):
    with new_file(path) as file:
        file.write(b"new")


WRITERS = {
    "bytes": write_bytes,
    "workload.toml": lambda path: workloads.save(workloads.load("qwen3-8b"), path),
    "picture.png": lambda path: save_figure(matplotlib.figure.Figure(), path),
    "picture.svg": lambda path: save_figure(matplotlib.figure.Figure(), path),
    "rows.parquet": lambda path: run(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_in_the_way_is_replaced_and_what_it_points_to_is_untouched(tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / name
    path.symlink_to(victim)
    WRITERS[name](path)
    assert victim.read_text() == "mine"
    assert not path.is_symlink()
    assert path.stat().st_size > 0
    assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_names_of_unfinished_files_cannot_be_guessed_and_are_made_exclusively(tmp_path):
    seen = set()

    def interrupt(path):
        with new_file(path) as file:
            seen.add(Path(file.name).name)
            assert file.mode == "xb"
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupt(tmp_path / ("n" * 250))
    assert len(seen) == 2
    assert all(re.fullmatch(r"\.n+\.[0-9a-f]{16}\.tmp", name) for name in seen)
    assert list(tmp_path.iterdir()) == []


def test_links_in_a_folder_of_parts_lead_nowhere(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("mine")
    folder.mkdir()
    names = ["part-0000002.parquet", "_part-0000002.parquet.json", ".part-0000002.parquet.0.tmp"]
    for name in names:
        (folder / name).symlink_to(victim)
    run(folder, study(), resume=True)
    assert victim.read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_nothing_else_in_the_package_writes_a_file():
    """Calls that open a path to write, by name; `files.py` alone may hold them."""
    writing = {
        "write_text",
        "write_bytes",
        "touch",
        "mkstemp",
        "NamedTemporaryFile",
        "replace_file",
    }
    for path in PACKAGE.rglob("*.py"):
        if path.name == "files.py" and path.parent == PACKAGE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in writing, f"{path}: {called}"
            if called == "open":
                modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
                modes += [k.value.value for k in node.keywords if k.arg == "mode"]
                assert not any(set(str(mode)) & set("wax+") for mode in modes), path
