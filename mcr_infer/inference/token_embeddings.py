"""Mapped patches or words: what a tower gives beside the embedding, before it is aggregated, and its form on the disk.

    tower -> local [N, K, D], weights [N, K] -> one `TokenEmbeddings` a picture or sentence -> bytes in the store, and back

A vector of patches takes a byte a value: each is scaled by its own largest value, so that a weak patch keeps its direction.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError

VERSION = 2
"""First byte of the packed form; 1 has no positions."""

_HEADER = struct.Struct("<BBHI")
"""Version, 1 where there are positions, D, K; then scales float32 [K], weights float16 [K], positions uint16 [K] where there
are any, values int8 [K, D], all little-endian."""

_LARGEST = 127
_LARGEST_POSITION = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenEmbeddings:
    """Patches of one picture, or words of one sentence, each mapped into the common space."""

    vectors: NDArray[np.float32] = field(repr=False)
    """[K, D], of any length."""

    weights: NDArray[np.float32] = field(repr=False)
    """[K], how much each counted in the aggregation; they sum to 1."""

    positions: NDArray[np.integer[Any]] | None = field(default=None, repr=False)
    """[K], where each patch lies in the grid of the picture, counted along its rows; None for words, and for patches of an
    index that was written before their positions were kept."""

    def __post_init__(self) -> None:
        positions = self.positions
        if self.vectors.ndim != 2 or not self.vectors.size or self.weights.shape != self.vectors.shape[:1]:
            raise EmbeddingIndexError(
                "mapped parts are vectors [K, D] and weights [K] with K and D of at least 1, got "
                f"{list(self.vectors.shape)} and {list(self.weights.shape)}"
            )
        if not (
            np.isfinite(self.vectors).all()
            and np.isfinite(self.weights).all()
            and (self.weights >= 0).all()
            and self.weights.any()
        ):
            raise EmbeddingIndexError(
                "mapped parts must be finite, with weights of at least 0 and not all 0: the tower does not work on this "
                "device; try --device cpu, or another bundle"
            )
        if positions is not None and (
            positions.shape != self.weights.shape or not 0 <= positions.min() <= positions.max() <= _LARGEST_POSITION
        ):
            raise EmbeddingIndexError(
                f"positions of {len(self.weights)} patches are as many numbers from 0 to {_LARGEST_POSITION}, got "
                f"{list(positions.shape)}"
            )

    def to_bytes(self) -> bytes:
        """Pack to `packed_size` bytes: each value within 1/254 of the largest of its vector."""
        scales = np.abs(self.vectors).max(axis=1).astype("<f4")
        # Where all values are 0, so are the codes; dividing by the smallest float32 could overflow.
        steps = np.where(scales > 0, scales.astype(np.float64) / _LARGEST, 1.0)[:, None]
        codes = np.rint(self.vectors / steps).clip(-_LARGEST, _LARGEST).astype(np.int8)
        count, dim = self.vectors.shape
        placed = self.positions is not None
        positions = self.positions.astype("<u2").tobytes() if self.positions is not None else b""
        header = _HEADER.pack(VERSION, placed, dim, count)
        return b"".join((header, scales.tobytes(), self.weights.astype("<f2").tobytes(), positions, codes.tobytes()))

    @classmethod
    def from_bytes(cls, content: bytes) -> "TokenEmbeddings":
        """Unpack; raises `IndexCorruptError` where the bytes are no packed form that this release knows."""
        if len(content) < _HEADER.size or not 1 <= content[0] <= VERSION:
            raise IndexCorruptError(
                f"packed patches begin with a version up to {VERSION} and a header of {_HEADER.size} bytes, got "
                f"{len(content)} bytes of version {content[0] if content else None}: a newer release made them, or "
                "another program; embed into a new folder"
            )
        _, placed, dim, count = _HEADER.unpack_from(content)
        expected = packed_size(count, dim, placed=bool(placed))
        if len(content) != expected or not expected > _HEADER.size:
            raise IndexCorruptError(
                f"packed patches of {count} x {dim} take {expected} bytes, got {len(content)}; embed into a new folder"
            )
        scales = np.frombuffer(content, dtype="<f4", count=count, offset=_HEADER.size)
        weights = np.frombuffer(content, dtype="<f2", count=count, offset=_HEADER.size + 4 * count)
        positions = np.frombuffer(content, "<u2", count, offset=_HEADER.size + 6 * count) if placed else None
        codes = np.frombuffer(content, dtype=np.int8, offset=len(content) - count * dim).reshape(count, dim)
        # The scale is divided first: a product with the codes could overflow.
        vectors = codes.astype(np.float32)
        vectors *= (scales / np.float32(_LARGEST))[:, None]
        return cls(vectors=vectors, weights=weights.astype(np.float32), positions=positions)


def packed_size(count: int, dim: int, *, placed: bool) -> int:
    """Return the bytes that `count` vectors of `dim` values take, `placed` with positions: 13,608 for 100 patches of 128."""
    return _HEADER.size + count * (dim + 6 + 2 * placed)
