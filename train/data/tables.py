"""Rows of a CSV or Parquet file, column by column and a few at a time; and a data set that is nothing but such a file."""

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mcr_infer.errors import ConfigError
from mcr_infer.evaluation.finding_labels import note_kind_columns, read_label_column
from mcr_infer.evaluation.pairs import COLUMNS, find_column
from train.config import Radiographs
from train.data.records import Record, Source, split_by_hash, view_position

_PARQUET_ROWS = 4096
"""Rows of a Parquet file that are held at once."""

_DAMAGE = (csv.Error, UnicodeDecodeError, EOFError, OSError, zlib.error)
"""What reading a damaged table raises: no CSV, not UTF-8, a compressed file that is cut or changed."""

Row = dict[str, str | None]


_SYNONYMS = {"train": ("training",), "validate": ("val", "valid", "validation", "dev")}
"""Names of a split that are taken for the default one where a table does not have it."""


def open_table(config: Radiographs) -> Source:
    """Open a CSV or Parquet file of image paths and reports; the columns are named in the configuration.

    The columns of splits and of findings are read as a whole, since what their cells mean depends on it.
    """
    path = Path(config.table)
    if not config.table or not path.is_file():
        raise ConfigError(f"data.radiographs.table is {config.table!r}: expected a CSV or Parquet file of pairs")
    columns = find_columns(config, path, tuple(COLUMNS))
    wanted = [columns[role] for role in ("split", "findings") if role in columns]
    counts, cells = Counter[str](), dict[str, int]()
    for number, row in read_rows(path, wanted) if wanted else ():
        if "split" in columns:
            counts[(row[columns["split"]] or "").strip()] += 1
        if "findings" in columns:
            cells.setdefault(row[columns["findings"]] or "", number)
    splits = _splits(counts, config, path)
    labels = read_label_column(
        cells, where=f"{path}, column {columns.get('findings')!r}", separator=config.label_separator
    )
    notes = []
    if "findings" not in columns and (note := note_kind_columns(column_names(path))):
        notes.append(f"{path.name}: {note}")
    renamed = [f"{name!r} is {split}" for name, split in splits.items() if name != split]
    if renamed:
        notes.append(f"splits of {path.name}: {', '.join(renamed)}")
    return Source(
        kind="table",
        origin={"images": config.images, "table": config.table},
        records=lambda: _records(config, path, columns, splits, labels),
        notes=tuple(notes),
    )


def find_columns(config: Radiographs, path: Path, roles: Sequence[str]) -> dict[str, str]:
    """Return how a table spells its columns of these roles, as far as it has them; raises `ConfigError`."""
    names = column_names(path)
    found = {}
    for role in roles:
        name, option = getattr(config, f"{role}_column"), f"data.radiographs.{role}_column"
        usual = name == COLUMNS[role][0]
        found[role] = find_column(names, role, None if usual else name, where=str(path), option=option)
    return {role: name for role, name in found.items() if name is not None}


def _splits(counts: Counter[str], config: Radiographs, path: Path) -> dict[str, str]:
    """Return what each name in the column of splits stands for: one of the two splits, or itself."""
    meant = {name: name for name in counts}
    for split in (config.train_split, config.validation_split):
        same = [name for name in counts if name.lower() == split.strip().lower()]
        others = [] if same else [name for name in counts if name.lower() in _SYNONYMS.get(split, ())]
        if len({name.lower() for name in others}) > 1:
            listed = ", ".join(f"{name or '(blank)'} {count}" for name, count in counts.items())
            raise ConfigError(
                f"{path} has several splits that could be {split!r} ({listed}): name one of them in "
                f"data.radiographs.{'train' if split == config.train_split else 'validation'}_split"
            )
        meant |= dict.fromkeys([*same, *others], split)
    return meant


def _records(
    config: Radiographs, path: Path, columns: dict[str, str], splits: dict[str, str], labels: dict[str, tuple[str, ...]]
) -> Iterator[Record]:
    root = Path(config.images)
    for number, row in read_rows(path, list(columns.values())):
        cells = {role: row[name] or "" for role, name in columns.items()}
        image, patient = cells["image"].strip(), cells.get("patient", "").strip() or None
        if "split" in cells:
            split = splits.get(cells["split"].strip()) or None
        else:
            held_out = split_by_hash(patient or image, config.validation_share)
            split = config.validation_split if held_out else config.train_split
        yield Record(
            name=f"{path.name}:{number}",
            image=root / image if image else None,
            report=cells["report"],
            patient=patient,
            study=None,
            split=split,
            view=view_position(cells.get("view")),
            labels=labels.get(cells.get("findings", "")),
        )


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
    """Return a Parquet value as text; a list, such as labels, as JSON."""
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else str(value)
