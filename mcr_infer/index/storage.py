"""The disk below an index: what a full or read-only one means, and the lock of the one process that writes.

SQLite, the graphs, the columns and the manifest report errors of the disk in the same words. The lock is an flock(2) on a
file that stays: the kernel releases it when its owner ends, however it ends, so that no stale lock is left behind. Readers
take no lock.
"""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcr_infer.errors import EmbeddingIndexError, IndexLockedError

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


FILE_NAME = "writer.lock"

_NETWORK_TYPES = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "fuse.glusterfs",
    "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse",
})  # fmt: skip


class WriterLock:
    """The right to write to one index folder, from creation to `release`.

    Raises `IndexLockedError` naming the process that holds it.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE_NAME
        with storage_errors(folder):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            owner = {"pid": os.getpid(), "host": os.uname().nodename, "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
            with storage_errors(folder):
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)
        except BlockingIOError:
            owner_text = _owner(os.pread(self._descriptor, 1000, 0))
            os.close(self._descriptor)
            raise IndexLockedError(
                f"index {folder} is being written by {owner_text}; wait until that ends, or write to another --index. "
                "Searching is possible meanwhile"
            ) from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Let the next writer in."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _owner(content: bytes) -> str:
    try:
        owner = json.loads(content)
        return f"process {int(owner['pid'])} on {owner['host']} since {owner['since']}"
    except (ValueError, TypeError, KeyError):
        return "another process"


def refuse_network_filesystem(folder: Path, *, mounts: Path = Path("/proc/self/mounts")) -> None:
    """Raise `EmbeddingIndexError` where a folder lies on a network file system.

    SQLite's WAL needs memory shared by all its processes and locks that hold (https://sqlite.org/wal.html, "Disadvantages"):
    neither is sure across machines. Where the system does not list its mounts, nothing is refused.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    place, kind = folder.resolve(), ""
    longest = -1
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        mount = Path(_unescaped(fields[1]))
        # A later mount on the same point hides the earlier one.
        if place.is_relative_to(mount) and len(mount.parts) >= longest:
            longest, kind = len(mount.parts), fields[2]
    if kind in _NETWORK_TYPES:
        raise EmbeddingIndexError(
            f"index {folder} lies on a network file system ({kind}), where SQLite cannot promise that nothing is lost: "
            "choose a folder on a local disk with --index"
        )


def _unescaped(field: str) -> str:
    """Return a mount point as it is: the kernel writes space, tab, newline and backslash in octal."""
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, character)
    return field
