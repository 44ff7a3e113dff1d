"""index.json: the identity of an index and its snapshots, so that files that do not belong together are detected.

The store is authoritative and always at least as new as the manifest: a store with a lower generation lost something.

The identity also binds writers: to one site secret from the first row on, and in a pseudonymous index to keys alone. Rows
with and without keys side by side would tell which key is which, and a patient of whom only some rows have the key would be
deleted in part.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, IndexMismatchError
from mcr_infer.files import FileStamp, atomic_write
from mcr_infer.index.rows import KINDS, Row
from mcr_infer.index.storage import storage_errors

FORMAT_VERSION = 3
"""1: the first. 2: patient keys, locals, facts beside the store, pseudonyms. 3: ctimes of files, strategies of long texts,
positions of the patches in locals, the root of relative paths."""

NO_BUNDLE = "none"
"""Stands for the place of the bundle where the vectors are of a model that is none."""

_READ = (1, 2, 3)
FILE_NAME = "index.json"
_MAX_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which index this is and which bundle made it; the same in the store and in the manifest."""

    index_id: str
    """Random, drawn at creation."""

    fingerprint: str
    """Of the embedding space: weights, preprocessing and tokenizer of the bundle, hex SHA-256."""

    embedding_dim: int
    bundle: str
    """Name of the bundle."""

    bundle_path: str
    """Where the bundle was, or a word by which its owner finds it again; the index does not open it."""

    pseudonymous: bool = False
    """True where UIDs are kept as keyed hashes only, and no path."""

    secret_check: str = ""
    """By which the site secret of its keys is known again, see `mcr_infer.pseudonyms`; empty where there is none."""

    root: str = ""
    """Absolute path of the folder to which relative paths of rows and files refer; empty where it is unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A graph file that is complete on disk."""

    sha256: str
    bytes: int
    elements: int
    m: int
    ef_construction: int
    generation: int = -1
    """Of the store, when the graph was like it; -1 where that was not recorded."""

    def file_name(self, kind: str) -> str:
        """Return the name of the file: it follows from the content, so a name never stands for two graphs."""
        return f"graph-{kind}-{self.sha256[:16]}.hnsw"


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFile:
    """A file of vectors or of facts that is complete on disk, see `mcr_infer.index.columns`."""

    sha256: str
    rows: int
    generation: int
    """Of the store, when they were read from it."""

    def file_name(self, what: str, kind: str) -> str:
        """Return the name of the file, which follows from the content as that of a graph does; `what` is in it."""
        return f"{what}-{kind}-{self.sha256[:16]}.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The breadth of search that was measured to reach a recall in the graph of one kind."""

    ef_search: int
    target_recall: float
    recall: float
    """What it reached: the mean share of the ten nearest that were found."""

    queries: int
    """How many were asked."""

    rows: int
    """How many the graph held then: a graph that has grown much since needs more breadth for the same recall."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindState:
    """How far one kind had come when the manifest was written, and the snapshots of it that lie beside the store."""

    generation: int
    rows: int
    graph: Snapshot | None = None
    vectors: ColumnFile | None = None
    facts: ColumnFile | None = None
    tuning: Tuning | None = None

    def file_names(self, kind: str) -> set[str]:
        """Return the names of the snapshots."""
        names = set() if self.graph is None else {self.graph.file_name(kind)}
        columns = {"vectors": self.vectors, "facts": self.facts}
        return names | {one.file_name(what, kind) for what, one in columns.items() if one is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of index.json."""

    identity: Identity
    kinds: Mapping[str, KindState]
    format_version: int = FORMAT_VERSION
    """Of the file that was read; what is written is of this one."""

    def write(self, folder: Path) -> None:
        """Replace index.json, at once and durably. Raises `EmbeddingIndexError`."""
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            **asdict(self.identity),
            "kinds": {kind: asdict(state) for kind, state in self.kinds.items()},
        }
        values["digest"] = _digest(values)
        with storage_errors(folder):
            atomic_write(folder / FILE_NAME, (json.dumps(values, indent=1) + "\n").encode(), private=True)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read index.json; None where there is none.

        Raises `IndexCorruptError` for anything that `write` did not write, `EmbeddingIndexError` for a newer format.
        """
        path = folder / FILE_NAME
        with storage_errors(folder):
            try:
                with path.open("rb") as file:
                    content = file.read(_MAX_BYTES + 1)
            except FileNotFoundError:
                return None
        try:
            values = json.loads(content) if len(content) <= _MAX_BYTES else None
        except (ValueError, RecursionError) as exc:
            raise _corrupt(folder, "is not JSON") from exc
        if not isinstance(values, dict):
            raise _corrupt(folder, "is not a JSON object of reasonable size")
        version = values.get("format_version")
        if type(version) is int and version > FORMAT_VERSION:
            raise newer_format(folder, version)
        if version not in _READ or values.pop("digest", None) != _digest(values):
            raise _corrupt(folder, "does not match its own digest")
        try:
            return cls(
                identity=identity_of(values),
                kinds={kind: _kind_state(values["kinds"][kind]) for kind in KINDS},
                format_version=int(version),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise _corrupt(folder, "lacks entries or has wrong ones") from exc


def newer_format(folder: Path, version: int) -> EmbeddingIndexError:
    """Return the error for an index that a later release wrote."""
    return EmbeddingIndexError(
        f"index {folder} has format_version {version}, this mcr-infer reads up to {FORMAT_VERSION}: "
        "install the release that wrote it, or a later one"
    )


def _corrupt(folder: Path, what: str) -> IndexCorruptError:
    return IndexCorruptError(
        f"{folder / FILE_NAME} {what}. Restore it from a backup, or delete this one file: it is then written again from "
        "store.sqlite by the next embed"
    )


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def identity_of(values: Mapping[str, Any]) -> Identity:
    """Read an identity; what came after format version 1 may be missing. Raises `KeyError`."""
    names = ("index_id", "fingerprint", "embedding_dim", "bundle", "bundle_path")
    return Identity(
        **{name: values[name] for name in names},
        pseudonymous=bool(values.get("pseudonymous", False)),
        secret_check=str(values.get("secret_check", "")),
        root=str(values.get("root", "")),
    )


def _kind_state(values: Mapping[str, Any]) -> KindState:
    graph, tuning = values["graph"], values.get("tuning")
    return KindState(
        generation=_count(values["generation"]),
        rows=_count(values["rows"]),
        graph=None if graph is None else _snapshot(graph),
        vectors=_column_file(values.get("vectors")),
        facts=_column_file(values.get("facts")),
        tuning=None if tuning is None else _tuning(tuning),
    )


def _snapshot(values: Mapping[str, Any]) -> Snapshot:
    return Snapshot(
        sha256=_sha256(values),
        generation=_count(values["generation"] + 1) - 1 if "generation" in values else -1,
        **{name: _count(values[name]) for name in ("bytes", "elements", "m", "ef_construction")},
    )


def _column_file(values: Mapping[str, Any] | None) -> ColumnFile | None:
    if values is None:
        return None
    return ColumnFile(sha256=_sha256(values), **{name: _count(values[name]) for name in ("rows", "generation")})


def _tuning(values: Mapping[str, Any]) -> Tuning:
    return Tuning(
        ef_search=_count(values["ef_search"]),
        queries=_count(values["queries"]),
        rows=_count(values["rows"]),
        target_recall=float(values["target_recall"]),
        recall=float(values["recall"]),
    )


def _sha256(values: Mapping[str, Any]) -> str:
    sha256 = values["sha256"]
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError("sha256")
    return sha256


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("count")
    return value


_ELSEWHERE = "or embed into a new folder with --index"


def check_secret(folder: Path, identity: Identity, secret_check: str, *, pseudonymous: bool) -> None:
    """Raise `IndexMismatchError` unless a writer names rows as an index does; `secret_check` is empty for no secret."""
    if identity.secret_check != secret_check:
        if not secret_check:
            raise IndexMismatchError(
                f"index {folder} was made with a site secret, and none was given: name its file with --site-secret, "
                f"{_ELSEWHERE}"
            )
        if not identity.secret_check:
            raise IndexMismatchError(
                f"index {folder} was made without a site secret: its rows have no keys, so that a patient could be found "
                f"among the new ones only. Leave --site-secret out, {_ELSEWHERE}"
            )
        raise IndexMismatchError(
            f"index {folder} was made with another site secret than the one given: their keys have nothing in common. Name "
            f"the file of that secret with --site-secret, {_ELSEWHERE}"
        )
    if identity.pseudonymous and not pseudonymous:
        raise IndexMismatchError(
            f"index {folder} is pseudonymous: it keeps no paths and no UIDs. Give --pseudonymise, {_ELSEWHERE}"
        )
    if pseudonymous and not identity.pseudonymous:
        raise IndexMismatchError(
            f"index {folder} keeps paths and UIDs, and would keep those that it has: an index is pseudonymous from its "
            f"first row or never. Leave --pseudonymise out, {_ELSEWHERE}"
        )


def check_keyed(folder: Path, rows: Iterable[Row], files: Iterable[tuple[FileStamp, str]]) -> None:
    """Raise `IndexMismatchError`, which quotes nothing, where a row or a file is named otherwise than by keys."""
    from mcr_infer.pseudonyms import is_key  # which a query does without

    for row in rows:
        named = (row.study_uid, row.series_uid, row.patient_key, row.content_digest)
        if row.path is not None or row.text is not None:
            raise _refused(folder, f"a {row.kind} comes with a path or its words")
        if not all(is_key(text) for text in (row.id, *named) if text is not None):
            raise _refused(folder, f"a {row.kind} is named by something else")
    for stamp, id in files:
        if not (is_key(stamp.path) and is_key(id)):
            raise _refused(folder, "a file is named by something else")


def _refused(folder: Path, what: str) -> IndexMismatchError:
    return IndexMismatchError(
        f"index {folder} is pseudonymous and takes rows that are named by keys only: {what}; nothing of this batch was added"
    )
