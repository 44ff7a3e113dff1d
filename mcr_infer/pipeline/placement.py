"""Whether a decoded file is new, changed, moved, a twin of a known image, or at odds with one."""

from dataclasses import replace
from pathlib import Path

from mcr_infer.decoding import DecodePool
from mcr_infer.errors import ImageError
from mcr_infer.index import Index
from mcr_infer.pipeline.group import Fresh, Group
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.sources import PlainFile, Source, exists


class Placement:
    """Knows the index, and what is on its way into it."""

    def __init__(self, index: Index, pool: DecodePool) -> None:
        self._index, self._pool = index, pool
        self._pending: dict[str, Fresh] = {}
        """To be embedded or embedded, and not yet committed, by id."""

    def committed(self, group: Group) -> None:
        """Forget what is now in the index."""
        for id, fresh in group.fresh.items():
            if self._pending.get(id) is fresh:
                del self._pending[id]

    def place(self, group: Group, fresh: Fresh) -> None:
        """Put a decoded file where it belongs in the group; a slot that is not needed is released."""
        decoded, path = fresh.decoded, fresh.source.path
        pending, row = self._pending.get(decoded.id), None
        if pending is None:
            row = group.retold.get(decoded.id) or self._index.get("image", decoded.id)
            known_path, known_digest = (row.path, row.content_digest) if row else (None, None)
            known_reduction = row.metadata.get("reduction", 1) if row else 1
        else:
            known_path, known_digest = pending.source.path, pending.decoded.digest
            known_reduction = pending.decoded.reduction
        gone = known_path is None or not exists(known_path)
        same_file = known_path is not None and _is_same(known_path, path)
        twin = known_digest == decoded.digest
        if known_digest is None or (not twin and (gone or same_file)):
            self._embed(group, fresh)
            return
        if not twin and (decoded.reduction, known_reduction) != (1, 1):
            # One picture, decoded in two ways: in full they are equal or they are not.
            twin = self._equal_in_full(fresh.source, str(known_path))
        self._pool.release(decoded.slot)
        if not twin:
            group.tell(_conflict(decoded.id, path, str(known_path)))
            return
        group.stamps.append((fresh.stamp, decoded.id))
        if row and (gone or (same_file and row.metadata != decoded.metadata)):
            group.retold[decoded.id] = replace(row, path=path, metadata=decoded.metadata)
        group.tell(Outcome(path=path, status="unchanged"))

    def _embed(self, group: Group, fresh: Fresh) -> None:
        id = fresh.decoded.id
        if (former := group.fresh.pop(id, None)) is not None:
            self._pool.release(former.decoded.slot)
        group.fresh[id] = self._pending[id] = fresh
        group.stamps.append((fresh.stamp, id))
        group.tell(Outcome(path=fresh.source.path, status="embedded"))

    def _equal_in_full(self, one: Source, known_path: str) -> bool:
        """Whether a source and a known file are one picture once both are decoded in full.

        False where the known one cannot be read by its path alone, as a member of an archive: then it stays a conflict.
        """
        digests: set[str | None] = set()
        futures = [self._pool.submit(source, full=True) for source in (one, PlainFile(path=known_path))]
        for future in futures:
            try:
                decoded = future.result()
            except ImageError:
                digests.add(None)
            else:
                digests.add(decoded.digest)
                self._pool.release(decoded.slot)
        return len(digests) == 1 and None not in digests


def _conflict(id: str, path: str, known: str) -> Outcome:
    return Outcome(
        path=path,
        status="failed",
        reason="uid_conflict",
        error=f"SOP Instance UID {id} already belongs to {known}, which has other pixels; "
        "give one of the two files a UID of its own, or leave it out",
    )


def _is_same(one: str, other: str) -> bool:
    """True where two spellings name one file: relative and absolute, through links; of others, where they are equal."""
    if one == other:
        return True
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False
