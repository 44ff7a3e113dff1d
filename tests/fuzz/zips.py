"""Mutated zip archives: every field of local headers, of the directory and of its end can be made wrong."""

import random
import struct
import zlib
from dataclasses import dataclass, field

from tests.fuzz import samples
from tests.fuzz.mutation import case_random, edge, mutate_bytes
from tests.fuzz.pictures import Case

_LOCAL_FIELDS = ("signature", "version", "flags", "method", "time", "date", "crc", "packed", "size", "name", "extra")
_LOCAL = "HHHHHLLLHH"
_CENTRAL_FIELDS = (
    "signature", "creator", "version", "flags", "method", "time", "date", "crc", "packed", "size", "name", "extra",
    "comment",
    "disk", "internal", "external", "offset",
)  # fmt: skip
_CENTRAL = "HHHHHHLLLHHHHHLL"
_END = struct.Struct("<4s4H2LH")

NAMES = (
    b"../../up.dcm", b"/absolute.dcm", b"a/", b"", b"a\0b.dcm", b"\xff\xfe.dcm", b"n" * 60_000, b"\xff" * 30_000,
    b"a\nb.dcm", b"\x1b[31m.dcm",
    b"C:\\x.dcm", b"a/../b.dcm", b".hidden/x.dcm", b"x.zip", b"DICOMDIR", "\u202egnp.dcm".encode(), b"same.dcm",
)  # fmt: skip
"""Names of members that lead out, deceive or are none."""


@dataclass(slots=True)
class _Entry:
    name: bytes
    data: bytes
    """As packed."""
    local: dict[str, int | bytes]
    central: dict[str, int | bytes]
    extra: bytes = b""
    listed: bool = True
    stored: bool = True


@dataclass(slots=True)
class _Zip:
    entries: list[_Entry]
    end: dict[int, int] = field(default_factory=dict)
    """Changed fields of the end record, by position."""
    before: bytes = b""
    after: bytes = b""
    comment: bytes = b""


def zip_archive(seed: int, number: int) -> Case:
    """Make a zip archive."""
    rng = case_random(seed, "zip", number)
    archive = _Zip([_entry(rng, name.encode(), data) for name, data in samples.members(rng).items()])
    done = []
    if rng.random() < 0.25:
        data, how = mutate_bytes(rng, _encode(archive), _encode(_Zip(archive.entries[:1])))
        return Case(number, data, (how,))
    for _ in range(rng.choice((1, 1, 2, 3))):
        change = rng.choice((_central, _central, _local, _local, _end, _end, _rename, _content, _zip64, _list, _around))
        change(rng, archive)
        done.append(f"zip{change.__name__}")
    return Case(number, _encode(archive), tuple(done))


def _entry(rng: random.Random, name: bytes, data: bytes) -> _Entry:
    packed, method = data, 0
    if rng.random() < 0.6:
        packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed, method = packer.compress(data) + packer.flush(), 8
    both: dict[str, int | bytes] = {"method": method, "crc": zlib.crc32(data), "packed": len(packed), "size": len(data)}
    return _Entry(name, packed, dict(both), dict(both))


def _encode(archive: _Zip) -> bytes:
    out, listed = bytearray(archive.before), bytearray()
    count = 0
    for one in archive.entries:
        offset = len(out)
        if one.stored:
            local = {"signature": b"PK\3\4", "version": 20, "name": len(one.name), "extra": 0} | one.local
            out += _pack(_LOCAL, _LOCAL_FIELDS, local) + one.name + one.data
        if one.listed:
            count += 1
            central = {
                "signature": b"PK\1\2",
                "creator": 0x0314,
                "version": 20,
                "name": len(one.name),
                "extra": len(one.extra),
            }
            central |= {"offset": offset - len(archive.before)} | one.central
            listed += _pack(_CENTRAL, _CENTRAL_FIELDS, central) + one.name + one.extra
    values: list[int] = [0, 0, count, count, len(listed), len(out) - len(archive.before), len(archive.comment)]
    for at, value in archive.end.items():
        values[at] = value % (1 << (32 if at in (4, 5) else 16))
    return bytes(out + listed) + _END.pack(b"PK\5\6", *values) + archive.comment + archive.after


def _pack(codes: str, names: tuple[str, ...], values: dict[str, int | bytes]) -> bytes:
    numbers = [
        int(values.get(name, 0)) % (1 << (32 if code == "L" else 16))
        for name, code in zip(names[1:], codes, strict=True)
    ]
    return struct.pack(f"<4s{codes}", values["signature"], *numbers)


def _central(rng: random.Random, archive: _Zip) -> None:
    one, name = rng.choice(archive.entries), rng.choice(_CENTRAL_FIELDS)
    one.central[name] = _changed(rng, name, one.central)


def _local(rng: random.Random, archive: _Zip) -> None:
    one, name = rng.choice(archive.entries), rng.choice(_LOCAL_FIELDS)
    one.local[name] = _changed(rng, name, one.local)


def _changed(rng: random.Random, name: str, values: dict[str, int | bytes]) -> int | bytes:
    if name == "signature":
        return rng.choice((b"PK\0\0", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"\0\0\0\0"))
    if name == "method":
        return rng.choice((0, 1, 8, 9, 12, 14, 93, 95, 99, 65535))
    if name == "external":
        return rng.choice((0, 0o120777 << 16, 0o40755 << 16, 0o60000 << 16, 16))
    return edge(rng, int(values.get(name, 0)))


def _end(rng: random.Random, archive: _Zip) -> None:
    at = rng.randrange(7)
    whole = len(_encode(archive))
    archive.end[at] = edge(rng, rng.choice((0, len(archive.entries), whole)))


def _rename(rng: random.Random, archive: _Zip) -> None:
    rng.choice(archive.entries).name = rng.choice(NAMES)
    if rng.random() < 0.3:
        rng.choice(archive.entries).name = rng.choice(archive.entries).name


def _content(rng: random.Random, archive: _Zip) -> None:
    one = rng.choice(archive.entries)
    one.data = mutate_bytes(rng, one.data, one.data[::-1])[0]
    if rng.random() < 0.3:
        one.local["packed"] = one.central["packed"] = len(one.data)


def _zip64(rng: random.Random, archive: _Zip) -> None:
    one = rng.choice(archive.entries)
    for name in rng.sample(("size", "packed", "offset"), rng.randint(1, 3)):
        one.central[name] = 0xFFFFFFFF
    content = rng.choice(
        (
            b"",
            struct.pack("<Q", len(one.data)),
            struct.pack("<3Q", 2**63, 5, 2**40),
            struct.pack("<3Q", 5, 2**64 - 1, 2**64 - 1),
            rng.randbytes(20),
        )
    )
    one.extra = struct.pack("<HH", 1, rng.choice((len(content), 0, 65535))) + content


def _list(rng: random.Random, archive: _Zip) -> None:
    """List a member twice or not at all, or list what is not there."""
    at = rng.randrange(len(archive.entries))
    match rng.randrange(4):
        case 0:
            archive.entries[at].listed = False
        case 1:
            archive.entries[at].stored = False
        case 2:
            archive.entries.append(archive.entries[at])
        case _:
            rng.shuffle(archive.entries)


def _around(rng: random.Random, archive: _Zip) -> None:
    """Put something before the archive, behind it, or into its comment."""
    some = rng.choice(
        (b"#!/bin/sh\n", b"\0" * 512, b"PK\5\6" + b"\0" * 18, b"PK\6\7" + b"\0" * 16, rng.randbytes(70_000))
    )
    match rng.randrange(3):
        case 0:
            archive.before = some
        case 1:
            archive.after = some
        case _:
            archive.comment = some[:60_000]
