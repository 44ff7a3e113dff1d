"""How everything here is measured: warmed up, in turn, several rounds, medians with intervals, and a look at the machine.

    A B C  A B C  A B C ...     rounds, so that a drifting machine moves all of them
    ratio of A to B in each round, the median of the ratios     not the ratio of medians
    a fixed piece of work before, between and after             how much the machine itself moved

A call on a GPU is waited for before the clock stops, and timed by events of the GPU itself: timings of what was only queued
are not timings.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.part import Measure

NOISE_LIMIT = 0.10
"""Spread of the gauge, (95th percentile - 5th) / median, from which a part is flagged."""

STEAL_LIMIT = 0.02
"""Share of processor time that the host took away, from which a part is flagged."""

OTHERS_LIMIT = 0.05
"""Share of the cores' time that other programs took, from which a part is flagged."""

_RESAMPLES = 1000
_CONFIDENCE = 0.95


def measure(values: Sequence[float], *, seed: int = 0) -> Measure:
    """Return the median of values with a bootstrap interval (95 %, percentiles; Efron 1979); fewer than three have none."""
    return quantile(values, 0.5, seed=seed) if len(values) >= 3 else Measure(value=statistics.median(values))


def quantile(values: Sequence[float], share: float, *, seed: int = 0) -> Measure:
    """Return a quantile of values with a bootstrap interval, as `measure` does for the median.

    Raises `ValueError` where there are too few values to have it: a 99th percentile of fifty is their largest.
    """
    needed = 1 / min(share, 1 - share)
    if len(values) < needed - 1e-9:
        raise ValueError(f"{len(values)} values have no {100 * share:g}th percentile, {needed:.0f} would")
    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=np.float64), size=(_RESAMPLES, len(values)))
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(np.quantile(drawn, share, axis=1), [tail, 1 - tail])
    return Measure(value=float(np.quantile(values, share)), low=float(low), high=float(high))


def ratio(of: Sequence[float], to: Sequence[float], *, seed: int = 0) -> Measure:
    """Return the median of the ratios round by round, with its interval."""
    return measure([a / b for a, b in zip(of, to, strict=True)], seed=seed)


Clock = Callable[[Callable[[], object]], float]
"""Makes a call and returns the seconds that it took."""


def cuda_clock(call: Callable[[], object]) -> float:
    """Time a call by events on PyTorch's current CUDA stream, which ends once all of it is done.

    Written against the documented interface; not run on a GPU by us.
    """
    import torch

    begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begun.record()
    call()
    ended.record()
    torch.cuda.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3


@dataclass(slots=True)
class Timing:
    """Seconds of the calls of one way, round by round."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)


def in_turn(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    synchronise: Callable[[], object] | None = None,
    between: Callable[[], object] | None = None,
    clocks: Mapping[str, Clock] | None = None,
) -> dict[str, Timing]:
    """Time each way once a round, in turn; `synchronise` waits for a device, `between` is called after each round.

    A way that has a clock of its own is timed by it, the others by the clock on the wall. The order turns with the rounds,
    so that no way always comes after the same other one.
    """
    wait = synchronise or (lambda: None)
    for call in ways.values():
        for _ in range(warm_up):
            call()
    wait()
    found = {name: Timing() for name in ways}
    names = list(ways)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            wait()
            clock = (clocks or {}).get(name)
            wall, processor = time.perf_counter(), time.process_time()
            taken = None if clock is None else clock(ways[name])
            if clock is None:
                ways[name]()
            wait()
            found[name].wall.append(time.perf_counter() - wall if taken is None else taken)
            found[name].processor.append(time.process_time() - processor)
        if between is not None:
            between()
    return found


def for_seconds(call: Callable[[], object], seconds: float, *, at_least: int = 3) -> list[float]:
    """Make a call again and again for some seconds and return the seconds of each."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < at_least or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


class Gauge:
    """A look at the machine beside a measurement: a fixed piece of work, again and again, and the time that others took.

    The load average is no witness here: it still counts the part that was measured a minute before.

    with Gauge() as gauge:
        ...; gauge.tick(); ...
    gauge.flags()
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._matrix = np.random.default_rng(0).standard_normal((160, 160), dtype=np.float32)

    def __enter__(self) -> "Gauge":
        self._before, self._own_before = _processor_times(), _own_seconds()
        self.tick()
        return self

    def __exit__(self, *_: object) -> None:
        self.tick()
        self._after, self._own_after = _processor_times(), _own_seconds()

    def tick(self) -> None:
        """Do the fixed piece of work a few times, a tenth of a second in all, and keep the median."""
        self._work(4)  # caches, which the measurement has swept
        times = []
        for _ in range(5):
            started = time.perf_counter()
            self._work(40)
            times.append(time.perf_counter() - started)
        self.seconds.append(statistics.median(times))

    def _work(self, count: int) -> None:
        """Multiply on one thread, without BLAS: threads of the measurement that still spin must not count as noise."""
        total = self._matrix
        for _ in range(count):
            total = np.clip(np.einsum("ij,jk->ik", total, self._matrix), -1, 1)

    @property
    def pace_ms(self) -> float:
        """Milliseconds of the fixed piece of work, the median."""
        return 1e3 * statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(95th percentile - 5th) / median of the fixed piece of work."""
        low, middle, high = np.quantile(self.seconds, [0.05, 0.5, 0.95])
        return float((high - low) / middle)

    @property
    def stolen(self) -> float:
        """Share of processor time that the host took away meanwhile (steal in /proc/stat); 0 where that is not told."""
        passed = self._passed()
        total = sum(passed.values())
        return passed["steal"] / total if total else 0.0

    @property
    def others(self) -> float:
        """Share of processor time that went to neither this process nor its finished children; 0 where that is not told."""
        passed = self._passed()
        total = sum(passed.values())
        busy = sum(passed.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
        return max(0.0, busy - (self._own_after - self._own_before)) / total if total else 0.0

    def _passed(self) -> dict[str, float]:
        return {name: self._after[name] - self._before[name] for name in self._after}

    def flags(self) -> tuple[str, ...]:
        """Return in words what makes the measurement doubtful; empty where nothing does."""
        told = []
        if self.spread > NOISE_LIMIT:
            told.append(
                f"noisy machine: a fixed piece of work varied by {self.spread:.0%} meanwhile (limit {NOISE_LIMIT:.0%})"
            )
        if self.stolen > STEAL_LIMIT:
            told.append(f"the host took {self.stolen:.0%} of the processor time away (limit {STEAL_LIMIT:.0%})")
        if self.others > OTHERS_LIMIT:
            told.append(f"other programs took {self.others:.0%} of the processor time (limit {OTHERS_LIMIT:.0%})")
        return tuple(told)


def _processor_times(stat: Path = Path("/proc/stat")) -> dict[str, float]:
    """Return the seconds of the cores that this process may use, by what they went to (proc(5))."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    found = dict.fromkeys(names, 0.0)
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
    except OSError:
        return found
    for core, *ticks in map(str.split, lines):
        if core in mine:
            for name, count in zip(names, ticks, strict=False):
                found[name] += int(count) / os.sysconf("SC_CLK_TCK")
    return found


def _own_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)
