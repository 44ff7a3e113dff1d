"""Columns of the rows of one kind, in files beside the store: the metadata that filters compare, and the vectors.

    metadata   8 bytes: length of the header, little-endian; header in JSON; labels int64 [N]; the arrays that it names
    vectors    labels int64 [N], then vectors float32 [N, D], both little-endian

They are snapshots of the store, because reading them from it costs a row, a digest and a blob each (0.1 s for 10,000). Each
is mapped only after its digest was compared with the manifest; rows that it lacks are read from the store, and a damaged one
is made again. A file of such a name is never written to again: it is replaced by one of another name or removed, and a
mapping keeps its content. Filters look at nothing else, because an SQL index has no checksum: one flipped bit in it would
silently lose a row.
"""

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError
from mcr_infer.files import atomic_write, sha256_against, sha256_of
from mcr_infer.index.manifest import ColumnFile
from mcr_infer.index.rows import COLUMNS, Scalar, checked_vector
from mcr_infer.index.storage import storage_errors

KEYS = ("id", "study_uid", "series_uid", "patient_key", "content_digest")
"""Columns of a row that are compared as a whole: 64 bits of a hash stand for each value."""

PLAIN = ("precision", "patch_budget")
"""Columns of a row that are compared by value, like its metadata."""

TEXT_STRATEGY = "text_strategy"
"""The column of a row that only texts beyond the token limit have; like a fact of its metadata it may be absent of all."""

ABSENT = 0
"""Stands for no value in a column of keys."""

_PLACE = {name: place for place, name in enumerate(COLUMNS)}
_LENGTH = struct.Struct("<Q")


def key_of(value: str) -> int:
    """Return what stands for a value in a column of keys; two values share one with a chance of 2^-64."""
    digest = hashlib.blake2b(value.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One fact of all rows [N]. A row has a number, or a word, or neither; truth values are the words true and false."""

    numbers: NDArray[np.float64]
    """NaN where the row has no number."""

    codes: NDArray[np.int32]
    """Places in `words`; -1 where the row has no word."""

    words: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """True where no row has the fact."""
        return not self.has_numbers and not bool((self.codes >= 0).any())

    @property
    def has_numbers(self) -> bool:
        """True where any row has a number."""
        return not bool(np.isnan(self.numbers).all())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetadataColumns:
    """The facts of all rows of a kind at one generation of the store."""

    generation: int
    labels: NDArray[np.int64]
    """Ascending [N]."""

    keys: Mapping[str, NDArray[np.uint64]]
    """By the names in `KEYS`, [N] each."""

    columns: Mapping[str, Column]
    """By name: `PLAIN`, and whatever the metadata of any row hold."""

    def knows(self, ids: Iterable[str]) -> bool:
        """True where any of some ids is the id of a row."""
        keys = np.array([key_of(id) for id in ids], dtype=np.uint64)
        return bool(np.isin(self.keys["id"], keys).any())

    def are_all(self, ids: Sequence[str]) -> bool:
        """True where these are the ids of all rows, each once."""
        keys = np.array([key_of(id) for id in ids], dtype=np.uint64)
        return np.array_equal(np.sort(keys), np.sort(self.keys["id"]))

    @property
    def doubled(self) -> int:
        """How many rows have the id of another."""
        keys = np.sort(self.keys["id"])
        return int((keys[1:] == keys[:-1]).sum())

    @property
    def provenance(self) -> frozenset[tuple[str, float]]:
        """The pairs (precision, patch budget) that occur among the rows."""
        precision, budgets = self.columns["precision"], self.columns["patch_budget"].numbers
        pairs = set()
        for code, word in enumerate(precision.words):
            # np.unique would import numpy.ma, which takes as long as all the rest of a small search.
            pairs |= {(word, budget) for budget in set(budgets[precision.codes == code].tolist())}
        return frozenset(pairs)

    @property
    def text_strategies(self) -> frozenset[str]:
        """What was done with the texts that were too long for the tower."""
        column = self.columns.get(TEXT_STRATEGY)
        if column is None:
            return frozenset()
        return frozenset(word for code, word in enumerate(column.words) if (column.codes == code).any())

    def at(self, keep: NDArray[Any]) -> "MetadataColumns":
        """Return the facts of some rows only: of a mask [N], or of places in this order."""
        return MetadataColumns(
            generation=self.generation,
            labels=self.labels[keep],
            keys={name: values[keep] for name, values in self.keys.items()},
            columns={
                name: Column(numbers=one.numbers[keep], codes=one.codes[keep], words=one.words)
                for name, one in self.columns.items()
            },
        )

    def joined(self, newer: "MetadataColumns") -> "MetadataColumns":
        """Return these facts and those of other rows, read later."""
        names = dict.fromkeys((*self.columns, *newer.columns))
        both = MetadataColumns(
            generation=newer.generation,
            labels=np.concatenate([self.labels, newer.labels]),
            keys={name: np.concatenate([self.keys[name], newer.keys[name]]) for name in KEYS},
            columns={
                name: _joined(self._column(name, len(self.labels)), newer._column(name, len(newer.labels)))
                for name in names
            },
        )
        return both.at(np.argsort(both.labels, kind="stable"))

    def without_empty(self) -> "MetadataColumns":
        """Return these facts without those that only rows had that are gone: what a filter may ask for is what rows say."""
        kept = {name: one for name, one in self.columns.items() if name in PLAIN or not one.is_empty}
        return replace(self, columns=kept)

    def _column(self, name: str, count: int) -> Column:
        found = self.columns.get(name)
        if found is not None:
            return found
        return Column(numbers=np.full(count, np.nan), codes=np.full(count, -1, dtype=np.int32), words=())


def _joined(one: Column, other: Column) -> Column:
    words = dict.fromkeys((*one.words, *other.words))
    place = {word: code for code, word in enumerate(words)}
    moved = np.array([*(place[word] for word in other.words), -1], dtype=np.int32)
    return Column(
        numbers=np.concatenate([one.numbers, other.numbers]),
        codes=np.concatenate([one.codes, moved[other.codes]]),
        words=tuple(words),
    )


def read_facts(
    labels: NDArray[np.int64], scanned: Iterable[tuple[int, Sequence[Any]]], *, generation: int
) -> MetadataColumns:
    """Gather the facts of rows of ascending labels [N] from their columns. Raises `IndexCorruptError`."""
    keys = {name: np.full(len(labels), ABSENT, dtype=np.uint64) for name in KEYS}
    gathered: dict[str, _Gathered] = {name: _Gathered(len(labels)) for name in PLAIN}
    for place, columns in scanned:
        checked_vector(columns)
        for name, values in keys.items():
            value = columns[_PLACE[name]]
            if value is not None:
                values[place] = key_of(value)
        facts: dict[str, Scalar] = json.loads(columns[_PLACE["metadata"]])
        # What a row is comes before what its file says under the same name.
        facts |= {name: columns[_PLACE[name]] for name in (*PLAIN, TEXT_STRATEGY)}
        for name, fact in facts.items():
            if fact is None:
                continue
            if name not in gathered:
                gathered[name] = _Gathered(len(labels))
            gathered[name].put(place, fact)
    columns_of = {name: one.column() for name, one in gathered.items()}
    return MetadataColumns(generation=generation, labels=labels, keys=keys, columns=columns_of)


class _Gathered:
    """A column that is being filled."""

    def __init__(self, count: int) -> None:
        self._numbers = np.full(count, np.nan)
        self._codes = np.full(count, -1, dtype=np.int32)
        self._words: dict[str, int] = {}

    def put(self, place: int, fact: str | int | float) -> None:
        if isinstance(fact, bool):
            fact = "true" if fact else "false"
        if isinstance(fact, str):
            self._codes[place] = self._words.setdefault(fact, len(self._words))
        else:
            self._numbers[place] = fact

    def column(self) -> Column:
        return Column(numbers=self._numbers, codes=self._codes, words=tuple(self._words))


def save_facts(folder: Path, kind: str, facts: MetadataColumns) -> ColumnFile:
    """Publish facts as a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    arrays: list[NDArray[Any]] = [facts.labels.astype("<i8")]
    header: dict[str, Any] = {"rows": len(facts.labels), "columns": {}}
    arrays += [facts.keys[name].astype("<u8") for name in KEYS]
    for name, column in facts.columns.items():
        words, codes = _used(column)
        header["columns"][name] = {"numbers": column.has_numbers, "words": words}
        arrays += [column.numbers.astype("<f8")] if column.has_numbers else []
        arrays += [codes.astype("<i4")] if words else []
    # Arrays begin at a multiple of eight bytes, as far as those before them are of that size.
    told = json.dumps(header).encode("ascii")
    told += b" " * (-len(told) % 8)
    return publish_columns(
        folder,
        "facts",
        kind,
        _LENGTH.pack(len(told)) + told,
        arrays,
        rows=len(facts.labels),
        generation=facts.generation,
    )


def _used(column: Column) -> tuple[list[str], NDArray[np.int32]]:
    """Return the words that rows still have, and the codes [N] of these: what only deleted rows said is not kept."""
    used = np.zeros(len(column.words) + 1, dtype=np.bool_)
    used[column.codes] = True  # no word at all is the last
    moved = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    moved[-1] = -1
    return [word for word, kept in zip(column.words, used, strict=False) if kept], moved[column.codes]


def load_facts(folder: Path, kind: str, known: ColumnFile, *, dim: int, remembered: bool = True) -> MetadataColumns:  # noqa: ARG001
    """Map the facts that the manifest names, as `load_vectors` does; `dim` is not needed. Raises `IndexCorruptError`."""
    content = map_columns(folder, "facts", kind, known, size=None, remembered=remembered)
    try:
        return _parsed(content, known)
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError, struct.error) as exc:
        raise IndexCorruptError(f"{known.file_name('facts', kind)} is no file of facts") from exc


def _parsed(content: mmap.mmap, known: ColumnFile) -> MetadataColumns:
    (length,) = _LENGTH.unpack_from(content)
    header = json.loads(content[_LENGTH.size : _LENGTH.size + length])
    count, at = known.rows, _LENGTH.size + length
    if header["rows"] != count:
        raise ValueError("rows")

    def take(kind: str) -> NDArray[Any]:
        nonlocal at
        array: NDArray[Any] = np.frombuffer(content, dtype=kind, count=count, offset=at)
        at += array.nbytes
        return array

    labels = take("<i8")
    keys = {name: take("<u8") for name in KEYS}
    columns = {}
    for name, told in header["columns"].items():
        words = tuple(told["words"])
        numbers = take("<f8") if told["numbers"] else np.full(count, math.nan)
        codes = take("<i4") if words else np.full(count, -1, dtype=np.int32)
        if not all(isinstance(word, str) for word in words) or ((codes < -1) | (codes >= len(words))).any():
            raise ValueError("words")
        columns[name] = Column(numbers=numbers, codes=codes, words=words)
    if at != len(content) or (labels[1:] <= labels[:-1]).any() or not columns.keys() >= set(PLAIN):
        raise ValueError("content")
    return MetadataColumns(generation=known.generation, labels=labels, keys=keys, columns=columns)


def publish_columns(
    folder: Path, what: str, kind: str, header: bytes, arrays: list[NDArray[Any]], *, rows: int, generation: int
) -> ColumnFile:
    """Write a header and arrays to a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    content = [memoryview(header), *(array.data.cast("B") for array in arrays if array.size)]
    digest = hashlib.sha256()
    for part in content:
        digest.update(part)
    saved = ColumnFile(sha256=digest.hexdigest(), rows=rows, generation=generation)
    with storage_errors(folder):
        atomic_write(folder / saved.file_name(what, kind), *content, private=True)
    return saved


def map_columns(
    folder: Path, what: str, kind: str, known: ColumnFile, *, size: int | None, remembered: bool
) -> mmap.mmap:
    """Map the file that the manifest names; `size` in bytes where it is known.

    `remembered` takes the digest of a large file that has not changed since this user hashed it from memory, see
    `mcr_infer.files`. Raises `IndexCorruptError` saying what does not match.
    """
    path = folder / known.file_name(what, kind)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            if not found or size not in (None, found):
                raise IndexCorruptError(f"{path.name} has {found} bytes" + (f", expected {size}" if size else ""))
            content = mmap.mmap(file.fileno(), found, access=mmap.ACCESS_READ)
        digest = sha256_against(path, known.sha256) if remembered else sha256_of(path)
    except OSError as exc:
        raise IndexCorruptError(f"{path.name} cannot be read: {exc.strerror}") from exc
    if digest != known.sha256:
        raise IndexCorruptError(f"{path.name} does not match its digest")
    return content


SAVED_FROM = 1_000
"""Rows of a kind from which files beside the store are worth their place."""


class Vectors(NamedTuple):
    """The vectors of all rows of a kind at one generation of the store."""

    generation: int
    labels: NDArray[np.int64]
    """Ascending [N]."""

    values: NDArray[np.float32]
    """[N, D]"""


def load_vectors(folder: Path, kind: str, known: ColumnFile, *, dim: int, remembered: bool = True) -> Vectors:
    """Map the vectors that the manifest names. Raises `IndexCorruptError` saying what does not match.

    `remembered` believes the remembered digest of a large file, see `mcr_infer.files`.
    """
    size = known.rows * (8 + 4 * dim)
    content = map_columns(folder, "vectors", kind, known, size=size, remembered=remembered)
    labels = np.frombuffer(content, dtype="<i8", count=known.rows)
    values = np.frombuffer(content, dtype="<f4", offset=labels.nbytes).reshape(known.rows, dim)
    return Vectors(known.generation, labels, values)


def save_vectors(folder: Path, kind: str, vectors: Vectors) -> ColumnFile:
    """Publish vectors as a file of the folder. Raises `EmbeddingIndexError` when the disk is full."""
    arrays = [vectors.labels.astype("<i8", copy=False), np.ascontiguousarray(vectors.values, dtype="<f4")]
    return publish_columns(
        folder, "vectors", kind, b"", arrays, rows=len(vectors.labels), generation=vectors.generation
    )
