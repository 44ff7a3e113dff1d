"""The vectors of a kind in one file beside the store: a cold query reads it in one go.

    labels int64 [N], then vectors float32 [N, D], both little-endian

Reading them from the store costs a row, a digest and a blob each (0.1 s for 10,000). The file is a snapshot like that of a
graph: it is loaded only after its digest matches the manifest, rows that it lacks are read from the store, and it can
always be made again.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index.column_file import map_columns, publish_columns
from mcr_infer.index.manifest import ColumnFile

SAVED_FROM = 1_000
"""Rows of a kind from which files beside the store are worth their place."""


class Vectors(NamedTuple):
    """The vectors of all rows of a kind at one generation of the store."""

    generation: int
    labels: NDArray[np.int64]
    """Ascending [N]."""

    values: NDArray[np.float32]
    """[N, D]"""


def load_vectors(folder: Path, kind: str, known: ColumnFile, *, dim: int, remembered: bool = True) -> Vectors:
    """Map the vectors that the manifest names. Raises `IndexCorruptError` saying what does not match.

    `remembered` believes the remembered digest of a large file, see `mcr_infer.files`.
    """
    size = known.rows * (8 + 4 * dim)
    content = map_columns(folder, "vectors", kind, known, size=size, remembered=remembered)
    labels = np.frombuffer(content, dtype="<i8", count=known.rows)
    values = np.frombuffer(content, dtype="<f4", offset=labels.nbytes).reshape(known.rows, dim)
    return Vectors(known.generation, labels, values)


def save_vectors(folder: Path, kind: str, vectors: Vectors) -> ColumnFile:
    """Publish vectors as a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    arrays = [vectors.labels.astype("<i8", copy=False), np.ascontiguousarray(vectors.values, dtype="<f4")]
    return publish_columns(
        folder, "vectors", kind, b"", arrays, rows=len(vectors.labels), generation=vectors.generation
    )
