"""The HNSW graph of one kind: a snapshot of the store that is checked before it is loaded and can always be made again.

hnswlib reports no full disk, accepts a graph of another dimension, and crashes the process on a flipped bit. So a file is
published only after its size was checked, and is loaded only after its digest and its header match what the manifest says,
and every link in it leads to a node. The digest guards against accidents, and the links against files made to crash.
Nothing guards against a stranger who may write to the folder and hides or invents rows.

The file, as hnswlib 0.8 writes it: header; then per node: links of the lowest level uint32 [1 + 2M], vector float32 [D],
label uint64; then per node: bytes of its links of higher levels uint32, and these.
"""

import math
import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.files import create_private, publish, sha256_of
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


_HEADER = struct.Struct("<6QiI3QdQ")
"""What comes first: offset of level 0, capacity, elements, bytes of an element, offsets of label and vector, highest level,
entry point, the three link counts, level factor, ef_construction."""

MOST_LINKS, MOST_BREADTH = 512, 100_000
"""The largest m and ef_construction that a graph may have."""

_ROUNDING = 1e-9

_DELETED = 1
"""A bit of the third byte of a node: the row is gone, the node stays as a way to others."""

_BLOCK = 1 << 16
"""Nodes whose links are looked at together."""


class GraphNodes(NamedTuple):
    """The nodes of a graph file, mapped from the disk."""

    labels: NDArray[np.int64]
    """[N], in the order of the file."""

    vectors: NDArray[np.float32]
    """[N, D]"""

    deleted: NDArray[np.bool_]
    """[N], of those that nobody finds any more."""


def verified_nodes(folder: Path, kind: str, snapshot: Snapshot, *, dim: int) -> GraphNodes:
    """Map the nodes of a graph file once size, digest and header match, and every link of it was followed.

    Raises `IndexCorruptError` saying what does not match, or where a link leads out of the graph or to a level that a node
    does not reach, a label stands for two nodes, or the file does not end where it should: hnswlib would follow it and
    crash.
    """
    path = folder / snapshot.file_name(kind)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size or size != snapshot.bytes:
                raise IndexCorruptError(f"{path.name} has {size} bytes, expected {snapshot.bytes}")
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        return _compared(path, content, snapshot, dim)
    except OSError as exc:
        raise IndexCorruptError(f"{path.name} cannot be read: {exc.strerror}") from exc


def _compared(path: Path, content: mmap.mmap, snapshot: Snapshot, dim: int) -> GraphNodes:
    # The links are walked while the digest is taken: both look at every page, on a core each. A file of such a name is never
    # written to again, so both see the same.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(sha256_of, path)
        try:
            nodes = _nodes(path, content, snapshot, dim)
        except IndexCorruptError:
            if digest.result() == snapshot.sha256:
                raise
    if digest.result() != snapshot.sha256:
        raise IndexCorruptError(f"{path.name} does not match its digest")
    return nodes


def _nodes(path: Path, content: mmap.mmap, snapshot: Snapshot, dim: int) -> GraphNodes:
    """Take the nodes from a mapped file, whatever it holds. Raises `IndexCorruptError`, see `verified_nodes`."""
    _check_header(path.name, content[: _HEADER.size], snapshot, dim)
    at, links = 2 * snapshot.m * 4 + 4, 2 * snapshot.m
    layout = np.dtype(
        {
            "names": ["count", "mark", "links", "vector", "label"],
            "formats": ["<u2", "u1", ("<u4", links), ("<f4", dim), "<i8"],
            "offsets": [0, 2, 4, at, at + 4 * dim],
            "itemsize": at + 4 * dim + 8,
        }
    )
    count = snapshot.elements
    end = _HEADER.size + count * layout.itemsize
    if len(content) < end:
        raise IndexCorruptError(f"{path.name} is too short for {count} nodes")
    nodes: NDArray[Any] = np.frombuffer(content, dtype=layout, count=count, offset=_HEADER.size)
    for start in range(0, count, _BLOCK):
        part = nodes[start : start + _BLOCK]
        _check_links(path.name, part["count"], part["links"], count)
    levels = _higher_levels(path.name, content[end:], count, snapshot.m)
    highest, entry = _HEADER.unpack_from(content)[6:8]
    if highest != levels.max(initial=0) or highest != levels[entry]:
        raise IndexCorruptError(f"{path.name} begins its searches at a level that it does not have")
    labels = np.sort(nodes["label"])
    if (labels[1:] == labels[:-1]).any() or labels[0] < 0:
        raise IndexCorruptError(f"{path.name} has two nodes of one label")
    return GraphNodes(nodes["label"], nodes["vector"], (nodes["mark"] & _DELETED).astype(np.bool_))


def _check_links(name: str, counts: NDArray[np.uint16], links: NDArray[np.uint32], nodes: int) -> None:
    """Raise `IndexCorruptError` where links [N, M], of which `counts` [N] are in use, lead out of the graph."""
    # What is not in use is zero or was in use once: looking at all of it takes a fifth of the time of telling it apart.
    within = int(links.max(initial=0)) < nodes or not (links[_in_use(counts, links)] >= nodes).any()
    if not within or int(counts.max(initial=0)) > links.shape[1]:
        raise IndexCorruptError(f"{name} has links to nodes that it does not hold")


def _in_use(counts: NDArray[np.uint16], links: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return np.arange(links.shape[1]) < counts[:, None]


def _higher_levels(name: str, content: bytes, count: int, m: int) -> NDArray[np.int64]:
    """Return the level that each node reaches [N], from the links of the higher levels: a size a node, and so many bytes."""
    words = np.frombuffer(content[: len(content) // 4 * 4], dtype="<u4")
    levels, width = np.zeros(count, dtype=np.int64), m + 1
    begins: list[int] = []  # of the links of a node at one level
    level_of: list[int] = []
    node, at = 0, 0
    # Most nodes reach no higher level and have a size of 0: only the others are walked over.
    for place in np.flatnonzero(words).tolist():
        if place < at:
            continue  # within the links of the node before
        node += place - at
        size = int(words[place])
        steps, rest = divmod(size, 4 * width)
        at = place + 1 + steps * width
        if node >= count or rest or at > len(words):
            break
        levels[node] = steps
        begins += range(place + 1, at, width)
        level_of += range(1, steps + 1)
        node += 1
    else:
        if len(words) * 4 == len(content) and node + len(words) - at == count:
            _check_higher_links(name, words, begins, np.array(level_of), levels, width)
            return levels
    raise IndexCorruptError(f"{name} does not end where its nodes do")


def _check_higher_links(
    name: str,
    words: NDArray[np.uint32],
    begins: list[int],
    level_of: NDArray[np.int64],
    levels: NDArray[np.int64],
    width: int,
) -> None:
    """Raise `IndexCorruptError` where a link of a higher level leads out of the graph, or to a node below that level."""
    if not begins:
        return
    lists = words[np.array(begins)[:, None] + np.arange(width)]
    links = lists[:, 1:]
    counts = (lists[:, 0] & 0xFFFF).astype(np.uint16)
    _check_links(name, counts, links, len(levels))
    there = _in_use(counts, links)
    if (levels[np.where(there, links, 0)] < level_of[:, None])[there].any():
        raise IndexCorruptError(f"{name} has links to a level that a node does not reach")


def _check_header(name: str, content: bytes, snapshot: Snapshot, dim: int) -> None:
    """Compare the header with what a graph of this dimension must have. Raises `IndexCorruptError`."""
    if len(content) < _HEADER.size:
        raise IndexCorruptError(f"{name} is too short for a graph")
    header = _HEADER.unpack(content)
    level0, capacity, elements, stride, label_at, vector_at, _, entry, higher, links0, links, factor, breadth = header
    m = snapshot.m
    at = 8 * m + 4
    found = (level0, elements, links, higher, links0, vector_at, label_at, stride, breadth)
    expected = (0, snapshot.elements, m, m, 2 * m, at, at + 4 * dim, at + 4 * dim + 8, snapshot.ef_construction)
    if found != expected or not elements or capacity < elements or entry >= elements:
        raise IndexCorruptError(f"{name} is not a graph of {snapshot.elements} vectors of {dim} dimensions")
    if not (2 <= m <= MOST_LINKS and 1 <= breadth <= MOST_BREADTH and abs(factor * math.log(m) - 1.0) < _ROUNDING):
        raise IndexCorruptError(f"{name} has levels or links that mcr-infer never writes")
