"""Many configurations: which ones, solving them in chunks anywhere, keeping the answers.

`plan` says what is to be done, `run` does it, `open` reads what was done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalloc.allocation.model.workload import Workload
    from jaxalloc.allocation.solvers.solver import Solver
    from jaxalloc.sweep.plans import Plan
    from jaxalloc.sweep.running import Progress
    from jaxalloc.sweep.stored import Stored

__all__ = ["open", "plan", "run"]


def plan(
    study: str | os.PathLike[str] | Workload | None = None,
    axes: Mapping[str, Any] | None = None,
    *,
    schedule: str | None = None,
    fields: Mapping[str, Any] | None = None,
    design: str = "grid",
    points: int | None = None,
    seed: int = 0,
    table: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    solver: Solver | None = None,
) -> Plan:
    """What to sweep: a workload or a schedule, what is fixed and what varies.

    Args:
      study: a built-in workload, a workload file, a `Workload`, or a plan file (TOML), which says
        all the rest.
      axes: what varies, by name (`arrival_rate`, `decay.GSM8K`; of a schedule `policy`, `capacity`,
        `intervals`, `interval_width`, `seed`, …): a list, or "a:b:n" or "a:b:n:log", ends included;
        where points are drawn also "a:b" or "a:b:log". Rows run in C order of the axes.
      schedule: a law of outputs ("geometric:mean=100") or a trace, instead of a workload.
      fields: numbers of the workload, or settings of the schedule, that do not vary.
      design: "grid", or points drawn "sobol" or "random".
      points: how many are drawn.
      seed: of the draws.
      table: configurations one by one: a CSV or Parquet file, or columns by name.
      solver: of allocations; None: `Newton()`.

    Raises:
      ValueError: names the field, the value and the fix.

    >>> import jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": "0.01:1:5:log"})
    >>> study.size
    5
    """
    from jaxalloc.sweep.plans import make_plan

    return make_plan(
        study,
        axes,
        schedule=schedule,
        fields=fields,
        design=design,
        points=points,
        seed=seed,
        table=table,
        solver=solver,
    )


def run(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    resume: bool = False,
    verify: bool = False,
    chunk_size: int | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Stored:
    """Do what a plan says, on all local devices, and keep the answers.

    It computes in float64 where `jax_enable_x64` is on, else in float32.

    Args:
      plan: what to sweep.
      path: one file that ends in .parquet, or a folder of parts that can be continued.
      resume: continue the folder where it stopped; a finished one is left as it is. The length and
        the footer of every part are compared with the digest beside it.
      verify: with `resume`, compare the whole of every part.
      chunk_size: configurations a chunk; None: from the memory of the device.
      report: called after every chunk.

    Raises:
      ValueError: the folder is not empty, of another plan, or cannot be written.

    >>> import tempfile, jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": [0.1, 0.5, 90.0]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jaxalloc.sweep.run(study, folder).status()
    {'CONVERGED': 2, 'INFEASIBLE': 1}
    """
    from pathlib import Path

    from jaxalloc.sweep.running import run_plan
    from jaxalloc.sweep.stored import open_stored

    target = Path(path)
    listen = (lambda progress: None) if report is None else report
    run_plan(plan, target, resume=resume, verify=verify, chunk_size=chunk_size, report=listen)
    return open_stored(target)


def open(path: str | os.PathLike[str]) -> Stored:
    """What a sweep has written: `.table()`, `.to_pandas()` and, of a grid, `.to_xarray()`.

    Args:
      path: a folder or a Parquet file of a sweep, finished or not.

    Raises:
      ValueError: there is no sweep.

    >>> import tempfile, jaxalloc
    >>> study = jaxalloc.sweep.plan("qwen3-8b", {"arrival_rate": [0.1, 0.5]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = jaxalloc.sweep.run(study, folder)
    ...     jaxalloc.sweep.open(folder).to_xarray().tokens.sel(task="GSM8K").values.round(-1)
    array([2240., 2130.])
    """
    from pathlib import Path

    from jaxalloc.sweep.stored import open_stored

    return open_stored(Path(path))
