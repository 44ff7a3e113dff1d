"""What does one file cost to read, decode and render, by transfer syntax, and what does a reduced decode change?

    python -m benchmarks.decoding [--phantoms 3] [--repeats 5] [--out FILE.json]

Phantoms of 2,500 x 2,000 pixels of 12 bits (8 for JPEG Baseline), from file to patches, in core-milliseconds: medians over
repeats and phantoms, warm page cache. `reduced` is decoded as for the bundle that ships, or as for a tower of 224 pixels;
the cosine compares the embedding by the bundle that ships with that of the full decode, the least of all phantoms. The last
line of stdout is one JSON document.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from benchmarks.big_archive import BITS, large_phantom
from benchmarks.machine import machine_card
from mcr_infer.images import Room, read_image
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.inference.preprocess import Preprocess

Stored = NDArray[np.uint16]

TOWER_224 = Preprocess(image_size=224, patch_size=16)


def _jpeg_2000(stored: Stored, **options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(stored, codecformat="J2K", bitspersample=BITS, **options))


def _run_length(stored: Stored) -> bytes:
    rows, columns = stored.shape
    return RLELosslessEncoder.encode(
        stored, encoding_plugin="pydicom", rows=rows, columns=columns, samples_per_pixel=1, number_of_frames=1,
        bits_allocated=16, bits_stored=16, pixel_representation=0, photometric_interpretation="MONOCHROME2",
    )  # fmt: skip


ENCODERS: Mapping[str, tuple[str, Callable[[Stored], bytes] | None]] = MappingProxyType({
    "Explicit VR Little Endian": ("1.2.840.10008.1.2.1", None),
    "Deflated Explicit VR Little Endian": ("1.2.840.10008.1.2.1.99", None),
    "RLE": ("1.2.840.10008.1.2.5", _run_length),
    "JPEG Baseline, 8 bits": (
        "1.2.840.10008.1.2.4.50", lambda stored: bytes(imagecodecs.jpeg8_encode((stored >> 4).astype(np.uint8), level=90))
    ),
    "JPEG Extended, 12 bits": (
        "1.2.840.10008.1.2.4.51", lambda stored: bytes(imagecodecs.jpeg8_encode(stored, level=95, bitspersample=BITS))
    ),
    "JPEG Lossless": (
        "1.2.840.10008.1.2.4.70",
        lambda stored: bytes(imagecodecs.jpeg8_encode(stored, lossless=True, predictor=1, bitspersample=BITS)),
    ),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", lambda stored: bytes(imagecodecs.jpegls_encode(stored))),
    "JPEG-LS near-lossless": ("1.2.840.10008.1.2.4.81", lambda stored: bytes(imagecodecs.jpegls_encode(stored, level=3))),
    "JPEG 2000 lossless": ("1.2.840.10008.1.2.4.90", lambda stored: _jpeg_2000(stored, level=0, reversible=True)),
    "JPEG 2000": ("1.2.840.10008.1.2.4.91", lambda stored: _jpeg_2000(stored, level=55, reversible=False)),
    "HTJ2K lossless": ("1.2.840.10008.1.2.4.201", lambda stored: bytes(imagecodecs.htj2k_encode(stored, reversible=True))),
})  # fmt: skip


def write(source: Path, target: Path, uid: str, encode: Callable[[Stored], bytes] | None) -> None:
    """Write a phantom in another transfer syntax."""
    data = pydicom.dcmread(source)
    stored = data.pixel_array
    data.file_meta.TransferSyntaxUID = uid
    if encode is not None:
        data.PixelData = encapsulate([encode(stored)])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
    if "8 bits" in target.name:
        data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
        data.WindowCenter, data.WindowWidth = "128", "256"
    data.save_as(target, enforce_file_format=True)


def measure(path: Path, preprocess: Preprocess, room: Room | None, repeats: int) -> tuple[list[float], int]:
    """Return the core-milliseconds from file to patches of each repeat, and by how much the picture was reduced."""
    times, reduction = [], 1
    for _ in range(repeats + 1):
        begun = time.process_time()
        radiograph = read_image(path, rendering=preprocess.rendering, reduce_to=room)
        preprocess.patches(radiograph.pixels, aspect=radiograph.aspect)
        times.append(1e3 * (time.process_time() - begun))
        reduction = radiograph.reduction
    return times[1:], reduction


def main() -> None:
    """Write the files, measure them, print a table and the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--phantoms", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    encoder = ImageEncoder(Bundle.open(), device="cpu", threads=1)
    shipped = encoder.preprocess
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        sources = [large_phantom(Path(place), number) for number in range(options.phantoms)]
        for name, (uid, encode) in ENCODERS.items():
            times: dict[str, list[float]] = {"full": [], "for 160 px": [], "for 224 px": []}
            factors, similar, size = {}, [], 0
            for source in sources:
                path = Path(place) / f"{name}.dcm"
                write(source, path, uid, encode)
                size += path.stat().st_size
                for what, preprocess, room in (
                    ("full", shipped, None),
                    ("for 160 px", shipped, shipped.reduce_to),
                    ("for 224 px", TOWER_224, TOWER_224.reduce_to),
                ):
                    found, factors[what] = measure(path, preprocess, room, options.repeats)
                    times[what] += found
                full, reduced = (
                    encoder.encode_radiographs([read_image(path, reduce_to=room)])[0]
                    for room in (None, shipped.reduce_to)
                )
                similar.append(float(full @ reduced))
            row = {
                "transfer_syntax": uid,
                "name": name,
                "megabytes": round(size / len(sources) / 1e6, 2),
                "core_ms": {what: round(statistics.median(found), 1) for what, found in times.items()},
                "reduction": factors,
                "least_cosine": round(min(similar), 6),
            }
            rows.append(row)
            print(f"{name:36} {row['megabytes']:5.1f} MB  {row['core_ms']}  {factors}  cosine {row['least_cosine']}")
    document = json.dumps({"benchmark": "decoding", "rows": rows, "machine": machine_card()})
    if options.out is not None:
        options.out.write_text(document + "\n", encoding="utf-8")
    print(document)


if __name__ == "__main__":
    main()
