"""Files of columns beside the store: how one is published, and how one is mapped once its digest was compared.

A file of such a name is never written to again: it is replaced by one of another name or removed, and a mapping stays what
it is.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError
from mcr_infer.files import replace_file, sha256_against, sha256_of
from mcr_infer.index.manifest import ColumnFile
from mcr_infer.index.storage import storage_errors


def publish_columns(
    folder: Path, what: str, kind: str, header: bytes, arrays: list[NDArray[Any]], *, rows: int, generation: int
) -> ColumnFile:
    """Write a header and arrays to a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    content = [memoryview(header), *(array.data.cast("B") for array in arrays if array.size)]
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    saved = ColumnFile(sha256=digest.hexdigest(), rows=rows, generation=generation)
    with storage_errors(folder):
        replace_file(folder / saved.file_name(what, kind), *content, private=True)
    return saved


def map_columns(
    folder: Path, what: str, kind: str, known: ColumnFile, *, size: int | None, remembered: bool
) -> mmap.mmap:
    """Map the file that the manifest names; `size` in bytes where it is known.

    `remembered` takes the digest of a large file that has not changed since this user hashed it from memory, see
    `mcr_infer.files`. Raises `IndexCorruptError` saying what does not match.
    """
    path = folder / known.file_name(what, kind)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if not found or size not in (None, found):
                raise IndexCorruptError(f"{path.name} has {found} bytes" + (f", expected {size}" if size else ""))
            content = mmap.mmap(file.fileno(), found, access=mmap.ACCESS_READ)
        digest = sha256_against(path, known.sha256) if remembered else sha256_of(path)
    except OSError as exc:
        raise IndexCorruptError(f"{path.name} cannot be read: {exc.strerror}") from exc
    if digest != known.sha256:
        raise IndexCorruptError(f"{path.name} does not match its digest")
    return content
