"""Parquet files row by row, by pyarrow, which comes with the extra `parquet` and is imported when a file is read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcr_infer.errors import ReportError
from mcr_infer.reports.rows import COLUMNS, BadRow, TableRow, check_columns

_BATCH = 256
"""Rows that are held at once."""


def parquet_rows(path: Path) -> Iterator[TableRow | BadRow]:
    """Read a Parquet file with the columns of a CSV file; a missing value is an empty cell. Rows count from 1.

    A group of rows that is damaged is a failure of each of its rows that were not read before. Raises `ReportError` where
    the file cannot be read as a whole.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as exc:
        raise ReportError(
            f"{path}: Parquet is read by pyarrow, which is not installed: pip install 'mcr-infer[parquet]', or save the "
            "table as .csv",
            reason="format",
        ) from exc
    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
    except (ValueError, pyarrow.ArrowException) as exc:
        raise ReportError(
            f"{path} cannot be read as Parquet ({type(exc).__name__}): it is cut or damaged; write it again",
            reason="format",
        ) from exc
    names = [name.strip().lower() for name in file.schema_arrow.names]
    check_columns(path, names)
    wanted = {given: name for given, name in zip(file.schema_arrow.names, names, strict=True) if name in COLUMNS}
    return _rows(file, wanted, (OSError, ValueError, pyarrow.ArrowException))


def _rows(file: Any, wanted: dict[str, str], damage: tuple[type[Exception], ...]) -> Iterator[TableRow | BadRow]:
    number = 0
    with file:
        for group in range(file.num_row_groups):
            end = number + file.metadata.row_group(group).num_rows
            batches = file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=list(wanted))
            try:
                for batch in batches:
                    for row in batch.to_pylist():
                        number += 1
                        values = {name: row[given] for given, name in wanted.items()}
                        yield TableRow(number=number, line=number, values=values)
            except damage as exc:
                for lost in range(number + 1, end + 1):
                    error = f"its group of rows is damaged ({type(exc).__name__}); write the file again"
                    yield BadRow(number=lost, line=lost, reason="format", error=error)
                number = end
