"""Pixels become patches: the one implementation, used by inference and by training.

    Radiograph pixels [H, W] -> square image [S, S] -> patches [K, P*P] and their positions [K]

The standardisation (mean, standard deviation) is not here: it is the first step of the image tower, inside the graph.
Towers that others trained bring their own geometry; the fields beyond the first two say how they saw their pictures.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ConfigError
from mcr_infer.images.presets import Preset, require_preset
from mcr_infer.images.reduced_decode import Room
from mcr_infer.inference.patch_budget import chosen_positions, count_of

ImageInput = Literal["patches", "pixels"]
INPUT_NAMES: Mapping[ImageInput, tuple[str, ...]] = {"patches": ("patches", "positions"), "pixels": ("pixels",)}
"""What an image tower takes, by the kind that the manifest names."""

SPARE = 2.5
"""A picture is decoded smaller only if it keeps this many times the pixels that it is resized to. On 18 real radiographs and
through each codec the embedding of the bundle that ships then has a cosine of 0.9994 or more to that of the full decode; at
2.2 the least is 0.998."""

FITS = ("pad", "crop", "crop_floor", "stretch")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The geometry that a tower was trained on; it travels in checkpoint and manifest and has no command-line flag."""

    image_size: int
    """Side S of the square image in pixels."""

    patch_size: int
    """Side P of a patch in pixels; divides S. A tower of whole pictures has one patch, P = S."""

    input: ImageInput = "patches"
    """`patches`: the tower takes visible patches and their positions; `pixels`: the whole picture [S, S]."""

    fit: str = "pad"
    """How pixels [H, W] fill the square: `pad` keeps all and the aspect ratio, the rest is black; `crop` keeps the aspect
    ratio and cuts what lies beyond the middle, `crop_floor` too, but of an odd margin it cuts less at the top and on the
    left, as transformers does (torchvision rounds); `stretch` keeps all and not the aspect ratio."""

    interpolation: str = "bilinear"
    """Pillow's antialiased filter."""

    resize: int | None = None
    """The shorter side before `crop` cuts S x S out of the middle; None = S."""

    bits: int | None = None
    """8: pixels are rounded to 8 bits before they are resized and again after it, as towers saw them that were trained on
    PNG and JPEG; None: floating point throughout."""

    rendering: Preset = "voi"
    """How the greys of its pictures are chosen: a preset of `mcr_infer.images.presets`, which `read_image` takes."""

    def __post_init__(self) -> None:
        require_preset(self.rendering)
        if self.patch_size < 1 or self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ConfigError(
                f"image_size must be a positive multiple of patch_size, got {self.image_size} and {self.patch_size}"
            )
        for name, value, known in (
            ("input", self.input, tuple(INPUT_NAMES)),
            ("fit", self.fit, FITS),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("bits", self.bits, (None, 8)),
        ):
            if value not in known:
                raise ConfigError(f"{name} of the preprocessing must be one of {known}, got {value!r}")
        if self.input == "pixels" and self.patch_size != self.image_size:
            raise ConfigError(
                f"a tower of whole pictures has one patch: patch_size must be {self.image_size}, got {self.patch_size}"
            )
        if self.resize is not None and (not self.fit.startswith("crop") or self.resize < self.image_size):
            raise ConfigError(
                f"resize goes with a fit that crops and is at least image_size {self.image_size}, got {self.resize} with "
                f"fit {self.fit!r}"
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def patch_count(self) -> int:
        """Patches of a whole image, K."""
        return self.grid**2

    @property
    def input_names(self) -> tuple[str, ...]:
        """The inputs of the image tower."""
        return INPUT_NAMES[self.input]

    @property
    def reduce_to(self) -> Room:
        """What a picture must keep of its pixels so that decoding it smaller does not change the embedding.

        `SPARE` times the pixels that it is resized to; `read_image` takes it.
        """
        pixels = math.ceil(SPARE * (self.resize or self.image_size))
        return Room(pixels=pixels, side="longer" if self.fit == "pad" else "shorter")

    def image(self, pixels: NDArray[np.float32], *, aspect: float = 1.0) -> NDArray[np.float32]:
        """Fit pixels [H, W] in [0, 1] into a square [S, S] in [0, 1].

        `aspect` is the row spacing over the column spacing (1 for square pixels).
        """
        height, width = pixels.shape
        rows, columns = self._resized(height * aspect, width)
        resized = self._resample(pixels, rows, columns)
        size = self.image_size
        if self.fit.startswith("crop"):
            # Python rounds halves to the even number, and so does the centre crop of torchvision.
            cut = round if self.fit == "crop" else int
            top, left = cut((rows - size) / 2), cut((columns - size) / 2)
            return np.ascontiguousarray(resized[top : top + size, left : left + size])
        square = np.zeros((size, size), dtype=np.float32)
        top, left = (size - rows) // 2, (size - columns) // 2
        square[top : top + rows, left : left + columns] = resized
        return square

    def patches(
        self, pixels: NDArray[np.float32], *, aspect: float = 1.0, budget: float = 1.0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Fit pixels [H, W] in [0, 1] into the square and cut it into patches [K, P*P] and their positions [K].

        See `image` and `cut`.
        """
        return self.cut(self.image(pixels, aspect=aspect), budget=budget)

    def cut(self, square: NDArray[np.float32], *, budget: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Cut a fitted square [S, S] into patches [K, P*P], row by row, and their positions [K], ascending.

        K is `patches_within(budget)`, always: `inference.patch_budget` decides which patches are left out. Raises
        `ConfigError` as `patches_within` does.
        """
        count, grid, side = self.patches_within(budget), self.grid, self.patch_size
        blocks = square.reshape(grid, side, grid, side).transpose(0, 2, 1, 3)
        patches = np.ascontiguousarray(blocks.reshape(grid * grid, side * side))
        if count == len(patches):
            return patches, np.arange(count, dtype=np.int64)
        positions = chosen_positions(patches, count)
        return patches[positions], positions

    def patches_within(self, budget: float) -> int:
        """Return K, how many patches a tower is given of each radiograph: the budget's share of all, at least one.

        Raises `ConfigError` for a budget outside of (0, 1], and for one below 1 where the tower takes whole pictures.
        """
        count = count_of(budget, self.patch_count)
        if self.input == "pixels" and budget < 1.0:
            raise ConfigError(
                f"the image tower takes whole pictures of {self.image_size} x {self.image_size} pixels and no patches: it "
                f"has no patch budget, got {budget:g}; leave --patch-budget out, or use a bundle whose tower takes patches"
            )
        return count

    def tower_inputs(self, patches: NDArray[np.float32], positions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Turn a batch of patches [N, K, P*P] at positions [N, K] into what the image tower takes, by name.

        A tower of whole pictures takes pixels [N, S, S]: its one patch.
        """
        if self.input == "patches":
            return {"patches": patches, "positions": positions}
        return {"pixels": patches.reshape(len(patches), self.image_size, self.image_size)}

    def to_dict(self) -> dict[str, object]:
        """Return the parameters as they stand in a manifest: those that are as they are for towers of ours are left out."""
        values = asdict(self)
        return {one.name: values[one.name] for one in fields(self) if values[one.name] != one.default}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Preprocess":
        """Read the parameters from a manifest or checkpoint; unknown or missing keys are a `ConfigError`."""
        known = {one.name for one in fields(cls)}
        required = {one.name for one in fields(cls) if one.default is MISSING}
        numbers = {"image_size", "patch_size", "resize", "bits"}
        sound = all(type(value) is (int if name in numbers else str) for name, value in values.items())
        if not required <= set(values) <= known or not sound:
            raise ConfigError(
                f"preprocessing takes {sorted(required)} and, for towers of others, {sorted(known - required)}, each a "
                f"whole number or a word; got {dict(values)}"
            )
        return cls(**dict(values))  # type: ignore[arg-type]  # the types were looked at above

    def _resized(self, tall: float, wide: float) -> tuple[int, int]:
        """Return rows and columns after resizing, before padding or cropping."""
        size = self.image_size
        if self.fit == "stretch":
            return size, size
        if self.fit.startswith("crop"):
            # As torchvision and transformers count: the longer side is cut to a whole number.
            short = self.resize or size
            return (short, int(short * wide / tall)) if tall <= wide else (int(short * tall / wide), short)
        scale = size / max(tall, wide)
        return max(1, round(tall * scale)), max(1, round(wide * scale))

    def _resample(self, pixels: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
        """Resize pixels [H, W] in [0, 1] to [rows, columns] in [0, 1]."""
        from PIL import Image  # a text query cuts no patches

        method = Image.Resampling[self.interpolation.upper()]
        if self.bits == 8:
            # Pillow rounds each pass to 8 bits and cuts what a bicubic overshoots.
            picture = Image.fromarray(np.round(pixels * np.float32(255)).astype(np.uint8))
            return np.asarray(picture.resize((columns, rows), method), dtype=np.float32) / np.float32(255)
        picture = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
        resized = np.asarray(picture.resize((columns, rows), method), dtype=np.float32)
        # The weights of the triangle are convex: its values never leave [0, 1].
        return resized if self.interpolation == "bilinear" else resized.clip(0.0, 1.0)
