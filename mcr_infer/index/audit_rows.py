"""The rows of one kind against their digests, and the snapshots of that kind against the rows, in one pass over the store.

A snapshot may be behind the store: rows that came later are then read from the store, and rows that went are not looked for.
What both hold has to be the same, and where the generations are equal both have to hold the same rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import CheckResult, IndexCorruptError
from mcr_infer.index.columns import KEYS, Column, key_of, load_facts, load_vectors, read_facts
from mcr_infer.index.graph import verified_nodes
from mcr_infer.index.manifest import ColumnFile, KindState, Snapshot
from mcr_infer.index.rows import COLUMNS, UNIT_TOLERANCE, checked_vector
from mcr_infer.index.store import Store

_BLOCK = 2048
"""Rows that are looked at together."""

_SHOWN = 3
_ID = COLUMNS.index("id")

Rows = list[tuple[int, Sequence[Any]]]
Labels = NDArray[np.int64]


class Block(NamedTuple):
    """Some rows whose digests match."""

    columns: list[Sequence[Any]]
    """[B]"""

    labels: Labels
    """[B]"""

    vectors: NDArray[np.float32]
    """[B, D]"""


class Beside(Protocol):
    """A snapshot that is compared with the rows."""

    labels: Labels
    """Of the rows that it holds, ascending [N]."""

    generation: int

    def differences(self, block: Block) -> list[int]:
        """Return which of some rows [B] that it holds it tells otherwise, by label."""
        ...

    def note(self) -> str:
        """Say what else is known of it."""
        ...


def audit_rows(folder: Path, store: Store, kind: str, known: KindState | None) -> Iterator[CheckResult]:
    """Check the rows of a kind and the snapshots that the manifest names (`known`, None where it is lost)."""
    generation, counted = store.state(kind)
    dim = store.identity().embedding_dim
    beside: dict[str, Beside] = {}
    failed: dict[str, str] = {}
    for what, load in _BESIDE.items():
        saved = None if known is None else getattr(known, what)
        if saved is not None:
            try:
                beside[what] = load(folder, kind, saved, dim)
            except IndexCorruptError as error:
                failed[what] = str(error)
    rows = _Rows(kind, dim)
    wrong: dict[str, list[int]] = {what: [] for what in beside}
    walk = store.walk(kind)
    while read := list(islice(walk, _BLOCK)):
        block = rows.take(read)
        for what, one in beside.items():
            wrong[what] += one.differences(block)
    yield rows.check()
    yield _count_check(kind, rows.count, counted, generation, known)
    for what in _BESIDE:
        name = f"{what} {kind}"
        if what in failed:
            why = f"{failed[what]}. Searches read the store until `mcr-infer rebuild` makes it again"
            yield CheckResult(name=name, ok=False, detail=why)
        elif what in beside:
            yield _beside_check(name, beside[what], wrong[what], rows.labels, generation)


class _Rows:
    """What was seen of the rows themselves."""

    def __init__(self, kind: str, dim: int) -> None:
        self._kind, self._dim = kind, dim
        self._faults: dict[str, list[str]] = {}
        self._labels: list[Labels] = []
        self._ids: list[NDArray[np.uint64]] = []
        self.count = 0

    def take(self, read: Rows) -> Block:
        """Look at some rows; return those that are sound."""
        self.count += len(read)
        self._labels.append(np.array([label for label, _ in read], dtype=np.int64))
        sound: Rows = []
        blobs = []
        for label, columns in read:
            try:
                blob = checked_vector(columns)
            except IndexCorruptError:
                self._fault("do not match their digest", f"row {label}")
                continue
            if len(blob) != 4 * self._dim:
                self._fault(f"have no vector of {self._dim} dimensions", columns[_ID])
                continue
            sound.append((label, columns))
            blobs.append(blob)
        vectors = np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), self._dim)
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1))
        for place in np.flatnonzero(~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)).tolist():
            what = "have a vector that is not finite" if not np.isfinite(lengths[place]) else "are not of length 1"
            self._fault(what, sound[place][1][_ID])
        self._ids.append(np.array([key_of(columns[_ID]) for _, columns in sound], dtype=np.uint64))
        labels = np.array([label for label, _ in sound], dtype=np.int64)
        return Block([columns for _, columns in sound], labels, vectors)

    def _fault(self, what: str, name: str) -> None:
        self._faults.setdefault(what, []).append(name)

    @property
    def labels(self) -> Labels:
        """The labels of all rows, ascending."""
        return np.concatenate(self._labels) if self._labels else np.empty(0, dtype=np.int64)

    def check(self) -> CheckResult:
        ids = np.sort(np.concatenate(self._ids)) if self._ids else np.empty(0, dtype=np.uint64)
        double = int((ids[1:] == ids[:-1]).sum())
        told = [f"{len(names)} {what} ({_few(names)})" for what, names in self._faults.items()]
        told += [f"{double} have the id of another"] if double else []
        sound = f"{self.count}, each matches its digest, finite vectors of length 1 in {self._dim} dimensions"
        return CheckResult(name=f"rows {self._kind}", ok=not told, detail="; ".join(told) or sound)


def _count_check(kind: str, found: int, counted: int, generation: int, known: KindState | None) -> CheckResult:
    name = f"count {kind}"
    if found != counted:
        why = f"{found} rows, the store counted {counted}: restore the index from a backup"
        return CheckResult(name=name, ok=False, detail=why)
    told = f"{found} rows, generation {generation}"
    if known is None or (known.generation, known.rows) == (generation, counted):
        return CheckResult(name=name, ok=True, detail=told)
    if generation > known.generation:
        told += f"; index.json knows generation {known.generation}, the next writer brings it up to date"
        return CheckResult(name=name, ok=True, detail=told)
    told += (
        f"; index.json has {known.rows} of generation {known.generation}: the store is older, restore the whole folder"
    )
    return CheckResult(name=name, ok=False, detail=told)


def _beside_check(name: str, one: Beside, wrong: list[int], labels: Labels, generation: int) -> CheckResult:
    missing = int((~np.isin(labels, one.labels)).sum())
    gone = int((~np.isin(one.labels, labels)).sum())
    told = []
    if wrong:
        told.append(f"{len(wrong)} rows differ from the store ({_few([f'row {label}' for label in wrong])})")
    if one.generation > generation:
        told.append(f"it is of generation {one.generation}, the store of {generation}")
    elif one.generation == generation and (missing or gone):
        told.append(f"it lacks {missing} rows and has {gone} that are gone, though its generation is that of the store")
    if told:
        return CheckResult(name=name, ok=False, detail="; ".join(told) + ": run `mcr-infer rebuild`")
    behind = f", behind the store by {missing} rows that came and {gone} that went" if missing or gone else ""
    return CheckResult(name=name, ok=True, detail=f"{len(one.labels)} rows as in the store{behind}{one.note()}")


class _VectorsBeside:
    """The file of vectors."""

    def __init__(self, folder: Path, kind: str, saved: ColumnFile, dim: int) -> None:
        held = load_vectors(folder, kind, saved, dim=dim, remembered=False)
        self.labels, self.generation, self._values = held.labels, held.generation, held.values

    def differences(self, block: Block) -> list[int]:
        """Compare the vectors, bit for bit."""
        held, places = _places(self.labels, block.labels)
        same = (self._values[places].view(np.uint32) == block.vectors[held].view(np.uint32)).all(axis=1)
        return _list(block.labels[held][~same])

    def note(self) -> str:
        return ""


class _GraphBeside:
    """The file of the graph."""

    def __init__(self, folder: Path, kind: str, saved: Snapshot, dim: int) -> None:
        nodes = verified_nodes(folder, kind, saved, dim=dim)
        alive = np.flatnonzero(~nodes.deleted)
        order = alive[np.argsort(nodes.labels[alive], kind="stable")]
        self.labels, self._order, self._vectors = nodes.labels[order], order, nodes.vectors
        self.generation = saved.generation
        self._deleted = int(nodes.deleted.sum())

    def differences(self, block: Block) -> list[int]:
        """Compare the vectors of the nodes, bit for bit."""
        held, places = _places(self.labels, block.labels)
        nodes = np.ascontiguousarray(self._vectors[self._order[places]])
        same = (nodes.view(np.uint32) == block.vectors[held].view(np.uint32)).all(axis=1)
        return _list(block.labels[held][~same])

    def note(self) -> str:
        """Say how many vectors of deleted rows are in the file."""
        return f", and {self._deleted} vectors of rows that are gone" if self._deleted else ""


class _FactsBeside:
    """The file of facts."""

    def __init__(self, folder: Path, kind: str, saved: ColumnFile, dim: int) -> None:
        self._facts = load_facts(folder, kind, saved, dim=dim, remembered=False)
        self.labels, self.generation = self._facts.labels, self._facts.generation

    def differences(self, block: Block) -> list[int]:
        """Compare every key and every fact."""
        held, places = _places(self.labels, block.labels)
        told = self._facts.at(places)
        true = read_facts(block.labels, enumerate(block.columns), generation=0).at(held)
        same = np.ones(len(places), dtype=np.bool_)
        for name in KEYS:
            same &= told.keys[name] == true.keys[name]
        for name in {*told.columns, *true.columns}:
            same &= _same_column(told.columns.get(name), true.columns.get(name), len(places))
        return _list(true.labels[~same])

    def note(self) -> str:
        return ""


_BESIDE: Mapping[str, Callable[[Path, str, Any, int], Beside]] = {
    "vectors": _VectorsBeside,
    "facts": _FactsBeside,
    "graph": _GraphBeside,
}
"""By the name of what the manifest says of it."""


def _same_column(one: Column | None, other: Column | None, count: int) -> NDArray[np.bool_]:
    """Return where two columns of facts [N] say the same; a column that is not there says nothing of any row."""
    numbers, words = [], []
    for column in (one, other):
        numbers.append(np.full(count, np.nan) if column is None else column.numbers)
        known = np.array([*(() if column is None else column.words), ""], dtype=object)
        codes = np.full(count, -1) if column is None else column.codes
        words.append((known[codes], codes < 0))
    same_number = (numbers[0] == numbers[1]) | (np.isnan(numbers[0]) & np.isnan(numbers[1]))
    return np.asarray(same_number & (words[0][0] == words[1][0]) & (words[0][1] == words[1][1]), dtype=np.bool_)


def _places(held: Labels, labels: Labels) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which labels [B] are held, and where in the ascending labels that are held [N]."""
    places = np.searchsorted(held, labels)
    found = places < len(held)
    found[found] = held[places[found]] == labels[found]
    return found, places[found]


def _list(labels: Labels) -> list[int]:
    return [int(label) for label in labels]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
