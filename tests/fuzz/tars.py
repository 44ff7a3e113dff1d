"""Mutated tar archives: headers with the right checksum nearly always, pax records, sparse files; packed or not."""

import bz2
import gzip
import lzma
import random
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

from tests.fuzz import samples
from tests.fuzz.mutation import case_random, mutate_bytes
from tests.fuzz.pictures import Case
from tests.fuzz.zips import NAMES

_BLOCK = 512
_FIELDS: Mapping[str, tuple[int, int]] = MappingProxyType({
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
    "type": (156, 1), "link": (157, 100), "magic": (257, 6), "version": (263, 2), "device": (329, 8), "prefix": (345, 155),
})  # fmt: skip
_CHECKSUM = (148, 8)
_NUMBERS = (
    b"", b"00000000000\0", b"77777777777\0", b"00000000001\0", b"-0000000001\0", b"99999999999\0", b"           \0",
    b"\x80" + b"\0" * 10 + b"\x05", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"abcdefghijkl", b"0x10        ", b"000000010 0\0",
)  # fmt: skip
_TYPES = b"0\x001234567LKxgSDVNMXz\xff"
_LONG_PATH = b"80012 path=" + b"\xc3\xa9" * 40_000 + b"\n"
_PAX = (
    _LONG_PATH, b"29 size=9223372036854775808\n", b"30 size=99999999999999999999\n", b"9 size=1\n", b"16 path=a/../b\n",
    b"11 path=x.d\n", b"30 mtime=1350244992.023960108\n", b"22 size=99999999999999\n", b"12 size=-10\n", b"9 size=\n",
    b"abc\n",
    b"0 path=x\n", b"99999 path=x\n", b"19 GNU.sparse.map=\n", b"20 GNU.sparse.major=1\n", b"5 a\xff\n", b"\xff" * 30, b"",
    b"27 GNU.sparse.realsize=1e9\n", b"25 hdrcharset=BINARY\xff\xff\n", b"18 linkpath=../..\n",
)  # fmt: skip

Part = tuple[bytearray, bytes]
"""A header and the content behind it."""

PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    bytes, bytes, bytes, lambda data: gzip.compress(data, 1, mtime=0), lambda data: bz2.compress(data, 1),
    lambda data: lzma.compress(data, preset=0), lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
)  # fmt: skip


def tar_archive(seed: int, number: int) -> Case:
    """Make a tar archive."""
    rng = case_random(seed, "tar", number)
    parts = [_part(name.encode(), data) for name, data in samples.members(rng).items()]
    done: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        change = rng.choice((_field, _field, _field, _rename, _pax, _pax, _list, _content, _content))
        change(rng, parts)
        done.append(f"tar{change.__name__}")
    data = b"".join(
        bytes(_checked(rng, header)) + content + b"\0" * (-len(content) % _BLOCK) for header, content in parts
    )
    data += b"\0" * rng.choice((0, 512, 1024, 1024, 1024, 10_240))
    packer = rng.choice(PACKERS)
    if rng.random() < 0.2:
        data, how = mutate_bytes(rng, data, data[::-1])
        done.append(how)
    data = packer(data)
    if rng.random() < 0.2 or not done:
        data, how = mutate_bytes(rng, data, data[::-1])
        done.append(f"packed {how}")
    return Case(number, data, tuple(done))


def _part(name: bytes, content: bytes) -> Part:
    header = bytearray(_BLOCK)
    values = {
        "name": name[:99], "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0", "size": b"%011o\0" % len(content),
        "mtime": b"00000000000\0", "type": b"0", "magic": b"ustar\0", "version": b"00",
    }  # fmt: skip
    for key, value in values.items():
        _put(header, key, value)
    return header, content


def _put(header: bytearray, key: str, value: bytes) -> None:
    at, length = _FIELDS[key]
    header[at : at + length] = value[:length].ljust(length, b"\0")


def _checked(rng: random.Random, header: bytearray) -> bytearray:
    """Put the checksum in, a wrong one now and then."""
    at, length = _CHECKSUM
    header[at : at + length] = b" " * length
    header[at : at + length] = b"%06o\0 " % (sum(header) + (rng.random() < 0.03))
    return header


def _field(rng: random.Random, parts: list[Part]) -> None:
    header, _ = rng.choice(parts)
    key = rng.choice(list(_FIELDS))
    if key == "type":
        at = rng.randrange(len(_TYPES))
        _put(header, key, _TYPES[at : at + 1])
    else:
        _put(header, key, rng.choice(_NUMBERS) if rng.random() < 0.7 else rng.randbytes(_FIELDS[key][1]))


def _rename(rng: random.Random, parts: list[Part]) -> None:
    _put(rng.choice(parts)[0], rng.choice(("name", "prefix")), rng.choice(NAMES))


def _pax(rng: random.Random, parts: list[Part]) -> None:
    """Put a header of extended ones before a member: pax records, a long name, a sparse map."""
    content = b"".join(rng.choice(_PAX) for _ in range(rng.choice((1, 2, 40))))
    header, _ = _part(b"././@PaxHeader", content)
    _put(header, "type", rng.choice((b"x", b"x", b"g", b"L", b"K", b"S", b"X")))
    if rng.random() < 0.2:
        _put(header, "size", rng.choice(_NUMBERS))
    parts.insert(rng.randrange(len(parts) + 1), (header, content))


def _list(rng: random.Random, parts: list[Part]) -> None:
    at = rng.randrange(len(parts))
    match rng.randrange(4):
        case 0 if len(parts) > 1:
            del parts[at]
        case 1:
            parts.append(parts[at])
        case 2:
            parts.insert(
                at, (bytearray(_BLOCK), b"")
            )  # an end mark in the middle, for its checksum is put in: or no header
        case _:
            rng.shuffle(parts)


def _content(rng: random.Random, parts: list[Part]) -> None:
    at = rng.randrange(len(parts))
    header, content = parts[at]
    changed = mutate_bytes(rng, content, content[::-1])[0] if rng.random() < 0.7 else struct.pack(">L", 1) * 400
    parts[at] = (header, changed)
