"""What a DICOM header says of a radiograph: its modality, its view, its pixels, its spacing and the gray scale it asks for.

    attributes -> require_radiograph, require_one_grey_frame -> read_turn, read_spacing, read_rendering, read_view

A modality LUT or rescale that cannot be understood is an error, since the pixels mean nothing without it. A window or VOI
LUT that cannot be is dropped with a note, since there are other ways to choose black and white. The view comes from View
Position, else from a code, else from a word of a description; descriptions are free text, so their words are compared with
a closed list, and neither stored nor quoted.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mcr_infer.errors import BrokenImageError, NotRadiographError, UnsupportedImageError
from mcr_infer.images.attributes import Attributes
from mcr_infer.images.lookup import UnusableTableError, read_modality_lut, read_voi_lut
from mcr_infer.images.pixel_format import PixelFormat
from mcr_infer.images.rendering import Rendering, Turn, Window, WindowFunction

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
            "PhotometricInterpretation has an unknown value, expected MONOCHROME1 or MONOCHROME2", reason="corrupt"
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
            attributes.notes.append(f"{keyword} is inconsistent: ignored")
            continue
        row, column = values
        aspect = row / column
        return Spacing(
            millimetres=(row, column) if keyword != "PixelAspectRatio" else None,
            aspect=aspect if abs(aspect - 1.0) > 0.01 else 1.0,
        )
    return Spacing()


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
            raise BrokenImageError("RescaleSlope and RescaleIntercept make values that overflow", reason="corrupt")
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


RADIOGRAPHS = ("CR", "DX", "RG")

_BY_SOP_CLASS = MappingProxyType({
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
})  # fmt: skip
"""Computed Radiography Image Storage, Digital X-Ray Image Storage for presentation and for processing (PS3.4 B.5)."""

_NAMES = MappingProxyType({
    "AR": "autorefraction", "AU": "audio", "BDUS": "ultrasound bone densitometry", "BI": "biomagnetic imaging",
    "BMD": "bone mineral densitometry", "CT": "computed tomography", "DOC": "document", "DMS": "dermoscopy",
    "DG": "diaphanography", "ECG": "electrocardiogram", "EEG": "electroencephalogram", "EPS": "electrophysiology",
    "ES": "endoscopy", "FID": "fiducials", "GM": "general microscopy", "HC": "hard copy", "HD": "haemodynamic waveform",
    "IO": "intra-oral radiography", "IVOCT": "intravascular optical coherence tomography",
    "IVUS": "intravascular ultrasound", "KO": "key object selection", "M3D": "3D manufacturing model",
    "MG": "mammography", "MR": "magnetic resonance", "NM": "nuclear medicine", "OCT": "optical coherence tomography",
    "OP": "ophthalmic photography", "OPT": "ophthalmic tomography", "OT": "other", "PLAN": "plan",
    "PR": "presentation state", "PT": "positron emission tomography", "PX": "panoramic dental radiography",
    "REG": "registration", "RESP": "respiratory waveform", "RF": "radiofluoroscopy", "RTDOSE": "radiotherapy dose",
    "RTIMAGE": "radiotherapy image", "RTPLAN": "radiotherapy plan", "RTRECORD": "radiotherapy treatment record",
    "RTSTRUCT": "radiotherapy structure set", "SC": "secondary capture", "SEG": "segmentation",
    "SM": "slide microscopy", "SR": "structured report", "TG": "thermography", "US": "ultrasound",
    "XA": "X-ray angiography", "XC": "photography",
})  # fmt: skip


def require_radiograph(modality: str | None, sop_class: str | None, describe_uid: Callable[[str], str]) -> str:
    """Return the modality, CR, DX or RG, from Modality (0008,0060) or else from the SOP class.

    `describe_uid` puts the SOP class into words.

    Raises `NotRadiographError` (`modality`) naming the other modality, or `BrokenImageError` (`missing_attribute`) where
    the file says neither.
    """
    modality = modality or _BY_SOP_CLASS.get(sop_class or "")
    if modality in RADIOGRAPHS:
        return modality
    if modality is not None:
        what = _describe(modality)
    elif sop_class is not None:
        what = f"SOP class {describe_uid(sop_class)}"
    else:
        raise BrokenImageError(
            "the DICOM file has neither a Modality (0008,0060) nor a SOP Class UID (0008,0016): "
            "nothing says that it is a radiograph",
            reason="missing_attribute",
        )
    raise NotRadiographError(
        f"{what} is not read: only projection radiographs are, of modality CR, DX or RG", reason="modality"
    )


def _describe(modality: str) -> str:
    if modality in _NAMES:
        return f"{modality} ({_NAMES[modality]})"
    # A retired code has two letters. Anything longer could be an id or a name that stands in the wrong place.
    return f"modality {modality}" if re.fullmatch(r"[A-Z]{2}", modality) else "a modality that is no DICOM code"


ViewSource = Literal["tag", "code", "description"]

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription")
"""From the image to the study: what is said of an image goes before what is said of all images of a study."""

_BY_CODE = MappingProxyType({
    "272479007": "PA", "R-10214": "PA", "R-40888": "PA",
    "399348003": "AP", "R-10206": "AP",
    "399173006": "LL", "R-10236": "LL",
    "399198007": "RL", "R-10232": "RL",
    "399067008": "LATERAL", "R-102CD": "LATERAL",
    "399135007": "LAO", "R-10220": "LAO",
    "399356000": "RAO", "R-40985": "RAO",
    "399006002": "LPO", "R-10212": "LPO",
    "399038007": "RPO", "R-10210": "RPO",
})  # fmt: skip
"""SNOMED CT numbers and the SNOMED RT codes before them, of the views of a chest in PS3.16 CID 4010."""

_SCHEMES = ("SCT", "SRT", "SNM3", "99SDM")
"""Names under which SNOMED codes stand in DICOM files (PS3.16 table 8-1)."""

_BY_WORD = MappingProxyType({"PA": "PA", "AP": "AP", "LAT": "LATERAL", "LATERAL": "LATERAL"})

_OTHER_VIEWS = re.compile(r"DECUB|OBL")
"""A lateral decubitus is no lateral view, and an oblique one is none of those that the words name."""

LATERALS = ("LATERAL", "LAT", "LL", "RL", "LLAT", "RLAT")
"""What tags, codes and words call a lateral view."""


def read_view(attributes: Attributes) -> tuple[str | None, ViewSource | None]:
    """Return the view in upper case, such as PA, AP, LL or LATERAL, and what said so; None where nothing does.

    A description that names several views, as that of a study of two images does, names none.
    """
    if (tag := attributes.code("ViewPosition")) is not None:
        return tag, "tag"
    code = attributes.item("ViewCodeSequence")
    if code is not None and code.text("CodingSchemeDesignator") in _SCHEMES:
        view = _BY_CODE.get(code.text("CodeValue") or "")
        if view is not None:
            return view, "code"
    for keyword in DESCRIPTIONS:
        text = (attributes.text(keyword) or "").upper()
        if _OTHER_VIEWS.search(text):
            return None, None
        # P.A. and A.P. are spelt with stops, too.
        words = re.split(r"[^A-Z]+", re.sub(r"(?<![A-Z])(P|A)\.\s?(A|P)\.?(?![A-Z])", r"\1\2", text))
        views = {_BY_WORD[word] for word in words if word in _BY_WORD}
        if len(views) == 1:
            return views.pop(), "description"
    return None, None
