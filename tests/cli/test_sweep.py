"""`jaxalloc sweep`: its rows, its document, its exit codes, and Ctrl-C."""

import json
import os
import re
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
from sweeps import names, small_disk

from jaxalloc import sweep
from jaxalloc.cli import sweep_progress
from jaxalloc.cli.sweep_answer import failures
from jaxalloc.sweep import parts
from jaxalloc.sweep.designs import Design
from jaxalloc.workloads import files

TOKENS = [f"tokens.{task}" for task in ("AIME24", "AIME25", "GPQA-D", "GSM8K", "HMMT25")]
FIGURES = ["objective", "utilization", "mean_accuracy", "mean_wait", "mean_system_time"]
ANSWERS = ["status", *FIGURES, "residual", "steps", *TOKENS]
# All sweeps here have chunks of eight configurations, which are compiled once.
LINE = "sweep qwen3-8b --arrival-rate 0.1:0.2:20 --chunk-size 8"


def test_rows_are_the_answers_of_solve_in_the_order_of_the_axes(command, tmp_path):
    line = "--accuracy-weight 3:300:3:log --axis decay.GSM8K=1e-3:2e-3:2 --arrival-rate 0.1"
    code, out, err = command(f"sweep qwen3-8b {line} --out a.parquet")
    assert (code, err) == (0, "")
    assert "6 (100.0%)" in out
    assert names(tmp_path) == ["a.parquet"]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["accuracy_weight", "decay.GSM8K", "arrival_rate", *ANSWERS]
    rows = table.to_pydict()
    np.testing.assert_allclose(rows["accuracy_weight"], [3, 3, 30, 30, 300, 300])
    np.testing.assert_allclose(rows["decay.GSM8K"], [1e-3, 2e-3] * 3)
    assert rows["arrival_rate"] == [0.1] * 6
    assert rows["status"] == ["CONVERGED"] * 6
    for row in (0, 3):
        text = files.builtin_text("qwen3-8b").replace("2.66e-3", repr(rows["decay.GSM8K"][row]))
        (tmp_path / "one.toml").write_text(text)
        weight = rows["accuracy_weight"][row]
        alone = json.loads(command(f"solve one.toml --accuracy-weight {weight!r} --json").out)
        for name in FIGURES:
            assert rows[name][row] == pytest.approx(alone[name], rel=1e-9)
        tokens = [task["tokens"] for task in alone["tasks"]]
        assert [rows[name][row] for name in TOKENS] == pytest.approx(tokens, rel=1e-6, abs=1e-6)


def test_the_order_of_the_flags_is_the_order_of_the_rows(command, tmp_path):
    code, out, _ = command(
        "sweep qwen3-8b --max-tokens=8:9:2 --service-cv 0:1:3 --chunk-size 8 --json --out a.parquet"
    )
    document = json.loads(out)
    assert (code, document["configurations"], document["status"]) == (0, 6, {"CONVERGED": 6})
    linear = {"start": 0.0, "stop": 1.0, "count": 3, "spacing": "linear"}
    assert list(document["axes"].items())[1] == ("service_cv", linear)
    assert document["per_second"] == pytest.approx(6 / document["seconds"])
    assert pq.read_table(tmp_path / "a.parquet")["max_tokens"].to_pylist() == [8] * 3 + [9] * 3
    command("sweep qwen3-8b --service-cv 0:1:3 --axis max-tokens=8:9:2 --chunk-size 8 --out b")
    found = sweep.open(tmp_path / "b").table()
    assert found["service_cv"].to_pylist() == [0, 0, 0.5, 0.5, 1, 1]
    a = pq.read_table(tmp_path / "a.parquet")
    order = [("max_tokens", "ascending"), ("service_cv", "ascending")]
    assert a.sort_by(order) == found.sort_by(order).select(a.column_names)


def test_failures_are_counted_and_exit_with_1(command):
    code, out, err = command("sweep qwen3-8b --arrival-rate 0.1:90:8:log --json --out a")
    assert (code, err) == (0, "")  # an overloaded server is an answer
    assert json.loads(out)["status"].keys() == {"CONVERGED", "INFEASIBLE"}
    line = "--max-tokens 100:20000:2 --tolerance 1e-16 --max-steps 2"
    code, out, err = command(f"sweep qwen3-8b {line} --json --out b")
    assert code == 1
    assert err.startswith("jaxalloc: MAX_STEPS: 1 configurations: the residual is above")
    code, out, err = command("sweep qwen3-8b --min-tokens 30000:10:7 --json --out c")
    count = json.loads(out)["status"]["INVALID"]
    assert (code, 0 < count < 7) == (1, True)
    assert err.startswith(f"jaxalloc: INVALID: {count} configurations: a field of the workload is")
    schedules = sweep.plan(
        schedule="geometric:mean=20", fields={"capacity": 400, "requests": 5}, axes={"seed": [1, 2]}
    )
    for statuses in ({"FINISHED": 2}, {"FINISHED": 1, "INVALID": 1}, {"MAX_ROUNDS": 2}):
        said = failures(schedules, {"status": statuses})
        assert len(said) == (statuses != {"FINISHED": 2})


def test_ctrl_c_keeps_the_chunks_that_were_begun(command, tmp_path, monkeypatch):
    rows = Design.rows

    def pressed(design, start, stop):
        if stop - start == 8:  # not the row that a plan is judged by
            os.kill(os.getpid(), signal.SIGINT)
        return rows(design, start, stop)

    (tmp_path / "a.parquet").write_text("old")
    handler = signal.getsignal(signal.SIGINT)
    for out in ("a.parquet", "folder"):
        with monkeypatch.context() as patch:
            patch.setattr(Design, "rows", pressed)
            code, shown, err = command(f"{LINE} --out {out}")
        assert (code, shown) == (130, "")
        kept = out + ".parts" if out == "a.parquet" else out
        assert f"interrupted after 8 of 20 configurations: what was solved is in {kept}" in err
        assert signal.getsignal(signal.SIGINT) is handler
        assert out == "folder" or (tmp_path / out).read_text() == "old"
        assert command(f"{LINE} --out {out}").code == 2  # it is not to be lost by a slip
        assert command(f"{LINE} --out {out} --resume").code == 0
        assert len(sweep.open(tmp_path / out).table()) == 20
    assert names(tmp_path) == ["a.parquet", "folder"]


def test_a_log_file_gets_lines_with_rate_and_remaining_time(command, monkeypatch):
    monkeypatch.setattr(sweep_progress, "_LINE_EVERY", 0.0)
    _, _, err = command(f"{LINE} --out a")
    pattern = r"jaxalloc: \d+ of 20 \(\d+\.0%\), [\d,]+ / s, [\d,]+ s left"
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert lines[-1].startswith("jaxalloc: 20 of 20 (100.0%)")


def test_a_dry_run_says_what_it_would_take(command, tmp_path):
    line = "sweep qwen3-8b --arrival-rate 0.1:0.2:80 --chunk-size 8 --out folder --dry-run"
    code, out, err = command(f"{line} --json")
    assert (code, err, names(tmp_path)) == (0, "", [])
    document = json.loads(out)
    assert (document["configurations"], document["chunks"], document["chunk_size"]) == (80, 10, 8)
    assert document["seconds"] > 0
    command(line.removesuffix(" --dry-run"))
    written = sum(path.stat().st_size for path in tmp_path.glob("folder/part-*"))
    assert document["bytes"] == pytest.approx(written, rel=0.1)
    for rows in (0, -5):
        code, out, err = command(f"{line} --chunk-size {rows}")
        assert (code, out) == (2, "")
        assert err.startswith(f"jaxalloc: --chunk-size = {rows} must be a whole number from 1 to")


def test_a_full_disk_keeps_the_parts(command, tmp_path, monkeypatch):
    write = parts.write

    def full(path, data, **options):
        if path.name == "part-0000002.parquet":
            raise OSError(28, "No space left on device")
        write(path, data, **options)

    for out in ("folder", "a.parquet"):
        with monkeypatch.context() as patch:
            patch.setattr(parts, "write", full)
            code, shown, err = command(f"{LINE} --out {out}")
        assert (code, shown) == (2, "")
        assert err == (
            f"jaxalloc: --out = '{out}': No space left on device: 16 of 20 configurations are "
            "kept: make room and add --resume\n"
        )
        assert command(f"{LINE} --out {out} --resume").code == 0
        assert sweep.open(tmp_path / out).complete


def test_a_plan_file_is_swept_resumed_and_confirmed(command, tmp_path):
    (tmp_path / "plan.toml").write_text(
        'workload = "qwen3-8b"\n[axes]\narrival_rate = "0.1:0.2:8"\n'
    )
    assert command("sweep plan.toml --out folder").code == 0
    assert command("sweep plan.toml --out folder").code == 2
    code, out, err = command("sweep plan.toml --out folder --resume --json")
    assert (code, err) == (0, "")
    assert (json.loads(out)["solved"], json.loads(out)["status"]) == (0, {"CONVERGED": 8})
    assert "folder is complete" in command("sweep plan.toml --out folder --resume").out
    for given, named in (
        ("--decay 1", "--decay"),
        ("--solver fixed-point", "solver, max_steps or tolerance"),
        ("--tolerance 1e-3", "solver, max_steps or tolerance"),
    ):
        code, _, err = command(f"sweep plan.toml {given} --dry-run")
        assert (code, err) == (2, f"jaxalloc: {named}: plan.toml is a plan: write it there\n")


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
    code, out, err = command(f"sweep qwen3-8b {axes} --plot a.png --chunk-size 8")
    assert (code, err) == (0, "")
    assert "wrote a.png" in out
    assert names(tmp_path) == ["a.png"]


def test_a_picture_of_a_finished_folder_and_one_that_does_not_fit(command, tmp_path):
    line = "sweep qwen3-8b --accuracy-weight 1:300:8:log --out a"
    with small_disk(20_000):
        code, out, err = command(f"{line} --plot p.png")
    assert (code, out) == (2, "")
    assert err.startswith("jaxalloc: p.png was not drawn (File too large)")
    assert names(tmp_path) == ["a"]
    out = command(f"{line} --resume --plot p.png").out
    assert "a is complete" in out
    assert "wrote p.png" in out


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("", "--out is missing: give a file (.parquet) or a folder"),
        ("--resume", "--resume needs what it is of: add --out"),
        ("--min-tokens 20000 --out a", "min_tokens[0] = 20000 must not exceed max_tokens"),
        ("--min-tokens 2e4:3e4:9 --service-cv 0:1:9 --out a", "of the first, min_tokens[0] = 20"),
        ("--axis min-tokens.GSM8K=9e4 --out a", "min_tokens[3] = 90000 must not exceed max_tok"),
        (
            "--min-tokens 2e4:3e4 --design sobol --points 9 --out a",
            "every configuration is INVALID",
        ),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(command, tmp_path, line, named):
    code, out, err = command(f"sweep qwen3-8b {line}")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert named in err
    assert names(tmp_path) == []


def test_a_folder_is_verified_and_mended(command, tmp_path):
    command(f"{LINE} --out folder")
    line = f"{LINE} --out folder".replace(" --chunk-size 8", "")
    code, out, err = command(f"{line} --verify --json")
    assert (code, err, json.loads(out)["damaged"]) == (0, "", {})
    assert "3 parts" in command(f"{line} --verify").out
    part, manifest = (tmp_path / "folder" / n for n in ("part-0000001.parquet", "_manifest.json"))
    whole = part.read_bytes()
    part.write_bytes(whole.replace(whole[100:101], bytes([whole[100] ^ 1]), 1))
    code, out, err = command(f"{line} --verify --json")
    assert (code, json.loads(out)["damaged"]) == (1, {part.name: "its digest differs"})
    assert command(f"{line} --resume").code == 0  # which does not read what the footer tells
    assert part.read_bytes() != whole
    code, out, err = command(f"{line} --resume --verify --json")
    assert (code, json.loads(out)["solved"]) == (0, 8)
    assert err == "jaxalloc: part-0000001.parquet was damaged (its digest differs): solved again\n"
    assert part.read_bytes() == whole
    for wrong, named in (
        ("sweep qwen3-8b --verify", "--verify needs what it is of: add --out"),
        ("sweep qwen3-8b --verify --out folder", "is of another plan"),
        ("sweep qwen3-8b --verify --out nothing", "'nothing' is no folder"),
        ("sweep qwen3-8b --verify --out a.parquet", "'a.parquet' is no folder"),
        ("sweep qwen3-8b --verify --out . --dry-run", "--verify only reads: drop --plot and"),
    ):
        code, _, err = command(wrong)
        assert (code, len(err.splitlines())) == (2, 1)
        assert named in err
    manifest.write_bytes(manifest.read_bytes()[:-9])
    for damaged in (f"{line} --verify", "plot folder --kind heat --json"):
        code, _, err = command(damaged)
        assert (code, len(err.splitlines())) == (2, 1)
