"""Running a plan: chunk by chunk into a folder of parts, and on from where it stopped.

A chunk is solved whole by one device, in a thread that also writes it: chunk i by device i mod n,
on one CPU by a thread a core. Every chunk has the same number of rows, so that the compiled
function is the same whatever the devices, and so are the answers, bit for bit.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import pyarrow.parquet as pq

from jaxalloc.backend.chunks import num_cores
from jaxalloc.files import check_target
from jaxalloc.sweep.axes import Columns, check_whole
from jaxalloc.sweep.designs import MAX_CONFIGURATIONS, fill
from jaxalloc.sweep.folder import SAME, Found, is_of, join, new_manifest, tidy
from jaxalloc.sweep.parts import (
    about,
    encode,
    part_name,
    schema_of,
    to_table,
    write_one_file,
    write_part,
)
from jaxalloc.sweep.plans import Plan
from jaxalloc.sweep.stored import Stored, open as open_stored

Result = TypeVar("Result")

_MOST_LAUNCHES = 8  # under way on one accelerator: it solves faster than a core writes
_WAVES = 3  # of chunks that `estimate` times


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


class Share(NamedTuple):
    """Which chunks a process solves: every `count`-th, from the `index`-th on."""

    index: int
    count: int


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
    wishes: dict[str, Any] = {"resume": resume, "verify": verify, "chunk_size": chunk_size}
    wishes["share"] = share_of(process_id, num_processes)
    outcome = run_plan(plan, Path(path), report=report or (lambda progress: None), **wishes)
    one_file = outcome.complete or not is_file(Path(path))
    return open_stored(path if one_file else parts_of(Path(path)))


def share_of(process_id: int | None, num_processes: int | None) -> Share:
    """The share of this process.

    Raises:
      ValueError: the numbers are none of a process.
    """
    if process_id is None and num_processes is None:
        return Share(jax.process_index(), jax.process_count())
    count = check_whole("--num-processes", num_processes, 1, MAX_CONFIGURATIONS)
    return Share(check_whole("--process-id", process_id, 0, count - 1), count)


def is_file(path: Path) -> bool:
    """Whether a sweep of that name is one file."""
    return path.suffix.lower() == ".parquet"


def parts_of(path: Path) -> Path:
    """The folder of the parts: while one file is not finished, it stands beside it."""
    return path.with_name(f"{path.name}.parts") if is_file(path) else path


def run_plan(
    plan: Plan,
    path: Path,
    *,
    resume: bool = False,
    verify: bool = False,
    chunk_size: int | None = None,
    share: Share = Share(0, 1),
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run a plan; see `jaxalloc.sweep.run`.

    Args:
      plan, path, resume, verify, chunk_size, report: as there.
      share: which chunks are this process's.
      stop: asked before every chunk; where it says yes nothing more is begun.
    """
    began = time.perf_counter()
    if chunk_size is not None:
        check_whole("--chunk-size", chunk_size, 1, MAX_CONFIGURATIONS)
    folder, resume = parts_of(path), resume or share.count > 1
    if is_file(path):
        check_target(path, (".parquet",), "--out")
    if is_file(path) and resume and not folder.exists() and (done := _finished(path, plan)):
        if verify:
            raise ValueError(f"--verify: {path} is one file, which has no digests: drop it")
        return Outcome(True, plan.size, 0, done, {}, plan.chunk_size, 0.0)
    manifest, found = join(folder, plan, resume=resume, chunk_size=chunk_size, whole=verify)
    here = _solve_missing(plan, folder, manifest, found, share, report, stop)
    statuses = sum((Counter(part["status"]) for part in found.parts.values()), Counter[str]())
    complete = statuses.total() == plan.size
    if complete:
        tidy(folder)
    if is_file(path):
        if complete:
            _join_parts(plan, folder, path, manifest | {"status": dict(statuses)})
        elif not stop() and (done := _finished(path, plan)):  # by another process
            complete, statuses = True, done
        if complete:
            shutil.rmtree(folder, ignore_errors=True)
    rows, seconds = manifest["chunk_size"], time.perf_counter() - began
    return Outcome(complete, statuses.total(), here, statuses, found.damaged, rows, seconds)


def _solve_missing(
    plan: Plan,
    folder: Path,
    manifest: dict[str, Any],
    found: Found,
    share: Share,
    report: Callable[[Progress], None],
    stop: Callable[[], bool],
) -> int:
    """Solve the own ones of the missing chunks, add all that are there by then; rows solved."""
    rows = manifest["chunk_size"]
    missing = [number for number in range(manifest["chunks"]) if number not in found.parts]
    own = [number for number in missing if number % share.count == share.index]

    def size(numbers: list[int]) -> int:
        return sum(min(rows, plan.size - number * rows) for number in numbers)

    def keep(number: int, columns: Columns) -> dict[str, Any]:
        said = describe_part(plan, manifest, number, columns)
        write_part(folder / part_name(number), encode_part(plan, said, columns))
        return said

    here, before = 0, plan.size - size(missing)
    total = before + size(own)
    try:
        for said in solve_chunks(plan, own, rows, keep, stop):
            found.parts[said["chunk"]] = said
            here += said["stop"] - said["start"]
            report(Progress(before + here, total, here))
        for number in missing:  # what other processes have written
            part = folder / part_name(number)
            if number not in found.parts and part.exists():
                found.parts[number] = about(pq.read_schema(part))
    except FileNotFoundError:
        if folder.exists():  # else another process has made one file of it
            raise
    return here


def _finished(path: Path, plan: Plan) -> Counter[str] | None:
    """The statuses of a finished sweep of this very plan in one file, if there is one."""
    try:
        said = about(pq.read_schema(path))
    except (OSError, ValueError):
        return None
    return Counter(said["status"]) if is_of(said, new_manifest(plan, plan.chunk_size)) else None


def _join_parts(plan: Plan, folder: Path, path: Path, said: dict[str, Any]) -> None:
    """Make one file of all parts, unless another process is first, which then removes them."""
    parts = [folder / part_name(number) for number in range(said["chunks"])]
    try:
        write_one_file(parts, path, schema_of(plan.columns, said), plan.repeating)
    except FileNotFoundError:
        if not _finished(path, plan):
            raise


def describe_part(
    plan: Plan, manifest: dict[str, Any], number: int, columns: Columns
) -> dict[str, Any]:
    """What a part says of itself."""
    counts = np.bincount(columns["status"], minlength=len(plan.job.statuses)).tolist()
    start = number * manifest["chunk_size"]
    return {
        "plan_hash": manifest["plan_hash"],
        "chunk": number,
        "chunk_size": manifest["chunk_size"],
        "start": start,
        "stop": start + sum(counts),
        "status": {name: n for name, n in zip(plan.job.statuses, counts, strict=True) if n},
    } | {key: manifest[key] for key in SAME}


def encode_part(plan: Plan, said: dict[str, Any], columns: Columns) -> Any:
    """The bytes of a part."""
    table = to_table(columns, schema_of(plan.columns, said), plan.job.statuses)
    return encode(table, plan.repeating)


def solve_chunks(
    plan: Plan,
    numbers: Iterable[int],
    rows: int,
    keep: Callable[[int, Columns], Result],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """`keep(number, columns)` of every chunk, in order, while the next ones are being solved.

    Where the caller leaves early, nothing more is begun and what is under way is not waited for.

    Args:
      plan: what to solve.
      numbers: of the chunks; chunk c holds the rows from c · `rows` on.
      rows: of a chunk; the last one is filled up with copies of its last row.
      keep: called in a thread, with the axes and the answers by column; `status` as numbers.
      stop: whether nothing more is to be begun.
    """
    devices, float64 = jax.local_devices(), jax.config.values["jax_enable_x64"]
    count = min(rows, 1 << (plan.size - 1).bit_length())  # few shapes for small sweeps

    def solve(number: int, values: Columns) -> Result:
        size = min(rows, plan.size - number * rows)
        # A thread does not inherit its caller's scopes.
        with jax.enable_x64(float64), jax.default_device(devices[number % len(devices)]):
            answers = plan.job.solve(fill(values, count))
        return keep(number, {name: column[:size] for name, column in (values | answers).items()})

    pool = ThreadPoolExecutor(_threads(devices), thread_name_prefix="jaxalloc-sweep")
    under_way: deque[Future[Result]] = deque()
    try:
        for number in numbers:
            if stop():
                break
            # Here, in order: Sobol's points follow one another.
            values = plan.design.rows(number * rows, min((number + 1) * rows, plan.size))
            under_way.append(pool.submit(solve, number, values))
            if len(under_way) > _threads(devices):
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _threads(devices: list[jax.Device]) -> int:
    """How many chunks are under way: one more than are solved at a time, which is written."""
    most = num_cores() if devices[0].platform == "cpu" else _MOST_LAUNCHES * len(devices)
    return max(min(num_cores(), most), len(devices)) + 1


class Estimate(NamedTuple):
    """What a sweep would take on this machine, by one process.

    Attributes:
      configurations, chunks, chunk_size: how it would be cut.
      bytes: on the disk.
      compile_seconds: before the first chunk is solved.
      seconds: of all chunks, once compiled.
      timed: chunks of which this is known.
    """

    configurations: int
    chunks: int
    chunk_size: int
    bytes: int
    compile_seconds: float
    seconds: float
    timed: int


def estimate(plan: Plan, chunk_size: int | None = None) -> Estimate:
    """Solve a few chunks, evenly chosen, and write them nowhere."""
    if chunk_size is not None:
        check_whole("--chunk-size", chunk_size, 1, MAX_CONFIGURATIONS)
    rows = min(chunk_size or plan.chunk_size, plan.size)
    manifest = new_manifest(plan, rows)
    chunks = manifest["chunks"]

    def size(number: int, columns: Columns) -> int:
        return len(encode_part(plan, describe_part(plan, manifest, number, columns), columns))

    def play(count: int) -> tuple[list[int], float]:
        chosen = np.unique(np.linspace(0, chunks - 1, count).round().astype(int)).tolist()
        began = time.perf_counter()
        return list(solve_chunks(plan, chosen, rows, size)), time.perf_counter() - began

    _, first = play(1)
    sizes, seconds = play(min(chunks, _WAVES * _threads(jax.local_devices())))
    share = chunks / len(sizes)
    return Estimate(
        configurations=plan.size,
        chunks=chunks,
        chunk_size=rows,
        bytes=int(sum(sizes) * share),
        compile_seconds=max(first - seconds / len(sizes), 0.0),
        seconds=seconds * share,
        timed=len(sizes),
    )
