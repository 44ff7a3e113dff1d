"""Tables of reports: CSV, JSON lines and Parquet, one report a row."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcr_infer.errors import ReportError
from mcr_infer.pseudonyms import PatientSecret
from mcr_infer.reports.csv_rows import csv_rows
from mcr_infer.reports.json_rows import json_rows
from mcr_infer.reports.parquet_rows import parquet_rows
from mcr_infer.reports.records import LONGEST, ReportFailure, ReportRecord, derived_id
from mcr_infer.reports.rows import PATIENT_COLUMNS, STUDY_COLUMNS, TEXT_COLUMNS, BadRow, TableRow, describe_row, is_text

_READERS = {".csv": csv_rows, ".tsv": csv_rows, ".jsonl": json_rows, ".ndjson": json_rows, ".parquet": parquet_rows}


def read_table(path: Path, *, patients: PatientSecret | None) -> Iterator[ReportRecord | ReportFailure]:
    """Read a table. Raises `ReportError` where it cannot be read as a whole."""
    kind = path.suffix.lower()
    if kind not in _READERS:
        raise ReportError(
            f"{path}: reports are read from {', '.join(_READERS)} or a folder of .txt, not from {kind!r}",
            reason="format",
        )
    try:
        rows = _READERS[kind](path)
    except OSError as exc:
        raise ReportError(f"{path} cannot be read: {exc.strerror}", reason="unreadable") from exc
    return _Table(path, patients).reports(rows)


class _Table:
    """One table while it is read."""

    def __init__(self, path: Path, patients: PatientSecret | None) -> None:
        self._path, self._patients = path, patients
        self._source = os.path.realpath(path)
        self._same: Counter[str] = Counter()
        """How often the same words of the same patient stood in a row without study and id."""

    def reports(self, rows: Iterator[TableRow | BadRow]) -> Iterator[ReportRecord | ReportFailure]:
        number = 0
        try:
            for row in rows:
                number = row.number
                yield self._failure(row, row.reason, row.error) if isinstance(row, BadRow) else self._report(row)
        except (OSError, UnicodeError) as exc:
            if isinstance(exc, OSError):
                reason, why = "unreadable", f"cannot be read ({exc.strerror})"
            else:
                reason, why = "encoding", "cannot be decoded, since the file is cut or damaged there"
            error = f"what follows row {number} {why}; no later row was read"
            yield ReportFailure(path=str(self._path), reason=reason, error=error)

    def _report(self, row: TableRow) -> ReportRecord | ReportFailure:
        text = next(filter(_is_filled, map(row.values.get, TEXT_COLUMNS)), None)
        study_given = next(filter(_is_filled, map(row.values.get, STUDY_COLUMNS)), None)
        given = {"id": row.values.get("id"), "path": row.values.get("path"), "the study": study_given}
        patient = [row.values.get(name) for name in PATIENT_COLUMNS]
        if not isinstance(text, str):
            return self._failure(row, "empty", "no text in the columns report and text")
        if len(text) > LONGEST:
            return self._failure(row, "too_large", f"the report has more than {LONGEST} characters")
        for name, value in given.items():
            if not _is_identifier(value):
                return self._failure(
                    row, "format", f"{name} must be text or a whole number, got {type(value).__name__}"
                )
        id, path, study = (("" if value is None else str(value)).strip() for value in given.values())
        if not is_text(text, id, path, study):
            return self._failure(row, "encoding", "not valid UTF-8, or with NUL in it")
        if self._patients is not None and not all(_is_identifier(value) and is_text(str(value)) for value in patient):
            why = f"{' and '.join(PATIENT_COLUMNS)} must be text in UTF-8, or whole numbers"
            return self._failure(row, "patient_id", why)
        key = None if self._patients is None else _patient_key(self._patients, *patient)
        own, former = (id, None) if id else self._ids(text, study, key or "")
        return ReportRecord(
            id=own,
            text=text,
            path=path or self._place(row),
            study_uid=study or None,
            patient_key=key,
            path_given=bool(path),
            source=f"{self._source}/id/{id}" if id else f"{self._source}/{row.number}",
            former_id=former,
        )

    def _ids(self, text: str, study: str, patient: str) -> tuple[str, str]:
        """Return the id of a row without one, and the one that it had in former versions.

        Where the study is told, it is the same report wherever the table lies. Else the table counts, and which of the rows
        with these words it is: two reports that nothing tells apart are two reports.
        """
        former = f"sha256:{hashlib.sha256((text + patient).encode()).hexdigest()[:32]}"
        if study:
            return derived_id("study", study, patient, text), former
        number = self._same[former]
        self._same[former] += 1
        return derived_id("table", self._source, patient, text, str(number)), former

    def _place(self, row: TableRow | BadRow) -> str:
        return f"{self._path}:{row.number}"

    def _failure(self, row: TableRow | BadRow, reason: str, error: str) -> ReportFailure:
        return ReportFailure(path=self._place(row), reason=reason, error=f"{describe_row(row)}: {error}")


def _is_filled(value: object) -> bool:
    """True for a cell with something in it."""
    return value is not None and not (isinstance(value, str) and not value.strip())


def _is_identifier(value: object) -> bool:
    """True for what can be an identifier in a table, or for none: 12.0 may have been 12, or 012."""
    return value is None or type(value) is int or isinstance(value, str)


def _patient_key(patients: PatientSecret, id: Any, issuer: Any) -> str | None:
    """Return the key of a patient, None where the column is empty."""
    told = "" if id is None else str(id).strip()
    return patients.key(told, "" if issuer is None else str(issuer).strip()) if told else None
