"""What the formats of exported vectors have in common: their description, the fields of a row, sinks and sources.

    rows -> fields -> Sink                    a file or folder that is complete or absent, readable by its owner alone
    VectorSource -> Candidate -> checks -> rows     read block by block, from our own exports or files of others

The description in each file says whose vectors it holds, so that they return into the right index or into none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import Row
from mcr_infer.index.manifest import Identity, identity_of
from mcr_infer.index.root import shown
from mcr_infer.index.rows import KINDS

FORMAT = "mcr-infer vectors"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Whose vectors these are, and how many."""

    identity: Identity
    """Of the index that they come from."""

    rows: Mapping[str, int]
    """By kind."""

    with_text: bool
    """True where the text of reports, as far as the index keeps it, came along."""

    digests: Mapping[str, str]
    """Hex SHA-256 of files beside the description, by name; empty where it stands in the file itself."""

    def to_json(self) -> str:
        """Return it in ASCII."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self.identity)}
        values |= {"rows": dict(self.rows), "with_text": self.with_text, "digests": dict(self.digests)}
        return json.dumps(values, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "Description":
        """Read what `to_json` wrote; `where` names the file. Raises `EmbeddingIndexError`."""
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError("format")
            version = values["version"]
            if type(version) is int and version > VERSION:
                raise EmbeddingIndexError(
                    f"{where} has version {version} of its format, this mcr-infer reads up to {VERSION}: install the "
                    "release that wrote it, or a later one"
                )
            return cls(
                identity=identity_of(values),
                rows={kind: int(values["rows"][kind]) for kind in KINDS if kind in values["rows"]},
                with_text=bool(values["with_text"]),
                digests={str(name): str(digest) for name, digest in values["digests"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
            raise EmbeddingIndexError(
                f"{where} is damaged: it begins as an export of mcr-infer and does not go on as one; export again"
            ) from exc


def check_same_space(one: Identity, other: Identity, *, place: str, other_place: str) -> None:
    """Raise `EmbeddingIndexError` unless rows of one index may stand in another: one space, one kind of keys."""
    if one.fingerprint != other.fingerprint or one.embedding_dim != other.embedding_dim:
        raise EmbeddingIndexError(
            f"{place} holds vectors of {one.bundle!r} (fingerprint {one.fingerprint[:12]}, {one.embedding_dim} dimensions), "
            f"{other_place} of {other.bundle!r} (fingerprint {other.fingerprint[:12]}, {other.embedding_dim} dimensions): "
            "they cannot be compared. Keep them in indexes of their own"
        )
    if one.pseudonymous != other.pseudonymous:
        plain, keyed = (place, other_place) if other.pseudonymous else (other_place, place)
        raise EmbeddingIndexError(
            f"{keyed} is pseudonymous and {plain} keeps UIDs and paths: together they would tell which is which. Embed what "
            f"{plain} holds into a pseudonymous index, too"
        )
    if bool(one.secret_check) != bool(other.secret_check):
        keyless, keyed = (place, other_place) if other.secret_check else (other_place, place)
        raise EmbeddingIndexError(
            f"rows of {keyed} have keys of their patients and rows of {keyless} have none: a deletion by patient would miss "
            f"these. Embed what {keyless} holds with the site secret, too"
        )
    if one.secret_check != other.secret_check:
        raise EmbeddingIndexError(
            f"the keys in {place} and {other_place} were made with two site secrets: one patient would have two keys. "
            "Embed again with one of the secrets"
        )


FIELDS = (
    "kind", "id", "path", "study_uid", "series_uid", "patient_key", "precision", "patch_budget", "content_digest",
    "text_strategy", "text",
)  # fmt: skip
"""All but metadata and vector, in the order of the columns."""


def fields_of(row: Row, *, with_text: bool) -> dict[str, Any]:
    """Return the plain fields of a row; without its text unless that is asked for."""
    values = {name: getattr(row, name) for name in FIELDS} | {"path": shown(row.path)}
    if not with_text:
        values["text"] = None
    return values


def row_of(fields: Mapping[str, Any], metadata: Mapping[str, Any], vector: NDArray[np.float32]) -> Row:
    """Make the row again. Raises `EmbeddingIndexError` where the fields are not those of a row."""
    return Row(**fields, metadata=metadata, vector=vector)


class Sink(Protocol):
    """Takes rows, block by block."""

    def add(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        ...


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Put what the system says about a target into our words. Raises `EmbeddingIndexError`."""
    try:
        yield
    except OSError as exc:
        raise EmbeddingIndexError(
            f"{out} cannot be written ({exc.strerror or type(exc).__name__}); nothing of it is left there. Free some space, "
            "or name another place with --out"
        ) from exc


def refuse_what_is_there(out: Path) -> None:
    """Raise `EmbeddingIndexError` where something lies at the target: an export never takes its place."""
    if out.exists() or out.is_symlink():
        raise EmbeddingIndexError(f"{out} is there already: remove it, or name another place with --out")
    if not out.parent.is_dir():
        raise EmbeddingIndexError(f"the folder {out.parent} of --out is not there: make it first")


FOREIGN_FIELDS = ("path", "study_uid", "series_uid")
"""Columns that are taken from files of others where they are there; nothing else, since it may name a patient."""

BLOCK = 1_000
"""Candidates that are read together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where in a file of others what is."""

    id: str = "id"
    vector: str = "vector"
    metadata: tuple[str, ...] = ()
    """Columns that become facts of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One vector of a file, as it stands there."""

    name: str
    """Its place in the file, counted from 1."""

    id: str | None
    vector: NDArray[np.floating[Any]] | None
    """Of any length [L]; None where there is none."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Other plain fields of the row, see `mcr_infer.pipeline.transfer.formats`."""

    metadata: Mapping[str, Any] = field(default_factory=dict)


class VectorSource(Protocol):
    """A file or folder of vectors."""

    description: Description | None
    """What an export of ours says of itself; None of others."""

    dim: int | None
    """Dimensions of its vectors, where all have the same."""

    count: int

    def candidates(self) -> Iterator[Candidate]:
        """Read them in their order. Raises `EmbeddingIndexError` where the file cannot be read on."""
        ...
