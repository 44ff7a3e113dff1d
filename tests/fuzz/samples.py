"""Sound files of every format, small ones: what mutators begin with."""

import contextlib
import io
import random
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from mcr_infer.images.decode import TRANSFER_SYNTAXES
from mcr_infer.phantom import make
from tests.codestreams import JPEG, frame_of
from tests.dicoms import EXPLICIT, RLE, table, write
from tests.fuzz.elements import DicomTree, Element, parse

SIDE = 48
_LARGEST = 150_000
"""Bytes of a packaged test file that is taken."""


@cache
def stored() -> np.ndarray:
    """Return the pixels of a small phantom [48, 40], 12 bits."""
    return np.ascontiguousarray(make(5, SIDE).stored[:, :40])


@cache
def dicoms() -> tuple[bytes, ...]:
    """Return DICOM files: one or more of every transfer syntax that is read, odd layouts, the test files of pydicom."""
    files = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.dcm"
        for syntax in TRANSFER_SYNTAXES:
            files += [_in_syntax(path, syntax, kind) for kind in ("u2", "i2", "u1")]
        wide = stored()
        variants: tuple[dict[str, object], ...] = (
            {"WindowCenter": "2048", "WindowWidth": "4096"},
            {"PhotometricInterpretation": "MONOCHROME1", "PatientOrientation": ["R", "F"]},
            {
                "VOILUTSequence": table(0, list(range(0, 4096, 16)), 12),
                "RescaleSlope": "0.0625",
                "RescaleIntercept": "0",
            },
            {"ModalityLUTSequence": table(0, [min(4095, 2 * at) for at in range(4096)], 12)},
            {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 3},
        )
        files += [
            write(path, wide, syntax=syntax, **one).read_bytes()
            for one in variants
            for syntax in (EXPLICIT, "1.2.840.10008.1.2.2")
        ]
    return tuple(files)


def _in_syntax(path: Path, syntax: str, kind: str) -> bytes:
    """Write the phantom in a transfer syntax, with 12 bits, signed or not, or 8; 12 where the codec has no other."""
    pixels = stored()
    if kind == "u1" or syntax == JPEG + "50":
        pixels = (pixels >> 4).astype(np.uint8)
        window = {"WindowCenter": "128", "WindowWidth": "256"}
    elif kind == "i2" and syntax.removeprefix(JPEG) not in ("51", "57", "70", "80", "81"):
        pixels = (pixels.astype(np.int32) - 2048).astype(np.int16)
        window = {"WindowCenter": "0", "WindowWidth": "4096"}
    else:
        window = {"WindowCenter": "2048", "WindowWidth": "4096"}
    if pixels.dtype == np.uint8 and syntax.removeprefix(JPEG) in ("51", "57", "70"):
        pixels, window = stored(), {"WindowCenter": "2048", "WindowWidth": "4096"}
    if syntax == RLE:
        data = pydicom.dcmread(write(path, pixels, **window))
        data.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
        data.save_as(path)
        return path.read_bytes()
    return write(path, pixels, syntax=syntax, frame=_frame(syntax, pixels), **window).read_bytes()


def _frame(syntax: str, pixels: np.ndarray) -> bytes | None:
    if pixels.dtype == np.int16 and syntax.startswith(JPEG):
        # As two's complement of 12 bits: the encoders take no sign.
        return frame_of(syntax, (pixels & 0xFFF).astype(np.uint16))
    return frame_of(syntax, pixels)


@cache
def packaged() -> tuple[bytes, ...]:
    """Return the small test files that pydicom brings, as they are."""
    # Not by pydicom's own search, which looks for downloads.
    files = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
    return tuple(file.read_bytes() for file in files if file.stat().st_size <= _LARGEST)


@cache
def trees() -> tuple[bytes, ...]:
    """Return all DICOM files that the fuzzer can take apart; `tree` parses one."""
    found = []
    for data in (*dicoms(), *packaged()):
        with contextlib.suppress(ValueError, struct.error, zlib.error, RecursionError):
            if parse(data).encode():
                found.append(data)
    return tuple(found)


def tree(data: bytes) -> DicomTree:
    """Parse one of `trees` anew, so that it can be changed."""
    return parse(data)


@cache
def pngs() -> tuple[bytes, ...]:
    """Return PNG files: 1, 8 and 16 bits, RGB, palette, transparency, interlaced, with metadata."""
    grey8 = Image.fromarray((stored() >> 4).astype(np.uint8))
    grey16 = Image.fromarray((stored() << 4).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = grey8.convert("P")
    pictures = (
        (grey8, {}), (grey8, {"optimize": True}), (grey16, {}), (grey8.convert("RGB"), {}), (palette, {}),
        (grey8.convert("RGBA"), {}), (grey8.convert("LA"), {}), (grey8.convert("1"), {}), (grey8, {"exif": exif}),
        (palette, {"transparency": 3}), (grey8, {"icc_profile": b"\0" * 200}), (grey8, {"dpi": (300, 300)}),
    )  # fmt: skip
    return tuple(_saved(image, "PNG", **how) for image, how in pictures)


@cache
def jpegs() -> tuple[bytes, ...]:
    """Return JPEG files: baseline, progressive, grey and colour, with EXIF, with restart markers."""
    grey = Image.fromarray((stored() >> 4).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    pictures = (
        (grey, {}), (grey, {"progressive": True}), (grey, {"optimize": True}), (grey.convert("RGB"), {}),
        (grey.convert("RGB"), {"subsampling": 2, "progressive": True}), (grey, {"exif": exif}), (grey.convert("CMYK"), {}),
        (grey, {"restart_marker_blocks": 1}), (grey, {"comment": b"x" * 500}), (grey, {"icc_profile": b"\0" * 300}),
    )  # fmt: skip
    return tuple(_saved(image, "JPEG", quality=95, **how) for image, how in pictures)


def _saved(image: Image.Image, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)  # type: ignore[arg-type]
    return buffer.getvalue()


def members(rng: random.Random) -> dict[str, bytes]:
    """Draw a few images with the names that they have in an archive."""
    names = ("a.dcm", "study/b.dcm", "c.png", "d", "\u00e9/e.jpg", "notes.txt", ".hidden", "f g.dcm")
    return {name: _image(rng) for name in names[: rng.randint(1, len(names))]}


def _image(rng: random.Random) -> bytes:
    """Draw a PNG, a JPEG, or a DICOM file with a UID of its own."""
    if rng.random() < 0.3:
        return rng.choice((*pngs(), *jpegs()))
    image = tree(rng.choice(dicoms()))
    uid = f"2.25.{rng.getrandbits(60)}".encode()
    image.put(Element(0x00080018, b"UI", uid + b"\0" * (len(uid) % 2)))
    return image.encode()
