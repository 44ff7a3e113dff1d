"""A connection to store.sqlite: durable commits, migration of earlier formats, and SQLite's errors in our words.

    BEGIN IMMEDIATE -> statements -> COMMIT    a writer's transaction: all of it or nothing
    BEGIN -> SELECTs -> ROLLBACK               a reader's snapshot: everything from one moment

A writer migrates a store when it opens it, one step a version, all of them in one transaction, so that a crash leaves the
store as it was or as it is now. A reader migrates nothing: what a version lacks reads as absent.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, IndexLockedError, UsageError
from mcr_infer.index.manifest import FORMAT_VERSION, newer_format
from mcr_infer.index.storage import DISK_FULL, NOT_WRITABLE
from mcr_infer.index.wal import refuse_damaged_log

FILE_NAME = "store.sqlite"
RESTORE = "restore the index from a backup, or embed into a new folder"

_BUSY_SECONDS = 30.0
_PAGE_BYTES = 8192
_SHOWN = 5
_VACUUM_COPIES = 2
"""VACUUM writes the rows into a temporary file, and from there into the WAL."""


class Connection:
    """A connection to the store of one index folder, for one thread."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        """Open the store; a writable one of an earlier format is brought to this one. Raises `EmbeddingIndexError`."""
        self._folder = folder
        self._thread = threading.get_ident()
        self._version = FORMAT_VERSION
        path = folder / FILE_NAME
        refuse_damaged_log(path)
        if writable:
            mode = "mode=rw"
        elif _is_frozen(folder):
            mode = "mode=ro&immutable=1"
        else:
            mode = "mode=ro"
        with self._errors():
            self._connection = sqlite3.connect(
                f"file:{quote(os.fsencode(path.absolute()))}?{mode}",
                uri=True,
                isolation_level=None,
                timeout=_BUSY_SECONDS,
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

    @property
    def version(self) -> int:
        """The format version of the store; a writer in another process may have migrated it since it was opened."""
        if 0 < self._version < FORMAT_VERSION:
            self._version = int(self._rows("PRAGMA user_version")[0][0])
        return self._version

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let everything that is read inside come from one moment, whatever a writer commits meanwhile."""
        with self._errors():
            nested = self._connection.in_transaction
        if nested:  # inside another block: its moment is the one
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
                self.truncate()
        finally:
            self._connection.close()

    def truncate(self) -> bool:
        """Take the WAL into the database file and empty it; False where a reader still needs what is in it."""
        busy, _, _ = self._rows("PRAGMA wal_checkpoint(TRUNCATE)")[0]
        return not busy

    def vacuum(self) -> None:
        """Write the database anew without its free pages. Raises `EmbeddingIndexError` where the disk has no room for it.

        Either way it stays whole: the new pages reach the file through the WAL.
        """
        pages, free, size = (
            self._rows(f"PRAGMA {name}")[0][0] for name in ("page_count", "freelist_count", "page_size")
        )
        needed = _VACUUM_COPIES * (pages - free) * size
        there = os.statvfs(self._folder)
        if there.f_bavail * there.f_frsize < needed:
            raise EmbeddingIndexError(
                f"index {self._folder}: compacting {FILE_NAME} needs {needed >> 20} MiB for as long as it takes, "
                f"{(there.f_bavail * there.f_frsize) >> 20} MiB are free: free some space and run `mcr-infer compact`"
            )
        # Otherwise a copy of all vectors would pass through /var/tmp, which may be another disk and another owner's.
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # By its number, since a statement of SQLite cannot name a folder that is not UTF-8.
            self._rows(f"PRAGMA temp_store_directory = '/proc/self/fd/{folder}'")
            self._rows("VACUUM")
        finally:
            self._rows("PRAGMA temp_store_directory = ''")
            os.close(folder)

    def faults(self) -> list[str]:
        """Return what SQLite's own check of the file finds wrong, the first few, in its words; they quote no value."""
        found = self._rows(f"PRAGMA integrity_check({_SHOWN})")
        return [str(line) for (line,) in found if line != "ok"]

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

    def _require_own_thread(self) -> None:
        """Raise `UsageError` in another thread than that which opened the store: SQLite has one connection a thread."""
        if threading.get_ident() != self._thread:
            raise UsageError(
                f"index {self._folder} was opened by another thread: open it in each thread with Index.open"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Map what SQLite raises; its own words may quote a column and stay out of the message."""
        self._require_own_thread()
        try:
            yield
        except sqlite3.ProgrammingError as exc:
            if "closed" in str(exc):
                raise UsageError(f"index {self._folder} is closed: open it again with Index.open") from exc
            raise  # a mistake in this program, not in the data
        except sqlite3.DatabaseError as exc:
            raise _mapped(exc, self._folder) from exc


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
    return IndexCorruptError(f"{folder / FILE_NAME} is damaged or is no index ({name}); {RESTORE}")


def _is_frozen(folder: Path) -> bool:
    """True where nobody can be writing: the folder is read-only for this process and no WAL waits in it.

    SQLite cannot make its shared memory there, and needs to be told that the file does not change.
    """
    wal = folder / f"{FILE_NAME}-wal"
    return not os.access(folder, os.W_OK) and not (wal.exists() and wal.stat().st_size)


LOCALS = """CREATE TABLE locals(
    label INTEGER PRIMARY KEY REFERENCES rows(label) ON DELETE CASCADE, content BLOB NOT NULL, digest BLOB NOT NULL)"""
"""The mapped patches or words of a row, for re-ranking; they go when their row goes."""

STEPS: Mapping[int, Sequence[str]] = {
    # What rows came from is asked of the facts, which have a digest.
    1: ("ALTER TABLE rows ADD COLUMN patient_key TEXT", LOCALS, "DROP INDEX rows_provenance"),
    2: ("ALTER TABLE files ADD COLUMN ctime_ns INTEGER", "ALTER TABLE rows ADD COLUMN text_strategy TEXT"),
}
"""The statements that lead from a version to the next."""


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a store of a version to `FORMAT_VERSION`, inside the transaction of the caller."""
    for step in range(version, FORMAT_VERSION):
        for statement in STEPS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
