"""Devices, processes, threads and Ctrl-C: the same parts byte for byte, whatever comes of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from sweeps import CHUNK, contents, names, run, study

from jaxalloc import sweep
from jaxalloc.sweep import allocations, running
from jaxalloc.sweep.folder import tidy
from jaxalloc.sweep.parts import part_name

AXES = {"arrival_rate": "0.01:2:500:log", "accuracy_weight": "1:300:100:log"}
LINE = [sys.executable, "-m", "jaxalloc", "sweep", "qwen3-8b"]
LINE += [f"--{name.replace('_', '-')}={axis}" for name, axis in AXES.items()]
LINE += ["--chunk-size", "500", "--resume", "--json", "--out"]


@pytest.fixture(scope="module")
def plan():
    return sweep.plan("qwen3-8b", AXES)


@pytest.fixture(scope="module")
def parts(plan, tmp_path_factory):
    """What one device writes, by name."""
    folder = tmp_path_factory.mktemp("one") / "out"
    sweep.run(plan, folder, chunk_size=500)
    return contents(folder)


def start(folder, *arguments, **environment):
    return subprocess.Popen(
        [*LINE, str(folder), *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, folder, pattern):
    while not list(folder.glob(pattern)) and process.poll() is None:
        time.sleep(0.001)
    assert process.poll() is None


def test_a_process_on_three_devices_and_one_that_dies_write_what_one_writes(parts, plan, tmp_path):
    folder, share = tmp_path / "out", ["--num-processes", "2", "--process-id"]
    dies = start(folder, *share, "1")
    lives = start(folder, *share, "0", JAX_NUM_CPU_DEVICES="3")
    wait_for(dies, folder, "part-*[13579].parquet")
    dies.send_signal(signal.SIGKILL)
    out, errors = lives.communicate(timeout=120)
    assert (lives.returncode, errors) == (0, "")
    assert json.loads(out)["complete"] is False
    dies.communicate(timeout=10)
    found = contents(folder)
    assert found.items() >= {part: parts[part] for part in map(part_name, range(0, 100, 2))}.items()
    assert 50 < len([name for name in found if name.startswith("part")]) < 100
    sweep.run(plan, folder, resume=True)
    assert contents(folder) == parts


def test_the_first_ctrl_c_ends_the_chunks_at_hand_and_the_second_all(parts, plan, tmp_path):
    folder = tmp_path / "out"
    for presses in (1, 2):
        process = start(folder)
        wait_for(process, folder, f"part-00000{'0' if presses == 1 else '2'}*.parquet")
        process.send_signal(signal.SIGINT)
        if presses == 2:
            process.stderr.readline()  # an empty one, and that it is stopping
            process.stderr.readline()
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (130 if presses == 1 else -signal.SIGINT)
        if presses == 1:
            assert "Ctrl-C again stops at once" in errors
            assert f"what was solved is in {folder}: run it again with --resume" in errors
            assert set(names(folder)) < set(parts)  # nothing is left unfinished
    assert contents(folder).items() != parts.items()
    sweep.run(plan, folder, resume=True)
    assert contents(folder) == parts


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_those_who_meet_in_one_folder_spoil_nothing(tmp_path, name):
    whole = run(tmp_path / "whole").table()
    folder = running.parts_of(tmp_path / name)

    def share(number):
        with jax.enable_x64(True):  # all of it, or a half
            process = {"process_id": number % 2, "num_processes": 2} if number < 4 else {}
            return run(tmp_path / name, resume=True, **process)

    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            futures = [pool.submit(share, number) for number in range(6)]
            while not all(future.done() for future in futures):
                with contextlib.suppress(FileNotFoundError):
                    if len(list(folder.glob("part-*"))) == 5:
                        tidy(folder)  # of what others are still writing
        assert [future.exception() for future in futures] == [None] * 6
        assert sweep.open(tmp_path / name).table() == whole
        for path in folder.glob("*"):
            path.unlink()
        assert names(tmp_path) == sorted({name, "whole"})


def test_the_share_of_a_process(tmp_path, monkeypatch):
    run(tmp_path / "out", process_id=1, num_processes=2)
    assert [p.name for p in sorted(tmp_path.glob("out/part*"))] == [part_name(1), part_name(3)]
    monkeypatch.setattr(jax, "process_index", lambda: 2)  # as jax.distributed counts them
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    assert not run(tmp_path / "out").complete
    assert [p.name[9:12] for p in sorted(tmp_path.glob("out/part*"))] == ["001", "002", "003"]
    for wrong in ((2, 2), (-1, 2), (None, 2), (0, 0), (1, None)):
        with pytest.raises(ValueError, match=r"^(num_processes|process_id) = .* must be a whole"):
            run(tmp_path / "out", process_id=wrong[0], num_processes=wrong[1])


def test_one_trace_for_a_whole_sweep(tmp_path, monkeypatch):
    traces = []
    dispatch = allocations.dispatch
    monkeypatch.setattr(allocations, "dispatch", lambda *a: traces.append(1) or dispatch(*a))
    allocations._solver.cache_clear()
    run(tmp_path / "out", study(base_time=[0.1, 0.2]))
    run(tmp_path / "other", study(base_time=[0.3], decay=[1e-3, 2e-3]))
    assert len(traces) == 1  # for another sweep neither


def test_what_is_compiled_does_not_grow_with_the_tasks():
    import jaxalloc

    def size(tasks):
        numbers = {"gain": 0.5, "decay": 1e-3, "floor": 0.1, "base_time": 0.1}
        numbers |= {"time_per_token": 1e-3, "max_tokens": 100, "accuracy_weight": 9}
        mix = np.full(tasks, 1 / tasks)
        one = jaxalloc.Workload.create(arrival_rate=0.1, mix=mix, **numbers)
        lanes = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (CHUNK, *leaf.shape)), one)
        made = jax.make_jaxpr(allocations._solver(jaxalloc.Newton()))(lanes)
        return len(str(made).splitlines())

    assert size(12) < 1.05 * size(7)
