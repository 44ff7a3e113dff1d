"""The server scenario against time that is simulated, where the answer is known."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.arrivals import Clock, Trial, highest_held, poisson_arrivals, rising_rates, serve


class _Simulated(Clock):
    """Time that passes only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def takes(self, seconds: float) -> Callable[[int], None]:
        return lambda _: self.sleep(seconds)


def test_a_queue_waits_as_it_must():
    clock = _Simulated()
    waited, busy = serve([0.0, 0.1, 0.15, 5.0], clock.takes(1.0), clock=clock)
    assert waited.tolist() == pytest.approx([1.0, 1.9, 2.85, 1.0])
    assert busy == pytest.approx(4.0 / 5.0)


def test_random_arrivals_wait_as_queueing_theory_says():
    """M/D/1 at half of its capacity: the mean wait in the queue is load / (2 (1 - load)) services (Pollaczek-Khinchine)."""
    clock = _Simulated()
    waited, busy = serve(poisson_arrivals(0.5, 40_000, seed=3), clock.takes(1.0), clock=clock)
    assert waited.mean() == pytest.approx(1.0 + 0.5 / (2 * 0.5), rel=0.05)
    assert busy == pytest.approx(0.5, abs=1e-4)


def test_arrivals_are_poisson():
    arrivals = poisson_arrivals(20.0, 50_000, seed=0)
    between = np.diff(arrivals)
    assert between.mean() == pytest.approx(1 / 20, rel=0.001)
    assert between.std() == pytest.approx(1 / 20, rel=0.03)
    a_second = np.bincount(arrivals.astype(int))
    assert a_second.var() == pytest.approx(20.0, rel=0.1)
    assert poisson_arrivals(20.0, 10, seed=0).tolist() == poisson_arrivals(20.0, 10, seed=0).tolist()


def test_a_trial_ends_once_more_than_one_in_a_hundred_is_late():
    clock = _Simulated()
    waited, _ = serve(poisson_arrivals(10.0, 200, seed=0), clock.takes(1.0), limit=0.5, clock=clock)
    assert len(waited) == 3
    assert (waited > 0.5).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("service", "limit", "least", "most"),
    [
        # By the tail of the wait in M/D/1 in heavy traffic, exp(-2 (1 - load) / load * wait / service): 0.89, 0.91.
        (0.05, 1.0, 0.84, 1.0),
        (0.004, 0.1, 0.84, 1.0),
    ],
)
def test_the_highest_rate_is_near_what_theory_says_and_below_capacity(service, limit, least, most, seed):
    clock = _Simulated()
    tried = rising_rates(
        clock.takes(service), start=0.6 / service, limit=limit, seconds=3.0, seed=100 * seed, clock=clock
    )
    best = highest_held(tried)
    assert best is not None
    assert least <= best * service < most
    assert [one.rate for one in tried] == sorted(one.rate for one in tried)


def test_a_rate_above_capacity_is_not_held_though_its_queue_had_no_time_to_grow():
    clock = _Simulated()
    trial = {"p50": 0.1, "limit": 1.0}
    assert not Trial(rate=22.0, p99=0.6, busy=1.1, **trial).held
    assert Trial(rate=18.0, p99=0.6, busy=0.9, **trial).held
    tried = rising_rates(clock.takes(0.05), start=22.0, limit=1.0, seconds=0.0, seed=1, clock=clock)
    assert not any(one.held for one in tried if one.rate >= 20.0)
    assert highest_held(tried) is not None


def test_where_no_rate_holds_there_is_none():
    clock = _Simulated()
    tried = rising_rates(clock.takes(1.0), start=0.6, limit=0.5, seconds=1.0, seed=0, clock=clock)
    assert highest_held(tried) is None
    assert [one.rate for one in tried] == pytest.approx([0.6 / 16, 0.6 / 8, 0.6 / 4, 0.6 / 2, 0.6])
