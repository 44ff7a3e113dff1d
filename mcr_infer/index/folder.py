"""The folder of an index: whether it holds one, and how one is begun so that a crash leaves nothing half made."""

from dataclasses import replace
from pathlib import Path

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.files import PARTIAL, sync_folder
from mcr_infer.index.connection import FILE_NAME as STORE
from mcr_infer.index.lock import FILE_NAME as LOCK
from mcr_infer.index.lock import WriterLock, refuse_network_filesystem
from mcr_infer.index.manifest import FILE_NAME as MANIFEST
from mcr_infer.index.manifest import Identity, KindState, Manifest
from mcr_infer.index.root import working_folder
from mcr_infer.index.rows import KINDS
from mcr_infer.index.storage import storage_errors
from mcr_infer.index.store import Store

LEFTOVERS = ("graph-*.hnsw", "vectors-*.bin", "facts-*.bin", "*.tmp", PARTIAL, "etilqs_*")
"""What a crash may leave in the folder, unless a manifest names it; the last are SQLite's temporary files."""

_OWN_FILES = {STORE, f"{STORE}-wal", f"{STORE}-shm", LOCK}


def holds_index(place: Path) -> bool:
    """True where a folder holds an index, damaged or not; a creation that a crash cut short does not count."""
    with storage_errors(place):
        has_store, has_manifest = (place / STORE).exists(), (place / MANIFEST).exists()
    if has_manifest and not has_store:
        raise IndexCorruptError(f"index {place} has lost {STORE}, which holds its rows: restore it from a backup")
    return has_manifest or (has_store and not Store.is_blank(place))


def bytes_of(place: Path) -> int:
    """Return how many bytes the files of a folder take."""
    with storage_errors(place):
        return sum(path.stat().st_size for path in place.iterdir() if path.is_file()) if place.is_dir() else 0


def create(place: Path, identity: Identity) -> None:
    """Make the files of an index in a new or empty folder, private to its owner.

    Its root is the working folder where the identity names none; a pseudonymous index, which keeps no paths, has none.
    """
    identity = replace(identity, root="" if identity.pseudonymous else identity.root or working_folder())
    with storage_errors(place):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = sorted(
            path.name for path in place.iterdir() if path.name not in _OWN_FILES and not path.match(PARTIAL)
        )
        if foreign:
            raise EmbeddingIndexError(
                f"{place} holds other files ({foreign[0]}) and no index: choose a new or empty folder with --index"
            )
        refuse_network_filesystem(place)
        place.chmod(0o700)
        lock = WriterLock(place)
        try:
            if not holds_index(place):  # unless another process was faster
                Store.create(place, identity)
                Manifest(identity=identity, kinds={kind: KindState(generation=0, rows=0) for kind in KINDS}).write(
                    place
                )
                sync_folder(place.absolute().parent)
        finally:
            lock.release()
