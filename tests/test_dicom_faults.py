import itertools
import logging
import random
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicoms import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    IN_12_BITS,
    JPEG_2000,
    JPEG_LS,
    RLE,
    picture,
    write,
)  # fmt: skip
from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images.dicom import read_dicom


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"\0" * 128 + b"DICM", "truncated"),
        (b"not a radiograph at all\n" * 40, "not_dicom"),
        (b"\x08\x00" + bytes(range(256)) * 8, "not_dicom"),
        (b"\0" * 5000, "not_dicom"),
    ],
)
def test_files_that_are_no_dicom(file, content, reason):
    file.write_bytes(content)
    with pytest.raises(BrokenImageError) as caught:
        read_dicom(file)
    assert caught.value.reason == reason


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_bare_data_set_without_preamble_is_read(file, syntax):
    whole = read_dicom(write(file, picture(), syntax=syntax, **IN_12_BITS))
    data = file.read_bytes()
    file.write_bytes(data[132:])
    assert np.array_equal(read_dicom(file).pixels, whole.pixels)
    meta_length = int.from_bytes(data[140:144], "little")
    file.write_bytes(data[144 + meta_length :])
    bare = read_dicom(file)
    assert np.array_equal(bare.pixels, whole.pixels)
    assert bare.transfer_syntax_uid is None
    assert [note for note in bare.notes if note.startswith("no transfer syntax named: read as")]


def test_trailing_bytes_are_left_out_with_a_note(file):
    whole = read_dicom(write(file, picture()))
    file.write_bytes(file.read_bytes() + b"garbage" * 9)
    radiograph = read_dicom(file)
    assert np.array_equal(radiograph.pixels, whole.pixels)
    assert radiograph.notes == ("63 bytes after the pixel data not read",)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, DEFLATED, JPEG_LS])
def test_a_file_cut_anywhere_is_refused(file, syntax):
    frame = None
    if syntax == JPEG_LS:
        frame = bytes(pytest.importorskip("imagecodecs").jpegls_encode(picture()))
    data = write(file, picture(), syntax=syntax, frame=frame).read_bytes()
    # A sequence delimiter with nothing behind it is all that the last 8 bytes of a compressed file are.
    for length in itertools.chain(range(1, len(data) - 8, 13), range(len(data) - 8, len(data), 2)):
        file.write_bytes(data[:length])
        with pytest.raises(BrokenImageError) as caught:
            read_dicom(file)
        assert caught.value.reason in {"truncated", "no_pixel_data", "not_dicom", "missing_attribute", "corrupt"}
    assert caught.value.reason == "truncated"


def test_a_compressed_header_on_native_pixels_is_corrupt(file):
    file.write_bytes(write(file, picture()).read_bytes().replace(EXPLICIT.encode(), RLE.encode(), 1))
    with pytest.raises(BrokenImageError, match="does not belong to its pixels") as caught:
        read_dicom(file)
    assert caught.value.reason == "corrupt"


def test_a_deflate_bomb_is_stopped(file):
    data = write(file, picture(), syntax=DEFLATED).read_bytes()
    meta_length = int.from_bytes(data[140:144], "little")
    bomb = zlib.compressobj(wbits=-15)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(80)) + bomb.flush()
    file.write_bytes(data[: 144 + meta_length] + packed)
    assert file.stat().st_size < 200_000
    with pytest.raises(UnsupportedImageError, match="inflates to more than") as caught:
        read_dicom(file, max_pixels=1000)
    assert caught.value.reason == "too_large"


def test_a_fragment_that_claims_gigabytes_costs_none(file):
    write(file, picture(), syntax=JPEG_2000, frame=b"\xff\x4f" * 50)
    data = file.read_bytes()
    item = data.rindex(b"\xfe\xff\x00\xe0")
    file.write_bytes(data[: item + 4] + (0xF0000000).to_bytes(4, "little") + data[item + 8 :])
    with pytest.raises(BrokenImageError, match="longer than") as caught:
        read_dicom(file)
    assert caught.value.reason == "corrupt"


@pytest.fixture
def odd_file(file: Path) -> Path:
    """A file with values at which pydicom warns."""
    data = write(file, picture(), **IN_12_BITS).read_bytes()
    for right, wrong in ((b"2048", b"Smth"), (b"20190228", b"Feb 2019"), (b"1.2.3.5\0", b"Surname\0")):
        assert right in data
        data = data.replace(right, wrong, 1)
    file.write_bytes(data)
    return file


def test_pydicom_is_quiet_and_everything_is_as_before(odd_file, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        radiograph = read_dicom(odd_file)
    assert caught == []
    assert [record for record in caplog.records if record.name.startswith("pydicom")] == []
    assert capfd.readouterr() == ("", "")
    assert not logging.getLogger("pydicom").disabled
    assert warnings.filters == filters
    assert radiograph.series_instance_uid is None
    assert "Surname" not in repr(radiograph)
    assert radiograph.intensity == "percentiles"


def test_threads_read_side_by_side(tmp_path, odd_file):
    filters = list(warnings.filters)
    paths = [odd_file, *(write(tmp_path / f"{i}.dcm", picture() // (i + 1), **IN_12_BITS) for i in range(8))] * 6
    alone = [read_dicom(path).pixels for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = [radiograph.pixels for radiograph in pool.map(read_dicom, paths)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert warnings.filters == filters


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED, RLE, JPEG_2000])
def test_damaged_bytes_never_escape_as_anything_but_our_errors(file, syntax, capfd):
    frame = None
    if syntax == JPEG_2000:
        frame = bytes(pytest.importorskip("imagecodecs").jpeg2k_encode(picture(), level=0, codecformat="J2K"))
    write(file, picture(), syntax=EXPLICIT if syntax == RLE else syntax, frame=frame, **IN_12_BITS)
    if syntax == RLE:
        data = pydicom.dcmread(file)
        data.compress(RLE, encoding_plugin="pydicom")
        data.save_as(file)
    whole = file.read_bytes()
    chance = random.Random(syntax)
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 20])):
            damaged[chance.randrange(128, len(whole))] = chance.choice([0, 255, chance.randrange(256)])
        file.write_bytes(damaged)
        try:
            pixels = read_dicom(file).pixels
        except ImageError as error:
            outcomes.add(error.reason)
        else:
            assert 0 <= pixels.min() < pixels.max() <= 1
    assert outcomes & {"corrupt", "truncated", "missing_attribute", "modality"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "4711"}, "colour"), ({"PhotometricInterpretation": "MONOCHROME 4711"}, "corrupt"),
        ({"Modality": "4711"}, "modality"), ({"Modality": "SURNAME"}, "modality"),
        ({"Modality": None, "SOPClassUID": "4711"}, "modality"),
    ],
)  # fmt: skip
def test_misplaced_identifiers_are_never_quoted(file, attributes, reason):
    """What stands where a term or a UID must be can be the id or the name of a patient."""
    write(file, picture(), **attributes)
    with pytest.raises(ImageError) as caught:
        read_dicom(file)
    assert caught.value.reason == reason
    assert not any(word in str(caught.value) for word in ("4711", "SURNAME"))


def test_a_misplaced_identifier_is_no_transfer_syntax(file):
    write(file, picture())
    file.write_bytes(file.read_bytes().replace(EXPLICIT.encode() + b"\0", b"4711".ljust(len(EXPLICIT) + 1, b"\0")))
    with pytest.raises(UnsupportedImageError, match="that is no UID") as caught:
        read_dicom(file)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize("rendering", ["voi", "minmax"])
@pytest.mark.parametrize(
    "rescale",
    [
        {"RescaleSlope": "1e308"}, {"RescaleSlope": "-1e308"}, {"RescaleSlope": "1e308", "RescaleIntercept": "-1e308"},
        {"RescaleSlope": "8e304", "RescaleIntercept": "-1.7e308"}, {"RescaleIntercept": "1.7e308", "RescaleSlope": "1e305"},
    ],
)  # fmt: skip
def test_a_rescale_that_overflows_is_refused(file, rescale, rendering):
    """Pixels that are no numbers would end the whole run at the tower."""
    write(file, picture(), **{"RescaleIntercept": "0", "RescaleSlope": "1", **rescale}, **IN_12_BITS)
    with pytest.raises(BrokenImageError, match="that overflow") as caught:
        read_dicom(file, rendering=rendering)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("center", ["1e308", "-1e308", "0", "2048"])
@pytest.mark.parametrize("width", ["1e308", "1e-300", "1", "2"])
@pytest.mark.parametrize("slope", ["1", "1e304", "1e-300"])
def test_pixels_are_numbers_whatever_the_window(file, function, center, width, slope):
    values = {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": slope, "RescaleIntercept": "0"}
    write(file, picture(), VOILUTFunction=function, **values)
    pixels = read_dicom(file).pixels
    assert np.isfinite(pixels).all()
    assert 0 <= pixels.min() < pixels.max() <= 1
