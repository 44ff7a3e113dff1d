"""Whether a decoded file is new, changed, moved, a twin of a known image, or at odds with one.

A pseudonymous index keeps no path, so it cannot be seen whether a file that gave a row is still there. Then a file of a
known image is the changed one if its own key is known to hold that image, and a twin if it has the same pixels. With other
pixels and another key it is a conflict, and no row is replaced: it may have moved and changed, or contradict one that is
there.

What goes through the tower in one call, and is committed and reported with it, is a `CommitBatch`.
"""

from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcr_infer.errors import ImageError
from mcr_infer.index import Row
from mcr_infer.index.protocols import IndexWriter
from mcr_infer.index.root import shown
from mcr_infer.pipeline.decoding import Decoded, DecodePool
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.sources import FileStamp, PlainFile, Source, exists


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingImage:
    """A decoded file that is to be embedded."""

    source: Source
    stamp: FileStamp
    """As it is kept, see `DeidentificationPolicy`."""
    decoded: Decoded
    """As it is kept, too."""


@dataclass(slots=True)
class CommitBatch:
    """Filled file by file; nothing of it is told before it is committed."""

    fresh: dict[str, PendingImage] = field(default_factory=dict)
    """To be embedded, by id."""

    retold: dict[str, Row] = field(default_factory=dict)
    """Known rows whose file moved or whose header changed: the vector stands."""

    stamps: list[tuple[FileStamp, str]] = field(default_factory=list)
    """Files that need not be opened again, with the id that they hold."""

    learned: list[FileStamp] = field(default_factory=list)
    """Unchanged files whose ctime the index does not know yet."""

    outcomes: list[Outcome] = field(default_factory=list)

    def tell(self, outcome: Outcome) -> None:
        """Say this once the group is committed."""
        self.outcomes.append(outcome)


class Deduplicator:
    """Knows the index, and what is on its way into it."""

    def __init__(self, index: IndexWriter, pool: DecodePool, naming: DeidentificationPolicy) -> None:
        self._index, self._pool, self._naming = index, pool, naming
        self._pending: dict[str, PendingImage] = {}
        """To be embedded or embedded, and not yet committed, by id."""

    def committed(self, group: CommitBatch) -> None:
        """Forget what is now in the index."""
        for id, fresh in group.fresh.items():
            if self._pending.get(id) is fresh:
                del self._pending[id]

    def place(self, group: CommitBatch, fresh: PendingImage) -> None:
        """Put a decoded file where it belongs in the group; a slot that is not needed is released."""
        decoded, path = fresh.decoded, fresh.source.path
        known = self._known(group, fresh)
        if known is None or known.digest is None:
            self._embed(group, fresh)
            return
        twin, replaces = known.digest == decoded.digest, known.gone or known.same_file
        if not twin and replaces:
            self._embed(group, fresh)
            return
        if not twin and (decoded.reduction, known.reduction) != (1, 1):
            # One picture, decoded in two ways: in full they are equal or they are not.
            twin = self._equal_in_full(fresh.source, known)
        self._pool.release(decoded.slot)
        if not twin:
            group.tell(self._conflict(decoded.id, path, known))
            return
        if known.patient_key != decoded.patient_key and not replaces:
            group.tell(_of_two_patients(decoded.id, path))
            return
        group.stamps.append((fresh.stamp, decoded.id))
        if known.row and replaces:
            row = replace(
                known.row,
                path=self._naming.path(path),
                metadata=decoded.metadata,
                study_uid=decoded.study_uid,
                series_uid=decoded.series_uid,
                patient_key=decoded.patient_key,
            )
            if known.gone or _told(row) != _told(known.row):
                group.retold[decoded.id] = row
        # Without paths, a twin looks like a file that has moved.
        known_here = replaces or self._naming.pseudonymous
        group.tell(Outcome(path=path, status="unchanged" if known_here else "duplicate"))

    def _known(self, group: CommitBatch, fresh: PendingImage) -> "_Known | None":
        """Return what is known under the id of a file, None where nothing is."""
        id, path = fresh.decoded.id, fresh.source.path
        if (pending := self._pending.get(id)) is not None:
            where = pending.source.path
            return _Known(
                digest=pending.decoded.digest,
                reduction=pending.decoded.reduction,
                patient_key=pending.decoded.patient_key,
                row=None,
                path=where,
                gone=not exists(where),
                same_file=_is_same(where, path),
            )
        row = group.retold.get(id) or self._index.get("image", id)
        if row is None:
            return None
        if self._naming.pseudonymous:
            # What cannot be opened any more is there as long as some file is known to hold it.
            held = {stamp.path for stamp in self._index.files("image", id)}
            gone, same_file = not held, fresh.stamp.path in held
        else:
            gone = row.path is None or not exists(row.path)
            same_file = row.path is not None and _is_same(row.path, path)
        reduction = row.metadata.get("reduction", 1)
        return _Known(
            digest=row.content_digest,
            reduction=reduction if isinstance(reduction, int) else 1,
            patient_key=row.patient_key,
            row=row,
            path=row.path,
            gone=gone,
            same_file=same_file,
        )

    def _embed(self, group: CommitBatch, fresh: PendingImage) -> None:
        id = fresh.decoded.id
        if (former := group.fresh.pop(id, None)) is not None:
            self._pool.release(former.decoded.slot)
        group.fresh[id] = self._pending[id] = fresh
        group.stamps.append((fresh.stamp, id))
        group.tell(Outcome(path=fresh.source.path, status="embedded", notes=fresh.decoded.notes))

    def _equal_in_full(self, one: Source, known: "_Known") -> bool:
        """Whether a source and a known file are one picture once both are decoded in full.

        False where the known one cannot be read by its path alone, as a member of an archive, or where no path of it was
        kept and it was itself decoded smaller: then it stays a conflict.
        """
        if known.path is None:
            return known.reduction == 1 and self._digest_in_full(one) == known.digest
        # Both are asked for before either is waited for.
        futures = [self._pool.submit(source, full=True) for source in (one, PlainFile(path=known.path))]
        first, second = (self._digest_of(future) for future in futures)
        return first is not None and first == second

    def _digest_in_full(self, one: Source) -> str | None:
        return self._digest_of(self._pool.submit(one, full=True))

    def _digest_of(self, future: "Future[Decoded]") -> str | None:
        """Return the digest of a picture as it is kept, None where it cannot be decoded."""
        try:
            decoded = future.result()
        except ImageError:
            return None
        self._pool.release(decoded.slot)
        return self._naming.content(decoded.digest)

    def _conflict(self, id: str, path: str, known: "_Known") -> Outcome:
        advice = "give one of the two files a UID of its own, or leave it out"
        if not self._naming.pseudonymous:
            error = f"SOP Instance UID {id} already belongs to {shown(known.path)}, which has other pixels; {advice}"
        elif known.path is not None:
            error = (
                f"the SOP Instance UID of image {id} already belongs to an earlier input of this run, of the key "
                f"{self._naming.shown_path(known.path)}, which has other pixels; {advice}"
            )
        else:
            error = (
                f"image {id} was embedded from another input that had other pixels, or was decoded smaller and cannot be "
                "compared; no path is kept, so it cannot be seen whether that one is still there. To let this one take its "
                f"place, run `mcr-infer delete --id {id}` and embed again; else {advice}"
            )
        return Outcome(path=path, status="failed", reason="uid_conflict", error=error)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An image that is in the index, or on its way into it, under the id of a file that has just been decoded."""

    digest: str | None
    reduction: int
    patient_key: str | None

    row: Row | None
    """None for one that is not committed yet."""

    path: str | None
    """By which it can be opened; None where no path was kept."""

    gone: bool
    """Its file is not there any more, as far as that can be known."""

    same_file: bool
    """It came from this very file."""


def _told(row: Row) -> tuple[object, ...]:
    """Return what the header of its file says of a row."""
    return dict(row.metadata), row.study_uid, row.series_uid, row.patient_key


def _of_two_patients(id: str, path: str) -> Outcome:
    return Outcome(
        path=path,
        status="failed",
        reason="patient_conflict",
        error=f"image {id} is known from another file, whose Patient ID is not the one of this file: deleting one of the "
        "two patients would miss it. Correct or leave out one of the files; where the other one is not there any more, run "
        f"`mcr-infer delete --id {id}` and embed again",
    )


def _is_same(one: str, other: str) -> bool:
    """True where two spellings name one file: relative and absolute, through links; of others, where they are equal."""
    if one == other:
        return True
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False
