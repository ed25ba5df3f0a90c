"""A sweep as chunks of one shape, each solved whole by one device, in a thread that also keeps it.

Chunk i is solved by device i mod n; on one CPU there is a thread a core. Every chunk has the same
number of rows, so that the compiled function is the same whatever the devices, and so are the
answers, bit for bit.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from jaxalloc.backend.chunks import num_cores
from jaxalloc.sweep.axes import Columns
from jaxalloc.sweep.designs import fill
from jaxalloc.sweep.folder import SAME, new_manifest
from jaxalloc.sweep.parts import encode, schema_of, to_table
from jaxalloc.sweep.plans import Plan

Result = TypeVar("Result")

_MOST_LAUNCHES = 8  # under way on one accelerator: it solves faster than a core writes
_WAVES = 3  # of chunks that `estimate` times


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
            columns = fill(values, count)
            columns |= plan.job.solve(columns)
            return keep(number, {name: column[:size] for name, column in columns.items()})

    threads = _threads(devices)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="jaxalloc-sweep")
    under_way: deque[Future[Result]] = deque()
    try:
        for number in numbers:
            if stop():
                break
            # Here, in order: Sobol's points follow one another.
            values = plan.design.rows(number * rows, min((number + 1) * rows, plan.size))
            under_way.append(pool.submit(solve, number, values))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _threads(devices: list[jax.Device]) -> int:
    """How many chunks are under way: one more than are solved at a time, which is written."""
    on_cpu = devices[0].platform == "cpu"
    solvers = num_cores() if on_cpu else min(num_cores(), _MOST_LAUNCHES * len(devices))
    return max(solvers, len(devices)) + 1


def make_part(
    plan: Plan, manifest: dict[str, Any], number: int, columns: Columns
) -> tuple[dict[str, Any], Any]:
    """What a part says of itself, and its bytes."""
    counts = np.bincount(columns["status"], minlength=len(plan.job.statuses)).tolist()
    start = number * manifest["chunk_size"]
    said = {key: manifest[key] for key in ("plan_hash", "chunk_size", *SAME)} | {
        "chunk": number,
        "start": start,
        "stop": start + sum(counts),
        "status": {name: n for name, n in zip(plan.job.statuses, counts, strict=True) if n},
    }
    return said, encode(to_table(columns, schema_of(plan.columns, said), plan.job.statuses))


def estimate(plan: Plan, chunk_size: int | None = None) -> dict[str, Any]:
    """What a sweep would take on this machine, by one process, from a few chunks evenly chosen.

    Returns:
      By name: `configurations`, `chunks` and `chunk_size`; `bytes` on the disk; `compile_seconds`
      before the first chunk is solved, `seconds` of all chunks once compiled, and how many were
      `timed` to know.
    """
    manifest = new_manifest(plan, chunk_size)
    rows, chunks = manifest["chunk_size"], manifest["chunks"]

    def size(number: int, columns: Columns) -> int:
        return len(make_part(plan, manifest, number, columns)[1])

    def play(count: int) -> tuple[list[int], float]:
        chosen = np.unique(np.linspace(0, chunks - 1, count).round().astype(int)).tolist()
        began = time.perf_counter()
        return list(solve_chunks(plan, chosen, rows, size)), time.perf_counter() - began

    _, first = play(1)
    sizes, seconds = play(min(chunks, _WAVES * _threads(jax.local_devices())))
    share = chunks / len(sizes)
    return {
        "configurations": plan.size,
        "chunks": chunks,
        "chunk_size": rows,
        "bytes": int(sum(sizes) * share),
        "compile_seconds": max(first - seconds / len(sizes), 0.0),
        "seconds": seconds * share,
        "timed": len(sizes),
    }
