"""Workload files: what may stand in one, reading, overriding and writing it.

A file is TOML: `arrival_rate` and `accuracy_weight` (and, if wished, `token_price`, `name`,
`source`, `note`) at the top, then one `[[task]]` table a type with the fields of `Workload` as
plain numbers. Standard errors may stand beside them (`decay_se`), and the covariances of (gain,
decay, floor) and of (base_time, time_per_token). The domains of the fields are those of `Workload`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxalloc.allocation.model.domain import FIELDS, MIX_TOLERANCE
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.files import new_file
from jaxalloc.messages import one_line, shown, suggest, within
from jaxalloc.workloads import entries

_ROUNDING = 4 * np.finfo(float).eps  # of floor + gain
_BUILT_IN = resources.files("jaxalloc.workloads") / "builtin"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One task type: a `[[task]]` table, with the fields of `Workload` that are of one type."""

    name: str
    mix: float
    gain: float
    decay: float
    floor: float
    base_time: float
    time_per_token: float
    min_tokens: float = 0.0
    max_tokens: float
    service_cv: float = 0.0
    mix_se: float | None = None
    gain_se: float | None = None
    decay_se: float | None = None
    floor_se: float | None = None
    base_time_se: float | None = None
    time_per_token_se: float | None = None
    service_cv_se: float | None = None
    covariance: list[list[float]] | None = None
    service_covariance: list[list[float]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class WorkloadFile:
    """A whole file: the numbers of a workload, the names of its tasks and where it comes from."""

    name: str | None = None
    source: str | None = None
    note: str | None = None
    arrival_rate: float
    arrival_rate_se: float | None = None
    accuracy_weight: float
    token_price: float = 0.0
    task: list[Task]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tasks, in the order of the type axis K."""
        return tuple(task.name for task in self.task)

    @property
    def workload(self) -> Workload:
        """The arrays, in JAX's default dtype: float64 where x64 is on, else float32."""
        return Workload.create(**{name: self._numbers(name) for name in FIELDS})

    def _numbers(self, name: str) -> Any:
        if FIELDS[name].per_type:
            return [getattr(task, name) for task in self.task]
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """What the file says, as TOML would be read; what it does not say is left out."""
        return dataclasses.asdict(
            self, dict_factory=lambda items: {key: v for key, v in items if v is not None}
        )

    def __repr__(self) -> str:
        rows = [["", *self.names, ""]]
        for name, field in FIELDS.items():
            numbers = self._numbers(name)
            cells = [f"{x:g}" for x in numbers] if field.per_type else [f"{numbers:g}"]
            rows += [[name, *cells, *[""] * (len(self.task) - len(cells)), field.meaning]]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, wide)).rstrip() for row in rows]
        return "\n".join([f"WorkloadFile {self.name!r}", *lines])


def builtin_names() -> tuple[str, ...]:
    """Names of the workloads that come with the package.

    >>> builtin_names()
    ('qwen3-8b', 'r1-distill-llama-8b')
    """
    files = (entry.name for entry in _BUILT_IN.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(name.removesuffix(".toml") for name in files))


def builtin_text(name: str) -> str:
    """The TOML of a built-in workload, comments and all: a start for one's own."""
    return (_BUILT_IN / f"{name}.toml").read_text("utf-8")


def load(name_or_path: str | os.PathLike[str]) -> WorkloadFile:
    """Read a built-in workload by its name, or any other from its file.

    Raises:
      ValueError: no such workload, or something in it is wrong; one line that names the file, the
        field, the value and the fix.

    >>> load("qwen3-8b").names
    ('AIME24', 'AIME25', 'GPQA-D', 'GSM8K', 'HMMT25')
    """
    name, known = os.fspath(name_or_path), builtin_names()
    try:
        text = builtin_text(name) if name in known else Path(name).read_bytes().decode("utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        problem = "is no file and not built in" if absent else f"cannot be read ({error.strerror})"
        fix = f"give a TOML file or one of {', '.join(known)}"
        raise ValueError(f"workload = {name!r} {problem}: {fix}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{name}: is not TOML: {one_line(error)}: correct it there") from None
    except RecursionError:
        raise ValueError(f"{name}: is nested too deep: flatten it") from None
    return validate(data, name)


def override(file: WorkloadFile, numbers: Mapping[str, float], origin: str) -> WorkloadFile:
    """The file with some numbers replaced, checked anew.

    Args:
      file: the workload to change.
      numbers: new values by field; one of a field of the tasks stands for every task.
      origin: what an error calls the workload.

    Raises:
      ValueError: the result is not a workload; names the field, the value and the fix.

    >>> override(load("qwen3-8b"), {"arrival_rate": 0.5}, "qwen3-8b").arrival_rate
    0.5
    """
    data = file.to_dict()
    for name, value in numbers.items():
        for table in data["task"] if FIELDS[name].per_type else [data]:
            table[name] = value
    return validate(data, origin)


def save(file: WorkloadFile, path: str | os.PathLike[str]) -> None:
    """Write a workload as TOML; `load` gives it back equal. The file appears only when complete.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(load("qwen3-8b"), f"{folder}/copy.toml")
    ...     load(f"{folder}/copy.toml") == load("qwen3-8b")
    True
    """
    top = file.to_dict()
    tasks = top.pop("task")
    if not file.token_price:  # which few workloads have
        del top["token_price"]
    lines = _toml(top)
    for task in tasks:
        lines += ["", "[[task]]", *_toml(task)]
    with new_file(Path(path)) as written:
        written.write("\n".join([*lines, ""]).encode())


def _toml(table: Mapping[str, Any]) -> list[str]:
    """The lines of a table; the JSON of text, numbers and lists is TOML, but for one character."""
    lines = []
    for key, value in table.items():
        whole = key.endswith("_tokens") and value.is_integer()
        text = json.dumps(int(value) if whole else value, ensure_ascii=False)
        lines.append(f"{key} = {text}".replace("\x7f", r"\u007f"))
    return lines


def validate(data: Mapping[str, Any], origin: str) -> WorkloadFile:
    """What a TOML file holds as a workload.

    Raises:
      ValueError: something in it is wrong; one line that names the origin, the field, the value
        and the fix.
    """
    with within(origin):
        file: WorkloadFile = _read(WorkloadFile, data)
        for name, count in collections.Counter(file.names).items():
            if count > 1:
                raise ValueError(f"name = {name!r} is given to more than one task: rename one")
        total = sum(task.mix for task in file.task)
        if abs(total - 1) > MIX_TOLERANCE:
            raise ValueError(f"the sum of mix = {total:g} must be 1: divide each mix by it")
    return file


def _read(kind: Any, table: Mapping[str, Any]) -> Any:
    """A `Task` or a `WorkloadFile` of its entries, each checked."""
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    for name, value in table.items():  # first, as a misspelt field is also a missing one
        if name not in known:
            other = WorkloadFile if kind is Task else Task
            into = "above the first [[task]]" if kind is Task else "into the [[task]] tables"
            fix = f"move it {into}" if name in other.__annotations__ else suggest(name, known)
            raise ValueError(f"{name} = {shown(value)} is not a field: {fix}")
    given = {}
    for name, entry in known.items():
        if name in table:
            value = table[name]
            given[name] = _tasks(value) if name == "task" else entries.read(name, value)
        elif entry.default is dataclasses.MISSING:
            raise ValueError(f"{name} is missing: add {entries.wanted(name)}")
    return kind(**given)


def _tasks(tables: Any) -> list[Task]:
    if not isinstance(tables, list) or not tables:
        raise ValueError(f"task = {shown(tables)} is not a list: give {entries.wanted('task')}")
    tasks = []
    for number, table in enumerate(tables, start=1):
        if not isinstance(table, Mapping):
            raise ValueError(
                f"task {number} = {shown(table)} is no table: give {entries.wanted('task')}"
            )
        name = table.get("name")
        label = f" ({name})" if isinstance(name, str) and name.isprintable() and name else ""
        with within(f"task {number}{label}"):
            task: Task = _read(Task, table)
            least, most, best = task.min_tokens, task.max_tokens, task.floor + task.gain
            if least > most:
                fix = f"must not exceed max_tokens = {most:g}: lower it or raise max_tokens"
                raise ValueError(f"min_tokens = {least:g} {fix}")
            if best > 1 + _ROUNDING:
                raise ValueError(f"floor + gain = {best:g} must not exceed 1: lower one of them")
        tasks.append(task)
    return tasks
