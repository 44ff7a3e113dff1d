"""One report as it was read, or why it could not be."""

import hashlib
from dataclasses import dataclass, field

LONGEST = 1 << 17
"""Characters that a report may have, and any other field of a CSV file (the limit of Python's csv module). Reports have
some thousand; what is longer is another file, or rows that a quote without its end holds together."""


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

    path_given: bool = field(default=False, compare=False)
    """True where `path` is the column `path`."""

    source: str = field(default="", compare=False)
    """Where it was read, whatever the working folder and the spelling of the path: the real path of a .txt file; that of a
    table, then `/ROW`, or `/id/ID` where the report has an id of its own. Empty where that is unknown."""

    former_id: str | None = field(default=None, compare=False)
    """The id that earlier versions derived, which did not tell two studies or two folders apart; None where a table gives
    an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFailure:
    """One report that could not be read; `reason` is a stable word as in `ReportError`."""

    path: str
    reason: str
    error: str


def derived_id(*parts: str) -> str:
    """Return the id of a report without one: SHA-256 over parts that cannot run into each other, 128 bits of it."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "big") + data)
    return f"sha256:{digest.hexdigest()[:32]}"
