"""Tables of reports: CSV and JSON lines, one report a row."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcr_infer.errors import ReportError
from mcr_infer.pseudonyms import PatientSecret
from mcr_infer.reports.records import ReportFailure, ReportRecord


def read_table(path: Path, *, patients: PatientSecret | None) -> Iterator[ReportRecord | ReportFailure]:
    """Read FILE.csv or FILE.jsonl. Raises `ReportError` where it cannot be read as a whole."""
    kind = path.suffix.lower()
    try:
        if kind == ".csv":
            return _records(path, _csv_rows(path, _header(path)), patients)
        if kind == ".jsonl":
            path.open("rb").close()
            return _records(path, _json_rows(path), patients)
    except OSError as exc:
        raise ReportError(f"{path} cannot be read: {exc.strerror}", reason="unreadable") from exc
    raise ReportError(
        f"{path}: reports are read from .csv, .jsonl or a folder of .txt, not from {kind!r}", reason="format"
    )


def _header(path: Path) -> list[str]:
    """Read the column names of a CSV file, in lower case."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        try:
            names = [name.strip().lower() for name in next(csv.reader(stream, strict=True), [])]
        except csv.Error as exc:
            raise ReportError(f"{path}: row 1 is not CSV: {exc}", reason="format") from exc
    if not _encodable(*names):
        raise ReportError(f"{path} is not UTF-8: save it so", reason="encoding")
    if not {"report", "text"} & set(names):
        raise ReportError(
            f"{path} needs a column `report` or `text` (UTF-8, separated by commas); its columns are {names}",
            reason="columns",
        )
    return names


def _csv_rows(path: Path, names: list[str]) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield each row with its number, or what is wrong with it."""
    # Bytes that are not UTF-8 become surrogates, so that only their row is refused.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        number = 0
        while True:
            number += 1
            try:
                row = next(rows, None)
            except csv.Error as exc:
                yield number, f"not CSV: {exc}"
                continue
            if row is None:
                return
            if number == 1 or not row:
                continue
            if len(row) != len(names):
                yield number, f"has {len(row)} columns, the header has {len(names)}; put the report in quotes"
            else:
                yield number, dict(zip(names, row, strict=True))


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                yield number, "not JSON"
                continue
            yield number, row if isinstance(row, dict) else f"a JSON {type(row).__name__}, expected an object"


def _records(
    path: Path, rows: Iterator[tuple[int, Mapping[str, Any] | str]], patients: PatientSecret | None
) -> Iterator[ReportRecord | ReportFailure]:
    for number, row in rows:
        place = f"{path}:{number}"
        if isinstance(row, str):
            yield ReportFailure(path=place, reason="format", error=f"row {number}: {row}")
            continue
        text = row.get("report") or row.get("text")
        study = row.get("study_uid") or row.get("study_id")
        given = [str(value or "").strip() for value in (row.get("id"), row.get("path"), study)]
        patient = [row.get(name) for name in _PATIENT_COLUMNS]
        if not isinstance(text, str) or not text.strip():
            yield ReportFailure(path=place, reason="empty", error=f"row {number}: no text under report or text")
        elif not _encodable(text, *given):
            yield ReportFailure(path=place, reason="encoding", error=f"row {number}: not valid UTF-8")
        elif patients is not None and not all(map(_is_identifier, patient)):
            why = f"row {number}: {' and '.join(_PATIENT_COLUMNS)} must be text in UTF-8, or whole numbers"
            yield ReportFailure(path=place, reason="patient_id", error=why)
        else:
            key = None if patients is None else _patient_key(patients, *patient)
            # Two patients can have the same words said of them.
            derived = f"sha256:{hashlib.sha256((text + (key or '')).encode()).hexdigest()[:32]}"
            yield ReportRecord(
                id=given[0] or derived, text=text, path=given[1] or place, study_uid=given[2] or None, patient_key=key
            )


_PATIENT_COLUMNS = ("patient_id", "issuer_of_patient_id")


def _is_identifier(value: object) -> bool:
    """True for what can be an identifier in a table, or for none: 12.0 may have been 12, or 012."""
    return value is None or type(value) is int or (isinstance(value, str) and _encodable(value))


def _patient_key(patients: PatientSecret, id: str | int | None, issuer: str | int | None) -> str | None:
    """Return the key of a patient, None where the column is empty."""
    told = "" if id is None else str(id).strip()
    return patients.key(told, "" if issuer is None else str(issuer).strip()) if told else None


def _encodable(*texts: str) -> bool:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True
