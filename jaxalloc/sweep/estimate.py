"""What a sweep would take, from a few of its chunks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxalloc.sweep.chunks import Chunk, solve_chunks
from jaxalloc.sweep.directory import Directory
from jaxalloc.sweep.manifest import new_manifest
from jaxalloc.sweep.placement import local_mesh, num_threads
from jaxalloc.sweep.plans import Plan, rows_of_chunks

_WAVES = 3  # chunks timed, for each that is solved at a time


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
    mesh = local_mesh()
    rows = rows_of_chunks(plan, chunk_size, plan.size, mesh)
    directory = Directory(Path(), plan, new_manifest(plan, rows))
    chunks = -(-plan.size // rows)

    def size(chunk: Chunk) -> int:
        return len(directory.encoded(chunk)[0])

    def play(count: int) -> tuple[list[int], float]:
        chosen: Any = np.unique(np.linspace(0, chunks - 1, count).round().astype(int)).tolist()
        began = time.perf_counter()
        sizes = list(solve_chunks(plan.design, plan.job, chosen, rows, mesh, size))
        return sizes, time.perf_counter() - began

    at_once = num_threads(mesh) * (1 if mesh is None else mesh.size)
    sizes, first = play(1)
    if chunks > 1:
        sizes, seconds = play(min(chunks, _WAVES * at_once))
    else:
        _, seconds = play(1)
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
