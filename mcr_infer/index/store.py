"""store.sqlite: the rows with their vectors. It is the truth; everything else in the folder can be made from it.

A commit is on the disk when it returns (WAL, synchronous=FULL). Every row has a `label`, a number that only grows and is
never given twice: a replaced row gets a new one, so whoever knows a set of labels knows what it lacks and what is gone.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError
from mcr_infer.files import FileStamp, create_private
from mcr_infer.index.connection import FILE_NAME, LOCALS, RESTORE, Connection
from mcr_infer.index.manifest import FORMAT_VERSION, Identity, identity_of
from mcr_infer.index.root import Root
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
from mcr_infer.index.storage import storage_errors

_FETCH = 1000

_SCHEMA = (
    "CREATE TABLE identity(name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "CREATE TABLE kinds(kind TEXT PRIMARY KEY, generation INTEGER NOT NULL, row_count INTEGER NOT NULL) WITHOUT ROWID",
    # `path` has no type: names that are not UTF-8 are kept as bytes.
    """CREATE TABLE rows(
        label INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, path, study_uid TEXT, series_uid TEXT,
        metadata TEXT NOT NULL, precision TEXT NOT NULL, patch_budget REAL NOT NULL, content_digest TEXT, text TEXT,
        vector BLOB NOT NULL, digest BLOB NOT NULL, patient_key TEXT, text_strategy TEXT, UNIQUE(kind, id))""",
    """CREATE TABLE files(
        kind TEXT NOT NULL, path NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, id TEXT NOT NULL,
        ctime_ns INTEGER, PRIMARY KEY(kind, path)) WITHOUT ROWID""",
    "CREATE INDEX files_id ON files(kind, id)",
    LOCALS,
)
_COLUMNS = ", ".join(COLUMNS)
_COLUMNS_OF_2 = _COLUMNS.replace("text_strategy", "NULL")
_COLUMNS_OF_1 = _COLUMNS_OF_2.replace("patient_key", "NULL")


class Store(Connection):
    """The rows of one index folder, over a connection for one thread."""

    root = Root("")
    """By which paths are stored; to be set once the identity is known."""

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
        if self.version < 1:  # a store without a version has no tables either
            raise IndexCorruptError(f"{self._folder / FILE_NAME} has format_version {self.version}; {RESTORE}")
        try:
            found = self._rows("SELECT name, value FROM identity")
            return identity_of({name: loaded_path(one) if isinstance(one, bytes) else one for name, one in found})
        except KeyError as exc:
            raise IndexCorruptError(f"{self._folder / FILE_NAME} lacks entries of its identity; {RESTORE}") from exc

    def set_identity(self, identity: Identity) -> None:
        """Remember another name or place of the same bundle, or another root."""
        with self._write():
            self._set_identity(identity)

    def row(self, columns: Sequence[Any]) -> Row:
        """Return the row of the values of `COLUMNS`. Raises `IndexCorruptError` where they do not match their digest."""
        return from_columns(columns, self.root.opened)

    def _to_columns(self, row: Row) -> tuple[Any, ...]:
        return to_columns(row, self.root.stored)

    def _set_identity(self, identity: Identity) -> None:
        # The folder of the bundle may have a name that is not UTF-8.
        values = [
            (name, stored_path(value) if isinstance(value, str) else value) for name, value in asdict(identity).items()
        ]
        self._connection.executemany("INSERT OR REPLACE INTO identity VALUES(?, ?)", values)

    def state(self, kind: str) -> tuple[int, int]:
        """Return how often rows of a kind have changed, and how many there are."""
        found = self._rows("SELECT generation, row_count FROM kinds WHERE kind = ?", kind)
        if not found:
            raise IndexCorruptError(f"{self._folder / FILE_NAME} has lost its count of {kind} rows; {RESTORE}")
        return int(found[0][0]), int(found[0][1])

    def add(
        self,
        rows: Sequence[Row],
        files: Sequence[tuple[FileStamp, str]],
        file_kind: str,
        locals: Mapping[tuple[str, str], bytes],
        *,
        former_ids: Collection[str] = (),
        learned: Sequence[FileStamp] = (),
    ) -> None:
        """Commit rows, their files and their locals in one transaction; a row of a known id is replaced.

        Rows of `file_kind` with `former_ids` are removed in the same one, and their files forgotten. `learned` gives a ctime
        to files that are known without one.
        """
        last = {(row.kind, row.id): row for row in rows}
        stamps = [
            (file_kind, self.root.stored(stamp.path), stamp.size, stamp.mtime_ns, id, stamp.ctime_ns)
            for stamp, id in files
        ]
        with self._write():
            locals = self._kept_locals(last.values()) | dict(locals)
            # Whoever else was known to hold a replaced image held the former one: it must be looked at again.
            self._connection.executemany(
                "DELETE FROM files WHERE kind = ?1 AND id = ?2 AND EXISTS "
                "(SELECT 1 FROM rows WHERE kind = ?1 AND id = ?2 AND content_digest IS NOT ?3)",
                [(row.kind, row.id, row.content_digest) for row in last.values()],
            )
            if former_ids:
                self._remove(file_kind, former_ids)
            for kind in KINDS:
                chosen = [self._to_columns(row) for row in last.values() if row.kind == kind]
                self._change(kind, removed=[columns[1] for columns in chosen], added=chosen)
            displaced = [pair for stamp in stamps for pair in self._displaced(stamp)]
            self._connection.executemany(
                "INSERT OR REPLACE INTO files(kind, path, size, mtime_ns, id, ctime_ns) VALUES(?, ?, ?, ?, ?, ?)",
                stamps,
            )
            # Only now is it known which files hold what: two files may have changed places.
            for former, path in displaced:
                self._point_elsewhere(file_kind, former, path)
            self._connection.executemany(
                "UPDATE files SET ctime_ns = ? WHERE kind = ? AND path = ? AND ctime_ns IS NULL",
                [(stamp.ctime_ns, file_kind, self.root.stored(stamp.path)) for stamp in learned],
            )
            self._connection.executemany(
                "INSERT OR REPLACE INTO locals SELECT label, ?, ? FROM rows WHERE kind = ? AND id = ?",
                [(content, _digest_of(kind, id, content), kind, id) for (kind, id), content in locals.items()],
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
            return self._remove(kind, list(ids))

    def _remove(self, kind: str, ids: Collection[str]) -> int:
        self._connection.executemany("DELETE FROM files WHERE kind = ? AND id = ?", [(kind, id) for id in ids])
        return self._change(kind, removed=list(ids), added=[])

    def _change(self, kind: str, *, removed: Sequence[str], added: Sequence[tuple[Any, ...]]) -> int:
        """Remove and add rows of a kind and count them; return how many were removed."""
        statement = "DELETE FROM rows WHERE kind = ? AND id = ?"
        gone = self._connection.executemany(statement, [(kind, id) for id in removed]).rowcount if removed else 0
        marks = ", ".join("?" * len(COLUMNS))
        self._connection.executemany(f"INSERT INTO rows({_COLUMNS}) VALUES({marks})", added)
        self._count(kind, added=len(added), gone=gone)
        return gone

    def delete_labels(self, chosen: Mapping[str, Iterable[int]]) -> dict[str, int]:
        """Delete rows of several kinds, and what is known about their files, in one transaction; return how many by kind."""
        gone = {}
        with self._write():
            for kind, labels in chosen.items():
                pairs = [(int(label), kind) for label in labels]
                self._connection.executemany(
                    "DELETE FROM files WHERE (kind, id) IN (SELECT kind, id FROM rows WHERE label = ? AND kind = ?)",
                    pairs,
                )
                statement = "DELETE FROM rows WHERE label = ? AND kind = ?"
                gone[kind] = self._connection.executemany(statement, pairs).rowcount if pairs else 0
                self._count(kind, added=0, gone=gone[kind])
        return gone

    def _count(self, kind: str, *, added: int, gone: int) -> None:
        """Write down, in the transaction of the caller, that rows of a kind came and went."""
        if gone or added:
            self._connection.execute(
                "UPDATE kinds SET generation = generation + 1, row_count = row_count + ? WHERE kind = ?",
                (added - gone, kind),
            )

    def _displaced(self, stamp: tuple[Any, ...]) -> list[tuple[str, Any]]:
        """Return the ids that a file gave before it held the image that it holds now, each with the stored path."""
        kind, path, _, _, id, _ = stamp
        found = self._rows("SELECT id FROM files WHERE kind = ? AND path = ? AND id <> ?", kind, path, id)
        return [(str(former), path) for (former,) in found]

    def _point_elsewhere(self, kind: str, former: str, path: object) -> None:
        """Point the row of an image to another file that holds it, or to none, where its path leads to another image now."""
        for row in self._get(kind, former):
            if self.root.stored(row.path) == path and not self._rows(
                "SELECT 1 FROM files WHERE kind = ? AND id = ? AND path = ?", kind, former, path
            ):
                others = self._rows("SELECT path FROM files WHERE kind = ? AND id = ? ORDER BY path", kind, former)
                columns = self._to_columns(replace(row, path=self.root.opened(others[0][0]) if others else None))
                self._connection.execute(
                    "UPDATE rows SET path = ?, digest = ? WHERE kind = ? AND id = ?",
                    (columns[2], columns[-1], kind, former),
                )

    def seen_file(self, kind: str, path: str) -> tuple[FileStamp, str] | None:
        """Return how a file looked when it was last seen, and the id of the row that it then gave; None for others."""
        found = self._rows(
            f"SELECT size, mtime_ns, {self._ctime}, id FROM files JOIN rows USING (kind, id) "
            "WHERE kind = ? AND files.path = ?",
            kind, self.root.stored(path),
        )  # fmt: skip
        for size, mtime_ns, ctime_ns, id in found:
            return FileStamp(path=path, size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns), str(id)
        return None

    def files(self, kind: str, id: str) -> list[FileStamp]:
        """Return the files that gave a row, or hold the same, as they were seen."""
        return [
            FileStamp(path=str(self.root.opened(path)), size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
            for path, size, mtime_ns, ctime_ns in self._rows(
                f"SELECT path, size, mtime_ns, {self._ctime} FROM files WHERE kind = ? AND id = ? ORDER BY path",
                kind,
                id,
            )
        ]

    def without_locals(self, kind: str, ids: Iterable[str]) -> set[str]:
        """Return those of some ids whose rows are there and have no locals."""
        found = (
            self._rows(
                "SELECT id FROM rows WHERE kind = ? AND id = ? AND label NOT IN (SELECT label FROM locals)", kind, id
            )
            for id in ids
        )
        return {str(id) for one in found for (id,) in one}

    def dangling(self) -> dict[str, int]:
        """Count what refers to no row: files, and locals."""
        files = self._rows("SELECT COUNT(*) FROM files WHERE (kind, id) NOT IN (SELECT kind, id FROM rows)")
        locals = (
            []
            if self.version < 2
            else self._rows("SELECT COUNT(*) FROM locals WHERE label NOT IN (SELECT label FROM rows)")
        )
        return {"files": int(files[0][0]), "locals": int(locals[0][0]) if locals else 0}

    def get(self, kind: str, id: str) -> Row | None:
        """Return a row, or None where there is none."""
        return next(iter(self._get(kind, id)), None)

    def label(self, kind: str, id: str) -> int | None:
        """Return the label of a row, or None where there is none."""
        found = self._rows("SELECT label FROM rows WHERE kind = ? AND id = ?", kind, id)
        return int(found[0][0]) if found else None

    def _get(self, kind: str, id: str) -> list[Row]:
        found = self._rows(f"SELECT {self._columns} FROM rows WHERE kind = ? AND id = ?", kind, id)
        rows = [self.row(values) for values in found]
        if any((row.kind, row.id) != (kind, id) for row in rows):
            raise IndexCorruptError(f"{self._folder / FILE_NAME} gives another row for {kind} {id!r}; {RESTORE}")
        return rows

    def at(self, labels: Iterable[int]) -> Mapping[int, Row]:
        """Return rows by label. Raises `IndexCorruptError` where one is not there."""
        found: dict[int, Row] = {}
        for label in labels:
            for values in self._rows(f"SELECT {self._columns} FROM rows WHERE label = ?", label):
                found[label] = self.row(values)
            if label not in found:
                raise IndexCorruptError(f"{self._folder / FILE_NAME} cannot find row {label}; {RESTORE}")
        return found

    def ids(self, kind: str) -> list[str]:
        """Return all ids of a kind, sorted."""
        return [str(id) for (id,) in self._rows("SELECT id FROM rows WHERE kind = ? ORDER BY id", kind)]

    def check_count(self, kind: str) -> None:
        """Raise `IndexCorruptError` unless there are as many rows of a kind as were counted; inside `snapshot`."""
        ((found,),), (_, expected) = self._rows("SELECT COUNT(*) FROM rows WHERE kind = ?", kind), self.state(kind)
        if found != expected:
            raise self._miscounted(kind, found, expected)

    def labels(self, kind: str) -> NDArray[np.int64]:
        """Return the labels of a kind, ascending [N]; to be called inside `snapshot`.

        Raises `IndexCorruptError` where rows have gone missing.
        """
        found = self._rows("SELECT label FROM rows WHERE kind = ?", kind)
        # np.unique would import numpy.ma, which takes as long as all the rest of a small search.
        labels = np.sort(np.fromiter((label for (label,) in found), dtype=np.int64, count=len(found)))
        different, (_, expected) = int((labels[1:] != labels[:-1]).sum()) + bool(len(labels)), self.state(kind)
        if not len(labels) == different == expected:
            raise self._miscounted(kind, different, expected)
        return labels

    def _miscounted(self, kind: str, found: int, expected: int) -> IndexCorruptError:
        return IndexCorruptError(f"{self._folder / FILE_NAME} has {found} {kind} rows, expected {expected}; {RESTORE}")

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
            raise IndexCorruptError(f"{self._folder / FILE_NAME} misses {len(wanted)} {kind} rows; {RESTORE}")

    def walk(self, kind: str) -> Iterator[tuple[int, Sequence[Any]]]:
        """Read all rows of a kind in the order of the table, whatever the indexes and counts of the database say.

        Each one's label and columns, none of which is to be believed before its digest was compared.
        """
        with self._errors():
            cursor = self._connection.execute(f"SELECT label, {self._columns} FROM rows NOT INDEXED ORDER BY label")
            while part := cursor.fetchmany(_FETCH):
                for label, *columns in part:
                    if columns[0] == kind:
                        yield label, columns

    def walk_locals(self) -> Iterator[tuple[int, bool]]:
        """Read all locals: the label of each, and whether it matches its digest."""
        if self.version < 2:
            return
        with self._errors():
            cursor = self._connection.execute(
                "SELECT label, kind, id, content, locals.digest FROM locals JOIN rows USING (label) ORDER BY label"
            )
            while part := cursor.fetchmany(_FETCH // 10):
                for label, kind, id, content, digest in part:
                    yield label, _digest_of(kind, id, content) == digest

    def locals(self, kind: str, labels: Iterable[int]) -> Mapping[int, bytes]:
        """Return what is kept of the patches or words of rows, by label; rows of which nothing is kept are left out."""
        found: dict[int, bytes] = {}
        if self.version < 2:
            return found
        for label in labels:
            for id, content, digest in self._rows(
                "SELECT id, content, locals.digest FROM locals JOIN rows USING (label) WHERE label = ? AND kind = ?",
                label,
                kind,
            ):
                if _digest_of(kind, id, content) != digest:
                    raise IndexCorruptError(
                        f"{self._folder / FILE_NAME}: the locals of {kind} row {label} do not match their digest; {RESTORE}"
                    )
                found[label] = content
        return found

    @property
    def _columns(self) -> str:
        version = self.version
        return _COLUMNS if version > 2 else _COLUMNS_OF_2 if version == 2 else _COLUMNS_OF_1

    @property
    def _ctime(self) -> str:
        return "ctime_ns" if self.version > 2 else "NULL"


def _digest_of(kind: object, id: object, content: object) -> bytes | None:
    """Return the BLAKE2b-128 of locals and of the row that they belong to; None for what are no locals."""
    if not isinstance(content, bytes):
        return None
    return hashlib.blake2b(json.dumps([kind, id]).encode("ascii") + content, digest_size=16).digest()
