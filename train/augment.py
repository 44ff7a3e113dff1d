"""Changes of a radiograph that keep its findings: pixels [H, W] in [0, 1] -> pixels [H', W'] in [0, 1].

They come before the preprocessing that inference shares. Nothing here mirrors an image: left must stay left.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.config import Augment


def augment(pixels: NDArray[np.float32], config: Augment, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rotate, crop and change the grey scale of pixels [H, W]; with every value 0 they come back untouched."""
    if config.rotation:
        angle = float(rng.uniform(-config.rotation, config.rotation))
        pixels = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.BILINEAR))
    if config.crop:
        height, width = pixels.shape
        top, bottom, left, right = rng.uniform(0.0, config.crop, 4)
        pixels = pixels[
            int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)
        ]
    if config.gamma:
        pixels = pixels ** np.float32(np.exp(rng.uniform(-config.gamma, config.gamma)))
    if config.contrast or config.brightness:
        gain = np.float32(1.0 + rng.uniform(-config.contrast, config.contrast))
        shift = np.float32(rng.uniform(-config.brightness, config.brightness))
        # Around mid-grey. Exactly black stays black: it is collimation or border, not anatomy.
        changed = np.clip((pixels - np.float32(0.5)) * gain + np.float32(0.5) + shift, 0.0, 1.0)
        pixels = np.where(pixels > 0, changed, np.float32(0.0))
    return np.ascontiguousarray(pixels, dtype=np.float32)
