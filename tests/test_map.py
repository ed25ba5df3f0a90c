"""`jaxalloc/__init__.pyi`: one list of the public names, each found where it says."""

import importlib
import subprocess
import sys

import pytest

import jaxalloc


def test_only_public_names_are_shown():
    assert set(dir(jaxalloc)) == {*jaxalloc.__all__, "__version__"}
    assert jaxalloc.__all__ == sorted(jaxalloc.__all__)


@pytest.mark.parametrize("name", jaxalloc.__all__)
def test_every_name_is_at_home(name):
    home = importlib.import_module(jaxalloc._HOMES[name])
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
