"""CSV files row by row, through damage: every line that can be a row is a row, or named with what is wrong with it.

Tables of reports and of pairs are separated by comma, semicolon, tab or bar, which their header decides.

Python's csv module reads one row; what is added here is where the next row begins after a quote that is never closed.
"""

import csv
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mcr_infer.errors import ReportError
from mcr_infer.reports.lines import Line, Lines, open_text
from mcr_infer.reports.rows import TEXT_COLUMNS, BadRow, TableRow, check_columns, is_text, no_text_column

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

_TOO_LONG = "field larger than field limit"
"""How the csv module begins to say that a field has more than `LONGEST` characters."""

_AHEAD = 1_000
"""Lines in which the end of a broken row is looked for; a report has some ten."""


def csv_rows(path: Path) -> Iterator[TableRow | BadRow]:
    """Read a CSV file of reports; the names of its columns are taken in lower case.

    Raises `ReportError` at once where the header cannot be read or lacks a column of texts, `OSError` then and later, and
    `UnicodeError` later.
    """
    header = read_header(path, TEXT_COLUMNS)
    names = [name.lower() for name in header.names]
    if set(TEXT_COLUMNS).isdisjoint(names):
        raise no_text_column(path, names, f"UTF-8, separated by one of {', '.join(_DELIMITERS.values())}")
    check_columns(path, names)
    return read_rows(path, header._replace(names=names))


class Header(NamedTuple):
    """The header of a CSV file."""

    names: list[str]
    """Names of the columns as the file spells them, without the space around them."""
    delimiter: str
    first: int
    """The line in which the header begins, from 1; 0 for an empty file."""
    last: int
    """The line in which it ends."""


def read_header(path: Path, expected: Collection[str]) -> Header:
    """Read the header of a CSV file with the delimiter by which most of the `expected` columns are found, in any case.

    Commas where none is found. Raises `OSError`, and `ReportError` for what is not UTF-8, UTF-16 or CSV.
    """
    headers: list[Header] = []
    error: csv.Error | None = None
    for delimiter in _DELIMITERS:
        try:
            row, first, last = _first_row(path, delimiter)
        except csv.Error as exc:
            error = error or exc
            continue
        names = [name.strip() for name in row]
        if not is_text(*names):
            raise ReportError(
                f"{path} is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8", reason="encoding"
            )
        headers.append(Header(names, delimiter, first, last))
    wanted = {name.lower() for name in expected}
    counts = [len(wanted.intersection(name.lower() for name in header.names)) for header in headers]
    if error is not None and not any(counts):
        raise ReportError(f"{path}: row 1 is not CSV: {error}", reason="format") from error
    return headers[counts.index(max(counts))]


def _first_row(path: Path, delimiter: str) -> tuple[list[str], int, int]:
    """Return the first row that is not blank, and the lines in which it begins and ends.

    Raises `csv.Error` and `ReportError`.
    """
    try:
        with open_text(path) as stream:
            lines = Lines(stream)
            while line := lines.take():
                held = [line]
                if row := _parse(lines, held, delimiter):
                    return row, line.number, held[-1].number
    except UnicodeError as exc:
        raise ReportError(f"{path} is cut in the middle of a character of its header", reason="encoding") from exc
    return [], 0, 0


def read_rows(path: Path, header: Header) -> Iterator[TableRow | BadRow]:
    """Read the rows below a header: quotes as in RFC 4180, blank lines skipped. Raises `OSError` and `UnicodeError`."""
    names, delimiter, number, last = header
    with open_text(path) as stream:
        lines = Lines(stream)
        for _ in range(last):
            lines.take()
        while first := lines.take():
            number += 1
            held, row, reason = [first], [], "format"
            try:
                row = _parse(lines, held, delimiter)
            except csv.Error as exc:
                reason = "too_large" if str(exc).startswith(_TOO_LONG) else "format"
                error = f"not CSV: {exc}"
            else:
                if not row:  # a blank line
                    continue
                if len(row) == len(names):
                    yield TableRow(number=number, line=first.number, values=dict(zip(names, row, strict=True)))
                    continue
                error = f"has {len(row)} columns, the header has {len(names)}; put the report in quotes"
            opened = _line_of_open_quote(held)
            if len(held) > 1 and row:
                error = f"{error}, or close the quote that opens in line {opened}"
            elif len(held) > 1:
                error = f"a quote opens in line {opened} and is not closed where the row ends ({error})"
            yield BadRow(number=number, line=first.number, reason=reason, error=error)
            lines.put_back(held[1:])
            if len(held) > 1 or first.quotes % 2 or (first.quotes and _closes_later(lines, delimiter)):
                for lost in _up_to_next_row(lines, delimiter, len(names)):
                    number += 1
                    error = f"lies behind a quote that opens in line {opened} and is not closed: close it"
                    yield BadRow(number=number, line=lost.number, reason="format", error=error)


def _parse(lines: Lines, held: list[Line], delimiter: str) -> list[str]:
    """Parse the row that begins with the line in `held`; lines that it goes on with are taken and appended to it.

    Raises `csv.Error`.
    """

    def texts() -> Iterator[str]:
        line: Line | None = held[0]
        while line:
            if line.cut:
                raise csv.Error(f"{_TOO_LONG}, in line {line.number}")
            yield line.text
            if line := lines.take():
                held.append(line)

    return next(csv.reader(texts(), delimiter=delimiter, strict=True))


def _line_of_open_quote(held: Sequence[Line]) -> int:
    """Return the number of the line in which the quote opens that held the lines of a row together."""
    opened, inside = held[0].number, False
    for line in held[:-1]:
        if quotes := line.text.replace('""', "").count('"'):
            inside ^= quotes % 2 == 1
            opened = line.number if inside else opened
    return opened


def _up_to_next_row(lines: Lines, delimiter: str, width: int) -> Iterator[Line]:
    """Read past the lines that lie behind a quote that was not closed, and yield those that could have been rows.

    A line whose first quote opens a field begins a row again; one with another odd quote closes the lost one. What lies
    between can be the rest of a report or rows without quotes, and is not guessed at: a sentence with a comma in it would
    become a row of its own.
    """
    while line := lines.take():
        if _opens_field(line.text, delimiter):
            lines.put_back([line])
            return
        if line.text.strip() and line.text.count(delimiter) >= width - 1:
            yield line
        if line.quotes % 2:
            return


def _closes_later(lines: Lines, delimiter: str) -> bool:
    """True where the next line with a quote closes one: a row that is broken by a quote within the report goes on there."""
    ahead: list[Line] = []
    while len(ahead) < _AHEAD and (line := lines.take()):
        ahead.append(line)
        if line.quotes:
            break
    lines.put_back(ahead)
    return bool(ahead) and ahead[-1].quotes % 2 == 1 and not _opens_field(ahead[-1].text, delimiter)


def _opens_field(text: str, delimiter: str) -> bool:
    """True where the first quote of a line stands at the beginning of a field that has something in it."""
    place = text.find('"')
    if place < 0 or (place > 0 and text[place - 1] != delimiter):
        return False
    return text[place + 1 : place + 2] not in ("", "\n", "\r", delimiter)
