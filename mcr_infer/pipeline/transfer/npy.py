"""A folder of npy: what every numpy reads, and a line of JSON a row beside it.

    vectors.npy   float32 [N, D], in the order of rows.jsonl
    rows.jsonl    a JSON object a row: its fields and its metadata
    export.json   whose vectors these are, see `mcr_infer.pipeline.transfer.formats`

The way back takes folders of others, too: one .npy [N, D] of floats, and one .jsonl, .csv or .txt that names the rows.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.files import atomic_write, create_private, sha256_of, sync_folder
from mcr_infer.index import Row
from mcr_infer.pipeline.transfer.formats import (
    FIELDS,
    FOREIGN_FIELDS,
    Candidate,
    Columns,
    Description,
    fields_of,
    refuse_what_is_there,
    writing,
)

VECTORS, ROWS, DESCRIPTION = "vectors.npy", "rows.jsonl", "export.json"


class NpySink:
    """Writes rows into an open folder."""

    def __init__(self, vectors: IO[bytes], rows: IO[bytes], *, count: int, dim: int, with_text: bool) -> None:
        self._vectors, self._rows, self._with_text = vectors, rows, with_text
        self._digests = {VECTORS: hashlib.sha256(), ROWS: hashlib.sha256()}
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(vectors, header)
        vectors.flush()
        at = vectors.tell()
        vectors.seek(0)
        self._digests[VECTORS].update(vectors.read(at))

    def add(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        block = np.stack([row.vector for row in rows]).astype("<f4").tobytes()
        lines = b"".join(
            json.dumps({**fields_of(row, with_text=self._with_text), "metadata": dict(row.metadata)}).encode("ascii")
            + b"\n"
            for row in rows
        )
        for name, file, content in ((VECTORS, self._vectors, block), (ROWS, self._rows, lines)):
            file.write(content)
            self._digests[name].update(content)

    @property
    def digests(self) -> Mapping[str, str]:
        """Hex SHA-256 of both files, by name."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


@contextmanager
def npy_folder(out: Path, description: Description) -> Iterator[NpySink]:
    """Make the folder from what the block adds; it appears under its name when the block ends well."""
    refuse_what_is_there(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    with writing(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        try:
            with (
                os.fdopen(create_private(partial / VECTORS), "w+b") as vectors,
                os.fdopen(create_private(partial / ROWS), "wb") as rows,
            ):
                sink = NpySink(
                    vectors,
                    rows,
                    count=sum(description.rows.values()),
                    dim=description.identity.embedding_dim,
                    with_text=description.with_text,
                )
                yield sink
                for file in (vectors, rows):
                    file.flush()
                    os.fsync(file.fileno())
            told = replace(description, digests=sink.digests).to_json() + "\n"
            atomic_write(partial / DESCRIPTION, told.encode("ascii"), private=True)
            partial.rename(out)
            sync_folder(out.absolute().parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


_IDS = (".jsonl", ".csv", ".txt")


class NpySource:
    """An open folder of npy."""

    def __init__(self, folder: Path, columns: Columns) -> None:
        """Open it and see whether it has what it needs. Raises `EmbeddingIndexError`."""
        self._folder, self._columns = folder, columns
        self.description: Description | None = None
        with self._reading():
            told = folder / DESCRIPTION
            if told.exists():
                self.description = Description.from_json(told.read_bytes(), where=str(told))
        if self.description is not None:
            self._vectors_path, self._rows_path = folder / VECTORS, folder / ROWS
            self._check_digests(self.description)
        else:
            self._vectors_path = self._only(".npy")
            self._rows_path = self._only(*_IDS)
        with self._reading():
            # Not pickled objects, which could run anything.
            self._vectors = np.load(self._vectors_path, mmap_mode="r", allow_pickle=False)
        if self._vectors.ndim != 2 or self._vectors.dtype.kind != "f":
            raise EmbeddingIndexError(
                f"{self._vectors_path} must hold floats [N, D], got {self._vectors.dtype} {list(self._vectors.shape)}"
            )
        self.count = int(self._vectors.shape[0])
        self.dim: int | None = int(self._vectors.shape[1])
        with self._reading():
            names = sum(1 for _ in self._records())
        if names != self.count:
            raise EmbeddingIndexError(
                f"{self._rows_path} names {names} rows, {self._vectors_path.name} has {self.count}: they do not belong "
                "together"
            )

    def candidates(self) -> Iterator[Candidate]:
        """Read the rows in their order."""
        records = self._records()
        for number, vector in enumerate(self._vectors, start=1):
            with self._reading():
                record = next(records)
            id = record.get("id" if self.description else self._columns.id)
            metadata = record.get("metadata", {}) if self.description else {}
            chosen = FIELDS if self.description else FOREIGN_FIELDS
            fields = {one: record[one] for one in chosen if one in record}
            if self.description is None:
                metadata = {one: record.get(one) for one in self._columns.metadata}
            yield Candidate(
                name=f"{self._rows_path}:row {number}",
                id=None if id is None else str(id),
                vector=vector,
                fields=fields,
                metadata=metadata,
            )

    def _records(self) -> Iterator[dict[str, Any]]:
        """Read what stands beside the vectors, a row each."""
        with self._rows_path.open(encoding="utf-8", newline="") as file:
            if self._rows_path.suffix == ".csv":
                table = csv.DictReader(file)
                if self._columns.id not in (table.fieldnames or ()):
                    raise EmbeddingIndexError(
                        f"{self._rows_path} has no column {self._columns.id!r}: it has "
                        f"{', '.join(table.fieldnames or ()) or 'none'}. Name the right one with --id-column"
                    )
                yield from table
                return
            for line in file:
                if self._rows_path.suffix == ".txt":
                    yield {self._columns.id: line.rstrip("\r\n")}
                else:
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise ValueError("no object")
                    yield record

    def _only(self, *endings: str) -> Path:
        """Return the only file of some endings. Raises `EmbeddingIndexError` where there is none, or are several."""
        with self._reading():
            found = sorted(path for path in self._folder.iterdir() if path.suffix in endings)
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise EmbeddingIndexError(
                f"{self._folder} must hold one file of {' or '.join(endings)}, got {names}: vectors [N, D] in a .npy, and a "
                "line or row for each in a .jsonl, .csv or .txt"
            )
        return found[0]

    def _check_digests(self, description: Description) -> None:
        for name, path in ((VECTORS, self._vectors_path), (ROWS, self._rows_path)):
            with self._reading():
                digest = sha256_of(path)
            if digest != description.digests.get(name):
                raise EmbeddingIndexError(f"{path} does not match its digest in {DESCRIPTION}: export again")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Map what reading raises; its words may quote a value and stay out of the message."""
        try:
            yield
        except (OSError, EOFError, ValueError, RecursionError, csv.Error) as exc:
            why = getattr(exc, "strerror", None) or "it is cut, damaged or of another form"
            raise EmbeddingIndexError(f"{self._folder} cannot be read: {why}") from exc
