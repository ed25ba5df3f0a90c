"""Validation errors as one line: the field, the value, the fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from jaxalloc.allocation.model.domain import FIELDS

_TOP = (
    "arrival_rate",
    "arrival_rate_se",
    "accuracy_weight",
    "token_price",
    "name",
    "source",
    "note",
    "task",
)
_BOUNDS = {"greater_than": "greater than", "greater_than_equal": "at least"}
_MAX_LENGTH = 60


def describe(error: Mapping[str, Any], data: Any) -> str:
    """One error of pydantic's as one line of ours.

    Args:
      error: an entry of `ValidationError.errors()`.
      data: what was validated, to name the task by its name.
    """
    location = error["loc"]
    place, field = _place(location, data)
    kind, value = error["type"], shorten(error["input"])
    if kind == "value_error":  # one of ours: it says everything itself
        return place + str(error["ctx"]["error"])
    if kind == "missing":
        return f"{place}{field} is missing: add {_wanted(field)}"
    if kind == "extra_forbidden":
        return f"{place}{field} = {value} is not a field: {_alternative(field, location)}"
    if kind in _BOUNDS:
        limit = next(iter(error["ctx"].values()))
        return f"{place}{field} = {value} must be {_BOUNDS[kind]} {limit:g}: give {_wanted(field)}"
    if kind == "finite_number":
        return f"{place}{field} = {value} must be finite: give {_wanted(field)}"
    if kind == "float_type":
        return f"{place}{field} = {value} is not a number: give {_wanted(field)}"
    if kind == "string_too_short":
        return f"{place}{field} = {value} is empty: give {_wanted(field)}"
    if kind == "string_type":
        return f"{place}{field} = {value} is not text: give {_wanted(field)} in quotes"
    if kind in ("list_type", "too_short", "model_type"):
        return f"{place}{field} = {value} is not a list: give {_wanted(field)}"
    return f"{place}{field} = {value}: {error['msg']}"


def _place(location: tuple[int | str, ...], data: Any) -> tuple[str, str]:
    """Where an error is ("task 2 (GSM8K): ") and the field it is about."""
    if len(location) < 2 or location[0] != "task":
        return "", str(location[0]) if location else "workload"
    index = int(location[1])
    table = data["task"][index]
    name = table.get("name") if isinstance(table, Mapping) else None
    label = f" ({name})" if isinstance(name, str) and name else ""
    return f"task {index + 1}{label}: ", str(location[2]) if len(location) > 2 else "task"


def _wanted(field: str) -> str:
    if field in FIELDS:
        return f"the {FIELDS[field].meaning}"
    if field == "task":
        return "one [[task]] table for each task type"
    if field == "covariance":
        return "3 rows of 3 numbers (gain, decay, floor)"
    if field == "service_covariance":
        return "2 rows of 2 numbers (base_time, time_per_token)"
    if field.endswith("_se"):
        return "a standard error, not negative"
    return f"a {field}"


def _alternative(field: str, location: tuple[int | str, ...]) -> str:
    """The field that was probably meant, or all there are."""
    inside = len(location) > 1
    fields = [name for name, entry in FIELDS.items() if entry.per_type]
    errors = [f"{name}_se" for name in fields]
    known = ["name", *fields, *errors, "covariance", "service_covariance"] if inside else list(_TOP)
    close = difflib.get_close_matches(field, known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    if inside and field in _TOP:
        return "move it above the first [[task]]"
    if not inside and field in fields:
        return "move it into the [[task]] tables"
    shown = ["name", *fields] if inside else known
    return f"remove it; the fields are {', '.join(shown)}"


def shorten(value: Any) -> str:
    """A value as one line that is not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"
