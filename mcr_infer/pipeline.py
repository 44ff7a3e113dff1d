"""Files become rows of the index: decode in threads, embed in batches, commit, and report every input by name.

    sources -> known? -> decode pool (bounded) -> batch -> image tower -> one transaction -> outcomes

A failure is a value, not an exception: one bad file costs one line. An outcome is handed out only after its row is
committed, so whatever was reported as embedded survives a crash. Resuming is running again.
"""

import hashlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.encoder import ImageEncoder, TextEncoder
from mcr_infer.errors import ImageError, ReportError
from mcr_infer.images import read_image
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.index import FileStamp, Index, Row
from mcr_infer.index.rows import Scalar
from mcr_infer.pairs import Pair
from mcr_infer.reports import ReportFailure, ReportRecord, embed_text
from mcr_infer.sources import PlainFile, Source, exists

Patches = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one input; `reason` and `error` are set for failed ones, and only for them."""

    path: str
    status: Literal["embedded", "unchanged", "failed"]
    reason: str | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Summary:
    """The closing count of a run, filled as outcomes come in."""

    embedded: int = 0
    unchanged: int = 0
    failures: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, outcome: Outcome) -> None:
        """Take one outcome into account."""
        if outcome.status == "embedded":
            self.embedded += 1
        elif outcome.status == "unchanged":
            self.unchanged += 1
        else:
            self.failures.append(outcome)

    def to_dict(self) -> dict[str, object]:
        """Return the summary in the shape of `--json`."""
        return {
            "embedded": self.embedded,
            "unchanged": self.unchanged,
            "failed": len(self.failures),
            "failures": [{"path": f.path, "reason": f.reason, "error": f.error} for f in self.failures],
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    """A file that became patches, with what its row needs."""

    stamp: FileStamp
    id: str
    digest: str
    patches: Patches
    study_uid: str | None
    series_uid: str | None
    metadata: dict[str, Scalar]


def embed_images(
    sources: Iterable[Source], *, index: Index, encoder: ImageEncoder, batch_size: int, workers: int
) -> Iterator[Outcome]:
    """Embed image files into the index, in the order of `sources`, and yield an outcome for each one.

    Files that the index knows by path, size and modification time are not opened. At most two batches are decoded ahead,
    so memory does not grow with the number of files. Raises `EmbeddingIndexError` where the index cannot be written.
    """
    batch = _Batch(index, encoder)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[str, Future[_Decoded] | None]] = deque()
        try:
            for source in sources:
                future = None if _is_known(index, source) else pool.submit(_decode, source, encoder)
                waiting.append((source.path, future))
                if len(waiting) >= 2 * batch_size:
                    yield from batch.take(*waiting.popleft(), limit=batch_size)
            while waiting:
                yield from batch.take(*waiting.popleft(), limit=batch_size)
            yield from batch.commit()
        finally:
            for _, future in waiting:
                if future is not None:
                    future.cancel()


def _is_known(index: Index, source: Source) -> bool:
    stamp = source.stamp()
    return stamp is not None and index.known_file(stamp, kind="image") is not None


def _read(source: Source) -> Radiograph:
    if isinstance(source, PlainFile):
        return read_image(source.path)
    with source.open() as stream, tempfile.NamedTemporaryFile(prefix="mcr-infer-") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        return read_image(copy.name)


def _decode(source: Source, encoder: ImageEncoder) -> _Decoded:
    """Read one candidate and cut it into patches; raises `ImageError`."""
    # Before reading: a file that changes meanwhile is then seen as changed by the next run.
    stamp = source.stamp() or FileStamp(path=source.path, size=0, mtime_ns=0)
    radiograph = _read(source)
    pixels = radiograph.pixels
    # All that the vector depends on: the pixels and the shape of one.
    digest = hashlib.sha256(f"{pixels.shape} {radiograph.aspect}".encode() + pixels.tobytes()).hexdigest()
    return _Decoded(
        stamp=stamp,
        id=radiograph.sop_instance_uid or f"sha256:{digest[:32]}",
        digest=digest,
        patches=encoder.preprocess.patches(pixels, aspect=radiograph.aspect),
        study_uid=radiograph.study_instance_uid,
        series_uid=radiograph.series_instance_uid,
        metadata=_metadata(radiograph),
    )


class _Batch:
    """Decoded files on their way into the index; everything in it commits in one transaction."""

    def __init__(self, index: Index, encoder: ImageEncoder) -> None:
        self._index, self._encoder = index, encoder
        self._clear()

    def _clear(self) -> None:
        self._fresh: dict[str, _Decoded] = {}
        """To be embedded, by id."""
        self._retold: dict[str, Row] = {}
        """Known rows whose file moved or whose header changed: the vector stands."""
        self._stamps: list[tuple[FileStamp, str]] = []
        """Files that need not be opened again, with the id that they hold."""

    def take(self, path: str, future: Future[_Decoded] | None, *, limit: int) -> Iterator[Outcome]:
        """Take the next file in order; yield what is certain about it now, and the whole batch once it is full."""
        if future is None:
            yield Outcome(path=path, status="unchanged")
            return
        try:
            decoded = future.result()
        except ImageError as error:
            yield Outcome(path=path, status="failed", reason=error.reason, error=str(error))
            return
        yield from self._place(path, decoded)
        if len(self._fresh) >= limit:
            yield from self.commit()

    def _place(self, path: str, decoded: _Decoded) -> Iterator[Outcome]:
        """Decide whether a decoded file is new, changed, moved, a twin of a known image, or at odds with one."""
        pending, row = self._fresh.get(decoded.id), None
        known_path, known_digest = (pending.stamp.path, pending.digest) if pending else (None, None)
        if pending is None:
            row = self._retold.get(decoded.id) or self._index.get("image", decoded.id)
            known_path, known_digest = (row.path, row.content_digest) if row else (None, None)
        if known_digest == decoded.digest:
            self._stamps.append((decoded.stamp, decoded.id))
            if row and (_is_gone(known_path) or (_is_same(known_path, path) and row.metadata != decoded.metadata)):
                self._retold[decoded.id] = replace(row, path=path, metadata=decoded.metadata)
            yield Outcome(path=path, status="unchanged")
        elif known_digest is None or _is_gone(known_path) or _is_same(known_path, path):
            self._fresh[decoded.id] = decoded
            self._stamps.append((decoded.stamp, decoded.id))
        else:
            yield Outcome(
                path=path,
                status="failed",
                reason="uid_conflict",
                error=f"SOP Instance UID {decoded.id} already belongs to {known_path}, which has other pixels; "
                "give one of the two files a UID of its own, or leave it out",
            )

    def commit(self) -> Iterator[Outcome]:
        """Embed what is waiting, commit it together with the files it came from, then say so."""
        fresh = list(self._fresh.values())
        vectors = self._encoder.encode([decoded.patches for decoded in fresh])
        rows = [
            Row(
                id=decoded.id,
                kind="image",
                path=decoded.stamp.path,
                study_uid=decoded.study_uid,
                series_uid=decoded.series_uid,
                metadata=decoded.metadata,
                vector=vector,
                precision=self._encoder.precision,
                content_digest=decoded.digest,
            )
            for decoded, vector in zip(fresh, vectors, strict=True)
        ]
        retold = [row for id, row in self._retold.items() if id not in self._fresh]
        if rows or retold or self._stamps:
            self._index.add(rows + retold, files=self._stamps)
        self._clear()
        yield from (Outcome(path=decoded.stamp.path, status="embedded") for decoded in fresh)


def _is_gone(path: str | None) -> bool:
    return path is None or not exists(path)


def _is_same(one: str | None, other: str) -> bool:
    """True where two spellings name one file: relative and absolute, through links."""
    try:
        return one is not None and (one == other or Path(one).samefile(other))
    except OSError:
        return False


def _metadata(radiograph: Radiograph) -> dict[str, Scalar]:
    facts: dict[str, Scalar] = {
        "view": radiograph.view_position,
        "modality": radiograph.modality,
        "body_part": radiograph.body_part,
        "study_year": radiograph.study_year,
        "transfer_syntax": radiograph.transfer_syntax_uid,
        "intensity": radiograph.intensity,
        "mirrored": radiograph.mirrored,
    }
    return {name: value for name, value in facts.items() if value is not None}


def embed_reports(
    records: Iterable[ReportRecord | ReportFailure],
    *,
    index: Index,
    encoder: TextEncoder,
    batch_size: int,
    keep_text: bool,
) -> Iterator[Outcome]:
    """Embed reports into the index and yield an outcome for each; the text itself is stored only with `keep_text`."""
    waiting: dict[str, tuple[ReportRecord, str, str]] = {}
    seen: dict[str, str] = {}

    def commit() -> Iterator[Outcome]:
        vectors = encoder.encode([text for _, text, _ in waiting.values()])
        rows = [
            Row(
                id=record.id,
                kind="report",
                path=record.path,
                study_uid=record.study_uid,
                vector=vector,
                precision=encoder.precision,
                content_digest=digest,
                text=record.text if keep_text else None,
            )
            for (record, _, digest), vector in zip(waiting.values(), vectors, strict=True)
        ]
        index.add(rows)
        done = [record.path for record, _, _ in waiting.values()]
        waiting.clear()
        yield from (Outcome(path=path, status="embedded") for path in done)

    for record in records:
        if isinstance(record, ReportFailure):
            yield Outcome(path=record.path, status="failed", reason=record.reason, error=record.error)
            continue
        try:
            text = embed_text(record.text)
        except ReportError as error:
            yield Outcome(path=record.path, status="failed", reason=error.reason, error=str(error))
            continue
        digest = hashlib.sha256(text.encode()).hexdigest()
        if seen.setdefault(record.id, digest) != digest:
            why = f"the id {record.id!r} stands at an earlier report of this run, which has another text"
            yield Outcome(path=record.path, status="failed", reason="id_conflict", error=why)
            continue
        known = index.get("report", record.id)
        text_kept = not keep_text or (known is not None and known.text is not None)
        if record.id in waiting or (known is not None and known.content_digest == digest and text_kept):
            yield Outcome(path=record.path, status="unchanged")
            continue
        waiting[record.id] = (record, text, digest)
        if len(waiting) >= batch_size:
            yield from commit()
    if waiting:
        yield from commit()


def embed_pairs(
    pairs: Sequence[Pair], *, images: ImageEncoder, texts: TextEncoder, batch_size: int, workers: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed pairs of radiograph and report to unit vectors [N, D] and [N, D], for an evaluation.

    An evaluation over what happened to be readable would say nothing: the first unreadable radiograph or empty report
    ends it with `ImageError` or `ReportError`.
    """

    def cut(pair: Pair) -> Patches:
        try:
            radiograph = read_image(pair.image)
        except ImageError as error:
            raise type(error)(f"{pair.image}: {error}", reason=error.reason) from error
        return images.preprocess.patches(radiograph.pixels, aspect=radiograph.aspect)

    def words(pair: Pair) -> str:
        try:
            return embed_text(pair.report)
        except ReportError as error:
            raise ReportError(f"report of {pair.image}: {error}", reason=error.reason) from error

    reports = texts.encode([words(pair) for pair in pairs])
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        parts = [
            images.encode(list(pool.map(cut, pairs[start : start + batch_size])))
            for start in range(0, len(pairs), batch_size)
        ]
    return np.concatenate(parts), reports


def default_workers() -> int:
    """Decode threads for this machine: one a core that the process may use."""
    return len(os.sched_getaffinity(0))
