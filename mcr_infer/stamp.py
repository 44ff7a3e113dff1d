"""How a candidate looked when it was seen: enough to know without opening it that it has not changed."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStamp:
    """A candidate as it was seen. One that looks the same the next time is not opened again."""

    path: str
    """As shown and stored: see `Source.path`."""

    size: int
    """Bytes of the file, or of the member of an archive once it is unpacked; 0 for an instance of a PACS."""

    mtime_ns: int
    """Modification time of the file, or of the archive, in ns; 0 for an instance of a PACS, which never changes."""

    @classmethod
    def of(cls, path: str) -> "FileStamp":
        """Look at a file now. Raises `OSError`, or `ValueError` for what no file system takes."""
        seen = Path(path).stat()
        return cls(path=path, size=seen.st_size, mtime_ns=seen.st_mtime_ns)
