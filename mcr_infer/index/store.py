"""store.sqlite: the rows with their vectors. It is the truth; everything else in the folder can be made from it.

A commit is on the disk when it returns (WAL, synchronous=FULL). Every row has a `label`, a number that only grows and is
never given twice: a replaced row gets a new one, so whoever knows a set of labels knows what it lacks and what is gone.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mcr_infer.durable import create_private
from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, IndexLockedError
from mcr_infer.index.manifest import FORMAT_VERSION, Identity, identity_of, newer_format
from mcr_infer.index.migrations import LOCALS, migrate
from mcr_infer.index.rows import (
    COLUMNS,
    KINDS,
    Row,
    checked_vector,
    from_columns,
    loaded_path,
    stored_path,
    to_columns,
)
from mcr_infer.index.storage import DISK_FULL, NOT_WRITABLE, storage_errors
from mcr_infer.stamp import FileStamp

FILE_NAME = "store.sqlite"

_BUSY_SECONDS = 30.0
_FETCH = 1000
_PAGE_BYTES = 8192

_SCHEMA = (
    "CREATE TABLE identity(name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE kinds(kind TEXT PRIMARY KEY, generation INTEGER NOT NULL, row_count INTEGER NOT NULL) WITHOUT ROWID",
    # `path` has no type: names that are not UTF-8 are kept as bytes.
    """CREATE TABLE rows(
        label INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, path, study_uid TEXT, series_uid TEXT,
        metadata TEXT NOT NULL, precision TEXT NOT NULL, patch_budget REAL NOT NULL, content_digest TEXT, text TEXT,
        vector BLOB NOT NULL, digest BLOB NOT NULL, patient_key TEXT, UNIQUE(kind, id))""",
    "CREATE INDEX rows_provenance ON rows(kind, precision, patch_budget)",
    """CREATE TABLE files(
        kind TEXT NOT NULL, path NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY(kind, path)) WITHOUT ROWID""",
    "CREATE INDEX files_id ON files(kind, id)",
    LOCALS,
)
_COLUMNS = ", ".join(COLUMNS)
_COLUMNS_OF_1 = _COLUMNS.replace("patient_key", "NULL")


class Store:
    """A connection to the store of one index folder, for one thread."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        """Open the store; a writable one of an earlier format is brought to this one. Raises `EmbeddingIndexError`."""
        self._folder = folder
        self._version = FORMAT_VERSION
        path = folder / FILE_NAME
        if writable:
            mode = "mode=rw"
        elif _is_frozen(folder):
            mode = "mode=ro&immutable=1"
        else:
            mode = "mode=ro"
        with self._errors():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?{mode}", uri=True, isolation_level=None, timeout=_BUSY_SECONDS
            )
            try:
                self._prepare(writable)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, writable: bool) -> None:
        self._connection.execute("PRAGMA trusted_schema = OFF")
        self._connection.execute("PRAGMA cell_size_check = ON")
        self._version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if self._version > FORMAT_VERSION:
            raise newer_format(self._folder, self._version)
        if writable:
            # What is deleted or replaced is overwritten with zeros: embeddings are patient data.
            self._connection.execute("PRAGMA secure_delete = ON")
            # Takes effect on an empty file: a page then holds more than one row of 512 dimensions.
            self._connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            # Locals go with their rows.
            self._connection.execute("PRAGMA foreign_keys = ON")
            if 0 < self._version < FORMAT_VERSION:
                with self._write():
                    migrate(self._connection, self._version)
                self._version = FORMAT_VERSION

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> None:
        """Make the store with its tables, all at once; a creation that a crash cut short is begun again."""
        path = folder / FILE_NAME
        with storage_errors(folder):
            for leftover in (f"{FILE_NAME}-wal", f"{FILE_NAME}-shm"):
                (folder / leftover).unlink(missing_ok=True)
            os.close(create_private(path))
        store = cls(folder, writable=True)
        try:
            with store._write():
                for statement in _SCHEMA:
                    store._connection.execute(statement)
                store._set_identity(identity)
                store._connection.executemany("INSERT INTO kinds VALUES(?, 0, 0)", [(kind,) for kind in KINDS])
                store._connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        finally:
            store.close(truncate=True)

    @classmethod
    def is_blank(cls, folder: Path) -> bool:
        """True where the creation was cut short: there is a file without tables."""
        store = cls(folder, writable=False)
        try:
            return not store._rows("SELECT 1 FROM sqlite_master LIMIT 1")
        finally:
            store.close(truncate=False)

    def identity(self) -> Identity:
        """Return which index this is. Raises `IndexCorruptError` where the entries are not all there."""
        try:
            return identity_of(dict(self._rows("SELECT name, value FROM identity")))
        except KeyError as exc:
            raise IndexCorruptError(f"{self._folder / FILE_NAME} lacks entries of its identity; {_RESTORE}") from exc

    def set_identity(self, identity: Identity) -> None:
        """Remember another name or place of the same bundle."""
        with self._write():
            self._set_identity(identity)

    def _set_identity(self, identity: Identity) -> None:
        values = [(name, getattr(identity, name)) for name in Identity.__dataclass_fields__]
        self._connection.executemany("INSERT OR REPLACE INTO identity VALUES(?, ?)", values)

    def state(self, kind: str) -> tuple[int, int]:
        """Return how often rows of a kind have changed, and how many there are."""
        found = self._rows("SELECT generation, row_count FROM kinds WHERE kind = ?", kind)
        if not found:
            raise IndexCorruptError(f"{self._folder / FILE_NAME} has lost its count of {kind} rows; {_RESTORE}")
        return int(found[0][0]), int(found[0][1])

    def add(
        self,
        rows: Sequence[Row],
        files: Sequence[tuple[FileStamp, str]],
        file_kind: str,
        locals: Mapping[tuple[str, str], bytes],
    ) -> None:
        """Commit rows, their files and their locals in one transaction; a row of a known id is replaced."""
        last = {(row.kind, row.id): row for row in rows}
        stamps = [(file_kind, stored_path(stamp.path), stamp.size, stamp.mtime_ns, id) for stamp, id in files]
        with self._write():
            locals = self._kept_locals(last.values()) | dict(locals)
            # Whoever else was known to hold a replaced image held the former one: it must be looked at again.
            self._connection.executemany(
                "DELETE FROM files WHERE kind = ?1 AND id = ?2 AND EXISTS "
                "(SELECT 1 FROM rows WHERE kind = ?1 AND id = ?2 AND content_digest IS NOT ?3)",
                [(row.kind, row.id, row.content_digest) for row in last.values()],
            )
            for kind in KINDS:
                chosen = [to_columns(row) for row in last.values() if row.kind == kind]
                self._change(kind, removed=[columns[1] for columns in chosen], added=chosen)
            for stamp in stamps:
                self._take_place(stamp)
            self._connection.executemany("INSERT OR REPLACE INTO files VALUES(?, ?, ?, ?, ?)", stamps)
            self._connection.executemany(
                "INSERT OR REPLACE INTO locals SELECT label, ?, ? FROM rows WHERE kind = ? AND id = ?",
                [(content, _content_digest(content), kind, id) for (kind, id), content in locals.items()],
            )

    def _kept_locals(self, rows: Iterable[Row]) -> dict[tuple[str, str], bytes]:
        """Return the locals of rows that are to be replaced by a row with the same vector: they stand as it does."""
        kept = {}
        for row in rows:
            for content, former in self._rows(
                "SELECT content, vector FROM locals JOIN rows USING (label) WHERE kind = ? AND id = ?", row.kind, row.id
            ):
                if former == np.asarray(row.vector, dtype="<f4").tobytes():
                    kept[row.kind, row.id] = content
        return kept

    def delete(self, kind: str, ids: Iterable[str]) -> int:
        """Delete rows, and what is known about their files; return how many there were."""
        with self._write():
            chosen = list(ids)
            self._connection.executemany("DELETE FROM files WHERE kind = ? AND id = ?", [(kind, id) for id in chosen])
            return self._change(kind, removed=chosen, added=[])

    def _change(self, kind: str, *, removed: Sequence[str], added: Sequence[tuple[Any, ...]]) -> int:
        """Remove and add rows of a kind and count them; return how many were removed."""
        statement = "DELETE FROM rows WHERE kind = ? AND id = ?"
        gone = self._connection.executemany(statement, [(kind, id) for id in removed]).rowcount if removed else 0
        marks = ", ".join("?" * len(COLUMNS))
        self._connection.executemany(f"INSERT INTO rows({_COLUMNS}) VALUES({marks})", added)
        if gone or added:
            self._connection.execute(
                "UPDATE kinds SET generation = generation + 1, row_count = row_count + ? WHERE kind = ?",
                (len(added) - gone, kind),
            )
        return gone

    def _take_place(self, stamp: tuple[Any, ...]) -> None:
        """Where a file now holds another image, its former row must not point to it any more."""
        kind, path, _, _, id = stamp
        for (former,) in self._rows("SELECT id FROM files WHERE kind = ? AND path = ? AND id <> ?", kind, path, id):
            for row in self._get(kind, former):
                if stored_path(row.path) == path:
                    others = self._rows("SELECT path FROM files WHERE kind=? AND id=? AND path<>?", kind, former, path)
                    columns = to_columns(replace(row, path=loaded_path(others[0][0]) if others else None))
                    self._connection.execute(
                        "UPDATE rows SET path = ?, digest = ? WHERE kind = ? AND id = ?",
                        (columns[2], columns[-1], kind, former),
                    )

    def known_file(self, stamp: FileStamp, kind: str) -> str | None:
        """Return the id of the row that an unchanged file gave, or None."""
        found = self._rows(
            "SELECT id FROM files JOIN rows USING (kind, id) "
            "WHERE kind = ? AND files.path = ? AND size = ? AND mtime_ns = ?",
            kind, stored_path(stamp.path), stamp.size, stamp.mtime_ns,
        )  # fmt: skip
        return str(found[0][0]) if found else None

    def get(self, kind: str, id: str) -> Row | None:
        """Return a row, or None where there is none."""
        return next(iter(self._get(kind, id)), None)

    def _get(self, kind: str, id: str) -> list[Row]:
        found = self._rows(f"SELECT {self._columns} FROM rows WHERE kind = ? AND id = ?", kind, id)
        rows = [from_columns(values) for values in found]
        if any((row.kind, row.id) != (kind, id) for row in rows):
            raise IndexCorruptError(f"{self._folder / FILE_NAME} gives another row for {kind} {id!r}; {_RESTORE}")
        return rows

    def at(self, labels: Iterable[int]) -> Mapping[int, Row]:
        """Return rows by label. Raises `IndexCorruptError` where one is not there."""
        found: dict[int, Row] = {}
        for label in labels:
            for values in self._rows(f"SELECT {self._columns} FROM rows WHERE label = ?", label):
                found[label] = from_columns(values)
            if label not in found:
                raise IndexCorruptError(f"{self._folder / FILE_NAME} cannot find row {label}; {_RESTORE}")
        return found

    def ids(self, kind: str) -> list[str]:
        """Return all ids of a kind, sorted."""
        return [str(id) for (id,) in self._rows("SELECT id FROM rows WHERE kind = ? ORDER BY id", kind)]

    def provenance(self, kind: str) -> frozenset[tuple[str, float]]:
        """Return the pairs (precision, patch budget) that occur among the rows of a kind."""
        found = self._rows("SELECT DISTINCT precision, patch_budget FROM rows WHERE kind = ?", kind)
        return frozenset((str(precision), float(budget)) for precision, budget in found)

    def labels(self, kind: str) -> NDArray[np.int64]:
        """Return the labels of a kind, ascending [N]; to be called inside `snapshot`.

        Raises `IndexCorruptError` where rows have gone missing.
        """
        found = self._rows("SELECT label FROM rows WHERE kind = ?", kind)
        # np.unique would import numpy.ma, which takes as long as all the rest of a small search.
        labels = np.sort(np.fromiter((label for (label,) in found), dtype=np.int64, count=len(found)))
        different, (_, expected) = int((labels[1:] != labels[:-1]).sum()) + bool(len(labels)), self.state(kind)
        if not len(labels) == different == expected:
            raise IndexCorruptError(
                f"{self._folder / FILE_NAME} has {different} {kind} rows, expected {expected}; {_RESTORE}"
            )
        return labels

    def vectors(self, kind: str, labels: NDArray[np.int64], *, dim: int) -> NDArray[np.float32]:
        """Read the vectors [N, D] of ascending labels [N], each row against its digest."""
        vectors = np.empty((len(labels), dim), dtype=np.float32)
        for place, columns in self.scan(kind, labels):
            vectors[place] = np.frombuffer(checked_vector(columns), dtype="<f4")
        return vectors

    def scan(self, kind: str, labels: NDArray[np.int64]) -> Iterator[tuple[int, Sequence[Any]]]:
        """Read the rows of ascending labels [N] in the order of the table: each one's place in `labels`, and its columns.

        No column is to be believed before its digest was compared. Raises `IndexCorruptError` at the end where rows were
        not there.
        """
        if not len(labels):
            return
        wanted = {int(label): place for place, label in enumerate(labels)}
        # Going through the index of ids would jump to a page per row.
        statement = f"SELECT label, {self._columns} FROM rows NOT INDEXED WHERE label BETWEEN ? AND ? AND kind = ?"
        with self._errors():
            cursor = self._connection.execute(statement, (int(labels[0]), int(labels[-1]), kind))
            while part := cursor.fetchmany(_FETCH):
                for label, *columns in part:
                    place = wanted.pop(label, None)
                    if place is not None:
                        yield place, columns
        if wanted:
            raise IndexCorruptError(f"{self._folder / FILE_NAME} misses {len(wanted)} {kind} rows; {_RESTORE}")

    def locals(self, kind: str, labels: Iterable[int]) -> Mapping[int, bytes]:
        """Return what is kept of the patches or words of rows, by label; rows of which nothing is kept are left out."""
        found: dict[int, bytes] = {}
        if self._version < 2:
            return found
        for label in labels:
            for content, digest in self._rows("SELECT content, digest FROM locals WHERE label = ?", label):
                if not isinstance(content, bytes) or _content_digest(content) != digest:
                    raise IndexCorruptError(
                        f"{self._folder / FILE_NAME}: the locals of {kind} row {label} do not match their digest; {_RESTORE}"
                    )
                found[label] = content
        return found

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside come from one moment, whatever a writer commits meanwhile."""
        if self._connection.in_transaction:  # inside another block: its moment is the one
            yield
            return
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def close(self, *, truncate: bool) -> None:
        """Close; with `truncate` the WAL is first taken into the database file, as far as readers allow."""
        try:
            if truncate:
                self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._connection.close()

    @property
    def _columns(self) -> str:
        return _COLUMNS if self._version > 1 else _COLUMNS_OF_1

    @contextmanager
    def _write(self) -> Iterator[None]:
        """Commit what the block does, or nothing of it."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.rollback()
                raise

    def _rows(self, statement: str, *values: object) -> list[Any]:
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Map what SQLite raises; its own words may quote a column and stay out of the message."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise  # a mistake in this program, not in the data
        except sqlite3.DatabaseError as exc:
            raise _mapped(exc, self._folder) from exc


def _content_digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


_RESTORE = "restore the index from a backup, or embed into a new folder"


def _mapped(exc: sqlite3.DatabaseError, folder: Path) -> EmbeddingIndexError:
    name = getattr(exc, "sqlite_errorname", "SQLITE_CORRUPT")
    code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return EmbeddingIndexError(f"index {folder}: {DISK_FULL}")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return EmbeddingIndexError(f"index {folder}: {NOT_WRITABLE} ({name})")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexLockedError(
            f"index {folder}: another program has held store.sqlite for {_BUSY_SECONDS:.0f} s; close it and run again"
        )
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return EmbeddingIndexError(
            f"index {folder}: reading or writing store.sqlite failed ({name}); check the disk, its free space and the "
            "system log. What was acknowledged before is safe as long as the disk is"
        )
    return IndexCorruptError(f"{folder / FILE_NAME} is damaged or is no index ({name}); {_RESTORE}")


def _is_frozen(folder: Path) -> bool:
    """True where nobody can be writing: the folder is read-only for this process and no WAL waits in it.

    SQLite cannot make its shared memory there, and needs to be told that the file does not change.
    """
    wal = folder / f"{FILE_NAME}-wal"
    return not os.access(folder, os.W_OK) and not (wal.exists() and wal.stat().st_size)
