"""What a run reports while it trains: RUN/metrics.jsonl, the console, and TensorBoard events where they are asked for."""

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import Progress

from mcr_infer.errors import ConfigError
from train.config import Config
from train.progress import progress_bar

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS, EVENTS = "metrics.jsonl", "tensorboard"
"""In the run folder: one JSON object a line, and the folder of TensorBoard events."""

_RECENT = 50
"""Steps over which the pace is measured: evaluations and checkpoints in between count."""


class TrainingLog:
    """Writes the figures of steps and evaluations to wherever a run reports."""

    def __init__(
        self, metrics: TextIO, console: Console, progress: Progress, config: Config, first_step: int,
        events: "SummaryWriter | None" = None, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._metrics, self._console, self._progress, self._events = metrics, console, progress, events
        self._every, self._steps, self._batch = config.run.log_every, config.optim.steps, config.optim.batch_size
        self._clock, self._recent = clock, deque([(first_step, clock())], maxlen=_RECENT + 1)
        self._bar = progress.add_task("training", total=self._steps, completed=first_step)

    def step(self, done: int, figures: dict[str, float]) -> None:
        """Count a step, and report its figures with the pace and the time left where it is due."""
        self._progress.update(self._bar, completed=done)
        self._recent.append((done, self._clock()))
        if done % self._every == 0 or done == self._steps:
            (before, then), (_, now) = self._recent[0], self._recent[-1]
            pace = (done - before) / max(now - then, 1e-9)
            left = (self._steps - done) / pace
            self._report("train", done, figures | {"pairs_per_second": pace * self._batch, "seconds_left": left})

    def evaluation(self, done: int, figures: dict[str, float]) -> None:
        """Report the figures of an evaluation after `done` steps."""
        self._report("evaluation", done, figures)

    def _report(self, kind: str, done: int, figures: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.5g}") for name, value in figures.items()}
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._metrics.write(json.dumps({"kind": kind, "step": done, "time": when, **rounded}) + "\n")
        if self._events is not None:
            for name, value in figures.items():
                self._events.add_scalar(f"{kind}/{name}", value, done)
        pace = rounded.pop("pairs_per_second", None)
        left = timedelta(seconds=round(rounded.pop("seconds_left", 0.0)))
        words = " ".join(f"{name} {value:.4g}" for name, value in rounded.items())
        if self._console.is_terminal:
            short = words if pace is None else f"loss {rounded['loss']:.3f}, {pace:.3g} pairs/s"
            self._progress.update(self._bar, description=short)
        else:
            ahead = "" if pace is None else f" ({pace:.3g} pairs/s, {left} left)"
            self._console.print(f"{when} step {done} of {self._steps}{ahead}: {words}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def open_log(
    run: Path | None, console: Console, config: Config, first_step: int, *, tensorboard: bool = False
) -> Iterator[TrainingLog]:
    """Open the log of a run folder and a bar; without a folder (a process that does not lead) nothing is kept."""
    path = Path(os.devnull) if run is None else run / METRICS
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(path.open("a", encoding="utf-8", buffering=1))
        events = None
        if run is not None and tensorboard:
            # Events of steps that a resumed run takes again are hidden.
            events = _writer()(str(run / EVENTS), purge_step=first_step + 1)
            stack.callback(events.close)
        progress = stack.enter_context(progress_bar(console))
        yield TrainingLog(metrics, console, progress, config, first_step, events)


def require_tensorboard() -> None:
    """Raise `ConfigError` where the package that writes TensorBoard events is not installed."""
    _writer()


def _writer() -> "type[SummaryWriter]":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as exc:
        raise ConfigError(
            "--tensorboard needs the package tensorboard: pip install --group tensorboard (in the checkout), or "
            f"pip install tensorboard ({exc})"
        ) from exc
    return SummaryWriter
