"""Several processes, on one machine or many, that share a sweep by JAX's multi-controller runtime.

Each solves its share with its own devices and writes its own parts into the one folder; nothing
crosses between them but a few words in the coordinator's key-value store: what is to be done, that
each is alive, that each has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_BEAT = 0.5  # s between two signs of life
_PATIENCE = 20  # own beats without a sign of life of another process
_TIMEOUT_MS = 600_000
_NAMES = "jaxalloc/sweep"
_AFTERMATH = (
    "jaxalloc: process %d ended before the sweep did, since it or another process was stopped; "
    "the parts written so far are kept: run it again with --resume"
)


class Group(Protocol):
    """The processes of one sweep."""

    @property
    def index(self) -> int:
        """The number of this one."""

    @property
    def count(self) -> int:
        """How many there are."""

    def share(self, make: Callable[[], Any]) -> Any:
        """What process 0 makes, given to all; a ValueError of its, raised in all."""

    def lost(self) -> str | None:
        """What happened to another process, if something did."""

    def leave(self, complete: bool) -> None:
        """Say that the own share has ended, and wait for the others; Lost if one has died."""

    def abandon(self) -> None:
        """Say that nothing more is to come of this process."""


class Alone:
    """A sweep of one process."""

    index, count = 0, 1

    def share(self, make: Callable[[], Any]) -> Any:
        """`make()`."""
        return make()

    def lost(self) -> str | None:
        """Nothing."""
        return None

    def leave(self, complete: bool) -> None:
        """No one to wait for."""

    def abandon(self) -> None:
        """No one to tell."""


class Lost(Exception):
    """Another process died."""


class Together:
    """A sweep of several processes; `jax.distributed` must be initialized."""

    def __init__(self) -> None:
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()
        self._store = _store()
        self._rounds = 0
        self._problem: str | None = None
        self.someone_died = False
        self._over = threading.Event()
        self._others_ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._say("beat", "0")
        self._beats.start()

    def share(self, make: Callable[[], Any]) -> Any:
        """What process 0 makes, given to all; a ValueError of its, raised in all."""
        self._rounds += 1
        key = f"{_NAMES}/shared/{self._rounds}"
        if self.index == 0:
            try:
                made = {"value": make()}
            except (ValueError, OSError) as error:  # the others would wait for ever
                made = {"error": str(error)}
            self._store.key_value_set(key, json.dumps(made))
        else:
            made = json.loads(self._store.blocking_key_value_get(key, _TIMEOUT_MS))
        if "error" in made:
            raise ValueError(made["error"])
        return made["value"]

    def lost(self) -> str | None:
        """What happened to another process, if something did."""
        return self._problem

    def leave(self, complete: bool) -> None:
        """Say that the own share has ended, and wait for the others."""
        self._say("end", "complete" if complete else "stopped")
        while not self._others_ended.wait(_BEAT) and not self.someone_died:
            pass
        self._over.set()
        if self.someone_died:
            raise Lost(self._problem)

    def abandon(self) -> None:
        """Say that nothing more is to come of this process, if it has not ended already."""
        if not self._over.is_set():
            self._say("end", "stopped")
            self._over.set()

    def _say(self, what: str, value: str) -> None:
        self._store.key_value_set(f"{_NAMES}/{what}/{self.index}", value, allow_overwrite=True)

    def _heard(self, what: str) -> dict[int, str]:
        """What every process said last."""
        said = self._store.key_value_dir_get(f"{_NAMES}/{what}/")
        return {int(key.rpartition("/")[2]): value for key, value in said}

    def _beat(self) -> None:
        """Give signs of life and watch for those of the others, until the coordinator is gone."""
        try:
            self._watch()
        except RuntimeError as error:  # XLA's, of the store
            self._problem = f"process 0 does not answer ({str(error).splitlines()[0][:80]})"
            self.someone_died = True

    def _watch(self) -> None:
        """Time is counted in own beats: a machine that stood still takes nobody for dead."""
        silent = dict.fromkeys(range(self.count), 0)
        last: dict[int, str] = {}
        number = 0
        while not self._over.wait(_BEAT):
            number += 1
            self._say("beat", str(number))
            beats, ended = self._heard("beat"), self._heard("end")
            for process, times in silent.items():
                silent[process] = times + 1 if beats.get(process) == last.get(process) else 0
            last = beats
            gone = [p for p, times in silent.items() if times > _PATIENCE and p not in ended]
            stopped = [p for p, how in ended.items() if how == "stopped" and p != self.index]
            if gone or (stopped and self._problem is None):
                self._problem = _problem(gone, stopped)
            self.someone_died = bool(gone)
            if len(ended) == self.count:
                self._others_ended.set()


def _problem(gone: list[int], stopped: list[int]) -> str:
    which = gone or stopped
    names = ", ".join(map(str, which))
    verb = "gave no sign of life" if gone else "was stopped"
    seconds = f" for {_PATIENCE * _BEAT:g} s" if gone else ""
    return f"process {names} {verb}{seconds}"


def _store() -> Any:
    """The coordinator's key-value store: JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


@contextmanager
def connected(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[Group]:
    """The processes of a sweep, connected; None where JAX is to find out by itself.

    JAX ends a process natively when the coordinator dies, past all Python: so a child that outlives
    it says what that means.

    Raises:
      ValueError: the flags are wrong, or the coordinator is not there.
    """
    import jax

    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        message = _AFTERMATH % jax.process_index()
    except (ValueError, RuntimeError) as error:
        raise ValueError(_unconnected(coordinator, error)) from None
    script = 'read -r ended || printf "%s\\n" "$1" >&2'
    with subprocess.Popen(
        ["sh", "-c", script, "sh", message], stdin=subprocess.PIPE, start_new_session=True
    ) as witness:
        assert witness.stdin is not None
        group = Together()
        try:
            yield group
        finally:
            if not group.someone_died:  # else JAX would wait for the dead
                group.abandon()
                jax.distributed.shutdown()
            witness.stdin.write(b"ended\n")
            witness.stdin.close()


def _unconnected(coordinator: str | None, error: Exception) -> str:
    """What to do where the processes do not find each other."""
    if coordinator is None:
        return (
            "--distributed: this is no job of several processes that JAX knows: give "
            "--coordinator, --num-processes and --process-id"
        )
    reason = " ".join(str(error).split())[:200]
    return f"--coordinator = {coordinator}: {reason}: check the three flags"


def leave_at_once(code: int) -> None:
    """End this process without waiting for what its threads are at."""
    os._exit(code)
