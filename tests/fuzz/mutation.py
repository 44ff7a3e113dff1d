"""Mutators that know nothing of a format, and the random numbers of a case."""

import random
from collections.abc import Callable, Sequence

EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65534, 65535)
"""Numbers at which fields of 8 and 16 bits change their meaning."""

LONG_EDGES = (*EDGES, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)

ByteMutator = Callable[[random.Random, bytes, bytes], bytes]
"""Takes the file to change and another one of its format; returns another file."""


def case_random(seed: int, format: str, number: int) -> random.Random:
    """Return the generator of one case; text seeds a generator alike in every process."""
    return random.Random(f"{seed}/{format}/{number}")


def edge(rng: random.Random, near: int, edges: Sequence[int] = LONG_EDGES) -> int:
    """Draw a number that a reader may not expect: an edge, or one close to the right number."""
    return max(0, near + rng.choice((-4, -2, -1, 1, 2, 4, 1024))) if rng.random() < 0.5 else rng.choice(edges)


def _position(rng: random.Random, data: bytes) -> int:
    """Draw an offset; every other one lies in the first KiB, where headers are."""
    end = len(data) if rng.random() < 0.5 else min(len(data), 1024)
    return rng.randrange(max(1, end))


def flip_bits(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Flip up to eight bits."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[_position(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Overwrite one to four bytes with edge values or random ones."""
    changed, at = bytearray(data), _position(rng, data)
    for here in range(at, min(len(data), at + rng.randint(1, 4))):
        changed[here] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
    return bytes(changed)


def truncate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Cut the end off."""
    return data[: _position(rng, data)]


def insert(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Insert random bytes, or one byte many times."""
    at, count = _position(rng, data), rng.choice((1, 2, 3, 4, 16, 511, 4096))
    return data[:at] + (rng.randbytes(count) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * count) + data[at:]


def remove(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Take some bytes out."""
    at = _position(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 3, 4, 16, 512)) :]


def duplicate(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Repeat a block."""
    at = _position(rng, data)
    block = data[at : at + rng.choice((2, 8, 64, 512, 4096))]
    return data[:at] + block * rng.choice((2, 3, 10)) + data[at + len(block) :]


def splice(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Begin as one file and go on as another."""
    return data[: _position(rng, data)] + other[_position(rng, other) :]


def transplant(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Overwrite a block with one of another file."""
    at, start = _position(rng, data), _position(rng, other)
    block = other[start : start + rng.choice((8, 64, 512))]
    return data[:at] + block + data[at + len(block) :]


BYTE_MUTATORS: tuple[ByteMutator, ...] = (
    flip_bits, flip_bits, set_bytes, set_bytes, truncate, insert, remove, duplicate, splice, transplant,
)  # fmt: skip


def mutate_bytes(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, str]:
    """Apply one mutator; return the changed file and what was done to it."""
    mutator = rng.choice(BYTE_MUTATORS)
    return mutator(rng, data, other), mutator.__name__
