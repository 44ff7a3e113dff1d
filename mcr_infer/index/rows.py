"""One row of the index: what is kept of an image or a report, its columns in SQLite, and the digest over them.

SQLite pages carry no checksum, so a flipped bit on the disk would change a row silently. Every row therefore carries a
BLAKE2b digest of all its other columns, and no column is believed before the digest was compared.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError

KINDS = ("image", "report")

Scalar = str | int | float | bool | None

COLUMNS = (
    "kind", "id", "path", "study_uid", "series_uid", "metadata", "precision", "patch_budget", "content_digest", "text",
    "vector", "patient_key", "text_strategy", "digest",
)  # fmt: skip
"""The order in which rows travel to and from SQLite; `digest` is the last and covers the others."""

_VECTOR = COLUMNS.index("vector")

UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One embedded image or report, without anything that names a person."""

    id: str
    """SOP Instance UID of a DICOM image; otherwise derived from the content. Unique within its kind."""

    kind: str
    """`image` or `report`."""

    path: str | None
    """Where it was read, as given; None where paths are not kept or where another file has taken the place.

    From an index, it can be opened here: a relative path is `ROOT/./PATH` unless the root is the working folder.
    """

    study_uid: str | None = None
    series_uid: str | None = None

    patient_key: str | None = None
    """A keyed hash of the patient's id, where a site secret was given; never the id itself."""

    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    """Facts to show and to filter by: view, modality, study_year, body_part."""

    vector: NDArray[np.float32] = field(repr=False)
    """The embedding [D], of length 1."""

    precision: str = "fp32"
    """The arithmetic of the tower that made the vector."""

    patch_budget: float = 1.0
    """The share of patches that the tower saw, in (0, 1]."""

    content_digest: str | None = None
    """Hex SHA-256 of what was embedded: pixels or text. Tells a twin from another image under the same id."""

    text_strategy: str | None = None
    """How a text beyond the limit of the tower was embedded; None for an image, and for a text that fitted."""

    text: str | None = field(default=None, repr=False)
    """The report, only where its owner asked to keep it."""

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if not self.id:
            raise EmbeddingIndexError(
                f"{self.kind} row has an empty id; every row needs one that is unique in its kind"
            )
        if not 0.0 < self.patch_budget <= 1.0:
            raise EmbeddingIndexError(f"{self._name}: patch_budget must lie in (0, 1], got {self.patch_budget}")
        for name, value in self.metadata.items():
            if not isinstance(name, str) or not _is_scalar(value):
                raise EmbeddingIndexError(
                    f"{self._name}: metadata {name!r} must be a string, a finite number, a truth value or None, "
                    f"got {type(value).__name__}"
                )
        self._check_encodable()
        self._check_vector()

    @property
    def _name(self) -> str:
        return f"{self.kind} {self.id!r}"

    def _check_encodable(self) -> None:
        texts = (
            self.id, self.study_uid, self.series_uid, self.patient_key, self.precision, self.content_digest, self.text,
            self.text_strategy,
        )  # fmt: skip
        try:
            stored_path(self.path)
            "".join(text for text in texts if text is not None).encode()
        except UnicodeEncodeError as exc:
            raise EmbeddingIndexError(f"{self._name}: its id, path or text is not valid Unicode") from exc

    def _check_vector(self) -> None:
        vector = self.vector
        if vector.ndim != 1 or vector.dtype != np.float32:
            raise EmbeddingIndexError(
                f"{self._name}: the embedding must be float32 [D], got {vector.dtype} {list(vector.shape)}"
            )
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if not math.isfinite(length):
            bad = int((~np.isfinite(vector)).sum())
            raise EmbeddingIndexError(
                f"{self._name}: {bad} of {vector.size} values of the embedding are not finite: the tower does not work on "
                "this device; try --device cpu, or another bundle"
            )
        if abs(length - 1.0) > UNIT_TOLERANCE:
            raise EmbeddingIndexError(
                f"{self._name}: the embedding has length {length:.6g}, expected 1 within {UNIT_TOLERANCE}"
            )


def _is_scalar(value: object) -> bool:
    """True for what metadata may hold. A whole number that no float comes near could not be compared with any."""
    try:
        return isinstance(value, str | None) or (isinstance(value, int | float) and math.isfinite(value))
    except OverflowError:
        return False


def check_kind(kind: str) -> None:
    """Raise `EmbeddingIndexError` unless the kind is one of `KINDS`."""
    if kind not in KINDS:
        raise EmbeddingIndexError(f"a row is of kind {' or '.join(KINDS)}, got {kind!r}")


def to_columns(row: Row, stored: "Callable[[str | None], str | bytes | None] | None" = None) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for a row; `stored` says what is kept of its path, by default `stored_path`."""
    values = (
        row.kind,
        row.id,
        (stored or stored_path)(row.path),
        row.study_uid,
        row.series_uid,
        json.dumps(dict(row.metadata), sort_keys=True),
        row.precision,
        float(row.patch_budget),
        row.content_digest,
        row.text,
        np.asarray(row.vector, dtype="<f4").tobytes(),
        row.patient_key,
        row.text_strategy,
    )
    return (*values, _digest(values))


def from_columns(values: Sequence[Any], opened: "Callable[[str | bytes | None], str | None] | None" = None) -> Row:
    """Return the row of the values of `COLUMNS`; `opened` is the way back of `stored`, by default `loaded_path`.

    Raises `IndexCorruptError` naming the row if the digest differs.
    """
    vector = np.frombuffer(checked_vector(values), dtype="<f4").astype(np.float32, copy=False)
    return Row(
        kind=values[0],
        id=values[1],
        path=(opened or loaded_path)(values[2]),
        study_uid=values[3],
        series_uid=values[4],
        metadata=json.loads(values[5]),
        precision=values[6],
        patch_budget=values[7],
        content_digest=values[8],
        text=values[9],
        vector=vector,
        patient_key=values[11],
        text_strategy=values[12],
    )


def checked_vector(values: Sequence[Any]) -> bytes:
    """Return the bytes of the vector once the digest over all columns was compared; raises `IndexCorruptError`."""
    *columns, digest = values
    try:
        intact = _digest(columns) == digest
    except (TypeError, ValueError):  # a column that changed its type
        intact = False
    if not intact:
        raise IndexCorruptError(
            f"{values[0]} {values[1]!r} does not match its digest: the disk or another program changed store.sqlite. "
            "Restore the index from a backup, or embed into a new folder"
        )
    vector: bytes = columns[_VECTOR]
    return vector


def _digest(values: Sequence[Any]) -> bytes:
    """Return the BLAKE2b-128 of all columns but the digest; JSON in ASCII keeps every value apart from its neighbours.

    A column that came after format version 1 is covered where it holds something, so that rows of that version still match.
    """
    vector = values[_VECTOR]
    plain = [{"bytes": value.hex()} if isinstance(value, bytes) else value for value in values[:_VECTOR]]
    later = zip(COLUMNS[_VECTOR + 1 :], values[_VECTOR + 1 :], strict=False)
    plain += [{name: value} for name, value in later if value is not None]
    return hashlib.blake2b(json.dumps(plain).encode("ascii") + vector, digest_size=16).digest()


def is_unicode(text: str) -> bool:
    """True unless a text holds bytes that are not of its encoding, or halves of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored_path(path: str | None) -> str | bytes | None:
    """Return a path for SQLite: text, or bytes where the file name is not UTF-8 (old archives have such names).

    What is stored are the bytes that the file system knows, the same under every locale; names inside an archive have none
    in some locales, and are UTF-8. Raises `UnicodeEncodeError` for what is neither.
    """
    if path is None:
        return None
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        name = path.encode("utf-8", "surrogateescape")
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name


def loaded_path(path: str | bytes | None) -> str | None:
    """Return a path from SQLite, as this process opens it: as it was given, as long as the locale is the same."""
    return None if path is None else os.fsdecode(path.encode() if isinstance(path, str) else path)
