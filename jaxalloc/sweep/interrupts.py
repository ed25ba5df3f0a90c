"""Ctrl-C, kept waiting while something is written that it would spoil."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Held:
    """Inside, Ctrl-C waits for the end, or for `released`.

    By the handler, which is the process's: a mask is of one thread, and any other takes the signal.
    Python runs handlers in the main thread, so that in others there is nothing to hold.
    """

    def __init__(self) -> None:
        self._own = threading.current_thread() is threading.main_thread()
        self._pressed = 0
        self._handler: Any = None

    def __enter__(self) -> Held:
        if self._own:
            self._handler = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._own:
            signal.signal(signal.SIGINT, self._handler)
            while self._pressed:
                self._pressed -= 1
                signal.raise_signal(signal.SIGINT)

    def _note(self, number: int, frame: Any) -> None:
        self._pressed += 1

    @contextmanager
    def released(self) -> Iterator[None]:
        """Inside, Ctrl-C does what it did before; what waits is done first."""
        try:
            self.__exit__()
            yield
        finally:
            self.__enter__()
