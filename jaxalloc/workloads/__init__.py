"""Workload files: TOML in, TOML out, and the built-in ones."""

from jaxalloc.workloads.files import (
    Task,
    WorkloadFile,
    builtin_names,
    builtin_text,
    load,
    override,
    save,
    to_workload,
)

__all__ = [
    "Task",
    "WorkloadFile",
    "builtin_names",
    "builtin_text",
    "load",
    "override",
    "save",
    "to_workload",
]
