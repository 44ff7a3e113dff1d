"""A PNG or JPEG file becomes a radiograph, as public data sets and exports of workstations offer them.

Such a file says neither which way its grey scale runs nor which side is which: high is taken for radiodense and the
picture for upright, and both are noted.
"""

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images.header import Spacing
from mcr_infer.images.opening import ImageSource, opened
from mcr_infer.images.presets import Preset, require_preset
from mcr_infer.images.radiograph import MAX_PIXELS, Radiograph
from mcr_infer.images.reduced_decode import Room, choose_reduction, spread_evenly
from mcr_infer.images.rendering import PERCENTILES, Rendering, render
from mcr_infer.images.selection import Selection
from mcr_infer.images.third_party import quietly

if TYPE_CHECKING:
    from PIL.Image import Image

Grey = NDArray[np.uint8] | NDArray[np.uint16]
"""Grey levels [H, W]."""

PNG_SIGNATURE, JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

_GREY_TOLERANCE = 8
"""Levels of 255 by which the channels of a grey picture may differ: the chroma of a JPEG is rounded."""

_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")
_EXIF_ORIENTATION = 0x0112


def read_raster(
    source: ImageSource,
    *,
    rendering: Preset = "voi",
    reduce_to: Room | None = None,
    selection: Selection | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Radiograph:
    """Read a grey PNG or JPEG; the same from an RGB or palette file whose channels are equal.

    8 bits fill [0, 1] as they are (`full_range`), since somebody rendered them already; only `minmax` stretches them.
    16 bits are windowed by `percentiles`, because a PNG does not say how many of them its values use, or are rendered by
    another preset.
    A JPEG is decoded at 1/2, 1/4 or 1/8 where `reduce_to` allows it, a PNG cannot be.

    The arguments are those of `read_image`. Raises `NotSelectedError`, `UnsupportedImageError` or `BrokenImageError`.
    """
    preset = require_preset(rendering)
    (selection or Selection()).require()
    with opened(source) as file:
        # Eight bytes a pixel hold 16-bit RGBA without compression; beyond that it is no image of a size that is read.
        data = file.read(8 * max_pixels + (1 << 20))
        if file.read(1):
            raise UnsupportedImageError(f"the file has more than {len(data)} bytes", reason="too_large")
    grey, whole, turned = _decode(data, max_pixels, reduce_to if preset != "minmax" else None)
    notes = ["grey scale and orientation are not stated in the file: high taken for radiodense, and upright"]
    notes += ["turned by its EXIF orientation"] if turned else []
    reduction = 1 if turned else round(max(whole) / max(grey.shape))
    spacing = Spacing()
    if reduction > 1:
        even = spread_evenly(grey, whole, reduction, "cosine")
        grey = np.rint(even).clip(0, 255).astype(np.uint8)
        spacing = spacing.reduced(whole, grey.shape)
    if grey.dtype == np.uint8 and preset != "minmax":
        if grey.min() == grey.max():
            raise BrokenImageError("the image has no contrast: all pixels have one value", reason="no_contrast")
        pixels, intensity = grey.astype(np.float32) / np.float32(255), "full_range"
    else:
        rendered = render(grey, Rendering(), preset)
        pixels, intensity = rendered.pixels, rendered.intensity
        if intensity == "percentiles":
            notes.append(f"16 bits: percentiles {PERCENTILES[0]} and {PERCENTILES[1]} taken for black and white")
    return Radiograph(
        pixels=pixels,
        source="png" if data.startswith(PNG_SIGNATURE) else "jpeg",
        intensity=intensity,
        rendering=preset,
        aspect=spacing.aspect,
        reduction=reduction,
        notes=tuple(notes),
    )


def _decode(data: bytes, max_pixels: int, reduce_to: Room | None) -> tuple[Grey, tuple[int, int], bool]:
    """Decode, turn by EXIF and take the grey levels; a picture that need not be turned is reduced where that is asked for.

    Return the grey levels, the rows and columns that are stored, and whether the picture was turned.
    """
    from PIL import Image, ImageOps

    try:
        with quietly():
            image = Image.open(BytesIO(data), formats=("PNG", "JPEG"))
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
        if image.width * image.height > max_pixels:
            raise UnsupportedImageError(
                f"the image has {image.height} x {image.width} pixels: at most {max_pixels} are read",
                reason="too_large",
            )
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise UnsupportedImageError(f"the image has {frames} frames: one is read", reason="multi_frame")
        whole = (image.height, image.width)
        factor = choose_reduction(*whole, aspect=1.0, room=reduce_to)
        if factor > 1 and not turned:
            # Only Pillow's JPEG reader takes the hint; it keeps the channels, so that colour is still seen.
            image.draft(None, (image.width // factor, image.height // factor))
        image.load()
        if not turned:
            return _grey(image), whole, False
        with quietly():  # it reads the EXIF data once more
            upright = ImageOps.exif_transpose(image)
        return _grey(upright), whole, True
    except Image.DecompressionBombError as error:
        raise UnsupportedImageError(f"the image has more than {max_pixels} pixels", reason="too_large") from error
    except ImageError:
        raise
    except Exception as error:
        end = b"IEND" if data.startswith(PNG_SIGNATURE) else b"\xff\xd9"
        if end not in data[-4096:]:
            raise BrokenImageError(
                "the file ends inside its image; copy it again from its source", reason="truncated"
            ) from error
        raise BrokenImageError(f"the image cannot be decoded ({type(error).__name__})", reason="corrupt") from error


def _grey(image: "Image") -> Grey:
    """Return grey levels [H, W] of 8 or 16 bits; raises `UnsupportedImageError` for colour, transparency or one bit."""
    if image.mode == "1":
        raise UnsupportedImageError("the image has one bit a pixel: 8 or 16 are read", reason="bit_depth")
    if image.mode in _DEEP_MODES:
        return np.asarray(image).astype(np.uint16)
    if image.mode == "CMYK":
        raise _colour("CMYK")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if "A" in image.getbands():
        if image.getchannel("A").getextrema() != (255, 255):
            raise UnsupportedImageError(
                "the image is partly transparent: save it without an alpha channel", reason="transparency"
            )
        image = image.convert("L" if image.mode == "LA" else "RGB")
    if image.mode != "L":
        channels = np.asarray(image.convert("RGB"))
        spread = int((channels.max(axis=2) - channels.min(axis=2)).max())
        if spread > _GREY_TOLERANCE:
            raise _colour(f"its channels differ by up to {spread} of 255 levels")
        image = image.convert("L")
    return np.asarray(image)


def _colour(how: str) -> UnsupportedImageError:
    return UnsupportedImageError(f"the image is in colour ({how}): only greyscale ones are read", reason="colour")
