"""One contender of `benchmarks.peers`, measured in a process of its own: the first vector, items a second, peak memory.

    python -m benchmarks.contender NAME --work DIR [--small] --seconds 3

Each embeds what all embed, the same sentences or the same radiographs, with a network of the same sizes and random weights
(`benchmarks/networks.py`), in the way that its own documentation shows, on all cores. Those that take radiographs are then
asked what they make of odd ones (`benchmarks/odd_files.py`). The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import own_age, own_bytes
from benchmarks.networks import Networks
from benchmarks.odd_files import FOLDER, asked

ENDINGS = ("", "without pneumothorax", "and a small left pleural effusion", "unchanged since the previous radiograph")
SENTENCES = [f"{what} {end}".strip() for what in ("normal chest", "cardiomegaly", "right lower lobe consolidation",
             "pulmonary edema") for end in ENDINGS]  # fmt: skip

Encode = Callable[[Sequence[Any]], object]


def ours_text(networks: Networks) -> Encode:
    """Sentences through our text tower in ONNX Runtime."""
    from mcr_infer import Bundle, TextEncoder

    return TextEncoder(Bundle.open(networks.text), device="cpu").encode


def sentence_transformers(networks: Networks) -> Encode:
    """Sentences through sentence-transformers."""
    return _sentence_transformers(networks.sentence_transformers, "torch")


def sentence_transformers_onnx(networks: Networks) -> Encode:
    """Sentences through sentence-transformers on ONNX Runtime."""
    return _sentence_transformers(networks.sentence_transformers_onnx, "onnx")


def _sentence_transformers(folder: Path, backend: str) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", backend=backend)
    return lambda items: model.encode(list(items), normalize_embeddings=True)


def fastembed(networks: Networks) -> Encode:
    """Sentences through fastembed, from the file that sentence-transformers exported."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    TextEmbedding.add_custom_model(
        model="local/bert", pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(url="file:///nowhere"),
        dim=networks.sizes["text"]["width"], model_file="onnx/model.onnx",
    )  # fmt: skip
    model = TextEmbedding("local/bert", specific_model_path=str(networks.sentence_transformers_onnx))
    return lambda items: list(model.embed(list(items)))


def open_clip_text(networks: Networks) -> Encode:
    """Sentences through open_clip."""
    import open_clip
    import torch

    folder = f"local-dir:{networks.open_clip}"
    model, _, _ = open_clip.create_model_and_transforms(folder)
    tokenize = open_clip.get_tokenizer(folder)
    model.eval()

    def encode(items: Sequence[str]) -> object:
        with torch.inference_mode():
            return model.encode_text(tokenize(list(items)), normalize=True).numpy()

    return encode


def ours_images(networks: Networks) -> Encode:
    """DICOM files through our reader and image tower."""
    from mcr_infer import Bundle, ImageEncoder, read_image

    bundle = Bundle.open(networks.image)
    encoder = ImageEncoder(bundle, device="cpu", threads=len(os.sched_getaffinity(0)))
    rendering = bundle.preprocess.rendering
    return lambda items: encoder.encode_radiographs([read_image(path, rendering=rendering) for path in items])


def open_clip_images(networks: Networks) -> Encode:
    """DICOM files through pydicom into open_clip's image tower with its own preprocessing: it reads no DICOM itself."""
    import numpy as np
    import open_clip
    import pydicom
    import torch
    from PIL import Image

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{networks.open_clip}")
    model.eval()

    def picture(path: Path) -> torch.Tensor:
        values = pydicom.dcmread(path).pixel_array.astype(np.float32)
        scaled = np.uint8(255 * (values - values.min()) / (values.max() - values.min()))
        return preprocess(Image.fromarray(scaled))

    def encode(items: Sequence[Path]) -> object:
        with torch.inference_mode():
            return model.encode_image(torch.stack([picture(path) for path in items]), normalize=True).numpy()

    return encode


def plain_torch(networks: Networks) -> Encode:
    """DICOM files the plain way: pydicom, a window, a resize, timm's ViT (see `benchmarks/plain.py`)."""
    from benchmarks.plain import embedder

    return embedder(networks.sizes["image"])


TEXT: Mapping[str, Callable[[Networks], Encode]] = {
    "mcr-infer, text": ours_text,
    "sentence-transformers": sentence_transformers,
    "sentence-transformers, ONNX": sentence_transformers_onnx,
    "fastembed": fastembed,
    "open_clip, text": open_clip_text,
}
IMAGES: Mapping[str, Callable[[Networks], Encode]] = {
    "mcr-infer, DICOM": ours_images,
    "open_clip, DICOM": open_clip_images,
    "pydicom + timm": plain_torch,
}


def main() -> None:
    """Measure one contender once and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contender", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=[*TEXT, *IMAGES])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="networks of the sizes of the bundle that ships")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    items: list[Any] = SENTENCES
    batch = len(SENTENCES)
    if options.name in IMAGES:
        items = sorted((options.work / "radiographs").glob("*.dcm"))
        batch = 4
    encode = (TEXT | IMAGES)[options.name](Networks.of(options.work, small=options.small))
    encode(items[:1])
    first = own_age()
    encode(items[:batch])
    count, began = 0, time.perf_counter()
    while not count or time.perf_counter() - began < options.seconds:
        place = count % len(items)
        encode(items[place : place + batch])
        count += len(items[place : place + batch])
    found: dict[str, Any] = {
        "first_seconds": first,
        "items_per_second": count / (time.perf_counter() - began),
        "peak_mib": own_bytes("VmHWM") / 2**20,
    }
    if options.name in IMAGES:
        found |= asked(encode, options.work / FOLDER)
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
