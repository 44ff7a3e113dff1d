"""Stored values become a picture: the grey scale of DICOM as pure functions, without a file in sight.

    stored [H, W] -> modality LUT -> padding mask -> VOI LUT, window or percentiles -> one inversion -> upright [H, W]

Every step but the last depends on a stored value alone, so the chain runs once for each level that occurs (65536 at most)
and the picture is looked up from that table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.histogram import Histogram, mimic_cxr_jpg_levels
from mcr_infer.images.pixel_format import Stored
from mcr_infer.images.presets import Preset

PERCENTILES = (0.5, 99.5)
"""Where a file names no usable window: these percentiles of its unpadded pixels become black and white."""

_FLAT_SHARE = 0.99
"""A window that gives this share of the pixels one and the same of 256 greys does not belong to the picture."""

_BLOCK = 1 << 16
"""Pixels at a time: numpy widens indices to 64 bits, eight bytes a pixel, which stay in the processor's cache so."""

Values = NDArray[np.float64]
WindowFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
"""The defined terms of VOI LUT Function (0028,1056)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupTable:
    """A modality LUT or VOI LUT (PS3.3 C.11.1, C.11.2): `values[i]` is the output for the input `first + i`."""

    first: int
    values: Values

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or not len(self.values):
            raise ValueError(f"a lookup table needs at least one entry, got shape {self.values.shape}")

    def __call__(self, values: Values) -> Values:
        """Look up values of any shape; those outside of the table get its first or last entry."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.values) - 1)
        looked_up: Values = self.values[index.astype(np.intp)]
        return looked_up


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window in the units that the modality LUT gives (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: WindowFunction = "LINEAR"

    def __post_init__(self) -> None:
        least = 1.0 if self.function == "LINEAR" else math.ulp(0.0)
        if not (math.isfinite(self.center) and math.isfinite(self.width) and self.width >= least):
            raise ValueError(
                f"a {self.function} window cannot have the width {self.width} and the center {self.center}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """All that turns the stored values of one radiograph into a picture."""

    modality_lut: LookupTable | None = None
    """Replaces `slope` and `intercept` where present."""

    slope: float = 1.0
    intercept: float = 0.0

    padding: tuple[int, int] | None = None
    """Stored values, both included, that are no part of the picture; they are rendered black."""

    voi_lut: LookupTable | None = None
    """Its values are in [0, 1]; wins over `window` where present."""

    window: Window | None = None

    inverted: bool = False
    """True for MONOCHROME1, where the smallest value is white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A picture, float32 [H, W] in [0, 1], and how its grey scale was chosen."""

    pixels: NDArray[np.float32]
    intensity: str
    """`voi_lut`, `window` or `percentiles`; the name of a preset other than `voi`."""
    notes: tuple[str, ...] = ()


def apply_window(values: Values, window: Window) -> Values:
    """Map values of any shape to [0, 1] through a window, by the formulas of PS3.3 C.11.2.1.2.1 and C.11.2.1.3."""
    if window.function == "SIGMOID":
        # The clip keeps exp() finite; beyond it the curve is 0 or 1 in double precision anyway.
        slope = np.clip(-4.0 * (values - window.center) / window.width, -700.0, 700.0)
        sigmoid: Values = 1.0 / (1.0 + np.exp(slope))
        return sigmoid
    # LINEAR counts whole grey levels: its centre lies half a level lower, and its width spans one level less.
    exact = window.function == "LINEAR_EXACT"
    center = window.center if exact else window.center - 0.5
    span = window.width if exact else window.width - 1.0
    # A window one level wide is a step: nothing lies between its black and its white.
    return _ramp(values, center - span / 2, span) if span else (values > center).astype(np.float64)


def _ramp(values: Values, black: float, span: float) -> Values:
    """Map `black` to 0 and `black + span` to 1, linearly, and clip."""
    return np.clip((values - black) / span, 0.0, 1.0)


def render(stored: Stored, rendering: Rendering, preset: Preset = "voi") -> Rendered:
    """Render stored values [H, W] of 8 or 16 bits to float32 [H, W] in [0, 1], high = radiodense.

    With `voi`, a VOI LUT or window that makes 99 % of the unpadded pixels one of 256 greys gives way to the next means, a
    VOI LUT to the window and a window to percentiles, with a note that says so; the standard would apply it. Raises
    `BrokenImageError`: `no_contrast` where all unpadded pixels have one value, `corrupt` where the numbers of the header are
    so large that no pixel has a value.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused, or clipped to black and white
        return _render(stored, rendering, preset)


def _render(stored: Stored, rendering: Rendering, preset: Preset) -> Rendered:
    if preset == "mimic_cxr_jpg":
        rendering = Rendering(inverted=rendering.inverted)  # all that the makers of the data set asked a header for
    histogram = Histogram(stored, rendering.padding)
    values = _modality_values(histogram.levels, rendering)
    if not np.isfinite(values.max() - values.min()):
        raise BrokenImageError("the modality transformation makes values that overflow", reason="corrupt")
    # Unpadded values in one straight line have their extremes at both ends, and nobody need count what lies between.
    straight = rendering.padding is None and rendering.modality_lut is None
    seen = values[[0, -1]] if straight else values[histogram.counts() > 0]
    if not len(seen) or seen.min() == seen.max():
        raise BrokenImageError(
            "the image has no contrast: " + ("all pixels have one value" if len(seen) else "all pixels are padding"),
            reason="no_contrast",
        )
    notes: tuple[str, ...] = ()
    if preset == "mimic_cxr_jpg":
        eight_bits = mimic_cxr_jpg_levels(histogram.counts(), inverted=rendering.inverted)
        table = eight_bits.astype(np.float32) / np.float32(255)
        intensity: str = preset
    else:
        if preset == "minmax":
            shades, intensity = _ramp(values, seen.min(), seen.max() - seen.min()), preset
        else:
            shades, intensity, notes = _choose_shades(values, histogram, rendering)
        if rendering.inverted:
            shades = 1.0 - shades
        shades[histogram.padded] = 0.0
        table = shades.astype(np.float32)
    return Rendered(pixels=_look_up(stored, histogram.levels, table), intensity=intensity, notes=notes)


def _look_up(stored: Stored, levels: NDArray[np.int64], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace each stored value by the entry [L] of its level [L]."""
    bits = 8 * stored.dtype.itemsize
    by_code = np.zeros(1 << bits, dtype=np.float32)
    by_code[levels & ((1 << bits) - 1)] = table
    codes = stored.view(f"u{stored.dtype.itemsize}").reshape(-1)
    pixels = np.empty(stored.shape, dtype=np.float32)
    flat, index = pixels.reshape(-1), np.empty(min(_BLOCK, codes.size), dtype=np.intp)
    for start in range(0, codes.size, _BLOCK):
        block = codes[start : start + _BLOCK]
        np.copyto(index[: len(block)], block)
        # No code lies outside of the table: `clip` is there because numpy is twice as fast without its check.
        np.take(by_code, index[: len(block)], out=flat[start : start + len(block)], mode="clip")
    return pixels


def _modality_values(levels: NDArray[np.int64], rendering: Rendering) -> Values:
    values = levels.astype(np.float64)
    if rendering.modality_lut is not None:
        return rendering.modality_lut(values)
    return values * rendering.slope + rendering.intercept


def _choose_shades(values: Values, histogram: Histogram, rendering: Rendering) -> tuple[Values, str, tuple[str, ...]]:
    """Map the value of each level to a shade by the first means that shows the picture; say which one it was.

    The standard applies a VOI LUT or window whatever comes of it (PS3.3 C.11.2). A viewer's user would turn a knob then;
    a tower would be given a blank picture and embed it like any other.
    """
    means: list[tuple[str, str, Callable[[Values], Values]]] = []
    if (lut := rendering.voi_lut) is not None:
        means.append(("voi_lut", "VOI LUT", lambda values: np.clip(lut(values), 0.0, 1.0)))
    if (window := rendering.window) is not None:
        means.append(("window", "window", lambda values: apply_window(values, window)))
    ignored: list[str] = []
    for intensity, name, mapping in means:
        shades = mapping(values)
        if _shows_something(shades, histogram):
            return shades, intensity, _notes_on(ignored, name)
        ignored.append(name)
    black, white = _percentiles(values, histogram.counts())
    notes = _notes_on(ignored, "percentiles {:g} and {:g}".format(*PERCENTILES))
    return _ramp(values, black, white - black), "percentiles", notes


def _notes_on(ignored: list[str], used: str) -> tuple[str, ...]:
    return tuple(f"{name} ignored: it makes nearly all pixels the same grey; {used} used instead" for name in ignored)


def _shows_something(shades: Values, histogram: Histogram) -> bool:
    greys = np.rint(shades * 255).astype(np.intp)
    # Pixels of some rows that have another grey are as many at least as there are in all rows: often enough of them.
    some = np.bincount(greys, weights=histogram.counts_of_some_rows())
    if some.sum() - some.max() > (1 - _FLAT_SHARE) * histogram.pixels:
        return True
    every = np.bincount(greys, weights=histogram.counts())
    return bool(every.max() < _FLAT_SHARE * every.sum())


def _percentiles(values: Values, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the values at `PERCENTILES` of the counted pixels (nearest rank); the extremes where these two are equal."""
    order = np.argsort(values, kind="stable")
    ranks = np.cumsum(counts[order])
    at = np.searchsorted(ranks, [ranks[-1] * share / 100 for share in PERCENTILES])
    black, white = (float(value) for value in values[order][at])
    if black < white:
        return black, white
    seen = values[counts > 0]
    return float(seen.min()), float(seen.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How stored rows and columns must be turned to stand as on a light box (PS3.3 C.7.6.1.1.1).

    First rows and columns are exchanged where `transposed`, then rows are reversed left to right where `mirrored`, then
    turned upside down where `inverted`.
    """

    transposed: bool = False
    mirrored: bool = False
    inverted: bool = False

    @classmethod
    def from_patient_orientation(cls, row: str, column: str) -> "Turn":
        """Read Patient Orientation (0020,0020): where the rows and the columns run to, such as `L` and `F`.

        The first letter counts in compound directions such as `LF`. Frontal views end with the patient's right on the
        viewer's left; lateral views (`A`, `P`) keep the side they face, since both are in use. Directions other than
        these, as animals have, turn nothing.
        """
        across, down = row[:1].upper(), column[:1].upper()
        transposed = across in {"H", "F"} and down in {"L", "R", "A", "P"}
        if transposed:
            across, down = down, across
        return cls(transposed=transposed, mirrored=across == "R", inverted=down == "H")

    def __call__(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Turn pixels or stored values [H, W] to C-contiguous [H, W], or [W, H] where transposed."""
        turned = pixels.T if self.transposed else pixels
        turned = turned[:, ::-1] if self.mirrored else turned
        turned = turned[::-1] if self.inverted else turned
        return np.ascontiguousarray(turned)
