import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicoms import IN_12_BITS, JPEG_2000, table, write
from mcr_infer import Bundle, ImageEncoder, phantom
from mcr_infer.errors import BrokenImageError, ImageError
from mcr_infer.images import Room, read_image
from mcr_infer.images.decode import TRANSFER_SYNTAXES, decode
from mcr_infer.images.pixel_format import PixelFormat
from mcr_infer.images.reduced_decode import choose_reduction, describe_jpeg, describe_jpeg2000
from mcr_infer.inference.preprocess import Preprocess

JPEG = "1.2.840.10008.1.2.4."


def layout_of(stored: np.ndarray, bits: int = 12) -> PixelFormat:
    return PixelFormat(
        rows=stored.shape[0], columns=stored.shape[1], bits_allocated=stored.dtype.itemsize * 8, bits_stored=bits,
        high_bit=bits - 1, signed=stored.dtype.kind == "i",
    )  # fmt: skip


def encode(stored: np.ndarray, code: str, *, bits: int = 12, **options: object) -> bytes:
    codecs = pytest.importorskip("imagecodecs")
    if code in ("90", "91"):
        how = {"level": 0, "reversible": True} if code == "90" else {"level": 60, "reversible": False}
        return bytes(codecs.jpeg2k_encode(stored, codecformat="J2K", bitspersample=bits, **how, **options))
    if code == "50":
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=92)
        return buffer.getvalue()
    return bytes(codecs.htj2k_encode(stored, reversible=code != "203", **options))


def plane(rows: int, columns: int) -> np.ndarray:
    """12 bits that rise evenly to the right and, half as steeply, downwards."""
    down, across = np.mgrid[:rows, :columns]
    return np.rint(300 + 3000 * across / columns + 600 * down / rows).astype(np.uint16)


def longer(pixels: int) -> Room:
    return Room(pixels=pixels, side="longer")


def shorter(pixels: int) -> Room:
    return Room(pixels=pixels, side="shorter")


@pytest.mark.parametrize(
    ("rows", "columns", "aspect", "room", "factor"),
    [
        (2500, 2000, 1.0, None, 1),
        (2500, 2000, 1.0, shorter(250), 8),
        (2500, 2000, 1.0, shorter(251), 4),
        (2000, 2500, 1.0, shorter(500), 4),
        (2500, 2000, 1.0, shorter(501), 2),
        (2500, 2000, 1.0, shorter(1001), 1),
        (2500, 2000, 1.0, longer(560), 4),
        (2500, 2000, 1.0, longer(313), 4),
        (2500, 2000, 1.0, longer(312), 8),
        (2500, 2000, 1.0, longer(2000), 1),
        (40, 30, 1.0, shorter(1), 8),
        # Rows twice as far apart as columns: half as many of them a length.
        (1250, 2000, 2.0, longer(560), 2),
        (2500, 2000, 2.0, shorter(250), 4),
        # Columns twice as far apart: the picture is 4000 rows' worth wide, and 2000 columns show it.
        (2500, 2000, 0.5, longer(560), 2),
    ],
)
def test_the_factor_is_the_largest_that_leaves_room_enough(rows, columns, aspect, room, factor):
    assert choose_reduction(rows, columns, aspect=aspect, room=room) == factor


def test_a_geometry_says_what_room_it_needs():
    assert Preprocess(image_size=160, patch_size=16).reduce_to == longer(400)
    assert Preprocess(image_size=224, patch_size=16).reduce_to == longer(560)
    assert Preprocess(image_size=224, patch_size=16, fit="stretch").reduce_to == shorter(560)
    assert Preprocess(image_size=224, patch_size=16, fit="crop", resize=256).reduce_to == shorter(640)


@pytest.mark.parametrize("code", ["90", "91", "201", "202", "203", "50"])
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("shape", [(160, 128), (161, 135), (167, 129)])
def test_a_reduced_pixel_lies_where_its_pixels_lay(code, factor, shape):
    """On a plane, the value of a reduced pixel is that of the plane in its middle."""
    stored = plane(*shape) if code != "50" else (plane(*shape) >> 4).astype(np.uint8)
    layout = layout_of(stored, 8 if code == "50" else 12)
    decoded = decode(encode(stored, code), TRANSFER_SYNTAXES[JPEG + code], layout, reduction=factor)
    rows, columns = (round(side / factor) for side in shape)
    assert decoded.reduction == factor
    assert decoded.values.shape == (rows, columns)
    assert decoded.values.dtype == stored.dtype
    down = (np.arange(rows) + 0.5) / rows
    across = (np.arange(columns) + 0.5) / columns
    expected = 300 + 3000 * (across[None] - 0.5 / shape[1]) + 600 * (down[:, None] - 0.5 / shape[0])
    # Beside the border nothing lies beyond, and a wavelet mirrors there; a pixel to the right is 3000 / columns more.
    step = 3000 / columns
    inside = (slice(3, -3), slice(3, -3)) if min(rows, columns) > 8 else (slice(1, -1), slice(1, -1))
    loss = 24 if code == "50" else 8 if code == "91" else 3
    got = decoded.values.astype(float) * (16 if code == "50" else 1) + (8 if code == "50" else 0)
    assert np.abs(got - expected)[inside].max() < 0.1 * step + loss


@pytest.mark.parametrize(("code", "levels"), [("90", 0), ("90", 1), ("90", 2), ("90", 3), ("201", 1), ("201", 2)])
def test_nothing_is_reduced_beyond_what_the_codestream_offers(code, levels):
    stored = plane(160, 128)
    # imagecodecs counts resolutions for OpenJPEG, one more than levels, and levels for OpenJPH.
    frame = encode(stored, code, resolutions=levels + (code == "90"))
    assert describe_jpeg2000(frame).halvings == levels
    decoded = decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout_of(stored), reduction=8)
    assert decoded.reduction == 1 << levels


def test_levels_and_wavelets_of_tiles_count_too():
    stored = plane(256, 192)
    frame = encode(stored, "201", tile=(64, 64), resolutions=5)
    assert (describe_jpeg2000(frame).halvings, describe_jpeg2000(frame).transform) == (3, "5/3")
    assert decode(frame, TRANSFER_SYNTAXES[JPEG + "201"], layout_of(stored), reduction=4).reduction == 4
    # A COD segment of a tile, between its SOT and its SOD.
    cod = frame[frame.index(b"\xff\x52") :][:14]
    assert cod[9] == 5
    for changed, expected in ((cod[:9] + b"\x01" + cod[10:], 1), (cod[:13] + b"\x00", 0)):
        tile = frame.index(b"\xff\x90")
        length = int.from_bytes(frame[tile + 6 : tile + 10], "big")
        longer = frame[tile : tile + 6] + (length + 14).to_bytes(4, "big") + frame[tile + 10 : tile + 12] + changed
        assert describe_jpeg2000(frame[:tile] + longer + frame[tile + 12 :]).halvings == expected
    # What cannot be followed is not reduced, and neither is a picture that does not begin at the origin of its grid.
    assert describe_jpeg2000(frame[: frame.index(b"\xff\x52")] + b"\x00" * 40).halvings == 0
    offset = frame.index(b"\xff\x51") + 14
    assert describe_jpeg2000(frame[: offset + 3] + b"\x01" + frame[offset + 4 :]).halvings == 0
    assert describe_jpeg2000(encode(stored, "203")).transform == "9/7"


def test_only_blocks_of_8_bits_can_be_reduced_in_a_jpeg():
    codecs = pytest.importorskip("imagecodecs")
    stored = plane(64, 64)
    assert describe_jpeg(encode((stored >> 4).astype(np.uint8), "50")).halvings == 3
    assert describe_jpeg(bytes(codecs.jpeg8_encode(stored, level=90, bitspersample=12))).halvings == 0
    assert describe_jpeg(bytes(codecs.jpeg8_encode(stored, lossless=True, bitspersample=12))).halvings == 0
    assert describe_jpeg(bytes(codecs.jpegls_encode(stored))).halvings == 0


@pytest.mark.parametrize("code", ["90", "201"])
def test_signed_values_keep_their_sign(code):
    stored = (plane(160, 128).astype(np.int32) - 2048).astype(np.int16)
    decoded = decode(encode(stored, code), TRANSFER_SYNTAXES[JPEG + code], layout_of(stored), reduction=2)
    assert (decoded.reduction, decoded.values.dtype) == (2, np.int16)
    assert np.abs(decoded.values[4:-4, 4:-4] - (stored[::2, ::2] + 12)[4:-4, 4:-4]).max() < 8


def test_codes_of_the_other_signedness_are_decoded_in_full():
    """Where the codestream is signed and the header is not, grey 2047 and 2048 are 2047 and -2048 to the codec."""
    stored = plane(64, 64)
    other = ((stored.astype(np.int32) ^ 0x800) - 0x800).astype(np.int16)
    decoded = decode(encode(other, "90"), TRANSFER_SYNTAXES[JPEG + "90"], layout_of(stored), reduction=2)
    assert decoded.reduction == 1
    assert np.array_equal(decoded.values, stored)


def test_a_wavelet_that_overshoots_is_clipped_to_bits_stored():
    stored = np.zeros((256, 256), np.uint16)
    stored[:, 101:] = 4095
    stored[90:140, 30:70] = 4095
    frame = encode(stored, "201", bits=16)  # 16 bits in the codestream: the codec itself clips at 65535 alone
    decoded = decode(frame, TRANSFER_SYNTAXES[JPEG + "201"], layout_of(stored), reduction=2)
    assert decoded.reduction == 2
    assert (decoded.values.min(), decoded.values.max()) == (0, 4095)
    # 8 bits in one byte each stay 8 bits.
    small = decode(encode((stored >> 4).astype(np.uint8), "50"), TRANSFER_SYNTAXES[JPEG + "50"],
                   layout_of(stored.astype(np.uint8), 8), reduction=4)  # fmt: skip
    assert small.values.dtype == np.uint8


def test_white_that_loss_makes_brighter_is_white(file):
    """Much of a film's border is white, and every other pixel of it comes out of a wavelet with loss a little too bright."""
    stored = plane(256, 300)
    stored[:, 150:] = 4095
    frame = encode(stored, "203", level=0.001)
    assert pytest.importorskip("imagecodecs").jpeg2k_decode(frame).max() > 4095
    write(file, stored, syntax=JPEG + "203", frame=frame, **IN_12_BITS)
    whole, reduced = read_image(file), read_image(file, reduce_to=shorter(64))
    assert (reduced.reduction, whole.pixels.max(), reduced.pixels.max()) == (4, 1, 1)
    assert np.abs(reduced.pixels[:, 45:] - 1).max() < 0.01


@pytest.mark.parametrize("reduction", [1, 2, 8])
def test_values_that_bits_stored_cannot_hold_are_corrupt_at_any_size(reduction):
    stored = plane(160, 128)
    layout = PixelFormat(rows=160, columns=128, bits_allocated=16, bits_stored=10, high_bit=9, signed=False)
    with pytest.raises(BrokenImageError, match="which 10 bits stored cannot") as caught:
        decode(encode(stored, "90"), TRANSFER_SYNTAXES[JPEG + "90"], layout, reduction=reduction)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize("code", ["90", "201", "50"])
def test_a_cut_codestream_is_no_picture_at_any_size(code):
    stored = np.random.default_rng(0).integers(0, 4096, (120, 100)).astype(np.uint16)
    stored = stored if code != "50" else (stored >> 4).astype(np.uint8)
    frame, layout = encode(stored, code), layout_of(stored, 8 if code == "50" else 12)
    whole, reasons = decode(frame, TRANSFER_SYNTAXES[JPEG + code], layout, reduction=4).values, set()
    for length in range(0, len(frame) - 2, len(frame) // 30):
        # libjpeg fills up what a forged end marker hides, in full as well.
        for ending in (b"", b"\xff\xd9")[: 1 if code == "50" else 2]:
            data = frame[:length] + ending
            try:
                decoded = decode(data, TRANSFER_SYNTAXES[JPEG + code], layout, reduction=4)
            except ImageError as error:
                reasons.add(error.reason)
            else:
                # Only what the smaller picture does not need can be missing unseen.
                assert ending
                assert np.array_equal(decoded.values, whole)
    assert reasons <= {"truncated", "corrupt"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "image.dcm"


def test_spacing_and_proportions_are_those_of_the_picture(file):
    stored = plane(501, 389)
    write(file, stored, syntax=JPEG_2000, frame=encode(stored, "90"), PixelSpacing=["0.2", "0.1"], **IN_12_BITS)
    whole, reduced = read_image(file), read_image(file, reduce_to=shorter(90))
    assert (whole.reduction, reduced.reduction) == (1, 2)
    assert reduced.pixels.shape == (250, 194)
    assert reduced.pixel_spacing == pytest.approx((0.2 * 501 / 250, 0.1 * 389 / 194))
    for geometry in (Preprocess(image_size=64, patch_size=8), Preprocess(image_size=64, patch_size=8, fit="crop")):
        tall, wide = (one.pixels.shape[0] * one.aspect for one in (whole, reduced)), (389, 194)
        sizes = {geometry._resized(a, b) for a, b in zip(tall, wide, strict=True)}
        assert len(sizes) == 1


def test_a_turned_picture_is_reduced_before_it_is_turned(file):
    stored = plane(300, 421)
    attributes = {"PatientOrientation": ["F", "R"], "PixelSpacing": ["0.3", "0.1"], **IN_12_BITS}
    write(file, stored, syntax=JPEG_2000, frame=encode(stored, "90"), **attributes)
    whole, reduced = read_image(file), read_image(file, reduce_to=shorter(50))
    assert (reduced.reduction, whole.pixels.shape, reduced.pixels.shape) == (2, (421, 300), (210, 150))
    assert reduced.mirrored
    assert reduced.aspect == pytest.approx(whole.aspect * (421 / 210) / (300 / 150))
    shrunk = np.asarray(Image.fromarray(whole.pixels).resize((150, 210), Image.Resampling.BOX))
    assert np.abs(shrunk - reduced.pixels)[3:-3, 3:-3].max() < 0.002


@pytest.mark.parametrize(
    ("attributes", "reduce_to", "rendering", "reduction"),
    [
        ({}, shorter(64), "voi", 4),
        ({}, None, "voi", 1),
        ({"PixelPaddingValue": 0}, shorter(64), "voi", 1),
        ({"PixelPaddingValue": 60000}, shorter(64), "voi", 4),  # beyond 12 bits: ignored
        ({"ModalityLUTSequence": table(0, list(range(4096)))}, shorter(64), "voi", 1),
        ({}, shorter(64), "minmax", 1),
        ({}, shorter(64), "mimic_cxr_jpg", 1),
    ],
)
def test_where_means_would_be_other_values_nothing_is_reduced(file, attributes, reduce_to, rendering, reduction):
    stored = plane(256, 300)
    write(file, stored, syntax=JPEG_2000, frame=encode(stored, "90"), **(IN_12_BITS | attributes))
    radiograph = read_image(file, reduce_to=reduce_to, rendering=rendering)
    assert radiograph.reduction == reduction
    assert radiograph.pixels.shape == (256 // reduction, 300 // reduction)


def test_a_jpeg_is_reduced_and_a_png_is_not(tmp_path):
    picture = Image.fromarray((plane(321, 400) >> 4).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    picture.save(tmp_path / "a.jpg", quality=95)
    picture.convert("RGB").save(tmp_path / "rgb.jpg", quality=95)
    picture.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    picture.save(tmp_path / "a.png")
    for name, rendering, reduction in (
        ("a.jpg", "voi", 4), ("a.jpg", "mimic_cxr_jpg", 4), ("a.jpg", "minmax", 1), ("rgb.jpg", "voi", 4),
        ("turned.jpg", "voi", 1), ("a.png", "voi", 1),
    ):  # fmt: skip
        radiograph = read_image(tmp_path / name, reduce_to=shorter(80), rendering=rendering)
        assert radiograph.reduction == reduction
        assert radiograph.pixels.shape == (round(321 / reduction), 400 // reduction)
        if reduction > 1:
            whole = read_image(tmp_path / name).pixels
            shrunk = np.asarray(Image.fromarray(whole).resize((100, 80), Image.Resampling.BOX))
            assert np.abs(shrunk - radiograph.pixels)[2:-2, 2:-2].max() < 0.01
            assert radiograph.aspect == pytest.approx((321 / 80) / (400 / 100))


def cosine(file: Path, encoder: ImageEncoder) -> tuple[int, float]:
    """By how much a file is decoded smaller for a bundle, and how near its embedding stays to that of the full decode."""
    whole, reduced = read_image(file), read_image(file, reduce_to=encoder.preprocess.reduce_to)
    one, other = (encoder.encode_radiographs([radiograph])[0] for radiograph in (whole, reduced))
    return reduced.reduction, float(one @ other)


@pytest.mark.parametrize("code", ["90", "91", "201", "203", "50"])
def test_the_embedding_of_a_real_radiograph_stays_where_it_was(file, code):
    """Real radiographs that pydicom ships, compressed anew at the sizes of detectors."""
    folder = Path(pytest.importorskip("data_store").__file__).parent / "data"
    encoder = ImageEncoder(Bundle.open())
    for name in ("RG1", "RG3"):
        pixels = read_image(folder / f"{name}_UNCR.dcm").pixels
        stored = np.rint(pixels * (255 if code == "50" else 4095)).astype(np.uint8 if code == "50" else np.uint16)
        window = IN_12_BITS if code != "50" else {"WindowCenter": "128", "WindowWidth": "256"}
        write(file, stored, syntax=JPEG + code, frame=encode(stored, code), **window)
        reduction, cos = cosine(file, encoder)
        assert reduction == 4
        assert cos >= 0.999


def test_as_pydicom_ships_them_too(file):
    folder = Path(pytest.importorskip("data_store").__file__).parent / "data"
    pytest.importorskip("imagecodecs")
    encoder = ImageEncoder(Bundle.open())
    for name in ("RG1_J2KR", "RG1_J2KI", "RG3_J2KR", "RG3_J2KI"):
        reduction, cos = cosine(folder / f"{name}.dcm", encoder)
        assert reduction > 1
        assert cos >= 0.999


def test_the_embedding_of_a_phantom_stays_where_it_was(file):
    encoder = ImageEncoder(Bundle.open())
    for seed, code, size, expected in (
        (3, "201", 1700, 4),
        (5, "203", 1640, 4),
        (11, "90", 800, 2),
        (11, "90", 799, 1),
    ):
        stored = phantom.make(seed, size).stored[:, 31 : size - 60]
        write(file, stored, syntax=JPEG + code, frame=encode(np.ascontiguousarray(stored), code), **IN_12_BITS)
        reduction, cos = cosine(file, encoder)
        assert reduction == expected
        assert cos >= 0.999
