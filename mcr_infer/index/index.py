"""The index: one folder with the store, the snapshots beside it and the manifest that ties them together.

One process writes, any number read: readers see what was committed without opening again. A folder is created so that a
crash leaves nothing half made.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from mcr_infer.embeddings import fingerprint_of
from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, IndexMismatchError, IndexNotFoundError
from mcr_infer.files import PARTIAL, FileStamp, sync_folder
from mcr_infer.index.connection import FILE_NAME as STORE
from mcr_infer.index.manifest import FILE_NAME as MANIFEST
from mcr_infer.index.manifest import Identity, KindState, Manifest, Tuning, check_keyed
from mcr_infer.index.reader import Reader
from mcr_infer.index.root import Root, working_folder
from mcr_infer.index.rows import KINDS, Row, check_kind
from mcr_infer.index.snapshots import Notify, Renewal, Snapshots
from mcr_infer.index.storage import FILE_NAME as LOCK
from mcr_infer.index.storage import WriterLock, refuse_network_filesystem, storage_errors
from mcr_infer.index.store import Store

EXACT_LIMIT = 50_000
"""Rows of a kind up to which every query looks at all of them: 17 ms at 100k x 512 on one core, recall 1."""


def _log(sentence: str) -> None:
    import logging

    logging.getLogger(__name__).warning(sentence)


class Index(Reader):
    """An open index; a context manager. Not to be shared between threads, nor carried over a fork.

    `notify` is told, in a sentence, what takes long or was found damaged and is being mended; by default it is logged.
    """

    def __init__(self, folder: Path, *, lock: WriterLock | None, exact_limit: int, notify: Notify | None) -> None:
        """For `open`."""
        self.folder = folder
        self.exact_limit = exact_limit
        self._lock, self._writes = lock, lock is not None
        self._notify = notify or _log
        manifest = Manifest.read(folder)
        self._store = Store(folder, writable=lock is not None)
        try:
            self._identity = self._store.identity()
            self._snapshots = Snapshots(
                folder, self._store, dim=self.embedding_dim, writer=lock is not None, notify=self._notify
            )
            self._check(manifest)
            self._store.root = Root(self._identity.root)
        except BaseException:
            self._store.close(truncate=False)
            raise

    @classmethod
    def open(
        cls, folder: str | Path, *, writable: bool = False, exact_limit: int = EXACT_LIMIT, notify: Notify | None = None
    ) -> "Index":
        """Open an index.

        Raises `IndexNotFoundError` where there is none, `IndexLockedError` where another process writes to it and
        `writable` was asked, `IndexCorruptError` where its files do not belong together, `EmbeddingIndexError` otherwise.
        """
        place = Path(folder)
        refuse_network_filesystem(place)
        if not holds_index(place):
            raise IndexNotFoundError(
                f"there is no index in {place}: make one with `mcr-infer embed-images FOLDER --index {place}`, "
                "or name another with --index"
            )
        if not writable:
            return cls(place, lock=None, exact_limit=exact_limit, notify=notify)
        lock = WriterLock(place)
        try:
            index = cls(place, lock=lock, exact_limit=exact_limit, notify=notify)
            index._tidy()
        except BaseException:
            lock.release()
            raise
        return index

    @classmethod
    def open_or_create(
        cls,
        folder: str | Path,
        *,
        fingerprint: str,
        embedding_dim: int,
        bundle: str,
        bundle_path: str,
        pseudonymous: bool = False,
        secret_check: str = "",
        exact_limit: int = EXACT_LIMIT,
        notify: Notify | None = None,
    ) -> "Index":
        """Open an index for writing, or make one for a bundle where the folder is new or empty.

        `bundle` is the name of the bundle. `bundle_path` is kept as given, so that a query can find the bundle again; an
        index that is there remembers the newest. `pseudonymous` and `secret_check` (of the site secret, empty = none) are
        settled when it is made. Raises what `open` raises, `IndexMismatchError` where another bundle or another secret made
        the index, `EmbeddingIndexError` where the folder holds other files.
        """
        place = Path(folder)
        if not holds_index(place):
            identity = Identity(
                index_id=os.urandom(16).hex(),
                fingerprint=fingerprint,
                embedding_dim=embedding_dim,
                bundle=bundle,
                bundle_path=bundle_path,
                pseudonymous=pseudonymous,
                secret_check=secret_check,
            )
            create(place, identity)
        index = cls.open(place, writable=True, exact_limit=exact_limit, notify=notify)
        try:
            index.check_bundle(fingerprint)
            index.check_secret(secret_check, pseudonymous=pseudonymous)
            index._remember(replace(index._identity, bundle=bundle, bundle_path=bundle_path))
        except BaseException:
            index.close()
            raise
        return index

    def _check(self, manifest: Manifest | None) -> None:
        """Compare the store with the manifest, which was read before it. Raises `IndexCorruptError`."""
        if manifest is None:
            self._notify(f"index {self.folder} has lost {MANIFEST}; the next embed writes it again from {STORE}")
            self._check_counts(KINDS)
            return
        # The bundle or the files may have been moved since the store was written; of the two, the manifest has a digest.
        former, self._identity = self._identity, manifest.identity
        moved = replace(former, bundle=self.bundle, bundle_path=self.bundle_path, root=self._identity.root)
        if moved != self._identity:
            raise IndexCorruptError(
                f"{STORE} and {MANIFEST} in {self.folder} belong to different indexes: restore the folder as a whole"
            )
        for kind, known in manifest.kinds.items():
            generation, rows = self._store.state(kind)
            if generation < known.generation or (generation == known.generation and rows != known.rows):
                raise IndexCorruptError(
                    f"{STORE} in {self.folder} is older than {MANIFEST}: it holds {rows} {kind} rows of generation "
                    f"{generation}, expected {known.rows} of generation {known.generation}. Restore the folder as a whole"
                )
            if generation > known.generation:  # then there is no digest over the count
                self._check_counts([kind])

    def _check_counts(self, kinds: Iterable[str]) -> None:
        for kind in kinds:
            with self.snapshot():
                self._store.check_count(kind)

    def _tidy(self) -> None:
        """Write a manifest that was lost, and remove what a crash may have left: snapshots that no manifest names."""
        known = self._known()
        self._write_manifest(known)
        if self._store.identity() != self._identity:
            self._store.set_identity(self._identity)
        named = {name for kind, state in known.items() for name in state.file_names(kind)}
        with storage_errors(self.folder):
            for pattern in LEFTOVERS:
                for path in self.folder.glob(pattern):
                    if path.name not in named:
                        path.unlink(missing_ok=True)

    def _write_manifest(self, known: Mapping[str, KindState]) -> None:
        """Name the snapshots in `known`, and what the store holds now."""
        kinds = {}
        for kind in KINDS:
            generation, rows = self._store.state(kind)
            state = known.get(kind, KindState(generation=generation, rows=rows))
            kinds[kind] = replace(state, generation=generation, rows=rows)
        manifest = Manifest(identity=self._identity, kinds=kinds)
        if manifest != Manifest.read(self.folder):
            manifest.write(self.folder)

    def _remember(self, identity: Identity) -> None:
        if identity != self._identity:
            self._store.set_identity(identity)
            self._store.root = Root(identity.root)
            self._identity = identity
            self._write_manifest(self._known())

    def set_root(self, folder: str) -> None:
        """Take relative paths as relative to this folder, an absolute path, from now on."""
        self._writing()
        if self._identity.pseudonymous:
            raise EmbeddingIndexError(f"index {self.folder} is pseudonymous and keeps no paths")
        self._remember(replace(self._identity, root=folder))

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the index. A writer brings the manifest up to date and empties the WAL, then lets the next writer in.

        Closing again does nothing.
        """
        lock, self._lock = self._lock, None
        try:
            if lock:
                self._write_manifest(self._known())
        finally:
            try:
                self._store.close(truncate=lock is not None)
            finally:
                if lock:
                    lock.release()

    def add(
        self,
        rows: Sequence[Row],
        *,
        files: Sequence[tuple[FileStamp, str]] = (),
        file_kind: str = "image",
        locals: Mapping[tuple[str, str], bytes] | None = None,
        former_ids: Collection[str] = (),
        learned: Sequence[FileStamp] = (),
    ) -> None:
        """Add rows, and remember the files [(stamp, id)] that they or their twins came from; all of it or nothing.

        `locals` are the packed patches or words of rows, by kind and id. `former_ids` are those of rows of `file_kind` that
        get another id with this: they are removed. `learned` are stamps of known files whose ctime was not known yet.

        What was added is on the disk when this returns. A row of a known id replaces the former one.
        Raises `IndexMismatchError` on a wrong dimension or embedding space, and for rows or files that are named otherwise
        than by keys in a pseudonymous index; `EmbeddingIndexError` when the disk is full.
        """
        check_kind(file_kind)
        for row in rows:
            if (space := fingerprint_of(row.vector)) is not None:
                self.check_bundle(space)
            if row.vector.size != self.embedding_dim:
                raise IndexMismatchError(
                    f"{row.kind} {row.id!r} has an embedding of {row.vector.size} dimensions, index {self.folder} takes "
                    f"{self.embedding_dim}; nothing of this batch was added. Embed with the bundle {self.bundle!r}"
                )
        if self._identity.pseudonymous:
            check_keyed(self.folder, rows, files)
        self._writing()
        self._store.add(rows, files, file_kind, locals or {}, former_ids=former_ids, learned=learned)

    def delete(self, kind: str, ids: Iterable[str]) -> int:
        """Delete rows and what is known about their files; return how many rows there were.

        Files of vectors and facts keep what was in them until `save_snapshots`, a graph file the vector, unreachable, until
        `save_snapshots(purge=True)`.
        """
        check_kind(kind)
        self._writing()
        chosen = set(ids)
        gone = self._store.delete(kind, chosen)
        if gone < len(chosen) and self.facts(kind).knows(chosen):
            raise self._overlooked(kind)
        return gone

    def _writing(self) -> None:
        if self._lock is None:
            raise EmbeddingIndexError(f"index {self.folder} was opened for reading: open it with writable=True")

    def save_snapshots(
        self, *, rebuild: bool = False, purge: bool = False, m: int | None = None, ef_construction: int | None = None
    ) -> None:
        """Bring the files beside the store up to date, so that a new process starts fast; to be called after adding.

        They are the vectors and facts, and the graphs of kinds that have many rows. `rebuild` makes all of them from
        nothing, `purge` the graphs that hold vectors of deleted rows; so does a graph in which more than a fifth of the
        nodes is deleted. `m` and `ef_construction` shape the graphs that are made, by default as the former were. Raises
        `EmbeddingIndexError` when the disk is full: the former files are then still there.
        """
        self._writing()
        known = self._known()
        renewal = Renewal(everything=rebuild, purge=purge, m=m, ef_construction=ef_construction)
        self._write_manifest(
            {
                kind: self._snapshots.save(kind, known.get(kind), with_graph=self.has_graph(kind), renewal=renewal)
                for kind in KINDS
            }
        )
        self._tidy()

    def set_tuning(self, kind: str, tuning: Tuning) -> None:
        """Search the graph of a kind as broadly as was measured to be enough, from now on."""
        self._writing()
        self.graph(kind).tuned_ef = tuning.ef_search
        known = self._known()
        self._write_manifest({**known, kind: replace(self.state(kind), tuning=tuning)})

    def delete_rows(self, labels: Mapping[str, Iterable[int]]) -> Mapping[str, int]:
        """Delete rows of any kinds by label, in one transaction; return how many there were of each. See `delete`."""
        for kind in labels:
            check_kind(kind)
        self._writing()
        return self._store.delete_labels(labels)

    def erase(self) -> bool:
        """Write the store anew, without what deleted rows left in it, and empty the WAL.

        SQLite overwrites what is deleted, but not what it moved within a page before: parts of ids and paths stay behind, of
        a few rows in a thousand. False where a process that reads still needs the former state. Raises
        `EmbeddingIndexError` where the disk has no room for a second copy of the store.
        """
        self._writing()
        self._store.vacuum()
        return self._store.truncate()


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
