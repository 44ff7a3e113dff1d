"""index.json: what the folder says about itself, so that a store, a graph and a bundle that do not belong together show.

The store is the truth and is always at least as new as the manifest: a store with a lower generation lost something.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcr_infer.durable import replace_file
from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.index.rows import KINDS
from mcr_infer.index.storage import storage_errors

FORMAT_VERSION = 1
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A graph file that is complete on disk."""

    sha256: str
    bytes: int
    elements: int
    m: int
    ef_construction: int

    def file_name(self, kind: str) -> str:
        """Return the name of the file: it follows from the content, so a name never stands for two graphs."""
        return f"graph-{kind}-{self.sha256[:16]}.hnsw"


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """A file of vectors that is complete on disk, see `mcr_infer.index.vectors`."""

    sha256: str
    rows: int
    generation: int
    """Of the store, when the vectors were read from it."""

    def file_name(self, kind: str) -> str:
        """Return the name of the file, which follows from the content as that of a graph does."""
        return f"vectors-{kind}-{self.sha256[:16]}.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class KindState:
    """How far one kind had come when the manifest was written, and the snapshots of it that lie beside the store."""

    generation: int
    rows: int
    graph: Snapshot | None = None
    vectors: VectorFile | None = None

    def file_names(self, kind: str) -> set[str]:
        """Return the names of the snapshots."""
        return {one.file_name(kind) for one in (self.graph, self.vectors) if one is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of index.json."""

    identity: Identity
    kinds: Mapping[str, KindState]

    def write(self, folder: Path) -> None:
        """Replace index.json, at once and durably. Raises `EmbeddingIndexError`."""
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            **asdict(self.identity),
            "kinds": {kind: asdict(state) for kind, state in self.kinds.items()},
        }
        values["digest"] = _digest(values)
        with storage_errors(folder):
            replace_file(folder / FILE_NAME, (json.dumps(values, indent=1) + "\n").encode(), private=True)

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
        if version != FORMAT_VERSION or values.pop("digest", None) != _digest(values):
            raise _corrupt(folder, "does not match its own digest")
        try:
            return cls(
                identity=Identity(**{name: values[name] for name in Identity.__dataclass_fields__}),
                kinds={kind: _kind_state(values["kinds"][kind]) for kind in KINDS},
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


def _kind_state(values: Mapping[str, Any]) -> KindState:
    # Indexes from before there were files of vectors do not name any.
    graph, vectors = values["graph"], values.get("vectors")
    return KindState(
        generation=_count(values["generation"]),
        rows=_count(values["rows"]),
        graph=None
        if graph is None
        else Snapshot(
            sha256=_sha256(graph),
            **{name: _count(graph[name]) for name in ("bytes", "elements", "m", "ef_construction")},
        ),
        vectors=None
        if vectors is None
        else VectorFile(sha256=_sha256(vectors), **{name: _count(vectors[name]) for name in ("rows", "generation")}),
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
