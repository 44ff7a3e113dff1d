"""Folders of phantoms as large as what detectors write: 2,500 x 2,000 pixels of 12 bits, in several transfer syntaxes.

A phantom of that size takes five seconds to make, so a few are made and written many times, each file with UIDs of its own.
Phantoms carry quantum noise, so that lossless codecs have about as much to do as on radiographs (half of the bytes remain).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

ROWS, COLUMNS, BITS = 2500, 2000, 12
DISTINCT = 8
SEED = 300_000

SYNTAXES = MappingProxyType({
    "uncompressed": "1.2.840.10008.1.2.1",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg-2000": "1.2.840.10008.1.2.4.90",
})  # fmt: skip


def make_archive(folder: Path, syntax: str, count: int) -> list[Path]:
    """Write `count` files of a syntax into a folder, as far as they are not there, and return them."""
    place = folder / syntax
    place.mkdir(parents=True, exist_ok=True)
    paths = [place / f"{number:05d}.dcm" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        templates = list(_templates(folder, syntax))
        for number in missing:
            _write(templates[number % DISTINCT], paths[number], number)
    return paths


def _templates(folder: Path, syntax: str) -> Iterator["Dataset"]:
    import imagecodecs
    import pydicom
    from pydicom.encaps import encapsulate

    for number in range(DISTINCT):
        data = pydicom.dcmread(large_phantom(folder / "phantoms", number))
        stored = data.pixel_array
        data.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        if syntax != "uncompressed":
            if syntax == "jpeg-ls":
                frame = imagecodecs.jpegls_encode(stored)
            else:
                frame = imagecodecs.jpeg2k_encode(
                    stored, level=0, codecformat="J2K", bitspersample=BITS, reversible=True
                )
            data.PixelData = encapsulate([bytes(frame)])
            data["PixelData"].VR = "OB"
            data["PixelData"].is_undefined_length = True
        yield data


def large_phantom(folder: Path, number: int) -> Path:
    """Return the file of one of the phantoms, uncompressed, written into a folder if it is not there."""
    import pydicom

    from mcr_infer import phantom
    from mcr_infer.phantom.dicom import write_dicom

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{SEED + number}-{ROWS}x{COLUMNS}.dcm"
    if not path.exists():
        write_dicom(phantom.make(SEED + number, ROWS), path)
        data = pydicom.dcmread(path)
        left = (ROWS - COLUMNS) // 2
        stored = np.ascontiguousarray(data.pixel_array[:, left : left + COLUMNS])
        data.Columns, data.PixelData = COLUMNS, stored.tobytes()
        data.save_as(path, enforce_file_format=True)
    return path


def _write(data: "Dataset", path: Path, number: int) -> None:
    for level in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        digest = hashlib.sha256(f"big archive {level} {number}".encode()).digest()
        setattr(data, level, f"2.25.{int.from_bytes(digest[:16], 'big')}")
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    temporary = path.with_suffix(".part")
    data.save_as(temporary, enforce_file_format=True)
    temporary.rename(path)
