"""The searches that `benchmarks.recall` compares, each behind the same few methods; vectors of length 1, inner product.

    blocks -> build -> save -> load -> search: queries [Q, D] -> rows [Q, k]

Row i is the i-th vector that was given. faiss and usearch are loaded only when they are asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a graph is built: links of a node (twice as many in the lowest level), and breadth while building."""

    m: int
    ef_construction: int

    def __str__(self) -> str:
        return f"m{self.m}-{self.ef_construction}"


class Engine(Protocol):
    """One search. `build` or `load` comes first."""

    def build(self, blocks: Iterable[Vectors], *, count: int, dim: int, setting: Setting, threads: int) -> None:
        """Take `count` vectors."""

    def save(self, path: Path) -> None:
        """Write everything to a file."""

    def load(self, path: Path, *, dim: int) -> None:
        """Read what `save` wrote."""

    def search(self, queries: Vectors, *, k: int, ef: int, threads: int) -> Rows:
        """Return the rows [Q, k] of the nearest vectors, best first; `ef` is the breadth of a graph."""


class Exact:
    """All vectors in one array, by numpy. Its threads are those of BLAS, which the environment sets."""

    def __init__(self) -> None:
        self.vectors: Vectors = np.empty((0, 0), dtype=np.float32)

    def build(self, blocks: Iterable[Vectors], *, count: int, dim: int, setting: Setting, threads: int) -> None:
        """Take `count` vectors."""
        self.vectors = np.concatenate(list(blocks))

    def save(self, path: Path) -> None:
        """Write the array."""
        with path.open("wb") as file:
            np.save(file, self.vectors)

    def load(self, path: Path, *, dim: int) -> None:
        """Read the array."""
        self.vectors = np.load(path)

    def search(self, queries: Vectors, *, k: int, ef: int, threads: int) -> Rows:
        """Score every vector."""
        scores = queries @ self.vectors.T
        rows = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, rows, axis=1), axis=1)
        return np.take_along_axis(rows, order, axis=1)


class Hnswlib:
    """hnswlib, as the index uses it."""

    def __init__(self) -> None:
        self.graph: Any = None

    def build(self, blocks: Iterable[Vectors], *, count: int, dim: int, setting: Setting, threads: int) -> None:
        """Take `count` vectors."""
        self.graph = _hnswlib(dim)
        self.graph.init_index(count, M=setting.m, ef_construction=setting.ef_construction)
        self.graph.set_num_threads(threads)
        for block in blocks:
            self.graph.add_items(block)

    def save(self, path: Path) -> None:
        """Write the graph with its vectors."""
        self.graph.save_index(str(path))

    def load(self, path: Path, *, dim: int) -> None:
        """Read the graph."""
        self.graph = _hnswlib(dim)
        self.graph.load_index(str(path))

    def search(self, queries: Vectors, *, k: int, ef: int, threads: int) -> Rows:
        """Walk the graph."""
        self.graph.set_num_threads(threads)
        self.graph.set_ef(ef)
        return np.asarray(self.graph.knn_query(queries, k=k)[0]).astype(np.int64)


class Faiss:
    """faiss' HNSW over float32, or over float16 (`SQfp16`)."""

    def __init__(self, *, half: bool) -> None:
        self._half = half
        self._index: Any = None

    def build(self, blocks: Iterable[Vectors], *, count: int, dim: int, setting: Setting, threads: int) -> None:
        """Take `count` vectors."""
        import faiss

        faiss.omp_set_num_threads(threads)
        if self._half:
            kind = faiss.ScalarQuantizer.QT_fp16
            self._index = faiss.IndexHNSWSQ(dim, kind, setting.m, faiss.METRIC_INNER_PRODUCT)
        else:
            self._index = faiss.IndexHNSWFlat(dim, setting.m, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = setting.ef_construction
        for block in blocks:
            if not self._index.is_trained:
                self._index.train(block)
            self._index.add(block)

    def save(self, path: Path) -> None:
        """Write the graph with its vectors."""
        import faiss

        faiss.write_index(self._index, str(path))

    def load(self, path: Path, *, dim: int) -> None:
        """Read the graph."""
        import faiss

        self._index = faiss.read_index(str(path))

    def search(self, queries: Vectors, *, k: int, ef: int, threads: int) -> Rows:
        """Walk the graph."""
        import faiss

        faiss.omp_set_num_threads(threads)
        self._index.hnsw.efSearch = ef
        return np.asarray(self._index.search(queries, k)[1])


class Usearch:
    """usearch over float32 (`f32`) or float16 (`f16`)."""

    def __init__(self, *, dtype: str) -> None:
        self._dtype = dtype
        self._index: Any = None

    def build(self, blocks: Iterable[Vectors], *, count: int, dim: int, setting: Setting, threads: int) -> None:
        """Take `count` vectors."""
        from usearch.index import Index

        self._index = Index(
            ndim=dim,
            metric="ip",
            dtype=self._dtype,
            connectivity=setting.m,
            expansion_add=setting.ef_construction,
        )
        start = 0
        for block in blocks:
            self._index.add(np.arange(start, start + len(block)), block, threads=threads)
            start += len(block)

    def save(self, path: Path) -> None:
        """Write the graph with its vectors."""
        self._index.save(str(path))

    def load(self, path: Path, *, dim: int) -> None:
        """Read the graph."""
        from usearch.index import Index

        self._index = Index.restore(str(path))

    def search(self, queries: Vectors, *, k: int, ef: int, threads: int) -> Rows:
        """Walk the graph."""
        self._index.expansion_search = ef
        return np.asarray(self._index.search(queries, k, threads=threads).keys).astype(np.int64)


ENGINES = ("exact", "hnswlib", "faiss", "faiss SQfp16", "usearch f32", "usearch f16")


def engine(name: str) -> Engine:
    """Return an empty engine by its name in `ENGINES`."""
    makers = {
        "exact": Exact,
        "hnswlib": Hnswlib,
        "faiss": lambda: Faiss(half=False),
        "faiss SQfp16": lambda: Faiss(half=True),
        "usearch f32": lambda: Usearch(dtype="f32"),
        "usearch f16": lambda: Usearch(dtype="f16"),
    }
    made: Engine = makers[name]()
    return made


def _hnswlib(dim: int) -> Any:
    import hnswlib

    return hnswlib.Index(space="ip", dim=dim)
