"""Mutated tables of reports (CSV, JSON lines) and report texts, as bytes of one file each."""

import json
import random

from tests.fuzz.mutation import case_random, mutate_bytes
from tests.fuzz.pictures import Case

_REPORTS = (
    "FINDINGS: The lungs are clear. No pleural effusion. IMPRESSION: No acute cardiopulmonary abnormality.",
    "There is a large left pneumothorax.", "IMPRESSION:\n1. Small bilateral pleural effusions.\n2. The heart is enlarged.",
    'FINDINGS: "ground-glass" opacity, left; see ADDENDUM.\n\nADDENDUM: No pneumothorax.', "Impression: ok" * 200,
)  # fmt: skip
_ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\ufeff", "\u2028", "\r\n", "\r",
    '"', '""', "'", ",", ";", "\t", "=1+1", "\x1b[2J", "\u202e", "e\u0301" * 40,
    "x" * 140_000, "\U0001f642" * 200, "FINDINGS:" * 500, "IMPRESSION:", "FINDINGS: IMPRESSION: FINDINGS:",
    "\n" * 3000, "_" * 5000,
    "n\u00e3o h\u00e1 derrame pleural", "keine Erg\u00fcsse", "\u6b63\u5e38", ":" * 2000, "1. 2. 3. 4.", "banana split",
)  # fmt: skip
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32", "cp1252")
_COLUMNS = (
    "id",
    "report",
    "text",
    "path",
    "study_uid",
    "study_id",
    "patient_id",
    "issuer_of_patient_id",
    "other",
    "",
    "REPORT ",
)


def _text(rng: random.Random, number: int) -> str:
    return f"{rng.choice(_REPORTS)} {number}" if rng.random() < 0.8 else rng.choice(_ODD_TEXTS)


def csv_table(seed: int, number: int) -> Case:
    """Make a CSV file: quotes that do not close, other delimiters, ragged rows, NUL bytes, a BOM, another encoding."""
    rng = case_random(seed, "csv", number)
    names = ["report", *rng.sample(_COLUMNS, rng.randint(0, 5))]
    rng.shuffle(names)
    done = []
    delimiter = rng.choice((",", ",", ",", ",", ";", "\t", "|"))
    ending = rng.choice(("\r\n", "\n", "\n", "\r"))
    rows = [names] + [[_cell(rng, name, row) for name in names] for row in range(rng.choice((0, 1, 3, 20)))]
    for row in rows[1:]:
        if rng.random() < 0.05:
            del row[rng.randrange(len(row)) :]
            done.append("short row")
        if rng.random() < 0.05:
            row += ["x"] * rng.randint(1, 3)
            done.append("long row")
    lines = [delimiter.join(_quoted(rng, cell, delimiter) for cell in row) for row in rows]
    if rng.random() < 0.2:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(("", " ", ",,,", '"', "\0", "# comment", "sep=;")))
        done.append("odd line")
    return _finished(rng, number, ending.join(lines) + ending * rng.randint(0, 2), done)


def _cell(rng: random.Random, name: str, row: int) -> str:
    if name.strip().lower() in ("report", "text"):
        return _text(rng, row)
    return rng.choice((str(row), str(row), "", "1.2.3", "a/b.txt", "\0", "x" * 3000, " 7 ", "7.0"))


def _quoted(rng: random.Random, cell: str, delimiter: str) -> str:
    if rng.random() < 0.03:
        return f'"{cell}'  # never closed
    if rng.random() < 0.03:
        return f'"{cell}"x'
    if rng.random() < 0.9 and any(mark in cell for mark in (delimiter, '"', "\n", "\r")):
        cell = cell.replace('"', '""')
        return f'"{cell}"'
    return cell


def json_table(seed: int, number: int) -> Case:
    """Make a file of JSON lines: lines cut in the middle, other types, deep nesting, numbers beyond all bounds."""
    rng = case_random(seed, "jsonl", number)
    lines, done = [], []
    for row in range(rng.choice((0, 1, 3, 20))):
        values: dict[str, object] = {"id": str(row), "report": _text(rng, row)}
        if rng.random() < 0.3:
            name = rng.choice(_COLUMNS)
            values[name] = rng.choice((None, 1, 1.5, True, [], {}, ["a"], "x", "\ud800", 2**70, -1, "\0"))
            done.append("odd value")
        line = json.dumps(values, ensure_ascii=rng.random() < 0.7) if rng.random() < 0.9 else str(values)
        if rng.random() < 0.08:
            line = line[: rng.randrange(len(line))]
            done.append("cut line")
        if rng.random() < 0.04:
            line = rng.choice(
                (
                    "[" * 100_000,
                    "1e999",
                    "NaN",
                    "null",
                    "[]",
                    '"x"',
                    "{}",
                    '{"a":1}{"b":2}',
                    "9" * 5000,
                    "\ufeff{}",
                    '{"report":}',
                )
            )
            done.append("odd line")
        lines.append(line)
    return _finished(rng, number, "\n".join(lines) + "\n" * rng.randint(0, 2), done)


def report_text(seed: int, number: int) -> Case:
    """Make the text file of one report."""
    rng = case_random(seed, "report", number)
    text = "\n".join(_text(rng, part) for part in range(rng.choice((0, 1, 1, 2, 5))))
    return _finished(rng, number, text, [])


def _finished(rng: random.Random, number: int, text: str, done: list[str]) -> Case:
    encoding = rng.choice(_ENCODINGS)
    data = text.encode(encoding, "surrogatepass" if encoding.startswith("utf-") else "replace")
    done.append(encoding)
    if rng.random() < 0.5:
        data, how = mutate_bytes(rng, data, data[::-1])
        done.append(how)
    return Case(number, data, tuple(dict.fromkeys(done)))
