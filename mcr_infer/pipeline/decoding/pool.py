"""The worker processes together: jobs go out in their order, answers come back, and what a job does to its worker is seen.

One thread of the pool does all of it, so that jobs go on while the caller is busy:

    submit -> waiting -> (a free worker, a free slot) -> worker -> future of the caller -> release of the slot

A worker that dies or is at one job for too long is replaced. Its job is done once more with nothing else running (the
system may have killed the largest process for want of memory), and fails if that ends alike.
"""

import contextlib
import os
import selectors
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError, DecodingError, ImageError
from mcr_infer.images.opening import unreadable
from mcr_infer.images.selection import Selection
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.pipeline.decoding.messages import Decoded, Limits, WorkerConfig, failure_from_message
from mcr_infer.pipeline.decoding.process import WorkerProcess
from mcr_infer.pipeline.decoding.shared_memory import SharedPatchBuffers, SlotShape
from mcr_infer.pseudonyms import PatientSecret
from mcr_infer.sources import LocalSource, Source

_TICK = 1.0
"""Seconds between two looks at the time that jobs have taken."""

_FETCHING = 4
"""Sources that are opened here at a time: a PACS answers one request slowly and several just as well."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Job:
    source: Source
    stamp: tuple[int, int] | None
    full: bool
    future: "Future[Decoded]" = field(default_factory=Future)
    slot: int | None = None
    data: bytes | None = None
    """What a source holds that only this process can open."""
    again: bool = False
    """It has ended a worker before."""
    seconds: float = 0.0
    """How long a worker has been at it."""


class DecodePool:
    """Worker processes that turn sources into patches; a context manager.

    Give it no more jobs than there are slots before results are released: a job waits for a free slot. All methods may be
    called from several threads at once.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        *,
        workers: int,
        slots: int,
        budget: float = 1.0,
        reduce: bool = True,
        selection: Selection | None = None,
        limits: Limits | None = None,
        patients: PatientSecret | None = None,
    ) -> None:
        """Processes begin when there is work for them; a file may not take more than `limits`.

        With `patients`, what is decoded has the key of its patient.
        """
        self._limits = limits or Limits()
        self._orders = WorkerConfig(
            preprocess=preprocess,
            budget=budget,
            reduce=reduce,
            selection=selection or Selection(),
            limits=self._limits,
            patients=patients,
        )
        shape = SlotShape(patches=preprocess.patches_within(budget), area=preprocess.patch_size**2)
        self._slots = SharedPatchBuffers(shape, slots)
        self._most = workers
        # Of the same thread more than once: a signal handler cancels, whatever its thread is in the middle of.
        self._lock = threading.RLock()
        self._free = list(range(slots))
        self._waiting: deque[_Job] = deque()
        self._fetching: set[_Job] = set()
        """Given to the fetchers, and not waiting for a worker yet."""
        self._closing = self._closed = False
        self._broken: DecodingError | None = None
        self._wake_out, self._wake_in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._fetchers = ThreadPoolExecutor(_FETCHING, thread_name_prefix="fetch")
        self._fetch_room = threading.Semaphore(2 * _FETCHING)
        self._idle: list[WorkerProcess] = []
        self._starting: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, _Job] = {}
        self._again: deque[_Job] = deque()
        self.deaths = 0
        """Workers that ended at a job."""
        self._thread = threading.Thread(target=self._guarded, name="decode-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> "DecodePool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, source: Source, *, stamp: tuple[int, int] | None = None, full: bool = False) -> "Future[Decoded]":
        """Decode a source; the future gives `Decoded`, or raises `ImageError`, or `DecodingError` where nothing works.

        `stamp` is its size and modification time in ns as the caller saw them: a file that differs after it was read is a
        failure (`changed`). `full` decodes at the full resolution whatever the pool was told.
        """
        job = _Job(source=source, stamp=stamp, full=full)
        if isinstance(source, LocalSource):
            self._enqueue(job)
        else:
            with self._lock:
                self._fetching.add(job)
            self._fetchers.submit(self._fetch, job)
        return job.future

    def patches(self, slot: int) -> NDArray[np.float32]:
        """Return the patches [K, P*P] of a slot, valid until it is released."""
        return self._slots.patches(slot)

    def positions(self, slot: int) -> NDArray[np.int64]:
        """Return the positions [K] of a slot, valid until it is released."""
        return self._slots.positions(slot)

    def release(self, slot: int) -> None:
        """Give a slot back to the workers."""
        with self._lock:
            self._free.append(slot)
        self._wake()

    def cancel(self) -> None:
        """Drop all jobs that are waiting or under way: their futures are cancelled."""
        with self._lock:
            self._closing = True
            fetching = list(self._fetching)
        for job in fetching:  # a server that does not answer is not waited for
            self._drop(job)
        self._wake()

    def close(self) -> None:
        """Drop all jobs, and end every worker before this returns; what is being fetched is let go by itself."""
        self.cancel()
        self._thread.join()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            os.close(self._wake_in)
            os.close(self._wake_out)
        self._slots.close()

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            self._fetching.discard(job)
            closing = self._closing
            if not closing:
                self._waiting.append(job)
        if closing:
            self._drop(job)
        self._wake()

    def _fetch(self, job: _Job) -> None:
        """Open a source that only this process can open, and hand its bytes on."""
        self._fetch_room.acquire()
        try:
            if not self._closing:
                try:
                    with job.source.open() as stream:
                        job.data = stream.read()
                except OSError as error:
                    raise unreadable(error) from error
        except BaseException as error:  # noqa: BLE001 - the caller waits for it, and raises it
            self._fetch_room.release()
            with self._lock:
                self._fetching.discard(job)
            _settle(job.future, error)
            return
        if job.data is None:
            self._fetch_room.release()
        self._enqueue(job)

    def _wake(self) -> None:
        # A full pipe wakes just as well.
        with self._lock, contextlib.suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake_in, b"\0")

    def _guarded(self) -> None:
        """Run the thread of the pool; whatever ends it reaches every future."""
        try:
            self._serve()
        except DecodingError as error:
            self._broken = error
        except BaseException as error:  # noqa: BLE001 - who waits for a job must hear of it
            self._broken = DecodingError(f"the decode pool stopped: {type(error).__name__}")
            self._broken.__cause__ = error
        finally:
            for worker in (*self._idle, *self._starting, *self._busy):
                worker.end()
            with self._lock:
                self._closing = True
                left = [*self._waiting, *self._again, *self._busy.values(), *self._fetching]
                self._waiting.clear()
            # One fetcher that waits goes on, sees the end, and lets the next one go on.
            self._fetch_room.release()
            for job in left:
                self._drop(job)

    def _drop(self, job: _Job) -> None:
        if self._broken is None:
            job.future.cancel()
        else:
            _settle(job.future, self._broken)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_out, selectors.EVENT_READ)
            looked = time.monotonic()
            tick = min(_TICK, self._limits.seconds / 4)
            while not self._closing:
                self._hand_out(selector)
                events = selector.select(tick if self._busy else None)
                for key, _ in events:
                    if isinstance(key.fileobj, WorkerProcess):
                        self._hear(key.fileobj, selector)
                    else:
                        os.read(self._wake_out, 1 << 16)
                now = time.monotonic()
                # A machine that slept, or a run that was stopped as a whole and went on, is no decoder that hangs.
                self._look_at_time(min(now - looked, 2 * tick), selector)
                looked = now

    def _hand_out(self, selector: selectors.BaseSelector) -> None:
        """Give jobs to idle workers as far as there are slots, and start workers as long as jobs wait for them."""
        while (job := self._next_job()) is not None:
            if not self._idle:
                self._put_back(job)
                if len(self._starting) + len(self._busy) < self._most and len(self._starting) < max(
                    1, len(self._waiting)
                ):
                    self._start(selector)
                    continue
                return
            worker = self._idle.pop()
            self._busy[worker] = job
            job.seconds = 0.0
            message: dict[str, Any] = {"slot": job.slot, "full": job.full, "source": None, "stamp": None}
            if isinstance(job.source, LocalSource):
                message |= {"source": dict(job.source.to_dict()), "stamp": job.stamp}
            try:
                worker.send(message, job.data)
            except OSError:
                self._lost(worker, selector, hung=False)

    def _next_job(self) -> _Job | None:
        """Take the next job that may begin, with a slot; None where none may."""
        if self._again:
            # Alone: nothing else is under way while it is tried once more, and nothing begins.
            return None if self._busy else self._again.popleft()
        if any(job.again for job in self._busy.values()):
            return None
        with self._lock:
            if not self._waiting or not self._free:
                return None
            job = self._waiting.popleft()
            job.slot = self._free.pop()
            return job

    def _put_back(self, job: _Job) -> None:
        if job.again:
            self._again.appendleft(job)
            return
        with self._lock:
            assert job.slot is not None
            self._free.append(job.slot)
            job.slot = None
            self._waiting.appendleft(job)

    def _start(self, selector: selectors.BaseSelector) -> None:
        try:
            worker = WorkerProcess(self._orders, self._slots)
        except OSError as error:
            raise DecodingError(f"the process that decodes cannot be started: {error.strerror}") from error
        self._starting.append(worker)
        selector.register(worker, selectors.EVENT_READ)

    def _hear(self, worker: WorkerProcess, selector: selectors.BaseSelector) -> None:
        """Take a message of a worker, or see that it has ended."""
        message = worker.receive()
        if worker in self._starting:
            if message is None:
                status = worker.end(itself=True)
                self._starting.remove(worker)
                raise DecodingError(
                    f"the process that decodes ends as soon as it begins ({_describe(status)}): see whether the memory "
                    f"of this process is limited, and whether {sys.executable} -c 'import mcr_infer.images, pydicom' works"
                )
            self._starting.remove(worker)
            self._idle.append(worker)
        elif worker in self._busy:
            if message is None:
                self._lost(worker, selector, hung=False)
            else:
                self._finish(self._busy.pop(worker), message)
                self._idle.append(worker)
        elif message is None:  # idle, and somebody killed it
            selector.unregister(worker)
            self._idle.remove(worker)
            worker.end()

    def _finish(self, job: _Job, message: dict[str, Any]) -> None:
        self._forget_data(job)
        if "failed" in message:
            self._fail(job, failure_from_message(message))
            return
        decoded = Decoded.from_message(message)
        if decoded.slot != job.slot:
            raise DecodingError(f"a decode worker wrote to slot {decoded.slot}, expected {job.slot}")
        job.future.set_result(decoded)

    def _fail(self, job: _Job, error: ImageError) -> None:
        assert job.slot is not None
        with self._lock:
            self._free.append(job.slot)
        job.future.set_exception(error)

    def _forget_data(self, job: _Job) -> None:
        if job.data is not None:
            job.data = None
            self._fetch_room.release()

    def _look_at_time(self, passed: float, selector: selectors.BaseSelector) -> None:
        for worker, job in list(self._busy.items()):
            job.seconds += passed
            if job.seconds > self._limits.seconds:
                self._lost(worker, selector, hung=True)

    def _lost(self, worker: WorkerProcess, selector: selectors.BaseSelector, *, hung: bool) -> None:
        """End a worker for what its job did to it; the job gets a second chance, or fails."""
        job = self._busy.pop(worker)
        selector.unregister(worker)
        status = worker.end(itself=not hung)
        self.deaths += 1
        if not job.again:
            job.again = True
            self._again.append(job)
            return
        self._forget_data(job)
        if hung:
            why, reason = f"no result within {self._limits.seconds:g} seconds", "decoder_hung"
        else:
            why, reason = f"the process that decoded it died ({_describe(status)})", "decoder_died"
        self._fail(job, BrokenImageError(f"{why}, twice, the second time with nothing else running", reason=reason))


def _settle(future: "Future[Decoded]", error: BaseException) -> None:
    """Let a future raise an error, unless nobody waits for it any more."""
    with contextlib.suppress(InvalidStateError):
        future.set_exception(error)


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
