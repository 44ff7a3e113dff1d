"""Patches on their way from the workers to the tower: slots in memory that all of them have mapped, and nothing is copied.

The memory has no name: it ends with the last process that maps it, after kill -9 too, and the small /dev/shm of a container
is no limit to it.
"""

import mmap
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotShape:
    """What every slot holds: K patches of P*P pixels, and K positions."""

    patches: int
    area: int

    @property
    def patch_bytes(self) -> int:
        """Bytes of the patches, float32."""
        return self.patches * self.area * 4

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot, positions as int64 included, rounded up so that every slot is aligned."""
        return -(-(self.patch_bytes + self.patches * 8) // _ALIGNMENT) * _ALIGNMENT


class SharedPatchBuffers:
    """A number of slots in anonymous shared memory; who owns which slot is agreed on elsewhere."""

    def __init__(self, shape: SlotShape, count: int, *, descriptor: int | None = None) -> None:
        """Make the memory, or map that of a descriptor that another process has made."""
        self.shape, self.count = shape, count
        size = shape.slot_bytes * count
        if descriptor is None:
            descriptor = os.memfd_create("mcr-infer-patches", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)

    def patches(self, slot: int) -> NDArray[np.float32]:
        """Return the patches [K, P*P] of a slot, to be read or written in place."""
        shape, start = self.shape, slot * self.shape.slot_bytes
        flat = np.frombuffer(self._memory, np.float32, count=shape.patches * shape.area, offset=start)
        return flat.reshape(shape.patches, shape.area)

    def positions(self, slot: int) -> NDArray[np.int64]:
        """Return the positions [K] of a slot, to be read or written in place."""
        start = slot * self.shape.slot_bytes + self.shape.patch_bytes
        return np.frombuffer(self._memory, np.int64, count=self.shape.patches, offset=start)

    def close(self) -> None:
        """Let the descriptor go; the memory ends with the last array that lies in it."""
        os.close(self.descriptor)
