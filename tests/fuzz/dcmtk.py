"""Renderings beside those of dcmtk: equal within a grey level, or one of the two readers refuses, or a note says why not."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from mcr_infer.errors import ImageError
from mcr_infer.images import Radiograph, read_image
from mcr_infer.images.third_party import quietly
from tests.fuzz.headers import ATTRIBUTES

_JPEG = "1.2.840.10008.1.2.4."
_LOSSY = (_JPEG + "50", _JPEG + "51")
_WORDS = re.compile(r"truncated|corrupt|premature|bogus|unsupported|error|warn|E:|W:", re.IGNORECASE)

_BESIDE = re.compile(
    r"bytes|UID|Patient Orientation|FOR PROCESSING|transfer syntax|Spacing|AspectRatio|overlay|out of order|with one value"
)
"""Notes that say nothing about grey levels, and so excuse no difference."""


def available() -> bool:
    """True where dcmtk's three renderers are installed."""
    return all(shutil.which(f"dc{kind}2pnm") for kind in ("m", "mj", "ml"))


def version() -> str | None:
    """Return the version of dcmtk, None where it is not installed."""
    if not available():
        return None
    done = subprocess.run(["dcm2pnm", "--version"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"v(\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if found else "unknown"


def compare(file: Path) -> tuple[str, str]:
    """Return how a file is rendered beside dcmtk, and what is to be said of it.

    `equal`, `noted` (different, and a note of ours may say why), `not read by dcmtk`, `warned by dcmtk` (different, and it
    says itself that something is wrong), `no match` (an option of ours that it lacks) or `different`.
    """
    try:
        radiograph = read_image(file)
        if radiograph.intensity == "percentiles":
            # It has no percentiles: the same file from its least to its greatest value.
            radiograph = read_image(file, rendering="minmax")
    except ImageError:
        return "not read by mcr-infer", ""
    options = {"voi_lut": ["+Wl", "1"], "window": ["+Wi", "1"], "minmax": ["+Wm", "+Wfl"]}[radiograph.intensity]
    syntax = radiograph.transfer_syntax_uid or ""
    kind = (
        "mj"
        if syntax.removeprefix(_JPEG) in ("50", "51", "57", "70")
        else "ml"
        if syntax.startswith(_JPEG + "8")
        else "m"
    )
    done = subprocess.run(
        [f"dc{kind}2pnm", "+op", "-O", *options, str(file), "/dev/stdout"], capture_output=True, check=False, timeout=60
    )
    theirs = _pnm(done.stdout)
    if theirs is None:
        return "not read by dcmtk", ""
    theirs = _turned(theirs, radiograph)
    ours = radiograph.pixels * np.float32(255)
    if ours.shape != theirs.shape:
        return "different", f"{ours.shape} and {theirs.shape}, notes {radiograph.notes}"
    apart = np.abs(ours - theirs)
    with quietly():
        header = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    if "PixelPaddingValue" in header:
        if radiograph.rendering == "minmax":
            return "no match", ""  # its least value is that of the padding
        apart = apart[ours > 0]  # padding is black here and a grey there
    worst = float(apart.max(initial=0.0))
    if worst <= 1.01 + _rounding(header, radiograph):
        return "equal", ""
    if syntax in _LOSSY:
        # Cosines are rounded differently; in a damaged stream they overflow differently.
        return ("equal but for the loss of JPEG" if float(apart.mean()) <= 3.0 else "damaged JPEG with loss"), ""
    words = f"{radiograph.intensity}, up to {worst:.1f} levels, {np.mean(apart > 1.01):.3f} of the pixels"
    words += f"; notes {radiograph.notes}; dcmtk says {done.stderr.decode(errors='replace')[:300]!r}"
    if any(not _BESIDE.search(note) for note in radiograph.notes):
        return "noted", words
    if any(
        element.tag in ATTRIBUTES and element.VR not in dictionary_VR(element.tag).split(" or ") for element in header
    ):
        return "attribute with another VR", words  # which dcmtk leaves out
    if _WORDS.search(done.stderr.decode(errors="replace")):
        return "warned by dcmtk", words
    return "different", words


def _rounding(header: pydicom.Dataset, radiograph: Radiograph) -> float:
    """Return the grey levels that dcmtk loses where it rounds the values of a modality transformation to integers."""
    slope, intercept, width = (_number(header, name) for name in ("RescaleSlope", "RescaleIntercept", "WindowWidth"))
    if slope.is_integer() and intercept.is_integer():
        return 0.0
    # A linear window of width w has w - 1 steps (PS3.3 C.11.2.1.2.1).
    return 1.01 * 255 / max(width - 1.0 if radiograph.intensity == "window" else 64.0, 1.0)


def _number(header: pydicom.Dataset, name: str) -> float:
    """Return the first number of an attribute; 0 where there is none."""
    try:
        value = header.get(name)
        return float(value[0] if isinstance(value, (list, MultiValue)) else value or 0)
    except (TypeError, ValueError, IndexError, NotImplementedError, BytesLengthException):
        return 0.0


def _pnm(data: bytes) -> NDArray[np.uint8] | None:
    found = re.match(rb"P5\s+(?:#[^\n]*\n)?\s*(\d+)\s+(\d+)\s+255\s", data)
    if found is None:
        return None
    columns, rows = int(found.group(1)), int(found.group(2))
    pixels = np.frombuffer(data, np.uint8, offset=found.end())
    return pixels[: rows * columns].reshape(rows, columns) if len(pixels) >= rows * columns else None


def _turned(pixels: NDArray[np.uint8], radiograph: Radiograph) -> NDArray[np.uint8]:
    """Turn a picture as a note says that ours was."""
    note = next((one for one in radiograph.notes if "Patient Orientation" in one), "")
    pixels = pixels.T if "transposed" in note else pixels
    pixels = pixels[:, ::-1] if "mirrored" in note else pixels
    return pixels[::-1] if "inverted" in note else pixels
