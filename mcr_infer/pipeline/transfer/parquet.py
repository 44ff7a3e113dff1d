"""Parquet: a column a field, a typed column a fact of the metadata, and the vectors as lists of a fixed size.

    kind, id, path, path_bytes, study_uid, series_uid, patient_key, precision, patch_budget, content_digest, text_strategy,
    text, metadata (JSON, as it is in the index), meta_NAME (each fact by itself), vector fixed_size_list<float32>[D]

`path_bytes` holds names that are not UTF-8. The identity of the index stands in the metadata of the schema, under
`mcr_infer`. pyarrow comes with the extra `parquet` and is imported when a file is first written or read.

Read are our own exports, and tables of others with a column of ids and one of vectors.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.files import create_private, publish
from mcr_infer.index import Row
from mcr_infer.index.rows import Scalar
from mcr_infer.pipeline.transfer.formats import (
    BLOCK,
    FIELDS,
    FOREIGN_FIELDS,
    Candidate,
    Columns,
    Description,
    fields_of,
    refuse_what_is_there,
    writing,
)

DESCRIPTION = b"mcr_infer"
"""The key of the schema's metadata."""

META = "meta_"
_INT64 = 1 << 63


def require_pyarrow() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet; raises `EmbeddingIndexError` that says how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise EmbeddingIndexError(
            "Parquet is read and written by pyarrow, which is not installed: pip install 'mcr-infer[parquet]', or use "
            "--format npy"
        ) from exc
    return pyarrow, pyarrow.parquet


def types_of(facts: Iterable[Mapping[str, Scalar]]) -> Mapping[str, str]:
    """Return the type of a column for each fact that occurs, by name: what all its values fit into."""
    seen: dict[str, set[str]] = {}
    for one in facts:
        for name, value in one.items():
            kinds = seen.setdefault(name, set())
            if value is not None:
                small = isinstance(value, int) and not -_INT64 <= value < _INT64
                kinds.add("large" if small else type(value).__name__)
    types = {}
    for name, kinds in sorted(seen.items()):
        if kinds <= {"int"}:
            types[name] = "int64" if kinds else "string"
        elif kinds <= {"int", "float"}:
            types[name] = "float64"
        else:
            types[name] = "bool_" if kinds == {"bool"} else "string"
    return types


class ParquetSink:
    """Writes rows into an open file; a call is a row group."""

    def __init__(self, file: IO[bytes], description: Description, types: Mapping[str, str]) -> None:
        self._arrow, parquet = require_pyarrow()
        pa = self._arrow
        self._types, self._with_text = types, description.with_text
        self._dim = description.identity.embedding_dim
        plain = [pa.field(name, pa.float64() if name == "patch_budget" else pa.string()) for name in FIELDS]
        plain.insert(FIELDS.index("path") + 1, pa.field("path_bytes", pa.binary()))
        meta = [pa.field(META + _printable(name), getattr(pa, kind)()) for name, kind in types.items()]
        vector = pa.field(
            "vector", pa.list_(pa.field("element", pa.float32(), nullable=False), self._dim), nullable=False
        )
        self._schema = pa.schema(
            [*plain, pa.field("metadata", pa.string()), *meta, vector],
            metadata={DESCRIPTION: description.to_json().encode("ascii")},
        )
        self._writer = parquet.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=[field.name for field in self._schema if field.name != "vector"],
            write_page_checksum=True,
        )

    def add(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        pa = self._arrow
        columns: dict[str, list[Any]] = {field.name: [] for field in self._schema if field.name != "vector"}
        for row in rows:
            fields = fields_of(row, with_text=self._with_text)
            fields["path"], fields["path_bytes"] = _path_columns(row.path)
            fields["metadata"] = json.dumps(dict(row.metadata), sort_keys=True)
            for name, kind in self._types.items():
                fields[META + _printable(name)] = _typed(row.metadata.get(name), kind)
            for name, column in columns.items():
                column.append(fields[name])
        values = np.stack([row.vector for row in rows]).astype("<f4", copy=False)
        arrays = [pa.array(columns[field.name], field.type) for field in self._schema if field.name != "vector"]
        arrays.append(
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=self._schema.field("vector").type)
        )
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema), row_group_size=len(rows))

    def close(self) -> None:
        """Write the end of the file."""
        self._writer.close()


@contextmanager
def parquet_file(out: Path, description: Description, types: Mapping[str, str]) -> Iterator[ParquetSink]:
    """Make the file from what the block adds; it appears under its name when the block ends well."""
    refuse_what_is_there(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    with writing(out):
        try:
            with os.fdopen(create_private(partial), "wb") as file:
                sink = ParquetSink(file, description, types)
                yield sink
                sink.close()
            publish(partial, out)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _path_columns(path: str | None) -> tuple[str | None, bytes | None]:
    """Return a path as text, or as bytes where it is not UTF-8."""
    if path is None:
        return None, None
    try:
        path.encode()
    except UnicodeEncodeError:
        return None, path.encode("utf-8", "surrogateescape")
    return path, None


def _typed(value: Scalar, kind: str) -> Scalar:
    """Return a fact as its column holds it."""
    if value is None:
        return None
    if kind != "string":
        return float(value) if kind == "float64" else value
    return _printable(value) if isinstance(value, str) else json.dumps(value)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


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
