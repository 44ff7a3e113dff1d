"""Rows that follow from a number, so that any process can tell what a row must hold; and an index of them.

A `State` is what an index must hold: a plain dictionary of rows, with their files and locals. It knows nothing of the index.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index import FileStamp, Index, Row
from mcr_infer.inference.bundle import Bundle

DIM = 128
"""Dimensions of the embeddings of the bundle that ships."""

LIMIT = 50
"""Rows of a kind above which there is a graph."""

IMAGES, REPORTS = 150, 70
"""Rows of the index that is broken."""

Key = tuple[str, int]
"""Kind and number of a row."""


def made_by() -> dict[str, object]:
    """Return what `Index.open_or_create` is told of the bundle: the one that ships, so that commands can be run."""
    bundle = Bundle.open()
    return {
        "fingerprint": bundle.fingerprint,
        "embedding_dim": DIM,
        "bundle": bundle.name,
        "bundle_path": "shipped",
    }


def opened(folder: Path, *, notify: object = None, **other: object) -> Index:
    """Open the index of a folder for writing, or make it."""
    return Index.open_or_create(folder, **{**made_by(), **other}, exact_limit=LIMIT, notify=notify or (lambda _: None))  # type: ignore[arg-type]


def unit(seed: Iterable[int]) -> NDArray[np.float32]:
    """Draw a unit vector [D]."""
    vector = np.random.default_rng(list(seed)).normal(size=DIM).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def id_of(kind: str, number: int) -> str:
    """Return the id of a row."""
    return f"2.25.{number}" if kind == "image" else f"report-{number}"


def row_of(kind: str, number: int, revision: int, *, first_format: bool = False) -> Row:
    """Return a row; a revision changes its vector and its metadata. Format version 1 had no keys of patients."""
    return Row(
        id=id_of(kind, number),
        kind=kind,
        path=stamp_of(kind, number).path,
        study_uid=f"1.2.{number // 2}",
        series_uid=None if number % 3 else f"1.2.{number // 2}.1",
        patient_key=hashlib.sha256(b"%d" % (number // 4)).hexdigest()[:32] if number % 5 and not first_format else None,
        metadata={"view": "PA" if number % 2 else "AP", "number": number, "revision": revision},
        vector=unit((number, revision, len(kind))),
        precision="int8" if number % 7 == 0 else "fp32",
        patch_budget=0.5 if number % 11 == 0 else 1.0,
        content_digest=hashlib.sha256(b"%s %d" % (kind.encode(), number // 3)).hexdigest(),
        text=f"Report {number}, revision {revision}." if kind == "report" else None,
    )


def stamp_of(kind: str, number: int) -> FileStamp:
    """Return the file of a row."""
    return FileStamp(path=f"archive/{kind}-{number}.dcm", size=1000 + number, mtime_ns=10**18 + number)


def locals_of(kind: str, number: int, revision: int) -> bytes | None:
    """Return what is kept of the patches of a row; every fourth has some."""
    return None if number % 4 else hashlib.shake_128(b"%s %d %d" % (kind.encode(), number, revision)).digest(200)


@dataclass(frozen=True, slots=True)
class State:
    """What an index must hold: the revision of each row that is there."""

    rows: Mapping[Key, int] = field(default_factory=dict)
    first_format: bool = False
    """True where the rows came from an index of format version 1."""

    def with_rows(self, keys: Iterable[Key], revision: int) -> "State":
        """Return the state after rows were added or replaced."""
        return replace(self, rows={**self.rows, **dict.fromkeys(keys, revision)})

    def without(self, keys: Iterable[Key]) -> "State":
        """Return the state after rows were deleted."""
        gone = set(keys)
        return replace(self, rows={key: revision for key, revision in self.rows.items() if key not in gone})

    def is_first_format(self, number: int, revision: int) -> bool:
        """True where a row came from an index of format version 1."""
        return self.first_format and revision == 0 and number < 1000

    def of(self, kind: str) -> dict[int, int]:
        """Return the numbers of a kind and their revisions."""
        return {number: revision for (its_kind, number), revision in sorted(self.rows.items()) if its_kind == kind}


def add(index: Index, keys: Iterable[Key], revision: int) -> None:
    """Add rows with their files and locals, in one transaction a kind."""
    by_kind: dict[str, list[int]] = {}
    for kind, number in keys:
        by_kind.setdefault(kind, []).append(number)
    for kind, numbers in by_kind.items():
        rows = [row_of(kind, number, revision) for number in numbers]
        kept = {(kind, id_of(kind, number)): locals_of(kind, number, revision) for number in numbers}
        index.add(
            rows,
            files=[(stamp_of(kind, number), id_of(kind, number)) for number in numbers],
            file_kind=kind,
            locals={key: content for key, content in kept.items() if content is not None},
        )


def delete(index: Index, keys: Iterable[Key]) -> None:
    """Delete rows, one transaction a kind."""
    chosen = list(keys)
    for kind in dict.fromkeys(kind for kind, _ in chosen):
        index.delete(kind, [id_of(kind, number) for its_kind, number in chosen if its_kind == kind])


def whole() -> State:
    """Return what the index of `make` holds."""
    state = State().with_rows(all_keys(), 0)
    state = state.with_rows([("image", number) for number in range(30)], 1)
    return state.without([("image", number) for number in range(30, 40)])


def all_keys(first: int = 0) -> list[Key]:
    """Return images and reports from a number on."""
    images = [("image", number) for number in range(first, first + IMAGES)]
    return images + [("report", number) for number in range(first, first + REPORTS)]


def make(folder: Path, *, first: int = 0, **other: object) -> State:
    """Make an index with everything: two kinds, files, locals, replaced and deleted rows, graphs, vectors and facts."""
    with opened(folder, **other) as index:
        keys = all_keys(first)
        for start in range(0, len(keys), 60):
            add(index, keys[start : start + 60], 0)
        add(index, [("image", first + number) for number in range(30)], 1)
        delete(index, [("image", first + number) for number in range(30, 40)])
        index.save_snapshots()
    shifted = {(kind, first + number): revision for (kind, number), revision in whole().rows.items()}
    return State(shifted)
