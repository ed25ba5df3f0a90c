"""Running a plan: chunk by chunk into a folder or one file, and on from where it stopped."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxalloc.sweep.chunks import Chunk, column_types, solve_chunks
from jaxalloc.sweep.directory import (
    Directory,
    Found,
    count_statuses,
    locked,
    make_folder,
    part_name,
    prepare,
    repeating,
)
from jaxalloc.sweep.interrupts import Held
from jaxalloc.sweep.manifest import new_manifest
from jaxalloc.sweep.parquet import about_schema, check_target, parquet_file, schema_of, to_table
from jaxalloc.sweep.placement import local_mesh
from jaxalloc.sweep.plans import Plan, rows_of_chunks
from jaxalloc.sweep.processes import Alone, Group


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
      done: how many are.
      here: how many this run solved.
      statuses: counts by name, of all that are done.
      damaged: parts that could not be read and were solved again, and why.
      chunk_size: rows of a chunk.
      seconds: the time of this run.
    """

    complete: bool
    done: int
    here: int
    statuses: Counter[str]
    damaged: dict[str, str]
    chunk_size: int
    seconds: float


Report = Callable[[Progress], None]
Stop = Callable[[], bool]


def run_plan(
    plan: Plan,
    path: Path | None,
    *,
    resume: bool = False,
    verify: bool = False,
    chunk_size: int | None = None,
    report: Report = lambda progress: None,
    stop: Stop = lambda: False,
    group: Group | None = None,
    keep: Callable[[Chunk], None] = lambda chunk: None,
) -> Outcome:
    """Run a plan; see `jaxalloc.sweep.run`.

    Args:
      plan: what to do.
      path: a file that ends in .parquet, a folder, or None to keep nothing.
      resume: continue what the folder holds.
      verify: read all of what it holds.
      chunk_size: rows of a chunk; None: from the memory of the device.
      report: called with the progress after every chunk.
      stop: asked before every chunk; where it says yes nothing more is begun.
      group: the processes that share the work.
      keep: called with every chunk in order, where `path` is no folder.
    """
    began = time.perf_counter()
    mesh = local_mesh()
    group = Alone() if group is None else group
    rows = rows_of_chunks(plan, chunk_size, -(-plan.size // group.count), mesh)
    if path is not None and is_folder(path):
        wishes = _Wishes(resume, verify, chunk_size, report, stop, group)
        outcome = _into_folder(plan, path, mesh, rows, wishes)
    elif group.count > 1 or resume:
        what = "--coordinator" if group.count > 1 else "--resume"
        raise ValueError(f"{what}: --out = {str(path)!r} is one file: give a folder")
    else:
        outcome = _in_order(plan, path, mesh, rows, report, stop, keep)
    return outcome._replace(seconds=time.perf_counter() - began)


def is_folder(path: Path) -> bool:
    """Whether a sweep of that name is a folder of parts."""
    return path.suffix.lower() != ".parquet"


class _Wishes(NamedTuple):
    """What the caller of `run_plan` wants of a folder, by the same names."""

    resume: bool
    verify: bool
    chunk_size: int | None
    report: Report
    stop: Stop
    group: Group


def _into_folder(plan: Plan, path: Path, mesh: Mesh | None, rows: int, wishes: _Wishes) -> Outcome:
    """Solve what a folder lacks, and write every chunk as a part of its own."""
    group = wishes.group
    found = Found({}, {})
    with ExitStack() as held:

        def ready() -> dict[str, Any]:
            nonlocal found
            make_folder(path)
            held.enter_context(locked(path))
            directory, found = prepare(
                path, plan, wishes.resume, rows, wishes.chunk_size, wishes.verify
            )
            missing = [c for c in range(directory.num_chunks) if c not in found.parts]
            return {"manifest": directory.manifest, "missing": missing}

        agreed = group.share(ready)
        directory = Directory(path, plan, agreed["manifest"])
        missing: list[int] = agreed["missing"]
        own = missing[group.index :: group.count]
        here, solved = _solve_parts(directory, mesh, missing, own, wishes)
        group.leave(here == _rows_in(own, directory))
        statuses = found.statuses() + solved if group.count == 1 else _statuses(directory)
        complete = statuses.total() == plan.size
        if complete and group.index == 0 and not directory.manifest["complete"]:
            directory.write_manifest(complete=True, status=dict(statuses))
    return Outcome(complete, statuses.total(), here, statuses, found.damaged, directory.rows, 0.0)


def _solve_parts(
    directory: Directory, mesh: Mesh | None, missing: list[int], own: list[int], wishes: _Wishes
) -> tuple[int, Counter[str]]:
    """Solve the own ones of the missing chunks; how many rows that were, and their statuses."""
    plan, group = directory.plan, wishes.group
    statuses: Counter[str] = Counter()
    here, before = 0, plan.size - _rows_in(missing, directory)
    total = before + _rows_in(own, directory)

    def write(chunk: Chunk) -> tuple[int, Counter[str]]:
        return chunk.stop - chunk.start, directory.write_part(chunk)

    chunks = _until(own, lambda: wishes.stop() or group.lost() is not None)
    for count, ended in solve_chunks(plan.design, plan.job, chunks, directory.rows, mesh, write):
        here += count
        statuses += ended
        wishes.report(Progress(before + here, total, here))
    return here, statuses


def _rows_in(chunks: list[int], directory: Directory) -> int:
    rows = len(chunks) * directory.rows
    last = directory.num_chunks - 1
    if last in chunks:
        rows -= directory.num_chunks * directory.rows - directory.plan.size
    return rows


def _statuses(directory: Directory) -> Counter[str]:
    """Counts over all parts, whoever wrote them."""
    import pyarrow.parquet as pq

    parts = [directory.path / part_name(index) for index in range(directory.num_chunks)]
    found = [about_schema(pq.read_schema(part)) for part in parts if part.exists()]
    counts = [about.get("status", {}) for about in found]
    return sum(map(Counter, counts), Counter())


def _until(chunks: Iterable[int], stop: Stop) -> Iterator[int]:
    for chunk in chunks:
        if stop():
            return
        yield chunk


def _in_order(
    plan: Plan,
    path: Path | None,
    mesh: Mesh | None,
    rows: int,
    report: Report,
    stop: Stop,
    keep: Callable[[Chunk], None],
) -> Outcome:
    """Solve all chunks, and write them into one file in their order."""
    schema = schema_of(column_types(plan.design, plan.job), new_manifest(plan, rows))
    store: AbstractContextManager[Callable[[Any], None]] = nullcontext(lambda table: None)
    if path is not None:
        check_target(path, (".parquet",), "--out")
        store = parquet_file(path, schema, repeating(plan))
    statuses: Counter[str] = Counter()

    def tabled(chunk: Chunk) -> tuple[Chunk, Any]:
        return chunk, to_table(chunk.columns, schema, plan.job.statuses)

    with Held() as held, store as append:  # no row that was solved is lost to a Ctrl-C
        numbers = range(-(-plan.size // rows))
        solved = solve_chunks(plan.design, plan.job, _until(numbers, stop), rows, mesh, tabled)
        for _ in numbers:
            with held.released():
                chunk, table = next(solved, (None, None))
            if chunk is None:
                break
            append(table)
            keep(chunk)
            statuses += count_statuses(plan, chunk)
            report(Progress(chunk.stop, plan.size, chunk.stop))
        done = statuses.total()
        if done < plan.size:
            raise Stopped(done)
    return Outcome(True, done, done, statuses, {}, rows, 0.0)


class Stopped(Exception):
    """A sweep into one file was stopped after so many configurations."""

    def __init__(self, done: int) -> None:
        super().__init__(f"stopped after {done} configurations")
        self.done = done
