"""Rows of a CSV or Parquet file, column by column and a few at a time; and a data set that is nothing but such a file."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mcr_infer.errors import ConfigError
from train.config import Radiographs
from train.data.records import Record, Source, split_by_hash, view_position

_PARQUET_ROWS = 4096
"""Rows of a Parquet file that are held at once."""

_DAMAGE = (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error)
"""What reading a damaged table raises: no CSV, not UTF-8, a compressed file that is cut or changed."""

Row = dict[str, str | None]


def open_table(config: Radiographs) -> Source:
    """Open a CSV or Parquet file of image paths and reports; the columns are named in the configuration."""
    path = Path(config.table)
    if not config.table or not path.is_file():
        raise ConfigError(f"data.radiographs.table is {config.table!r}: expected a CSV or Parquet file of pairs")
    names = column_names(path)
    for column in (config.image_column, config.report_column):
        if column not in names:
            raise ConfigError(f"{path} has no column {column!r}: set data.radiographs.*_column; it has {names}")
    return Source(
        kind="table",
        origin={"images": config.images, "table": config.table},
        records=lambda: _records(config, path, names),
    )


def _records(config: Radiographs, path: Path, names: Sequence[str]) -> Iterator[Record]:
    columns = [
        config.image_column, config.report_column, config.patient_column, config.split_column, config.view_column,
        config.labels_column,
    ]  # fmt: skip
    root, has_split = Path(config.images), config.split_column in names
    for number, row in read_rows(path, [name for name in columns if name in names]):
        image = (row[config.image_column] or "").strip()
        patient = (row.get(config.patient_column) or "").strip() or None
        split = (row.get(config.split_column) or "").strip() or None
        if not has_split:
            held_out = split_by_hash(patient or image, config.validation_share)
            split = config.validation_split if held_out else config.train_split
        yield Record(
            name=f"{path.name}:{number}",
            image=root / image if image else None,
            report=row[config.report_column] or "",
            patient=patient,
            study=None,
            split=split,
            view=view_position(row.get(config.view_column)),
            labels=_labels(row.get(config.labels_column)),
        )


def _labels(text: str | None) -> tuple[str, ...] | None:
    """Read findings separated by `;`, or a list in brackets and quotes as PadChest has it; a blank field is no label."""
    text = (text or "").strip()
    if not text:
        return None
    listed = text.startswith("[") and text.endswith("]")
    parts = text[1:-1].split(",") if listed else text.split(";")
    return tuple(sorted({part.strip().strip("'\"").strip().lower() for part in parts} - {""}))


def column_names(path: Path) -> list[str]:
    """Read the names of a table's columns; raises `ConfigError`."""
    if path.suffix.lower() == ".parquet":
        names: list[str] = _parquet(path).schema_arrow.names
        return names
    with _open(path) as stream:
        return _header(path, stream)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Yield the wanted columns of each row with its number, as a spreadsheet counts (the header is row 1).

    Reads .parquet, and CSV in UTF-8 with commas, compressed or not. Raises `ConfigError` for a column that is not there
    and for a row that is not CSV: a table that cannot be read as a whole is not read by half.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    with _open(path) as stream:
        names = _header(path, stream)
        places = {column: _place(path, names, column) for column in columns}
        rows, number = csv.reader(stream, strict=True), 1
        while True:
            number += 1
            try:
                row = next(rows, None)
            except _DAMAGE as exc:
                raise ConfigError(f"{path}: row {number} cannot be read ({type(exc).__name__}: {exc})") from exc
            if row is None:
                return
            if not row:
                continue
            if len(row) != len(names):
                raise ConfigError(f"{path}: row {number} has {len(row)} columns, the header has {len(names)}")
            yield number, {column: row[place] for column, place in places.items()}


def _open(path: Path) -> IO[str]:
    try:
        if path.suffix.lower() == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _header(path: Path, stream: IO[str]) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader(stream, strict=True), [])]
    except _DAMAGE as exc:
        raise ConfigError(f"{path} is not a CSV file in UTF-8 ({type(exc).__name__}: {exc})") from exc


def _place(path: Path, names: Sequence[str], column: str) -> int:
    if column not in names:
        raise ConfigError(f"{path} has no column {column!r}; it has {list(names)}")
    return names.index(column)


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as exc:
        raise ConfigError(f"{path}: Parquet files need pyarrow: pip install --group train") from exc
    try:
        return ParquetFile(path)
    except (OSError, ArrowException) as exc:
        raise ConfigError(f"{path} is not a Parquet file: {exc}") from exc


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """Yield rows batch by batch; numbers are counted as in a CSV file."""
    file, number = _parquet(path), 1
    for column in columns:
        _place(path, file.schema_arrow.names, column)
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=list(columns)):
        for row in batch.to_pylist():
            number += 1
            yield number, {name: _text(value) for name, value in row.items()}


def _text(value: object) -> str | None:
    """Return a Parquet value as text; a list, such as labels, joined by `;`."""
    if value is None:
        return None
    return ";".join(map(str, value)) if isinstance(value, list) else str(value)
