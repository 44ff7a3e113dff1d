"""The plain way that a script goes: pydicom's pixel_array, a window, a resize, and ViT-B/16 of timm in PyTorch, fp32.

    python -m benchmarks.plain FOLDER --count 24        -> one JSON line: images a second

Files are read one after the other in one thread, the tower takes batches of 16 on all cores. Nothing is checked, recorded or
kept.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.large import VIT

BATCH = 16


def embedder(image: Mapping[str, Any] = VIT["image"]) -> Callable[[Sequence[Path]], object]:
    """Load the libraries and a model of some sizes, and return what embeds files."""
    import numpy as np
    import pydicom
    import timm
    import torch
    from PIL import Image
    from pydicom.pixels import apply_voi_lut

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    size = int(image["image_size"])
    model = timm.create_model(
        "vit_base_patch16_224", num_classes=0, in_chans=1, img_size=size, patch_size=image["patch_size"],
        embed_dim=image["width"], depth=image["depth"], num_heads=image["heads"],
    ).eval()  # fmt: skip

    def picture(path: Path) -> torch.Tensor:
        data = pydicom.dcmread(path)
        values = np.asarray(apply_voi_lut(data.pixel_array, data), dtype=np.float32)
        values = (values - values.min()) / (values.max() - values.min())
        resized = Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR)
        return (torch.from_numpy(np.array(resized)) - 0.5)[None] / 0.25

    def embed(paths: Sequence[Path]) -> object:
        with torch.inference_mode():
            return model(torch.stack([picture(path) for path in paths])).numpy()

    return embed


def run(paths: list[Path]) -> float:
    """Embed files and return images a second; loading the libraries and the model does not count."""
    embed = embedder()
    embed(paths[:1])
    begun = time.perf_counter()
    for start in range(0, len(paths), BATCH):
        embed(paths[start : start + BATCH])
    return len(paths) / (time.perf_counter() - begun)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plain", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.dcm"))[: options.count]
    print(json.dumps({"images_per_second": run(paths), "files": len(paths)}))


if __name__ == "__main__":
    main()
