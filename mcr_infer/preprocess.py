"""Pixels become patches: the one implementation, used by inference and by training.

    Radiograph pixels [H, W] -> square image [S, S] -> patches [K, P*P] and their positions [K]

The standardisation (mean, standard deviation) is not here: it is the first step of the image tower, inside the graph.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The geometry that a tower was trained on; it travels in checkpoint and manifest and has no command-line flag."""

    image_size: int
    """Side S of the square image in pixels."""

    patch_size: int
    """Side P of a patch in pixels; divides S."""

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size must be a positive multiple of patch_size, got {self.image_size} and {self.patch_size}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patch_count(self) -> int:
        """Patches of a whole image, K."""
        return self.grid**2

    def image(self, pixels: NDArray[np.float32], *, aspect: float = 1.0) -> NDArray[np.float32]:
        """Fit pixels [H, W] in [0, 1] into a square [S, S]: the aspect ratio is kept, the rest is black.

        `aspect` is the row spacing over the column spacing (1 for square pixels). The filter is Pillow's antialiased
        triangle: its weights are convex, so values never leave [0, 1], unlike a bicubic.
        """
        from PIL import Image  # a text query cuts no patches

        height, width = pixels.shape
        tall = height * aspect
        scale = self.image_size / max(tall, width)
        rows, columns = max(1, round(tall * scale)), max(1, round(width * scale))
        resized = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32)).resize(
            (columns, rows), Image.Resampling.BILINEAR
        )
        square = np.zeros((self.image_size, self.image_size), dtype=np.float32)
        top, left = (self.image_size - rows) // 2, (self.image_size - columns) // 2
        square[top : top + rows, left : left + columns] = np.asarray(resized)
        return square

    def patches(
        self, pixels: NDArray[np.float32], *, aspect: float = 1.0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut pixels [H, W] into all patches [K, P*P] of the fitted square, row by row, and their positions [K]."""
        grid, side = self.grid, self.patch_size
        blocks = self.image(pixels, aspect=aspect).reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(blocks.reshape(grid * grid, side * side)), np.arange(grid * grid, dtype=np.int64)

    def to_dict(self) -> dict[str, int]:
        """Return the parameters as they stand in a manifest."""
        return {"image_size": self.image_size, "patch_size": self.patch_size}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Preprocess":
        """Read the parameters from a manifest or checkpoint; unknown or missing keys are a `ConfigError`."""
        expected = {"image_size", "patch_size"}
        if set(values) != expected or not all(type(value) is int for value in values.values()):
            raise ConfigError(f"preprocessing takes whole numbers {sorted(expected)}, got {dict(values)}")
        return cls(**{key: int(str(value)) for key, value in values.items()})
