"""Pairs of a radiograph and its report, as a hospital hands them in for an evaluation, and what their labels mean.

PAIRS.csv has the columns image (or file) and report, and may have patient and findings; `mcr-infer demo` writes one as
truth.csv. Findings are separated by `;`, each `[left|right|bilateral] [upper|middle|lower lobe] kind`.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcr_infer.errors import ConfigError, ReportError

_LOBE = re.compile(r"\b(upper|middle|lower) lobe\b")
_SIDE = re.compile(r"\b(left|right|bilateral)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One radiograph and the report that was written for it."""

    image: Path
    report: str
    patient: str | None = None
    """Any name that the images of one person share; None where the file does not say."""

    findings: str | None = None
    """Findings separated by `;`, empty for a normal radiograph; None where nobody labelled it."""


def read_pairs(path: Path) -> list[Pair]:
    """Read PAIRS.csv; image paths are relative to its folder.

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
    header = [name.strip().lower() for name in rows[0]] if rows else []
    image = "image" if "image" in header else "file"
    missing = [name for name in (image, "report") if header.count(name) != 1]
    if missing:
        raise ConfigError(
            f"{path} must have the columns image (or file) and report once each, and may have patient and findings; "
            f"its header is {header}"
        )
    numbered = [(number, row) for number, row in enumerate(rows[1:], start=2) if row]
    pairs = [_pair(path, number, header, row, image) for number, row in numbered]
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
    return pairs


def _pair(path: Path, number: int, header: list[str], row: list[str], image: str) -> Pair:
    if len(row) != len(header):
        raise ConfigError(
            f"{path}: row {number} has {len(row)} columns, the header has {len(header)}; put the report in quotes"
        )
    values = dict(zip(header, row, strict=True))
    if not values[image].strip():
        raise ConfigError(f"{path}: row {number} names no image")
    if not values["report"].strip():
        raise ReportError(f"{path}: row {number} has an empty report; leave the row out", reason="empty")
    return Pair(
        image=Path(path).parent / values[image].strip(),
        report=values["report"],
        patient=values.get("patient", "").strip() or None,
        findings=values.get("findings"),
    )


def split_findings(findings: str) -> list[str]:
    """Split a finding set into its labels: lower case, single spaces, sorted, each once."""
    labels = (" ".join(label.lower().split()) for label in findings.split(";"))
    return sorted({label for label in labels if label})


def finding_set_key(findings: str) -> str:
    """Name a finding set by kind and side alone: lobes are dropped, the order does not matter."""
    return ";".join(sorted({_without_lobe(label) for label in split_findings(findings)}))


def finding_labels_match(query_label: str, findings: str) -> bool:
    """Say whether a radiograph with these findings is a right answer to a query for `query_label`.

    Some finding must have all the words of the query: `effusion` and `left effusion` are answered by `left pleural
    effusion`, `right consolidation` by `right upper lobe consolidation`. A bilateral finding answers the query for either
    side; a one-sided one never answers a bilateral query. Several labels separated by `;` must all be answered. The
    empty query asks for a normal radiograph and is answered by the empty set alone.
    """
    wanted, present = split_findings(query_label), split_findings(findings)
    if not wanted:
        return not present
    words = [set(label.split()) for label in present]
    words = [one | {"left", "right"} if "bilateral" in one else one for one in words]
    return all(any(set(label.split()) <= one for one in words) for label in wanted)


def query_labels(findings: Sequence[str]) -> list[str]:
    """Name everything one can ask of these radiographs by kind, and by kind and side: sorted, each once."""
    sided = {label for one in findings for label in map(_without_lobe, split_findings(one))}
    kinds = {" ".join(_SIDE.sub("", label).split()) for label in sided}
    return sorted(label for label in sided | kinds if label)


def _without_lobe(label: str) -> str:
    return " ".join(_LOBE.sub("", label).split())
