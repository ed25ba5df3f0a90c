"""Runs of a model and logs of arrivals, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxalloc.measurements.tables import read_table

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RUN_COLUMNS = ("task", "tokens", "correct", "seconds", "question")
ARRIVAL_COLUMNS = ("time", "task")


@dataclasses.dataclass(frozen=True)
class Counted:
    """Rows of one task that are alike, counted together.

    Attributes:
      tokens: [N] budget.
      correct, trials: [N].
      question: [N] numbers of the questions, or None.
    """

    tokens: Floats
    correct: Floats
    trials: Floats
    question: Integers | None


@dataclasses.dataclass(frozen=True)
class Runs:
    """A table of runs, one row an answer.

    Attributes:
      tasks: names of the K tasks, in order.
      task: [N] number of the task.
      tokens: [N] thinking tokens.
      correct: [N] 0 or 1.
      seconds: [N] service time, s.
      question: [N] number of the question, or None where the file does not say.
    """

    tasks: tuple[str, ...]
    task: Integers
    tokens: Floats
    correct: Floats
    seconds: Floats
    question: Integers | None

    def of_task(self, k: int) -> Runs:
        """The rows of one task."""
        mine = self.task == k
        return Runs(
            (self.tasks[k],),
            self.task[mine] * 0,
            self.tokens[mine],
            self.correct[mine],
            self.seconds[mine],
            None if self.question is None else self.question[mine],
        )

    def count(self) -> Counted:
        """The rows of one task by budget and question."""
        levels, place = np.unique(self.tokens, return_inverse=True)
        question = np.zeros_like(self.task) if self.question is None else self.question
        _, question = np.unique(question, return_inverse=True)
        cells, where = np.unique(question * len(levels) + place, return_inverse=True)
        return Counted(
            tokens=levels[cells % len(levels)],
            correct=np.bincount(where, self.correct).astype(np.float64),
            trials=np.bincount(where).astype(np.float64),
            question=None if self.question is None else cells // len(levels),
        )


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """A log of arrivals.

    Attributes:
      time: [N] s.
      tasks: names of the tasks in it; empty where the log does not say.
      task: [N] number of the task, or None.
      time_unit: what the file's times were read in: "s", "ms", "us", "ns" or "date".
    """

    time: Floats
    tasks: tuple[str, ...]
    task: Integers | None
    time_unit: str = "s"


def read_runs(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    seconds_per_unit: float | None = None,
) -> Runs:
    """Read a table of runs.

    Args:
      path: CSV or Parquet.
      columns: names of the columns by field (task, tokens, correct, seconds, question) where they
        are called otherwise; a column `question` may be absent.
      seconds_per_unit: of service times, such as 1e-3, where the column's name ends in no unit.

    Raises:
      ValueError: one line that names the file, the row, the column and the fix.
    """
    wanted, optional = _columns(RUN_COLUMNS, columns, ("question",))
    table = read_table(path, wanted, optional)
    task, tasks = table.codes("task")
    question = table.codes("question")[0] if "question" in table.columns else None
    return Runs(
        tasks=tuple(tasks),
        task=task,
        tokens=table.numbers("tokens"),
        correct=table.flags("correct"),
        seconds=table.seconds("seconds", seconds_per_unit),
        question=question,
    )


def read_arrivals(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    seconds_per_unit: float | None = None,
) -> Arrivals:
    """Read a log of arrivals.

    Args:
      path: CSV or Parquet.
      columns: names of the columns by field (time, task) where they are called otherwise; a
        column `task` may be absent. Times are seconds, or dates and times.
      seconds_per_unit: of times, such as 1e-3, where the column's name ends in no unit.

    Raises:
      ValueError: one line that names the file, the row, the column and the fix.
    """
    wanted, optional = _columns(ARRIVAL_COLUMNS, columns, ("task",))
    table = read_table(path, wanted, optional)
    time, unit = table.times("time", seconds_per_unit)
    if "task" not in table.columns:
        return Arrivals(time, (), None, unit)
    task, tasks = table.codes("task")
    return Arrivals(time, tuple(tasks), task, unit)


def _columns(
    fields: tuple[str, ...], given: Mapping[str, str] | None, optional: tuple[str, ...]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The column of every field; a field that was named must be there."""
    named: dict[str, Any] = dict(given or {})
    unknown = set(named) - set(fields)
    if unknown:
        raise ValueError(f"field {min(unknown)!r} is unknown: choose from {', '.join(fields)}")
    wanted = {field: named.get(field, field) for field in fields}
    return wanted, tuple(field for field in optional if field not in named)
