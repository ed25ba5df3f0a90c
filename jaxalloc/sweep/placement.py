"""Where the chunks of a sweep are solved: a thread a core on one CPU, or a device each.

The unit is a chunk: a device solves whole chunks, and every chunk has the same number of rows. So
the compiled function is the same whatever the devices, and so are the answers, bit for bit.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxalloc.backend.chunks import num_cores

Item = TypeVar("Item")
Started = TypeVar("Started")
Result = TypeVar("Result")

_AXIS = "chunk"
_SHARE_OF_MEMORY = 0.25
_AHEAD = 2  # launches of a mesh of CPU devices under way: one is solved, one is written
_WRITERS = 8  # the most launches of an accelerator under way: it solves faster than a core writes


class MostRows(NamedTuple):
    """The most rows of a chunk, by platform."""

    cpu: int
    accelerator: int


def local_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The local devices in a row; None where there is one."""
    found = jax.local_devices() if devices is None else devices
    return Mesh(np.array(found), (_AXIS,)) if len(found) > 1 else None


def num_threads(mesh: Mesh | None) -> int:
    """How many launches are under way at a time: one more than are solved, which is written."""
    if jax.default_backend() != "cpu":
        return min(num_cores() + 1, _WRITERS)
    return num_cores() + 1 if mesh is None else _AHEAD


def chunk_rows(size: int, lane_bytes: int, most: MostRows, mesh: Mesh | None) -> int:
    """The rows of a chunk: what fits into memory, dealt evenly to all that solve.

    Args:
      size: rows of the sweep.
      lane_bytes: memory of one row.
      most: rows of a chunk.
      mesh: the devices.
    """
    on_cpu = jax.default_backend() == "cpu"
    solvers = mesh.size if mesh is not None else (num_cores() if on_cpu else 1)
    sharing = num_threads(mesh) * (solvers if on_cpu and mesh is not None else 1)
    fitting = int(device_memory() * _SHARE_OF_MEMORY / sharing / lane_bytes)
    cap = most.cpu if on_cpu else most.accelerator
    rows = max(1, min(cap, fitting, -(-size // solvers)))
    return -(-size // -(-size // rows))  # even chunks: little to fill up


def device_memory() -> int:
    """Bytes that a local device has, or that this machine has to spare."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return int(statistics["bytes_limit"])
    return host_memory()


def host_memory() -> int:
    """Bytes of this machine that are free, or all there are where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def spread(work: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """`work(shared, rows)` compiled, with a chunk of the rows on every device of the mesh.

    Args:
      work: of arrays that all chunks share, and of arrays with a leading axis of rows.
      mesh: the devices; None: where JAX puts it.
    """
    if mesh is None:
        return jax.jit(work)
    by_chunk = PartitionSpec(_AXIS)
    mapped = jax.shard_map(
        work, mesh=mesh, in_specs=(PartitionSpec(), by_chunk), out_specs=by_chunk, check_vma=False
    )
    compiled = jax.jit(mapped)

    def placed(shared: Any, rows: Any) -> Any:
        return compiled(shared, jax.device_put(rows, NamedSharding(mesh, by_chunk)))

    return placed


def in_order(
    start: Callable[[Item], Started],
    finish: Callable[[Started], Result],
    items: Iterable[Item],
    threads: int,
) -> Iterator[Result]:
    """`finish(start(item))` of every item, in order, `threads` of them at a time.

    The first is started by the caller, so that what it compiles is compiled once. Where the caller
    leaves early, nothing more is begun and what is under way is not waited for.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="jaxalloc-sweep")
    float64 = jax.config.values["jax_enable_x64"]

    def whole(item: Item) -> Result:
        with jax.enable_x64(float64):  # a thread does not inherit its caller's scope
            return finish(start(item))

    def second_half(started: Started) -> Result:
        with jax.enable_x64(float64):
            return finish(started)

    under_way: deque[Future[Result]] = deque()
    try:
        for number, item in enumerate(items):
            if number:
                under_way.append(pool.submit(whole, item))
            else:
                under_way.append(pool.submit(second_half, start(item)))
            if len(under_way) > threads:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
