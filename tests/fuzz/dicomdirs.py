"""Mutated DICOMDIRs, with the files that they refer to beside them."""

import random

from tests.fuzz import samples
from tests.fuzz.elements import DicomTree, Element, Item
from tests.fuzz.headers import TREE_MUTATORS
from tests.fuzz.mutation import case_random, mutate_bytes
from tests.fuzz.pictures import Case

_RECORDS, _TYPE, _FILE_ID, _IN_USE = 0x00041220, 0x00041430, 0x00041500, 0x00041410
FILES = ("IMAGES\\A", "IMAGES\\B", "C")
"""File ids of the images beside each DICOMDIR."""

_ODD_IDS = (
    "..\\..\\etc\\passwd", "\\ABSOLUTE", "", "IMAGES\\A ", "images\\a", "IMAGES\\", "A" * 300,
    "A\\B\\C\\D\\E\\F\\G\\H\\I", ".",
    "IMAGES/A", "C;1", "C.", "MISSING", "\x00", "C\nD", "\x1b[31m", "DICOMDIR",
)  # fmt: skip
_TYPES = ("PATIENT", "STUDY", "SERIES", "IMAGE", "SR DOCUMENT", "", "image", "I" * 300, "\x00", "PRIVATE")


def dicomdir(seed: int, number: int) -> Case:
    """Make a DICOMDIR."""
    rng = case_random(seed, "dicomdir", number)
    tree = _sound(rng)
    done: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        if rng.random() < 0.5:
            change = rng.choice((_change_record, _change_record, _repeat_record, _state_records))
            change(rng, tree)
        else:
            change = rng.choice(TREE_MUTATORS)
            change(rng, tree)
        done.append(change.__name__.strip("_"))
    data = tree.encode()
    if rng.random() < 0.3 or not done:
        data, how = mutate_bytes(rng, data, data[::-1])
        done.append(how)
    return Case(number, data, tuple(done))


def _text(tag: int, vr: bytes, text: str) -> Element:
    value = text.encode("latin-1")
    return Element(tag, vr, value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2))


def _sound(rng: random.Random) -> DicomTree:
    tree = samples.tree(samples.dicoms()[3])  # Explicit VR Little Endian
    for element in tree.meta:
        if element.tag == 0x00020002:
            element.value = b"1.2.840.10008.1.3.10"
    levels = [("PATIENT", ""), ("STUDY", ""), ("SERIES", ""), *(("IMAGE", file) for file in FILES)]
    undefined = rng.random() < 0.5
    items = [Item(_record(kind, file), undefined=undefined) for kind, file in levels]
    tree.elements[:] = [
        _text(0x00041130, b"CS", "FUZZ"), Element(0x00041200, b"UL", b"\0\0\0\0"), Element(0x00041202, b"UL", b"\0\0\0\0"),
        Element(0x00041212, b"US", b"\0\0"), Element(_RECORDS, b"SQ", items, undefined=rng.random() < 0.5),
    ]  # fmt: skip
    return tree


def _record(kind: str, file: str) -> list[Element]:
    found = [Element(0x00041400, b"UL", b"\0\0\0\0"), Element(_IN_USE, b"US", b"\xff\xff"), _text(_TYPE, b"CS", kind)]
    if file:
        found.append(_text(_FILE_ID, b"CS", file))
    else:
        found += [_text(0x00100010, b"PN", "Surname^Forename"), _text(0x00100020, b"LO", "4711")]
    return found


def _records(tree: DicomTree) -> list[Item]:
    found = tree.find(_RECORDS)
    return found.value if found is not None and isinstance(found.value, list) else []


def _change_record(rng: random.Random, tree: DicomTree) -> None:
    records = [item.content for item in _records(tree) if isinstance(item.content, list)]
    if not records:
        return
    record = rng.choice(records)
    new = rng.choice((
        _text(_FILE_ID, b"CS", rng.choice((*_ODD_IDS, *FILES))), _text(_TYPE, b"CS", rng.choice(_TYPES)),
        Element(_IN_USE, b"US", rng.choice((b"\0\0", b"\1\0", b"", b"\0\0\0\0"))),
    ))  # fmt: skip
    record[:] = sorted([one for one in record if one.tag != new.tag] + [new], key=lambda one: one.tag)


def _repeat_record(rng: random.Random, tree: DicomTree) -> None:
    if records := _records(tree):
        records += [rng.choice(records)] * rng.choice((1, 5, 50))


def _state_records(rng: random.Random, tree: DicomTree) -> None:
    if records := _records(tree):
        rng.choice(records).stated = rng.choice((0, 1, 0xFFFFFFFF, 0xFFFFFFFE, 40, 1000))
