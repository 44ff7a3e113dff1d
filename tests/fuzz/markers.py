"""Codestreams as segments between markers: JPEG, JPEG Lossless, JPEG-LS (ITU-T T.81, T.87) and JPEG 2000 (T.800); and RLE.

A JPEG frame and a JPEG 2000 one are told apart by their first marker.
"""

import random
import struct
from dataclasses import dataclass, replace

from tests.fuzz.mutation import BYTE_MUTATORS, EDGES, LONG_EDGES, edge, flip_bits, set_bytes

_SOI, _EOI, _SOS, _SOF0, _DHT, _DQT, _SOC, _SOD = 0xFFD8, 0xFFD9, 0xFFDA, 0xFFC0, 0xFFC4, 0xFFDB, 0xFF4F, 0xFF93
_ALONE = frozenset({_SOI, _EOI, _SOC, _SOD, 0xFF01, *range(0xFFD0, 0xFFD8)})
"""Markers without a length."""

_JPEG_MARKERS = (*range(0xFFC0, 0xFFD0), *range(0xFFD0, 0xFFE0), 0xFFE0, 0xFFE1, 0xFFEE, 0xFFF7, 0xFFF8, 0xFFFE)
_JPEG2000_MARKERS = (
    0xFF4F, 0xFF50, 0xFF51, 0xFF52, 0xFF53, 0xFF55, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60,
    0xFF61, 0xFF63, 0xFF64, 0xFF90, 0xFF91, 0xFF92, 0xFF93, 0xFFD9,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker with what follows it up to the next one; after SOS and SOD the entropy-coded data are in `data`."""

    marker: int
    payload: bytes = b""
    data: bytes = b""
    stated: int | None = None
    """Length that is written instead of the right one."""

    def encode(self) -> bytes:
        """Write it."""
        head = struct.pack(">H", self.marker)
        if self.marker in _ALONE:
            return head + self.data
        length = len(self.payload) + 2 if self.stated is None else self.stated
        return head + struct.pack(">H", length & 0xFFFF) + self.payload + self.data


def split(data: bytes) -> list[Segment]:
    """Cut a sound codestream into segments. Raises `ValueError` or `struct.error` where it is none."""
    segments: list[Segment] = []
    here = 0
    while here < len(data):
        (marker,) = struct.unpack_from(">H", data, here)
        if marker < 0xFF00:
            raise ValueError("no marker where one must be")
        here += 2
        payload = b""
        if marker not in _ALONE:
            (length,) = struct.unpack_from(">H", data, here)
            payload = data[here + 2 : here + length]
            here += length
        start = here
        if marker in (_SOS, _SOD):
            here = _end_of_scan(data, here, stuffed=marker == _SOS)
        elif marker == _EOI:
            here = len(data)
        segments.append(Segment(marker, payload, data[start:here]))
    return segments


def _end_of_scan(data: bytes, here: int, *, stuffed: bool) -> int:
    """Return where entropy-coded data end: at the next marker of a segment, or, in JPEG 2000, at the end marker."""
    if not stuffed:
        end = data.rfind(b"\xff\xd9")
        following = data.find(b"\xff\x90\x00\x0a", here)
        return following if 0 <= following < end else end if end >= here else len(data)
    while 0 <= (here := data.find(b"\xff", here)) < len(data) - 1:
        # In JPEG a zero follows, in JPEG-LS a byte below 0x80; restart markers belong to the data.
        if data[here + 1] >= 0x80 and not 0xD0 <= data[here + 1] <= 0xD7:
            return here
        here += 2
    return len(data)


def join(segments: list[Segment]) -> bytes:
    """Write segments one after the other."""
    return b"".join(one.encode() for one in segments)


def mutate_codestream(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """Change one thing of a codestream; return it and what was done."""
    try:
        segments = split(data)
    except (ValueError, struct.error):
        segments = []
    if len(segments) < 3 or rng.random() < 0.15:
        mutator = rng.choice(BYTE_MUTATORS)
        return mutator(rng, data, other), f"codestream {mutator.__name__}"
    change = rng.choice((
        _state_length, _change_field, _change_field, _change_field, _rename, _drop, _repeat, _exchange, _add, _damage_scan,
        _damage_scan, _cut_scan, _change_size,
    ))  # fmt: skip
    at = rng.randrange(len(segments))
    change(rng, segments, at)
    return join(segments), f"codestream{change.__name__}"


def _state_length(rng: random.Random, segments: list[Segment], at: int) -> None:
    segments[at] = replace(segments[at], stated=edge(rng, len(segments[at].payload) + 2, EDGES))


def _with_payload(rng: random.Random, segments: list[Segment]) -> int:
    return rng.choice([at for at, one in enumerate(segments) if one.payload] or [0])


def _change_field(rng: random.Random, segments: list[Segment], at: int) -> None:
    """Change a number of 8, 16 or 32 bits in a header segment."""
    at = _with_payload(rng, segments)
    payload = bytearray(segments[at].payload or b"\0")
    code = rng.choice("BBBHL")
    size = struct.calcsize(f">{code}")
    if len(payload) >= size:
        here = rng.randrange(len(payload) - size + 1)
        (value,) = struct.unpack_from(f">{code}", payload, here)
        struct.pack_into(f">{code}", payload, here, edge(rng, value, LONG_EDGES) % (1 << 8 * size))
    segments[at] = replace(segments[at], payload=bytes(payload))


def _rename(rng: random.Random, segments: list[Segment], at: int) -> None:
    known = _JPEG2000_MARKERS if segments[0].marker == _SOC else _JPEG_MARKERS
    segments[at] = replace(segments[at], marker=rng.choice(known))


def _drop(rng: random.Random, segments: list[Segment], at: int) -> None:
    del segments[at]


def _repeat(rng: random.Random, segments: list[Segment], at: int) -> None:
    segments[at:at] = [segments[at]] * rng.choice((1, 2, 50))


def _exchange(rng: random.Random, segments: list[Segment], at: int) -> None:
    other = rng.randrange(len(segments))
    segments[at], segments[other] = segments[other], segments[at]


def _add(rng: random.Random, segments: list[Segment], at: int) -> None:
    known = _JPEG2000_MARKERS if segments[0].marker == _SOC else _JPEG_MARKERS
    payload = rng.randbytes(rng.choice((0, 1, 4, 14, 300)))
    segments.insert(at, Segment(rng.choice(known), payload, stated=rng.choice((None, None, rng.choice(EDGES)))))


def _scan_of(segments: list[Segment]) -> int:
    return max(range(len(segments)), key=lambda at: len(segments[at].data))


def _damage_scan(rng: random.Random, segments: list[Segment], at: int) -> None:
    at = _scan_of(segments)
    damage = rng.choice((flip_bits, set_bytes))
    segments[at] = replace(segments[at], data=damage(rng, segments[at].data, b""))


def _cut_scan(rng: random.Random, segments: list[Segment], at: int) -> None:
    at = _scan_of(segments)
    data = segments[at].data
    segments[at] = replace(segments[at], data=data[: rng.randrange(len(data) + 1)] + b"\0" * rng.choice((0, 0, 64)))


def _change_size(rng: random.Random, segments: list[Segment], at: int) -> None:
    """State another size, depth or number of components in the frame header alone (SOF, SIZ)."""
    sizes = {0xFF51: "L", 0xFFF7: "H"} | dict.fromkeys(range(_SOF0, 0xFFCC), "H")
    found = [at for at, one in enumerate(segments) if one.marker in sizes and one.marker not in (_DHT, 0xFFC8)]
    if not found:
        return _change_field(rng, segments, at)
    at = found[0]
    payload = bytearray(segments[at].payload)
    code = sizes[segments[at].marker]
    here = rng.choice((2, 6, 10, 14, 18, 22, 26, 30, 34) if code == "L" else (0, 1, 3, 4, 5))
    size = struct.calcsize(f">{code}")
    if here + size <= len(payload):
        (value,) = struct.unpack_from(f">{code}", payload, here)
        struct.pack_into(f">{code}", payload, here, edge(rng, value) % (1 << 8 * size))
    segments[at] = replace(segments[at], payload=bytes(payload))
    return None


def mutate_runs(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """Change one thing of an RLE frame (PS3.5 annex G): its header, or the control bytes of its runs."""
    if len(data) < 64 or rng.random() < 0.2:
        mutator = rng.choice(BYTE_MUTATORS)
        return mutator(rng, data, other), f"rle {mutator.__name__}"
    changed = bytearray(data)
    if rng.random() < 0.5:
        at = 4 * rng.choice((0, 1, 2, 3, 15))
        (value,) = struct.unpack_from("<L", changed, at)
        struct.pack_into("<L", changed, at, edge(rng, value) & 0xFFFFFFFF)
        return bytes(changed), "rle header"
    at = 64 + rng.choice((0, rng.randrange(max(1, len(data) - 64))))
    changed[at % len(data)] = rng.choice((0, 1, 127, 128, 129, 255))
    return bytes(changed), "rle control byte"
