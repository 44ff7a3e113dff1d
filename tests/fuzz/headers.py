"""Mutators of a DICOM data set: elements, sequences, look-up tables, fragments, file meta information."""

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from tests.fuzz.elements import (
    BIG_ENDIAN,
    DEFLATED,
    IMPLICIT,
    ITEM,
    PIXEL_DATA,
    TRANSFER_SYNTAX,
    UNDEFINED,
    DicomTree,
    Element,
    Item,
)
from tests.fuzz.mutation import BYTE_MUTATORS, EDGES, edge

TreeMutator = Callable[[random.Random, DicomTree], None]

_VRS = (
    b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"OB", b"OD", b"OF", b"OL", b"OV",
    b"OW", b"PN", b"SH", b"SL", b"SQ", b"SS", b"ST", b"SV", b"TM", b"UC", b"UI", b"UL", b"UN", b"UR", b"US", b"UT", b"UV",
    b"??", b"us", b"\0\0", b"\xff\xff", b"  ", b"O\0",
)  # fmt: skip

_DECIMALS = (
    "", " ", "0", "-0", "1e308", "-1e308", "1e-320", "1e999", "nan", "inf", "-inf", "1,5", "2048 ", " 2048", "0x10", "\\",
    "1\\2", "1\\\\2", "9" * 64, "1e", "+7", ".5", "1.", "1.E3", "-1", "0.0001", "4096\0", "2048\n", "\u00b2", "1 000", "--1",
)  # fmt: skip
_INTEGERS = ("", "0", "1", "2", "-1", "1.0", "1e1", "abc", "99999999999999999999", " 1 ", "1\\1", "\0")
_CODES = (
    "", "MONOCHROME1", "MONOCHROME2", "monochrome2", "MONOCHROME", "RGB", "PALETTE COLOR", "YBR_FULL", "CR", "DX",
    "RG", "CT",
    "cr", "CHEST", "PA", "L\\F", "R\\F", "F\\L", "A\\H", "L", "L\\F\\H", "\\", "\0", "LINEAR", "SIGMOID", "LINEAR_EXACT",
    "sigmoid", "FOR PROCESSING", "FOR PRESENTATION", "A" * 5000, "\x1b$B", "\xff\xfe", "INVERSE",
)  # fmt: skip
_DATES = ("", "20190228", "1899", "21800506", "2019.02.28", "99999999", "20191332", "\0" * 8, "A" * 64)
_UIDS = (
    "", "1.2", "1..2", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2", "A" * 64, "1" * 200, "../../x",
    "1.2\0\0",
)  # fmt: skip

US, DS, IS, CS, DA, UI = b"US", b"DS", b"IS", b"CS", b"DA", b"UI"
ATTRIBUTES: Mapping[int, tuple[bytes, Sequence[object]]] = MappingProxyType({
    0x00280002: (US, EDGES), 0x00280010: (US, EDGES), 0x00280011: (US, EDGES),
    0x00280100: (US, (0, 1, 7, 8, 9, 10, 12, 15, 16, 24, 32, 64, 65535)),
    0x00280101: (US, (0, 1, 7, 8, 9, 10, 12, 15, 16, 17, 32, 65535)),
    0x00280102: (US, (0, 1, 7, 8, 9, 11, 12, 15, 16, 31, 65535)), 0x00280103: (US, (0, 1, 2, 65535)),
    0x00280120: (US, EDGES), 0x00280121: (US, EDGES), 0x00280006: (US, (0, 1, 2)),
    0x00281050: (DS, _DECIMALS), 0x00281051: (DS, _DECIMALS), 0x00281052: (DS, _DECIMALS), 0x00281053: (DS, _DECIMALS),
    0x00280030: (DS, _DECIMALS), 0x00181164: (DS, ("0.1\\0.1", "0.1\\0.2", "0\\0", "1\\-1", "1e300\\1e-300", *_DECIMALS)),
    0x00280034: (IS, ("1\\1", "1\\2", "0\\1", "1\\0", *_INTEGERS)), 0x00280008: (IS, _INTEGERS),
    0x00280004: (CS, _CODES), 0x00080060: (CS, _CODES), 0x00180015: (CS, _CODES), 0x00185101: (CS, _CODES),
    0x00200020: (CS, _CODES), 0x00281056: (CS, _CODES), 0x00080068: (CS, _CODES), 0x20500020: (CS, _CODES),
    0x00080005: (CS, ("ISO_IR 192", "ISO_IR 100", "ISO 2022 IR 87", "\\ISO 2022 IR 149", "GB18030", "nonsense", "",
    "\\\\\\")),
    0x00080020: (DA, _DATES), 0x00080016: (UI, _UIDS), 0x00080018: (UI, _UIDS), 0x0020000D: (UI, _UIDS),
    0x0020000E: (UI, _UIDS),
})  # fmt: skip
"""The attributes that are read, with values at which their meaning changes or ends."""


def put_number(tree: DicomTree, tag: int, *values: int, vr: bytes = US) -> None:
    """Put 16-bit numbers into an element."""
    tree.put(Element(tag, vr, b"".join(struct.pack(f"{tree.order}H", value & 0xFFFF) for value in values)))


def put_text(tree: DicomTree, tag: int, vr: bytes, text: str) -> None:
    """Put text into an element, padded to an even length."""
    value = text.encode("latin-1", "replace")
    tree.put(Element(tag, vr, value + (b"\0" if vr == UI else b" ") * (len(value) % 2)))


def _any_element(rng: random.Random, tree: DicomTree) -> tuple[list[Element], int]:
    """Draw an element; every other one is one that is read."""
    levels = [level for level in tree.levels() if level]
    if not levels:
        return tree.elements, -1
    level = rng.choice(levels)
    read = [at for at, one in enumerate(level) if one.tag in ATTRIBUTES or one.tag == PIXEL_DATA]
    return level, rng.choice(read) if read and rng.random() < 0.5 else rng.randrange(len(level))


def _length_of(element: Element) -> int:
    return len(element.value) if isinstance(element.value, bytes) else 8 * len(element.value)


def state_length(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        level[at].stated = rng.choice((UNDEFINED, edge(rng, _length_of(level[at]))))


def state_item_length(rng: random.Random, tree: DicomTree) -> None:
    items = [item for level in tree.levels() for one in level if isinstance(one.value, list) for item in one.value]
    if items:
        rng.choice(items).stated = rng.choice((UNDEFINED, edge(rng, 64)))
    else:
        nest(rng, tree)


def change_vr(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        level[at].vr = rng.choice(_VRS)


def change_tag(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        known = (
            *ATTRIBUTES,
            PIXEL_DATA,
            0x7FE00008,
            0x7FE00009,
            ITEM,
            0xFFFEE00D,
            0xFFFEE0DD,
            0,
            0xFFFFFFFF,
            0x00090010,
        )
        level[at].tag = rng.choice((*known, level[at].tag ^ 1 << rng.randrange(32)))


def change_value(rng: random.Random, tree: DicomTree) -> None:
    tag = rng.choice(list(ATTRIBUTES))
    vr, values = ATTRIBUTES[tag]
    value = rng.choice(values)
    if isinstance(value, int):
        put_number(tree, tag, value)
    else:
        put_text(tree, tag, vr, str(value))


def damage_value(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0 and isinstance(value := level[at].value, bytes) and value:
        level[at].value = rng.choice(BYTE_MUTATORS)(rng, value, value[::-1])


def exchange_values(rng: random.Random, tree: DicomTree) -> None:
    (one, first), (other, second) = _any_element(rng, tree), _any_element(rng, tree)
    if first < 0 or second < 0 or isinstance(one[first].value, list) or isinstance(other[second].value, list):
        return  # a sequence could come to stand inside of itself
    one[first].value, other[second].value = other[second].value, one[first].value


def drop(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        del level[at]


def repeat(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        small = isinstance(value := level[at].value, bytes) and len(value) < 4096
        level[at:at] = [level[at]] * (rng.choice((1, 2, 300)) if small else 1)


def reorder(rng: random.Random, tree: DicomTree) -> None:
    level, at = _any_element(rng, tree)
    if at >= 0:
        level.insert(rng.randrange(len(level)), level.pop(at))


def nest(rng: random.Random, tree: DicomTree) -> None:
    """Put an element into sequences within sequences, closed rightly or not at all."""
    level, at = _any_element(rng, tree)
    if at < 0:
        return
    inner = level[at]
    closed = rng.random() < 0.7
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        undefined = rng.random() < 0.5
        item = Item([inner], undefined=undefined)
        inner = Element(
            rng.choice((0x00081140, 0x00283010, 0x00089999)), b"SQ", [item], undefined=undefined, delimited=closed
        )
    level[at] = inner


def nest_deep(rng: random.Random, tree: DicomTree) -> None:
    """Begin thousands of sequences within each other, of undefined length, and end none."""
    begin = struct.pack(f"{tree.order}HH", 0x0008, 0x1140) + (b"" if tree.implicit else b"SQ\0\0") + b"\xff" * 4
    begin += struct.pack(f"{tree.order}HHL", 0xFFFE, 0xE000, UNDEFINED)
    tree.put(Element(0x00081140, b"SQ", begin * rng.choice((100, 400, 5000)), undefined=True, delimited=False))


def many_elements(rng: random.Random, tree: DicomTree) -> None:
    """Add thousands of private elements, or a long one."""
    count = rng.choice((1, 2000))
    size = 40_000 if count == 1 else 4
    tree.elements[:0] = [
        Element(0x00090000 + number, b"LO" if count > 1 else b"UN", b"x" * size) for number in range(count)
    ]


def add_table(rng: random.Random, tree: DicomTree) -> None:
    """Add a Modality or VOI LUT Sequence; about half of them are right."""
    signed = rng.random() < 0.3
    bits = rng.choice((8, 10, 12, 16))
    count = rng.choice((2, 16, 255, 256, 1024, 4096))
    first = rng.choice((0, 0, 1, 100, 0x8000, 0xFFF0))
    top = (1 << bits) - 1
    values = [top * at // (count - 1) for at in range(count)]
    if rng.random() < 0.3:
        values.reverse()
    stated = [count, first, bits]
    packed = rng.random() < 0.2
    if rng.random() < 0.5:
        which = rng.randrange(3)
        stated[which] = edge(rng, stated[which], EDGES)
    words = b"".join(struct.pack(f"{tree.order}H", value) for value in values)
    data = bytes(values) if packed and bits == 8 else words
    if rng.random() < 0.3:
        data = data[: rng.choice((0, 1, 2, len(data) // 2, len(data) - 1, len(data) - 2))]
    descriptor = b"".join(struct.pack(f"{tree.order}H", value & 0xFFFF) for value in stated)
    item = Item(
        [
            Element(0x00283002, b"SS" if signed else US, descriptor),
            Element(
                0x00283006, rng.choice((US, b"OW", b"SS", b"OB", b"UN") if rng.random() < 0.3 else (US, b"OW")), data
            ),
        ]
    )
    items = [item] * rng.choice((1, 1, 1, 2, 0))
    tree.put(Element(rng.choice((0x00283000, 0x00283010)), b"SQ", items, undefined=rng.random() < 0.5))


def change_pixel_length(rng: random.Random, tree: DicomTree) -> None:
    if (pixels := tree.find(PIXEL_DATA)) is None or not isinstance(pixels.value, bytes):
        return fragment(rng, tree)
    size = max(0, len(pixels.value) + rng.choice((-2, -1, 1, 2, 512, 1026, 4096, -len(pixels.value))))
    pixels.value = pixels.value[:size].ljust(size, b"\0")
    return None


def fragment(rng: random.Random, tree: DicomTree) -> None:
    """Cut the codestream into other fragments, and let the offset table say something of them."""
    if (pixels := tree.find(PIXEL_DATA)) is None or not isinstance(pixels.value, list) or not pixels.value:
        return state_length(rng, tree)
    stream = b"".join(bytes(item.content) for item in pixels.value[1:] if isinstance(item.content, bytes))
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((0, 1, 2, 40))))
    parts = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    offsets = rng.choice((b"", struct.pack("<L", 0), struct.pack("<2L", 0, 99), rng.randbytes(rng.randrange(64))))
    pixels.value = [Item(offsets), *map(Item, parts)]
    match rng.randrange(8):
        case 0:
            pixels.value.insert(1, Item(b""))
        case 1:
            del pixels.value[0]  # no offset table: the first fragment is taken for it
        case 2:
            rng.choice(pixels.value).stated = rng.choice((UNDEFINED, edge(rng, len(stream))))
        case 3:
            rng.choice(pixels.value).tag = rng.choice((0xFFFEE00D, 0xFFFEE0DD, PIXEL_DATA, 0))
        case 4:
            pixels.delimited = False
        case 5:
            rng.shuffle(pixels.value)
        case _:
            pass
    return None


def change_meta(rng: random.Random, tree: DicomTree) -> None:
    """Change the file meta information: its length, its transfer syntax, or that it is there."""
    match rng.randrange(6):
        case 0:
            for one in tree.meta:
                if one.tag == 0x00020000:
                    one.value = struct.pack("<L", edge(rng, 200) & UNDEFINED)
        case 1 | 2:
            for one in tree.meta:
                if one.tag == TRANSFER_SYNTAX:
                    one.value = rng.choice(_UIDS).encode()
                    one.value += b"\0" * (len(one.value) % 2)
        case 3:
            tree.meta = [one for one in tree.meta if one.tag != TRANSFER_SYNTAX]
        case 4:
            tree.preamble = rng.choice((b"", tree.preamble[:128], b"\x89PNG\r\n\x1a\n".ljust(128, b"\0") + b"DICM"))
        case _:
            if tree.meta:
                rng.choice(tree.meta).stated = edge(rng, 20)


def rewrite(rng: random.Random, tree: DicomTree) -> None:
    """Write the data set in another syntax than the file meta information names."""
    tree.syntax = rng.choice((IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN))
    tree.compressed = rng.random() < 0.2 or tree.syntax == DEFLATED


def append(rng: random.Random, tree: DicomTree) -> None:
    tree.tail = rng.choice((b"\0" * 512, rng.randbytes(64), b"\xfc\xff\xfc\xffOB\0\0\4\0\0\0\0\0\0\0", tree.preamble))


TREE_MUTATORS: tuple[TreeMutator, ...] = (
    state_length, state_length, state_item_length, change_vr, change_vr, change_tag, change_value, change_value,
    change_value,
    change_value, damage_value, exchange_values, drop, repeat, reorder, nest, nest_deep, many_elements, add_table,
    add_table, add_table,
    change_pixel_length, fragment, fragment, change_meta, change_meta, rewrite, append,
)  # fmt: skip
