"""Ctrl-C and SIGTERM end a run at the next commit; a second one ends it at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Inside the block the first signal calls `ask`, a later one raises `KeyboardInterrupt`; afterwards all is as before.

    To be entered in the main thread, which is where Python handles signals.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self.signal: int | None = None
        """The first signal that came."""

    def __enter__(self) -> "Interruption":
        self._former: dict[int, Any] = {}
        for number in _SIGNALS:
            # What was set to be ignored, as nohup and shells in the background do, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self._ask()
