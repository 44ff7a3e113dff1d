"""Modality and VOI look-up tables as files hold them (PS3.3 C.11.1.1.1 and C.11.2.1.1), decided by fixed rules.

A table that a rule had to decide about leaves a note. One that no rule understands raises `UnusableTableError`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.attributes import Attributes
from mcr_infer.images.rendering import LookupTable

_TOLERATED = 64
"""One entry in so many, and at least one, may be missing or surplus. Beyond that the descriptor is of another table."""

_UNUSED_BITS = 2
"""A table whose entries leave so many of the declared bits unused would never exceed a quarter of white."""


class UnusableTableError(ValueError):
    """A look-up table that no rule understands; its text completes the sentence "the LUT ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTable:
    """A look-up table with entries as they are stored."""

    table: LookupTable
    full_scale: int
    """The entry that stands for white; it matters to a VOI LUT alone."""


def read_table(item: Attributes, name: str, *, signed: bool, inputs: tuple[float, float]) -> StoredTable:
    """Read LUT Descriptor (0028,3002) and LUT Data (0028,3006) of a sequence item.

    `signed` tells how the standard wants the first value mapped to be read; `inputs` are the least and greatest value
    that can be looked up. Notes begin with `name`. Raises `UnusableTableError`.
    """
    descriptor = np.frombuffer(item.packed("LUTDescriptor"), dtype=np.uint8)
    if len(descriptor) != 6:
        raise UnusableTableError("has no LUT Descriptor of three values")
    count, first, bits = descriptor.view("<u2").tolist()
    entries = _read_entries(item, name, count or 0x10000)
    if bits == 8 and np.array_equal(entries >> 8, entries & 0xFF):
        entries &= 0xFF  # 8 bits, written into both halves of a word
    if entries.min() == entries.max():
        raise UnusableTableError("has equal entries only")
    return StoredTable(
        table=LookupTable(
            first=_read_first(item, name, first, len(entries), signed=signed, inputs=inputs),
            values=entries.astype(np.float64),
        ),
        full_scale=_read_full_scale(item, name, int(entries.max()), bits),
    )


def _read_entries(item: Attributes, name: str, count: int) -> NDArray[np.uint16]:
    """Return the entries [N] of words, or of bytes two in a word: of whichever there are as many as declared, or nearly."""
    data = item.packed("LUTData")
    if len(data) == 2 * count:
        return np.frombuffer(data, dtype="<u2").copy()
    if len(data) in (count, count + count % 2):
        return np.frombuffer(data, dtype=np.uint8, count=count).astype(np.uint16)
    held, width = min(((len(data) // width, width) for width in (2, 1)), key=lambda pair: abs(pair[0] - count))
    if not held or abs(held - count) > max(1, count // _TOLERATED):
        raise UnusableTableError(
            f"has {len(data)} bytes of LUT Data, which are not the {count} entries of its descriptor"
        )
    fate = "the last one stands for the rest" if held < count else "the surplus is ignored"
    item.notes.append(f"{name} of {held} entries where its descriptor says {count}: {fate}")
    return np.frombuffer(data, dtype=f"<u{width}", count=min(held, count)).astype(np.uint16)


def _read_first(
    item: Attributes, name: str, code: int, count: int, *, signed: bool, inputs: tuple[float, float]
) -> int:
    """Read 16 bits as the standard wants, or the other way where only that makes the table meet its inputs."""
    least, greatest = inputs
    negative = code - 0x10000 if code >= 0x8000 else code
    first, other = (negative, code) if signed else (code, negative)
    meets = [start <= greatest and start + count > least for start in (first, other)]
    if meets == [False, True]:
        item.notes.append(f"{name} read as beginning at {other}, since at {first} it would cover no value")
        return other
    return first


def _read_full_scale(item: Attributes, name: str, largest: int, bits: int) -> int:
    """Return 2^n - 1, n being the bits of an entry that the descriptor declares, or those in use where it cannot be right.

    Some writers declare the bits of a word for entries of 10 to 14, others 8 for entries of a whole word.
    """
    used = largest.bit_length()
    if 8 <= bits <= 16 and bits - _UNUSED_BITS < used <= bits:
        return (1 << bits) - 1
    item.notes.append(f"{name} declares entries of {bits} bits and uses {used}: {used} bits are its full scale")
    return (1 << used) - 1
