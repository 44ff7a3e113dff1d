"""The file of a graph: what hnswlib would follow into a crash is refused before it sees it."""

import hashlib
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import IndexCorruptError
from mcr_infer.index.graph import Graph, verified_nodes
from mcr_infer.index.manifest import Snapshot

DIM, COUNT, M = 8, 400, 8
HEADER = struct.Struct("<6QiI3QdQ")
STRIDE = 8 * M + 4 + 4 * DIM + 8
LEVELS = HEADER.size + COUNT * STRIDE


def units(count: int, *, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Snapshot]:
    """A graph of 400 vectors with several levels and 40 deleted nodes."""
    folder = tmp_path_factory.mktemp("graph")
    graph = Graph(dim=DIM, capacity=COUNT, m=M)
    graph.add(np.arange(10, 10 + COUNT), units(COUNT, seed=1))
    graph.remove(np.arange(10, 50))
    snapshot = graph.saved_as(folder, "image")
    return (folder / snapshot.file_name("image")).read_bytes(), snapshot


def sizes_of(content: bytes) -> list[tuple[int, int]]:
    """Return for each node where the size of its higher links stands, and how many levels it reaches."""
    found, at = [], LEVELS
    for _ in range(COUNT):
        (size,) = struct.unpack_from("<I", content, at)
        found.append((at, size // (4 * M + 4)))
        at += 4 + size
    assert at == len(content)
    return found


def loaded(folder: Path, content: bytes, snapshot: Snapshot) -> Graph:
    """Load a file whose digest matches."""
    known = replace(snapshot, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    (folder / known.file_name("image")).write_bytes(content)
    return Graph.load(folder, "image", known, dim=DIM)


def test_a_whole_graph_is_read_and_loaded(tmp_path: Path, whole: tuple[bytes, Snapshot]):
    content, snapshot = whole
    graph = loaded(tmp_path, content, snapshot)
    assert np.array_equal(graph.labels, np.arange(10, 10 + COUNT))
    nodes = verified_nodes(tmp_path, "image", snapshot, dim=DIM)
    assert np.array_equal(np.sort(nodes.labels), graph.labels)
    assert nodes.deleted.sum() == 40
    assert np.array_equal(nodes.vectors[np.argsort(nodes.labels)], units(COUNT, seed=1))
    assert max(levels for _, levels in sizes_of(content)) >= 2


def test_the_capacity_in_a_file_is_not_believed(tmp_path: Path, whole: tuple[bytes, Snapshot]):
    content = bytearray(whole[0])
    struct.pack_into("<Q", content, 8, 2**60)
    graph = loaded(tmp_path, bytes(content), whole[1])
    graph.add(np.array([5000]), units(1, seed=2))
    answer = graph.query(units(1, seed=2), k=1, ef=50)
    assert answer is not None
    assert answer[0].tolist() == [[5000]]


def higher(content: bytearray) -> int:
    """Return where the size of the first node with higher links stands."""
    return next(at for at, levels in sizes_of(content) if levels)


def to_a_node_below(content: bytearray) -> None:
    below = next(node for node, (_, levels) in enumerate(sizes_of(content)) if not levels)
    struct.pack_into("<I", content, higher(content) + 8, below)


def entry_that_is_too_low(content: bytearray) -> None:
    below = next(node for node, (_, levels) in enumerate(sizes_of(content)) if not levels)
    struct.pack_into("<I", content, 52, below)


def at(place: int, form: str, value: float) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(form, content, place, value)


def at_higher(offset: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into(form, content, higher(content) + offset, value)


def without_the_end(content: bytearray) -> None:
    del content[-1:]


def with_more_at_the_end(content: bytearray) -> None:
    content += bytes(4)


@pytest.mark.parametrize(
    ("craft", "words"),
    [
        (at(16, "<Q", COUNT + 1), "is not a graph of 400 vectors of 8 dimensions"),
        (at(52, "<I", COUNT), "is not a graph of 400 vectors"),
        (at(56, "<Q", 2**20), "is not a graph of 400 vectors"),
        (at(88, "<Q", 2**62), "is not a graph of 400 vectors"),
        (at(80, "<d", float("nan")), "has levels or links that mcr-infer never writes"),
        (at(80, "<d", 1e300), "has levels or links that mcr-infer never writes"),
        (at(48, "<i", 1000), "begins its searches at a level that it does not have"),
        (at(48, "<i", -1), "begins its searches at a level that it does not have"),
        (entry_that_is_too_low, "begins its searches at a level that it does not have"),
        (at(HEADER.size, "<H", 2 * M + 1), "has links to nodes that it does not hold"),
        (at(HEADER.size + 4, "<I", COUNT), "has links to nodes that it does not hold"),
        (at(HEADER.size + STRIDE - 8, "<q", -1), "has two nodes of one label"),
        (at(HEADER.size + STRIDE - 8, "<q", 11), "has two nodes of one label"),
        (at_higher(0, "<I", 4 * M + 3), "does not end where its nodes do"),
        (at_higher(0, "<I", 2**31), "does not end where its nodes do"),
        (at_higher(0, "<I", 0), "does not end where its nodes do"),
        (at_higher(4, "<H", M + 1), "has links to nodes that it does not hold"),
        (at_higher(8, "<I", 2**32 - 1), "has links to nodes that it does not hold"),
        (to_a_node_below, "has links to a level that a node does not reach"),
        (without_the_end, "does not end where its nodes do"),
        (with_more_at_the_end, "does not end where its nodes do"),
    ],
)
def test_a_crafted_graph_is_refused(
    tmp_path: Path, whole: tuple[bytes, Snapshot], craft: Callable[[bytearray], None], words: str
):
    content = bytearray(whole[0])
    craft(content)
    with pytest.raises(IndexCorruptError, match=words):
        loaded(tmp_path, bytes(content), whole[1])
