"""Radiographs become rows of the index.

    sources -> known? -> worker processes -> group -> calls of the tower -> one transaction -> outcomes

A failure is a value, not an exception: one bad file costs one line. An outcome is handed out only after all that it says is
committed, so whatever was reported survives a crash. Resuming is running again. Everything between two stages is bounded,
and rows are committed in the order of their files: an interrupted run that was resumed gives the same index as one that
was not.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ImageError, NotRadiographError, NotSelectedError
from mcr_infer.index import Row
from mcr_infer.index.protocols import IndexWriter
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.pipeline.decoding import Decoded, DecodePool
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.pipeline.placement import CommitBatch, Deduplicator, PendingImage
from mcr_infer.pipeline.plan import Plan
from mcr_infer.pipeline.run_report import Meter
from mcr_infer.pipeline.tower_calls import TowerCalls
from mcr_infer.sources import FileStamp, Source

_GROUP_OUTCOMES = 256
"""Outcomes that wait for a commit together at most, where most files are known already."""

_HELD_BYTES = 256 << 20
"""Bytes of files that sources hold in memory at most, such as members of archives that can only be read in sequence."""


class Stop:
    """A wish to end a run early: what is in the tower is committed, what is being decoded is dropped."""

    def __init__(self) -> None:
        self.asked = False
        self.then: Callable[[], None] | None = None

    def ask(self) -> None:
        """End soon. May be called from a signal handler."""
        self.asked = True
        if self.then is not None:
            self.then()


class _Waiting(NamedTuple):
    source: Source
    stamp: FileStamp
    future: "Future[Decoded] | None"
    """None for a file that the index knows."""
    learned: FileStamp | None = None
    """Of such a file, as it is kept, where the index does not know its ctime yet."""


def embed_images(
    sources: Iterable[Source],
    *,
    index: IndexWriter,
    encoder: ImageEncoder,
    plan: Plan,
    naming: DeidentificationPolicy | None = None,
    keep_locals: bool = False,
    meter: Meter | None = None,
    stop: Stop | None = None,
) -> Iterator[Outcome]:
    """Embed radiographs into the index, and yield an outcome for each source, in their order.

    Files that the index knows by path, size and times are not opened; where the ctime alone differs they are decoded, and
    embedded again only if the picture differs. `naming` is that of the index. With
    `keep_locals` it keeps the mapped patches of those that are embedded, for re-ranking. Raises `EmbeddingIndexError`
    where the index cannot be written or names its rows otherwise, `BackendError` where the tower fails, `DecodingError`
    where no process can decode.
    """
    stop, naming = stop or Stop(), naming or DeidentificationPolicy()
    index.check_secret(naming.secret_check, pseudonymous=naming.pseudonymous)
    run = _Run(index, encoder, plan, naming, meter or Meter(), stop, keep_locals=keep_locals)
    with run:
        stop.then = run.pool.cancel
        try:
            yield from run.all(sources)
        except CancelledError:
            # The stop was asked while the next file was being decoded.
            if not stop.asked:
                raise
        finally:
            stop.then = None
        yield from run.finish()


class _Run:
    """The state of one run: what is ahead, the group that is being filled, and the calls under way."""

    def __init__(
        self,
        index: IndexWriter,
        encoder: ImageEncoder,
        plan: Plan,
        naming: DeidentificationPolicy,
        meter: Meter,
        stop: Stop,
        *,
        keep_locals: bool,
    ) -> None:
        self._index, self._encoder, self._plan, self._meter, self._stop = index, encoder, plan, meter, stop
        self._naming = naming
        self.pool = DecodePool(
            encoder.preprocess,
            workers=plan.workers,
            slots=plan.slots,
            budget=plan.budget,
            reduce=plan.reduce,
            selection=plan.selection,
            limits=plan.limits,
            patients=naming.patients,
        )
        self._calls: TowerCalls[CommitBatch] = TowerCalls(encoder, calls=plan.calls, keep_locals=keep_locals)
        self._placement = Deduplicator(index, self.pool, naming)
        self._ahead: deque[_Waiting] = deque()
        self._group = CommitBatch()

    def __enter__(self) -> "_Run":
        self._open = ExitStack()
        self._open.enter_context(self.pool)
        # The threads of the tower read from the memory of the pool: they end first.
        self._open.enter_context(self._calls)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._meter.add({"tower": self._calls.seconds})
        self._meter.decoder_deaths += self.pool.deaths

    def all(self, sources: Iterable[Source]) -> Iterator[Outcome]:
        """Take every source through; what is left in the group and in the calls is for `finish`."""
        for source in sources:
            if self._stop.asked:
                return
            self._ahead.append(self._begin(source))
            while len(self._ahead) >= self._plan.ahead or self._holds_much():
                yield from self._take(self._ahead.popleft())
        while self._ahead:
            if self._stop.asked:
                return
            yield from self._take(self._ahead.popleft())

    def finish(self) -> Iterator[Outcome]:
        """Embed and commit what has been decoded."""
        yield from self._send()
        while len(self._calls):
            yield from self._commit()

    def _begin(self, source: Source) -> _Waiting:
        # Before reading: a file that changes meanwhile is seen as changed, by this run or by the next one.
        stamp = source.stamp()
        if stamp is None:  # opening it will say why
            return _Waiting(source, FileStamp(path=source.path, size=0, mtime_ns=0), self.pool.submit(source))
        kept = self._naming.stamp(stamp)
        former = self._index.seen_file("image", kept.path)
        if former is not None and kept.matches(former[0]):
            # What an earlier release saw has no ctime yet: it gets one, and the file is taken at its word once more.
            learns = former[0].ctime_ns is None and kept.ctime_ns is not None
            return _Waiting(source, stamp, None, learned=kept if learns else None)
        return _Waiting(source, stamp, self.pool.submit(source, stamp=(stamp.size, stamp.mtime_ns)))

    def _holds_much(self) -> bool:
        return len(self._ahead) > 1 and sum(one.source.held_bytes for one in self._ahead) > _HELD_BYTES

    def _take(self, one: _Waiting) -> Iterator[Outcome]:
        """Take the next file in order into the group, and send the group once it is full."""
        if one.future is None:
            self._group.tell(Outcome(path=one.source.path, status="unchanged"))
            if one.learned is not None:
                self._group.learned.append(one.learned)
        else:
            try:
                with self._meter.waits("decode"):
                    decoded = one.future.result()
            except (NotRadiographError, NotSelectedError) as error:
                self._group.tell(_of_error("left_out", one.source, error))
            except ImageError as error:
                self._group.tell(_of_error("failed", one.source, error))
            else:
                self._meter.add(decoded.seconds)
                self._meter.worker_mib = max(self._meter.worker_mib, decoded.peak_mib)
                fresh = PendingImage(
                    source=one.source, stamp=self._naming.stamp(one.stamp), decoded=self._naming.image(decoded)
                )
                self._placement.place(self._group, fresh)
        if len(self._group.fresh) >= self._plan.call_size or len(self._group.outcomes) >= _GROUP_OUTCOMES:
            yield from self._send()

    def _send(self) -> Iterator[Outcome]:
        """Give the group to the tower, after waiting for earlier ones as far as the plan bounds what is under way."""
        group, self._group = self._group, CommitBatch()
        fresh = list(group.fresh.values())
        self._meter.sees(sum(one.future is not None and one.future.done() for one in self._ahead))
        while len(self._calls) and (self._calls.items + len(fresh) > self._plan.in_flight or not fresh):
            yield from self._commit()
        slots = [one.decoded.slot for one in fresh]

        def release() -> None:
            for slot in slots:
                self.pool.release(slot)

        self._calls.submit(group, [(self.pool.patches(slot), self.pool.positions(slot)) for slot in slots], release)
        if not fresh:
            yield from self._commit()

    def _commit(self) -> Iterator[Outcome]:
        """Wait for the oldest call and commit it, with all that follow it and are done, in one transaction."""
        with self._meter.waits("tower"):
            done = list(self._calls.take())
        with self._meter.works("commit"):
            rows = [row for group, embedded in done for row in self._rows(group, embedded.vectors)]
            retold = [row for group, _ in done for id, row in group.retold.items() if id not in group.fresh]
            stamps = [stamp for group, _ in done for stamp in group.stamps]
            learned = [stamp for group, _ in done for stamp in group.learned]
            locals = {
                ("image", id): content
                for group, embedded in done
                if embedded.locals is not None
                for id, content in zip(group.fresh, embedded.locals, strict=True)
            }
            if rows or retold or stamps or learned:
                self._index.add(rows + retold, files=stamps, locals=locals, learned=learned)
        for group, _ in done:
            self._placement.committed(group)
            yield from group.outcomes

    def _rows(self, group: CommitBatch, vectors: NDArray[np.float32]) -> Iterator[Row]:
        for fresh, vector in zip(group.fresh.values(), vectors, strict=True):
            decoded = fresh.decoded
            yield Row(
                id=decoded.id,
                kind="image",
                path=self._naming.path(fresh.source.path),
                study_uid=decoded.study_uid,
                series_uid=decoded.series_uid,
                patient_key=decoded.patient_key,
                metadata=decoded.metadata,
                vector=vector,
                precision=self._encoder.precision,
                patch_budget=self._plan.budget,
                content_digest=decoded.digest,
            )


def _of_error(status: Literal["left_out", "failed"], source: Source, error: ImageError) -> Outcome:
    return Outcome(path=source.path, status=status, reason=error.reason, error=str(error))
