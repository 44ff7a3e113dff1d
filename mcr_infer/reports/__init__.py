"""Reports: their sections, the text that is embedded, and the tables and folders they come from.

file -> ReportRecord -> findings, impression -> text -> tokenizer
"""

from collections.abc import Iterator
from pathlib import Path

from mcr_infer.errors import ReportError
from mcr_infer.pseudonyms import PatientSecret
from mcr_infer.reports.folders import read_folder
from mcr_infer.reports.headings import Headings, read_headings
from mcr_infer.reports.records import ReportFailure, ReportRecord
from mcr_infer.reports.sections import Sections, SelectedText, Use, embed_text, select_text, split_report
from mcr_infer.reports.tables import read_table

__all__ = [
    "Headings", "ReportFailure", "ReportRecord", "Sections", "SelectedText", "Use", "embed_text", "read_headings",
    "read_reports", "select_text", "split_report",
]  # fmt: skip


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
        return read_folder(path)
    if not path.is_file():
        raise ReportError(
            f"{path} is neither a file nor a folder; reports come as .csv, .jsonl or .txt", reason="missing"
        )
    return read_table(path, patients=patients)
