"""What an open index can be asked: rows, and the vectors, facts and graphs of a kind, from one moment where that matters."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.errors import IndexCorruptError, IndexMismatchError, QueryError
from mcr_infer.files import FileStamp
from mcr_infer.index.columns import MetadataColumns
from mcr_infer.index.connection import FILE_NAME as STORE
from mcr_infer.index.connection import RESTORE
from mcr_infer.index.filters import Filter
from mcr_infer.index.graph import Graph
from mcr_infer.index.manifest import Identity, KindState, Manifest, check_secret
from mcr_infer.index.rows import Row, check_kind, is_unicode
from mcr_infer.index.snapshots import Snapshots, states_of
from mcr_infer.index.store import Store

_SCANNED = 10_000
"""Rows that one look at the store reads."""


class Reader:
    """The part of `Index` that changes nothing."""

    folder: Path
    exact_limit: int
    """Rows of a kind up to which every query looks at all of them."""

    _store: Store
    _snapshots: Snapshots
    _identity: Identity
    _writes: bool
    """True where this is the one process that writes."""

    @property
    def identity(self) -> Identity:
        """Which index this is, and whose vectors it holds."""
        return self._identity

    @property
    def bundle(self) -> str:
        """Name of the bundle that made the index."""
        return self._identity.bundle

    @property
    def bundle_path(self) -> str:
        """Where that bundle was, as it was given."""
        return self._identity.bundle_path

    @property
    def root(self) -> str | None:
        """The folder to which relative paths refer, None where it is unknown; rows give paths that this process can open."""
        return self._identity.root or None

    @property
    def finds_files(self) -> bool:
        """True where files of relative paths are found, whatever the working folder: the root is known, and there."""
        return self._store.root.is_known

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedding space, hex."""
        return self._identity.fingerprint

    @property
    def embedding_dim(self) -> int:
        """Dimensions of every vector, D."""
        return self._identity.embedding_dim

    @property
    def format_version(self) -> int:
        """Version of the format on disk; a reader takes older ones as they are."""
        return self._store.version

    def check_bundle(self, fingerprint: str) -> None:
        """Raise `IndexMismatchError` unless a bundle of this fingerprint made the index."""
        if fingerprint != self.fingerprint:
            raise IndexMismatchError(
                f"index {self.folder} was made by the bundle {self.bundle!r} (fingerprint {self.fingerprint[:12]}), got a "
                f"bundle of fingerprint {fingerprint[:12]}: their vectors cannot be compared. Name the bundle that made it "
                f"with --bundle (it was at {self.bundle_path}), or embed into a new folder with --index"
            )

    def check_secret(self, secret_check: str, *, pseudonymous: bool) -> None:
        """Raise `IndexMismatchError` unless rows of this index are named under this secret, and in this way."""
        check_secret(self.folder, self._identity, secret_check, pseudonymous=pseudonymous)

    def count(self, kind: str) -> int:
        """Return how many rows of a kind there are."""
        check_kind(kind)
        return self._store.state(kind)[1]

    def known_file(self, stamp: FileStamp, *, kind: str) -> str | None:
        """Return the id of the row that a file gave, if the file is unchanged since then; otherwise None."""
        seen = self.seen_file(kind, stamp.path)
        return seen[1] if seen is not None and stamp.matches(seen[0]) else None

    def seen_file(self, kind: str, path: str) -> tuple[FileStamp, str] | None:
        """Return how a file looked when it was last seen, and the id of the row that it then gave, whatever it holds now."""
        return self._store.seen_file(kind, path)

    def get(self, kind: str, id: str) -> Row | None:
        """Return a row, or None where there is none.

        Raises `IndexCorruptError` where it does not match its digest, or where SQLite misses it and the facts know it.
        A writer, which asks for many new ids, is not told the latter.
        """
        check_kind(kind)
        if not is_unicode(id):
            return None  # as no row is named
        with self.snapshot():
            row = self._store.get(kind, id)
            if row is None and not self._writes and self.facts(kind).knows([id]):
                raise self._overlooked(kind)
        return row

    def _overlooked(self, kind: str) -> IndexCorruptError:
        return IndexCorruptError(f"{self.folder / STORE} cannot find all {kind} rows by their ids: {RESTORE}")

    def vector(self, kind: str, id: str) -> Embeddings:
        """Return the vector [D] of a row, to search with. Raises `QueryError` where there is no such row."""
        row = self.get(kind, id)
        if row is None:
            raise self._unknown(kind, id)
        return Embeddings(row.vector, self.fingerprint)

    def label(self, kind: str, id: str) -> int:
        """Return the label of a row, to be used in the same `snapshot`. Raises `QueryError` where there is no such row."""
        check_kind(kind)
        label = self._store.label(kind, id) if is_unicode(id) else None
        if label is None:
            raise self._unknown(kind, id)
        return label

    def _unknown(self, kind: str, id: str) -> QueryError:
        return QueryError(
            f"index {self.folder} has no {kind} with the id {id!r}: ids are what `mcr-infer query --json` prints"
        )

    def files(self, kind: str, id: str) -> Sequence[FileStamp]:
        """Return the files that gave a row, or hold the same, as they were seen."""
        return self._store.files(kind, id)

    def ids(self, kind: str) -> list[str]:
        """Return the ids of a kind, sorted."""
        check_kind(kind)
        with self.snapshot():
            ids = self._store.ids(kind)
            if not self.facts(kind).are_all(ids):
                raise self._overlooked(kind)
        return ids

    def without_locals(self, kind: str, ids: Iterable[str]) -> Collection[str]:
        """Return those of some ids whose rows are there and have no patches or words kept."""
        return self._store.without_locals(kind, ids)

    def provenance(self, kind: str) -> frozenset[tuple[str, float]]:
        """Return the pairs (precision, patch budget) among the rows of a kind; more than one is a mixture to speak of."""
        check_kind(kind)
        return self.facts(kind).provenance

    def text_strategies(self, kind: str) -> frozenset[str]:
        """Return what was done with texts of a kind that are too long for the tower, see `inference.long_text`."""
        check_kind(kind)
        return self.facts(kind).text_strategies

    def snapshot(self) -> AbstractContextManager[None]:
        """Let all that is read inside the block come from one moment, whatever a writer commits meanwhile."""
        return self._store.snapshot()

    def rows(self, labels: Iterable[int]) -> Mapping[int, Row]:
        """Return rows by the labels that `vectors` and `graph` gave in the same `snapshot`."""
        return self._store.at(labels)

    def locals(self, kind: str, labels: Iterable[int]) -> Mapping[int, bytes]:
        """Return the packed patches or words of rows by label, of those of which they are kept."""
        return self._store.locals(kind, labels)

    def vectors(self, kind: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the labels [N] and vectors [N, D] of a kind as they are now; only what has changed is read again."""
        held = self._snapshots.vectors(kind)
        return held.labels, held.values

    def facts(self, kind: str) -> MetadataColumns:
        """Return the facts of a kind as they are now, to filter and to group by."""
        return self._snapshots.facts(kind)

    def graph(self, kind: str) -> Graph:
        """Return the graph of a kind as the store is now: loaded, caught up, or made again where it is damaged."""
        return self._snapshots.graph(kind)

    def has_graph(self, kind: str) -> bool:
        """True where a kind has so many rows that searches go through a graph."""
        return self.count(kind) > self.exact_limit

    def state(self, kind: str) -> KindState:
        """Return what the manifest says of a kind: its snapshots, and how its graph was tuned."""
        check_kind(kind)
        generation, rows = self._store.state(kind)
        return self._known().get(kind, KindState(generation=generation, rows=rows))

    def select(self, kind: str, where: Filter) -> NDArray[np.int64]:
        """Return the labels of the rows that match a filter, ascending [N]; to be used in the same `snapshot`."""
        check_kind(kind)
        facts = self.facts(kind)
        return facts.labels[where.mask(facts)]

    def labels(self, kind: str) -> NDArray[np.int64]:
        """Return the labels of all rows of a kind, ascending [N]; to be called inside `snapshot`."""
        check_kind(kind)
        return self._store.labels(kind)

    def scan(self, kind: str, labels: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """Read rows of ascending labels [N] in their order, one after the other: faster for many than `rows`.

        Raises `IndexCorruptError` where one does not match its digest, or is missing.
        """
        check_kind(kind)
        for start in range(0, len(labels), _SCANNED):
            part = labels[start : start + _SCANNED]
            for place, columns in self._store.scan(kind, part):
                yield int(part[place]), self._store.row(columns)

    def _known(self) -> Mapping[str, KindState]:
        """Return what the manifest says now: of every kind, or of none where it is lost."""
        return states_of(Manifest.read(self.folder))
