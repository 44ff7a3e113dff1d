"""One report as it was read, or why it could not be."""

from dataclasses import dataclass


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
