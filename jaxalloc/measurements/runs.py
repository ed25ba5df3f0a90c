"""Runs of a model and logs of arrivals, as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxalloc.tables import Floats, Integers, read_table
from jaxalloc.times import read_durations, read_times

# The columns of every field, by their names in the file.
RUNS = {name: (name,) for name in ("task", "tokens", "correct", "seconds", "question")}
ARRIVALS = {name: (name,) for name in ("time", "task")}


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
    path: str | Path, columns: Mapping[str, str] | None = None, time_unit: str | None = None
) -> Runs:
    r"""Read a table of runs: CSV, Parquet, JSON or JSON lines.

    Args:
      path: the file; a column `question` may be absent.
      columns: names of the columns by field (task, tokens, correct, seconds, question) where they
        are called otherwise.
      time_unit: of service times, "s", "ms", "us" or "ns", where the column's name ends in none.

    Raises:
      ValueError: one line that names the file, the row, the column and the fix.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "runs.csv"
    ...     _ = path.write_text("task,tokens,correct,latency_ms\na,256,yes,750\n")
    ...     read_runs(path, {"seconds": "latency_ms"}).seconds
    array([0.75])
    """
    table, _ = read_table(path, RUNS, needed=set(RUNS) - {"question"}, columns=columns)
    task, tasks = table["task"].codes()
    return Runs(
        tasks=tasks,
        task=task,
        tokens=table["tokens"].numbers(),
        correct=table["correct"].flags(),
        seconds=read_durations(table["seconds"], time_unit),
        question=table["question"].codes()[0] if "question" in table else None,
    )


def read_arrivals(
    path: str | Path, columns: Mapping[str, str] | None = None, time_unit: str | None = None
) -> Arrivals:
    """Read a log of arrivals: CSV, Parquet, JSON or JSON lines.

    Args:
      path: the file; a column `task` may be absent. Times are numbers, or dates and times.
      columns: names of the columns by field (time, task) where they are called otherwise.
      time_unit: of times, "s", "ms", "us" or "ns", where the column's name ends in none.

    Raises:
      ValueError: one line that names the file, the row, the column and the fix.
    """
    table, header = read_table(path, ARRIVALS, needed=("time",), columns=columns)
    time, unit = read_times(table["time"], time_unit=time_unit, beside=header)
    task, tasks = table["task"].codes() if "task" in table else (None, ())
    return Arrivals(time, tasks, task, unit)
