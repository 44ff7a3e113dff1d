"""Radiographs decoded at 1/2, 1/4 and 1/8: the same picture to a tower, and only where that is so."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dicoms
from mcr_infer import Bundle, ImageEncoder, phantom
from mcr_infer.images import Room, read_image
from mcr_infer.images.codestream import describe_jpeg2000
from mcr_infer.images.decode import TRANSFER_SYNTAXES, decode
from mcr_infer.images.layout import PixelFormat
from mcr_infer.images.reduction import choose_reduction
from mcr_infer.preprocess import Preprocess

codecs = pytest.importorskip("imagecodecs")

JPEG = "1.2.840.10008.1.2.4."


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(Bundle.open(), device="cpu", threads=1)


def compressed(stored: np.ndarray, code: str) -> bytes:
    if code == "90":
        return bytes(codecs.jpeg2k_encode(stored, level=0, codecformat="J2K", bitspersample=12, reversible=True))
    if code == "91":
        return bytes(codecs.jpeg2k_encode(stored, level=55, codecformat="J2K", bitspersample=12, reversible=False))
    if code == "201":
        return bytes(codecs.htj2k_encode(stored, reversible=True))
    return bytes(codecs.jpeg8_encode((stored >> 4).astype(np.uint8), level=95))


def write(path: Path, stored: np.ndarray, code: str, **attributes: object) -> Path:
    shown = dicoms.IN_12_BITS if code != "50" else {"WindowCenter": "128", "WindowWidth": "256"}
    kept = stored if code != "50" else (stored >> 4).astype(np.uint8)
    return dicoms.write(path, kept, syntax=JPEG + code, frame=compressed(stored, code), **(shown | attributes))


def cosine(encoder: ImageEncoder, path: Path) -> tuple[float, int]:
    """Embed a file in full and reduced; return the cosine, and by how much it was reduced."""
    full = read_image(path)
    reduced = read_image(path, reduce_to=encoder.preprocess.reduce_to)
    assert full.reduction == 1
    vectors = encoder.encode_radiographs([full]), encoder.encode_radiographs([reduced])
    return float(vectors[0][0] @ vectors[1][0]), reduced.reduction


@pytest.mark.parametrize("code", ["90", "91", "201", "50"])
@pytest.mark.parametrize("name", ["RG1", "RG3"])
def test_a_real_radiograph_keeps_its_embedding(name: str, code: str, encoder: ImageEncoder, tmp_path: Path):
    """Real film scans, as pydicom-data carries them; what is left out is noise and detail beyond the tower's pixels."""
    folder = Path(pytest.importorskip("data_store").__file__).parent / "data"
    pixels = read_image(folder / f"{name}_UNCR.dcm").pixels
    path = write(tmp_path / "film.dcm", np.rint(pixels * 4095).astype(np.uint16), code)
    similar, reduction = cosine(encoder, path)
    assert reduction == 4
    assert similar >= 0.999


@pytest.mark.parametrize(("size", "reduction"), [(800, 2), (1640, 4), (799, 1)])
@pytest.mark.parametrize("code", ["90", "50"])
def test_a_phantom_keeps_its_embedding(size: int, reduction: int, code: str, encoder: ImageEncoder, tmp_path: Path):
    path = write(tmp_path / "phantom.dcm", phantom.make(11, size).stored, code)
    similar, found = cosine(encoder, path)
    assert found == reduction
    assert similar >= (0.999 if reduction > 1 else 0.9999999)


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("code", ["90", "91", "50"])
@pytest.mark.parametrize("shape", [(256, 200), (259, 203)])
def test_reduced_pixels_lie_where_those_of_a_smaller_picture_lie(shape: tuple[int, int], code: str, factor: int):
    """A smooth ramp has one right value everywhere: a shift by half a pixel would show."""
    rows, columns = (np.arange(side) + 0.5 for side in shape)
    stored = np.rint(np.add.outer(rows * 8, columns * 4)).astype(np.uint16)
    bits = 8 if code == "50" else 12
    layout = PixelFormat(
        rows=shape[0],
        columns=shape[1],
        bits_allocated=8 if bits == 8 else 16,
        bits_stored=bits,
        high_bit=bits - 1,
        signed=False,
    )
    found = decode(compressed(stored, code), TRANSFER_SYNTAXES[JPEG + code], layout, reduction=factor)
    assert found.reduction == factor
    height, width = found.values.shape
    assert (height, width) == (round(shape[0] / factor), round(shape[1] / factor))
    at_rows = (np.arange(height) + 0.5) * shape[0] / height
    at_columns = (np.arange(width) + 0.5) * shape[1] / width
    expected = np.add.outer(at_rows * 8, at_columns * 4) / (16 if bits == 8 else 1)
    error = (found.values - expected)[2:-2, 2:-2] * (16 if bits == 8 else 1)
    error += 7.5 if bits == 8 else 0.0  # what the four lowest bits held
    # A shift by a quarter of a reduced pixel, in steps of 8 a row and 4 a column.
    shift = 12 * factor / 4
    assert abs(error.mean()) < shift / 2
    if code != "91":  # which loses more at single pixels than a shift would show
        assert np.abs(error).max() < shift + 8


def test_spacing_and_aspect_are_those_of_the_smaller_picture(tmp_path: Path):
    stored = phantom.make(3, 400).stored
    path = write(tmp_path / "wide.dcm", stored, "90", ImagerPixelSpacing=["0.2", "0.1"])
    radiograph = read_image(path, reduce_to=Room(pixels=100, side="longer"))
    assert radiograph.reduction == 4
    assert radiograph.pixels.shape == (100, 100)
    assert radiograph.pixel_spacing == pytest.approx((0.8, 0.4))
    assert radiograph.aspect == pytest.approx(2.0)


def test_padding_is_never_blurred_into_the_picture(tmp_path: Path):
    stored = phantom.make(3, 400).stored
    stored[:50] = 0
    path = write(tmp_path / "padded.dcm", stored, "90", PixelPaddingValue=0)
    assert read_image(path, reduce_to=Room(pixels=100, side="longer")).reduction == 1


@pytest.mark.parametrize("preset", ["minmax", "mimic_cxr_jpg"])
def test_presets_that_depend_on_single_values_decode_in_full(preset: str, tmp_path: Path):
    path = write(tmp_path / "0.dcm", phantom.make(3, 400).stored, "90")
    assert read_image(path, rendering=preset, reduce_to=Room(pixels=100, side="longer")).reduction == 1


def test_no_more_levels_are_left_out_than_the_codestream_has(tmp_path: Path):
    stored = phantom.make(3, 400).stored
    frame = bytes(
        codecs.jpeg2k_encode(stored, level=0, codecformat="J2K", bitspersample=12, reversible=True, resolutions=2)
    )
    assert describe_jpeg2000(frame).halvings == 1
    path = dicoms.write(tmp_path / "0.dcm", stored, syntax=JPEG + "90", frame=frame, **dicoms.IN_12_BITS)
    assert read_image(path, reduce_to=Room(pixels=50, side="longer")).reduction == 2


def test_a_cut_stream_is_no_smaller_picture(tmp_path: Path):
    frame = compressed(phantom.make(3, 400).stored, "90")
    path = dicoms.write(
        tmp_path / "0.dcm", np.zeros((400, 400), np.uint16), syntax=JPEG + "90", frame=frame[: len(frame) // 2]
    )
    with pytest.raises(Exception, match="without their end marker"):
        read_image(path, reduce_to=Room(pixels=100, side="longer"))


def test_a_jpeg_file_is_decoded_smaller_and_a_png_is_not(tmp_path: Path):
    picture = Image.fromarray((phantom.make(3, 400).stored >> 4).astype(np.uint8))
    for name in ("0.jpg", "0.png"):
        picture.save(tmp_path / name)
    room = Room(pixels=100, side="longer")
    assert read_image(tmp_path / "0.jpg", reduce_to=room).reduction == 4
    assert read_image(tmp_path / "0.png", reduce_to=room).reduction == 1
    stream = io.BytesIO((tmp_path / "0.jpg").read_bytes())
    assert read_image(stream, reduce_to=room).pixels.shape == (100, 100)


@pytest.mark.parametrize(
    ("rows", "columns", "aspect", "room", "factor"),
    [
        (2500, 2000, 1.0, None, 1),
        (2500, 2000, 1.0, Room(pixels=560, side="longer"), 4),
        (2500, 2000, 1.0, Room(pixels=560, side="shorter"), 2),
        (2500, 2000, 1.0, Room(pixels=313, side="longer"), 4),
        (2500, 2000, 1.0, Room(pixels=312, side="longer"), 8),
        (2500, 2000, 1.0, Room(pixels=2000, side="longer"), 1),
        # Rows twice as far apart as columns: half as many of them a length.
        (1250, 2000, 2.0, Room(pixels=560, side="longer"), 2),
        # Columns twice as far apart: the picture is 4000 rows' worth wide, and 2000 columns show it.
        (2500, 2000, 0.5, Room(pixels=560, side="longer"), 2),
    ],
)
def test_by_how_much_a_picture_is_reduced(rows: int, columns: int, aspect: float, room: Room | None, factor: int):
    assert choose_reduction(rows, columns, aspect=aspect, room=room) == factor


def test_the_room_follows_what_a_bundle_resizes_to():
    assert Preprocess(image_size=224, patch_size=16).reduce_to == Room(pixels=560, side="longer")
    cropped = Preprocess(image_size=224, patch_size=16, fit="crop", resize=256)
    assert cropped.reduce_to == Room(pixels=640, side="shorter")
