"""Overlays (groups 60xx, PS3.3 C.9.2) are marks of people and devices: none is ever drawn into a picture.

Most stand in Overlay Data, which are not even read. The retired kind stands in bits of the cells of the pixels, beside
Bits Stored, and is cleared there before anybody asks what the bits of a cell mean.
"""

from dataclasses import dataclass, replace

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.elements import Elements
from mcr_infer.images.pixel_format import PixelFormat

_BITS_ALLOCATED, _BIT_POSITION, _DATA = 0x0100, 0x0102, 0x3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """One overlay plane, as a header declares it."""

    has_data: bool
    """It has Overlay Data (60xx,3000)."""
    bit: int | None
    """The bit of each cell of the pixels that it declares for its own, 0 for the lowest; None where it declares none."""


def find_overlays(elements: Elements) -> tuple[Overlay, ...]:
    """Return the overlays of a header; groups that declare no place for one, as without their Overlay Data, are none."""
    groups = sorted(group for group in elements.groups() if group >> 8 == 0x60 and group % 2 == 0)
    return tuple(overlay for group in groups if (overlay := _read(elements, group << 16)) is not None)


def _read(elements: Elements, group: int) -> Overlay | None:
    has_data = elements.times(group | _DATA) > 0
    allocated, position = (elements.number(group | element) or 0 for element in (_BITS_ALLOCATED, _BIT_POSITION))
    # Overlay Data have one bit allocated, at position 0.
    bit = position if allocated > 1 or position > 0 else None
    return Overlay(has_data=has_data, bit=bit) if has_data or bit is not None else None


def without_overlays(layout: PixelFormat, overlays: tuple[Overlay, ...], notes: list[str]) -> PixelFormat:
    """Return the layout with the bits that overlays declare, of which the notes then speak.

    Raises `BrokenImageError` (`corrupt`) where the only place of one is among the bits of the pixel values.
    """
    if any(overlay.has_data for overlay in overlays):
        notes.append("overlays are not drawn")
    bits = 0
    for overlay in overlays:
        if overlay.bit is None or overlay.bit >= layout.bits_allocated:
            continue
        if not layout.high_bit - layout.bits_stored < overlay.bit <= layout.high_bit:
            bits |= 1 << overlay.bit
        elif not overlay.has_data:
            raise BrokenImageError(
                f"an overlay claims bit {overlay.bit} of the pixels, which Bits Stored and High Bit claim for their values: "
                "correct the header",
                reason="corrupt",
            )
    if bits:
        notes.append("overlays in bits of the pixels are cleared, not drawn")
    return replace(layout, overlay_bits=bits) if bits else layout
