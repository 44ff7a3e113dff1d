"""Vectors made elsewhere become rows of an index: each is looked at, and what does not belong is refused by name.

They go into an existing index of the same embedding space, or into a new one that is like the source.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import Index, Row
from mcr_infer.index.index import create, holds_index
from mcr_infer.index.manifest import NO_BUNDLE, Identity
from mcr_infer.index.rows import UNIT_TOLERANCE, to_columns
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.pipeline.transfer.formats import Candidate, Columns, VectorSource, check_same_space, row_of
from mcr_infer.pipeline.transfer.merging import OnConflict, same_content

UNKNOWN_PRECISION = "unknown"
"""Of the arithmetic that made vectors of others."""

_BATCH = 1_000
"""Rows of one transaction."""


class _Refused(Exception):
    """Why one vector does not come in; `reason` is a stable word."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def import_vectors(
    source: VectorSource, index: Index, *, kind: str, normalise: bool, on_conflict: OnConflict
) -> Iterator[Outcome]:
    """Add the vectors of a source to an index and yield what became of each.

    `kind` is that of vectors of others; an export of ours knows its own. `normalise` divides vectors by their length. A row
    that the index holds already, in all that is imported, stays as it is; one that differs in other than its content is
    brought up to date. An id that stands for another picture or report in the index, or earlier in the source, is a
    conflict: `refuse` makes it a failure, `skip` leaves it out, `replace` lets the later one take its place.
    """
    seen: set[tuple[str, str]] = set()
    waiting: dict[tuple[str, str], tuple[str, Row]] = {}

    def commit() -> Iterator[Outcome]:
        index.add([row for _, row in waiting.values()])
        yield from (Outcome(path=name, status="embedded") for name, _ in waiting.values())
        waiting.clear()

    for one in source.candidates():
        try:
            row = _row(one, index.embedding_dim, kind=kind, normalise=normalise)
        except _Refused as refused:
            yield Outcome(path=one.name, status="failed", reason=refused.reason, error=str(refused))
            continue
        if (row.kind, row.id) in waiting:
            yield from commit()
        former = index.get(row.kind, row.id)
        if former is not None and not same_content(row, former) and on_conflict != "replace":
            yield _conflict(one.name, row, again=(row.kind, row.id) in seen, refused=on_conflict == "refuse")
            continue
        seen.add((row.kind, row.id))
        if former is not None and row.text is None and same_content(row, former):
            # An export leaves texts behind unless it is told otherwise: that is no reason to lose them here.
            row = replace(row, text=former.text)
        if former is not None and to_columns(former) == to_columns(row):
            yield Outcome(path=one.name, status="unchanged")
            continue
        waiting[row.kind, row.id] = (one.name, row)
        if len(waiting) >= _BATCH:
            yield from commit()
    if waiting:
        yield from commit()


def _conflict(name: str, row: Row, *, again: bool, refused: bool) -> Outcome:
    where = "stood in the file before" if again else "is in the index"
    return Outcome(
        path=name,
        status="failed" if refused else "left_out",
        reason="double_id" if again else "id_conflict",
        error=f"the id {row.id!r} {where}, for another {row.kind}: --on-conflict skip keeps the one that comes first, "
        "--on-conflict replace the one that comes last",
    )


def _row(one: Candidate, dim: int, *, kind: str, normalise: bool) -> Row:
    if one.id is None or not one.id.strip():
        raise _Refused("no_id", "it has no id: every vector needs one of its own")
    vector = _vector(one.vector, dim, of=repr(one.id), normalise=normalise)
    fields: dict[str, Any] = {"kind": kind, "path": None, "precision": UNKNOWN_PRECISION, **one.fields, "id": one.id}
    try:
        return row_of(fields, one.metadata, vector)
    except EmbeddingIndexError as error:
        raise _Refused("row", str(error)) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise _Refused("row", f"{one.id!r} has fields that are not those of a row; export again") from error


def _vector(given: NDArray[Any] | None, dim: int, *, of: str, normalise: bool) -> NDArray[np.float32]:
    """Return a vector as the index takes it: float32 [D], finite, of length 1."""
    if given is None or len(given) != dim:
        got = "none" if given is None else f"{len(given)}"
        raise _Refused("dimension", f"the vector of {of} has {got} dimensions, the index takes {dim}")
    wide = given.astype(np.float64)
    length = float(np.linalg.norm(wide))
    if not np.isfinite(length):
        bad = int((~np.isfinite(wide)).sum())
        raise _Refused("not_finite", f"{bad} of {dim} values of the vector of {of} are not finite")
    if normalise and length > 0:
        return (wide / length).astype(np.float32)
    if not abs(length - 1.0) <= UNIT_TOLERANCE:
        advice = "" if length == 0 else "; --normalise divides by it"
        raise _Refused("not_unit", f"the vector of {of} has length {length:.6g}, expected 1{advice}")
    return wide.astype(np.float32)


_FINGERPRINT = re.compile("[0-9a-f]{64}")


def foreign_identity(*, name: str, fingerprint: str | None, dim: int) -> Identity:
    """Return the identity of an index of a model without a bundle; without a fingerprint it follows from the name.

    Raises `EmbeddingIndexError` where the fingerprint is none, or there are no dimensions.
    """
    if fingerprint is not None and not _FINGERPRINT.fullmatch(fingerprint):
        raise EmbeddingIndexError(
            f"--fingerprint must be 64 hex digits, such as a SHA-256 of the weights; got {fingerprint!r}"
        )
    if dim < 1:
        raise EmbeddingIndexError(f"vectors need at least one dimension, got {dim}")
    digest = hashlib.sha256(f"mcr-infer model without a bundle: {name}".encode()).hexdigest()
    return Identity(
        index_id="",
        fingerprint=fingerprint or digest,
        embedding_dim=dim,
        bundle=name,
        bundle_path=NO_BUNDLE,
    )


def open_target(folder: Path, like: Identity, *, source: str, notify: Callable[[str], None] | None = None) -> Index:
    """Open an index for writing, or make it, so that rows of `like` may come in; `source` is where they come from.

    Raises `EmbeddingIndexError` where they are of another space or another kind of keys, and what `Index.open` raises.
    """
    if not holds_index(folder):
        create(folder, replace(like, index_id=os.urandom(16).hex()))
    index = Index.open(folder, writable=True, notify=notify)
    try:
        check_same_space(index.identity, like, place=f"index {folder}", other_place=source)
    except BaseException:
        index.close()
        raise
    return index


def open_source(path: Path, columns: Columns) -> VectorSource:
    """Open what is to be imported. Raises `EmbeddingIndexError` where it is neither Parquet nor npy."""
    from mcr_infer.pipeline.transfer.npy import NpySource
    from mcr_infer.pipeline.transfer.parquet import ParquetSource

    if path.is_dir():
        return NpySource(path, columns)
    if not path.exists():
        raise EmbeddingIndexError(f"{path} is not there: name a .parquet file, or a folder with a .npy file")
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return ParquetSource(path, columns)
    raise EmbeddingIndexError(
        f"{path} is no Parquet file: name one, or a folder with a .npy file and the ids beside it"
    )
