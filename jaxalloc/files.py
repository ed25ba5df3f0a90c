"""Files that appear whole: every file that the package writes is written here.

It is written under a name that nobody can guess, made exclusively so that no link is followed, and
takes its own name when all of it is on the disk. Whatever ends the writing leaves no half of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_MOST_NAME = 40  # characters of the name in that of the unfinished file: systems allow 255 bytes


@contextmanager
def new_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to that appears at `path` when the block ends; a link there is replaced.

    Args:
      path: its name.
      durable: wait until it is on the disk; else a failing machine may leave it empty or cut off.

    Raises:
      OSError: the disk is full, or whatever else kept it from being written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.txt"
    ...     with new_file(path) as file:
    ...         _ = file.write(b"whole")
    ...     path.read_bytes()
    b'whole'
    """
    with unfinished_file(path) as file:
        yield file
        publish(file, path, durable=durable)


@contextmanager
def unfinished_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, for `publish`; where that is not called it is gone after the block."""
    name = f".{path.name[:_MOST_NAME]}.{secrets.token_hex(8)}.tmp"
    unfinished = path.with_name(name)
    with unfinished.open("xb") as file:
        try:
            yield file
        finally:
            unfinished.unlink(missing_ok=True)


def publish(file: BinaryIO, path: Path, *, durable: bool = True) -> None:
    """Give an unfinished file its name, once it is on the disk."""
    file.flush()
    if durable:
        os.fsync(file.fileno())
    os.replace(file.name, path)
    if durable:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_target(path: Path, suffixes: tuple[str, ...], field: str) -> None:
    """Raise ValueError unless a file of that name could be written: before any computing.

    The message names `field`, the path and the fix.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{field} = {str(path)!r} must end in {' or '.join(suffixes)}: rename it")
    if path.is_dir():
        raise ValueError(f"{field} = {str(path)!r} is a folder: give a file")
    check_parent(path, field)


def check_parent(path: Path, field: str) -> None:
    """Raise ValueError unless something can be put where `path` is."""
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"{field} = {str(path)!r}: there is no folder {str(folder)!r}: make it")
    if not os.access(folder, os.W_OK):
        raise ValueError(
            f"{field} = {str(path)!r}: the folder {str(folder)!r} is not writable: give another"
        )
