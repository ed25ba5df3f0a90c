"""`jaxalloc/__init__.py`: three lists of the same names, each found where the map says."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import jaxalloc


def names_for_type_checkers():
    tree = ast.parse(Path(jaxalloc.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_the_three_lists_agree():
    assert names_for_type_checkers() == jaxalloc._HOME
    assert jaxalloc.__all__ == sorted(jaxalloc._HOME)
    assert set(jaxalloc.__all__) <= set(dir(jaxalloc))


@pytest.mark.parametrize("name", jaxalloc.__all__)
def test_every_name_is_at_home(name):
    home = importlib.import_module(jaxalloc._HOME[name])
    assert getattr(jaxalloc, name) is getattr(home, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'jaxalloc' has no attribute 'nothing'"):
        _ = jaxalloc.nothing


def test_importing_the_map_and_all_its_names_starts_no_backend():
    script = (
        "import jaxalloc; [getattr(jaxalloc, name) for name in jaxalloc.__all__]\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
