"""A progress line on stderr while a run is under way."""

import sys
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcr_infer.pipeline.outcome import Outcome, Summary


class RunProgress:
    """A progress line on stderr, with rate and time left, while a run is under way.

    `total` counts the inputs and may take its time: it runs beside the work. None, of either, means that nobody knows.
    Where stderr is no terminal, nothing is drawn.
    """

    def __init__(self, what: str, total: Callable[[], int | None] | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>8.1f}/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(what, total=None, rate=0.0)
        self._total = total
        self._done = 0

    def __enter__(self) -> "RunProgress":
        self._started = time.perf_counter()
        self._progress.start()
        if self._total is not None and not self._progress.disable:
            threading.Thread(target=self._find_total, args=(self._total,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _find_total(self, total: Callable[[], int | None]) -> None:
        self._progress.update(self._task, total=total())

    def advance(self, count: int = 1) -> None:
        """Count one more input as done, or several."""
        self._done += count
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._task, advance=count, rate=rate)

    def follow(self, outcomes: "Iterable[Outcome]", summary: "Summary") -> None:
        """Drive a run to its end and count its outcomes; whatever ends it, the count is closed."""
        try:
            for outcome in outcomes:
                summary.count(outcome)
                self.advance()
        finally:
            summary.close(time.perf_counter() - self._started)
