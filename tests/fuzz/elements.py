"""A DICOM file as a tree of elements that can be made wrong: every length, VR and delimiter is a field of its own.

pydicom writes what is right; this writes what it is told.
"""

import struct
import zlib
from dataclasses import dataclass, field

from pydicom.datadict import dictionary_VR

ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA, TRANSFER_SYNTAX = 0x7FE00010, 0x00020010
UNDEFINED = 0xFFFFFFFF
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
"""VRs whose length takes four bytes (PS3.5 7.1.2)."""

IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


@dataclass(slots=True)
class Item:
    """An item of a sequence, or a fragment of encapsulated pixel data, which is bytes."""

    content: "list[Element] | bytes"
    tag: int = ITEM
    stated: int | None = None
    """Length that is written instead of the right one."""
    undefined: bool = False
    """Written with undefined length and a delimiter."""


@dataclass(slots=True)
class Element:
    """A data element; `value` is a list for sequences and for encapsulated pixel data."""

    tag: int
    vr: bytes
    value: bytes | list[Item]
    stated: int | None = None
    undefined: bool = False
    delimited: bool = True
    """False leaves the delimiter of an undefined length out."""


@dataclass(slots=True)
class DicomTree:
    """A whole file; `syntax` is how it is written, whatever its file meta information says."""

    preamble: bytes
    meta: list[Element]
    elements: list[Element]
    syntax: str
    tail: bytes = b""
    compressed: bool = field(init=False)

    def __post_init__(self) -> None:
        self.compressed = self.syntax == DEFLATED

    @property
    def order(self) -> str:
        """Byte order of the data set for `struct`."""
        return ">" if self.syntax == BIG_ENDIAN else "<"

    @property
    def implicit(self) -> bool:
        """True where VRs are not written."""
        return self.syntax == IMPLICIT

    def find(self, tag: int) -> Element | None:
        """Return the first element of that tag on the upper level."""
        return next((one for one in self.elements if one.tag == tag), None)

    def put(self, element: Element) -> None:
        """Replace the element of that tag, or insert it where its tag belongs."""
        self.elements[:] = sorted([one for one in self.elements if one.tag != element.tag] + [element], key=_tag_of)

    def encode(self) -> bytes:
        """Write the file."""
        body = b"".join(_encode(one, self.order, self.implicit) for one in self.elements) + self.tail
        if self.compressed:
            packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
            body = packer.compress(body) + packer.flush()
        return self.preamble + b"".join(_encode(one, "<", False) for one in self.meta) + body

    def levels(self) -> list[list[Element]]:
        """Return every list of elements there is: the upper level first, then those of items."""
        found = [self.elements]
        for level in found:
            for element in level:
                if isinstance(element.value, list):
                    found += [item.content for item in element.value if isinstance(item.content, list)]
        return found


def _tag_of(element: Element) -> int:
    return element.tag


def _encode(element: Element, order: str, implicit: bool) -> bytes:
    if isinstance(element.value, list):
        value = b"".join(_encode_item(item, order, implicit) for item in element.value)
        if element.undefined and element.delimited:
            value += _head(SEQUENCE_END, order) + struct.pack(f"{order}L", 0)
    else:
        value = element.value
    length = UNDEFINED if element.undefined else len(value)
    length = length if element.stated is None else element.stated
    head = _head(element.tag, order)
    if implicit or element.tag >> 16 == 0xFFFE:
        return head + struct.pack(f"{order}L", length & UNDEFINED) + value
    if element.vr in LONG_VRS:
        return head + element.vr + b"\0\0" + struct.pack(f"{order}L", length & UNDEFINED) + value
    return head + element.vr + struct.pack(f"{order}H", length & 0xFFFF) + value


def _encode_item(item: Item, order: str, implicit: bool) -> bytes:
    if isinstance(item.content, bytes):
        value = item.content
    else:
        value = b"".join(_encode(one, order, implicit) for one in item.content)
    length = UNDEFINED if item.undefined else len(value)
    length = length if item.stated is None else item.stated
    if item.undefined:
        value += _head(ITEM_END, order) + struct.pack(f"{order}L", 0)
    return _head(item.tag, order) + struct.pack(f"{order}L", length & UNDEFINED) + value


def _head(tag: int, order: str) -> bytes:
    return struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)


def parse(data: bytes) -> DicomTree:
    """Read a sound file with a preamble. Raises `ValueError` or `struct.error` for any other."""
    if data[128:132] != b"DICM":
        raise ValueError("no DICM prefix")
    reader = _Reader(data, 132, "<", implicit=False)
    meta: list[Element] = []
    while reader.here < len(data) and reader.peek() >> 16 == 2:
        meta.append(reader.element())
    named = next((one.value for one in meta if one.tag == TRANSFER_SYNTAX), b"")
    syntax = bytes(named).decode("ascii").strip("\0 ") if isinstance(named, bytes) else ""
    body = data[reader.here :]
    if syntax == DEFLATED:
        body = zlib.decompress(body, -zlib.MAX_WBITS)
    order = ">" if syntax == BIG_ENDIAN else "<"
    elements = _Reader(body, 0, order, implicit=syntax == IMPLICIT).elements(len(body))
    return DicomTree(data[:132], meta, elements, syntax)


class _Reader:
    def __init__(self, data: bytes, here: int, order: str, *, implicit: bool) -> None:
        self.data, self.here, self.order, self.implicit = data, here, order, implicit

    def peek(self) -> int:
        group, number = struct.unpack_from(f"{self.order}HH", self.data, self.here)
        return int(group << 16 | number)

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(self.order + code, self.data, self.here)
        self.here += struct.calcsize(self.order + code)
        return int(value)

    def _take(self, length: int) -> bytes:
        if self.here + length > len(self.data):
            raise ValueError("an element ends beyond the file")
        self.here += length
        return self.data[self.here - length : self.here]

    def elements(self, end: int) -> list[Element]:
        found = []
        while self.here < end:
            if self.peek() == ITEM_END:
                self.here += 8
                break
            found.append(self.element())
        return found

    def element(self) -> Element:
        tag = self.peek()
        self.here += 4
        if self.implicit:
            try:
                vr = dictionary_VR(tag).encode()[:2]
            except KeyError:
                vr = b"UN"
            length = self._number("L")
        else:
            vr = self._take(2)
            if vr in LONG_VRS:
                self.here += 2
                length = self._number("L")
            else:
                length = self._number("H")
        if vr != b"SQ" and length != UNDEFINED:
            return Element(tag, vr, self._take(length))
        raw = tag == PIXEL_DATA
        return Element(tag, vr, self._items(length, raw=raw), undefined=length == UNDEFINED)

    def _items(self, length: int, *, raw: bool) -> list[Item]:
        end, items = self.here + length, []
        while length == UNDEFINED or self.here < end:
            tag = self.peek()
            self.here += 4
            size = self._number("L")
            if tag == SEQUENCE_END:
                break
            if tag != ITEM:
                raise ValueError("no item where one must be")
            if raw:
                items.append(Item(self._take(size)))
            else:
                content = self.elements(len(self.data) if size == UNDEFINED else self.here + size)
                items.append(Item(content, undefined=size == UNDEFINED))
        return items
