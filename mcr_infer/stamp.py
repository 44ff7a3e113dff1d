"""How a candidate looked when it was seen: enough to know without opening it that it has not changed."""

from dataclasses import dataclass
from pathlib import Path

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
