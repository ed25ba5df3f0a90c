"""What `jaxalloc sweep` says while it runs, and how Ctrl-C reaches it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalloc.sweep.running import Progress

_LINE_EVERY = 10.0  # s, where stderr is no terminal
_STOPPING = "stopping after the running chunks; Ctrl-C again stops at once"


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the first is noted, the second ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # signals belong to the main thread
        return
    pressed = threading.Event()

    def note(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.stderr.write(f"\njaxalloc: {_STOPPING}\n")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress(total: int, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr where that is a terminal; elsewhere (a log file) a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield lambda state: None
    elif console.is_terminal:
        with _bar(console, total) as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bar(console: Any, total: int) -> Iterator[Callable[[Progress], None]]:
    from rich import progress as rich

    bar = rich.Progress(
        rich.TextColumn("solving"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.fields[rate]}"),
        rich.TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    began = time.perf_counter()
    with bar:
        task = bar.add_task("solving", total=total, rate="")

        def report(state: Progress) -> None:
            rate = state.here / max(time.perf_counter() - began, 1e-9)
            bar.update(task, completed=state.done, rate=f"{rate:,.0f} / s")

        yield report


def _lines() -> Callable[[Progress], None]:
    began = last = time.perf_counter()

    def report(state: Progress) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < _LINE_EVERY:
            return
        last = now
        rate = state.here / (now - began)
        sys.stderr.write(
            f"jaxalloc: {state.done:,} of {state.total:,} ({state.done / state.total:.1%}), "
            f"{rate:,.0f} / s, {(state.total - state.done) / rate:,.0f} s left\n"
        )
        sys.stderr.flush()

    return report
