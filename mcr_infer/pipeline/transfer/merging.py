"""Indexes of one fingerprint become one: what they share once, what differs under one id refused before anything is written.

    facts of all (64 bits for an id, 64 for its content) -> what may be in two of them -> rows compared -> conflicts
    rows, files and locals, block by block -> the target

Each block is a transaction, and what the target holds already is passed over: a merge that was cut short is run again and
ends as if it had not been.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index import KINDS, FileStamp, Index, Row
from mcr_infer.index.columns import ABSENT, MetadataColumns
from mcr_infer.index.root import shown

OnConflict = Literal["refuse", "skip", "replace"]

_BLOCK = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """An id under which two indexes hold different pictures or reports."""

    kind: str
    id: str
    here: str | None
    """Path of the row that comes first: of the target, or of an index named earlier."""

    there: str | None
    """Path of the other one."""

    def to_dict(self) -> dict[str, str | None]:
        """Return it in the shape of `--json`."""
        return {"kind": self.kind, "id": self.id, "here": self.here, "there": self.there}


@dataclass(slots=True, kw_only=True)
class Merged:
    """The count of a merge, filled as it goes on."""

    added: int = 0
    known: int = 0
    """Rows that were there already, of the same content."""

    replaced: int = 0
    skipped: int = 0
    """Rows whose id stands for something else in the target."""

    paths_taken: int = 0
    """Files that are not remembered, since their path stands for another row in the target: they are looked at again."""


class _Known(NamedTuple):
    """Where rows of a kind are, by what stands for their id."""

    ids: NDArray[np.uint64]
    """Ascending [N]."""

    contents: NDArray[np.uint64]
    labels: NDArray[np.int64]
    places: NDArray[np.int32]
    """Which of the indexes."""


def conflicts(target: Index | None, sources: Sequence[Index]) -> Iterator[Conflict]:
    """Yield every id under which the indexes hold different content; to be called inside snapshots of all.

    Contents are the same where their digests are; where a row has none, where the vectors are.
    """
    every = [*([] if target is None else [target]), *sources]
    for kind in KINDS:
        known: _Known | None = None
        for place, index in enumerate(every):
            facts = index.facts(kind)
            if known is not None:
                yield from _against(known, every, index, kind, facts)
            known = _joined(known, facts, place)


def _against(
    known: _Known, every: Sequence[Index], index: Index, kind: str, facts: MetadataColumns
) -> Iterator[Conflict]:
    """Compare the rows of an index with those of the indexes before it."""
    ids, contents = facts.keys["id"], facts.keys["content_digest"]
    first = np.searchsorted(known.ids, ids)
    inside = first < len(known.ids)
    inside[inside] = known.ids[first[inside]] == ids[inside]
    for here in np.flatnonzero(inside).tolist():
        there = int(first[here])
        if contents[here] != ABSENT and contents[here] == known.contents[there]:
            continue
        label, other_label = int(facts.labels[here]), int(known.labels[there])
        row = index.rows([label])[label]
        former = every[known.places[there]].rows([other_label])[other_label]
        if row.id == former.id and not same_content(row, former):
            yield Conflict(kind=kind, id=row.id, here=shown(former.path), there=shown(row.path))


def _joined(known: _Known | None, facts: MetadataColumns, place: int) -> _Known:
    """Add the rows of an index to those that are known; of several with one id the first stands for it."""
    places = np.full(len(facts.labels), place, dtype=np.int32)
    fresh = _Known(facts.keys["id"], facts.keys["content_digest"], facts.labels, places)
    if known is not None:
        new = ~np.isin(fresh.ids, known.ids)
        fresh = _Known(
            np.concatenate([known.ids, fresh.ids[new]]),
            np.concatenate([known.contents, fresh.contents[new]]),
            np.concatenate([known.labels, fresh.labels[new]]),
            np.concatenate([known.places, fresh.places[new]]),
        )
    order = np.argsort(fresh.ids, kind="stable")
    return _Known(fresh.ids[order], fresh.contents[order], fresh.labels[order], fresh.places[order])


def same_content(one: Row, other: Row) -> bool:
    """True where two rows of one id stand for the same picture or report, wherever it lay and however it was embedded."""
    if one.content_digest is not None and other.content_digest is not None:
        return one.content_digest == other.content_digest
    return bool(np.array_equal(one.vector, other.vector))


def merge(
    target: Index, sources: Sequence[Index], *, on_conflict: OnConflict, advance: Callable[[int], None] = lambda _: None
) -> Merged:
    """Bring the rows of indexes into another, in their order; `advance` is told how many were looked at.

    Where `on_conflict` is `refuse` there must be none, see `conflicts`. To be called inside snapshots of the sources.
    """
    told = Merged()
    for source in sources:
        for kind in KINDS:
            rows = source.scan(kind, source.labels(kind))
            while block := list(islice(rows, _BLOCK)):
                _take(target, source, kind, block, on_conflict, told)
                advance(len(block))
    return told


def _take(
    target: Index, source: Index, kind: str, block: Sequence[tuple[int, Row]], on_conflict: OnConflict, told: Merged
) -> None:
    """Bring some rows into the target, in one transaction."""
    added: list[Row] = []
    files: list[tuple[FileStamp, str]] = []
    kept: dict[tuple[str, str], bytes] = {}
    locals = source.locals(kind, [label for label, _ in block])
    bare = target.without_locals(kind, [row.id for label, row in block if label in locals])
    for label, row in block:
        former = target.get(kind, row.id)
        same = former is not None and same_content(row, former)
        if former is None:
            told.added += 1
        elif same:
            told.known += 1
        elif on_conflict == "replace":
            told.replaced += 1
        else:
            told.skipped += 1
            continue
        if not same:
            added.append(row)
        # Patches and words belong to a vector, not to a picture.
        fits = former is None or not same or (row.id in bare and np.array_equal(row.vector, former.vector))
        if label in locals and fits:
            kept[kind, row.id] = locals[label]
        files += _files(target, source, row, replaced=former is not None and not same, told=told)
    if added or files or kept:
        target.add(added, files=files, file_kind=kind, locals=kept)


def _files(target: Index, source: Index, row: Row, *, replaced: bool, told: Merged) -> Iterator[tuple[FileStamp, str]]:
    """Yield the files of a row that the target does not remember yet."""
    for stamp in source.files(row.kind, row.id):
        seen = target.seen_file(row.kind, stamp.path)
        if seen is None or (seen[1] == row.id and replaced):
            yield stamp, row.id
        elif seen[1] != row.id:
            # Two indexes call two files by one name. Which one lies there now shows when it is looked at again.
            told.paths_taken += 1
