"""Rows of a table of reports, whatever its format, and what is wrong with those that cannot be read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcr_infer.errors import ReportError

TEXT_COLUMNS = ("report", "text")
STUDY_COLUMNS = ("study_uid", "study_id")
PATIENT_COLUMNS = ("patient_id", "issuer_of_patient_id")
COLUMNS = frozenset({"id", "path", *TEXT_COLUMNS, *STUDY_COLUMNS, *PATIENT_COLUMNS})
"""The columns that are read; others may name anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """The values of a row by column."""

    number: int
    """As a spreadsheet counts; the header is row 1 where there is one."""
    line: int
    """The line of the file in which it begins; the number of the row where a format has no lines."""
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be read, and why; `reason` is a stable word as in `ReportError`."""

    number: int
    line: int
    reason: str
    error: str


def describe_row(row: TableRow | BadRow) -> str:
    """Name a row in a message: its number, and the line in which it begins where that differs."""
    return f"row {row.number}" if row.line == row.number else f"row {row.number} (line {row.line})"


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise `ReportError` unless a table has a column of texts, and no column that is read twice."""
    if set(TEXT_COLUMNS).isdisjoint(names):
        raise no_text_column(path, names)
    for name in sorted(COLUMNS):
        if list(names).count(name) > 1:
            raise ReportError(f"{path} has the column {name!r} more than once: rename the others", reason="columns")


def no_text_column(path: Path, names: Sequence[str], form: str = "") -> ReportError:
    """Return the error that a table has no column of texts; `form` is what was looked for."""
    told = f" ({form})" if form else ""
    return ReportError(
        f"{path} needs a column `report` or `text`{told}; its columns are {list(names)}", reason="columns"
    )


def is_text(*values: str) -> bool:
    """Return False if a value has NUL in it or is not Unicode: bytes of another encoding, or of no text at all."""
    joined = "".join(values)
    try:
        joined.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in joined
