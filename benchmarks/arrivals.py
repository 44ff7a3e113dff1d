"""Requests that arrive at random and are taken one after the other: how long each one waits for its answer.

The server scenario of MLPerf Inference: arrivals are a Poisson process, an answer counts from the arrival, and the rate
that is reported is the highest at which 99 % of the answers come within a limit.

A short trial flatters: a process that is asked for more than it can do lets a queue grow, and what the last request of a few
seconds waits may still be below the limit. So a trial is long beside the limit, and a rate at which the process is busy for
as long as requests arrive, or longer, is not held, whatever the percentile says. Queues near capacity take longer than a
trial to settle: what is found there can still lie up to a tenth above what an endless trial would find.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROWTH = 1.25
"""From one rate to the next."""

HALVINGS = 2
"""Between the last rate that held and the first that did not: the answer is then known to about 6 %."""

TRIAL_LIMITS = 20
"""A trial lasts as many limits at least: a queue that grows by a twentieth of what arrives breaks the limit in it."""

TRIAL_REQUESTS = 100
"""Fewer have no 99th percentile."""


def poisson_arrivals(rate: float, count: int, *, seed: int) -> NDArray[np.float64]:
    """Draw the seconds [N] from the start at which requests arrive: a Poisson process of which it is known that `count`
    requests come in count / rate seconds, so that the rate of a trial is the one that is reported and not one near it."""
    return np.sort(np.random.default_rng(seed).uniform(0.0, count / rate, size=count))


@dataclass(slots=True)
class Clock:
    """Time as it passes; tests have another one."""

    def now(self) -> float:
        """Return seconds since some moment."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Requests at one rate."""

    rate: float
    """Requests a second that arrived, on average."""

    p50: float
    """Seconds from arrival to answer; of a trial that was ended early, of those answered until then."""

    p99: float
    busy: float
    """Share of the time in which requests arrived that answering took: from 1 on the queue grows without end."""

    limit: float
    """Seconds."""

    @property
    def held(self) -> bool:
        """Whether 99 % of the answers came within the limit, from a process that can go on like this."""
        return self.p99 <= self.limit and self.busy < 1


def serve(
    arrivals: Sequence[float] | NDArray[np.float64],
    answer: Callable[[int], object],
    *,
    limit: float = np.inf,
    clock: Clock | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Answer requests one after the other, in the order of their arrival.

    Returns the seconds from arrival to answer [N], and the share of the time in which these requests arrived that answering
    took. Ends early, with those answered until then, once more than 1 % of all requests have waited longer than `limit`.
    """
    clock = clock or Clock()
    waited: list[float] = []
    busy, late = 0.0, 0
    began = clock.now()
    for number, arrival in enumerate(arrivals):
        early = began + float(arrival) - clock.now()
        if early > 0:
            clock.sleep(early)
        taken = clock.now()
        answer(number)
        done = clock.now()
        busy += done - taken
        waited.append(done - began - float(arrival))
        late += waited[-1] > limit
        if late > 0.01 * len(arrivals):
            break
    return np.array(waited), busy / (len(waited) * float(arrivals[-1]) / len(arrivals))


def rising_rates(
    answer: Callable[[int], object],
    *,
    start: float,
    limit: float,
    seconds: float,
    seed: int,
    clock: Clock | None = None,
) -> list[Trial]:
    """Raise the rate of requests from `start` a second until it is not held, and halve the last step twice; by rate.

    Each trial lasts `seconds`, 20 limits and 100 requests at least; one that has broken the limit ends there. Where not even
    the first rate holds, lower ones are tried, down to a sixteenth of it.
    """
    tried: list[Trial] = []

    def attempt(rate: float) -> bool:
        count = max(TRIAL_REQUESTS, round(rate * max(seconds, TRIAL_LIMITS * limit)))
        arrivals = poisson_arrivals(rate, count, seed=seed + len(tried))
        waited, busy = serve(arrivals, answer, limit=limit, clock=clock)
        middle, last = np.quantile(waited, [0.5, 0.99])
        if len(waited) < count:
            # Ended early: of all that were to come, more than 1 % are late already.
            last = max(float(last), float(waited[waited > limit].min()))
        tried.append(Trial(rate=rate, p50=float(middle), p99=float(last), busy=busy, limit=limit))
        return tried[-1].held

    low = high = start
    if attempt(start):
        while attempt(high := high * GROWTH):
            low = high
    else:
        while not attempt(low := low / 2):
            if low <= start / 16:
                return sorted(tried, key=lambda one: one.rate)
            high = low
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if attempt(middle) else (low, middle)
    return sorted(tried, key=lambda one: one.rate)


def highest_held(tried: Sequence[Trial]) -> float | None:
    """Return the highest rate up to which every rate held; None where not even the lowest did. `tried` is sorted by rate."""
    best = None
    for one in tried:
        if not one.held:
            break
        best = one.rate
    return best
