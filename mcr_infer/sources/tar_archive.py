"""The members of a tar archive as candidates: opened in place in a plain archive, read in sequence in a compressed one.

`tarfile` finds the members. It trusts what it reads, so it is given a file that refuses what no honest header asks for, and
what it takes for the end of an archive is checked: it stops silently at the first damaged header. xz is unpacked in bounded
memory: its header may ask for 4 GiB, and the reader of the standard library obeys.
"""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import BinaryIO, ClassVar, cast

from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.files import FileStamp
from mcr_infer.images.opening import open_image, unreadable
from mcr_infer.sources.file_names import check_length, kind_of_no_member, name_too_long, way_inside
from mcr_infer.sources.source import Failed, Json, Loaded, LocalSource, Source

_LARGEST_HEADER = 1 << 20
"""Bytes that a header of a member may have; long names and pax records take some hundred."""

_MEMORY = 256 << 20
"""Bytes for unpacking; `xz -9` takes 65 MiB."""

_PIECE = 1 << 16


def open_xz(file: BinaryIO) -> BinaryIO:
    """Open the unpacked bytes of a file, to be read and stepped over forwards. Closing them leaves the file open.

    Reading raises `lzma.LZMAError` for damage, `EOFError` where the file is cut, and `UnsupportedImageError`
    (`compression`) where unpacking would take more than 256 MiB.
    """
    return cast(BinaryIO, io.BufferedReader(_XzFile(file)))


class _XzFile(io.RawIOBase):
    """The unpacked bytes, as they come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._here = file, 0
        self._unpacker = _xz_decompressor()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._here

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Step forwards to a place that is counted from the beginning."""
        if whence != os.SEEK_SET or offset < self._here:
            raise io.UnsupportedOperation("an unpacked stream is read forwards only")
        while self._here < offset and self.read(min(_PIECE, offset - self._here)):
            pass
        return self._here

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        unpacked = b""
        while not unpacked and len(buffer):
            piece = b""
            if self._unpacker.eof:
                # Another stream may come behind the first, and zeros between them.
                piece = self._unpacker.unused_data.lstrip(b"\0") or self._file.read(_PIECE).lstrip(b"\0")
                if not piece:
                    return 0
                self._unpacker = _xz_decompressor()
            elif self._unpacker.needs_input:
                piece = self._file.read(_PIECE)
                if not piece:
                    raise EOFError
            try:
                unpacked = self._unpacker.decompress(piece, len(buffer))
            except lzma.LZMAError as error:
                if "limit" in str(error):
                    raise UnsupportedImageError(
                        f"unpacking the archive would take more than {_MEMORY >> 20} MiB: pack it with xz -9 or less",
                        reason="compression",
                    ) from error
                raise
        buffer[: len(unpacked)] = unpacked
        self._here += len(unpacked)
        return len(unpacked)


def _xz_decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


_MAGIC: Mapping[bytes, Callable[[BinaryIO], object]] = MappingProxyType({
    b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": open_xz,
})  # fmt: skip
"""How a compressed archive begins, and what reads it. Its name is not asked: it is often wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarMember(LocalSource):
    """A member of an uncompressed tar archive, opened where it lies."""

    kind: ClassVar[str] = "tar"

    archive: str
    """Path of the archive."""
    mtime_ns: int
    """Modification time of the archive."""
    ctime_ns: int
    """Time of the last change of the archive."""
    offset: int
    """Where the bytes of the member begin in the archive."""
    size: int

    def stamp(self) -> FileStamp | None:
        """Return size and time as they were when the archive was opened."""
        return FileStamp(path=self.path, size=self.size, mtime_ns=self.mtime_ns, ctime_ns=self.ctime_ns)

    def to_dict(self) -> Mapping[str, Json]:
        """Return where the bytes lie."""
        return {
            "kind": self.kind, "path": self.path, "archive": self.archive, "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns, "offset": self.offset, "size": self.size,
        }  # fmt: skip

    def open(self) -> BinaryIO:
        """Open the archive and show nothing of it but the member. Raises `BrokenImageError`."""
        if self.size == 0:
            raise _empty()
        file = open_image(self.archive)
        if os.fstat(file.fileno()).st_size < self.offset + self.size:
            file.close()
            raise BrokenImageError(
                "the archive ends inside the member: it is cut, or changed meanwhile; copy it again", reason="truncated"
            )
        return cast(BinaryIO, io.BufferedReader(_Section(file, self.offset, self.size)))


class _Section(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._here = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        here = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._here, os.SEEK_END: self._size}[whence]
        if here < 0:
            raise ValueError(f"cannot seek to {here}")
        self._here = here
        return here

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._start + self._here)
        data = self._file.read(max(0, min(len(buffer), self._size - self._here)))
        buffer[: len(data)] = data
        self._here += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def is_compressed(path: str) -> bool:
    """True for a file whose first bytes are those of a compressed one; False, too, where it cannot be read."""
    try:
        with open_image(path) as file:
            return _unpacker(file) is not None
    except (ImageError, OSError):
        return False


def read_tar(path: str, *, largest: int, ignored: Counter[str]) -> Iterator[Source]:
    """Yield the members of a tar archive that may be images, in its order, and count the others by kind.

    `path` is shown before the names of the members. A member that is larger than `largest` bytes in a compressed archive,
    or sparse, is a failure of its own. Raises `BrokenImageError` when the archive turns out to be damaged; the members
    before that stay.
    """
    with open_image(path) as file:
        try:
            yield from _members(path, file, largest, ignored)
        except ImageError:
            raise
        except OSError as error:
            if error.errno is not None:
                raise unreadable(error) from error
            raise _damaged() from error  # of gzip and bz2, about their data
        except EOFError as error:
            raise _cut() from error
        except Exception as error:  # whatever it is, it says that the archive is damaged
            raise _damaged() from error


def _members(path: str, file: BinaryIO, largest: int, ignored: Counter[str]) -> Iterator[Source]:
    status = os.fstat(file.fileno())
    unpack = _unpacker(file)
    stream = file if unpack is None else cast(BinaryIO, unpack(file))
    headers = _Headers(stream)
    with tarfile.open(
        fileobj=cast(BinaryIO, headers), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        before = -1
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # or it would hold every one
            if member.size < 0 or member.offset <= before:
                raise _damaged()
            before = member.offset
            way = way_inside(member.name)
            kind = _kind_of_no_file(member) or kind_of_no_member(way)
            if member.isdir():
                continue
            if kind is not None:
                ignored[kind] += 1
                continue
            shown = f"{path}/{way}"
            if (beginning := check_length(way)) is not None:
                yield Failed(path=f"{path}/{beginning}", error=name_too_long())
            elif member.issparse():
                yield Failed(path=shown, error=UnsupportedImageError(
                    "the member is stored as a sparse file: pack it again without --sparse", reason="compression"
                ))  # fmt: skip
            elif unpack is None:
                if member.offset_data + member.size > status.st_size:
                    raise _cut()
                yield TarMember(
                    path=shown, archive=path, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns,
                    offset=member.offset_data, size=member.size,
                )  # fmt: skip
            else:
                yield _load(stream, member, shown, status, largest)
        headers.require_end()


def _load(stream: BinaryIO, member: tarfile.TarInfo, shown: str, status: os.stat_result, largest: int) -> Source:
    """Read a member out of a compressed archive."""
    if member.size > largest:
        return Failed(path=shown, error=UnsupportedImageError(
            f"{member.size} bytes once unpacked: at most {largest} are read", reason="too_large"
        ))  # fmt: skip
    if member.size == 0:
        return Failed(path=shown, error=_empty())
    stream.seek(member.offset_data)
    data = stream.read(member.size)
    if len(data) < member.size:
        raise _cut()
    return Loaded(path=shown, data=data, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)


class _Headers:
    """The archive as `tarfile` sees it: seeks are its own, reads are never larger than a header may be."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._last, self._starved = stream, b"", 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise _damaged()
        self._last = self._stream.read(size)
        # One empty read is the end of the archive; a loop of them would never end.
        self._starved = 0 if self._last else self._starved + 1
        if self._starved > 4:
            raise _cut()
        return self._last

    def seek(self, offset: int) -> int:
        return self._stream.seek(offset)

    def tell(self) -> int:
        return self._stream.tell()

    def require_end(self) -> None:
        """Raise `BrokenImageError` unless the last block that was read is the end mark, a block of zeros."""
        if len(self._last) < tarfile.BLOCKSIZE:
            raise _cut()
        if self._last.strip(b"\0"):
            raise _damaged()


def _unpacker(file: BinaryIO) -> Callable[[BinaryIO], object] | None:
    """Return what unpacks a compressed file, None for a plain one; the file stands at its beginning afterwards."""
    head = file.read(3)
    file.seek(0)
    return next((unpack for magic, unpack in _MAGIC.items() if head.startswith(magic)), None)


def _kind_of_no_file(member: tarfile.TarInfo) -> str | None:
    if member.isreg():
        return None
    return "link" if member.issym() or member.islnk() else "device, pipe or socket"


def _empty() -> BrokenImageError:
    return BrokenImageError("the member is empty (0 bytes)", reason="empty_file")


def _cut() -> BrokenImageError:
    return BrokenImageError(
        "the archive ends before its end mark: it is cut, and members may be missing; copy it again from its source",
        reason="truncated",
    )


def _damaged() -> BrokenImageError:
    return BrokenImageError(
        "the archive is damaged, or no tar archive: members from here on are not found; copy it again from its source",
        reason="corrupt",
    )
