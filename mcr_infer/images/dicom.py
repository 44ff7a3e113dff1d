"""A DICOM file becomes a radiograph: the only module that knows pydicom, which it imports when it is first needed.

    file -> header -> refusals -> pixel data -> stored values -> picture -> upright radiograph

Names, birth dates and the like are never read, and the id of a patient only where it is to become a key, which is all that
is kept of it. The texts of pydicom's exceptions can quote values of the file, so
they reach no error of ours, not even as its cause.
"""

import os
import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from mcr_infer.errors import BrokenImageError, ImageError, NotRadiographError, UnsupportedImageError
from mcr_infer.images.attributes import Attributes, Unusable
from mcr_infer.images.decode import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, TRANSFER_SYNTAXES, decode
from mcr_infer.images.elements import Elements
from mcr_infer.images.header import (
    DESCRIPTIONS,
    read_rendering,
    read_spacing,
    read_turn,
    read_view,
    require_one_grey_frame,
    require_radiograph,
)
from mcr_infer.images.inflate import inflate
from mcr_infer.images.opening import ImageSource, opened
from mcr_infer.images.overlays import Overlay, find_overlays, without_overlays
from mcr_infer.images.pixeldata import read_pixel_data
from mcr_infer.images.presets import REDUCIBLE, Preset, require_preset
from mcr_infer.images.radiograph import MAX_PIXELS, Radiograph
from mcr_infer.images.reduced_decode import Room, choose_reduction
from mcr_infer.images.rendering import render
from mcr_infer.images.selection import Selection
from mcr_infer.images.third_party import quietly
from mcr_infer.pseudonyms import PatientSecret

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_DICOMDIR = "1.2.840.10008.1.3.10"
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)

_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "Modality",
    "PresentationIntentType", "BodyPartExamined", "ViewPosition", "PatientOrientation", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "PixelAspectRatio", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope",
    "VOILUTFunction", "PresentationLUTShape", "ModalityLUTSequence", "VOILUTSequence", "ViewCodeSequence", *DESCRIPTIONS,
)  # fmt: skip
"""All that is read of a header; of the descriptions, words of a closed list."""

_PATIENT_KEYWORDS = ("PatientID", "IssuerOfPatientID")
"""Read besides where a key is to be made of them."""

_META_KEYWORDS = ("TransferSyntaxUID", "MediaStorageSOPClassUID")
_ITEM_KEYWORDS = ("LUTDescriptor", "LUTData", "CodeValue", "CodingSchemeDesignator")
_PACKED_KEYWORDS = ("LUTDescriptor", "LUTData")
"""Read as bytes: pydicom converts them by VRs that writers mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """A parsed header; `stream` stands at the pixel data, or at the end where there are none."""

    stream: BinaryIO
    attributes: Attributes
    implicit: bool
    little_endian: bool
    syntax_uid: str | None
    """None where the file does not name one."""
    media_class: str | None
    """The SOP class that the file meta information names."""
    prefixed: bool
    """The file begins as PS3.10 7.1 wants it, with `DICM` after 128 bytes."""
    overlays: tuple[Overlay, ...]
    cut: bool
    """An element of the header ends beyond the file."""


def load_parser() -> None:
    """Import pydicom now, which takes half a second, and not with the first file."""
    import pydicom.filereader  # noqa: F401


def read_dicom(
    source: ImageSource,
    *,
    rendering: Preset = "voi",
    reduce_to: Room | None = None,
    selection: Selection | None = None,
    patients: PatientSecret | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read a CR, DX or RG image of one greyscale frame and render it upright, high = radiodense.

    The arguments are those of `read_image`. Raises `NotRadiographError`, `NotSelectedError`, `UnsupportedImageError` or
    `BrokenImageError`; missing pixels are never made up.
    """
    with opened(source) as file:
        return _read(file, require_preset(rendering), reduce_to, selection or Selection(), patients, max_pixels)


def _read(
    file: BinaryIO,
    preset: Preset,
    reduce_to: Room | None,
    selection: Selection,
    patients: PatientSecret | None,
    max_pixels: int,
) -> Radiograph:
    header = _read_header(file, max_pixels, of_patient=patients is not None)
    attributes = header.attributes
    modality = _require_radiograph(header)
    view, view_source = read_view(attributes)
    body_part, intent = attributes.code("BodyPartExamined"), attributes.code("PresentationIntentType")
    selection.require(modality=modality, body_part=body_part, view=view, presentation_intent=intent)
    layout = without_overlays(require_one_grey_frame(attributes, max_pixels), header.overlays, attributes.notes)
    syntax_uid = header.syntax_uid or _assume_syntax(header)
    syntax = TRANSFER_SYNTAXES.get(syntax_uid)
    if syntax is None:
        raise UnsupportedImageError(
            f"the transfer syntax {_describe_uid(syntax_uid)} is not read: convert the file to Explicit VR Little Endian",
            reason="transfer_syntax",
        )
    data, unread = read_pixel_data(
        header.stream,
        implicit=header.implicit,
        little_endian=header.little_endian,
        encapsulated=syntax.encapsulated,
        native_bytes=layout.byte_count,
        bits_allocated=layout.bits_allocated,
    )
    rendering = read_rendering(attributes, layout)
    turn = read_turn(attributes)
    spacing = read_spacing(attributes)
    reduction = 1
    # Means over padding, or over values that a table then bends or reorders, are other values.
    if preset in REDUCIBLE and rendering.padding is None and rendering.modality_lut is None:
        reduction = choose_reduction(layout.rows, layout.columns, aspect=spacing.aspect, room=reduce_to)
    decoded = decode(data, syntax, layout, reduction=reduction)
    rendered = render(turn(decoded.values), rendering, preset)
    spacing = spacing.reduced((layout.rows, layout.columns), decoded.values.shape)
    spacing = spacing.transposed() if turn.transposed else spacing
    if intent == "FOR PROCESSING":
        attributes.notes.append("stored FOR PROCESSING: its contrast may differ from that of a displayed radiograph")
    year = _study_year(attributes)
    return Radiograph(
        pixels=rendered.pixels,
        source="dicom",
        sop_instance_uid=attributes.uid("SOPInstanceUID"),
        study_instance_uid=attributes.uid("StudyInstanceUID"),
        series_instance_uid=attributes.uid("SeriesInstanceUID"),
        patient_key=None if patients is None else _patient_key(attributes, patients),
        modality=modality,
        view_position=view,
        view_source=view_source,
        body_part=body_part,
        study_year=year,
        photometric_interpretation=attributes.code("PhotometricInterpretation"),
        transfer_syntax_uid=header.syntax_uid,
        intensity=rendered.intensity,
        rendering=preset,
        mirrored=turn.mirrored,
        pixel_spacing=spacing.millimetres,
        aspect=spacing.aspect,
        reduction=decoded.reduction,
        notes=tuple(dict.fromkeys([*attributes.notes, *unread, *decoded.notes, *rendered.notes])),
    )


def _study_year(attributes: Attributes) -> int | None:
    """Return the year of Study Date. Dates that were shifted to hide them may lie ahead (MIMIC-CXR: 2100 to 2200)."""
    date = attributes.text("StudyDate")
    if date is None:
        return None
    if year := re.match(r"(?:1[89]|2[0-9])[0-9]{2}", date):
        return int(year.group())
    attributes.notes.append("StudyDate does not begin with a year from 1800 to 2999: ignored")
    return None


def _patient_key(attributes: Attributes, patients: PatientSecret) -> str | None:
    """Return the key of the patient whose id the header holds; None where it holds none."""
    id, issuer = map(attributes.identifier, _PATIENT_KEYWORDS)
    return patients.key(id, issuer) if id else None


def _read_header(file: BinaryIO, max_pixels: int, *, of_patient: bool) -> _Header:
    """Parse a file up to its pixel data; raises `BrokenImageError` or, for a deflated one, `UnsupportedImageError`."""
    # This fills the buffer of the file before quietly() takes its lock: threads wait for their disks side by side.
    prefixed = _find_first_element(file)
    keywords = _KEYWORDS + (_PATIENT_KEYWORDS if of_patient else ())
    try:
        with quietly():
            meta, meta_elements, meta_cut = _parse(
                file, _META_KEYWORDS, implicit=False, little_endian=True, stop_at=lambda tag: tag >> 16 != 2
            )
            meta_attributes = _attributes(meta, _META_KEYWORDS, meta_elements)
        syntax_uid = meta_attributes.text("TransferSyntaxUID")
        stream = inflate(file, max_pixels) if syntax_uid == DEFLATED else file
        implicit, little_endian = _encoding(stream, syntax_uid)
        with quietly():
            dataset, elements, cut = _parse(
                stream, keywords, implicit=implicit, little_endian=little_endian, stop_at=_PIXEL_TAGS.__contains__
            )
            attributes = _attributes(dataset, keywords, elements, little_endian=little_endian)
            attributes.notes[:0] = meta_attributes.notes
            overlays = find_overlays(elements)
            implicit = bool(dataset.original_encoding[0])  # as found, whatever the transfer syntax says
    except ImageError:
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise _cut() from None  # pydicom's own, where a sequence meets the end of the file
    except Exception as error:  # noqa: BLE001 - whatever it is, it says that the header is damaged
        raise BrokenImageError(
            f"the DICOM header cannot be parsed ({type(error).__name__})", reason="corrupt"
        ) from None
    return _Header(
        stream=stream,
        attributes=attributes,
        implicit=implicit,
        little_endian=little_endian,
        syntax_uid=syntax_uid,
        media_class=meta_attributes.text("MediaStorageSOPClassUID"),
        prefixed=prefixed,
        overlays=overlays,
        cut=cut or meta_cut,
    )


def _find_first_element(file: BinaryIO) -> bool:
    """Go to the first element and return whether the DICM prefix stands before it; raises `BrokenImageError`."""
    head = file.read(132)
    if head[128:] == b"DICM":
        if not file.read(1):
            raise BrokenImageError(
                "the file ends after its preamble; copy it again from its source", reason="truncated"
            )
        file.seek(len(head))
        return True
    # Without a prefix, files begin with group 0002 or 0008. Anything else would be parsed as nonsense, at length.
    if head[:2] not in {b"\x02\x00", b"\x08\x00", b"\x00\x08"}:
        raise _not_dicom()
    file.seek(0)
    return False


def _not_dicom() -> BrokenImageError:
    return BrokenImageError(
        "the file is not a DICOM file: it has neither DICM at byte 128 nor the elements of an image; "
        "besides DICOM, PNG and JPEG are read",
        reason="not_dicom",
    )


def _cut() -> BrokenImageError:
    return BrokenImageError("the file ends inside its DICOM header; copy it again from its source", reason="truncated")


def _parse(
    stream: BinaryIO, keywords: Sequence[str], *, implicit: bool, little_endian: bool, stop_at: Callable[[int], bool]
) -> tuple["Dataset", Elements, bool]:
    """Parse the named elements up to a tag; return them, where all lie, and whether one ends beyond the file."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataelem import RawDataElement
    from pydicom.filereader import read_dataset

    elements = Elements(stream, little_endian=little_endian)

    dataset = read_dataset(
        stream,
        implicit,
        little_endian,
        stop_when=lambda tag, vr, length: stop_at(tag) or elements.watch(tag, vr, length),
        specific_tags=[tag for keyword in keywords if (tag := tag_for_keyword(keyword)) is not None],
    )
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    short = any(
        isinstance(element, RawDataElement)
        and isinstance(element.value, bytes)
        and len(element.value) < element.length < 0xFFFFFFFF
        for element in dataset.elements()
    )
    return dataset, elements, short or here > end


def _attributes(
    dataset: "Dataset", keywords: Sequence[str], elements: Elements, *, little_endian: bool = True
) -> Attributes:
    """Return the named attributes, with notes on elements that are repeated or out of order."""
    notes: list[str] = []
    attributes = Attributes(_plain(dataset, keywords, elements, notes), little_endian=little_endian)
    if not elements.in_order:
        notes.append("elements of the header are out of order: read anyway")
    attributes.notes = notes
    return attributes


def _elements_of(item: "Dataset", parent: Elements) -> Elements:
    """Return the elements of an item: pydicom tells what they are, but not whether it met one twice."""
    from pydicom.filereader import read_dataset

    stream, (implicit, little_endian) = parent.stream, map(bool, item.original_encoding)
    here, start = stream.tell(), item.seq_item_tell
    stream.seek(start + 4)
    length = int.from_bytes(stream.read(4), "little" if little_endian else "big")
    elements = Elements(stream, little_endian=little_endian)
    end = None if length == 0xFFFFFFFF else length
    read_dataset(stream, implicit, little_endian, end, stop_when=elements.watch, at_top_level=False)
    stream.seek(here)
    return elements


def _plain(dataset: "Dataset", keywords: Sequence[str], elements: Elements, notes: list[str]) -> dict[str, object]:
    """Convert the named elements to plain values; a sequence to a list of its items, of which only the first has values."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.multival import MultiValue
    from pydicom.sequence import Sequence as ItemSequence

    values: dict[str, object] = {}
    for keyword in keywords:
        try:
            value = _packed(dataset, keyword) if keyword in _PACKED_KEYWORDS else dataset.get(keyword)
        except Exception:  # noqa: BLE001 - pydicom converts a value when it is asked for, and fails in many ways
            value = Unusable.UNREADABLE
        if isinstance(value, ItemSequence):
            first = [_plain(item, _ITEM_KEYWORDS, _elements_of(item, elements), notes) for item in value[:1]]
            value = [*first, *({} for _ in value[1:])]
        values[keyword] = list(value) if isinstance(value, MultiValue) else value
    notes += elements.settle(values, {keyword: tag_for_keyword(keyword) or 0 for keyword in keywords})
    return values


def _packed(dataset: "Dataset", keyword: str) -> bytes | None:
    """Return a value as it is stored, its words in little-endian order; None where it is absent."""
    from pydicom.dataelem import RawDataElement

    if keyword not in dataset:
        return None
    element = dataset.get_item(keyword)
    if not isinstance(element, RawDataElement) or element.value is None:
        raise TypeError
    if element.is_little_endian:
        return element.value
    if element.VR not in {"US", "SS", "OW"}:
        raise ValueError  # the order of bytes in words of another VR is not known (PS3.5 6.2)
    words = array("H", element.value[: len(element.value) & ~1])
    words.byteswap()
    return words.tobytes()


def _encoding(stream: BinaryIO, syntax_uid: str | None) -> tuple[bool, bool]:
    """Return whether VRs are implicit and whether bytes are little endian; look at them where no syntax is named."""
    if syntax_uid is not None:
        return syntax_uid == IMPLICIT, syntax_uid != BIG_ENDIAN
    first = stream.read(6)
    stream.seek(-len(first), os.SEEK_CUR)
    return re.fullmatch(rb"[A-Z]{2}", first[4:]) is None, first[:2] != b"\x00\x08"


def _assume_syntax(header: _Header) -> str:
    """Return the native transfer syntax that the header turned out to be written in, with a note."""
    found = BIG_ENDIAN if not header.little_endian else IMPLICIT if header.implicit else EXPLICIT
    header.attributes.notes.append(f"no transfer syntax named: read as {TRANSFER_SYNTAXES[found].name}")
    return found


def _describe_uid(uid: str) -> str:
    """Quote a UID with its name in PS3.6 table A-1, if it is one."""
    from pydicom.uid import UID

    if len(uid) > 64 or not re.fullmatch(r"[0-9]+(\.[0-9]+)+", uid):  # without a dot it could be the id of a patient
        return "that is no UID"
    with quietly():
        name = UID(uid).name
    return uid if name == uid else f"{uid} ({name})"


def _require_radiograph(header: _Header) -> str:
    """Return the modality of a CR, DX or RG; raises `NotRadiographError` or `BrokenImageError` for anything else."""
    attributes = header.attributes
    modality, sop_class = (
        (attributes.text("Modality") or "").upper() or None,
        attributes.uid("SOPClassUID") or header.media_class,
    )
    if sop_class == _DICOMDIR:
        raise NotRadiographError(
            "a DICOMDIR is a list of files and holds no pixels: give its folder instead", reason="dicomdir"
        )
    if modality is None and sop_class is None and not header.prefixed:
        raise _not_dicom()
    if header.cut:  # perhaps inside the modality
        raise _cut()
    return require_radiograph(modality, sop_class, _describe_uid)
