"""Files: written so that a crash leaves them old or new, recognized by their stamps, hashed, and remembered in a cache.

content -> temporary file beside the target -> bytes to disk -> rename -> the folder to disk
path -> FileStamp -> the same as last time?
path -> SHA-256, from the cache where the file cannot have changed
"""

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PARTIAL = ".*.part"
"""What a crash may leave of `atomic_write` in a folder."""


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


def atomic_write(path: Path, *content: bytes | memoryview, private: bool = False) -> None:
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


_SPAN = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """A candidate as it was seen. One that looks the same the next time is not opened again.

    Sizes and times are compared for equality only and are kept modulo 2^64, as signed 64 bits, which is what SQLite takes:
    a file time after 2262 has more nanoseconds, and a zip directory can claim any size.
    """

    path: str
    """As shown and stored: see `Source.path`."""

    size: int
    """Bytes of the file, or of the member of an archive once it is unpacked; 0 for an instance of a PACS."""

    mtime_ns: int
    """Modification time of the file, or of the archive, in ns; 0 for an instance of a PACS, which never changes."""

    ctime_ns: int | None = None
    """Time of the last change of the file's content, name, owner or mode, or of the archive's, in ns.

    A program can set the modification time and not this one. None where it is not known: for an instance of a PACS, and in
    what an index of format version 2 kept.
    """

    def __post_init__(self) -> None:
        for name in ("size", "mtime_ns", "ctime_ns"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _folded(value))

    @classmethod
    def of(cls, path: str) -> "FileStamp":
        """Look at a file now. Raises `OSError`, or `ValueError` for what no file system takes."""
        seen = Path(path).stat()
        return cls(path=path, size=seen.st_size, mtime_ns=seen.st_mtime_ns, ctime_ns=seen.st_ctime_ns)

    def matches(self, former: "FileStamp") -> bool:
        """True where a candidate that looked like `former` looks unchanged now; a ctime that is not known is no reason."""
        if (self.path, self.size, self.mtime_ns) != (former.path, former.size, former.mtime_ns):
            return False
        return None in (self.ctime_ns, former.ctime_ns) or self.ctime_ns == former.ctime_ns


def _folded(value: int) -> int:
    return (value + _SPAN // 2) % _SPAN - _SPAN // 2


_RECORD_LIMIT = 10_000
"""Bytes of a record."""


def cache_folder(name: str) -> Path | None:
    """Return the folder of one kind of records, of this user alone; None where the user has no home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # which is then to be ignored. Source: XDG Base Directory Specification.
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "mcr-infer" / name


def read_cache_record(record: Path) -> dict[str, object] | None:
    """Read a record; None where there is none, it is damaged, or others may write to it.

    A record is believed only where nobody else can have written it, and whoever reads one checks its content.
    """
    try:
        with record.open("rb") as file:
            seen = os.fstat(file.fileno())
            content = file.read(_RECORD_LIMIT)
        values = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    if seen.st_uid != os.geteuid() or seen.st_mode & 0o022 or not isinstance(values, dict):
        return None
    return values


def write_cache_record(record: Path, values: Mapping[str, object]) -> None:
    """Write a record that its owner alone may read (0600), at once or not at all. Raises `OSError`."""
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic_write(record, (json.dumps(values) + "\n").encode(), private=True)


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
    """Return the SHA-256 of a file in hex, from this user's cache where it has not changed since it was hashed.

    Hashing the weights of a large tower takes longer than a query through it, and hashing the vectors of an index longer
    than searching them. The cache keeps what a file hashed to beside what the file system says of it: device, inode, size,
    mtime and ctime. Any write, rename, copy or `touch` changes one of them (ctime cannot be set), and then the file is
    hashed again.

    What is given up: a bit that the disk itself loses without a write, and a change by somebody who writes to the raw
    device, are noticed after at most `TRUSTED_SECONDS`, or at once by `mcr-infer verify` and by whoever writes to an index,
    which use no cache. Files below `REMEMBERED_BYTES` are always hashed; so are all where the cache cannot be written.
    Raises `OSError`.
    """
    before = _stamp(path)
    if before[2] < REMEMBERED_BYTES:
        return sha256_of(path)
    record = _record_of(path)
    known = None if record is None else _recorded_digest(record, before)
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
            write_cache_record(record, content)
    return digest


def _record_of(path: Path) -> Path | None:
    folder = cache_folder("digests")
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.json"


def _recorded_digest(record: Path, stamp: Stamp) -> str | None:
    """Read what a file of this stamp hashed to; None where nothing is known, or nothing that may be trusted."""
    values = read_cache_record(record)
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
