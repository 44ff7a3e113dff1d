"""Every transfer syntax that is read, as a file: the picture is that of the uncompressed file."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from codestreams import ENCAPSULATED, JPEG, frame_of
from dicoms import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, IN_12_BITS, RLE, write
from mcr_infer import phantom
from mcr_infer.errors import BrokenImageError, ImageError
from mcr_infer.images import read_image
from mcr_infer.images.decode import TRANSFER_SYNTAXES
from mcr_infer.images.run_length import _unpack_segment

IN_8_BITS = {"WindowCenter": "128", "WindowWidth": "256"}
STORED = np.ascontiguousarray(phantom.make(5, 200).stored[:180, :163])

LEVELS_OFF = {
    IMPLICIT: 0, EXPLICIT: 0, ENCAPSULATED: 0, DEFLATED: 0, BIG_ENDIAN: 0, RLE: 0,
    JPEG + "50": 8, JPEG + "51": 40, JPEG + "57": 0, JPEG + "70": 0, JPEG + "80": 0, JPEG + "81": 3,
    JPEG + "90": 0, JPEG + "91": 60, JPEG + "201": 0, JPEG + "202": 0, JPEG + "203": 30,
}  # fmt: skip
"""By how many levels at most a pixel may be off, in the syntaxes with loss: .81 is made near-lossless by 3."""


def save(path: Path, syntax: str, **attributes: object) -> tuple[Path, np.ndarray]:
    """Write the phantom in a transfer syntax; return the file and the picture that it should give."""
    stored = (STORED >> 4).astype(np.uint8) if syntax == JPEG + "50" else STORED
    window = IN_8_BITS if stored.dtype == np.uint8 else IN_12_BITS
    if syntax == RLE:
        data = pydicom.dcmread(write(path, stored, **window, **attributes))
        data.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
        data.save_as(path)
    else:
        write(path, stored, syntax=syntax, frame=frame_of(syntax, stored), **window, **attributes)
    return path, stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 4095)


def test_each_syntax_is_tested():
    assert set(LEVELS_OFF) == set(TRANSFER_SYNTAXES)


@pytest.mark.parametrize("syntax", LEVELS_OFF)
def test_every_transfer_syntax_gives_the_same_picture(tmp_path, syntax):
    file, expected = save(tmp_path / "a.dcm", syntax)
    radiograph = read_image(file)
    assert radiograph.transfer_syntax_uid == syntax
    assert radiograph.notes == ()
    scale = 255 if syntax == JPEG + "50" else 4095
    assert np.abs(radiograph.pixels - expected).max() * scale <= LEVELS_OFF[syntax] + 0.001
    # A loss that is really there, where there should be one.
    assert np.array_equal(radiograph.pixels, expected) == (LEVELS_OFF[syntax] == 0)


@pytest.mark.parametrize("syntax", LEVELS_OFF)
def test_a_stream_gives_what_a_path_gives(tmp_path, syntax):
    file, _ = save(tmp_path / "a.dcm", syntax)
    stream = io.BytesIO(file.read_bytes())
    stream.seek(77)  # it is read from its beginning, wherever it stands
    assert np.array_equal(read_image(stream).pixels, read_image(file).pixels)
    assert not stream.closed
    assert np.array_equal(read_image(stream).pixels, read_image(file).pixels)


def test_members_of_archives_are_streams(tmp_path):
    file, expected = save(tmp_path / "a.dcm", EXPLICIT)
    Image.fromarray((STORED >> 4).astype(np.uint8)).save(tmp_path / "b.png")
    with zipfile.ZipFile(tmp_path / "both.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "a.dcm")
        archive.write(tmp_path / "b.png", "b.png")
    with tarfile.open(tmp_path / "both.tar", "w") as archive:
        archive.add(file, "a.dcm")
        archive.add(tmp_path / "b.png", "b.png")
    with zipfile.ZipFile(tmp_path / "both.zip") as archive, archive.open("a.dcm") as a, archive.open("b.png") as b:
        assert np.array_equal(read_image(a).pixels, expected)
        assert read_image(b).source == "png"
    with tarfile.open(tmp_path / "both.tar") as archive:
        assert np.array_equal(read_image(archive.extractfile("a.dcm")).pixels, expected)
        assert read_image(archive.extractfile("b.png")).source == "png"


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty_file"), (b"no image" * 50, "not_dicom")])
def test_streams_are_refused_in_the_words_of_files(content, reason):
    with pytest.raises(BrokenImageError) as caught:
        read_image(io.BytesIO(content))
    assert caught.value.reason == reason


def test_a_stream_that_fails_is_unreadable():
    class Vanished(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(BrokenImageError, match="cannot be opened or read: Input/output error") as caught:
        read_image(Vanished(b"x" * 500))
    assert caught.value.reason == "unreadable"


def test_loss_beyond_bits_stored_is_clipped_and_lies_are_not(tmp_path):
    """A codestream of 16 bits for 12 that are stored: the wavelet errs beyond white, and the codec does not know it."""
    codecs = pytest.importorskip("imagecodecs")
    stored = STORED.copy()
    stored[20:90, 30:75] = 4095
    frame = bytes(codecs.htj2k_encode(stored, reversible=False, level=0.001))
    assert codecs.jpeg2k_decode(frame).max() > 4095
    file = write(tmp_path / "a.dcm", stored, syntax=JPEG + "203", frame=frame, **IN_12_BITS)
    pixels = read_image(file).pixels
    assert pixels.max() == 1
    assert np.abs(pixels - stored / 4095).max() < 0.1
    lying = bytes(codecs.htj2k_encode(stored * 2, reversible=False))
    with pytest.raises(BrokenImageError, match="which 12 bits stored cannot"):
        read_image(write(tmp_path / "a.dcm", stored, syntax=JPEG + "203", frame=lying, **IN_12_BITS))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda frame: frame[:-2], "truncated"), (lambda frame: frame[: len(frame) // 2], "truncated"),
        (lambda frame: frame[:1], "truncated"), (lambda frame: frame + bytes(2000), "corrupt"),
        (lambda frame: frame * 2, "corrupt"),
    ],
)  # fmt: skip
def test_an_uncompressed_frame_has_the_declared_size(tmp_path, change, reason):
    file = write(tmp_path / "a.dcm", STORED, syntax=ENCAPSULATED, frame=change(STORED.tobytes()), **IN_12_BITS)
    with pytest.raises(BrokenImageError) as caught:
        read_image(file)
    assert caught.value.reason == reason


def test_padding_of_an_uncompressed_frame_is_noted(tmp_path):
    file = write(tmp_path / "a.dcm", STORED, syntax=ENCAPSULATED, frame=STORED.tobytes() + bytes(512), **IN_12_BITS)
    radiograph = read_image(file)
    assert np.abs(radiograph.pixels * 4095 - STORED).max() <= 0.001
    assert radiograph.notes == ("512 bytes of padding in the pixel data ignored",)


@pytest.mark.parametrize(
    "segment",
    [
        b"\x03abcd", b"\x03abcd\x00", b"\xfdx", b"\xfdx\x80", b"\x80\x03abcd", b"\x01ab\xffc\x80\x80", b"\x03abcd\xff\xff",
        b"\x03abc", b"\x03", b"\xfd", b"\x04abcde", b"\xfcx", b"", b"\x80", b"\x00a\x00b\x00c\x00", b"\x02abc\x02xyz",
    ],
)  # fmt: skip
def test_runs_are_judged_alike_with_and_without_imagecodecs(segment, tmp_path):
    """The fast decoder may only ever say what the slow one says."""
    pytest.importorskip("imagecodecs")
    from mcr_infer.images import run_length

    def outcome(unpack) -> object:
        try:
            return bytes(unpack(segment, 4))
        except ImageError as error:
            return error.reason, str(error)

    assert outcome(run_length._unpack_fast) == outcome(_unpack_segment)


@pytest.mark.parametrize("start", [0, 63, 65, 66, 128, 1000])
def test_first_run_length_segment_follows_its_header(tmp_path, start):
    """PS3.5 G.5: from any other offset the runs would be unpacked from their middle, to a picture that is none."""
    file, _ = save(tmp_path / "a.dcm", RLE)
    data = pydicom.dcmread(file)
    (frame,) = pydicom.encaps.generate_frames(data.PixelData, number_of_frames=1)
    data.PixelData = pydicom.encaps.encapsulate([frame[:4] + start.to_bytes(4, "little") + frame[8:]])
    data.save_as(file)
    with pytest.raises(BrokenImageError, match="header that does not fit"):
        read_image(file)
