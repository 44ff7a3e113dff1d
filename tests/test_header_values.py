"""Values that writers misspell: read where their meaning is beyond doubt, else ignored with a note or refused."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicoms import EXPLICIT, IMPLICIT, IN_12_BITS, picture, write
from mcr_infer.errors import BrokenImageError
from mcr_infer.images import Radiograph, Selection
from mcr_infer.images.dicom import read_dicom


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def read_as(
    file: Path, keyword: str, value: bytes, *, syntax: str = EXPLICIT, pad: bytes = b" ", **attributes: object
) -> Radiograph:
    """Read a file in which an attribute has a value that no library would write."""
    value += pad * (len(value) % 2)
    stand_in = ("8" * len(value)).encode()
    # Each of the two is required where the other is there.
    partner = {"RescaleSlope": {"RescaleIntercept": "0"}, "RescaleIntercept": {"RescaleSlope": "1"}}.get(keyword, {})
    given = IN_12_BITS | partner | attributes | {keyword: stand_in.decode()}
    data = write(file, picture(), syntax=syntax, **given).read_bytes()
    assert data.count(stand_in) == 1 + (keyword == "SOPInstanceUID")  # which the meta information repeats
    file.write_bytes(data.replace(stand_in, value))
    return read_dicom(file)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    ("value", "slope", "note"),
    [
        (b"0.5", 0.5, None),
        (b"0,5", 0.5, "RescaleSlope has a decimal comma: read as a point"),
        (b"0,500000", 0.5, "RescaleSlope has a decimal comma: read as a point"),
        (b"5,0E-1", 0.5, "RescaleSlope has a decimal comma: read as a point"),
        (b",5", 0.5, "RescaleSlope has a decimal comma: read as a point"),
        (b"0,125", 0.125, "RescaleSlope has a decimal comma: read as a point"),
        (b"  0.5 ", 0.5, None),
        (b"0.5\0", 0.5, None),
        (b"0.5\0\0 \0", 0.5, None),
        (b"\t0.5\r\n", 0.5, None),
        (b"+.5", 0.5, None),
        (b"+5.e-1", 0.5, None),
        (b"5E-01", 0.5, None),
        (b"0.50000000000000000000000001", 0.5, None),
        (b"0.5\\2", 0.5, "first of 2 values of RescaleSlope used"),
        (b"0.5\\x", 0.5, "first of 2 values of RescaleSlope used"),
        (b"    ", 1.0, "RescaleIntercept without RescaleSlope: RescaleSlope is taken as 1"),
        (b"\0\0", 1.0, "RescaleIntercept without RescaleSlope: RescaleSlope is taken as 1"),
    ],
)
def test_decimal_strings_are_read_as_meant(file, syntax, value, slope, note):
    radiograph = read_as(file, "RescaleSlope", value, syntax=syntax)
    np.testing.assert_allclose(radiograph.pixels, np.minimum(picture() * slope / 4095, 1), atol=1e-6)
    assert radiograph.notes == (() if note is None else (note,))


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize(
    "value",
    [b"nan", b"inf", b"-Infinity", b"1e999", b"half", b"1.5.2", b"1,024", b"12,345", b"1,024.5", b"1,0,0", b"0x10", b"1_0",
     b"5-", b"--5", b"\xb2", b"1 2"],
)  # fmt: skip
def test_a_rescale_without_a_meaning_is_refused(file, keyword, value):
    with pytest.raises(BrokenImageError, match=f"{keyword} is no number") as caught:
        read_as(file, keyword, value)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("slope", [b"1e308", b"-9.9e307"])
def test_a_rescale_beyond_all_numbers_is_refused(file, slope):
    with pytest.raises(BrokenImageError, match="that overflow") as caught:
        read_as(file, "RescaleSlope", slope)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("keyword", ["WindowCenter", "WindowWidth"])
@pytest.mark.parametrize("value", [b"nan", b"inf", b"wide", b"1,024", b"\\4096", b"1e999"])
def test_a_window_without_a_meaning_is_ignored(file, keyword, value):
    radiograph = read_as(file, keyword, value)
    assert radiograph.intensity == "percentiles"
    assert radiograph.notes == (f"{keyword} is not a number: ignored",)


@pytest.mark.parametrize(
    ("keyword", "value", "note"),
    [
        ("WindowWidth", b"4096,0", "WindowWidth has a decimal comma: read as a point"),
        ("WindowCenter", b"2048\\x", None),
        ("WindowWidth", b"4096\\", "first of 2 windows used"),
        ("WindowWidth", b"4096\\nan", "first of 2 windows used"),
    ],
)
def test_the_first_window_stands_whatever_follows(file, keyword, value, note):
    radiograph = read_as(file, keyword, value)
    assert radiograph.intensity == "window"
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (() if note is None else (note,))


@pytest.mark.parametrize("missing", ["WindowCenter", "WindowWidth"])
def test_half_a_window_is_noted(file, missing):
    radiograph = read_dicom(write(file, picture(), **IN_12_BITS | {missing: ""}))
    assert radiograph.intensity == "percentiles"
    assert radiograph.notes == ("window ignored: it has a center or a width, not both",)


@pytest.mark.parametrize(
    ("value", "spacing"),
    [
        (b"0,14\\0,15", (0.14, 0.15)),
        (b"1.4E-1\\+.15", (0.14, 0.15)),
        (b" 0.14 \\ 0.15", (0.14, 0.15)),
        (b"nan\\1", None),
    ],
)
def test_spacing_is_read_alike(file, value, spacing):
    assert read_as(file, "PixelSpacing", value).pixel_spacing == spacing


@pytest.mark.parametrize("pad", [b" ", b"\0"])
@pytest.mark.parametrize(
    ("keyword", "value", "attribute", "expected"),
    [
        ("PhotometricInterpretation", b"monochrome2", "photometric_interpretation", "MONOCHROME2"),
        ("PhotometricInterpretation", b" Monochrome1", "photometric_interpretation", "MONOCHROME1"),
        ("Modality", b"cr", "modality", "CR"),
        ("Modality", b" Dx", "modality", "DX"),
        ("ViewPosition", b"pa", "view_position", "PA"),
        ("ViewPosition", b" Ap", "view_position", "AP"),
        ("ViewPosition", b"ll   ", "view_position", "LL"),
        ("BodyPartExamined", b"chest", "body_part", "CHEST"),
        ("PatientOrientation", b"r\\f", "mirrored", True),
        ("PatientOrientation", b" l \\ f ", "mirrored", False),
        ("VOILUTFunction", b"linear_exact", "intensity", "window"),
        ("PresentationLUTShape", b"identity", "notes", ()),
    ],
)
def test_code_strings_are_read_in_any_case_and_padding(file, keyword, value, attribute, expected, pad):
    assert getattr(read_as(file, keyword, value, pad=pad), attribute) == expected


@pytest.mark.parametrize("word", [b"sigmoid", b"SIGMOID ", b"Sigmoid\0"])
def test_a_function_in_any_case_is_that_function(file, word):
    radiograph = read_as(file, "VOILUTFunction", word)
    np.testing.assert_allclose(radiograph.pixels, 1 / (1 + np.exp(-4 * (picture() - 2048.0) / 4096)), atol=1e-6)
    assert radiograph.notes == ()


@pytest.mark.parametrize("photometric", [b"monochrome1", b"MonoChrome1 ", b" MONOCHROME1\0"])
def test_monochrome1_in_any_case_is_inverted(file, photometric):
    radiograph = read_as(file, "PhotometricInterpretation", photometric)
    np.testing.assert_allclose(radiograph.pixels, 1 - picture() / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("photometric", "shape", "noted"),
    [("MONOCHROME2", "INVERSE", True), ("MONOCHROME1", "identity", True), ("MONOCHROME1", "Inverse", False),
     ("MONOCHROME2", "IDENTITY ", False)],
)  # fmt: skip
def test_a_shape_that_contradicts_is_noted(file, photometric, shape, noted):
    radiograph = read_as(file, "PresentationLUTShape", shape.encode(), PhotometricInterpretation=photometric)
    plain = picture() / 4095
    np.testing.assert_allclose(radiograph.pixels, 1 - plain if photometric == "MONOCHROME1" else plain, atol=1e-6)
    note = "PresentationLUTShape contradicts PhotometricInterpretation: ignored"
    assert radiograph.notes == ((note,) if noted else ())


def test_a_selection_meets_words_in_lower_case(file):
    write(file, picture(), Modality="dx", ViewPosition="ap", PresentationIntentType="for processing")
    chosen = Selection.of(modalities=["DX"], views=["AP"], presentation_intents=["FOR PROCESSING"])
    assert read_dicom(file, selection=chosen).view_position == "AP"


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("value", [b"4711", b"471100000000001", b".1.2", b"1..2", b"1.2.", b"1.2.x", b"1." + b"2" * 63])
def test_what_is_no_uid_is_not_kept(file, keyword, value):
    """A number alone may be the id of a patient in the wrong element."""
    radiograph = read_as(file, keyword, value, pad=b"\0")
    assert (radiograph.sop_instance_uid is None) == (keyword == "SOPInstanceUID")
    assert (radiograph.study_instance_uid is None) == (keyword == "StudyInstanceUID")
    assert (radiograph.series_instance_uid is None) == (keyword == "SeriesInstanceUID")
    assert radiograph.notes == (f"{keyword} is not a UID: ignored",)


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ("21800506", 2180), ("22001231", 2200), ("29990101", 2999), ("18951108", 1895), ("18000101", 1800),
        ("2180.05.06", 2180), ("17991231", None), ("30000101", None), ("00010101", None), ("0506", None),
    ],
)  # fmt: skip
def test_study_years_reach_from_1800_to_2999(file, date, year):
    radiograph = read_dicom(write(file, picture(), StudyDate=date))
    assert radiograph.study_year == year
    noted = ("StudyDate does not begin with a year from 1800 to 2999: ignored",)
    assert radiograph.notes == (noted if year is None else ())


@pytest.mark.parametrize(
    "keyword", ["ViewPosition", "BodyPartExamined", "PresentationIntentType", "PresentationLUTShape"]
)
def test_what_is_no_code_is_noted(file, keyword):
    assert read_as(file, keyword, b"P/A, seated").notes == (f"{keyword} is not a code: ignored",)


@pytest.mark.parametrize(
    ("given", "absent", "value", "note"),
    [
        (
            "RescaleSlope",
            "RescaleIntercept",
            "2",
            "RescaleSlope without RescaleIntercept: RescaleIntercept is taken as 0",
        ),
        ("RescaleIntercept", "RescaleSlope", "-7", "RescaleIntercept without RescaleSlope: RescaleSlope is taken as 1"),
    ],
)
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_half_a_rescale_is_noted(file: Path, given: str, absent: str, value: str, note: str, how: str):
    write(file, picture(), **{given: value} | ({} if how == "absent" else {absent: ""}), **IN_12_BITS)
    assert note in read_dicom(file).notes


def test_a_whole_rescale_or_none_is_not_noted(file: Path):
    for rescale in ({"RescaleSlope": "2", "RescaleIntercept": "-7"}, {}):
        write(file, picture(), **rescale, **IN_12_BITS)
        assert not [note for note in read_dicom(file).notes if "Rescale" in note]


def test_overlays_are_noted_and_not_drawn(file: Path):
    write(file, picture())
    before = read_dicom(file)
    dataset = pydicom.dcmread(file)
    dataset.add_new(0x60000010, "US", dataset.Rows)
    dataset.add_new(0x60000011, "US", dataset.Columns)
    dataset.add_new(0x60003000, "OW", b"\xff" * (dataset.Rows * dataset.Columns // 8))
    dataset.save_as(file)
    drawn = read_dicom(file)
    assert np.array_equal(drawn.pixels, before.pixels)
    assert drawn.notes == ("overlays are not drawn", *before.notes)
