"""Look-up tables whose data, descriptor and pixels disagree: rendered by a stated rule with a note, left out or refused."""

from pathlib import Path

import numpy as np
import pytest

from dicoms import BIG_ENDIAN, EXPLICIT, IMPLICIT, IN_12_BITS, stored_table, write
from mcr_infer.errors import BrokenImageError
from mcr_infer.images import Radiograph
from mcr_infer.images.dicom import read_dicom

STORED = np.random.default_rng(0).permutation(4096).reshape(64, 64).astype(np.uint16)
CURVE = np.rint(65535 * (np.arange(4096) / 4095) ** 0.7).astype(np.uint16)
"""Entries of 16 bits for values of 12."""
BYTES = CURVE >> 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def with_voi_lut(file: Path, declared: tuple[int, int, int], entries: np.ndarray, **how: object) -> Radiograph:
    """Read a file with a VOI LUT, and a window to fall back on."""
    return read_dicom(write(file, STORED, VOILUTSequence=stored_table(declared, entries, **how), **IN_12_BITS))


def with_modality_lut(file: Path, declared: tuple[int, int, int], entries: np.ndarray, **how: object) -> Radiograph:
    """Read a file with a modality LUT, whose outputs from 0 to 65535 its window shows."""
    window = {"WindowCenter": "32768", "WindowWidth": "65536"}
    return read_dicom(write(file, STORED, ModalityLUTSequence=stored_table(declared, entries, **how), **window))


@pytest.mark.parametrize("held", [4095, 4090, 4032, 4097, 4100, 4160])
@pytest.mark.parametrize("read", [with_voi_lut, with_modality_lut])
def test_a_few_entries_more_or_less_are_noted(file, read, held):
    entries = np.append(CURVE, np.arange(200))[:held].astype(np.uint16)
    radiograph = read(file, (4096, 0, 16), entries)
    expected = CURVE[np.minimum(STORED, min(held, 4096) - 1)] / 65535
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    (note,) = radiograph.notes
    assert f"LUT of {held} entries where its descriptor says 4096" in note


@pytest.mark.parametrize("held", [4095, 4090, 4098, 4150])
def test_bytes_more_or_less_are_noted(file, held):
    entries = np.append(BYTES, np.zeros(200))[:held]
    radiograph = with_voi_lut(file, (4096, 0, 8), entries, width=1)
    kept = held + held % 2  # an odd number is padded
    expected = np.append(BYTES[: min(held, 4096)], 0)[np.minimum(STORED, min(kept, 4096) - 1)] / 255
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert len(radiograph.notes) == int(kept != 4096)


@pytest.mark.parametrize("held", [0, 1, 1000, 2100, 3000, 4000, 4200, 8000])
def test_another_number_of_entries_is_not_understood(file, held):
    entries = np.resize(CURVE, held)
    radiograph = with_voi_lut(file, (4096, 0, 16), entries)
    assert radiograph.intensity == "window"
    np.testing.assert_allclose(radiograph.pixels, STORED / 4095, atol=1e-6)
    assert [note for note in radiograph.notes if note.startswith("VOI LUT ignored: it has ")]
    with pytest.raises(BrokenImageError, match="the modality LUT has") as caught:
        with_modality_lut(file, (4096, 0, 16), entries)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("vr", ["OW", "US", "SS", "OB", "UN"])
@pytest.mark.parametrize("width", [1, 2])
def test_every_vr_holds_the_same_table(file, syntax, vr, width):
    entries = CURVE if width == 2 else BYTES
    little = syntax != BIG_ENDIAN
    sequence = stored_table((4096, 0, 8 * width), entries, width=width, vr=vr, little=little)
    write(file, STORED, syntax=syntax, VOILUTSequence=sequence, **IN_12_BITS)
    if vr == "UN":  # pydicom writes what it takes for right
        tag = b"\x28\0\x06\x30" if little else b"\0\x28\x30\x06"
        file.write_bytes(file.read_bytes().replace(tag + b"OW", tag + b"UN"))
    radiograph = read_dicom(file)
    if syntax == BIG_ENDIAN and vr in ("OB", "UN"):  # who wrote it meant some order of bytes, and does not say which
        assert (radiograph.intensity, len(radiograph.notes)) == ("window", 1)
        return
    np.testing.assert_allclose(radiograph.pixels, entries[STORED] / (256**width - 1), atol=1e-6)
    assert (radiograph.intensity, radiograph.notes) == ("voi_lut", ())


@pytest.mark.parametrize("cut", [-1, 1, 3])
@pytest.mark.parametrize("vr", [b"OW", b"US", b"OB"])
def test_odd_lengths_lose_only_missing_entries(file, vr, cut):
    sequence = stored_table((256, 0, 16), CURVE[::16], vr=vr.decode())
    write(file, STORED >> 4, VOILUTSequence=sequence, WindowCenter="128", WindowWidth="256")
    data = file.read_bytes()
    at = data.index(b"\x28\0\x10\x30SQ") + 8
    length = 2 if vr == b"US" else 4
    start = data.index(b"\x28\0\x06\x30" + vr, at) + 4 + length + length
    lengths = [(at, 4), (at + 8, 4), (start - length, length)]  # of the sequence, its item and LUT Data
    shorter = bytearray(data)
    for position, size in lengths:
        value = int.from_bytes(data[position : position + size], "little") - cut
        shorter[position : position + size] = value.to_bytes(size, "little")
    file.write_bytes(shorter[: start + min(512, 512 - cut)] + b"\0" * -cut + shorter[start + 512 :])
    radiograph = read_dicom(file)
    held = (512 - cut) // 2
    expected = CURVE[::16][np.minimum(STORED >> 4, held - 1)] / 65535
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert [f"VOI LUT of {held} entries" in note for note in radiograph.notes] == [True] * (held < 256)


def test_zero_entries_are_65536(file):
    stored = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    entries = np.rint(65535 * (np.arange(65536) / 65535) ** 0.5)
    for width, scale in ((2, 1), (1, 256)):
        kept = entries // scale
        sequence = stored_table((65536, 0, 8 * width), kept, width=width)
        radiograph = read_dicom(write(file, stored, BitsStored=16, HighBit=15, VOILUTSequence=sequence))
        np.testing.assert_allclose(radiograph.pixels.ravel(), kept / (256**width - 1), atol=1e-6)
        assert radiograph.notes == ()


@pytest.mark.parametrize(
    ("bits", "entries", "white", "noted"),
    [
        (12, CURVE >> 4, 4095, False),
        (16, CURVE >> 1, 65535, False),
        (12, CURVE >> 5, 4095, False),
        (16, CURVE >> 4, 4095, True),
        (16, CURVE >> 2, 16383, True),
        (16, BYTES, 255, True),
        (8, CURVE >> 4, 4095, True),
        (8, CURVE, 65535, True),
        (8, BYTES * 257, 255, False),
        (8, BYTES * 256, 65535, True),
        (10, CURVE >> 3, 8191, True),
        (0, CURVE >> 4, 4095, True),
        (17, CURVE, 65535, True),
    ],
)
def test_white_is_declared_unless_entries_contradict(file, bits, entries, white, noted):
    radiograph = with_voi_lut(file, (4096, 0, bits), entries)
    shown = entries & 0xFF if white == 255 else entries
    np.testing.assert_allclose(radiograph.pixels, shown[STORED] / white, atol=1e-6)
    assert [f"{int(white).bit_length()} bits are its full scale" in note for note in radiograph.notes] == [True] * noted


@pytest.mark.parametrize(
    ("stored", "attributes", "first", "vr", "noted"),
    [
        (STORED, {}, 0, "US", False),
        (STORED, {}, 0, "SS", False),
        (STORED, {}, -1, "SS", True),
        (STORED, {}, -100, "US", True),
        (STORED, {"RescaleSlope": "1", "RescaleIntercept": "-1024"}, -1024, "SS", False),
        (STORED, {"RescaleSlope": "1", "RescaleIntercept": "-1024"}, -1024, "US", False),
        (STORED, {"RescaleSlope": "1", "RescaleIntercept": "40000"}, 40000, "US", False),
        (STORED, {"RescaleSlope": "1", "RescaleIntercept": "40000"}, 40000 - 65536, "SS", False),
        (STORED.astype(np.int16) - 2048, {}, -2048, "SS", False),
        (STORED.astype(np.int16) - 2048, {}, -2048, "US", False),
        (STORED.astype(np.int16) - 2048, {"RescaleSlope": "1", "RescaleIntercept": "2048"}, 0, "US", False),
        (STORED.astype(np.int16) - 2048, {"RescaleSlope": "1", "RescaleIntercept": "50000"}, 47952, "US", False),
    ],
)
def test_the_first_value_has_the_sign_of_its_inputs(file, stored, attributes, first, vr, noted):
    sequence = stored_table((4096, first, 16), CURVE, descriptor_vr=vr)
    radiograph = read_dicom(write(file, stored, VOILUTSequence=sequence, **attributes))
    start = first % 65536 if attributes.get("RescaleIntercept") == "40000" else first
    index = stored.astype(int) + int(attributes.get("RescaleIntercept", 0)) - start
    np.testing.assert_allclose(radiograph.pixels, CURVE[np.clip(index, 0, 4095)] / 65535, atol=1e-6)
    assert [f"VOI LUT read as beginning at {first}" in note for note in radiograph.notes] == [True] * noted


@pytest.mark.parametrize("descriptor", [[4096, 0], [4096, 0, 16, 0], [4096], None])
def test_a_descriptor_has_three_values(file, descriptor):
    sequence = stored_table((4096, 0, 16), CURVE)
    del sequence[0].LUTDescriptor
    if descriptor is not None:
        sequence[0].add_new("LUTDescriptor", "US", descriptor)
    radiograph = read_dicom(write(file, STORED, VOILUTSequence=sequence, **IN_12_BITS))
    assert (radiograph.intensity, *radiograph.notes) == (
        "window",
        "VOI LUT ignored: it has no LUT Descriptor of three values",
    )


@pytest.mark.parametrize(
    ("bits", "entries", "noted"),
    [(16, CURVE >> 4, False), (16, BYTES, False), (8, BYTES * 257, False), (8, CURVE >> 4, True), (12, CURVE, True)],
)
def test_modality_entries_are_values_as_they_are(file, bits, entries, noted):
    radiograph = with_modality_lut(file, (4096, 0, bits), entries)
    values = entries & 0xFF if bits == 8 and not noted else entries
    np.testing.assert_allclose(radiograph.pixels, values[STORED] / 65535, atol=1e-6)
    assert ["taken as they are" in note for note in radiograph.notes] == [True] * noted


def test_other_items_of_a_sequence_are_noted(file):
    sequence = stored_table((4096, 0, 16), CURVE)
    sequence.extend([*stored_table((4096, 0, 16), CURVE[::-1]), *stored_table((4096, 0, 8), BYTES)])
    radiograph = read_dicom(write(file, STORED, VOILUTSequence=sequence))
    np.testing.assert_allclose(radiograph.pixels, CURVE[STORED] / 65535, atol=1e-6)
    assert radiograph.notes == ("first of 3 items of VOILUTSequence used",)


@pytest.mark.parametrize("vr", [b"OB", b"UT"])
def test_a_sequence_that_is_none_is_not_dropped_silently(file, vr):
    """Its VR was mistaken: what it holds cannot be known."""
    write(file, STORED, VOILUTSequence=stored_table((4096, 0, 16), CURVE), **IN_12_BITS)
    data = file.read_bytes()
    file.write_bytes(data.replace(b"\x28\0\x10\x30SQ", b"\x28\0\x10\x30" + vr))
    radiograph = read_dicom(file)
    assert (radiograph.intensity, radiograph.notes) == ("window", ("VOILUTSequence cannot be read: ignored",))
    file.write_bytes(data.replace(b"\x28\0\x10\x30SQ", b"\x28\0\0\x30" + vr))
    with pytest.raises(BrokenImageError, match="ModalityLUTSequence cannot be read") as caught:
        read_dicom(file)
    assert caught.value.reason == "corrupt"


def test_outputs_of_a_modality_lut_are_inputs_of_a_voi_lut(file):
    """They are unsigned (PS3.3 C.11.1.1), even of signed pixels."""
    stored = STORED.astype(np.int16) - 2048
    modality = stored_table((4096, -2048, 16), np.arange(4096) + 40000, descriptor_vr="SS")
    voi = stored_table((4096, 40000, 16), CURVE)
    radiograph = read_dicom(write(file, stored, ModalityLUTSequence=modality, VOILUTSequence=voi))
    np.testing.assert_allclose(radiograph.pixels, CURVE[STORED] / 65535, atol=1e-6)
    assert radiograph.notes == ()
