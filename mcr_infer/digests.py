"""SHA-256 of files, and a memory of it for one case: a large file that is opened again and again for a single call.

Hashing the weights of a large tower takes longer than a query through it, and hashing the vectors of an index longer than
searching them. So that a query need not do it each time, this user's cache folder remembers what a file hashed to, beside
what the file system says of it: device, inode, size, mtime and ctime. Any write, rename, copy or `touch` changes one of
them (ctime cannot be set), and then the file is hashed again.

What is given up: a bit that the disk itself loses without a write, and a change by somebody who writes to the raw device,
are seen after at most `TRUSTED_SECONDS`, or at once by `mcr-infer verify` and by whoever writes to an index, which remember
nothing. Files below `REMEMBERED_BYTES` are always hashed. Where the cache folder cannot be written, everything is.
"""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from mcr_infer.memory import memory_folder, recall, remember

REMEMBERED_BYTES = 8 * 2**20
"""Smaller files are hashed in a few milliseconds."""

TRUSTED_SECONDS = 7 * 24 * 3600
"""After this a file is hashed again, changed or not."""

_SETTLED_NS = 2_000_000_000
"""A file that was changed less than this before it was hashed may change again within the same tick of its clock."""

_FORMAT_VERSION = 1
_DIGEST = re.compile(r"[0-9a-f]{64}")

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex, every byte read. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_against(path: Path, expected: str) -> str:
    """Return the SHA-256 of a file: from memory where that is the expected one, else every byte read. Raises `OSError`."""
    # What is refused was looked at.
    return expected if remembered_sha256(path) == expected else sha256_of(path)


def remembered_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex, from memory where it has not changed since it was hashed. Raises `OSError`."""
    before = _stamp(path)
    if before[2] < REMEMBERED_BYTES:
        return sha256_of(path)
    record = _record_of(path)
    known = None if record is None else _recall(record, before)
    if known is not None:
        return known
    started = time.time_ns()
    digest = sha256_of(path)
    settled = started - max(before[3:]) >= _SETTLED_NS
    if record is not None and settled and _stamp(path) == before:
        content = {
            "format_version": _FORMAT_VERSION,
            "path": os.fsencode(path.resolve()).decode("utf-8", "replace"),
            "stamp": before,
            "sha256": digest,
            "hashed_at": started // 1_000_000_000,
        }
        # Without the memory the file is hashed again, which is slower and not less safe.
        with contextlib.suppress(OSError):
            remember(record, content)
    return digest


def _record_of(path: Path) -> Path | None:
    folder = memory_folder("digests")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.json"


def _recall(record: Path, stamp: Stamp) -> str | None:
    """Read what a file of this stamp hashed to; None where nothing is known, or nothing that may be trusted."""
    values = recall(record)
    if values is None:
        return None
    digest, at = values.get("sha256"), values.get("hashed_at")
    if values.get("format_version") != _FORMAT_VERSION or values.get("stamp") != list(stamp):
        return None
    if not isinstance(at, int) or not 0 <= time.time() - at <= TRUSTED_SECONDS:
        return None
    return digest if isinstance(digest, str) and _DIGEST.fullmatch(digest) else None


def _stamp(path: Path) -> Stamp:
    # Opening asks a network file system for what is true now.
    with path.open("rb") as file:
        seen = os.fstat(file.fileno())
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
