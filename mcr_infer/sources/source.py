"""One candidate for embedding: what it is called, whether it has changed, and how it is opened."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, ClassVar, Literal

from mcr_infer.errors import ImageError
from mcr_infer.files import FileStamp
from mcr_infer.images.opening import open_image

Json = str | int | bool | None
"""What a value of `to_dict` is. Names that are not UTF-8 carry surrogates, which JSON keeps as long as it is ASCII."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(ABC):
    """One candidate: something that was named, or that was found and may be an image."""

    opened_by: ClassVar[Literal["worker", "parent"]]
    """`worker`: it can be sent to another process by `LocalSource.to_dict` and be opened there. `parent`: it must be opened
    where it was found, in any thread."""

    path: str
    """What is shown, stored and printed: as given on the command line, with the way inside joined to it."""

    @property
    def held_bytes(self) -> int:
        """Bytes of it that are in memory already."""
        return 0

    @abstractmethod
    def stamp(self) -> FileStamp | None:
        """Return how it looks now, without opening it; None where only opening it can tell."""

    @abstractmethod
    def open(self) -> BinaryIO:
        """Open it as a seekable stream of bytes at its beginning; the caller closes it.

        Raises `ImageError` with the reason why it cannot be opened. May be called more than once.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSource(Source):
    """A candidate on a disk, which any process of this machine can open by itself."""

    opened_by: ClassVar[Literal["worker", "parent"]] = "worker"
    kind: ClassVar[str]
    """The word by which `source_from_dict` knows the class."""

    @abstractmethod
    def to_dict(self) -> Mapping[str, Json]:
        """Return all that `source_from_dict` needs to make it again elsewhere, as plain JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainFile(LocalSource):
    """A file of its own."""

    kind: ClassVar[str] = "file"

    def stamp(self) -> FileStamp | None:
        """Look at the file now; None where it cannot be looked at, which opening it will explain."""
        try:
            return FileStamp.of(self.path)
        except (OSError, ValueError):
            return None

    def open(self) -> BinaryIO:
        """Open the file; see `open_image`."""
        return open_image(self.path)

    def to_dict(self) -> Mapping[str, Json]:
        """Return the path."""
        return {"kind": self.kind, "path": self.path}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Source):
    """A member of an archive that can only be read from its beginning on: its bytes are already here."""

    opened_by: ClassVar[Literal["worker", "parent"]] = "parent"
    data: bytes
    mtime_ns: int
    """Modification time of the archive."""
    ctime_ns: int
    """Time of the last change of the archive."""

    @property
    def held_bytes(self) -> int:
        """Return the size of the data."""
        return len(self.data)

    def stamp(self) -> FileStamp | None:
        """Return size and time as they were when the archive was opened."""
        return FileStamp(path=self.path, size=len(self.data), mtime_ns=self.mtime_ns, ctime_ns=self.ctime_ns)

    def open(self) -> BinaryIO:
        """Return the bytes as a stream."""
        return BytesIO(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Source):
    """Something that was expected to hold candidates and turned out not to be readable: opening it says why."""

    opened_by: ClassVar[Literal["worker", "parent"]] = "parent"
    error: ImageError

    def stamp(self) -> FileStamp | None:
        """Return None: a failure is tried again by every run."""
        return None

    def open(self) -> BinaryIO:
        """Raise the error."""
        raise self.error
