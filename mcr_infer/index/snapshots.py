"""What lies beside the store of an index: the graphs, vectors and facts of its kinds.

Each is loaded once the digest in the manifest matches, caught up with what the store holds by now, made again from the store
where it is damaged, and saved so that the next process starts fast.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.index.columns import (
    SAVED_FROM,
    MetadataColumns,
    Vectors,
    load_facts,
    load_vectors,
    read_facts,
    save_facts,
    save_vectors,
)
from mcr_infer.index.connection import FILE_NAME as STORE
from mcr_infer.index.connection import RESTORE
from mcr_infer.index.graph import MOST_BREADTH, MOST_LINKS, Graph
from mcr_infer.index.manifest import ColumnFile, KindState, Manifest, Snapshot
from mcr_infer.index.store import Store

_MOST_DELETED = 0.2
"""The share of deleted nodes from which on a graph is made anew."""

_BUILD_STEP = 10_000
"""Rows that are read and linked together while a graph is built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """What of the snapshots is made from nothing, and how; by default only what has to be."""

    everything: bool = False
    """Also files that match their digests."""

    purge: bool = False
    """Graphs that hold vectors of deleted rows."""

    m: int | None = None
    """Links of a node in graphs that are made; None: as before."""

    ef_construction: int | None = None
    """Breadth while they are built; None: as before."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("m", self.m, 2, MOST_LINKS),
            ("ef_construction", self.ef_construction, 1, MOST_BREADTH),
        ):
            if value is not None and not least <= value <= most:
                raise EmbeddingIndexError(f"{name} must lie in {least} to {most}, got {value}")


AS_NEEDED = Renewal()

S = TypeVar("S")
T = TypeVar("T")
Columns = TypeVar("Columns", Vectors, MetadataColumns)

Notify = Callable[[str], None]


class Snapshots:
    """The snapshots of one open index."""

    def __init__(self, folder: Path, store: Store, *, dim: int, writer: bool, notify: Notify) -> None:
        """`writer` believes no remembered digest: what it loads it publishes again, and must have seen every byte."""
        self._folder, self._store, self._dim = folder, store, dim
        self._remembered, self._notify = not writer, notify
        self._graphs: dict[str, Graph] = {}
        self._vectors: dict[str, Vectors] = {}
        self._facts: dict[str, MetadataColumns] = {}

    def vectors(self, kind: str) -> Vectors:
        """Return the vectors of a kind as the store is now; only what has changed is read from it."""
        held = self._vectors.get(kind) or self._load_columns(kind, "vectors", load_vectors)
        with self._store.snapshot():
            generation, _ = self._store.state(kind)
            if held is None or held.generation != generation:
                labels = self._store.labels(kind)
                values = np.empty((len(labels), self._dim), dtype=np.float32)
                fresh = np.ones(len(labels), dtype=np.bool_)
                if held is not None:
                    fresh = ~np.isin(labels, held.labels)
                    values[~fresh] = held.values[np.isin(held.labels, labels)]
                values[fresh] = self._store.vectors(kind, labels[fresh], dim=self._dim)
                held = Vectors(generation, labels, values)
        self._vectors[kind] = held
        return held

    def facts(self, kind: str) -> MetadataColumns:
        """Return the facts of a kind as the store is now; only what has changed is read from it."""
        held = self._facts.get(kind) or self._load_columns(kind, "facts", load_facts)
        with self._store.snapshot():
            generation, _ = self._store.state(kind)
            if held is None or held.generation != generation:
                labels = self._store.labels(kind)
                former, held = held, None
                if former is not None:
                    held = former.at(np.isin(former.labels, labels))
                    labels = labels[~np.isin(labels, held.labels)]
                fresh = read_facts(labels, self._store.scan(kind, labels), generation=generation)
                held = fresh if held is None else held.joined(fresh).without_empty()
        self._facts[kind] = held
        return held

    def graph(self, kind: str) -> Graph:
        """Return the graph of a kind as the store is now: loaded, caught up, or made again where it is damaged."""
        with self._store.snapshot():
            generation, count = self._store.state(kind)
            graph = self._graphs.get(kind) or self._load_graph(kind)
            if graph is None:
                graph = self._empty_graph(kind, count, AS_NEEDED)
            if graph.generation != generation or len(graph.labels) != count:
                labels = self._store.labels(kind)
                graph.remove(np.setdiff1d(graph.labels, labels))
                missing = np.setdiff1d(labels, graph.labels)
                for start in range(0, len(missing), _BUILD_STEP):
                    part = missing[start : start + _BUILD_STEP]
                    graph.add(part, self._store.vectors(kind, part, dim=self._dim))
                graph.generation = generation
        self._graphs[kind] = graph
        return graph

    def save(self, kind: str, known: KindState | None, *, with_graph: bool, renewal: Renewal) -> KindState:
        """Bring the files of a kind up to date and return their state; `known` is what the manifest names so far.

        A graph in which more than a fifth of the nodes is deleted is made from nothing, too. Raises `EmbeddingIndexError`
        when the disk is full: the former files are then still there.
        """
        generation, count = self._store.state(kind)
        graph, vectors, facts, tuning = None, None, None, None
        if renewal.everything:
            self._drop_columns(kind)
        if count >= SAVED_FROM or with_graph:
            former = (None, None) if known is None or renewal.everything else (known.vectors, known.facts)
            vectors = self._unchanged(kind, former[0], generation, load_vectors)
            vectors = vectors or save_vectors(self._folder, kind, self.vectors(kind))
            facts = self._unchanged(kind, former[1], generation, load_facts)
            facts = facts or save_facts(self._folder, kind, self._sound_facts(kind))
        if with_graph:
            graph = self._saved_graph(kind, count, renewal)
            tuning = None if known is None or renewal.everything else known.tuning
        else:
            self._graphs.pop(kind, None)
        return KindState(generation=generation, rows=count, graph=graph, vectors=vectors, facts=facts, tuning=tuning)

    def _sound_facts(self, kind: str) -> MetadataColumns:
        """Return the facts to be saved. Raises `IndexCorruptError` where SQLite let two rows have one id."""
        facts = self.facts(kind)
        if facts.doubled:
            raise IndexCorruptError(
                f"{self._folder / STORE} has {facts.doubled} {kind} rows under the id of another: {RESTORE}"
            )
        return facts

    def _saved_graph(self, kind: str, count: int, renewal: Renewal) -> Snapshot:
        graph = None if renewal.everything else self.graph(kind)
        if graph is not None:
            deleted = graph.element_count - len(graph.labels)
            if deleted > (0 if renewal.purge else _MOST_DELETED * graph.element_count):
                graph = None
        if graph is None:
            self._graphs[kind] = self._empty_graph(kind, count, renewal)
            graph = self.graph(kind)
        return graph.saved_as(self._folder, kind)

    def _empty_graph(self, kind: str, count: int, renewal: Renewal) -> Graph:
        """Make an empty graph: with what is asked for, else with what the graph of this kind had so far."""
        manifest = Manifest.read(self._folder)
        former = None if manifest is None else manifest.kinds[kind].graph
        tuning = None if manifest is None or renewal.everything else manifest.kinds[kind].tuning
        m, ef_construction = renewal.m, renewal.ef_construction
        # Digests that match do not make a number that hnswlib could build with.
        if former is not None and former.m <= MOST_LINKS and former.ef_construction <= MOST_BREADTH:
            m, ef_construction = m or former.m, ef_construction or former.ef_construction
        graph = Graph(dim=self._dim, capacity=count, m=m, ef_construction=ef_construction)
        if tuning is not None:
            graph.tuned_ef = tuning.ef_search
        return graph

    def _drop_columns(self, kind: str) -> None:
        """Forget what was loaded, and read from the store all that is asked for from now on."""
        labels = np.empty(0, dtype=np.int64)
        nothing = np.empty((0, self._dim), dtype=np.float32)
        self._vectors[kind] = Vectors(-1, labels, nothing)
        self._facts[kind] = read_facts(labels, (), generation=-1)

    def _load_graph(self, kind: str) -> Graph | None:
        """Load the graph that the manifest names; None, and a word to the user, where it must be made."""
        graph, reason = self._newest(kind, lambda state: state.graph, Graph.load)
        if graph is None:
            _, count = self._store.state(kind)
            why = reason or "there is no graph yet"
            self._notify(f"building the graph of {count} {kind}s from {STORE}: {why}")
            return None
        tuning = states_of(Manifest.read(self._folder))[kind].tuning
        if tuning is not None:
            graph.tuned_ef = tuning.ef_search
        return graph

    def _load_columns(self, kind: str, what: str, load: Callable[..., Columns]) -> Columns | None:
        """Load the columns that the manifest names; None where it names none or, with a word to the user, a damaged file."""
        load = partial(load, remembered=self._remembered)
        columns, reason = self._newest(kind, lambda state: getattr(state, what), load)
        if reason is not None:
            _, count = self._store.state(kind)
            self._notify(f"reading the {what} of {count} {kind}s from {STORE}: {reason}")
        return columns

    def _unchanged(
        self, kind: str, named: ColumnFile | None, generation: int, load: Callable[..., object]
    ) -> ColumnFile | None:
        """Return the file that the manifest names where it is what would be saved now, every byte of it."""
        if named is not None and named.generation == generation:
            with suppress(IndexCorruptError):
                load(self._folder, kind, named, dim=self._dim, remembered=False)
                return named
        return None

    def _newest(
        self, kind: str, named: Callable[[KindState], S | None], load: Callable[..., T]
    ) -> tuple[T | None, str | None]:
        """Load the snapshot that `named` picks from the manifest, while a writer may be replacing it.

        None without a reason where the manifest names none; None with the reason where the file does not fit its digest.
        """
        tried: S | None = None
        reason: str | None = None
        while True:
            manifest = Manifest.read(self._folder)
            snapshot = None if manifest is None else named(manifest.kinds[kind])
            # A writer may just have put a newer one in the place of what was tried.
            if snapshot is None or snapshot == tried:
                return None, reason
            try:
                return load(self._folder, kind, snapshot, dim=self._dim), None
            except IndexCorruptError as error:
                tried, reason = snapshot, str(error)


def states_of(manifest: Manifest | None) -> Mapping[str, KindState]:
    """Return what a manifest says of each kind; of none where it is lost."""
    return manifest.kinds if manifest else {}
