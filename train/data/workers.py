"""Jobs over worker processes that may die or hang: a decoder that takes its process down costs its file, not the run."""

import multiprocessing
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mcr_infer.errors import ConfigError, ImageError

ITEM_SECONDS = 300.0
"""Longest that one item may take. The largest image that is read, 100 megapixels of JPEG 2000, takes about 12 seconds of a
core; the rest is for cores that are shared and network shares that are slow."""

_FINISHING = -1
"""Place of a job whose items are made and which is being written: storage is slow, no decoder hangs."""


class Failure(NamedTuple):
    """One item that could not be made."""

    place: int
    reason: str
    """A stable word as in `ImageError`, or `decoder_died` or `decoder_hung`."""
    error: str


class Job(NamedTuple):
    """Items that are made together; each begins with its place in the whole."""

    name: str
    items: tuple[tuple[int, str, str], ...]


class Maker(Protocol):
    """Makes the items of a job one by one, and something of all of them."""

    def item(self, item: tuple[int, str, str]) -> Any:
        """Make one item; an `ImageError` is its failure."""
        ...

    def finish(self, job: Job, made: Sequence[Any]) -> None:
        """Keep what was made."""
        ...


def run_jobs(
    maker: Maker, jobs: Sequence[Job], *, workers: int, seconds: float = ITEM_SECONDS
) -> Iterator[tuple[Job, tuple[Failure, ...]]]:
    """Run jobs in `workers` spawned processes (0 = in this one), and yield each with its failures as it ends.

    A process that is at one item for more than `seconds` is killed, and the item is left out. A process that dies by itself
    takes the whole pool with it, and nobody knows which it was: the jobs whose items were being made are run again alone,
    without the item at which a process dies a second time. In this process itself nothing can be stopped or survived.
    Raises `ConfigError` where processes die without being at an item.
    """
    if workers == 0:
        yield from ((job, _run(maker, job, None)) for job in jobs)
        return
    # Of this machine and this run alone: the marks hold numbers of processes.
    with tempfile.TemporaryDirectory(prefix="mcr-jobs-") as folder:
        watch = _Watch(Path(folder), seconds)
        yield from _run_all(maker, jobs, defaultdict(list), watch, workers, alone=False)


def _run_all(
    maker: Maker, jobs: Sequence[Job], lost: dict[str, list[Failure]], watch: "_Watch", workers: int, *, alone: bool
) -> Iterator[tuple[Job, tuple[Failure, ...]]]:
    """Run jobs in pools, a new one whenever one breaks; `lost` holds what is left out of each job by its name."""
    waiting = {job.name: job for job in jobs}
    while waiting:
        count = len(waiting)
        rest = [_without(job, lost[name]) for name, job in waiting.items()]
        watch.begin()
        try:
            for name, failures in _in_pool(maker, rest, watch, workers):
                yield waiting.pop(name), (*lost[name], *failures)
        except BrokenProcessPool as exc:
            places = watch.places()
            if watch.killed:
                error = f"no result within {watch.seconds:g} seconds, and the process that decoded it was killed"
                for name, place in watch.killed.items():
                    if places.get(name) == place:  # else it ended in the last moment
                        lost[name].append(Failure(place, "decoder_hung", error))
            elif not alone and places:
                for name in places:
                    yield from _run_all(maker, [waiting.pop(name)], lost, watch, 1, alone=True)
            elif alone and max(places.values(), default=_FINISHING) != _FINISHING:
                ((name, place),) = places.items()
                lost[name].append(Failure(place, "decoder_died", "the process that decoded the file died"))
            elif len(waiting) == count:
                raise ConfigError(
                    "the processes that decode pictures die although they are at no picture; they may have been killed for "
                    "lack of memory: set run.workers lower"
                ) from exc


def _in_pool(
    maker: Maker, jobs: Sequence[Job], watch: "_Watch", workers: int
) -> Iterator[tuple[str, tuple[Failure, ...]]]:
    """Run jobs in one pool and yield their names and failures; raises `BrokenProcessPool` when a process ends."""
    # Spawned, not forked: the training process may already run threads, whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(jobs)), mp_context=context) as pool:
        names = {pool.submit(_run, maker, job, watch.mark(job.name)): job.name for job in jobs}
        pending = set(names)
        try:
            while pending:
                done, pending = wait(pending, timeout=watch.interval, return_when=FIRST_COMPLETED)
                # What was finished before the pool broke is not run again.
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    yield names[future], future.result()
                watch.look(names[future] for future in pending if future.running())
        except BrokenProcessPool:
            # The executor sends SIGTERM to the other processes and waits for them without end; one that hangs may block it.
            watch.end()
            raise
        finally:
            # An error or an interrupt here must not wait for hours of jobs that nobody will read.
            pool.shutdown(wait=True, cancel_futures=True)


class _Watch:
    """Sees by marks, one file a job, what the processes of a pool are at, and kills the one that is at it for too long."""

    def __init__(self, marks: Path, seconds: float) -> None:
        self.seconds, self.interval = seconds, min(1.0, seconds / 4)
        self._marks = marks
        self.begin()

    def begin(self) -> None:
        """Forget the last pool."""
        for mark in self._marks.iterdir():
            mark.unlink()
        self.killed: dict[str, int] = {}
        """Jobs whose processes were killed in this pool, with the place of the item that they were at."""
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
        self._looked = time.monotonic()

    def mark(self, job: str) -> Path:
        """Return where the process of a job says what it is at."""
        return self._marks / job

    def places(self) -> dict[str, int]:
        """Return the jobs that were being run, with the place of the item that was being made or `_FINISHING`."""
        found = {path.name: _read(path) for path in self._marks.iterdir()}
        return {name: mark[0] for name, mark in found.items() if mark is not None}

    def look(self, jobs: Iterable[str]) -> None:
        """Count the time since the last look for items that are still being made."""
        now = time.monotonic()
        # A machine that slept, or a run that was stopped as a whole and went on, is no decoder that hangs.
        passed = min(now - self._looked, 2 * self.interval)
        self._looked = now
        for job in jobs:
            mark = _read(self.mark(job))
            if mark is None or mark[0] == _FINISHING:
                continue
            before, seconds = self._seen.get(job, (mark, 0.0))
            seconds = seconds + passed if mark == before else 0.0
            self._seen[job] = mark, seconds
            if seconds > self.seconds and job not in self.killed:
                self._kill(job, *mark)

    def end(self) -> None:
        """Kill all processes that are at a job: their pool is broken, and their jobs run again in the next one."""
        marks = [_read(path) for path in self._marks.iterdir()]
        _kill({mark[1] for mark in marks if mark is not None})

    def _kill(self, job: str, place: int, process: int) -> None:
        if _kill({process}):
            self.killed[job] = place


def _kill(processes: Collection[int]) -> bool:
    """Kill child processes by their numbers; False where none of them is there any more."""
    found = [child for child in multiprocessing.active_children() if child.pid in processes]
    for child in found:
        child.kill()
    return bool(found)


def _run(maker: Maker, job: Job, mark: Path | None) -> tuple[Failure, ...]:
    made, failures = [], []
    for item in job.items:
        _write(mark, item[0])
        try:
            made.append(maker.item(item))
        except ImageError as error:
            failures.append(Failure(item[0], error.reason, str(error)))
    _write(mark, _FINISHING)
    maker.finish(job, made)
    if mark is not None:
        mark.unlink()
    return tuple(failures)


def _without(job: Job, lost: Sequence[Failure]) -> Job:
    places = {failure.place for failure in lost}
    return job._replace(items=tuple(item for item in job.items if item[0] not in places))


def _write(mark: Path | None, place: int) -> None:
    if mark is not None:
        mark.write_text(f"{place} {os.getpid()}\n", encoding="ascii")


def _read(mark: Path) -> tuple[int, int] | None:
    """Return place and process of a mark; None where there is none or it is being written."""
    try:
        text = mark.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    if not text.endswith("\n"):
        return None
    place, process = text.split()
    return int(place), int(process)
