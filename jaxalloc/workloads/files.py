"""Workload files: what may stand in one, reading, overriding and writing it.

A file is TOML: `arrival_rate` and `accuracy_weight` (and, if wished, `token_price`, `name`,
`source`, `note`) at the top, then one `[[task]]` table a type with the fields of `Workload` as
plain numbers. Standard errors may stand beside them (`decay_se`), and the covariances of (gain,
decay, floor) and of (base_time, time_per_token).
"""

from __future__ import annotations

import collections
import os
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jaxalloc.allocation.model.domain import FIELDS, MIX_TOLERANCE
from jaxalloc.allocation.model.workload import Workload
from jaxalloc.files import new_file
from jaxalloc.workloads.messages import describe, shorten

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_TOKENS = ("min_tokens", "max_tokens")

# Covariances of a task and what they are of.
COVARIANCES = {
    "covariance": ("gain", "decay", "floor"),
    "service_covariance": ("base_time", "time_per_token"),
}
StandardError = Field(default=None, ge=0)


class Task(BaseModel):
    """One task type: a `[[task]]` table."""

    model_config = _STRICT

    name: str = Field(min_length=1)
    mix: float = Field(ge=0)
    gain: float = Field(ge=0)
    decay: float = Field(gt=0)
    floor: float = Field(ge=0)
    base_time: float = Field(ge=0)
    time_per_token: float = Field(gt=0)
    min_tokens: float = Field(default=0.0, ge=0)
    max_tokens: float = Field(ge=0)
    service_cv: float = Field(default=0.0, ge=0)
    mix_se: float | None = StandardError
    gain_se: float | None = StandardError
    decay_se: float | None = StandardError
    floor_se: float | None = StandardError
    base_time_se: float | None = StandardError
    time_per_token_se: float | None = StandardError
    service_cv_se: float | None = StandardError
    covariance: list[list[float]] | None = None
    service_covariance: list[list[float]] | None = None

    @model_validator(mode="after")
    def _check(self) -> Task:
        _check_name(self.name)
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens = {self.min_tokens:g} must not exceed max_tokens = "
                f"{self.max_tokens:g}: lower it or raise max_tokens"
            )
        best = self.floor + self.gain
        if best > 1 + 4 * np.finfo(float).eps:
            raise ValueError(f"floor + gain = {best:g} must not exceed 1: lower one of them")
        for key, fields in COVARIANCES.items():
            rows = getattr(self, key)
            if rows is not None:
                _check_covariance(rows, key, fields)
        return self


class WorkloadFile(BaseModel):
    """A workload with the names of its tasks and where it comes from: a whole file."""

    model_config = _STRICT

    name: str | None = None
    source: str | None = None
    note: str | None = None
    arrival_rate: float = Field(ge=0)
    arrival_rate_se: float | None = StandardError
    accuracy_weight: float = Field(ge=0)
    token_price: float = Field(default=0.0, ge=0)
    task: list[Task] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> WorkloadFile:
        _check_name(self.name or "")
        for name, count in collections.Counter(self.task_names).items():
            if count > 1:
                raise ValueError(f"name = {name!r} is given to more than one task: rename one")
        total = sum(task.mix for task in self.task)
        if abs(total - 1) > MIX_TOLERANCE:
            raise ValueError(f"the sum of mix = {total:g} must be 1: divide each mix by it")
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        """The names of the tasks, in the order of the type axis K."""
        return tuple(task.name for task in self.task)


def _check_name(name: str) -> None:
    """Raise ValueError where a terminal or a picture would obey, and not show, a character."""
    if not name.isprintable():
        raise ValueError(f"name = {shorten(name)} has characters that do not print: remove them")


def _check_covariance(rows: list[list[float]], key: str, fields: tuple[str, ...]) -> None:
    """Raise ValueError unless `rows` can be the covariance of the fields."""
    size, names = len(fields), f"({', '.join(fields)})"
    if len(rows) != size or any(len(row) != size for row in rows):
        shape = f"{len(rows)} rows of {[len(row) for row in rows]}"
        raise ValueError(f"{key} has {shape} numbers: give {size} rows of {size} {names}")
    matrix = np.array(rows)
    scale = np.sqrt(np.clip(np.diag(matrix), 0, None))
    slack = 1e-9 * np.outer(scale, scale)
    if np.any(np.abs(matrix - matrix.T) > slack):
        raise ValueError(f"{key} = {rows} is not symmetric: give {names} in both")
    if np.any(np.abs(matrix) > np.outer(scale, scale) + slack):
        raise ValueError(
            f"{key} = {rows} has a variance below 0 or a correlation above 1: "
            f"give the covariance of {names}"
        )


def builtin_names() -> tuple[str, ...]:
    """Names of the workloads that come with the package.

    >>> builtin_names()
    ('qwen3-8b', 'r1-distill-llama-8b')
    """
    folder = resources.files("jaxalloc.workloads") / "builtin"
    files = [entry.name for entry in folder.iterdir() if entry.name.endswith(".toml")]
    return tuple(sorted(name.removesuffix(".toml") for name in files))


def builtin_text(name: str) -> str:
    """The TOML of a built-in workload, comments and all: a start for one's own."""
    return (resources.files("jaxalloc.workloads") / "builtin" / f"{name}.toml").read_text("utf-8")


def load(name_or_path: str | os.PathLike[str]) -> WorkloadFile:
    """Read a built-in workload by its name, or any other from its file.

    Raises:
      ValueError: no such workload, or something in it is wrong; one line that names the file, the
        field, the value and the fix.

    >>> load("qwen3-8b").task_names
    ('AIME24', 'AIME25', 'GPQA-D', 'GSM8K', 'HMMT25')
    """
    name = os.fspath(name_or_path)
    if name in builtin_names():
        return _parse(builtin_text(name), name)
    try:
        text = Path(name).read_bytes().decode("utf-8")
    except FileNotFoundError:
        known = ", ".join(builtin_names())
        raise ValueError(
            f"workload = {name!r} is no file and not built in: give a TOML file or one of {known}"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"workload = {name!r} cannot be read ({reason}): give a file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: byte {error.start} is not UTF-8: save it as UTF-8") from None
    return _parse(text, name)


def _parse(text: str, origin: str) -> WorkloadFile:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{origin}: is not TOML: {error}: correct it there") from None
    except RecursionError:
        raise ValueError(f"{origin}: is nested too deep: flatten it") from None
    return validate(data, origin)


def validate(data: Any, origin: str) -> WorkloadFile:
    """What a TOML file holds as a workload.

    Raises:
      ValueError: something in it is wrong; one line that names the origin, the field, the value
        and the fix.
    """
    try:
        return WorkloadFile.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt field is also a missing one: name the misspelling.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raise ValueError(f"{origin}: {describe(first, data)}") from None


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
    data = file.model_dump()
    for name, value in numbers.items():
        for table in data["task"] if FIELDS[name].per_type else [data]:
            table[name] = float(value)
    return validate(data, origin)


def to_workload(file: WorkloadFile) -> Workload:
    """The arrays of a file in JAX's default dtype: float64 where x64 is on, else float32."""
    numbers: dict[str, Any] = {
        name: [getattr(task, name) for task in file.task] if field.per_type else getattr(file, name)
        for name, field in FIELDS.items()
    }
    return Workload.create(**numbers)


def save(file: WorkloadFile, path: str | os.PathLike[str]) -> None:
    """Write a workload as TOML; `load` gives it back equal. The file appears only when complete."""
    document = tomlkit.document()
    data = file.model_dump(exclude_none=True)
    tasks = data.pop("task")
    if not data["token_price"]:  # which few workloads have
        del data["token_price"]
    for key, value in data.items():
        document.add(key, tomlkit.item(value))
    tables = tomlkit.aot()
    for task in tasks:
        table = tomlkit.table()
        for key, value in task.items():
            whole = key in _TOKENS and float(value).is_integer()
            table.add(key, tomlkit.item(int(value) if whole else value))
        tables.append(table)
    document.add("task", tables)
    with new_file(Path(path)) as written:
        written.write(tomlkit.dumps(document).encode())
