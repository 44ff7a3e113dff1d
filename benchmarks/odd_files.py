"""What archives hold beside ordinary files, and what a contender of `benchmarks.peers` makes of it: asked, not read about.

good.dcm        a phantom as MONOCHROME2: high values are bright
negative.dcm    the same radiograph as MONOCHROME1, high values are dark: the same picture, so the same vector
cut.dcm         the first half of good.dcm, as a transfer that broke off leaves it
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcr_infer import phantom
from mcr_infer.phantom.dicom import write_dicom

FOLDER = "odd_files"
SAME = 0.9999
"""The least cosine of vectors of one picture; rounding of its greys takes a little."""


def make_odd_files(work: Path) -> Path:
    """Write the three files; those that are there are kept."""
    import pydicom

    folder = work / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    good, negative, cut = (folder / f"{name}.dcm" for name in ("good", "negative", "cut"))
    if not cut.exists():
        write_dicom(phantom.make(7, 512), good)
        data = pydicom.dcmread(good)
        top = (1 << data.BitsStored) - 1
        data.PixelData = (top - data.pixel_array).astype(np.uint16).tobytes()
        data.PhotometricInterpretation, data.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        data.save_as(negative, enforce_file_format=True)
        content = good.read_bytes()
        cut.write_bytes(content[: len(content) // 2])
    return folder


def asked(encode: Callable[[Sequence[Path]], object], folder: Path) -> dict[str, Any]:
    """Let a contender embed the files: the cosine of the two that are one picture, and what the third does to the batch."""
    good, negative, cut = (folder / f"{name}.dcm" for name in ("good", "negative", "cut"))
    vectors = np.asarray(encode([good, negative]), dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    try:
        count = len(np.asarray(encode([good, cut])))
        told = f"{count} of 2 embedded, the one that is cut off among them"
    except Exception as error:  # noqa: BLE001 - whatever a library raises, it is the answer
        told = f"{type(error).__name__} for the batch, nothing embedded"
    return {"negative_cosine": float(vectors[0] @ vectors[1]), "cut": told}


def run_of_ours(folder: Path) -> str:
    """Embed the folder with `mcr-infer embed-images`, which is what bulk work of ours goes through, and say how it ended."""
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "mcr_infer",
            "embed-images",
            str(folder),
            "--index",
            f"{place}/index",
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        return f"exit code {done.returncode}"
    closing = json.loads(done.stdout.splitlines()[-1])
    reasons = ", ".join(one["reason"] for one in closing["failures"])
    return f"{closing['embedded']} embedded, {closing['failed']} failed ({reasons}), exit code {done.returncode}"
