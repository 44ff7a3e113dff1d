"""A DICOMDIR becomes the files that it refers to (PS3.3 F, PS3.10 8).

Three attributes of a directory record are wanted. Everything else, names of patients among it, is stepped over unread, so
that a DICOMDIR of any size takes no more memory than one record, and time in proportion to its bytes.
"""

import os
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from mcr_infer.errors import BrokenImageError, ImageError, NotRadiographError, UnsupportedImageError
from mcr_infer.images.opening import open_image, unreadable
from mcr_infer.sources.file_names import way_inside
from mcr_infer.sources.source import Failed, PlainFile, Source

_LARGEST = 256 << 20
"""Bytes; a record takes some hundred, and a disc holds some ten thousand images."""

_LONGEST_VALUE = 256
"""Bytes: eight components of up to 16 characters, and what some writers put there instead."""

_MOST_NAMES = 100_000
"""Names of one folder that are remembered to find one that is written in another case."""

_EXPLICIT, _IMPLICIT, _BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"

_TRANSFER_SYNTAX = 0x00020010
_RECORDS = 0x00041220
_IN_USE, _RECORD_TYPE, _FILE_ID = 0x00041410, 0x00041430, 0x00041500
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length takes four bytes (PS3.5 7.1.2)."""


def read_dicomdir(path: str, *, ignored: Counter[str]) -> Iterator[Source]:
    """Yield the image files that a DICOMDIR refers to, in its order, and count its other records by kind.

    File ids are taken relative to the folder of the DICOMDIR, in whatever case the files are written there. A file that is
    not there is a candidate, so that reading it fails in its name; an id that leads out of the folder is a failure. Raises
    `ImageError` where the DICOMDIR cannot be read; the files before that stay.
    """
    folder = _Folder(os.path.dirname(path))  # noqa: PTH120 - Path would change the spelling
    with open_image(path) as file:
        try:
            for record in _records(file):
                if not record.file_id:
                    continue
                if not record.in_use:
                    ignored["DICOMDIR record that is not in use"] += 1
                elif record.type != "IMAGE":
                    ignored[f"DICOMDIR record {record.type}"] += 1
                elif any(part in ("", ".", "..") or "/" in part for part in record.file_id):
                    yield Failed(path=f"{path}/{way_inside('/'.join(record.file_id))}", error=_leads_out())
                else:
                    yield PlainFile(path=folder.find(record.file_id))
        except OSError as error:
            raise unreadable(error) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """A directory record (PS3.3 F.3.2.2); those of patients, studies and series refer to no file."""

    type: str
    file_id: tuple[str, ...]
    in_use: bool


class _Folder:
    """The folder of a DICOMDIR: file ids are upper case by the standard, files are as their file system likes."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names_in = lru_cache(maxsize=16)(_names_in)

    def find(self, file_id: tuple[str, ...]) -> str:
        """Return the path of a file id, in the spelling of the disk; as it is written where there is no such file."""
        exact = os.path.join(self._path, *file_id)  # noqa: PTH118
        if os.path.lexists(exact):
            return exact
        here = self._path
        for part in file_id:
            for name in (part, part.lower(), part.upper(), None):
                found = self._names_in(here).get(_folded(part)) if name is None else name
                if found is not None and os.path.lexists(os.path.join(here, found)):  # noqa: PTH118
                    here = os.path.join(here, found)  # noqa: PTH118
                    break
            else:
                return exact
        return here


def _folded(name: str) -> str:
    """Return a name without its case, and without the version that ISO 9660 puts behind it."""
    return name.partition(";")[0].rstrip(".").casefold()


def _names_in(folder: str) -> dict[str, str]:
    """Return the names in a folder by their folded spelling; none of a folder that has too many to remember."""
    names: dict[str, str] = {}
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if len(names) >= _MOST_NAMES:
                    return {}
                names[_folded(entry.name)] = entry.name
    except OSError:
        return {}  # whatever should be in there is missing, and is said to be
    return names


def _records(file: BinaryIO) -> Iterator[_Record]:
    """Yield the directory records of a DICOMDIR one by one. Raises `ImageError`."""
    length = file.seek(0, os.SEEK_END)
    if length > _LARGEST:
        raise UnsupportedImageError(
            f"the DICOMDIR has {length} bytes, at most {_LARGEST} are read: give its folder instead", reason="too_large"
        )
    file.seek(128)
    if file.read(4) != b"DICM":
        raise BrokenImageError(
            "the file is named DICOMDIR but is not one: it has no DICM at byte 128", reason="not_dicom"
        )
    reader = _Reader(file, length, implicit=False, little_endian=True)
    syntax = _EXPLICIT
    while (tag := reader.peek_tag()) is not None and tag >> 16 == 0x0002:
        _, size = reader.header()
        if tag == _TRANSFER_SYNTAX:
            syntax = reader.text(size)
        else:
            reader.skip(size)
    if syntax not in (_EXPLICIT, _IMPLICIT, _BIG_ENDIAN):
        raise UnsupportedImageError(
            "the DICOMDIR is compressed, expected Explicit VR Little Endian (PS3.10 8.6): give its folder instead",
            reason="transfer_syntax",
        )
    reader = _Reader(file, length, implicit=syntax == _IMPLICIT, little_endian=syntax != _BIG_ENDIAN)
    while (tag := reader.peek_tag()) is not None and tag < _RECORDS:
        _, size = reader.header()
        reader.skip(size)
    if tag != _RECORDS:
        raise NotRadiographError(
            "the file is called DICOMDIR and has no directory records: give its folder instead", reason="dicomdir"
        )
    _, size = reader.header()
    yield from reader.records(size)


class _Reader:
    """Steps over elements, always forwards."""

    def __init__(self, file: BinaryIO, length: int, *, implicit: bool, little_endian: bool) -> None:
        self._file, self._length, self._implicit = file, length, implicit
        order = "<" if little_endian else ">"
        self._tag, self._short, self._long = (struct.Struct(order + codes) for codes in ("2H", "H", "L"))

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise _cut()
        return data

    def peek_tag(self) -> int | None:
        """Return the next tag without going beyond it; None at the end."""
        data = self._file.read(4)
        self._file.seek(-len(data), os.SEEK_CUR)
        if len(data) < 4:
            return None
        group, element = self._tag.unpack(data)
        return int(group << 16 | element)

    def header(self) -> tuple[int, int]:
        """Read the tag and the length of the next element, item or delimiter (PS3.5 7.1, 7.5)."""
        group, element = self._tag.unpack(self._read(4))
        tag = int(group << 16 | element)
        if self._implicit or group == 0xFFFE:
            return tag, int(self._long.unpack(self._read(4))[0])
        vr = self._read(2)
        if vr in _LONG:
            self._read(2)
            return tag, int(self._long.unpack(self._read(4))[0])
        return tag, int(self._short.unpack(self._read(2))[0])

    def skip(self, size: int) -> None:
        """Step over a value; over the items of one of undefined length, however deep they are nested."""
        if size != _UNDEFINED:
            if self._file.tell() + size > self._length:
                raise _cut()
            self._file.seek(size, os.SEEK_CUR)
            return
        depth = 1
        while depth:
            tag, size = self.header()
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
            elif size == _UNDEFINED:
                depth += 1
            else:
                self.skip(size)

    def text(self, size: int) -> str:
        """Read a short value. File ids are ASCII; whatever else stands there is kept as the bytes that it is."""
        if size > _LONGEST_VALUE:
            raise _damaged()
        return os.fsdecode(self._read(size).rstrip(b" \0"))

    def records(self, size: int) -> Iterator[_Record]:
        """Yield the items of the sequence of records."""
        end = self._length if size == _UNDEFINED else self._file.tell() + size
        if end > self._length:
            end = self._length + 1  # the end of the file comes first, and is an error
        while self._file.tell() < end:
            if size == _UNDEFINED and self.peek_tag() is None:
                raise _cut()
            tag, length = self.header()
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise _damaged()
            yield self._record(length)

    def _record(self, length: int) -> _Record:
        end = None if length == _UNDEFINED else self._file.tell() + length
        kind, file_id, in_use = "", "", True
        while end is None or self._file.tell() < end:
            tag, size = self.header()
            if tag == _ITEM_END:
                break
            if tag == _IN_USE and size == 2:
                in_use = self._short.unpack(self._read(2))[0] != 0
            elif tag == _RECORD_TYPE:
                kind = self.text(size).strip()
            elif tag == _FILE_ID:
                file_id = self.text(size)
                # A damaged length takes in what stands behind it, the name of a patient perhaps, with tags in between.
                if any(character < " " for character in file_id):
                    raise _damaged()
            else:
                self.skip(size)
        parts = tuple(part.strip(" ") for part in file_id.split("\\")) if file_id else ()
        return _Record(type=kind if kind.replace(" ", "").isalnum() else "of no type", file_id=parts, in_use=in_use)


def _leads_out() -> ImageError:
    return BrokenImageError(
        "the DICOMDIR refers to a file outside of its folder, which PS3.10 8.5 does not allow: it is not opened",
        reason="unreadable",
    )


def _cut() -> BrokenImageError:
    return BrokenImageError(
        "the DICOMDIR ends inside its records; copy it again from its source, or give its folder", reason="truncated"
    )


def _damaged() -> BrokenImageError:
    return BrokenImageError("the records of the DICOMDIR are damaged: give its folder instead", reason="corrupt")
