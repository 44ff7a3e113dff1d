"""Reports: their sections, the text that is embedded, and the tables and folders they come from.

file -> ReportRecord -> findings, impression -> text -> tokenizer
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mcr_infer.errors import ReportError
from mcr_infer.pseudonyms import PatientSecret
from mcr_infer.reports.folders import read_folder
from mcr_infer.reports.headings import Headings, read_headings
from mcr_infer.reports.records import ReportFailure, ReportRecord
from mcr_infer.reports.sections import Part, Sections, SelectedText, Use, embed_text, select_text, split_report
from mcr_infer.reports.tables import read_table

__all__ = [
    "Headings", "Part", "ReportFailure", "ReportRecord", "Sections", "SelectedText", "Use", "embed_text",
    "read_headings", "read_reports", "select_text", "split_report",
]  # fmt: skip


def read_reports(
    path: Path, *, patients: PatientSecret | None = None, ignored: Counter[str] | None = None
) -> Iterator[ReportRecord | ReportFailure]:
    """Read reports from a table (.csv, .tsv, .jsonl, .ndjson, .parquet), or from the .txt files below a folder.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. A table has a column `report` or `text`, and may have `id`,
    `path`, `study_uid` or `study_id`; other columns are not read. With `patients` the columns `patient_id` and
    `issuer_of_patient_id` become a key, where they are there; else they are not read either. CSV is separated as its header
    is: by comma, semicolon, tab or bar.

    An id that is not given is derived: from study, patient and words; without a study from the table, the words and how
    often they stood in it before; that of a file is its URI. It does not depend on the working folder.

    Rows count as in a spreadsheet (the header is row 1), those of .jsonl by lines and those of .parquet from 1. Every row is
    yielded: as a record, or as a failure, and the rest goes on. A folder is walked as one of images is, and what is no .txt
    file in it is counted in `ignored` by kind. A source that cannot be read as a whole raises `ReportError`.
    """
    path = Path(path)
    if path.is_dir():
        return read_folder(path, ignored=Counter() if ignored is None else ignored)
    if not path.is_file():
        raise ReportError(
            f"{path} is neither a file nor a folder; reports come as .csv, .jsonl, .parquet or .txt", reason="missing"
        )
    return read_table(path, patients=patients)
