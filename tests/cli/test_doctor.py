"""`jaxalloc doctor`: what is there, two known answers, a hint about an idle GPU."""

import json

import pytest

from jaxalloc.cli import doctor


def test_it_says_what_is_there_and_that_it_computes(command):
    code, out, err = command("doctor --json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert {name: test["passed"] for name, test in document["tests"].items()} == {
        "allocation": True,
        "schedule": True,
    }
    assert document["versions"]["jax"]
    assert [device["platform"] for device in document["devices"]] == [document["platform"]]
    assert document["free_memory_bytes"] > 1e8
    assert "self-test: schedule    as expected" in command("doctor").out


def test_a_wrong_answer_is_a_failure(command, monkeypatch):
    monkeypatch.setattr(doctor, "_KNOWN_FINISH", [5, 4, 4])
    code, out, err = command("doctor")
    assert code == 1
    assert "[5, 4, 3], not [5, 4, 4]" in out
    assert err == "jaxalloc: a self-test failed: reinstall jax and jaxalloc\n"


def test_a_missing_package_is_named_and_the_rest_is_told(command, monkeypatch):
    version = doctor.metadata.version

    def lacking(name):
        if name == "xarray":
            raise doctor.metadata.PackageNotFoundError(name)
        return version(name)

    def broken():
        raise ImportError("No module named 'pydantic'", name="pydantic")

    monkeypatch.setattr(doctor.metadata, "version", lacking)
    monkeypatch.setattr(doctor, "_allocation", broken)
    code, out, err = command("doctor")
    assert code == 1
    assert "self-test: schedule    as expected" in out
    assert "self-test: allocation  not run" in out
    assert [line.partition(" is missing")[0] for line in err.splitlines()] == [
        "jaxalloc: the package xarray",
        "jaxalloc: the package pydantic",
    ]


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no 'cuda'")])
@pytest.mark.parametrize(
    "line", ["doctor", "solve qwen3-8b", "queue qwen3-8b", "sweep qwen3-8b --dry-run"]
)
def test_no_device_is_one_line(command, monkeypatch, line, error):
    def none():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr("jax.devices", none)
    code, out, err = command(line)
    assert code == (1 if line == "doctor" else 2)
    assert err.startswith("jaxalloc: JAX_PLATFORMS = 'cuda': JAX finds no such device")
    assert err.count("\n") == 1
    assert ("machine" in out) == (line == "doctor")


@pytest.mark.parametrize(
    ("platform", "gpu", "chosen", "said"),
    [
        ("cpu", True, "", "install jaxalloc[cuda12]"),
        ("cpu", True, "cpu", "JAX_PLATFORMS = 'cpu' keeps JAX from it: unset it"),
        ("cpu", False, "", None),
        ("gpu", True, "", None),
    ],
)
def test_an_idle_gpu_gets_a_hint(monkeypatch, platform, gpu, chosen, said):
    monkeypatch.setenv("JAX_PLATFORMS", chosen)
    found = doctor.hints(platform, gpu)
    assert [said in hint for hint in found] == ([True] if said else [])
