"""The flags of `jaxalloc sweep`, and the order of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import flag, option

WORDS = "jaxalloc.words"

Study = Annotated[
    str,
    typer.Argument(
        metavar="PLAN|FILE|PRESET",
        help="A plan (TOML) that says it all, or a workload to which the flags below add axes.",
        show_default=False,
    ),
]
Axes = Annotated[
    list[str] | None,
    option("--axis", "NAME=AXIS", "An axis of one task: decay.GSM8K=1e-3:1e-2:5:log."),
]
Design = Annotated[
    str,
    option("--design", "NAME", "grid; or sobol or random: --points drawn from axes FROM:TO."),
]
Points = Annotated[int | None, option("--points", "N", "How many are drawn.")]
Seed = Annotated[int, option("--seed", "N", "Of the points drawn.")]
TableFile = Annotated[
    Path | None, option("--table", "FILE", "Configurations one by one: .csv, .parquet.")
]
Out = Annotated[Path | None, option("--out", "PATH", "One file (.parquet), or a folder of parts.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what is in --out.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read all of the folder of --out and name what is damaged; with --resume, mend it.",
    ),
]
ChunkSize = Annotated[int | None, option("--chunk-size", "N", "Configurations a chunk.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take, from a few timed chunks.")
]
NumProcesses = Annotated[
    int | None, option("--num-processes", "N", "Processes that share the folder: see --process-id.")
]
ProcessId = Annotated[
    int | None,
    option("--process-id", "I", "Which of them this is, from 0 on: it takes every N-th chunk."),
]


class WithOrder(TyperCommand):
    """Remembers the words of the command: the order of its axes is the order of the rows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words before they are taken apart."""
        ctx.meta[WORDS] = list(args)
        return super().parse_args(ctx, args)


def named_axes(
    words: list[str], numbers: Mapping[str, str], axis: list[str]
) -> list[tuple[str, str]]:
    """Name and text of every axis in the order of the command line."""
    flags = {flag(name): name for name in numbers}
    left = iter(axis)
    named: list[tuple[str, str]] = []
    for word in words:
        key = word.partition("=")[0]
        if key == "--axis":
            text = next(left)
            name, equals, values = text.rpartition("=")
            if not equals:
                raise BadInput(f"--axis = {text!r} has no values: give NAME=a:b:n")
            field, dot, task = name.partition(".")
            name = field.replace("-", "_") + dot + task
        elif key in flags:
            name, values = flags[key], numbers[flags[key]]
        else:
            continue
        if any(name == other for other, _ in named):
            raise BadInput(f"{key} = {values!r} is given twice: drop one")
        named.append((name, values))
    return named
