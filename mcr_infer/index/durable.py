"""Files that only their owner may read and that a crash leaves either old or new, never half.

The words for a full disk and for a folder that cannot be written stand here too, so that SQLite, the graph and the
manifest say the same.
"""

import errno
import hashlib
import os
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


def create_private(path: Path) -> int:
    """Create a file that nobody else may read (0600) and return its descriptor; an older one of that name is removed."""
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, target: Path) -> None:
    """Bring a finished temporary file to disk and give it its name, at once and durably."""
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    sync_folder(target.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file by new content: readers and crashes see the old one or the new one. Raises `OSError`."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with os.fdopen(create_private(temporary), "wb") as file:
            file.write(content)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
