"""Pairs of a radiograph and its report, as a hospital hands them in for an evaluation.

PAIRS.csv has the columns image (or file) and report, and may have patient, findings and split; `mcr-infer demo` writes one
as truth.csv. Names and meanings of the columns are the same in the tables that training reads.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.evaluation.finding_labels import note_kind_columns, read_label_column

COLUMNS = {
    "image": ("image", "file"), "report": ("report",), "patient": ("patient",), "findings": ("findings",),
    "split": ("split",), "view": ("view",),
}  # fmt: skip
"""Names of the columns of a table of pairs where nobody gives others; image and report must be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One radiograph and the report that was written for it."""

    image: Path
    report: str
    patient: str | None = None
    """Any name that the images of one person share; None where the file does not say."""

    findings: str | None = None
    """Findings separated by `;`, empty for a normal radiograph; None where nobody labelled it."""


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
    """Read PAIRS.csv; image paths are relative to its folder.

    `columns` names columns that are not called as in `COLUMNS`; `label_separator` is what separates findings where that
    is not clear from the column (`finding_labels.read_label_column`); with `split` only its rows are taken.

    Raises `ConfigError` when it is no such file or images are missing, `ReportError` for a row without a report; both
    name the row, counted as in a spreadsheet (the header is row 1).
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.reader(stream, strict=True))
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except (csv.Error, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not a CSV file in UTF-8: {exc}") from exc
    header = [name.strip() for name in rows[0]] if rows else []
    found = {
        role: find_column(header, role, columns.get(role), where=str(path), option=f"--{role}-column")
        for role in ("image", "report", "patient", "findings", "split")
    }
    numbered = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    for number, row in numbered:
        if len(row) != len(header):
            raise ConfigError(
                f"{path}: row {number} has {len(row)} columns, the header has {len(header)}; put the report in quotes"
            )
    places = {role: header.index(name) for role, name in found.items() if name is not None}
    numbered, notes = _take_split(path, numbered, places.get("split"), split)
    if "findings" not in places and (note := note_kind_columns(header)):
        notes.append(f"{path.name}: {note}")
    findings = _read_findings(path, numbered, places.get("findings"), label_separator, notes)
    pairs = [_pair(path, number, row, places, labels) for (number, row), labels in zip(numbered, findings, strict=True)]
    absent = [
        (number, pair.image) for (number, _), pair in zip(numbered, pairs, strict=True) if not pair.image.is_file()
    ]
    if absent:
        raise ConfigError(
            f"{path}: {len(absent)} of {len(pairs)} images are not there, the first in row {absent[0][0]}: "
            f"{absent[0][1]}; paths are relative to {Path(path).parent}"
        )
    if len(pairs) < 2:
        raise ConfigError(f"{path} has {len(pairs)} pairs: retrieval needs at least 2")
    return Table(pairs, notes)


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
    path: Path, rows: list[tuple[int, list[str]]], place: int | None, split: str | None
) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """Return the rows of a split, or all of them with a note where there are several."""
    if place is None:
        if split is not None:
            raise ConfigError(f"{path} has no column 'split' to choose {split!r} from: name it with --split-column")
        return rows, []
    counts = Counter(row[place].strip() for _, row in rows)
    listed = ", ".join(f"{name or '(blank)'} {count}" for name, count in counts.items())
    if split is None:
        note = f"{path.name} has several splits ({listed}): all rows are evaluated; --split takes one of them"
        return rows, [note] if len(counts) > 1 else []
    taken = [(number, row) for number, row in rows if row[place].strip().lower() == split.strip().lower()]
    if not taken:
        raise ConfigError(f"{path} has no row of split {split!r}; its splits are {listed}")
    return taken, []


def _read_findings(
    path: Path, rows: list[tuple[int, list[str]]], place: int | None, separator: str | None, notes: list[str]
) -> list[str | None]:
    """Return the findings of each row; what a blank cell means is noted."""
    if place is None:
        return [None] * len(rows)
    first: dict[str, int] = {}
    for number, row in rows:
        first.setdefault(row[place], number)
    labels = read_label_column(first, where=f"{path}, column of findings", separator=separator)
    said = any(not found for found in labels.values())
    blank = sum(row[place] not in labels for _, row in rows)
    if blank and labels:
        meaning = "not labelled, since others say that there is no finding" if said else "radiographs without findings"
        notes.append(f"{path.name}: {blank} blank cells of findings are {meaning}")
    default = None if said else ""
    return [";".join(labels[row[place]]) if row[place] in labels else default for _, row in rows]


def _pair(path: Path, number: int, row: list[str], places: Mapping[str, int], findings: str | None) -> Pair:
    image, report = row[places["image"]].strip(), row[places["report"]]
    if not image:
        raise ConfigError(f"{path}: row {number} names no image")
    if not report.strip():
        raise ReportError(f"{path}: row {number} has an empty report; leave the row out", reason="empty")
    patient = row[places["patient"]].strip() if "patient" in places else ""
    return Pair(image=Path(path).parent / image, report=report, patient=patient or None, findings=findings)
