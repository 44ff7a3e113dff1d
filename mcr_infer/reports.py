"""Reports: their sections, the text that is embedded, and the tables and folders they come from.

file -> ReportRecord -> findings, impression -> text -> tokenizer
"""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcr_infer.errors import ReportError
from mcr_infer.pseudonyms import PatientSecret

Use = Literal["both", "findings", "impression", "longest"]

# ---- Sections -------------------------------------------------------------------------------------------------------

_BOTH = r"findings?\s*(?:and|&|/)\s*(?:impressions?|conclusions?)"
_FINDINGS = r"(?:chest |radiographic |x-ray )?findings?(?: and recommendations?)?|observations?|comments?|description"
_IMPRESSION = (
    r"(?:final |overall )?impressions?(?: (?:and|&) recommendations?)?|conclusions?|opinion|summary|interpretation"
)
# Their first paragraph is about the study; prose that follows it without a header describes the image.
_CONTEXT = (
    r"(?:type of )?exam(?:ination)?s?|stud(?:y|ies)|procedures?|(?:clinical )?indications?|(?:clinical )?history|"
    r"clinical (?:information|data|details|statement)|(?:past )?medical history|history of present illness|"
    r"reason for (?:this |the )?(?:exam(?:ination)?|study|consult(?:ation)?)|techniques?|views?|comparisons?|"
    r"comparison stud(?:y|ies)|prior(?: stud(?:y|ies))?|contrast|dose|final report|report"
)
# The radiologist's last word, or no word on this image: nothing below it is read until the next header.
_OTHER = (
    r"recommendations?(?:\(s\))?|notifications?|communications?|critical results?|addend(?:um|a)|final addendum|wet read|"
    r"preliminary (?:report|read)|attestation|(?:electronically )?signed(?: by)?|dictated(?: by)?|transcribed(?: by)?|"
    r"reviewed by|attending(?: radiologist)?|radiologist|cc|end of (?:report|impression)"
)
_SIGNATURE = r"(?:electronically signed|dictated by|signed by|reviewed by|i have (?:personally )?reviewed the)"
_GROUPS = {"both": _BOTH, "findings": _FINDINGS, "impression": _IMPRESSION, "context": _CONTEXT, "other": _OTHER}
_NAME = "|".join(f"(?P<{group}>{names})" for group, names in _GROUPS.items())
_DECORATED = r"[*#=\-_ \t]*"
_HEADER = re.compile(
    # At the start of a line, in any case, with a colon or alone on the line; a signature needs neither.
    rf"^{_DECORATED}(?:(?P<line>{_NAME}){_DECORATED}(?::{_DECORATED}|$)|{_SIGNATURE}\b)",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE = re.compile(
    # Within a line, as flattened reports have it: with a colon, capitalised, after a sentence; or all in capitals.
    rf"(?:(?<=[.:;?!)_]\s)|(?<=\s\s)|(?<=\s)(?=[A-Z][A-Z /]{{3,40}}:))(?=[A-Z])(?P<line>(?i:{_NAME}))[ \t]*:",
)
_PRELIMINARY = re.compile(r"^[ \t]*wet read\b.*?(?=^[ \t]*final report\b)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
# MIMIC-CXR blanks out names and dates with underscores, Open-I with XXXX.
_DEIDENTIFIED = re.compile(r"_{2,}|(?<![A-Za-z])X{3,}(?![a-z])")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_NUMBER_AT_LINE = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)]|[-*\u2022])(?=\s)", re.MULTILINE)
_NUMBER_AFTER_STOP = re.compile(r"(?<=[.;:])\s+\d{1,2}[.)](?=\s+[A-Za-z])")
_CLOCK = re.compile(r"\b[ap]\.m\.", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections that describe the image, on one line each; None where there is none. A common one is both of them."""

    findings: str | None
    impression: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedText:
    """What of a report is embedded, and which part of it that is: `whole` is a text without any known header."""

    text: str
    part: Literal["both", "findings", "impression", "whole"]


def split_report(text: str) -> Sections:
    """Find findings and impression under their headers: in any case, beside the text or above it, numbered or wrapped.

    Prose without a header, below the headers about the study or above the impression, counts as findings where no header
    names them. A preliminary read, notifications, recommendations and signatures are left out, as are blanks left by
    de-identification. A text without any known header has no sections.
    """
    found, _ = _sections(text)
    return found


def select_text(text: str, *, use: Use = "both") -> SelectedText:
    """Choose the text of a report that is embedded; `longest` is the longer section, and `both` one where only one is.

    A text without any known header is taken whole for `both` and `longest`: it is a sentence or a report of one piece.
    Raises `ReportError` with reason `empty` (no words), or `no_section` where the wanted section is not there.
    """
    sections, has_headers = _sections(text)
    findings, impression = sections.findings, sections.impression
    if use == "findings" or (use == "longest" and len(findings or "") >= len(impression or "")):
        impression = None
    elif use in ("impression", "longest"):
        findings = None
    if findings and impression:
        return SelectedText(text=findings if findings == impression else f"{findings} {impression}", part="both")
    if findings or impression:
        return SelectedText(text=findings or impression or "", part="findings" if findings else "impression")
    whole = _clean(text)
    if not whole:
        raise ReportError("the report has no text: it is empty or holds nothing but blanks", reason="empty")
    if use in ("findings", "impression") or has_headers:
        wanted = use if use in ("findings", "impression") else "findings or impression"
        raise ReportError(f"the report has no text under a header for {wanted}", reason="no_section")
    return SelectedText(text=whole, part="whole")


def embed_text(text: str, *, use: Use = "both") -> str:
    """Choose as `select_text` does, and return the text alone."""
    return select_text(text, use=use).text


def _sections(text: str) -> tuple[Sections, bool]:
    """Return the sections, and whether the text has any known header."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\u00a0", " ")
    text = _PRELIMINARY.sub("", text)
    headers = sorted((*_HEADER.finditer(text), *_INLINE.finditer(text)), key=lambda header: header.start())
    headers = [
        one for one, before in zip(headers, [None, *headers], strict=False) if not before or one.start() >= before.end()
    ]
    if not headers:
        return Sections(findings=None, impression=None), False
    parts: dict[str, dict[str, None]] = {"findings": {}, "impression": {}, "both": {}}
    loose = _prose(text[: headers[0].start()], titled=True)
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        body = text[header.end() : following.start() if following else len(text)]
        name = next((group for group in _GROUPS if header[group]), "other")
        if name in parts:
            parts[name][_clean(body)] = None  # what a copied report says twice is told once
        elif name == "context":
            named_only = header["line"].lower() in ("final report", "report")
            paragraphs = _PARAGRAPHS.split(body.strip())
            loose += _prose(body, titled=True) if named_only else _prose("\n\n".join(paragraphs[1:]), titled=False)
    both = " ".join(filter(None, parts["both"]))
    findings = " ".join(filter(None, parts["findings"])) or both or " ".join(loose)
    impression = " ".join(filter(None, parts["impression"])) or both
    return Sections(findings=findings or None, impression=impression or None), True


def _prose(text: str, *, titled: bool) -> list[str]:
    """Return the paragraphs that hold a sentence; among titles one in capitals is a title however it ends."""
    cleaned = (_clean(paragraph) for paragraph in _PARAGRAPHS.split(text.strip()))
    sentence = r"[a-z]{2,}.*[.!?](?:\s|$)" if titled else r"[A-Za-z]{2,}.*[.!?](?:\s|$)"
    return [text for text in cleaned if len(text.split()) > 2 and re.search(sentence, _CLOCK.sub("", text))]


def _clean(text: str) -> str:
    """Put text on one line without list numbers and blanks of de-identification; empty where no word is left."""
    text = _NUMBER_AT_LINE.sub(" ", _DEIDENTIFIED.sub(" ", text))
    text = " ".join(_NUMBER_AFTER_STOP.sub(" ", text).split())
    text = re.sub(r"[,;:]+\.(?=\s|$)", ".", re.sub(r" +([.,;:])", r"\1", text)).lstrip(".,;: ")
    return text if re.search(r"[^\W\d_]", text) else ""


# ---- Files ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRecord:
    """One report as it was read."""

    id: str
    text: str
    path: str
    """The column `path` where there is one, else the file, with its row where it is a table: `reports.csv:12`."""
    study_uid: str | None = None
    patient_key: str | None = None
    """Of the column `patient_id`; None where there is none, or where no key was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """One report that could not be read; `reason` is a stable word as in `ReportError`."""

    path: str
    reason: str
    error: str


def read_reports(path: Path, *, patients: PatientSecret | None = None) -> Iterator[ReportRecord | ReportFailure]:
    """Read reports from FILE.csv, FILE.jsonl or the .txt files below a folder, in UTF-8.

    A table has a column `report` or `text`, and may have `id`, `path`, `study_uid` or `study_id`; other columns are not
    read. With `patients` the columns `patient_id` and `issuer_of_patient_id` become a key, where they are there; else they
    are not read either. Without an id it is derived from the text, and from the key; in a folder it is the relative path
    without `.txt`. Rows count as in a spreadsheet (the header is row 1), lines of .jsonl from 1. A bad row is yielded as a
    failure and the rest goes on; a
    source that cannot be read as a whole raises `ReportError`.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ReportError(
            f"{path} is neither a file nor a folder; reports come as .csv, .jsonl or .txt", reason="missing"
        )
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


def _read_folder(folder: Path) -> Iterator[ReportRecord | ReportFailure]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.suffix.lower() != ".txt":
                continue
            try:
                text = path.read_text(encoding="utf-8-sig")
            except OSError as exc:
                yield ReportFailure(path=str(path), reason="unreadable", error=f"cannot be read: {exc.strerror}")
                continue
            except UnicodeDecodeError as exc:
                yield ReportFailure(path=str(path), reason="encoding", error=f"not UTF-8 at byte {exc.start}")
                continue
            yield ReportRecord(id=path.relative_to(folder).with_suffix("").as_posix(), text=text, path=str(path))


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
