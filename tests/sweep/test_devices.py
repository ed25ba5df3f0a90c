"""Several devices and several processes: the same parts, byte for byte, and no silent deaths."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from jaxalloc.sweep.manifest import MANIFEST
from sweeps import names

from jaxalloc import sweep

AXES = {"arrival_rate": "0.01:2:100:log", "accuracy_weight": "1:300:50:log"}
LINE = ["sweep", "qwen3-8b", "--arrival-rate", AXES["arrival_rate"]]
LINE += ["--accuracy-weight", AXES["accuracy_weight"], "--chunk-size", "200", "--json", "--out"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """What one device writes, by name."""
    folder = tmp_path_factory.mktemp("one") / "out"
    sweep.run(sweep.plan("qwen3-8b", AXES), folder, chunk_size=200)
    return read(folder)


def read(folder):
    return {name: (folder / name).read_bytes() for name in names(folder) if name != MANIFEST}


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxalloc", *LINE, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(folder, count, *more):
    """`count` processes that share a sweep."""
    flags = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", str(count)]
    return [start(str(folder), *flags, "--process-id", str(i), *more) for i in range(count)]


def test_eight_devices_write_what_one_writes(parts, tmp_path):
    process = start(str(tmp_path / "out"), JAX_NUM_CPU_DEVICES="8")
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert read(tmp_path / "out") == parts


def test_three_processes_write_what_one_writes(parts, tmp_path):
    processes = together(tmp_path / "out", 3)
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert read(tmp_path / "out") == parts
    assert [bool(out) for out, _ in ended] == [True, False, False]  # one answer
    assert sweep.open(tmp_path / "out").manifest["complete"]


def test_the_death_of_one_ends_the_others_and_a_resume_finishes(parts, tmp_path):
    folder = tmp_path / "out"
    first, second = together(folder, 2)
    while not (folder / MANIFEST).exists() and first.poll() is None:
        time.sleep(0.005)
    second.send_signal(signal.SIGKILL)  # before it has compiled anything
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "process 1 gave no sign of life" in errors
    assert "run it again with --resume" in errors
    assert 0 < len(read(folder)) < len(parts)
    second.communicate(timeout=10)
    sweep.run(sweep.plan("qwen3-8b", AXES), folder, resume=True)
    assert read(folder) == parts


def test_the_death_of_the_coordinator_ends_the_others_too(tmp_path):
    folder = tmp_path / "out"
    first, second = together(folder, 2)
    while not (folder / MANIFEST).exists() and first.poll() is None:
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    _, errors = second.communicate(timeout=120)
    assert second.returncode != 0  # JAX aborts it natively
    assert errors.splitlines()[-1].endswith("are kept: run it again with --resume")
    first.communicate(timeout=10)


def test_processes_that_cannot_share_say_why(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    processes = together(tmp_path, 2)
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], ended
    for _, errors in ended:
        assert "is not empty: add --resume" in errors
