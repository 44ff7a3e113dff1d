"""What is to be imported: vectors with their ids, read block by block from Parquet or npy, of our own export or of others.

a file -> candidates, each with the name of its place in the file -> checks -> rows
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.transfer.description import Description

FOREIGN_FIELDS = ("path", "study_uid", "series_uid")
"""Columns that are taken from files of others where they are there; nothing else, since it may name a patient."""

BLOCK = 1_000
"""Candidates that are read together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where in a file of others what is."""

    id: str = "id"
    vector: str = "vector"
    metadata: tuple[str, ...] = ()
    """Columns that become facts of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One vector of a file, as it stands there."""

    name: str
    """Its place in the file, counted from 1."""

    id: str | None
    vector: NDArray[np.floating[Any]] | None
    """Of any length [L]; None where there is none."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other plain fields of the row, see `mcr_infer.transfer.fields`."""

    metadata: Mapping[str, Any] = field(default_factory=dict)


class VectorSource(Protocol):
    """A file or folder of vectors."""

    description: Description | None
    """What an export of ours says of itself; None of others."""

    dim: int | None
    """Dimensions of its vectors, where all have the same."""

    count: int

    def candidates(self) -> Iterator[Candidate]:
        """Read them in their order. Raises `EmbeddingIndexError` where the file cannot be read on."""
        ...


def open_source(path: Path, columns: Columns) -> VectorSource:
    """Open what is to be imported. Raises `EmbeddingIndexError` where it is neither Parquet nor npy."""
    from mcr_infer.transfer.npy_source import NpySource
    from mcr_infer.transfer.parquet_source import ParquetSource

    if path.is_dir():
        return NpySource(path, columns)
    if not path.exists():
        raise EmbeddingIndexError(f"{path} is not there: name a .parquet file, or a folder with a .npy file")
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return ParquetSource(path, columns)
    raise EmbeddingIndexError(
        f"{path} is no Parquet file: name one, or a folder with a .npy file and the ids beside it"
    )
