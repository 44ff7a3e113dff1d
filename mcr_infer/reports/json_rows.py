"""JSON lines row by row: one object a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcr_infer.reports.lines import LONGEST_LINE, Lines, open_text
from mcr_infer.reports.rows import COLUMNS, BadRow, TableRow


class _TwiceError(ValueError):
    """A column that is read has two values."""


def json_rows(path: Path) -> Iterator[TableRow | BadRow]:
    """Read a file of JSON lines; blank lines are no rows. Raises `OSError`, and `UnicodeError` later."""
    open_text(path).close()
    return _rows(path)


def _rows(path: Path) -> Iterator[TableRow | BadRow]:
    with open_text(path) as stream:
        lines = Lines(stream)
        while line := lines.take():
            if not line.text.strip():
                continue
            reason = "format"
            try:
                if line.cut:
                    reason, error = "too_large", f"the line has more than {LONGEST_LINE} characters"
                else:
                    row = json.loads(line.text, object_pairs_hook=_object)
                    if isinstance(row, dict):
                        yield TableRow(number=line.number, line=line.number, values=row)
                        continue
                    error = f"a JSON {type(row).__name__}, expected an object"
            except _TwiceError as exc:
                error = str(exc)
            except (ValueError, RecursionError):
                error = "not JSON; is the line cut?"
            yield BadRow(number=line.number, line=line.number, reason=reason, error=error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises `_TwiceError` for a repeated column, of which json would silently keep the last value."""
    names = [name for name, _ in pairs]
    for name in COLUMNS.intersection(names):
        if names.count(name) > 1:
            raise _TwiceError(f"has {name!r} twice")
    return dict(pairs)
