"""Jobs over worker processes that may die: a decoder that takes its process down costs its file, not the run."""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mcr_infer.errors import ImageError


class Failure(NamedTuple):
    """One item that could not be made."""

    place: int
    reason: str
    """A stable word as in `ImageError`, or `decoder_died`."""
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
    maker: Maker, jobs: Sequence[Job], *, marks: Path, workers: int
) -> Iterator[tuple[Job, tuple[Failure, ...]]]:
    """Run jobs in `workers` spawned processes (0 = in this one), and yield each with its failures as it ends.

    A process that dies takes the whole pool with it. Files in the folder `marks` tell which items were being made: the jobs
    of these are run again alone, without the item at which a process dies a second time.
    """
    if workers == 0:
        yield from ((job, _run(maker, job, None)) for job in jobs)
        return
    waiting = {job.name: job for job in jobs}
    while waiting:
        for name in waiting:
            _mark(marks, name).unlink(missing_ok=True)
        try:
            for job, failures in _in_pool(maker, list(waiting.values()), marks, workers):
                del waiting[job.name]
                yield job, failures
        except BrokenProcessPool:
            for name in [name for name in waiting if _mark(marks, name).exists()]:
                job = waiting.pop(name)
                yield job, _run_alone(maker, job, marks)


def _in_pool(maker: Maker, jobs: Sequence[Job], marks: Path, workers: int) -> Iterator[tuple[Job, tuple[Failure, ...]]]:
    # Spawned, not forked: the training process may already run threads, whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_run, maker, job, _mark(marks, job.name)): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            # An error or an interrupt here must not wait for hours of jobs that nobody will read.
            pool.shutdown(wait=True, cancel_futures=True)


def _run_alone(maker: Maker, job: Job, marks: Path) -> tuple[Failure, ...]:
    """Run a job in processes of its own, leaving out each item at which one dies."""
    died: list[Failure] = []
    while True:
        lost = {failure.place for failure in died}
        rest = job._replace(items=tuple(item for item in job.items if item[0] not in lost))
        try:
            ((_, failures),) = _in_pool(maker, [rest], marks, 1)
            return (*died, *failures)
        except BrokenProcessPool:
            mark = _mark(marks, job.name)
            if not mark.exists():
                raise  # it died before the first item: the machine, not a file
            index = int(mark.read_text(encoding="ascii"))
            died.append(Failure(index, "decoder_died", "the process that decoded the file died"))


def _run(maker: Maker, job: Job, mark: Path | None) -> tuple[Failure, ...]:
    made, failures = [], []
    for item in job.items:
        if mark is not None:
            mark.write_text(str(item[0]), encoding="ascii")
        try:
            made.append(maker.item(item))
        except ImageError as error:
            failures.append(Failure(item[0], error.reason, str(error)))
    maker.finish(job, made)
    if mark is not None:
        mark.unlink(missing_ok=True)  # another run may make the same job
    return tuple(failures)


def _mark(marks: Path, name: str) -> Path:
    return marks / f".{name}.mark"
