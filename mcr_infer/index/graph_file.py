"""The file of a graph as hnswlib 0.8 writes it: checked before hnswlib sees it, and read without hnswlib to be compared.

header; then a node each: links of the lowest level uint32 [1 + 2M], vector float32 [D], label uint64;
then a node each: bytes of its links of higher levels uint32, and these
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.digests import sha256_of
from mcr_infer.errors import IndexCorruptError
from mcr_infer.index.manifest import Snapshot

_HEADER = struct.Struct("<6QiI3QdQ")
"""What comes first: offset of level 0, capacity, elements, bytes of an element, offsets of label and vector, highest level,
entry point, the three link counts, level factor, ef_construction."""

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


def verified_graph(folder: Path, kind: str, snapshot: Snapshot, *, dim: int) -> Path:
    """Return the file of a graph once size, digest and header match. Raises `IndexCorruptError` saying what does not."""
    path = folder / snapshot.file_name(kind)
    try:
        size = path.stat().st_size
        if size != snapshot.bytes:
            raise IndexCorruptError(f"{path.name} has {size} bytes, expected {snapshot.bytes}")
        if sha256_of(path) != snapshot.sha256:
            raise IndexCorruptError(f"{path.name} does not match its digest")
        with path.open("rb") as file:
            _check_header(path.name, file.read(_HEADER.size), snapshot, dim)
    except OSError as exc:
        raise IndexCorruptError(f"{path.name} cannot be read: {exc.strerror}") from exc
    return path


def read_nodes(path: Path, snapshot: Snapshot, *, dim: int) -> GraphNodes:
    """Map the nodes of a graph file that `verified_graph` gave, and follow its links.

    Raises `IndexCorruptError` where a link leads out of the graph or the file does not end where it should: hnswlib would
    follow it and crash.
    """
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
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
        there = np.arange(links) < part["count"][:, None]
        if (part["count"] > links).any() or (part["links"][there] >= count).any():
            raise IndexCorruptError(f"{path.name} has links to nodes that it does not hold")
    _check_higher_links(path.name, content, end, count, snapshot.m)
    return GraphNodes(nodes["label"], nodes["vector"], (nodes["mark"] & _DELETED).astype(np.bool_))


def _check_higher_links(name: str, content: mmap.mmap, at: int, count: int, m: int) -> None:
    """Walk over the links of the higher levels, from `at` to the end of the file."""
    level = 4 + 4 * m
    for _ in range(count):
        if at + 4 > len(content):
            break
        (size,) = struct.unpack_from("<I", content, at)
        at += 4
        for start in range(at, at + size, level):
            if start + level > len(content):
                break
            linked, *nodes = struct.unpack_from(f"<I{m}I", content, start)
            if linked & 0xFFFF > m or any(node >= count for node in nodes[: linked & 0xFFFF]):
                raise IndexCorruptError(f"{name} has links to nodes that it does not hold")
        if size % level:
            break
        at += size
    else:
        if at == len(content):
            return
    raise IndexCorruptError(f"{name} does not end where its nodes do")


def _check_header(name: str, content: bytes, snapshot: Snapshot, dim: int) -> None:
    """Compare the header with what a graph of this dimension must have. Raises `IndexCorruptError`."""
    if len(content) < _HEADER.size:
        raise IndexCorruptError(f"{name} is too short for a graph")
    level0, capacity, elements, stride, label_at, vector_at, _, entry, _, links0, links, _, _ = _HEADER.unpack(content)
    at = links0 * 4 + 4
    found = (level0, elements, links, links0, vector_at, label_at, stride)
    expected = (0, snapshot.elements, snapshot.m, 2 * snapshot.m, at, at + 4 * dim, at + 4 * dim + 8)
    if found != expected or capacity < elements or entry >= elements:
        raise IndexCorruptError(f"{name} is not a graph of {snapshot.elements} vectors of {dim} dimensions")
