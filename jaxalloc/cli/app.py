"""The commands under one name, and what happens when one of them fails.

The modules of the commands are light: JAX, Matplotlib and the like are imported inside the
functions, so that `jaxalloc --help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from jaxalloc.cli.errors import complain, explain

# Modules of this package, each with a function of its name, in the order of the help.
COMMANDS = (
    "presets",
    "solve",
    "sweep",
    "sensitivity",
    "frontier",
    "queue",
    "trust",
    "schedule",
    "fit",
    "plot",
    "doctor",
)

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count
_NO_OUTPUT = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="jaxalloc",
        help="Thinking-token budgets and KV-cache schedules for LLM servers.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in COMMANDS:
        module = importlib.import_module(f"jaxalloc.cli.{name}")
        app.command(name, cls=getattr(module, "CLASS", None))(getattr(module, name))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"jaxalloc {metadata.version('jaxalloc')}")
        except metadata.PackageNotFoundError:
            typer.echo("jaxalloc (not installed: run from its sources)")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Thinking-token budgets and KV-cache schedules for LLM servers."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; bad input becomes one line on stderr.

    Returns:
      The exit code: 0 done, 1 ran but the answer is a failure, 2 bad input, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = typer.main.get_command(make_app())
    try:
        code = int(command(words, prog_name="jaxalloc", standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    except typer.TyperException as error:
        complain(_usage(error))
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        complain(_with_flag(message, getattr(command, "commands", {}).get(words[0])))
        if isinstance(error, OSError) and error.errno in _NO_OUTPUT:
            _close_stdout()
    return BAD_INPUT


def _close_stdout() -> None:
    """Keep Python from writing there once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_flag(message: str, command: Any) -> str:
    """The message with the flag in the place of the argument that it begins with."""
    name = message.split(" ", 1)[0].rstrip(":")
    flags = {param.name: param.opts[0] for param in getattr(command, "params", ())}
    return flags.get(name, name) + message.removeprefix(name)


def _usage(error: typer.TyperException) -> str:
    """A complaint about flags as one line that says where they are explained."""
    message = str(getattr(error, "format_message", error.__str__)())
    if isinstance(error, typer.BadParameter) and error.param is not None and error.message:
        message = f"{error.param.opts[0]} = {error.message}"
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "jaxalloc"
    return f"{message.rstrip('.').replace('Value error, ', '')}: see {command} --help"
