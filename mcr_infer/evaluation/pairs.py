"""Pairs of a radiograph and its report, as a hospital hands them in for an evaluation.

PAIRS.csv has the columns image (or file) and report, and may have patient, findings and split; `mcr-infer demo` writes one
as truth.csv. Names and meanings of the columns are the same in the tables that training reads.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.evaluation.finding_labels import note_kind_columns, read_label_column
from mcr_infer.reports.csv_rows import read_header, read_rows
from mcr_infer.reports.rows import BadRow, TableRow, describe_row, is_text

COLUMNS = {
    "image": ("image", "file"), "report": ("report",), "patient": ("patient",), "findings": ("findings",),
    "split": ("split",), "view": ("view",),
}  # fmt: skip
"""Names of the columns of a table of pairs where nobody gives others; image and report must be there."""

_ROLES = ("image", "report", "patient", "findings", "split")
"""Columns that are read for an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One radiograph and the report that was written for it."""

    image: Path
    report: str
    patient: str | None = None
    """Any name that the images of one person share; None where the file does not say."""

    findings: str | None = None
    """Findings joined by `;`, as in `left pleural effusion;cardiomegaly`; empty for a normal radiograph, None where nobody
    labelled it. Only `;` separates findings here: a table's other separators are known to `read_pairs` alone."""


class Table(NamedTuple):
    """What a PAIRS.csv holds."""

    pairs: list[Pair]
    notes: list[str]
    """What was decided about the file that its owner may not expect."""


def read_pairs(
    path: Path,
    *,
    columns: Mapping[str, str] = MappingProxyType({}),
    label_separator: str | None = None,
    split: str | None = None,
) -> Table:
    """Read PAIRS.csv, as tables of reports are read (`mcr_infer.reports.csv_rows`); image paths are relative to its folder.

    `columns` names columns that are not called as in `COLUMNS`; `label_separator` is what separates findings where that
    is not clear from the column (`finding_labels.read_label_column`); with `split` only its rows are taken.

    Raises `ConfigError` where a column, an image or the file is missing, and `ReportError` where the table cannot be read
    or a row has no report; both name the row, counted as in a spreadsheet (the header is row 1).
    """
    path = Path(path)
    header, rows = _read_rows(path, columns)
    found = {
        role: find_column(header, role, columns.get(role), where=str(path), option=f"--{role}-column")
        for role in _ROLES
    }
    names = {role: name for role, name in found.items() if name is not None}
    for row in rows:
        if not is_text(*(row.values[name] for name in names.values())):
            raise ReportError(f"{path}: {describe_row(row)}: not valid UTF-8, or with NUL in it", reason="encoding")
    rows, notes = _take_split(path, rows, names.get("split"), split)
    if "findings" not in names and (note := note_kind_columns(header)):
        notes.append(f"{path.name}: {note}")
    findings = _read_findings(path, rows, names.get("findings"), label_separator, notes)
    pairs = [_pair(path, row, names, labels) for row, labels in zip(rows, findings, strict=True)]
    absent = [(row, pair.image) for row, pair in zip(rows, pairs, strict=True) if not pair.image.is_file()]
    if absent:
        row, image = absent[0]
        raise ConfigError(
            f"{path}: {len(absent)} of {len(pairs)} images are not there, the first in {describe_row(row)}: {image}; "
            f"paths are relative to {path.parent}"
        )
    if len(pairs) < 2:
        raise ConfigError(f"{path} has {len(pairs)} pairs: retrieval needs at least 2")
    return Table(pairs, notes)


def _read_rows(path: Path, columns: Mapping[str, str]) -> tuple[list[str], list[TableRow]]:
    """Return the names of the columns and all rows; one row that cannot be read is an error.

    Leaving it out would change what is measured.
    """
    expected = [name for role in _ROLES for name in ((columns[role],) if role in columns else COLUMNS[role])]
    rows: list[TableRow | BadRow] = []
    try:
        header = read_header(path, expected)
        rows.extend(read_rows(path, header))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeError as exc:
        last = rows[-1].number if rows else header.first
        raise ReportError(f"{path} is cut or damaged after row {last}", reason="encoding") from exc
    bad = [row for row in rows if isinstance(row, BadRow)]
    if bad:
        more = f" ({len(bad)} rows cannot be read)" if len(bad) > 1 else ""
        raise ReportError(f"{path}: {describe_row(bad[0])}: {bad[0].error}{more}", reason=bad[0].reason)
    return header.names, [row for row in rows if isinstance(row, TableRow)]


def find_column(header: Sequence[str], role: str, name: str | None, *, where: str, option: str) -> str | None:
    """Return how the header spells the column of a role of `COLUMNS`, or None for an optional one that is not there.

    `name` is the name that the user gave, None for the usual ones; case counts only to tell two columns apart. Raises
    `ConfigError` for a column that is there twice, and for one that is not there although it was named or is needed.
    """
    for known in (name,) if name is not None else COLUMNS[role]:
        same = [one for one in header if one.lower() == known.lower()]
        if name is not None and same.count(name) == 1:
            return name
        if len(same) > 1:
            raise ConfigError(f"{where} has the columns {', '.join(map(repr, same))} where one {known!r} is expected")
        if same:
            return same[0]
    if name is None and role not in ("image", "report"):
        return None
    expected = " or ".join(map(repr, (name,) if name is not None else COLUMNS[role]))
    raise ConfigError(f"{where} has no column {expected}: name it with {option}; its header is {list(header)}")


def _take_split(
    path: Path, rows: list[TableRow], column: str | None, split: str | None
) -> tuple[list[TableRow], list[str]]:
    """Return the rows of a split, or all of them with a note where there are several."""
    if column is None:
        if split is not None:
            raise ConfigError(f"{path} has no column 'split' to choose {split!r} from: name it with --split-column")
        return rows, []
    counts = Counter(row.values[column].strip() for row in rows)
    listed = ", ".join(f"{name or '(blank)'} {count}" for name, count in counts.items())
    if split is None:
        note = f"{path.name} has several splits ({listed}): all rows are evaluated; --split takes one of them"
        return rows, [note] if len(counts) > 1 else []
    taken = [row for row in rows if row.values[column].strip().lower() == split.strip().lower()]
    if not taken:
        raise ConfigError(f"{path} has no row of split {split!r}; its splits are {listed}")
    return taken, []


def _read_findings(
    path: Path, rows: list[TableRow], column: str | None, separator: str | None, notes: list[str]
) -> list[str | None]:
    """Return the findings of each row; what a blank cell means is noted."""
    if column is None:
        return [None] * len(rows)
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.values[column], row.number)
    labels = read_label_column(first, where=f"{path}, column of findings", separator=separator)
    said = any(not found for found in labels.values())
    blank = sum(row.values[column] not in labels for row in rows)
    if blank and labels:
        meaning = "not labelled, since others say that there is no finding" if said else "radiographs without findings"
        notes.append(f"{path.name}: {blank} blank cells of findings are {meaning}")
    default = None if said else ""
    cells = [row.values[column] for row in rows]
    return [";".join(labels[cell]) if cell in labels else default for cell in cells]


def _pair(path: Path, row: TableRow, names: Mapping[str, str], findings: str | None) -> Pair:
    image, report = row.values[names["image"]].strip(), row.values[names["report"]]
    if not image:
        raise ConfigError(f"{path}: {describe_row(row)} names no image")
    if not report.strip():
        raise ReportError(f"{path}: {describe_row(row)} has an empty report; leave the row out", reason="empty")
    patient = row.values[names["patient"]].strip() if "patient" in names else ""
    return Pair(image=path.parent / image, report=report, patient=patient or None, findings=findings)
