"""Work in a process of its own: forked from this one, so that a crash ends that process only and is seen from here."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")
_PATIENCE = 120.0
"""Seconds after which a process that was to end is taken for hung."""


class DiedError(Exception):
    """A process ended by a signal, by an exception, or not at all."""


class Victim:
    """A process that tells what it does as it does it, until it ends or is killed."""

    def __init__(self, work: Callable[[Callable[[Any], None]], None], *, hold_after: int | None = None) -> None:
        """Start it. After telling `hold_after` things it does nothing more until it is killed: it never ends too early."""
        self._receiving, sending = _FORK.Pipe(duplex=False)
        self._process = _FORK.Process(target=_tell_all, args=(work, sending, hold_after))
        self._process.start()
        sending.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return int(self._process.pid or 0)

    def next(self) -> Any:
        """Wait for the next thing that it tells. Raises `DiedError` where nothing comes."""
        try:
            if not self._receiving.poll(_PATIENCE):
                raise DiedError("says nothing any more")
            return self._receiving.recv()
        except EOFError:
            raise DiedError(self._how()) from None

    def ends_within(self, seconds: float) -> bool:
        """True where it ends by itself within that time."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def kill(self) -> None:
        """End it as a power switch would: SIGKILL."""
        self._process.kill()
        self._process.join()

    def rest(self) -> list[Any]:
        """Return what it still told before it ended."""
        told = []
        while True:
            try:
                told.append(self._receiving.recv())
            except EOFError:
                self._process.join(_PATIENCE)
                self._receiving.close()
                return told

    def _how(self) -> str:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code is None:
            self.kill()
            return "hangs"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    @property
    def killed(self) -> bool:
        """True where it was killed before it ended by itself."""
        return self._process.exitcode == -signal.SIGKILL

    @property
    def failed(self) -> bool:
        """True where it ended by itself and not well."""
        return self._process.exitcode not in (0, -signal.SIGKILL)


def _tell_all(
    work: Callable[[Callable[[Any], None]], None], sending: Connection, hold_after: int | None = None
) -> None:
    told = 0

    def tell(what: Any) -> None:
        nonlocal told
        sending.send(what)
        told += 1
        if told == hold_after:
            parent = multiprocessing.parent_process()
            assert parent is not None
            parent.join()  # so that nothing is left behind where nobody kills it
            os._exit(1)

    work(tell)
    sending.close()


def isolated(work: Callable[[], T]) -> T:
    """Return what a function returns in a process of its own. Raises `DiedError` where that dies."""
    victim = Victim(lambda tell: tell(work()))
    found: T = victim.next()
    victim.rest()
    return found
