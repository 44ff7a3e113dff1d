"""The vectors of a kind that exact search serves, in one file beside the store: a cold query reads it in one go.

    labels int64 [N], then vectors float32 [N, D], both little-endian

Reading them from the store costs a row, a digest and a blob each (0.1 s for 10,000). The file is a snapshot like that of a
graph: it is loaded only after its digest matches the manifest, rows that it lacks are read from the store, and it can
always be made again.
"""

import hashlib
import mmap
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.digests import sha256_against, sha256_of
from mcr_infer.durable import replace_file
from mcr_infer.errors import IndexCorruptError
from mcr_infer.index.manifest import VectorFile
from mcr_infer.index.storage import storage_errors

SAVED_FROM = 1_000
"""Rows of a kind from which the file is worth its place."""

Vectors = tuple[int, NDArray[np.int64], NDArray[np.float32]]
"""Generation of the store, labels [N] ascending, vectors [N, D]."""


def load_vectors(folder: Path, kind: str, known: VectorFile, *, dim: int, remembered: bool = True) -> Vectors:
    """Map the vectors that the manifest names. Raises `IndexCorruptError` saying what does not match.

    `remembered` takes the digest of a large file that has not changed since this user hashed it from memory, see
    `mcr_infer.digests`.
    """
    path = folder / known.file_name(kind)
    expected = known.rows * (8 + 4 * dim)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected:
                raise IndexCorruptError(f"{path.name} has {size} bytes, expected {expected}")
            # A file of this name is never written to again: it is replaced or removed, and the mapping stays what it is.
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        digest = sha256_against(path, known.sha256) if remembered else sha256_of(path)
    except OSError as exc:
        raise IndexCorruptError(f"{path.name} cannot be read: {exc.strerror}") from exc
    if digest != known.sha256:
        raise IndexCorruptError(f"{path.name} does not match its digest")
    labels = np.frombuffer(content, dtype="<i8", count=known.rows)
    vectors = np.frombuffer(content, dtype="<f4", offset=labels.nbytes).reshape(known.rows, dim)
    return known.generation, labels, vectors


def save_vectors(folder: Path, kind: str, vectors: Vectors) -> VectorFile:
    """Publish vectors as a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    generation, labels, values = vectors
    content = labels.astype("<i8").tobytes() + values.astype("<f4").tobytes()
    saved = VectorFile(sha256=hashlib.sha256(content).hexdigest(), rows=len(labels), generation=generation)
    with storage_errors(folder):
        replace_file(folder / saved.file_name(kind), content, private=True)
    return saved
