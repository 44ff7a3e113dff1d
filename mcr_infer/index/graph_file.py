"""The file of a graph as hnswlib 0.8 writes it: checked before hnswlib sees it, and read without hnswlib to be compared.

header; then a node each: links of the lowest level uint32 [1 + 2M], vector float32 [D], label uint64;
then a node each: bytes of its links of higher levels uint32, and these
"""

import math
import mmap
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError
from mcr_infer.files import sha256_of
from mcr_infer.index.manifest import Snapshot

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
        raise IndexCorruptError(f"{name} has levels or links that no graph of ours has")
