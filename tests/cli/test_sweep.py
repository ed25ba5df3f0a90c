"""`jaxalloc sweep`: its rows, its document, its exit codes, and Ctrl-C."""

import json
import os
import re
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from sweeps import small_disk

import jaxalloc
from jaxalloc import sweep
from jaxalloc.cli import sweep_progress
from jaxalloc.cli.sweep_answer import complain
from jaxalloc.sweep import directory, running
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
    code, out, err = command("sweep qwen3-8b --arrival-rate 0.1:90:2:log --json --out a.parquet")
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
    code, out, err = command(f"sweep qwen3-8b {line} --json --out a.parquet")
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
        if start == at and stop > start + 1:  # not the row that a plan is judged by
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


@pytest.mark.parametrize(
    ("point", "chunk"),
    [("append", 1), ("append", 3), ("rows", 1), ("rows", 3), ("close", 1), ("publish", 1)],
)
def test_a_second_ctrl_c_at_any_moment_loses_no_row(command, tmp_path, monkeypatch, point, chunk):
    """Three presses, before and after what is done with the last chunk, by whichever thread."""
    from jaxalloc.sweep import parquet, processes

    def leave(code):
        raise typer.Exit(code)

    def with_presses(work, count=[0]):  # noqa: B006
        def pressed(*arguments, **options):
            count[0] += 1
            if count[0] < chunk:
                return work(*arguments, **options)
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            made = work(*arguments, **options)
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
            return made

        return pressed

    monkeypatch.setattr(processes, "leave_at_once", leave)
    places = {
        "append": (pq.ParquetWriter, "write_table"),
        "rows": (running, "count_statuses"),
        "close": (pq.ParquetWriter, "close"),
        "publish": (parquet, "publish"),
    }
    owner, name = places[point]
    monkeypatch.setattr(owner, name, with_presses(getattr(owner, name)))
    code, out, err = command(
        "sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4 --out a.parquet"
    )
    assert (code, out) == (130, "")
    done, where = re.search(r"after (\d+) of 10 configurations: they are in ([\w.]+)", err).groups()
    assert where == ("a.parquet" if int(done) == 10 else "a.partial.parquet")
    assert [path.name for path in tmp_path.iterdir()] == [where]
    assert len(pq.read_table(tmp_path / where)) == int(done)


def test_a_log_file_gets_lines_with_rate_and_remaining_time(command, monkeypatch):
    monkeypatch.setattr(sweep_progress, "_LINE_EVERY", 0.0)
    _, _, err = command("sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4 --out a")
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
        assert err.startswith(f"jaxalloc: --chunk-size = {rows} must be a whole number from 1 to")


def test_a_full_disk_keeps_the_parts_of_a_folder(command, tmp_path, monkeypatch):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4 --out folder"
    write = directory.write_whole

    def full(path, data, **options):
        if path.name == "part-0000002.parquet":
            raise OSError(28, "No space left on device")
        write(path, data, **options)

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
    out = command("sweep plan.toml --out folder --resume").out
    assert "folder is complete" in out
    code, _, err = command("sweep plan.toml --decay 1 --dry-run")
    assert (code, err) == (2, "jaxalloc: decay: plan.toml is a plan: write it there\n")
    for ignored in ("--solver fixed-point", "--max-steps 2", "--tolerance 1e-3"):
        code, _, err = command(f"sweep plan.toml {ignored} --dry-run")
        assert code == 2
        assert "solver, max_steps or tolerance: plan.toml is a plan: write it there" in err


def test_a_disk_that_fills_up_is_named_and_leaves_nothing(command, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = command("sweep qwen3-8b --out a.parquet")
    assert (code, out) == (2, "")
    assert err == (
        "jaxalloc: --out = 'a.parquet': No space left on device: make room, or give a folder, "
        "which keeps what was solved\n"
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


def test_a_picture_drawn_from_a_finished_folder_was_drawn_now(command):
    line = "sweep qwen3-8b --accuracy-weight 1:300:9:log --out a"
    command(line)
    out = command(f"{line} --resume --plot p.png").out
    assert "a is complete" in out
    assert "wrote p.png" in out


def test_a_sweep_that_would_keep_nothing_is_refused(command):
    code, out, err = command("sweep qwen3-8b --arrival-rate 0.1:0.2:10 --json")
    assert (code, out) == (2, "")
    assert err.startswith("jaxalloc: --out is missing: give a file (.parquet) or a folder")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--min-tokens 20000", "min_tokens[0] = 20000 must not exceed max_tokens"),
        ("--min-tokens 20000:30000:9 --arrival-rate 0.1:0.2:9", "of the first, min_tokens[0] = 20"),
        ("--axis min-tokens.GSM8K=9e4", "min_tokens[3] = 90000 must not exceed max_tokens"),
        ("--min-tokens 2e4:3e4 --design sobol --points 9", "every configuration is INVALID"),
    ],
)
def test_a_sweep_of_nothing_but_impossible_workloads_is_refused(command, tmp_path, line, named):
    code, out, err = command(f"sweep qwen3-8b {line} --out a")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert named in err
    assert list(tmp_path.iterdir()) == []


def test_some_impossible_rows_are_counted(command):
    code, out, err = command("sweep qwen3-8b --min-tokens 30000:10:7 --json --out a")
    assert code == 1
    count = json.loads(out)["status"]["INVALID"]
    assert 0 < count < 7
    assert err.startswith(f"jaxalloc: INVALID: {count} configurations: a field of the workload is")
    schedules = sweep.plan(
        schedule="geometric:mean=20", fields={"capacity": 400, "requests": 5}, axes={"seed": [1, 2]}
    )
    for statuses, ended in (({"FINISHED": 2}, 0), ({"FINISHED": 1, "INVALID": 1}, 1)):
        try:
            complain(schedules, statuses)
            code = 0
        except typer.Exit as stopped:
            code = stopped.exit_code
        assert code == ended


def test_a_folder_is_verified_and_mended(command, tmp_path):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:10 --chunk-size 4 --out folder"
    command(line)
    line = line.replace(" --chunk-size 4", "")
    code, out, err = command(f"{line} --verify --json")
    assert (code, err, json.loads(out)["damaged"]) == (0, "", {})
    assert "3 parts" in command(f"{line} --verify").out
    part = tmp_path / "folder" / "part-0000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole.replace(whole[100:101], bytes([whole[100] ^ 1]), 1))
    code, out, err = command(f"{line} --verify --json")
    assert (code, json.loads(out)["damaged"]) == (1, {part.name: "its digest differs"})
    assert command(f"{line} --resume").code == 0  # which does not read what the footer tells
    assert part.read_bytes() != whole
    code, out, err = command(f"{line} --resume --verify --json")
    assert (code, json.loads(out)["solved"]) == (0, 4)
    assert err == "jaxalloc: part-0000001.parquet was damaged (its digest differs): solved again\n"
    assert part.read_bytes() == whole
    for wrong, named in (
        ("sweep qwen3-8b --verify", "--verify is of a folder: add --out FOLDER"),
        ("sweep qwen3-8b --verify --out folder", "is of another plan"),
        ("sweep qwen3-8b --verify --out nothing", "'nothing' is no folder"),
        ("sweep qwen3-8b --verify --out a.parquet", "'a.parquet' is no folder"),
        ("sweep qwen3-8b --verify --out . --dry-run", "--verify only reads: drop --plot and"),
        (f"{line} --resume --out a.parquet", "'a.parquet' is one file: give a folder"),
    ):
        code, _, err = command(wrong)
        assert (code, len(err.splitlines())) == (2, 1)
        assert named in err


def test_a_damaged_folder_is_one_line(command, tmp_path):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:3 --accuracy-weight 1:9:3 --out folder"
    command(line)
    rng = np.random.default_rng(1)
    manifest, part = (tmp_path / "folder" / n for n in ("_manifest.json", "part-0000000.parquet"))
    for path in (manifest, part):
        data = path.read_bytes()
        for place in len(data) - rng.integers(1, 600, 3):  # the end of a part is its footer
            path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
            if path is manifest:
                code, _, err = command("plot folder --kind heat --json")
                assert (code, len(err.splitlines())) == (2, 1)
            code, _, err = command(f"{line} --verify")
            assert code == (2 if path is manifest else 1)
            assert len(err.splitlines()) == code - 1
        path.write_bytes(data)
    assert command(f"{line} --verify").code == 0


def test_a_full_disk_in_a_picture_is_one_line(command, tmp_path):
    line = "sweep qwen3-8b --accuracy-weight 1:300:9:log --out a.parquet --plot p.png"
    with small_disk(20_000):
        code, out, err = command(line)
    assert (code, out) == (2, "")
    assert err.startswith("jaxalloc: p.png was not drawn (File too large)")
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
