"""The flags of `jaxalloc sweep`, and the order of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import flag

WORDS = "jaxalloc.words"
_CLUSTER = "Several processes (see jax.distributed)"

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
    typer.Option(
        "--axis", metavar="NAME=AXIS", help="An axis of one task: decay.GSM8K=1e-3:1e-2:5:log."
    ),
]
Design = Annotated[
    str,
    typer.Option("--design", help="grid; or sobol or random: --points drawn from axes FROM:TO."),
]
Points = Annotated[int | None, typer.Option("--points", metavar="N", help="How many are drawn.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the points drawn.")]
TableFile = Annotated[
    Path | None,
    typer.Option("--table", metavar="FILE", help="Configurations one by one: .csv, .parquet."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="PATH", help="One file (.parquet), or a folder of parts."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what the folder of --out holds.")]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Read all of the folder of --out and name what is damaged; with --resume, mend it.",
    ),
]
ChunkSize = Annotated[
    int | None,
    typer.Option("--chunk-size", metavar="N", help="Configurations a chunk."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what it would take, from a few timed chunks.")
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        "--coordinator", metavar="HOST:PORT", help="Of process 0.", rich_help_panel=_CLUSTER
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", metavar="N", help="In all.", rich_help_panel=_CLUSTER),
]
ProcessId = Annotated[
    int | None,
    typer.Option("--process-id", metavar="I", help="Of this.", rich_help_panel=_CLUSTER),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Find the processes as Slurm, Open MPI or Kubernetes lay them out.",
        rich_help_panel=_CLUSTER,
    ),
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
