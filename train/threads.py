"""Whether torch's default number of threads is slower than one, as it is for small models on busy or many-core machines."""

import time
from collections.abc import Callable

import torch

LONGEST = 2.0
"""Seconds of a step above which nothing is measured: a model that takes so long gains from threads."""

_CLEARLY = 0.9
"""One thread is called faster below this share of the time of the default."""


def compare_threads(
    work: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float] | None:
    """Time `work` with the present number of threads and with one; return the seconds of both.

    Each is the best of two calls after one that is not counted. None where nothing was measured: there is one thread
    anyway, or `work` takes longer than `LONGEST`. The number of threads is left as it was.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return None

    def seconds() -> float:
        started = clock()
        work()
        return clock() - started

    if seconds() > LONGEST or (several := min(seconds(), seconds())) > LONGEST:
        return None
    try:
        torch.set_num_threads(1)
        seconds()
        return several, min(seconds(), seconds())
    finally:
        torch.set_num_threads(threads)


def advise_threads(measured: tuple[float, float] | None) -> str | None:
    """Put into words that one thread is faster; None where it is not, or was not measured."""
    if measured is None or measured[1] >= _CLEARLY * measured[0]:
        return None
    several, one = measured
    return (
        f"a step takes {one:.2g} s with one thread and {several:.2g} s with the {torch.get_num_threads()} that torch chose: "
        "--threads 1 is faster here"
    )
