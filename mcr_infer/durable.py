"""Files that a crash leaves either old or new, never half; private to their owner where asked.

The one implementation for indexes, engines, records of digests, and for runs of training.

    temporary file beside the target -> bytes to disk -> rename -> the folder to disk
"""

import os
from pathlib import Path

PARTIAL = ".*.part"
"""What a crash may leave of `replace_file` in a folder."""


def create_private(path: Path) -> int:
    """Create a file that nobody else may read (0600) and return its descriptor; an older one of that name is removed."""
    return _create(path, 0o600)


def sync_folder(folder: Path) -> None:
    """Make renames and removals inside a folder durable. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(temporary: Path, target: Path) -> None:
    """Bring a finished temporary file to disk and give it its name, at once and durably. Raises `OSError`."""
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(target)
    sync_folder(target.parent)


def replace_file(path: Path, *content: bytes | memoryview, private: bool = False) -> None:
    """Replace a file by new content, one part after the other: readers and crashes see the old one or the new one.

    Raises `OSError`.

    `private` lets nobody but the owner read it (0600). Processes that write the same file do not disturb each other: the
    last one wins.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(_create(temporary, 0o600 if private else 0o666), "wb") as file:
            for part in content:
                file.write(part)
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _create(path: Path, mode: int) -> int:
    path.unlink(missing_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
