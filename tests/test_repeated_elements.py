"""Headers that PS3.5 7.1 and PS3.3 C.11.1 forbid: elements stated twice or out of order, half of a rescale."""

import struct
from pathlib import Path

import numpy as np
import pytest

from dicoms import BIG_ENDIAN, EXPLICIT, IMPLICIT, IN_12_BITS, picture, table, write
from mcr_infer.errors import BrokenImageError
from mcr_infer.images.dicom import read_dicom
from mcr_infer.pseudonyms import PatientSecret

US, DS, CS, LO, UI = b"US", b"DS", b"CS", b"LO", b"UI"
SHORT = {  # tag, VR, the value that `write` gives it, another one
    "Rows": (0x00280010, US, 40, 12338),
    "Columns": (0x00280011, US, 48, 12338),
    "BitsAllocated": (0x00280100, US, 16, 8),
    "BitsStored": (0x00280101, US, 12, 16),
    "HighBit": (0x00280102, US, 11, 15),
    "PixelRepresentation": (0x00280103, US, 0, 1),
    "SamplesPerPixel": (0x00280002, US, 1, 3),
    "PhotometricInterpretation": (0x00280004, CS, b"MONOCHROME2 ", b"MONOCHROME1 "),
    "PatientOrientation": (0x00200020, CS, b"L\\F ", b"R\\F "),
    "RescaleIntercept": (0x00281052, DS, b"0 ", b"-1024 "),
    "RescaleSlope": (0x00281053, DS, b"1 ", b"2 "),
    "WindowCenter": (0x00281050, DS, b"2048", b"9 "),
    "WindowWidth": (0x00281051, DS, b"4096", b"9 "),
    "BodyPartExamined": (0x00180015, CS, b"CHEST ", b"HAND"),
    "StudyInstanceUID": (0x0020000D, UI, b"1.2.3\0", b"1.2.4\0"),
    "Modality": (0x00080060, CS, b"CR", b"CT"),
}  # fmt: skip
DECISIVE = list(SHORT)[:11]
REST = {"RescaleIntercept": "0", "RescaleSlope": "1", "PatientOrientation": ["L", "F"], **IN_12_BITS}


def encoded(tag: int, vr: bytes, value: int | bytes, syntax: str) -> bytes:
    order = ">" if syntax == BIG_ENDIAN else "<"
    value = struct.pack(f"{order}H", value) if isinstance(value, int) else value
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<L", len(value)) + value
    return head + vr + struct.pack(f"{order}H", len(value)) + value


def twice(path: Path, keyword: str, *, other: bool, first: bool, syntax: str) -> Path:
    """Write a file that states an attribute twice, with another value or the same, before or after the right one."""
    tag, vr, right, wrong = SHORT[keyword]
    data = write(path, picture(), syntax=syntax, **REST).read_bytes()
    once = encoded(tag, vr, right, syntax)
    assert data.count(once) == 1
    more = encoded(tag, vr, wrong, syntax) if other else once
    path.write_bytes(data.replace(once, more + once if first else once + more))
    return path


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("keyword", DECISIVE)
def test_what_decides_the_picture_twice_is_refused(tmp_path, keyword, first, syntax):
    path = twice(tmp_path / "image.dcm", keyword, other=True, first=first, syntax=syntax)
    with pytest.raises(BrokenImageError, match=f"{keyword} is stated several times with different values") as caught:
        read_dicom(path)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("keyword", list(SHORT))
def test_one_value_stated_twice_is_noted(tmp_path, keyword, syntax):
    radiograph = read_dicom(twice(tmp_path / "image.dcm", keyword, other=False, first=True, syntax=syntax))
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (f"{keyword} is stated 2 times with one value",)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("keyword", "attribute", "value"),
    [
        ("WindowCenter", "intensity", "percentiles"),
        ("WindowWidth", "intensity", "percentiles"),
        ("BodyPartExamined", "body_part", None),
        ("StudyInstanceUID", "study_instance_uid", None),
        ("Modality", "modality", "CR"),  # by its SOP class
    ],
)
def test_other_contradictions_are_ignored_and_noted(tmp_path, keyword, attribute, value, first):
    radiograph = read_dicom(twice(tmp_path / "image.dcm", keyword, other=True, first=first, syntax=EXPLICIT))
    assert getattr(radiograph, attribute) == value
    assert f"{keyword} is stated several times with different values: ignored" in radiograph.notes


def table_twice(path: Path, tag: int, *, other: bool, undefined: bool, syntax: str, sequence: str) -> Path:
    """Write a file whose look-up table states its descriptor or its data twice."""
    luts = table(0, list(range(4096)), 16 if sequence == "ModalityLUTSequence" else 12)
    item = luts[0]
    luts.is_undefined_length = item.is_undefined_length_sequence_item = undefined
    spare = {0x00283002: 0x00283003, 0x00283006: 0x00283007}[tag]  # renamed below, so that lengths are right
    values = list(item[tag].value)
    item.add_new(spare, "US", [*values[:-1], values[-1] - other])
    data = write(path, picture(), syntax=syntax, **IN_12_BITS, **{sequence: luts}).read_bytes()
    order = ">" if syntax == BIG_ENDIAN else "<"
    was, now = (
        struct.pack(f"{order}HH", one >> 16, one & 0xFFFF) + b"US" * (syntax != IMPLICIT) for one in (spare, tag)
    )
    assert data.count(was) == 1
    path.write_bytes(data.replace(was, now))
    return path


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("tag", [0x00283002, 0x00283006])
def test_a_table_with_two_data_or_descriptors_is_unused(tmp_path, tag, syntax, undefined):
    how = {"undefined": undefined, "syntax": syntax}
    path = table_twice(tmp_path / "voi.dcm", tag, other=True, sequence="VOILUTSequence", **how)
    radiograph = read_dicom(path)
    assert radiograph.intensity == "window"
    assert any(note.startswith("VOI LUT ignored: it has no LUT D") for note in radiograph.notes)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    with pytest.raises(BrokenImageError, match="the modality LUT has no LUT D") as caught:
        read_dicom(table_twice(tmp_path / "modality.dcm", tag, other=True, sequence="ModalityLUTSequence", **how))
    assert caught.value.reason == "corrupt"
    radiograph = read_dicom(table_twice(tmp_path / "alike.dcm", tag, other=False, sequence="VOILUTSequence", **how))
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.intensity == "voi_lut"
    assert radiograph.notes == (f"LUT{'Descriptor' if tag == 0x00283002 else 'Data'} is stated 2 times with one value",)


@pytest.mark.parametrize("other", [b"4712", b"471 "])
def test_a_patient_stated_twice_has_no_key(tmp_path, other):
    path = write(tmp_path / "image.dcm", picture())
    once = encoded(0x00100020, LO, b"4711", EXPLICIT)
    path.write_bytes(path.read_bytes().replace(once, once + encoded(0x00100020, LO, other, EXPLICIT)))
    assert read_dicom(path).patient_key is None
    with pytest.raises(BrokenImageError, match="PatientID is stated several times") as caught:
        read_dicom(path, patients=PatientSecret(derived=b"s" * 32))
    assert caught.value.reason == "identifier"


def test_a_transfer_syntax_stated_twice_is_found_out(tmp_path):
    path = write(tmp_path / "image.dcm", picture(), **IN_12_BITS)
    once = encoded(0x00020010, UI, EXPLICIT.encode() + b"\0", EXPLICIT)
    path.write_bytes(
        path.read_bytes().replace(once, once + encoded(0x00020010, UI, BIG_ENDIAN.encode() + b"\0", EXPLICIT))
    )
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (
        "TransferSyntaxUID is stated several times with different values: ignored",
        "no transfer syntax named: read as Explicit VR Little Endian",
    )


@pytest.mark.parametrize("keyword", ["Rows", "WindowWidth", "Modality"])
def test_elements_out_of_order_are_read_and_noted(tmp_path, keyword):
    tag, vr, right, _ = SHORT[keyword]
    path = write(tmp_path / "image.dcm", picture(), **REST)
    data, moved = path.read_bytes(), encoded(tag, vr, right, EXPLICIT)
    before = encoded(0x00200020, CS, b"L\\F ", EXPLICIT)
    assert data.count(moved) == data.count(before) == 1
    path.write_bytes(data.replace(moved, b"").replace(before, moved + before))
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == ("elements of the header are out of order: read anyway",)


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize(
    ("there", "value", "missing", "neutral", "expected"),
    [
        ("RescaleIntercept", "-1024", "RescaleSlope", 1, (picture() - 1024.0) / 4095),
        ("RescaleSlope", "0.5", "RescaleIntercept", 0, picture() / 8190),
        ("RescaleSlope", "1", "RescaleIntercept", 0, picture() / 4095),
    ],
)
def test_half_a_rescale_is_applied_and_noted(tmp_path, there, value, missing, neutral, expected, empty):
    attributes = {there: value} | ({} if empty is None else {missing: empty})
    radiograph = read_dicom(write(tmp_path / "image.dcm", picture(), **IN_12_BITS, **attributes))
    np.testing.assert_allclose(radiograph.pixels, np.clip(expected, 0, 1), atol=1e-6)
    assert radiograph.notes == (f"{there} without {missing}: {missing} is taken as {neutral}",)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"RescaleSlope": "2", "RescaleIntercept": "-7"}, "RescaleSlope and RescaleIntercept"),
        ({"RescaleSlope": "2"}, "RescaleSlope"),
        ({"RescaleIntercept": "-7"}, "RescaleIntercept"),
    ],
)
def test_a_rescale_beside_a_table_is_noted(tmp_path, attributes, named):
    luts = table(0, list(range(4095, -1, -1)), 16)
    radiograph = read_dicom(
        write(tmp_path / "image.dcm", picture(), ModalityLUTSequence=luts, **IN_12_BITS, **attributes)
    )
    np.testing.assert_allclose(radiograph.pixels, 1 - picture() / 4095, atol=1e-6)
    assert radiograph.notes == (f"{named} ignored beside the modality LUT",)
