"""What a full disk and a folder that cannot be written mean for an index, in one set of words.

SQLite, the graph, the vectors and the manifest say the same.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcr_infer.errors import EmbeddingIndexError

DISK_FULL = "the disk is full; what was acknowledged before is safe: free some space and run the same command again"
NOT_WRITABLE = (
    "it cannot be written: make the folder writable for this user, or copy it to a place that is; searching needs read "
    "access only"
)


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `EmbeddingIndexError` that says what to do about it."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = DISK_FULL
        elif exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = NOT_WRITABLE
        else:
            advice = f"{exc.strerror or exc} ({Path(str(exc.filename)).name if exc.filename else 'no file named'})"
        raise EmbeddingIndexError(f"index {folder}: {advice}") from exc
