"""A zip archive becomes candidates: its directory is read entry by entry, and each member can be opened by itself.

Python's `zipfile` holds the whole directory, some 700 bytes a member, and would have to read it anew in every process that
opens a member. Here an entry is let go once it was handed on, and carries where its bytes lie (PKWARE APPNOTE 6.3).
"""

import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, ClassVar

from mcr_infer.errors import BrokenImageError, UnsupportedImageError
from mcr_infer.files import FileStamp
from mcr_infer.images.opening import open_image, unreadable
from mcr_infer.sources.file_names import check_length, kind_of_no_member, name_too_long, way_inside
from mcr_infer.sources.source import Failed, Json, LocalSource, Source

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_LONGEST_COMMENT = 0xFFFF
_STORED, _DEFLATED = 0, 8
_ENCRYPTED = 0x0001
_UNIX = 3
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ZipMember(LocalSource):
    """A member of a zip archive, unpacked into memory when it is opened."""

    kind: ClassVar[str] = "zip"

    archive: str
    """Path of the archive."""
    mtime_ns: int
    """Modification time of the archive."""
    ctime_ns: int
    """Time of the last change of the archive."""
    header_offset: int
    """Where the member begins in the archive."""
    packed_size: int
    size: int
    """Bytes once it is unpacked, as its archive says."""
    crc: int
    """CRC-32 of the unpacked bytes."""
    method: int
    """How it is compressed (APPNOTE 4.4.5)."""
    encrypted: bool

    def stamp(self) -> FileStamp | None:
        """Return size and time as they were when the archive was opened."""
        return FileStamp(path=self.path, size=self.size, mtime_ns=self.mtime_ns, ctime_ns=self.ctime_ns)

    def to_dict(self) -> Mapping[str, Json]:
        """Return where the bytes lie and what they must become."""
        return {
            "kind": self.kind, "path": self.path, "archive": self.archive, "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns, "header_offset": self.header_offset, "packed_size": self.packed_size,
            "size": self.size, "crc": self.crc, "method": self.method, "encrypted": self.encrypted,
        }  # fmt: skip

    def open(self) -> BinaryIO:
        """Unpack the member and check its CRC-32.

        Raises `UnsupportedImageError` (`encrypted`, `compression`) or `BrokenImageError`.
        """
        if self.encrypted:
            raise UnsupportedImageError(
                "the member is encrypted: unpack the archive with its password", reason="encrypted"
            )
        if self.method not in (_STORED, _DEFLATED):
            raise UnsupportedImageError(
                f"the member is compressed by method {self.method} of zip: stored (0) and deflated (8) ones are read; "
                "pack it again",
                reason="compression",
            )
        if self.size == 0:
            raise BrokenImageError("the member is empty (0 bytes)", reason="empty_file")
        with open_image(self.archive) as file:
            try:
                data = self._unpack(file)
            except OSError as error:
                raise unreadable(error) from error
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise BrokenImageError(
                "the member does not unpack to the bytes that its archive promises (CRC-32); copy the archive again",
                reason="corrupt",
            )
        return BytesIO(data)

    def _unpack(self, file: BinaryIO) -> bytes:
        """Return the unpacked bytes, never more than one beyond the promised size."""
        file.seek(self.header_offset)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
            raise _misplaced()
        *_, name_length, extra_length = _LOCAL.unpack(head)
        file.seek(name_length + extra_length, os.SEEK_CUR)
        if self.method == _STORED:
            return file.read(min(self.packed_size, self.size + 1))
        inflater, out, left = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), self.packed_size
        try:
            while not inflater.eof and len(out) <= self.size:
                piece = inflater.unconsumed_tail
                if not piece:
                    piece = file.read(min(_BLOCK, left))
                    left -= len(piece)
                part = inflater.decompress(piece, min(_BLOCK, self.size + 1 - len(out)))
                if not (piece or part):
                    raise BrokenImageError("the member ends too early: the archive is cut", reason="truncated")
                out += part
        except zlib.error as error:
            raise BrokenImageError("the member cannot be inflated: the archive is damaged", reason="corrupt") from error
        return bytes(out)


def _misplaced() -> BrokenImageError:
    return BrokenImageError(
        "the member is not where its archive says: the archive is damaged, or changed meanwhile", reason="corrupt"
    )


def too_large(size: int, largest: int) -> UnsupportedImageError:
    """Return the error for something that would take more memory than was allowed."""
    return UnsupportedImageError(f"{size} bytes once unpacked: at most {largest} are read", reason="too_large")


def read_zip(path: str, *, largest: int, ignored: Counter[str]) -> Iterator[Source]:
    """Yield the members of a zip archive that may be images, in the order of its directory, and count the others by kind.

    `path` is shown before the names of the members. Raises `BrokenImageError` or `UnsupportedImageError` when the archive
    turns out to be damaged; the members before that stay.
    """
    with open_image(path) as file:
        try:
            for entry in _entries(file):
                if entry.name.endswith("/"):
                    continue
                way = way_inside(entry.name)
                kind = "link" if entry.is_link else kind_of_no_member(way)
                if kind is not None:
                    ignored[kind] += 1
                    continue
                yield _member(path, way, entry, archive=os.fstat(file.fileno()), largest=largest)
        except OSError as error:
            raise unreadable(error) from error


def _member(path: str, way: str, entry: "_Entry", *, archive: os.stat_result, largest: int) -> Source:
    """Return a member as a source, or as a failure where what its archive says of it cannot be."""
    if (beginning := check_length(way)) is not None:
        return Failed(path=f"{path}/{beginning}", error=name_too_long())
    if entry.size > largest:
        return Failed(path=f"{path}/{way}", error=too_large(entry.size, largest))
    if entry.header_offset + entry.packed_size > archive.st_size:
        # Here and not when it is opened: such numbers can be larger than files, databases and memory know.
        return Failed(path=f"{path}/{way}", error=_misplaced())
    return ZipMember(
        path=f"{path}/{way}", archive=path, mtime_ns=archive.st_mtime_ns, ctime_ns=archive.st_ctime_ns,
        header_offset=entry.header_offset, packed_size=entry.packed_size, size=entry.size, crc=entry.crc,
        method=entry.method, encrypted=entry.encrypted,
    )  # fmt: skip


def zip_holds(path: str, way: str, *, most_bytes: int) -> bool:
    """True where a zip archive has a member of that name; also where its directory is larger than `most_bytes`.

    Raises `ImageError` or `OSError` where the archive cannot be read.
    """
    with open_image(path) as file:
        start, size, _ = _directory(file)
        return size > most_bytes or any(way_inside(entry.name) == way for entry in _entries_at(file, start, size, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One entry of the directory, before anybody decided what it is."""

    name: str
    header_offset: int
    packed_size: int
    size: int
    crc: int
    method: int
    encrypted: bool
    is_link: bool


def _entries(file: BinaryIO) -> Iterator[_Entry]:
    start, size, before = _directory(file)
    return _entries_at(file, start, size, before)


def _directory(file: BinaryIO) -> tuple[int, int, int]:
    """Return where the directory begins, its bytes, and how many bytes stand before the archive (a self-extractor's)."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END.size - _LONGEST_COMMENT)
    file.seek(tail_start)
    tail = file.read(_END.size + _LONGEST_COMMENT)
    found = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
    if found < 0:
        raise BrokenImageError(
            "the archive has no directory at its end: it is cut, or no zip archive; copy it again from its source",
            reason="truncated",
        )
    end = tail_start + found
    _, disk, first_disk, _, count, size, offset, _ = _END.unpack_from(tail, found)
    if 0xFFFF in (disk, first_disk, count) or 0xFFFFFFFF in (size, offset):
        located = _directory_64(file, end)
        if located is not None:
            end, disk, first_disk, size, offset = located
    if disk or first_disk:
        raise UnsupportedImageError("the archive is one volume of several: join them first", reason="compression")
    start = end - size
    before = start - offset
    if start < 0 or before < 0:
        raise _damaged()
    return start, size, before


def _directory_64(file: BinaryIO, end: int) -> tuple[int, int, int, int, int] | None:
    """Read the zip64 end record before the end record; None where there is none, so that the limits are meant literally."""
    if end < _LOCATOR_64.size + _END_64.size:
        return None
    file.seek(end - _LOCATOR_64.size)
    signature, _, _, _ = _LOCATOR_64.unpack(file.read(_LOCATOR_64.size))
    if signature != b"PK\x06\x07":
        return None
    # Right before its locator, as every known writer has it; the offset in the locator is wrong after a self-extractor.
    end -= _LOCATOR_64.size + _END_64.size
    file.seek(end)
    signature, _, _, _, disk, first_disk, _, _, size, offset = _END_64.unpack(file.read(_END_64.size))
    if signature != b"PK\x06\x06":
        raise _damaged()
    return end, disk, first_disk, size, offset


def _entries_at(file: BinaryIO, start: int, size: int, before: int) -> Iterator[_Entry]:
    """Yield the entries of a directory; reads some KiB at a time and holds one entry."""
    here, end = start, start + size
    while here < end:
        file.seek(here)
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or head[:4] != b"PK\x01\x02":
            raise _damaged()
        (_, _, creator, _, _, flags, method, _, _, crc, packed_size, unpacked_size, name_length, extra_length,
         comment_length, _, _, external, header_offset) = _ENTRY.unpack(head)  # fmt: skip
        name, extra = file.read(name_length), file.read(extra_length)
        here += _ENTRY.size + name_length + extra_length + comment_length
        if here > end or len(extra) < extra_length:
            raise _damaged()
        unpacked_size, packed_size, header_offset = _zip64(extra, unpacked_size, packed_size, header_offset)
        yield _Entry(
            name=name.decode("utf-8", "surrogateescape"),
            header_offset=before + header_offset,
            packed_size=packed_size,
            size=unpacked_size,
            crc=crc,
            method=method,
            encrypted=bool(flags & _ENCRYPTED),
            is_link=creator == _UNIX and stat.S_ISLNK(external >> 16),
        )


def _zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """Replace the values that do not fit into 32 bits by the extra field 1 (APPNOTE 4.5.3), in their order."""
    if 0xFFFFFFFF not in values:
        return values
    here = 0
    while here + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, here)
        here += 4
        if tag == 1:
            field = extra[here : here + length]
            wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
            return tuple(next(wide, value) if value == 0xFFFFFFFF else value for value in values)
        here += length
    return values


def _damaged() -> BrokenImageError:
    return BrokenImageError(
        "the directory of the archive is damaged: members from here on are not found; copy it again from its source",
        reason="corrupt",
    )
