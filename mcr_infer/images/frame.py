"""What a DICOM header says of its one frame: how it is stored, which way it stands, and how far apart its pixels lie."""

from dataclasses import dataclass

from mcr_infer.errors import BrokenImageError, UnsupportedImageError
from mcr_infer.images.attributes import Attributes
from mcr_infer.images.layout import PixelFormat
from mcr_infer.images.rendering import Turn

_COLOURS = frozenset({
    "PALETTE COLOR", "RGB", "HSV", "ARGB", "CMYK", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420",
    "YBR_ICT",
    "YBR_RCT", "XYB", "MONOCHROME1", "MONOCHROME2",
})  # fmt: skip
"""The terms of Photometric Interpretation (PS3.3 C.7.6.3.1.2), which may be quoted; any other could be a misplaced id."""

_DECISIVE = (
    "PhotometricInterpretation", "SamplesPerPixel", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "PatientOrientation",
)  # fmt: skip
"""Without one of these, a picture of other pixels, of other values or the wrong way round could be made."""

_WIDEST_ASPECT = 10.0
"""Pixels further from square than this are taken for a mistake."""


def require_one_grey_frame(attributes: Attributes, max_pixels: int) -> PixelFormat:
    """Return the layout of the pixels; raises `UnsupportedImageError` or `BrokenImageError` for what is not read."""
    attributes.require_one_value(*_DECISIVE)
    photometric = attributes.code("PhotometricInterpretation")
    samples = attributes.number("SamplesPerPixel", 1)
    if photometric is None:
        raise BrokenImageError(
            "the DICOM header has no usable PhotometricInterpretation: nothing says whether high values are white or black",
            reason="missing_attribute",
        )
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        kind = photometric if photometric in _COLOURS else "unknown"
        raise UnsupportedImageError(
            f"the image has {kind} pixels of {samples:g} sample(s): only greyscale ones are read, "
            "MONOCHROME1 or MONOCHROME2 of 1 sample",
            reason="colour",
        )
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise BrokenImageError(
            "PhotometricInterpretation is none that exists, expected MONOCHROME1 or MONOCHROME2", reason="corrupt"
        )
    frames = int(attributes.number("NumberOfFrames", 1))
    if frames > 1:
        raise UnsupportedImageError(f"the image has {frames} frames: one is read", reason="multi_frame")
    rows, columns = attributes.integer("Rows"), attributes.integer("Columns")
    if rows * columns > max_pixels:
        raise UnsupportedImageError(
            f"the image has {rows} x {columns} pixels: at most {max_pixels} are read", reason="too_large"
        )
    bits_stored = attributes.integer("BitsStored")
    representation = attributes.integer("PixelRepresentation")
    if representation not in (0, 1):
        raise BrokenImageError(f"PixelRepresentation is {representation}, expected 0 or 1", reason="corrupt")
    return PixelFormat(
        rows=rows,
        columns=columns,
        bits_allocated=attributes.integer("BitsAllocated"),
        bits_stored=bits_stored,
        high_bit=int(attributes.number("HighBit", bits_stored - 1)),
        signed=representation == 1,
    )


def read_turn(attributes: Attributes) -> Turn:
    """Read Patient Orientation (PS3.3 C.7.6.1.1.1); a file without one is taken to stand as on a light box."""
    directions = attributes.texts("PatientOrientation")
    if len(directions) != 2:
        return Turn()
    turn = Turn.from_patient_orientation(*directions)
    done = [name for name in ("transposed", "mirrored", "inverted") if getattr(turn, name)]
    if done:
        attributes.notes.append(f"{' and '.join(done)} to undo its Patient Orientation")
    return turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Spacing:
    """How far apart the rows and columns of a picture lie."""

    millimetres: tuple[float, float] | None = None
    """A row and a column; None where unknown."""

    aspect: float = 1.0
    """Row spacing over column spacing; 1 within one percent of square."""

    def reduced(self, whole: tuple[int, ...], shape: tuple[int, ...]) -> "Spacing":
        """Return the spacing after a picture of `whole` rows and columns was decoded to `shape`.

        The aspect then is that of the reduced pixels, exactly: the picture keeps its proportions although both sides were
        rounded.
        """
        if shape == whole:
            return self
        rows, columns = (before / after for before, after in zip(whole, shape, strict=True))
        millimetres = self.millimetres and (self.millimetres[0] * rows, self.millimetres[1] * columns)
        return Spacing(millimetres=millimetres, aspect=self.aspect * rows / columns)

    def transposed(self) -> "Spacing":
        """Return the spacing of the picture with its rows and columns exchanged."""
        millimetres = self.millimetres and (self.millimetres[1], self.millimetres[0])
        return Spacing(millimetres=millimetres, aspect=1.0 / self.aspect)


def read_spacing(attributes: Attributes) -> Spacing:
    """Read the spacing of the stored rows and columns (PS3.3 10.7, C.7.6.3.1.7)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        values = attributes.numbers(keyword)
        if not values:
            continue
        if len(values) != 2 or min(values) <= 0 or max(values) > _WIDEST_ASPECT * min(values):
            attributes.notes.append(f"{keyword} makes no sense: ignored")
            continue
        row, column = values
        aspect = row / column
        return Spacing(
            millimetres=(row, column) if keyword != "PixelAspectRatio" else None,
            aspect=aspect if abs(aspect - 1.0) > 0.01 else 1.0,
        )
    return Spacing()
