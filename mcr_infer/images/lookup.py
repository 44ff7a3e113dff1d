"""Modality and VOI look-up tables as files hold them (PS3.3 C.11.1.1.1 and C.11.2.1.1), decided by fixed rules.

A table that a rule had to decide about leaves a note. One that no rule understands raises `UnusableTableError`.
"""

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


def read_modality_lut(item: Attributes, *, signed: bool, inputs: tuple[float, float]) -> LookupTable:
    """Read an item of Modality LUT Sequence (0028,3000), whose entries are values as they are.

    `signed` is the sign of the pixels and `inputs` their least and greatest value. Raises `UnusableTableError`.
    """
    name = "modality LUT"
    table, bits = _read_table(item, name, signed=signed, inputs=inputs)
    used = int(table.values.max()).bit_length()
    if used > bits:
        item.notes.append(f"{name} declares entries of {bits} bits and uses {used}: taken as they are")
    return table


def read_voi_lut(item: Attributes, *, signed: bool, inputs: tuple[float, float]) -> LookupTable:
    """Read an item of VOI LUT Sequence (0028,3010), with its entries scaled to [0, 1].

    `inputs` are the least and greatest value after the modality LUT or rescale, `signed` says whether these can be
    negative. Raises `UnusableTableError`.
    """
    name = "VOI LUT"
    table, bits = _read_table(item, name, signed=signed, inputs=inputs)
    used = int(table.values.max()).bit_length()
    if not 8 <= bits <= 16 or not bits - _UNUSED_BITS < used <= bits:
        # Some writers declare the bits of a word for entries of 10 to 14, others 8 for entries of a whole word.
        item.notes.append(f"{name} declares entries of {bits} bits and uses {used}: {used} bits are its full scale")
        bits = used
    return LookupTable(first=table.first, values=table.values / ((1 << bits) - 1))


def _read_table(item: Attributes, name: str, *, signed: bool, inputs: tuple[float, float]) -> tuple[LookupTable, int]:
    """Return the table with its entries as they are stored, and the bits of an entry that its descriptor declares."""
    descriptor = np.frombuffer(item.packed("LUTDescriptor"), dtype=np.uint8)
    if len(descriptor) != 6:
        raise UnusableTableError("has no LUT Descriptor of three values")
    count, first, bits = descriptor.view("<u2").tolist()
    entries = _read_entries(item, name, count or 0x10000)
    if bits == 8 and np.array_equal(entries >> 8, entries & 0xFF):
        entries &= 0xFF  # 8 bits, written into both halves of a word
    if entries.min() == entries.max():
        raise UnusableTableError("has equal entries only")
    first = _read_first(item, name, first, len(entries), signed=signed, inputs=inputs)
    return LookupTable(first=first, values=entries.astype(np.float64)), bits


def _read_entries(item: Attributes, name: str, count: int) -> NDArray[np.uint16]:
    """Return the entries [N] of words, or of bytes two in a word: of whichever there are as many as declared, or nearly."""
    data = item.packed("LUTData")
    if not data:
        raise UnusableTableError("has no LUT Data that can be read")
    if len(data) // 2 == count:  # an odd byte pads
        return np.frombuffer(data, dtype="<u2", count=count).copy()
    if len(data) in (count, count + count % 2):
        return np.frombuffer(data, dtype=np.uint8, count=count).astype(np.uint16)
    held, width = min(((len(data) // width, width) for width in (2, 1)), key=lambda pair: abs(pair[0] - count))
    if abs(held - count) > max(1, count // _TOLERATED):
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
