"""Which snapshot of a kind is to be loaded: the one that the manifest names, while a writer may be replacing it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mcr_infer.errors import IndexCorruptError
from mcr_infer.index.manifest import KindState, Manifest

S = TypeVar("S")
T = TypeVar("T")


def newest(
    folder: Path, kind: str, named: Callable[[KindState], S | None], load: Callable[..., T], *, dim: int
) -> tuple[T | None, str | None]:
    """Load the snapshot of a kind that `named` picks from the manifest, of vectors of `dim` dimensions.

    None without a reason where the manifest names none; None with the reason where the file does not fit its digest.
    """
    tried: S | None = None
    reason: str | None = None
    while True:
        manifest = Manifest.read(folder)
        snapshot = None if manifest is None else named(manifest.kinds[kind])
        # A writer may just have put a newer one in the place of what was tried.
        if snapshot is None or snapshot == tried:
            return None, reason
        try:
            return load(folder, kind, snapshot, dim=dim), None
        except IndexCorruptError as error:
            tried, reason = snapshot, str(error)
