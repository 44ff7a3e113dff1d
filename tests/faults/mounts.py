"""Small file systems of this process's own, where it may mount them; nobody else sees them, and they end with it."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS of unshare(2)."""


def own_mounts() -> bool:
    """Give this process a view of mounts of its own; False where it may not."""
    if os.geteuid() != 0 or ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS) != 0:
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """Mount a file system of so many bytes."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def make_read_only(place: Path) -> None:
    """Let nobody write to a mounted file system any more."""
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
