"""Running a plan: chunk by chunk into a folder of parts, and on from where it stopped.

One file is made of such a folder, which stands beside it until then.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pyarrow.parquet as pq

from jaxalloc.files import check_target
from jaxalloc.sweep.axes import Columns, check_whole
from jaxalloc.sweep.chunks import make_part, solve_chunks
from jaxalloc.sweep.designs import MAX_CONFIGURATIONS
from jaxalloc.sweep.folder import Found, is_of, join, new_manifest, tidy
from jaxalloc.sweep.parts import about, part_name, schema_of, write_one_file, write_part
from jaxalloc.sweep.plans import Plan
from jaxalloc.sweep.stored import Stored, open as open_stored


class Progress(NamedTuple):
    """How far a sweep is.

    Attributes:
      done: configurations whose rows are written, those of earlier runs too.
      total: configurations; of a sweep shared by processes, those of this one.
      here: configurations solved by this process in this run.
    """

    done: int
    total: int
    here: int


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
      complete: whether all configurations are done.
      here: how many this run solved.
      statuses: counts by name, of all that are done.
      damaged: parts that could not be read and were solved again, and why.
      chunk_size: rows of a chunk.
      seconds: the time of this run.
    """

    complete: bool
    here: int
    statuses: Counter[str]
    damaged: dict[str, str]
    chunk_size: int
    seconds: float


def run(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    verify: bool = False,
    chunk_size: int | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Stored:
    """Do what a plan says, on all local devices, and keep the answers.

    It computes in float64 where `jax_enable_x64` is on, else in float32. Several processes that see
    one file system share a sweep where each is given its number; none waits for the others.

    Args:
      plan: what to sweep.
      path: a folder of parts, or one file that ends in .parquet, made of the parts (in a folder
        beside it) by whichever process finds all of them.
      resume: continue what is there; a finished sweep is left as it is. The length and the footer
        of every part are compared with the digest beside it.
      verify: with `resume`, compare the whole of every part.
      chunk_size: configurations a chunk; None: what suits the plan.
      process_id, num_processes: this process solves every `num_processes`-th chunk; None: as
        `jax.distributed` counts them.
      report: called after every chunk.

    Raises:
      ValueError: the folder is not empty, of another plan, or cannot be written.

    >>> import tempfile, jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": [0.1, 0.5, 90.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxalloc.sweep.run(study, folder).status()
    {'CONVERGED': 2, 'INFEASIBLE': 1}
    """
    outcome = run_plan(
        plan,
        Path(path),
        resume=resume,
        verify=verify,
        chunk_size=chunk_size,
        share=share_of(process_id, num_processes),
        report=report or (lambda progress: None),
    )
    parts = parts_of(Path(path))
    return open_stored(path if outcome.complete or not parts.exists() else parts)


def share_of(process_id: int | None, num_processes: int | None) -> tuple[int, int]:
    """The number of this process, and how many there are.

    Raises:
      ValueError: the numbers are none of a process.
    """
    if process_id is None and num_processes is None:
        return jax.process_index(), jax.process_count()
    count = check_whole("num_processes", num_processes, 1, MAX_CONFIGURATIONS)
    return check_whole("process_id", process_id, 0, count - 1), count


def is_file(path: Path) -> bool:
    """Whether a sweep of that name is one file."""
    return path.suffix.lower() == ".parquet"


def parts_of(path: Path) -> Path:
    """The folder of the parts of a sweep of that name."""
    return path.with_name(f"{path.name}.parts") if is_file(path) else path


def run_plan(
    plan: Plan,
    path: Path,
    *,
    resume: bool = False,
    verify: bool = False,
    chunk_size: int | None = None,
    share: tuple[int, int] = (0, 1),
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a plan; see `jaxalloc.sweep.run`.

    Args:
      plan, path, resume, verify, chunk_size, report: as there.
      share: the number of this process, and how many there are.
      stop: asked before every chunk; where it says yes nothing more is begun.
    """
    began = time.perf_counter()
    folder, resume = parts_of(path), resume or share[1] > 1
    done: Counter[str] = Counter()
    here, rows, damaged = 0, plan.chunk_size, dict[str, str]()
    if is_file(path):
        check_target(path, (".parquet",), "--out")
        done = _finished(path, plan) if resume and not folder.exists() else done
        if done and verify:
            raise ValueError(f"verify: {path} is one file, which has no digests: drop it")
    try:
        if not done:
            manifest, found = join(folder, plan, resume=resume, chunk_size=chunk_size, whole=verify)
            rows, damaged = manifest["chunk_size"], found.damaged
            here = _solve_missing(plan, folder, manifest, found, share, report, stop)
            done = sum((Counter(part["status"]) for part in found.parts.values()), Counter())
            if done.total() == plan.size:
                tidy(folder)
                if is_file(path):
                    schema = schema_of(plan.columns, manifest | {"status": dict(done)})
                    parts = [folder / part_name(number) for number in range(manifest["chunks"])]
                    write_one_file(parts, path, schema)
    except FileNotFoundError:
        if not (is_file(path) and _finished(path, plan)):
            raise
    if is_file(path) and not stop():  # perhaps another process was first
        done = _finished(path, plan) or done
    complete = done.total() == plan.size
    if is_file(path) and complete:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(complete, here, done, damaged, rows, time.perf_counter() - began)


def _solve_missing(
    plan: Plan,
    folder: Path,
    manifest: dict[str, Any],
    found: Found,
    share: tuple[int, int],
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> int:
    """Solve the own ones of the missing chunks, add all that are there by then; rows solved."""
    rows = manifest["chunk_size"]
    missing = [number for number in range(manifest["chunks"]) if number not in found.parts]
    own = [number for number in missing if number % share[1] == share[0]]

    def size(numbers: list[int]) -> int:
        return sum(min(rows, plan.size - number * rows) for number in numbers)

    def keep(number: int, columns: Columns) -> dict[str, Any]:
        said, data = make_part(plan, manifest, number, columns)
        write_part(folder / part_name(number), data)
        return said

    here, before = 0, plan.size - size(missing)
    total = before + size(own)
    for said in solve_chunks(plan, own, rows, keep, stop):
        found.parts[said["chunk"]] = said
        here += said["stop"] - said["start"]
        report(Progress(before + here, total, here))
    for number in missing:  # what other processes have written
        part = folder / part_name(number)
        if number not in found.parts and part.exists():
            found.parts[number] = about(pq.read_schema(part))
    return here


def _finished(path: Path, plan: Plan) -> Counter[str]:
    """The statuses of a finished sweep of this very plan in one file; none if there is none."""
    try:
        said = about(pq.read_schema(path))
    except (OSError, ValueError):
        said = {}
    return Counter(said["status"] if is_of(said, new_manifest(plan)) else {})
