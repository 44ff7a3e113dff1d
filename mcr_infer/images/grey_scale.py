"""The grey scale that a DICOM header asks for: its attributes become the parameters of a rendering.

A modality LUT that cannot be understood is an error, since the pixels mean nothing without it. A window or VOI LUT that
cannot be is left out with a note, since another way to choose black and white remains.
"""

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.attributes import Attributes
from mcr_infer.images.layout import PixelFormat
from mcr_infer.images.rendering import LookupTable, Rendering, Window, WindowFunction

_FUNCTIONS: tuple[WindowFunction, ...] = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def read_rendering(attributes: Attributes, layout: PixelFormat) -> Rendering:
    """Read the parameters of PS3.3 C.11.1 and C.11.2, the padding of C.7.5.1.1.2 and the photometric interpretation.

    Presentation LUT Shape is not asked: in Digital X-Ray images its INVERSE only repeats MONOCHROME1 (C.8.11.3.1.2).
    """
    modality_lut = None
    if (item := attributes.item("ModalityLUTSequence")) is not None:
        modality_lut = _read_table(item, negative=layout.signed)
        if modality_lut is None:
            raise BrokenImageError("the modality LUT has no usable LUTDescriptor and LUTData", reason="corrupt")
    slope, intercept = attributes.number("RescaleSlope", 1.0), attributes.number("RescaleIntercept", 0.0)
    if slope == 0.0:
        attributes.notes.append("RescaleSlope 0 ignored")
        slope, intercept = 1.0, 0.0
    voi_lut = None
    if (item := attributes.item("VOILUTSequence")) is not None:
        negative = modality_lut is None and min(slope * level + intercept for level in layout.levels) < 0
        voi_lut = _read_table(item, negative=negative)
        if voi_lut is None:
            attributes.notes.append("VOI LUT without usable LUTDescriptor and LUTData ignored")
        else:
            # Descriptors often name 16 bits for a table of 12, by which white would never be reached.
            white = (1 << int(voi_lut.values.max()).bit_length()) - 1
            voi_lut = LookupTable(first=voi_lut.first, values=voi_lut.values / white)
    return Rendering(
        modality_lut=modality_lut,
        slope=slope,
        intercept=intercept,
        padding=_read_padding(attributes, layout),
        voi_lut=voi_lut,
        window=_read_window(attributes),
        inverted=attributes.code("PhotometricInterpretation") == "MONOCHROME1",
    )


def _read_window(attributes: Attributes) -> Window | None:
    """Read the first window; None where there is none or its width cannot be used."""
    centers, widths = attributes.numbers("WindowCenter"), attributes.numbers("WindowWidth")
    if not centers or not widths:
        return None
    if len(widths) > 1:
        attributes.notes.append(f"first of {len(widths)} windows used")
    stated = attributes.text("VOILUTFunction") or "LINEAR"
    function = next((name for name in _FUNCTIONS if name == stated.upper()), None)
    if function is None:
        attributes.notes.append("unknown VOILUTFunction taken for LINEAR")
        function = "LINEAR"
    try:
        return Window(center=centers[0], width=widths[0], function=function)
    except ValueError:
        attributes.notes.append(f"window width {widths[0]:g} ignored")
        return None


def _read_padding(attributes: Attributes, layout: PixelFormat) -> tuple[int, int] | None:
    """Read the stored values that pad, in the signedness of the pixels; their order in the file means nothing."""
    value = attributes.numbers("PixelPaddingValue")[:1]
    if not value:
        return None
    limit = attributes.numbers("PixelPaddingRangeLimit")[:1]
    values = [_in_16_bits(int(code), negative=layout.signed) for code in value + limit]
    lowest, highest = layout.levels
    if max(values) < lowest or min(values) > highest:
        attributes.notes.append("PixelPaddingValue outside of Bits Stored ignored")
        return None
    return min(values), max(values)


def _in_16_bits(value: int, *, negative: bool) -> int:
    """Read 16 bits whose VR, US or SS, the writer may have mistaken."""
    code = value & 0xFFFF
    return code - 0x10000 if negative and code >= 0x8000 else code


def _read_table(item: Attributes, *, negative: bool) -> LookupTable | None:
    """Read LUT Descriptor and LUT Data (PS3.3 C.11.1.1); None where they do not belong together."""
    descriptor = item.numbers("LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first = int(descriptor[0]) & 0xFFFF, int(descriptor[1])
    words = item.words("LUTData", count or 0x10000)
    if words is None or words.min() == words.max():
        return None
    return LookupTable(first=_in_16_bits(first, negative=negative), values=words.astype(float))
