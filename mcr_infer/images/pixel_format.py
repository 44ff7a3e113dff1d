"""How the values of one greyscale frame are stored, as a header declares it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError, UnsupportedImageError

Stored = NDArray[np.integer[Any]]
"""Stored values [H, W] of 8 or 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """What a header declares about one greyscale frame (PS3.5 8.1)."""

    rows: int
    columns: int
    bits_allocated: int
    """8 or 16."""
    bits_stored: int
    high_bit: int
    signed: bool
    overlay_bits: int = 0
    """A mask of those bits of a cell, none of them stored, that hold overlays."""

    def __post_init__(self) -> None:
        sizes = f"{self.bits_allocated} bits allocated, {self.bits_stored} stored, high bit {self.high_bit}"
        if self.bits_allocated not in (8, 16):
            raise UnsupportedImageError(f"{sizes}: 8 or 16 allocated bits are read", reason="bit_depth")
        if self.rows < 1 or self.columns < 1:
            raise BrokenImageError(f"the image has {self.rows} rows and {self.columns} columns", reason="corrupt")
        if not 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated:
            raise BrokenImageError(f"{sizes}: these contradict each other", reason="corrupt")

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest value that can be stored."""
        lowest = -(1 << (self.bits_stored - 1)) if self.signed else 0
        return lowest, lowest + (1 << self.bits_stored) - 1

    @property
    def byte_count(self) -> int:
        """Bytes of the frame without compression."""
        return self.rows * self.columns * self.bits_allocated // 8
