"""Finding labels: how a column of a table holds them, what they mean, and which finding answers which query.

A label is `[left|right|bilateral] [upper|middle|lower lobe] kind`. Several labels of one radiograph are joined by `;` inside
this package; `read_label_column` turns what a hospital's or a public data set's table holds into that form, or refuses it.
"""

import ast
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from mcr_infer.errors import ConfigError

KINDS = frozenset({
    "airspace opacity", "atelectasis", "cardiomegaly", "central line", "chest tube", "consolidation", "edema", "effusion",
    "emphysema", "endotracheal tube", "enlarged cardiomediastinum", "fibrosis", "fracture", "hernia", "hiatal hernia",
    "hydropneumothorax", "hyperinflation", "infiltrate", "infiltration", "interstitial lung disease", "lung lesion",
    "lung mass", "lung nodule", "lung opacity", "mass", "nodule", "opacity", "pacemaker", "pleural effusion",
    "pleural other", "pleural thickening", "pneumonia", "pneumothorax", "pulmonary edema", "rib fracture",
    "support devices", "tuberculosis",
})  # fmt: skip
"""Kinds whose side and lobe may be cut off: those of the phantoms, of CheXpert and of ChestX-ray14, and close relatives.

Of any other label a side is part of the meaning: `left ventricular enlargement`, `the trachea is shifted to the right`.
"""

NO_FINDING = frozenset({
    "healthy", "no abnormalities", "no abnormality", "no acute finding", "no acute findings", "no finding", "no findings",
    "no significant finding", "no significant findings", "normal", "unremarkable", "within normal limits",
})  # fmt: skip
"""Labels that say that there is none; beside other labels they say nothing."""

_SEPARATORS = (";", "|", "\n")
"""Characters that a label does not hold by itself."""

_JOINERS = ("/", "+", "&", "\t", ":", " and ")
"""What may join labels, or be part of one: never taken for a separator, refused where it looks like one."""

_OPTION = "--label-separator (data.radiographs.label_separator in a training configuration)"

_KIND = f"(?P<kind>{'|'.join(sorted(KINDS, key=len, reverse=True))})(?:e?s)?"
_SIDE = "(?P<side>left|right|bilateral)"
_FORMS = (
    re.compile(rf"(?:{_SIDE}(?:[- ]sided)? )?(?:(?P<lobe>(?:upper|middle|lower) lobe) )?{_KIND}"),
    re.compile(rf"(?P<lobe>){_KIND}(?:, ?| \(| ){_SIDE}\)?"),
)

_MARK = re.compile(r"[-+]?\d+(\.\d*)?|[ux?]|yes|no|true|false|positive|negative|nan|na|n/a|null|none|unknown|uncertain")
"""Labels that are no finding and do not say whether there is one."""

_NOT_STATED = re.compile(
    r".*\?.*|.*[:=] ?[-+]?\d+(\.\d*)?|.*\([-+]?(\d+(\.\d*)?|u|uncertain|absent|negative)\)"
    r"|(no|not|without|denies|absent|negative for|possible|possibly|probable|probably|suspected|questionable|uncertain"
    r"|rule out|r/o)\b.*|.* (uncertain|absent|negative|not seen|ruled out)"
)
"""Labels of findings that are uncertain or absent."""

_PROSE = re.compile(r"\w\w\.\s+\S|^\s*\S+(\s+\S+){3,}\.\s*$|[^;|,\n]{100}")
"""What a sentence has and a label has not."""


class _Label(NamedTuple):
    side: str
    lobe: str
    kind: str
    """Of a label that is not of the form `[side] [lobe] KIND` this is the whole label."""

    def __str__(self) -> str:
        return " ".join(filter(None, self))


def split_findings(findings: str) -> list[str]:
    """Split findings joined by `;` into labels in one spelling, sorted, each once; `No Finding` is none.

    Lower case, single spaces, `_` read as a space. Where the kind is one of `KINDS`, its side stands first, whether it was
    written `left-sided effusion`, `Effusion, left` or `Left effusions`.
    """
    labels = {str(_parse(label)) for label in findings.split(";")}
    return sorted(labels - NO_FINDING - {""})


def finding_set_key(findings: str) -> str:
    """Name a finding set by kind and side alone: lobes are dropped, the order does not matter."""
    return ";".join(sorted({_without_lobe(label) for label in split_findings(findings)}))


def finding_labels_match(query_label: str, findings: str) -> bool:
    """Say whether a radiograph with these findings is a right answer to a query for `query_label`.

    Some finding must have all the words of the query: `effusion` and `left effusion` are answered by `left pleural
    effusion`, `right consolidation` by `right upper lobe consolidation`. A bilateral finding answers the query for either
    side; a one-sided one never answers a bilateral query. Several labels separated by `;` must all be answered. The
    empty query, like `No Finding`, asks for a normal radiograph and is answered by the empty set alone.
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
    return sorted(sided | {_parse(label).kind for label in sided})


@lru_cache(maxsize=4096)
def _parse(label: str) -> _Label:
    """Read one label in any spelling; its side and lobe are told apart where the kind is a known one."""
    words = " ".join(label.replace("_", " ").lower().split()).strip(" .,'\"")
    for form in _FORMS:
        if found := form.fullmatch(words):
            return _Label(found["side"] or "", found["lobe"] or "", found["kind"])
    return _Label("", "", words)


def _without_lobe(label: str) -> str:
    return str(_parse(label)._replace(lobe=""))


def note_kind_columns(header: Sequence[str]) -> str | None:
    """Say that a table without a column of labels has one column a finding instead, as CheXpert's tables do."""
    kinds = [name for name in header if _parse(name).kind in KINDS]
    if len(kinds) < 2:
        return None
    return (
        f"the columns {', '.join(kinds)} look like one finding each and are not read: list the findings that are present "
        "in one column of labels"
    )


def read_label_column(
    cells: Mapping[str, int], *, where: str, separator: str | None = None
) -> dict[str, tuple[str, ...]]:
    """Read a column of labels: for each distinct cell, blank ones apart, its labels in one spelling; () = no finding.

    `cells` gives the row in which each cell occurs first, `where` names the column in messages. A cell in brackets is a
    JSON or Python list. What separates labels in the others is decided over the whole column, unless `separator` says it:
    `;`, `|` or a line break where just one of them occurs; a comma where each part is a label by itself.

    Raises `ConfigError`, which names the rows, where that is not clear, and for labels that do not state a finding as
    present: `-1`, `U`, `effusion?`, `no effusion`.
    """
    filled = {cell: row for cell, row in cells.items() if cell.strip()}
    if prose := next((row for cell, row in filled.items() if _PROSE.search(cell)), None):
        raise ConfigError(
            f"{where}: row {prose} holds a text, not labels: name the column of labels with --findings-column "
            "(data.radiographs.findings_column in a training configuration)"
        )
    lists = {cell: _read_list(cell, row, where) for cell, row in filled.items() if cell.strip()[0] in "[{"}
    texts = {cell: row for cell, row in filled.items() if cell not in lists}
    cut = _choose_separator(texts, where) if separator is None else separator
    labels = lists | {cell: cell.split(cut) for cell in texts}
    return {cell: _checked(labels[cell], row, where) for cell, row in filled.items()}


def _read_list(cell: str, row: int, where: str) -> list[str]:
    """Read a list as JSON or Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(cell.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        # ['a' 'b'] is how NumPy prints an array; Python reads one label in it.
        joined = re.search(r"""['"]\s+['"]""", cell)
        if isinstance(values, list | set) and all(isinstance(one, str) for one in values) and not joined:
            return list(values)
    raise ConfigError(f"{where}: row {row} holds {_shown(cell)}, which is no list of quoted labels in JSON or Python")


def _choose_separator(texts: Mapping[str, int], where: str) -> str:
    """Tell what separates the labels of a column; `;` where nothing does."""
    found: dict[str, int] = {}
    for cell, row in texts.items():
        for mark in _SEPARATORS:
            if mark in cell:
                found.setdefault(mark, row)
    if len(found) > 1:
        (one, first), (other, second), *_ = found.items()
        raise ConfigError(
            f"{where}: row {first} holds {one!r} and row {second} {other!r}: say which separates labels with {_OPTION}"
        )
    cut = next(iter(found), ";")
    pieces: dict[str, int] = {}
    for cell, row in texts.items():
        for piece in filter(str.strip, cell.split(cut)):
            pieces.setdefault(piece, row)
    alone = {str(_parse(piece)) for piece in pieces if not any(mark in piece for mark in (",", *_JOINERS))}

    def several(piece: str, mark: str) -> bool:
        parts = [_parse(part) for part in piece.split(mark) if part.strip()]
        return len(parts) > 1 and all(one.kind in KINDS or str(one) in NO_FINDING or str(one) in alone for one in parts)

    with_commas = {piece: row for piece, row in pieces.items() if "," in piece.strip(" ,")}
    joined = {piece: row for piece, row in with_commas.items() if several(piece, ",")}
    unclear = {
        piece: row for piece, row in with_commas.items() if piece not in joined and _parse(piece).kind not in KINDS
    }
    if joined and (found or len(joined) < len(with_commas)):
        _refuse(joined, ",", where)
    if unclear and not found:
        _refuse(unclear, ",", where)
    if joined:
        cut = ","
        pieces = {part: row for piece, row in pieces.items() for part in piece.split(",")}
    for mark in _JOINERS:
        if looks_joined := {piece: row for piece, row in pieces.items() if several(piece, mark)}:
            _refuse(looks_joined, mark, where)
    return cut


def _refuse(pieces: Mapping[str, int], mark: str, where: str) -> None:
    piece, row = min(pieces.items(), key=lambda item: item[1])
    raise ConfigError(
        f"{where}: row {row} holds {_shown(piece)}, one label or several joined by {mark!r}: say what separates labels with "
        f"{_OPTION}, {mark!r} for several or ';' for one"
    )


def _checked(labels: Sequence[str], row: int, where: str) -> tuple[str, ...]:
    """Return labels in one spelling, after refusing those that do not state a finding as present."""
    for label in labels:
        words = str(_parse(label))
        if ";" in label:
            raise ConfigError(f"{where}: the label {_shown(label)} in row {row} holds a ';', which separates labels")
        if _MARK.fullmatch(words):
            raise ConfigError(
                f"{where}: row {row} holds {_shown(label)}, which names no finding: list the findings that are present, "
                "write 'No Finding' where there is none, and leave the cell blank where nobody looked"
            )
        if words not in NO_FINDING and _NOT_STATED.fullmatch(words):
            raise ConfigError(
                f"{where}: row {row} holds {_shown(label)}, a finding that is uncertain or absent: list only findings that "
                "are stated as present"
            )
    return tuple(split_findings(";".join(labels)))


def _shown(text: str) -> str:
    """Quote a label for a message; what is longer than a label may be a text about a patient."""
    return repr(text.strip()) if len(text) <= 60 else f"a text of {len(text)} characters"
