"""Vectors of a Parquet file: of our own export, or of a table of others with a column of ids and one of vectors."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.transfer.description import Description
from mcr_infer.transfer.fields import FIELDS
from mcr_infer.transfer.parquet import DESCRIPTION, require_pyarrow
from mcr_infer.transfer.source import BLOCK, FOREIGN_FIELDS, Candidate, Columns


class ParquetSource:
    """An open Parquet file."""

    def __init__(self, path: Path, columns: Columns) -> None:
        """Open it and see whether it has what it needs. Raises `EmbeddingIndexError`."""
        self._arrow, parquet = require_pyarrow()
        self._path = path
        with self._reading():
            self._file = parquet.ParquetFile(self._arrow.OSFile(os.fsencode(path)), page_checksum_verification=True)
            schema = self._file.schema_arrow
        told = (schema.metadata or {}).get(DESCRIPTION)
        self.description = None if told is None else Description.from_json(told, where=str(path))
        self._columns = Columns() if self.description else columns
        plain = (*FIELDS, "path_bytes", "metadata") if self.description else (*FOREIGN_FIELDS, *columns.metadata)
        needed = (self._columns.id, self._columns.vector, *columns.metadata)
        for name in needed:
            if name not in schema.names:
                raise EmbeddingIndexError(
                    f"{path} has no column {name!r}: it has {', '.join(schema.names)}. Name the right ones with --id-column "
                    "and --vector-column"
                )
        self._names = [name for name in dict.fromkeys((self._columns.id, *plain)) if name in schema.names]
        kind = schema.field(self._columns.vector).type
        types = self._arrow.types
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        if not any(one(kind) for one in lists) or not types.is_floating(kind.value_type):
            raise EmbeddingIndexError(
                f"{path}: column {self._columns.vector!r} must be a list of floats, got {kind}; name another with "
                "--vector-column"
            )
        self.dim: int | None = kind.list_size if types.is_fixed_size_list(kind) else None
        self.count = int(self._file.metadata.num_rows)

    def candidates(self) -> Iterator[Candidate]:
        """Read the rows in their order."""
        with self._reading():
            blocks = self._file.iter_batches(batch_size=BLOCK, columns=[*self._names, self._columns.vector])
        number = 0
        while True:
            with self._reading():
                block = next(blocks, None)
            if block is None:
                return
            with self._reading():
                plain = {name: block.column(name).to_pylist() for name in self._names}
                vectors = _vectors(block.column(self._columns.vector))
            for place, vector in enumerate(vectors):
                number += 1
                yield self._candidate(number, {name: values[place] for name, values in plain.items()}, vector)

    def _candidate(self, number: int, values: dict[str, Any], vector: NDArray[Any] | None) -> Candidate:
        id = values[self._columns.id]
        name = f"{self._path}:row {number}"
        id = None if id is None else str(id)
        if self.description is None:
            fields = {one: values[one] for one in FOREIGN_FIELDS if one in values}
            metadata = {one: values[one] for one in self._columns.metadata}
            return Candidate(name=name, id=id, vector=vector, fields=fields, metadata=metadata)
        if values.get("path_bytes") is not None:
            values["path"] = values["path_bytes"].decode("utf-8", "surrogateescape")
        fields = {one: values[one] for one in FIELDS if one in values}
        return Candidate(name=name, id=id, vector=vector, fields=fields, metadata=json.loads(values["metadata"]))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Map what pyarrow raises; its words may quote a value and stay out of the message."""
        try:
            yield
        except (OSError, ValueError, self._arrow.ArrowException) as exc:
            raise EmbeddingIndexError(
                f"{self._path} cannot be read as Parquet ({type(exc).__name__}): it is cut or damaged; make it again"
            ) from exc


def _vectors(column: Any) -> list[NDArray[Any] | None]:
    """Return the lists of a column as arrays of whatever length; None where there is none, or a value is missing."""
    values, offsets = column.flatten(), [0]
    missing = column.is_null().to_pylist()
    for place, length in enumerate(column.value_lengths().to_pylist()):
        offsets.append(offsets[-1] + (0 if missing[place] else length))
    # A missing value becomes NaN, which is refused as such.
    flat = values.to_numpy(zero_copy_only=False)
    return [
        None if gone else flat[start:stop] for gone, start, stop in zip(missing, offsets, offsets[1:], strict=False)
    ]
