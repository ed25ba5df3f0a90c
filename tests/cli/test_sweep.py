"""`jaxalloc sweep`: its rows, its document, its exit codes, and Ctrl-C."""

import json
import os
import re
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest

import jaxalloc
from jaxalloc.cli import sweep_progress
from jaxalloc.sweep import directory
from jaxalloc.sweep.designs import Grid

TOKENS = [f"tokens.{task}" for task in ("AIME24", "AIME25", "GPQA-D", "GSM8K", "HMMT25")]
ANSWERS = [
    "status",
    "objective",
    "utilization",
    "mean_accuracy",
    "mean_wait",
    "mean_system_time",
    "residual",
    "steps",
    *TOKENS,
]


def test_rows_are_the_answers_of_solve_in_the_order_of_the_axes(command, tmp_path):
    line = "--accuracy-weight 3:300:3:log --axis decay.GSM8K=1e-3:2e-3:2 --arrival-rate 0.1"
    code, out, err = command(f"sweep qwen3-8b {line} --out a.parquet")
    assert (code, err) == (0, "")
    assert "6 (100.0%)" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["accuracy_weight", "decay.GSM8K", "arrival_rate", *ANSWERS]
    rows = table.to_pydict()
    np.testing.assert_allclose(rows["accuracy_weight"], [3, 3, 30, 30, 300, 300])
    np.testing.assert_allclose(rows["decay.GSM8K"], [1e-3, 2e-3] * 3)
    assert rows["arrival_rate"] == [0.1] * 6
    assert rows["status"] == ["CONVERGED"] * 6

    from jaxalloc.workloads import files as workloads

    for row in (0, 3):
        text = workloads.builtin_text("qwen3-8b")
        text = text.replace("2.66e-3", repr(rows["decay.GSM8K"][row]))
        (tmp_path / "one.toml").write_text(text)
        weight = rows["accuracy_weight"][row]
        alone = json.loads(command(f"solve one.toml --accuracy-weight {weight!r} --json").out)
        for name in ANSWERS[1:6]:
            assert rows[name][row] == pytest.approx(alone[name], rel=1e-9)
        tokens = [task["tokens"] for task in alone["tasks"]]
        assert [rows[name][row] for name in TOKENS] == pytest.approx(tokens, rel=1e-6, abs=1e-6)


def test_the_order_of_the_flags_is_the_order_of_the_rows(command, tmp_path):
    command("sweep qwen3-8b --max-tokens=8:9:2 --service-cv 0:1:2 --out a.parquet")
    command("sweep qwen3-8b --service-cv 0:1:2 --axis max-tokens=8:9:2 --out b.parquet")
    a, b = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet")
    assert a["max_tokens"].to_pylist() == [8, 8, 9, 9]
    assert b["service_cv"].to_pylist() == [0, 0, 1, 1]
    order = [("max_tokens", "ascending"), ("service_cv", "ascending")]
    assert a.sort_by(order) == b.sort_by(order).select(a.column_names)


def test_the_document(command):
    code, out, err = command("sweep qwen3-8b --arrival-rate 0.1:90:2:log --json")
    assert (code, err) == (0, "")  # an overloaded server is an answer
    document = json.loads(out)
    assert document["configurations"] == 2
    assert document["status"] == {"CONVERGED": 1, "INFEASIBLE": 1}
    assert document["axes"] == {
        "arrival_rate": {"start": 0.1, "stop": 90.0, "count": 2, "spacing": "log"}
    }
    assert document["per_second"] == pytest.approx(2 / document["seconds"])


def test_a_lane_that_did_not_converge_is_a_failure(command):
    line = "--max-tokens 100:20000:2 --tolerance 1e-16 --max-steps 2"
    code, out, err = command(f"sweep qwen3-8b {line} --json")
    assert code == 1
    assert err.startswith("jaxalloc: MAX_STEPS: 1 configurations: the residual is above")
    assert json.loads(out)["status"] == {"MAX_STEPS": 1, "CONVERGED": 1}


def test_chunks_leave_no_trace_in_the_rows(command, tmp_path):
    line = "sweep qwen3-8b --arrival-rate 0.01:2:11:log --accuracy-weight 1:300:3:log"
    command(f"{line} --out one.parquet")
    command(f"{line} --chunk-size 8 --out many.parquet")
    command(f"{line} --chunk-size 8 --out folder")
    one = pq.read_table(tmp_path / "one.parquet")
    many = pq.read_table(tmp_path / "many.parquet")
    assert len(one) == 33
    assert jaxalloc.sweep.open(tmp_path / "folder").table() == many.replace_schema_metadata(None)
    for name in ("arrival_rate", "accuracy_weight", "status"):
        assert one[name].to_pylist() == many[name].to_pylist()
    for name in TOKENS:
        np.testing.assert_allclose(many[name], one[name], rtol=1e-6, atol=1e-6)


def press_ctrl_c(monkeypatch, times, at):
    """Press Ctrl-C while the rows from `at` on are being made."""
    rows = Grid.rows

    def pressed(grid, start, stop):
        if start == at:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return rows(grid, start, stop)

    monkeypatch.setattr(Grid, "rows", pressed)


def test_ctrl_c_keeps_the_chunks_that_were_begun(command, tmp_path, monkeypatch):
    press_ctrl_c(monkeypatch, 1, at=0)
    (tmp_path / "a.parquet").write_text("old")
    handler = signal.getsignal(signal.SIGINT)
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4"
    code, out, err = command(f"{line} --out a.parquet")
    assert (code, out) == (130, "")
    assert "interrupted after 4 of 10 configurations: they are in a.partial.parquet" in err
    assert (tmp_path / "a.parquet").read_text() == "old"
    table = pq.read_table(tmp_path / "a.partial.parquet")
    np.testing.assert_allclose(table["arrival_rate"], np.linspace(0.1, 0.2, 10)[:4])
    assert len(list(tmp_path.iterdir())) == 2
    assert signal.getsignal(signal.SIGINT) is handler

    code, _, err = command(f"{line} --out folder")
    assert code == 130
    assert "interrupted after 4 of 10 configurations: what was solved is in folder" in err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert command(f"{line} --out folder --resume").code == 0
    assert len(jaxalloc.sweep.open(tmp_path / "folder").table()) == 10


def test_a_log_file_gets_lines_with_rate_and_remaining_time(command, monkeypatch):
    monkeypatch.setattr(sweep_progress, "_LINE_EVERY", 0.0)
    _, _, err = command("sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4")
    pattern = r"jaxalloc: \d+ of 10 \(\d+\.0%\), [\d,]+ / s, [\d,]+ s left"
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert lines[-1].startswith("jaxalloc: 10 of 10 (100.0%)")


def test_a_dry_run_says_what_it_would_take(command, tmp_path):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:40 --chunk-size 4 --out folder --dry-run"
    code, out, err = command(f"{line} --json")
    assert (code, err, list(tmp_path.iterdir())) == (0, "", [])
    document = json.loads(out)
    assert (document["configurations"], document["chunks"], document["chunk_size"]) == (40, 10, 4)
    assert document["seconds"] > 0
    command(line.removesuffix(" --dry-run"))
    written = sum(path.stat().st_size for path in tmp_path.glob("folder/part-*"))
    assert document["bytes"] == pytest.approx(written, rel=0.1)
    for rows in (0, -5):
        code, out, err = command(f"{line} --chunk-size {rows}")
        assert (code, out) == (2, "")
        assert err == f"jaxalloc: --chunk-size = {rows} must be at least 1: drop it\n"


def test_a_full_disk_keeps_the_parts_of_a_folder(command, tmp_path, monkeypatch):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4 --out folder"
    write = directory.write_whole

    def full(path, data):
        if path.name == "part-0000002.parquet":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(directory, "write_whole", full)
    code, out, err = command(line)
    assert (code, out) == (2, "")
    assert err == (
        "jaxalloc: --out = 'folder': No space left on device: 8 of 10 configurations are kept: "
        "make room and add --resume\n"
    )
    monkeypatch.setattr(directory, "write_whole", write)
    assert command(f"{line} --resume").code == 0
    assert jaxalloc.sweep.open(tmp_path / "folder").complete


def test_a_plan_file_is_swept_resumed_and_confirmed(command, tmp_path):
    (tmp_path / "plan.toml").write_text(
        'workload = "qwen3-8b"\n[axes]\narrival_rate = "0.1:0.2:10"\n'
    )
    assert command("sweep plan.toml --out folder").code == 0
    assert command("sweep plan.toml --out folder").code == 2
    code, out, err = command("sweep plan.toml --out folder --resume --json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["solved"], json.loads(out)["status"]) == (0, {"CONVERGED": 10})
    assert "folder is complete" in command("sweep plan.toml --out folder --resume").out
    code, _, err = command("sweep plan.toml --decay 1")
    assert (code, err) == (2, "jaxalloc: decay: plan.toml is a plan: write it there\n")
    for ignored in ("--solver fixed-point", "--max-steps 2", "--tolerance 1e-3"):
        code, _, err = command(f"sweep plan.toml {ignored}")
        assert code == 2
        assert "solver, max_steps or tolerance: plan.toml is a plan: write it there" in err


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(command, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = command("sweep qwen3-8b --out a.parquet")
    assert (code, out) == (2, "")
    assert err == (
        "jaxalloc: --out = 'a.parquet': No space left on device: make room or give another\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "axes",
    [
        "--arrival-rate 0.05:2:9:log --accuracy-weight 1:300:9:log",
        "--accuracy-weight 1:300:9:log",
        "--accuracy-weight 1:300:9 --service-cv 0:1:3 --axis decay.GSM8K=1e-3:2e-3:2",
        "--accuracy-weight 1:300:9 --arrival-rate 80:90:3",  # nothing converges
    ],
)
def test_the_frontier_is_drawn(command, tmp_path, axes):
    code, out, err = command(f"sweep qwen3-8b {axes} --plot a.png")
    assert (code, err) == (0, "")
    assert "wrote a.png" in out
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
