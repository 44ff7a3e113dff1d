"""What runs and searches need of an index, so that rows can go to another place and be read from another one.

embedding runs -> IndexWriter       `Index` today
search, queries, re-ranking, missing files -> IndexReader       `Index` today
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.files import FileStamp
from mcr_infer.index.columns import MetadataColumns
from mcr_infer.index.filters import Filter
from mcr_infer.index.graph import Graph
from mcr_infer.index.manifest import KindState
from mcr_infer.index.rows import Row


class IndexWriter(Protocol):
    """Takes the rows of a run, and knows those that it took before."""

    def check_secret(self, secret_check: str, *, pseudonymous: bool) -> None:
        """Raise `IndexMismatchError` unless rows are named under this secret, and in this way."""

    def get(self, kind: str, id: str) -> Row | None:
        """Return a row, or None where there is none."""

    def files(self, kind: str, id: str) -> Sequence[FileStamp]:
        """Return the files that gave a row, or hold the same, as they were seen."""

    def seen_file(self, kind: str, path: str) -> tuple[FileStamp, str] | None:
        """Return how a file looked when it was last seen, and the id of the row that it then gave."""

    def add(
        self,
        rows: Sequence[Row],
        *,
        files: Sequence[tuple[FileStamp, str]] = (),
        file_kind: str = "image",
        locals: Mapping[tuple[str, str], bytes] | None = None,
        former_ids: Collection[str] = (),
        learned: Sequence[FileStamp] = (),
    ) -> None:
        """Add rows and what is known of their files, all of it or nothing; what was added survives a crash."""


class IndexReader(Protocol):
    """Gives rows, their vectors and columns, all of one moment inside `snapshot`."""

    folder: Path
    exact_limit: int

    @property
    def bundle(self) -> str:
        """Name of the bundle that made the vectors."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedding space, hex."""

    @property
    def embedding_dim(self) -> int:
        """Dimensions of every vector, D."""

    @property
    def finds_files(self) -> bool:
        """True where files of relative paths are found, whatever the working folder."""

    def check_bundle(self, fingerprint: str) -> None:
        """Raise `IndexMismatchError` unless a bundle of this fingerprint made the vectors."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Let all that is read inside the block come from one moment."""

    def count(self, kind: str) -> int:
        """Return the number of rows of a kind."""

    def state(self, kind: str) -> KindState:
        """Return how the graph of a kind was tuned."""

    def get(self, kind: str, id: str) -> Row | None:
        """Return a row, or None where there is none."""

    def vector(self, kind: str, id: str) -> Embeddings:
        """Return the vector [D] of a row. Raises `QueryError` where there is no such row."""

    def files(self, kind: str, id: str) -> Sequence[FileStamp]:
        """Return the files that gave a row, or hold the same, as they were seen."""

    def rows(self, labels: Iterable[int]) -> Mapping[int, Row]:
        """Return rows by label."""

    def locals(self, kind: str, labels: Iterable[int]) -> Mapping[int, bytes]:
        """Return the packed token embeddings of rows by label, of those of which they are kept."""

    def labels(self, kind: str) -> NDArray[np.int64]:
        """Return the labels of all rows of a kind, ascending [N]."""

    def scan(self, kind: str, labels: NDArray[np.int64]) -> Iterator[tuple[int, Row]]:
        """Read rows of ascending labels [N] in their order."""

    def select(self, kind: str, where: Filter) -> NDArray[np.int64]:
        """Return the labels of the rows that match a filter, ascending [N]."""

    def facts(self, kind: str) -> MetadataColumns:
        """Return the columns of a kind, to filter and to group by."""

    def vectors(self, kind: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the labels [N] and vectors [N, D] of a kind."""

    def has_graph(self, kind: str) -> bool:
        """True where searches go through a graph."""

    def graph(self, kind: str) -> Graph:
        """Return the graph of a kind."""
