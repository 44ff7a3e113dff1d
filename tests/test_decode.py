import io
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom.pixels.encoders import RLELosslessEncoder

from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images.decode import TRANSFER_SYNTAXES, TransferSyntax, decode
from mcr_infer.images.pixel_format import PixelFormat
from mcr_infer.images.reduced_decode import Codestream

JPEG = "1.2.840.10008.1.2.4."


def layout_of(stored: np.ndarray, bits: int) -> PixelFormat:
    return PixelFormat(
        rows=stored.shape[0],
        columns=stored.shape[1],
        bits_allocated=stored.dtype.itemsize * 8,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=stored.dtype.kind == "i",
    )


def noise(bits: int, *, signed: bool = False, shape: tuple[int, int] = (37, 29)) -> np.ndarray:
    low = -(1 << (bits - 1)) if signed else 0
    values = np.random.default_rng(bits).integers(low, low + (1 << bits), shape)
    values.flat[:2] = low, low + (1 << bits) - 1
    size = 1 if bits <= 8 else 2
    return values.astype(f"{'i' if signed else 'u'}{size}")


def encode(stored: np.ndarray, code: str, bits: int) -> bytes:
    """Compress without loss."""
    codecs = pytest.importorskip("imagecodecs")
    raw = stored if code in ("90", "201") else stored.view(f"u{stored.dtype.itemsize}") & ((1 << bits) - 1)
    if code == "70":
        return bytes(codecs.jpeg8_encode(raw, lossless=True, predictor=1, bitspersample=bits))
    if code == "80":
        return bytes(codecs.jpegls_encode(raw))
    if code == "90":
        return bytes(codecs.jpeg2k_encode(raw, level=0, codecformat="J2K", bitspersample=bits, reversible=True))
    return bytes(codecs.htj2k_encode(raw, reversible=True))


@pytest.mark.parametrize("code", ["57", "70", "80", "90", "201", "202"])
@pytest.mark.parametrize(
    ("bits", "signed"), [(8, False), (10, False), (12, False), (12, True), (16, False), (16, True)]
)
def test_lossless_syntaxes_give_back_every_value(code, bits, signed):
    stored = noise(bits, signed=signed)
    frame = encode(stored, {"57": "70", "202": "201"}.get(code, code), bits)
    decoded = decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, bits))
    assert np.array_equal(decoded.values, stored)
    assert decoded.notes == ()


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (10, False), (12, True), (16, False), (16, True)])
@pytest.mark.parametrize("code", ["90", "201"])
def test_without_imagecodecs_pillow_decodes_the_same_jpeg_2000(code, bits, signed, monkeypatch):
    stored = noise(bits, signed=signed)
    frame = encode(stored, code, bits)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    values = decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, bits)).values
    assert np.array_equal(values, stored)


@pytest.mark.parametrize("code", ["51", "57", "70", "80", "81"])
def test_a_missing_codec_says_how_to_get_it(code, monkeypatch):
    codecs = pytest.importorskip("imagecodecs")
    stored = noise(12)
    frames = {
        "51": lambda: codecs.jpeg8_encode(stored, level=90, bitspersample=12),
        "81": lambda: encode(stored, "80", 12),
    }
    frame = bytes(frames.get(code, lambda: encode(stored, "70" if code != "80" else "80", 12))())
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UnsupportedImageError, match=r"pip install 'mcr-infer\[codecs\]'") as caught:
        decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, 12))
    assert caught.value.reason == "codec_missing"


def smooth(bits: int) -> np.ndarray:
    values = np.add.outer(np.arange(64), np.arange(80)) / 142 * ((1 << bits) - 1)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


@pytest.mark.parametrize("code", ["50", "51"])
def test_8_bit_jpeg_needs_no_extra(code, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    stored, buffer = smooth(8), io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    values = decode(buffer.getvalue(), TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, 8)).values
    assert np.abs(values.astype(int) - stored).max() <= 3


def test_12_bit_jpeg():
    codecs = pytest.importorskip("imagecodecs")
    stored = smooth(12)
    frame = bytes(codecs.jpeg8_encode(stored, level=98, bitspersample=12))
    values = decode(frame, TRANSFER_SYNTAXES[JPEG + "51"], layout_of(stored, 12)).values
    assert np.abs(values.astype(int) - stored).max() <= 8


@pytest.mark.parametrize("signed", [False, True])
def test_the_header_decides_on_the_sign_and_not_the_codestream(signed):
    """A JPEG 2000 codestream of the other signedness holds the same bits."""
    stored = noise(12, signed=signed)
    other = (stored.astype(np.int32) & 0xFFF).astype(np.uint16)
    if not signed:
        other = ((other.astype(np.int32) ^ 0x800) - 0x800).astype(np.int16)
    values = decode(encode(other, "90", 12), TRANSFER_SYNTAXES[JPEG + "90"], layout_of(stored, 12)).values
    assert np.array_equal(values, stored)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u1", 6), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16)])
def test_native_values_in_both_byte_orders(order, dtype, bits):
    stored = noise(bits, signed=dtype[0] == "i").astype(dtype)
    syntax = TransferSyntax(name="native", encapsulated=False, big_endian=order == ">")
    decoded = decode(stored.astype(order + dtype).tobytes(), syntax, layout_of(stored, bits))
    assert np.array_equal(decoded.values, stored)
    assert decoded.values.dtype.isnative
    assert decoded.notes == ()


def test_high_bit_shifts_and_other_bits_are_dropped():
    stored = noise(10)
    layout = PixelFormat(rows=37, columns=29, bits_allocated=16, bits_stored=10, high_bit=13, signed=False)
    cells = (stored << 4) | 0x8000
    decoded = decode(cells.astype("<u2").tobytes(), TRANSFER_SYNTAXES["1.2.840.10008.1.2"], layout)
    assert np.array_equal(decoded.values, stored)
    assert decoded.notes == ("bits outside of Bits Stored 10 below High Bit 13 ignored",)


@pytest.mark.parametrize(("bits", "high_bit"), [(12, 15), (12, 13), (10, 15), (10, 12)])
@pytest.mark.parametrize("signed", [False, True])
def test_pixels_in_the_low_bits_contradict_high_bit(bits, high_bit, signed):
    stored = noise(bits, signed=signed)
    layout = replace(layout_of(stored, bits), high_bit=high_bit)
    decoded = decode(stored.astype("<i4").astype("<u2").tobytes(), TRANSFER_SYNTAXES["1.2.840.10008.1.2"], layout)
    assert np.array_equal(decoded.values, stored)
    (note,) = decoded.notes
    assert note == f"High Bit {high_bit} contradicts the pixels, which lie in the {bits} lowest bits: read there"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("scale", "overlay"), [(1, 0), (1, 5), (64, 0)])
def test_pixels_at_their_high_bit_are_read_there(scale, overlay, signed):
    """Other bits may hold overlays; dark pixels at their High Bit look low, and have nothing below."""
    stored = noise(12, signed=signed) // scale
    layout = replace(layout_of(stored, 12), high_bit=15)
    cells = ((stored.astype("<i4") << 4) | overlay).astype("<u2")
    decoded = decode(cells.tobytes(), TRANSFER_SYNTAXES["1.2.840.10008.1.2"], layout)
    assert np.array_equal(decoded.values, stored)
    assert decoded.notes == (("bits outside of Bits Stored 12 below High Bit 15 ignored",) if overlay else ())


@pytest.mark.parametrize("reduction", [1, 2])
@pytest.mark.parametrize(("code", "bits", "declared"), [("50", 8, 12), ("70", 10, 12), ("80", 8, 16), ("90", 12, 14)])
def test_a_codestream_of_fewer_bits_is_noted(code, bits, declared, reduction):
    stored = smooth(bits).astype(np.uint8 if bits == 8 else np.uint16)
    if code == "50":
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=95)
        frame = buffer.getvalue()
    else:
        frame = encode(stored, code, bits)
    layout = layout_of(stored.astype(np.uint16), declared)
    decoded = decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout, reduction=reduction)
    (note,) = decoded.notes
    assert f"data of {bits} bits under Bits Stored {declared}: {1 << bits} of {1 << declared} levels" in note


@pytest.mark.parametrize("code", ["70", "80", "90"])
def test_high_bit_says_nothing_of_a_codestream(code):
    stored = noise(12)
    decoded = decode(
        encode(stored, code, 12), TRANSFER_SYNTAXES[JPEG + code], replace(layout_of(stored, 12), high_bit=15)
    )
    assert np.array_equal(decoded.values, stored)
    (note,) = decoded.notes
    assert note.startswith("High Bit 15 ignored: ")


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, True)])
def test_rle_decodes_what_pydicom_encodes(bits, signed):
    stored = noise(bits, signed=signed)
    stored[5:20] = stored[4, 4]  # long runs
    frame = RLELosslessEncoder.encode(
        np.ascontiguousarray(stored),
        encoding_plugin="pydicom",
        rows=37,
        columns=29,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=stored.dtype.itemsize * 8,
        bits_stored=stored.dtype.itemsize * 8,
        pixel_representation=int(signed),
        photometric_interpretation="MONOCHROME2",
    )
    syntax, layout = TRANSFER_SYNTAXES["1.2.840.10008.1.2.5"], layout_of(stored, bits)
    assert np.array_equal(decode(frame, syntax, layout).values, stored)
    with pytest.raises(BrokenImageError) as caught:
        decode(frame[:-200], syntax, layout)
    assert caught.value.reason == "truncated"
    with pytest.raises(BrokenImageError, match="header") as caught:
        decode(struct.pack("<L", 3) + frame[4:], syntax, layout)
    assert caught.value.reason == "corrupt"


def test_a_run_beyond_the_image_is_corrupt():
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * 9
    layout = PixelFormat(rows=10, columns=100, bits_allocated=8, bits_stored=8, high_bit=7, signed=False)
    with pytest.raises(BrokenImageError, match="decodes to 1024 bytes, expected 1000") as caught:
        decode(
            struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * 8, TRANSFER_SYNTAXES["1.2.840.10008.1.2.5"], layout
        )
    assert caught.value.reason == "corrupt"
    with pytest.raises(ImageError):
        decode(frame[:70], TRANSFER_SYNTAXES["1.2.840.10008.1.2.5"], layout)


@pytest.mark.parametrize("code", ["70", "80", "90", "201"])
def test_a_cut_codestream_is_truncated_and_never_filled_up(code):
    stored = noise(12)
    frame = encode(stored, code, 12)
    for length in range(0, len(frame) - 2, len(frame) // 40):
        with pytest.raises(BrokenImageError) as caught:
            decode(frame[:length], TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, 12))
        assert caught.value.reason in ("truncated", "corrupt")
    assert caught.value.reason == "truncated"
    assert np.array_equal(decode(frame + b"\0", TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, 12)).values, stored)


@pytest.mark.parametrize("code", ["70", "80", "90"])
def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(code):
    frame = encode(noise(12, shape=(64, 64)), code, 12)
    with pytest.raises(BrokenImageError, match=r"64 x 64 pixels with 1 component.*expected 37 x 29") as caught:
        decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout_of(noise(12), 12))
    assert caught.value.reason == "corrupt"


def test_values_that_bits_stored_cannot_hold_are_corrupt():
    stored = noise(12)
    with pytest.raises(BrokenImageError, match="from 0 to 4095, which 10 bits stored cannot"):
        decode(encode(stored, "80", 12), TRANSFER_SYNTAXES[JPEG + "80"], layout_of(stored, 10))


def test_whatever_a_codec_throws_is_contained():
    class PanicException(BaseException):
        pass

    def panic(data: bytes, stream: Codestream) -> np.ndarray:
        raise PanicException("index out of bounds")

    def interrupt(data: bytes, stream: Codestream) -> np.ndarray:
        raise KeyboardInterrupt

    def describe(data: bytes) -> Codestream:
        return Codestream(rows=2, columns=2, components=1, precision=8)

    layout = PixelFormat(rows=2, columns=2, bits_allocated=8, bits_stored=8, high_bit=7, signed=False)
    with pytest.raises(BrokenImageError, match="PanicException") as caught:
        decode(b"\xff\xd9", TransferSyntax(name="Rust", codec=panic, describe=describe), layout)
    assert caught.value.reason == "corrupt"
    with pytest.raises(KeyboardInterrupt):
        decode(b"\xff\xd9", TransferSyntax(name="Rust", codec=interrupt, describe=describe), layout)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bits_allocated": 32}, "bit_depth"),
        ({"bits_allocated": 1}, "bit_depth"),
        ({"bits_stored": 17}, "corrupt"),
        ({"bits_stored": 0}, "corrupt"),
        ({"high_bit": 16}, "corrupt"),
        ({"high_bit": 5}, "corrupt"),
        ({"rows": 0}, "corrupt"),
    ],
)
def test_a_layout_is_valid_from_birth(change, reason):
    layout = {"rows": 2, "columns": 2, "bits_allocated": 16, "bits_stored": 12, "high_bit": 11, "signed": False}
    with pytest.raises(ImageError) as caught:
        PixelFormat(**(layout | change))
    assert caught.value.reason == reason


@pytest.mark.parametrize(("code", "error"), [("81", 3), ("91", 60), ("203", 0)])
def test_syntaxes_that_may_lose_something_lose_no_more_than_they_say(code: str, error: int):
    codecs = pytest.importorskip("imagecodecs")
    stored = smooth(12)
    frame = {
        "81": lambda: codecs.jpegls_encode(stored, level=3),
        "91": lambda: codecs.jpeg2k_encode(stored, level=75, codecformat="J2K", bitspersample=12, reversible=False),
        "203": lambda: codecs.htj2k_encode(stored, reversible=True),
    }[code]()
    found = decode(bytes(frame), TRANSFER_SYNTAXES[JPEG + code], layout_of(stored, 12))
    assert found.reduction == 1
    assert found.values.max() <= 4095  # near-lossless JPEG-LS gives 4096 for some of the 4095
    assert np.abs(found.values.astype(int) - stored).max() <= error
