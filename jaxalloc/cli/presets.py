"""`jaxalloc presets`: the built-in workloads."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.flags import AsJson


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("presets")(presets)


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of this one, to start one's own from."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the built-in workloads, or print the file of one."""
    from jaxalloc.cli.output import make_totals, print_json, show
    from jaxalloc.workloads import files as workload_files

    names = workload_files.builtin_names()
    if name is not None and name not in names:
        raise BadInput(f"preset = {name!r} is not built in: give one of {', '.join(names)}")
    files = {known: workload_files.load(known) for known in names if name in (None, known)}
    if as_json:
        documents = [{"preset": known} | file.to_dict() for known, file in files.items()]
        print_json(documents if name is None else documents[0])
    elif name is not None:
        typer.echo(workload_files.builtin_text(name), nl=False)
    else:
        table = make_totals()
        for known, file in files.items():
            table.add_row("preset", known)
            table.add_row("tasks", ", ".join(file.task_names))
            table.add_row("source", file.source or "")
            table.add_row("note", file.note or "")
            table.add_row("", "")
        show(table)
