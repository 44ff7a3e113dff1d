"""Renderings beside those of dcmtk: equal within a grey level, or one of the two readers refuses, or a note says why not."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

from mcr_infer.errors import ImageError
from mcr_infer.images import Radiograph, read_image
from mcr_infer.images.quiet import quietly

_JPEG = "1.2.840.10008.1.2.4."
_LOSSY = (_JPEG + "50", _JPEG + "51")
_WORDS = re.compile(r"truncated|corrupt|premature|bogus|unsupported|error|warn|E:|W:", re.IGNORECASE)


def available() -> bool:
    """True where dcmtk's three renderers are installed."""
    return all(shutil.which(f"dc{kind}2pnm") for kind in ("m", "mj", "ml"))


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
    options = {"voi_lut": ["+Wl", "1"], "window": ["+Wi", "1"], "minmax": ["+Wm"]}[radiograph.intensity]
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
        apart = apart[ours > 0]  # padding is black here and a grey there
    worst = float(apart.max(initial=0.0))
    # It rounds the values of a modality LUT before it windows them.
    rounded = any(not float(str(header.get(name) or 0)).is_integer() for name in ("RescaleSlope", "RescaleIntercept"))
    if worst <= (2.01 if rounded else 1.01):
        return "equal", ""
    if syntax in _LOSSY and float(apart.mean()) <= 3.0:
        return "equal but for the loss of JPEG", ""
    words = f"{radiograph.intensity}, up to {worst:.1f} levels, {np.mean(apart > 1.01):.3f} of the pixels; notes {radiograph.notes}"
    words += f"; dcmtk says {done.stderr.decode(errors='replace')[:300]!r}"
    if radiograph.notes:
        return "noted", words
    if _WORDS.search(done.stderr.decode(errors="replace")):
        return "warned by dcmtk", words
    return "different", words


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
