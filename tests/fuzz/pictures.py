"""Mutated DICOM, PNG and JPEG files."""

import random
import struct
import zlib
from dataclasses import dataclass

from tests.fuzz import samples
from tests.fuzz.elements import PIXEL_DATA, DicomTree, Item
from tests.fuzz.headers import (
    ATTRIBUTES,
    CS,
    DS,
    TREE_MUTATORS,
    UI,
    add_table,
    put_number,
    put_text,
)
from tests.fuzz.markers import mutate_codestream, mutate_runs
from tests.fuzz.mutation import case_random, edge, mutate_bytes

_RLE = "1.2.840.10008.1.2.5"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MUCH = zlib.compress(b"x" * 3_000_000)
"""What a compressed text or profile may unpack to."""


@dataclass(frozen=True, slots=True)
class Case:
    """One mutated input."""

    number: int
    data: bytes
    mutations: tuple[str, ...]
    """What was done to a sample, in order."""


def dicom(seed: int, number: int) -> Case:
    """Make a DICOM file: a sample that stays sound in one of ten, and is changed up to three times otherwise."""
    rng = case_random(seed, "dicom", number)
    sample = rng.choice(samples.trees() if rng.random() < 0.7 else samples.dicoms())
    done: list[str] = []
    if rng.random() < 0.15:
        data = sample if rng.random() < 0.8 else rng.choice(samples.packaged())
        for _ in range(rng.randint(1, 2)):
            data, how = mutate_bytes(rng, data, rng.choice(samples.trees()))
            done.append(how)
        return Case(number, data, tuple(done))
    tree = samples.tree(sample)
    _make_own(rng, tree, number)
    vary(rng, tree)
    sound = rng.random() < 0.12
    for _ in range(0 if sound else rng.choice((1, 1, 1, 2, 3))):
        if rng.random() < 0.35 and (pixels := tree.find(PIXEL_DATA)) is not None and isinstance(pixels.value, list):
            done.append(_change_frame(rng, tree, pixels.value))
        else:
            mutator = rng.choice(TREE_MUTATORS)
            mutator(rng, tree)
            done.append(mutator.__name__)
    data = tree.encode()
    if not sound and rng.random() < 0.05:
        data, how = mutate_bytes(rng, data, sample)
        done.append(how)
    return Case(number, data, tuple(done or ["none"]))


def _make_own(rng: random.Random, tree: DicomTree, number: int) -> None:
    """Give a file a UID of its own, mostly, and make a radiograph of what is none, so that its pixels are looked at."""
    if rng.random() < 0.97:
        put_text(tree, 0x00080018, UI, f"2.25.{number}")
    if (
        (modality := tree.find(0x00080060)) is not None
        and modality.value not in (b"CR", b"DX", b"RG")
        and rng.random() < 0.95
    ):
        put_text(tree, 0x00080060, CS, "CR")


def vary(rng: random.Random, tree: DicomTree) -> None:
    """Change how a file is shown, rightly: another window, rescale, inversion, padding, orientation, look-up table."""
    if rng.random() < 0.5:
        put_text(tree, 0x00281050, DS, str(rng.choice((1, 100, 128, 1024, 2048, 2048.5, 30000))))
        put_text(tree, 0x00281051, DS, str(rng.choice((1, 2, 100, 256, 2000, 4096, 65536))))
    if rng.random() < 0.2:
        put_text(tree, 0x00281052, DS, str(rng.choice((0, -1024, 100, 0.5))))
        put_text(tree, 0x00281053, DS, str(rng.choice((1, 2, 0.5, 1.25))))
    if rng.random() < 0.2:
        put_text(tree, 0x00280004, CS, rng.choice(("MONOCHROME1", "MONOCHROME2")))
    if rng.random() < 0.1:
        put_text(tree, 0x00281056, CS, rng.choice(("LINEAR", "LINEAR_EXACT", "SIGMOID")))
    if rng.random() < 0.1:
        put_number(tree, 0x00280120, rng.choice((0, 1, 4095)))
    if rng.random() < 0.1:
        put_text(tree, 0x00200020, CS, rng.choice(("L\\F", "R\\F", "A\\F", "F\\L")))
    if rng.random() < 0.08:
        add_table(rng, tree)


def _change_frame(rng: random.Random, tree: DicomTree, items: list[Item]) -> str:
    """Change the codestream of the first frame, which then lies in one fragment."""
    parts = [item.content for item in items[1:] if isinstance(item.content, bytes)]
    stream = b"".join(parts)
    other = samples.jpegs()[0]
    run_length = tree.meta and any(
        _RLE.encode() in bytes(one.value).rstrip(b"\0").split() for one in tree.meta if isinstance(one.value, bytes)
    )
    changed, how = (mutate_runs if run_length else mutate_codestream)(rng, stream, other)
    items[1:] = [Item(changed + b"\0" * (len(changed) % 2))]
    return how


def png(seed: int, number: int) -> Case:
    """Make a PNG file; the CRC of a changed chunk is right nearly always."""
    rng = case_random(seed, "png", number)
    data = rng.choice(samples.pngs())
    if rng.random() < 0.2:
        data, how = mutate_bytes(rng, data, rng.choice(samples.pngs()))
        return Case(number, data, (how,))
    chunks, done = _chunks(data), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = rng.choice(
            (_png_header, _png_header, _png_field, _png_field, _png_pixels, _png_pixels, _png_order, _png_new)
        )
        change(rng, chunks)
        done.append(change.__name__.strip("_"))
    content = b"".join(_png_chunk(rng, kind, payload) for kind, payload in chunks)
    return Case(number, _PNG_SIGNATURE + content, tuple(done))


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, here = [], len(_PNG_SIGNATURE)
    while here < len(data):
        length, kind = struct.unpack_from(">L4s", data, here)
        chunks.append((kind, data[here + 8 : here + 8 + length]))
        here += 12 + length
    return chunks


def _png_chunk(rng: random.Random, kind: bytes, payload: bytes) -> bytes:
    length, crc = len(payload), zlib.crc32(kind + payload)
    if rng.random() < 0.02:
        length = edge(rng, length) & 0xFFFFFFFF
    if rng.random() < 0.02:
        crc ^= 1
    return struct.pack(">L", length) + kind + payload + struct.pack(">L", crc)


def _png_header(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    width, height, *rest = struct.unpack(">2L5B", chunks[0][1].ljust(13, b"\0")[:13])
    values = [width, height, *rest]
    at = rng.randrange(7)
    values[at] = edge(rng, values[at]) & 0xFFFFFFFF if at < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    chunks[0] = (chunks[0][0], struct.pack(">2L5B", *values))


def _png_field(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    at = rng.randrange(len(chunks))
    chunks[at] = (chunks[at][0], mutate_bytes(rng, chunks[at][1], chunks[0][1])[0])


def _png_pixels(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    """Change what is packed: filter bytes, too many or too few rows."""
    packed = b"".join(payload for kind, payload in chunks if kind == b"IDAT")
    try:
        rows = zlib.decompress(packed)
    except zlib.error:
        return
    rows = mutate_bytes(rng, rows, rows[::-1])[0] if rng.random() < 0.8 else rows + b"\0" * 300_000
    first = next((at for at, (kind, _) in enumerate(chunks) if kind == b"IDAT"), len(chunks))
    chunks[:] = [one for one in chunks if one[0] != b"IDAT"]
    chunks.insert(first, (b"IDAT", zlib.compress(rows)))


def _png_order(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    at, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    match rng.randrange(3):
        case 0:
            chunks[at], chunks[other] = chunks[other], chunks[at]
        case 1 if len(chunks) > 1:
            del chunks[at]
        case _:
            chunks[at:at] = [chunks[other]] * rng.choice((1, 3, 200))


def _png_new(rng: random.Random, chunks: list[tuple[bytes, bytes]]) -> None:
    kind = rng.choice((
        b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"pHYs", b"cHRM",
        b"sRGB", b"bKGD", b"xxxx", b"CRIT", b"\0\0\0\0", b"IEND",
    ))  # fmt: skip
    payload = rng.choice((
        b"", rng.randbytes(rng.choice((1, 4, 8, 9, 26, 300))), struct.pack(">2L", 2, 0), b"key\0\0" + _MUCH,
        b"Exif\0\0MM\0*" + rng.randbytes(40), b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0",
    ))  # fmt: skip
    chunks.insert(rng.randint(1, len(chunks)), (kind, payload))


def jpeg(seed: int, number: int) -> Case:
    """Make a JPEG file."""
    rng = case_random(seed, "jpeg", number)
    data, done = rng.choice(samples.jpegs()), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        mutate = mutate_bytes if rng.random() < 0.2 else mutate_codestream
        data, how = mutate(rng, data, rng.choice(samples.jpegs()))
        done.append(how)
    return Case(number, data, tuple(done))


PICTURES = {"dicom": dicom, "png": png, "jpeg": jpeg}
"""What makes the case of a format."""

__all__ = ["ATTRIBUTES", "PICTURES", "Case", "dicom", "jpeg", "png", "vary"]
