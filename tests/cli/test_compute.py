"""Where the commands compute: in float64, with compiled programs kept for the next run."""

import os
from pathlib import Path

import jax
import pytest

from jaxalloc.cli import compute

FLAGS = ("jax_enable_x64", "jax_compilation_cache_dir")


@pytest.fixture
def no_cache(monkeypatch, tmp_path):
    """No cache of the machine's own; the user's folder is a new one."""
    wanted = {"jax_compilation_cache_dir": None, "jax_enable_compilation_cache": True}
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    monkeypatch.delenv("JAXALLOC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home" / "jaxalloc"
    for name, value in before.items():
        jax.config.update(name, value)


def test_what_was_set_is_set_again(no_cache):
    before = [jax.config.values[name] for name in FLAGS]
    with compute.computing():
        assert jax.config.values["jax_enable_x64"]
        assert jax.config.values["jax_compilation_cache_dir"] == str(no_cache)
    assert [jax.config.values[name] for name in FLAGS] == before


@pytest.mark.parametrize("why", ["switched off", "no home", "a file is in the way", "the user's"])
def test_programs_are_not_kept(no_cache, monkeypatch, tmp_path, why):
    own = None
    if why == "switched off":
        monkeypatch.setenv("JAXALLOC_CACHE", "0")
    elif why == "no home":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    elif why == "a file is in the way":
        (tmp_path / "home").write_text("")
    else:
        own = str(tmp_path / "own")
        jax.config.update("jax_compilation_cache_dir", own)
    with compute.computing():
        assert jax.config.values["jax_compilation_cache_dir"] == own
    assert not no_cache.exists()


def test_the_oldest_programs_are_dropped(no_cache, monkeypatch):
    no_cache.mkdir(parents=True)
    for age, name in enumerate(("new", "middle", "old")):
        file = no_cache / f"{name}-cache"
        file.write_bytes(b"x" * 10)
        os.utime(file, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(compute, "MOST_KEPT", 25)
    with compute.computing():
        assert sorted(file.name for file in no_cache.iterdir()) == ["middle-cache", "new-cache"]


@pytest.mark.parametrize("damage", ["none", "corrupt", "read-only"])
def test_a_damaged_cache_is_no_failure(no_cache, monkeypatch, damage):
    monkeypatch.setattr(compute, "_LEAST_COMPILE_SECONDS", 0.0)

    def kept():
        with compute.computing():
            assert jax.jit(lambda x: 3 * x)(2.0) == 6
        return {file.name for file in no_cache.glob("*-cache")}

    first = kept()
    assert first
    for name in first if damage == "corrupt" else ():
        (no_cache / name).write_bytes(b"nonsense")
    no_cache.chmod(0o500 if damage == "read-only" else 0o700)
    assert kept() == first  # and no warning, which would be an error here
    no_cache.chmod(0o700)
