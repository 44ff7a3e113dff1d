"""Requests that arrive at random and are taken one after the other: how long each one waits for its answer.

The server scenario of MLPerf Inference: arrivals are a Poisson process, an answer counts from the arrival, and the rate
that is reported is the highest at which 99 % of the answers come within a limit.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROWTH = 1.25
"""From one rate to the next."""


def poisson_arrivals(rate: float, count: int, *, seed: int) -> NDArray[np.float64]:
    """Draw the seconds [N] from the start at which requests arrive, `rate` of them a second on average."""
    return np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, size=count))


@dataclass(slots=True)
class Clock:
    """Time as it passes; tests have another one."""

    def now(self) -> float:
        """Return seconds since some moment."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


def serve(
    arrivals: Sequence[float] | NDArray[np.float64], answer: Callable[[int], object], *, clock: Clock | None = None
) -> NDArray[np.float64]:
    """Answer requests one after the other, in the order of their arrival; return seconds from arrival to answer [N]."""
    clock = clock or Clock()
    waited = np.zeros(len(arrivals))
    began = clock.now()
    for number, arrival in enumerate(arrivals):
        early = began + float(arrival) - clock.now()
        if early > 0:
            clock.sleep(early)
        answer(number)
        waited[number] = clock.now() - began - float(arrival)
    return waited


def highest_rate(
    answer: Callable[[int], object], *, start: float, limit: float, seconds: float, seed: int
) -> list[tuple[float, float, float]]:
    """Raise the rate of requests until the 99th percentile breaks the limit in seconds, twice in a row.

    Each rate lasts `seconds`, with fifty requests at least. Returns (rate, median, 99th percentile) of each.
    """
    tried: list[tuple[float, float, float]] = []
    rate, broken = start, 0
    while broken < 2:
        count = max(50, int(rate * seconds))
        waited = serve(poisson_arrivals(rate, count, seed=seed + len(tried)), answer)
        middle, last = np.quantile(waited, [0.5, 0.99])
        tried.append((rate, float(middle), float(last)))
        broken = broken + 1 if last > limit else 0
        rate *= GROWTH
    return tried


def held(tried: Sequence[tuple[float, float, float]], limit: float) -> float | None:
    """Return the highest rate up to which every rate held the limit; None where not even the first did."""
    best = None
    for rate, _, last in tried:
        if last > limit:
            break
        best = rate
    return best
