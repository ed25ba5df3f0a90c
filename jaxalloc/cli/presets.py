"""`jaxalloc presets`: the built-in workloads."""

from __future__ import annotations

from typing import Annotated

import typer

from jaxalloc.cli.errors import BadInput
from jaxalloc.cli.options import AsJson
from jaxalloc.cli.report import print_json, show


def presets(
    name: Annotated[
        str | None,
        typer.Argument(help="Print the file of this one, to start one's own from."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the built-in workloads, or print the file of one."""
    from jaxalloc.workloads.files import builtin_names, builtin_text, load

    names = builtin_names()
    if name is not None and name not in names:
        raise BadInput(f"preset = {name!r} is not built in: give one of {', '.join(names)}")
    files = {known: load(known) for known in names if name in (None, known)}
    if as_json:
        documents = [{"preset": known} | file.to_dict() for known, file in files.items()]
        print_json(documents if name is None else documents[0])
    elif name is not None:
        typer.echo(builtin_text(name), nl=False)
    else:
        for known, file in files.items():
            told = {"preset": known, "tasks": ", ".join(file.names)}
            told |= {"source": file.source or "", "note": file.note or ""}
            show([*told.items(), ("", "")])
