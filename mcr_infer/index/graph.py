"""The HNSW graph of one kind: a snapshot of the store that is checked before it is loaded and can always be made again.

hnswlib says nothing when the disk is full, accepts a graph of another dimension, and crashes the process on a flipped
bit. So a file is published only after its size was checked, and is loaded only after its digest and its header match what
the manifest says, and every link in it leads to a node. The digest guards against accidents, and the links against files
made to crash. Nothing guards against a stranger who may write to the folder and hides or invents rows.
"""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.files import create_private, publish, sha256_of
from mcr_infer.index.graph_file import verified_nodes
from mcr_infer.index.manifest import Snapshot
from mcr_infer.index.storage import DISK_FULL, storage_errors

M = 32
EF_CONSTRUCTION = 200
"""Links of a node, and breadth while building (Malkov and Yashunin, arXiv 1603.09320)."""

_LEAST_EF = 200
_EF_OF_ROOT = 1.3
"""Sentences find 99 % of their ten nearest images with a breadth of search of 1.3 times the root of the rows: questions come
from the other tower, outside of what the graph links (`python -m benchmarks.recall`). Pictures need less."""

_ALREADY_DELETED = "already deleted"


class Graph:
    """A graph over rows of one kind; its labels are those of the store."""

    def __init__(self, *, dim: int, capacity: int, m: int | None = None, ef_construction: int | None = None) -> None:
        """Make an empty graph with room for `capacity` vectors of `dim` dimensions; None stands for the defaults."""
        self._dim = dim
        self._hnsw = _new(dim)
        self._hnsw.init_index(max(capacity, 1), M=m or M, ef_construction=ef_construction or EF_CONSTRUCTION)
        self.labels: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        """The rows that can be found, ascending."""
        self.generation = -1
        """The generation of the store that the labels stand for; -1 before the first."""
        self.tuned_ef: int | None = None
        """Breadth of a search that was measured for this graph, see `mcr_infer.index.manifest.Tuning`."""

        self.saved: Snapshot | None = None
        """The file that holds just this graph; None where there is none."""

    @classmethod
    def load(cls, folder: Path, kind: str, snapshot: Snapshot, *, dim: int) -> "Graph":
        """Load a snapshot. Raises `IndexCorruptError` saying what does not match, before hnswlib sees the file."""
        path = folder / snapshot.file_name(kind)
        verified_nodes(folder, kind, snapshot, dim=dim)
        graph = cls.__new__(cls)
        graph._dim = dim
        graph._hnsw = _new(dim)
        try:
            # Room for what is there: the capacity in the file may be anything.
            graph._hnsw.load_index(os.fsencode(path), max_elements=snapshot.elements)
        except (RuntimeError, MemoryError) as exc:
            raise IndexCorruptError(f"{path.name} is refused by hnswlib: {exc}") from exc
        graph.labels = np.sort(np.asarray(graph._hnsw.get_ids_list(), dtype=np.int64))
        graph.generation = snapshot.generation
        graph.tuned_ef = None
        graph.saved = snapshot
        return graph

    @property
    def ef_search(self) -> int:
        """Breadth of a search that does not say its own: what was measured for this graph, else what its size needs."""
        return self.tuned_ef or max(_LEAST_EF, round(_EF_OF_ROOT * math.sqrt(len(self.labels))))

    @property
    def element_count(self) -> int:
        """Nodes of the graph, with those that stand for rows that are gone."""
        return int(self._hnsw.element_count)

    def add(self, labels: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add vectors [N, D] under labels [N] that cannot be found so far."""
        needed = self.element_count + len(labels)
        if needed > self._hnsw.get_max_elements():
            self._hnsw.resize_index(max(needed, self.element_count * 5 // 4))
        self.saved = None
        self._hnsw.add_items(vectors, labels)
        self.labels = np.union1d(self.labels, labels)

    def remove(self, labels: NDArray[np.int64]) -> None:
        """Let rows not be found any more; their nodes stay as ways to others until the graph is made anew."""
        for label in labels.tolist():
            try:
                self._hnsw.mark_deleted(label)
                self.saved = None
            except RuntimeError as exc:
                # A loaded graph does not tell which of its labels were marked before it was saved.
                if _ALREADY_DELETED not in str(exc):
                    raise
        self.labels = np.setdiff1d(self.labels, labels)

    def query(
        self, queries: NDArray[np.float32], *, k: int, ef: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """Return labels and cosines [Q, k] of the nearest to queries [Q, D]; None where the graph cannot reach k rows."""
        self._hnsw.set_ef(max(ef, k))
        try:
            labels, distances = self._hnsw.knn_query(queries, k=k)
        except RuntimeError:  # hnswlib's only word for "fewer than k were reached"
            return None
        return labels.astype(np.int64), 1.0 - distances

    def saved_as(self, folder: Path, kind: str) -> Snapshot:
        """Return the file that holds this graph, published now unless there is one.

        Raises `EmbeddingIndexError` when the disk is full.
        """
        if self.saved is None:
            self.saved = self._save(folder, kind)
        # Rows may have come and gone again since: the nodes are the same, and stand for a later generation.
        self.saved = replace(self.saved, generation=self.generation)
        return self.saved

    def _save(self, folder: Path, kind: str) -> Snapshot:
        temporary = folder / f"graph-{kind}.tmp"
        try:
            with storage_errors(folder):
                os.close(create_private(temporary))
                self._hnsw.save_index(os.fsencode(temporary))
                size = temporary.stat().st_size
                if size != self._hnsw.index_file_size():
                    raise EmbeddingIndexError(f"index {folder}: {DISK_FULL}")
                snapshot = Snapshot(
                    sha256=sha256_of(temporary),
                    bytes=size,
                    elements=self.element_count,
                    m=int(self._hnsw.M),
                    ef_construction=int(self._hnsw.ef_construction),
                )
                publish(temporary, folder / snapshot.file_name(kind))
                return snapshot
        except RuntimeError as exc:
            raise EmbeddingIndexError(f"index {folder}: hnswlib cannot save the graph: {exc}") from exc
        finally:
            temporary.unlink(missing_ok=True)


def _new(dim: int) -> Any:
    import hnswlib

    return hnswlib.Index(space="ip", dim=dim)
