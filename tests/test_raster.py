import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicoms import picture, write
from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images import read_image
from mcr_infer.images.raster import read_raster

GREY = (picture() // 16).astype(np.uint8)
SMOOTH = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_8_bit_png_is_taken_as_it_is(tmp_path):
    radiograph = read_raster(save(tmp_path / "a.png", Image.fromarray(GREY)))
    assert np.array_equal(radiograph.pixels, GREY.astype(np.float32) / np.float32(255))
    assert (radiograph.source, radiograph.intensity) == ("png", "full_range")
    assert (radiograph.modality, radiograph.sop_instance_uid, radiograph.aspect) == (None, None, 1.0)
    assert radiograph.notes == (
        "grey scale and orientation are not stated in the file: high taken for radiodense, and upright",
    )


@pytest.mark.parametrize("factor", [1, 16])
def test_16_bit_png_looks_the_same_however_many_bits_are_used(tmp_path, factor):
    stored = (np.arange(4000).reshape(40, 100) * factor).astype(np.uint16)
    radiograph = read_raster(save(tmp_path / "a.png", Image.fromarray(stored)))
    # 4000 pixels: the 20th smallest is black, the 3980th is white.
    expected = np.clip((np.arange(4000) - 19) / 3960, 0, 1).reshape(40, 100)
    np.testing.assert_allclose(radiograph.pixels, expected, atol=1e-6)
    assert radiograph.intensity == "percentiles"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(tmp_path, mode):
    radiograph = read_raster(save(tmp_path / "a.jpg", Image.fromarray(SMOOTH).convert(mode), quality=95))
    assert np.abs(radiograph.pixels * 255 - SMOOTH).max() <= 3
    assert radiograph.source == "jpeg"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_pictures_in_other_clothes_are_the_same(tmp_path, mode):
    radiograph = read_raster(save(tmp_path / "a.png", Image.fromarray(GREY).convert(mode)))
    assert np.array_equal(radiograph.pixels, GREY.astype(np.float32) / np.float32(255))


def colourful() -> Image.Image:
    return Image.merge("RGB", [Image.fromarray(channel) for channel in (GREY, GREY, 255 - GREY)])


def transparent() -> Image.Image:
    image = Image.fromarray(GREY).convert("LA")
    image.putpixel((3, 3), (9, 128))
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "reason"),
    [
        (colourful(), ".png", "colour"),
        (colourful(), ".jpg", "colour"),
        (colourful().convert("P"), ".png", "colour"),
        (Image.fromarray(GREY).convert("CMYK"), ".jpg", "colour"),
        (transparent(), ".png", "transparency"),
        (Image.fromarray(GREY).convert("1"), ".png", "bit_depth"),
        (Image.new("L", (30, 30), 77), ".png", "no_contrast"),
        (Image.new("I;16", (30, 30), 777), ".png", "no_contrast"),
    ],
)
def test_refusals(tmp_path, image, suffix, reason):
    with pytest.raises(ImageError) as caught:
        read_raster(save(tmp_path / f"a{suffix}", image))
    assert caught.value.reason == reason


def test_exif_orientation_is_honoured_and_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rows run from top to bottom
    radiograph = read_raster(save(tmp_path / "a.jpg", Image.fromarray(SMOOTH), quality=95, exif=exif))
    assert radiograph.pixels.shape == (80, 60)
    assert np.abs(radiograph.pixels * 255 - np.rot90(SMOOTH, -1)).max() <= 3
    assert "turned by its EXIF orientation" in radiograph.notes


def test_size_is_refused_before_decoding(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(GREY))
    with pytest.raises(UnsupportedImageError, match="40 x 48 pixels: at most 1000 are read") as caught:
        read_raster(path, max_pixels=1000)
    assert caught.value.reason == "too_large"
    for side in (9_999, 30_000, 65_000):  # Pillow warns from 9,460 and raises from 13,379 pixels a side
        body = b"IHDR" + struct.pack(">LLBBBBB", side, side + 9000, 8, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + struct.pack(">L", 13) + body + struct.pack(">L", zlib.crc32(body))
        path.write_bytes(data + b"\0\0\0\x04IDAT" + b"abcd" + struct.pack(">L", zlib.crc32(b"IDATabcd")))
        with pytest.raises(UnsupportedImageError) as caught:
            read_raster(path)
        assert caught.value.reason == "too_large"


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_cut_file_is_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", Image.fromarray(noise))
    data = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(BrokenImageError) as caught:
            read_raster(path)
        assert caught.value.reason == "truncated"


def test_a_damaged_file_is_corrupt(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (99, 99), dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(noise))
    data = bytearray(path.read_bytes())
    position = data.index(b"IDAT") + 8
    data[position : position + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(BrokenImageError) as caught:
        read_raster(path)
    assert caught.value.reason == "corrupt"


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    path = save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImageError, match="2 frames") as caught:
        read_raster(path)
    assert caught.value.reason == "multi_frame"


def test_read_image_goes_by_content_and_not_by_name(tmp_path):
    assert read_image(save(tmp_path / "a.dcm", Image.fromarray(GREY), format="PNG")).source == "png"
    assert read_image(save(tmp_path / "b", Image.fromarray(GREY), format="JPEG")).source == "jpeg"
    path = write(tmp_path / "c.png", picture())
    assert read_image(path).source == "dicom"
    # A preamble may look like another format (PS3.10 7.1).
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + path.read_bytes()[8:])
    assert read_image(str(path)).source == "dicom"


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused_in_words(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, kind)
    path = tmp_path / "image"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(BrokenImageError, match="besides DICOM, PNG and JPEG are read") as caught:
        read_image(path)
    assert caught.value.reason == "not_dicom"


def png_chunks(path: Path, change: Callable[[bytes, bytes], bytes]) -> None:
    """Change the content of every chunk of a PNG, with the right length and CRC."""
    data, here, out = path.read_bytes(), 8, path.read_bytes()[:8]
    while here < len(data):
        (length,) = struct.unpack_from(">L", data, here)
        kind, content = data[here + 4 : here + 8], data[here + 8 : here + 8 + length]
        content = change(kind, content)
        out += struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
        here += 12 + length
    path.write_bytes(out)


@pytest.mark.parametrize(("transparency", "reason"), [(b"\xff" * 300, "corrupt"), (b"\x00" * 300, "corrupt")])
def test_a_palette_with_too_many_alphas_is_corrupt(tmp_path, transparency, reason):
    file = save(tmp_path / "a.png", Image.fromarray(GREY).convert("P"), transparency=3)
    png_chunks(file, lambda kind, content: transparency if kind == b"tRNS" else content)
    with pytest.raises(BrokenImageError) as caught:
        read_raster(file)
    assert caught.value.reason == reason


def test_damaged_exif_says_nothing_aloud(tmp_path):
    """Python's warnings are errors in these tests."""
    exif = Image.Exif()
    exif[0x0112] = 6  # what is cut is behind it
    for suffix, cut in ((".png", 1), (".png", 3), (".jpg", 1), (".jpg", 2)):
        file = save(tmp_path / f"a{suffix}", Image.fromarray(GREY), exif=exif)
        if suffix == ".png":
            png_chunks(file, lambda kind, content, cut=cut: content[:-cut] if kind == b"eXIf" else content)
        else:
            data = file.read_bytes()
            at = data.index(b"\xff\xe1") + 2
            (length,) = struct.unpack_from(">H", data, at)
            file.write_bytes(
                data[:at] + struct.pack(">H", length - cut) + data[at + 2 : at + length - cut] + data[at + length :]
            )
        assert read_raster(file).pixels.shape == GREY.T.shape
