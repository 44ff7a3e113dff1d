from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DigitalXRayImageStorageForProcessing,
    MediaStorageDirectoryStorage,
    RTPlanStorage,
)

from dicoms import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    IN_12_BITS,
    JPEG_2000,
    JPEG_LS,
    PATIENT,
    RLE,
    picture,
    table,
    write,
)  # fmt: skip
from mcr_infer import phantom
from mcr_infer.errors import BrokenImageError, NotRadiographError, UnsupportedImageError
from mcr_infer.images.dicom import read_dicom
from mcr_infer.phantom.dicom import write_dicom


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def test_a_window_over_all_bits_gives_the_stored_values(file):
    radiograph = read_dicom(write(file, picture(), **IN_12_BITS))
    assert np.array_equal(radiograph.pixels, picture().astype(np.float32) / np.float32(4095))
    assert radiograph.pixels.dtype == np.float32
    assert radiograph.intensity == "window"
    assert radiograph.notes == ()


def test_only_facts_that_may_be_kept_are_read(file):
    radiograph = read_dicom(write(file, picture(), **IN_12_BITS))
    assert (radiograph.sop_instance_uid, radiograph.study_instance_uid) == ("1.2.3.4", "1.2.3")
    assert radiograph.series_instance_uid == "1.2.3.5"
    assert (radiograph.modality, radiograph.view_position, radiograph.body_part) == ("CR", "PA", "CHEST")
    assert (radiograph.study_year, radiograph.photometric_interpretation) == (2019, "MONOCHROME2")
    assert (radiograph.source, radiograph.transfer_syntax_uid) == ("dicom", EXPLICIT)
    assert not any(secret in repr(radiograph) for secret in ("Surname", "4711", "1937", "0228"))


def test_what_is_no_code_or_uid_is_not_kept(file):
    radiograph = read_dicom(
        write(file, picture(), ViewPosition=None, BodyPartExamined="Chest, Mr X", StudyDate="", StudyInstanceUID=None)
    )
    assert (radiograph.view_position, radiograph.body_part, radiograph.study_year) == (None, None, None)
    assert radiograph.study_instance_uid is None
    assert radiograph.notes == ("BodyPartExamined is not a code: ignored",)


@pytest.mark.parametrize("signed", [False, True])
def test_twins_of_both_photometric_interpretations_look_the_same(tmp_path, signed):
    stored = picture().astype(np.int16) - 2048 if signed else picture()
    window = {"WindowCenter": "0" if signed else "2048", "WindowWidth": "4096"}
    negative = (-1 - stored if signed else 4095 - stored).astype(stored.dtype)
    plain = read_dicom(write(tmp_path / "2.dcm", stored, **window))
    # Digital X-Ray images pair MONOCHROME1 with the shape INVERSE: one inversion, not two.
    for number, attributes in enumerate([{}, {"PresentationLUTShape": "INVERSE"}]):
        path = tmp_path / f"1-{number}.dcm"
        twin = read_dicom(write(path, negative, PhotometricInterpretation="MONOCHROME1", **window, **attributes))
        assert np.corrcoef(plain.pixels.ravel(), twin.pixels.ravel())[0, 1] >= 0.999
        np.testing.assert_allclose(twin.pixels, plain.pixels, atol=1e-6)
    unwindowed = read_dicom(write(tmp_path / "3.dcm", negative, PhotometricInterpretation="MONOCHROME1"))
    assert unwindowed.intensity == "percentiles"
    assert np.corrcoef(plain.pixels.ravel(), unwindowed.pixels.ravel())[0, 1] >= 0.999


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_uncompressed_syntaxes_and_ambiguous_attributes(file, syntax):
    """In implicit VR the VRs of padding and LUTs depend on Pixel Representation."""
    stored = picture().astype(np.int16) - 2048
    stored[10:20, 10:20] = -1500
    radiograph = read_dicom(
        write(file, stored, syntax=syntax, PixelPaddingValue=-1500, VOILUTSequence=table(-2048, list(range(4096))))
    )
    expected = (stored.astype(np.float64) + 2048) / 4095
    expected[10:20, 10:20] = 0
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.intensity == "voi_lut"
    assert radiograph.transfer_syntax_uid == syntax


@pytest.mark.parametrize("stored", [picture() // 16, picture(40, 49)[:, :47] // 16], ids=["even", "odd"])
def test_8_bits_in_big_endian_words(file, stored):
    stored = stored.astype(np.uint8)[:39]
    data = write(file, stored, syntax=BIG_ENDIAN, WindowCenter="128", WindowWidth="256").read_bytes()
    expected = read_dicom(write(file, stored, WindowCenter="128", WindowWidth="256")).pixels
    raw = stored.tobytes() + b"\0" * (stored.size % 2)
    swapped = np.frombuffer(raw, np.uint16).byteswap().tobytes()
    file.write_bytes(data[: len(data) - len(raw)] + swapped)
    assert np.array_equal(read_dicom(file).pixels, expected)


@pytest.mark.parametrize("syntax", [RLE, JPEG_LS, JPEG_2000])
def test_compressed_files(file, syntax):
    stored = picture()
    if syntax == RLE:
        data = pydicom.dcmread(write(file, stored, **IN_12_BITS))
        data.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
        data.save_as(file)
    else:
        codecs = pytest.importorskip("imagecodecs")
        frame = codecs.jpegls_encode(stored) if syntax == JPEG_LS else codecs.jpeg2k_encode(
            stored, level=0, codecformat="J2K", bitspersample=12, reversible=True)  # fmt: skip
        write(file, stored, syntax=syntax, frame=bytes(frame), **IN_12_BITS)
    radiograph = read_dicom(file)
    assert np.array_equal(radiograph.pixels, stored.astype(np.float32) / np.float32(4095))
    assert radiograph.transfer_syntax_uid == syntax


def test_real_radiographs_are_the_same_in_every_transfer_syntax():
    folder = Path(pytest.importorskip("data_store").__file__).parent / "data"
    pictures = [read_dicom(folder / f"RG1_{name}.dcm") for name in ("UNCR", "J2KR", "J2KI")]
    plain = pictures[0].pixels
    assert plain.shape == (1955, 1841)
    for other in pictures[1:]:
        assert np.corrcoef(plain.ravel()[::7], other.pixels.ravel()[::7])[0, 1] >= 0.999
    # The mediastinum is brighter than the lungs beside it.
    assert plain[700:900, 870:970].mean() > plain[700:900, 300:500].mean() + 0.1


def test_a_phantom_is_the_same_from_memory_and_from_its_file(file):
    made = phantom.make(11, 128)
    write_dicom(made, file)
    radiograph = read_dicom(file)
    assert np.array_equal(radiograph.pixels, made.radiograph().pixels)
    assert (radiograph.modality, radiograph.view_position) == ("DX", made.view)
    assert radiograph.notes == ()


def test_modality_lut_and_rescale_come_before_the_window(file):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    window = {"WindowCenter": "512", "WindowWidth": "1024", "VOILUTFunction": "LINEAR_EXACT"}
    rescaled = read_dicom(write(file, stored, RescaleSlope="4", RescaleIntercept="2", **window))
    np.testing.assert_allclose(rescaled.pixels, (stored * 4.0 + 2) / 1024, atol=1e-6)
    squares = [value * value // 64 for value in range(256)]
    looked_up = read_dicom(write(file, stored, ModalityLUTSequence=table(0, squares, 16), **window))
    np.testing.assert_allclose(looked_up.pixels.ravel(), np.array(squares) / 1024, atol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "intensity", "note"),
    [
        ({"WindowCenter": ["2048", "9"], "WindowWidth": ["4096", "9"]}, "window", "first of 2 windows used"),
        ({"WindowCenter": "2048", "WindowWidth": "0"}, "percentiles", "window width 0 ignored"),
        ({"WindowCenter": "2048", "WindowWidth": "inf"}, "percentiles", "WindowWidth is not a number: ignored"),
        ({"WindowCenter": "50000", "WindowWidth": "9"}, "percentiles", "window ignored: it makes"),
        ({**IN_12_BITS, "VOILUTFunction": "GAMMA"}, "window", "unknown VOILUTFunction taken for LINEAR"),
        ({**IN_12_BITS, "RescaleSlope": "0"}, "window", "RescaleSlope 0 ignored"),
        ({**IN_12_BITS, "PixelPaddingValue": 65535}, "window", "PixelPaddingValue outside of Bits Stored ignored"),
        ({**IN_12_BITS, "VOILUTSequence": table(0, [5] * 9)}, "window", "VOI LUT ignored: it has equal entries only"),
        ({**IN_12_BITS, "VOILUTSequence": table(60000, [1, 2])}, "window", "VOI LUT ignored: it makes"),
        ({**IN_12_BITS, "PixelSpacing": ["0", "0"]}, "window", "PixelSpacing is inconsistent: ignored"),
        ({**IN_12_BITS, "PresentationIntentType": "FOR PROCESSING"}, "window", "stored FOR PROCESSING"),
    ],
)
def test_what_had_to_be_decided_is_noted(file, attributes, intensity, note):
    radiograph = read_dicom(write(file, picture(), **attributes))
    assert radiograph.intensity == intensity
    assert [text for text in radiograph.notes if text.startswith(note)]
    plain = picture().astype(np.float64).ravel()
    assert np.corrcoef(radiograph.pixels.ravel(), plain)[0, 1] > 0.99


@pytest.mark.parametrize("limit", [None, 4000])
def test_padding_is_black_and_does_not_move_the_percentiles(file, limit):
    stored = picture()
    stored[:, 24:] = 4095
    stored[:, 40:] = 4050
    attributes = {"PixelPaddingValue": 4095} | ({"PixelPaddingRangeLimit": limit} if limit else {})
    pixels = read_dicom(write(file, stored, PhotometricInterpretation="MONOCHROME1", **attributes)).pixels
    assert not pixels[:, 24:40].any()
    assert pixels[:, :24].max() == 1
    padded = stored >= (limit or 4095)
    assert np.all((pixels == 0)[padded])


@pytest.mark.parametrize(
    ("orientation", "mirrored", "turn"),
    [
        (["L", "F"], False, lambda a: a),
        (["R", "F"], True, lambda a: a[:, ::-1]),
        (["LF", "FP"], False, lambda a: a),
        (["L", "H"], False, lambda a: a[::-1]),
        (["A", "F"], False, lambda a: a),
        (["F", "L"], False, lambda a: a.T),
        ("L", False, lambda a: a),
    ],
)
def test_patient_orientation_is_honoured(file, orientation, mirrored, turn):
    radiograph = read_dicom(write(file, picture(), PatientOrientation=orientation, **IN_12_BITS))
    expected = turn(picture().astype(np.float32) / np.float32(4095))
    assert np.array_equal(radiograph.pixels, expected)
    assert radiograph.mirrored is mirrored
    assert bool(radiograph.notes) == (orientation in (["R", "F"], ["L", "H"], ["F", "L"]))


@pytest.mark.parametrize(
    ("attributes", "spacing", "aspect"),
    [
        ({}, None, 1),
        ({"PixelSpacing": ["0.2", "0.1"]}, (0.2, 0.1), 2),
        ({"ImagerPixelSpacing": ["0.1", "0.2"]}, (0.1, 0.2), 0.5),
        ({"PixelSpacing": ["0.14", "0.14"], "ImagerPixelSpacing": ["0.2", "0.1"]}, (0.14, 0.14), 1),
        ({"PixelSpacing": ["0.1401", "0.14"]}, (0.1401, 0.14), 1),
        ({"PixelAspectRatio": ["4", "3"]}, None, 4 / 3),
        ({"PixelSpacing": ["-1", "1"], "PixelAspectRatio": ["1", "2"]}, None, 0.5),
        ({"PixelSpacing": ["0.001", "100"]}, None, 1),
        ({"PixelSpacing": ["0.2", "0.1"], "PatientOrientation": ["F", "L"]}, (0.1, 0.2), 0.5),
    ],
)
def test_spacing_and_aspect(file, attributes, spacing, aspect):
    radiograph = read_dicom(write(file, picture(), **attributes))
    assert radiograph.pixel_spacing == spacing
    assert radiograph.aspect == pytest.approx(aspect)


@pytest.mark.parametrize(
    ("attributes", "kind", "reason", "words"),
    [
        ({"Modality": "CT"}, NotRadiographError, "modality", "CT (computed tomography) is not read"),
        ({"Modality": "MG"}, NotRadiographError, "modality", "MG (mammography)"),
        ({"Modality": "US", "SamplesPerPixel": 3}, NotRadiographError, "modality", "US (ultrasound)"),
        ({"Modality": "Surname, Dr"}, NotRadiographError, "modality", "a modality that is no DICOM code"),
        ({"Modality": "ZZ"}, NotRadiographError, "modality", "modality ZZ is not read"),
        ({"Modality": None, "SOPClassUID": CTImageStorage}, NotRadiographError, "modality", "CT Image Storage"),
        ({"Modality": None, "SOPClassUID": RTPlanStorage}, NotRadiographError, "modality", "RT Plan Storage"),
        ({"SamplesPerPixel": 3}, UnsupportedImageError, "colour", "of 3 sample(s)"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, UnsupportedImageError, "colour", "PALETTE COLOR pixels"),
        ({"PhotometricInterpretation": "RGB"}, UnsupportedImageError, "colour", "only greyscale"),
        ({"PhotometricInterpretation": "MONOCHROME3"}, BrokenImageError, "corrupt", "MONOCHROME1 or MONOCHROME2"),
        ({"PhotometricInterpretation": None}, BrokenImageError, "missing_attribute", "white or black"),
        ({"NumberOfFrames": 7}, UnsupportedImageError, "multi_frame", "7 frames"),
        ({"Rows": 60000, "Columns": 60000}, UnsupportedImageError, "too_large", "60000 x 60000"),
        ({"Rows": 60000}, BrokenImageError, "truncated", "need 5760000 bytes, the file holds 3840"),
        ({"Columns": 20}, BrokenImageError, "corrupt", "too long"),
        ({"Rows": None}, BrokenImageError, "missing_attribute", "Rows"),
        ({"BitsStored": None}, BrokenImageError, "missing_attribute", "BitsStored"),
        ({"BitsAllocated": 32}, UnsupportedImageError, "bit_depth", "32 bits allocated"),
        ({"BitsStored": 20}, BrokenImageError, "corrupt", "contradict each other"),
        ({"PixelRepresentation": 2}, BrokenImageError, "corrupt", "expected 0 or 1"),
        ({"PixelData": None}, BrokenImageError, "no_pixel_data", "no pixel data"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, BrokenImageError, "no_contrast", "padding"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, BrokenImageError, "corrupt", "modality LUT"),
    ],
)
def test_refusals_name_their_reason_and_no_patient(file, attributes, kind, reason, words):
    with pytest.raises(kind) as caught:
        read_dicom(write(file, picture(), **attributes))
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (PATIENT, "Surname", "4711", "1937"))


def test_the_sop_class_stands_in_for_a_missing_modality(file):
    attributes = {"Modality": None, "SOPClassUID": DigitalXRayImageStorageForProcessing}
    assert read_dicom(write(file, picture(), **attributes)).modality == "DX"


def test_a_file_that_says_nothing_about_its_kind(file):
    write(file, picture(), Modality=None)
    data = pydicom.dcmread(file)
    del data.SOPClassUID, data.file_meta.MediaStorageSOPClassUID
    data.save_as(file)
    with pytest.raises(BrokenImageError, match="nothing says that it is a radiograph") as caught:
        read_dicom(file)
    assert caught.value.reason == "missing_attribute"


def test_a_dicomdir_is_no_image(file):
    data = Dataset()
    data.FileSetID, data.DirectoryRecordSequence = "DISC", Sequence()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    data.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    data.file_meta.MediaStorageSOPInstanceUID = "1.2"
    data.save_as(file, enforce_file_format=True)
    with pytest.raises(NotRadiographError, match="give its folder instead") as caught:
        read_dicom(file)
    assert caught.value.reason == "dicomdir"


@pytest.mark.parametrize(
    ("uid", "words"),
    [
        ("1.2.840.10008.1.2.4.59", "(JPEG Extended, Hierarchical"),
        ("1.2.840.10008.1.2.4.102", "(MPEG-4 AVC/H.264 High Profile"),
    ],
)
def test_an_unknown_transfer_syntax_is_named(file, uid, words):
    write(file, picture(), syntax=uid, frame=b"\0\0")
    with pytest.raises(UnsupportedImageError) as caught:
        read_dicom(file)
    assert caught.value.reason == "transfer_syntax"
    assert words in str(caught.value)
    assert "Explicit VR Little Endian" in str(caught.value)
