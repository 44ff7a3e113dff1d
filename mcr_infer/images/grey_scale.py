"""The grey scale that a DICOM header asks for: its attributes become the parameters of a rendering.

A modality LUT or rescale that cannot be understood is an error, since the pixels mean nothing without it. A window or VOI
LUT that cannot be is left out with a note, since another way to choose black and white remains.
"""

import math

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.attributes import Attributes
from mcr_infer.images.layout import PixelFormat
from mcr_infer.images.lookup import UnusableTableError, read_modality_lut, read_voi_lut
from mcr_infer.images.rendering import Rendering, Window, WindowFunction

_FUNCTIONS: tuple[WindowFunction, ...] = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

_RESCALE = ("RescaleSlope", "RescaleIntercept")


def read_rendering(attributes: Attributes, layout: PixelFormat) -> Rendering:
    """Read the parameters of PS3.3 C.11.1 and C.11.2, the padding of C.7.5.1.1.2 and the photometric interpretation.

    Presentation LUT Shape decides nothing: in Digital X-Ray images its INVERSE only repeats MONOCHROME1 (C.8.11.3.1.2).
    Raises `BrokenImageError` (`corrupt`) for a modality LUT, Rescale Slope or Rescale Intercept without a meaning.
    """
    levels = layout.levels
    slope, intercept = 1.0, 0.0
    modality_lut = None
    if (item := attributes.item("ModalityLUTSequence", essential=True)) is not None:
        try:
            modality_lut = read_modality_lut(item, signed=layout.signed, inputs=levels)
        except UnusableTableError as error:
            raise BrokenImageError(f"the modality LUT {error}", reason="corrupt") from error
        outputs = float(modality_lut.values.min()), float(modality_lut.values.max())
        if stated := _stated(attributes, *_RESCALE):
            attributes.notes.append(f"{' and '.join(stated)} ignored beside the modality LUT")
    else:
        slope = attributes.essential_number("RescaleSlope", 1.0)
        intercept = attributes.essential_number("RescaleIntercept", 0.0)
        if len(stated := _stated(attributes, *_RESCALE)) == 1:
            # Each is required where the other one is (PS3.3 C.11.1); what is there is applied.
            absent, neutral = ("RescaleIntercept", 0) if stated[0] == "RescaleSlope" else ("RescaleSlope", 1)
            attributes.notes.append(f"{stated[0]} without {absent}: {absent} is taken as {neutral}")
        if slope == 0.0:
            attributes.notes.append("RescaleSlope 0 ignored")
            slope, intercept = 1.0, 0.0
        ends = sorted(slope * level + intercept for level in levels)
        outputs = ends[0], ends[1]
        if not all(map(math.isfinite, outputs)):
            raise BrokenImageError("RescaleSlope and RescaleIntercept make values beyond all numbers", reason="corrupt")
    voi_lut = None
    if (item := attributes.item("VOILUTSequence")) is not None:
        try:
            voi_lut = read_voi_lut(item, signed=outputs[0] < 0, inputs=outputs)
        except UnusableTableError as error:
            attributes.notes.append(f"VOI LUT ignored: it {error}")
    inverted = attributes.code("PhotometricInterpretation") == "MONOCHROME1"
    shape = attributes.code("PresentationLUTShape")
    if (shape == "INVERSE" and not inverted) or (shape == "IDENTITY" and inverted):
        attributes.notes.append("PresentationLUTShape contradicts PhotometricInterpretation: ignored")
    return Rendering(
        modality_lut=modality_lut,
        slope=slope,
        intercept=intercept,
        padding=_read_padding(attributes, layout),
        voi_lut=voi_lut,
        window=_read_window(attributes),
        inverted=inverted,
    )


def _stated(attributes: Attributes, *keywords: str) -> list[str]:
    return [keyword for keyword in keywords if attributes.has_value(keyword)]


def _read_window(attributes: Attributes) -> Window | None:
    """Read the first window; None where there is none or its width cannot be used."""
    center, width = attributes.first_number("WindowCenter"), attributes.first_number("WindowWidth")
    centers, widths = attributes.texts("WindowCenter"), attributes.texts("WindowWidth")
    if bool(centers) != bool(widths):
        attributes.notes.append("window ignored: it has a center or a width, not both")
    if center is None or width is None:
        return None
    if len(widths) > 1:
        attributes.notes.append(f"first of {len(widths)} windows used")
    stated = attributes.text("VOILUTFunction") or "LINEAR"
    function = next((name for name in _FUNCTIONS if name == stated.upper()), None)
    if function is None:
        attributes.notes.append("unknown VOILUTFunction taken for LINEAR")
        function = "LINEAR"
    try:
        return Window(center=center, width=width, function=function)
    except ValueError:
        attributes.notes.append(f"window width {width:g} ignored")
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
