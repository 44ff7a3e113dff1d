"""The command line that every part has: measure it alone, print its tables, and one JSON document as the last line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.part import Cell, Measure, Options, Part


def run_alone(run: Callable[[Options], Part]) -> None:
    """Run one part as a command."""
    module = sys.modules[run.__module__]
    name = Path(str(module.__file__)).stem
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=(module.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a shorter run, for a look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("cache/benchmarks"), help="folder for models of random weights; kept"
    )
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON document there, too")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    part = run(Options(quick=given.quick, seed=given.seed, work=given.work, bundle=given.bundle))
    for line in lines(part):
        print(line)
    document = json.dumps(part.to_dict())
    if given.out is not None:
        given.out.write_text(document + "\n", encoding="utf-8")
    print(document)


def lines(part: Part) -> list[str]:
    """Return a part as plain text: its tables, notes and flags."""
    told = [part.question]
    for table in part.tables:
        told += ["", table.title]
        cells = [[column.title for column in table.columns], *([cell_text(cell) for cell in row] for row in table.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(table.columns))]
        told += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
    return [*told, *part.notes, *(f"FLAG {flag}" for flag in part.flags)]


def cell_text(cell: Cell) -> str:
    """Return a cell as text: three significant digits, the interval behind it."""
    if isinstance(cell, Measure):
        interval = "" if cell.low is None or cell.high is None else f" [{number(cell.low)}, {number(cell.high)}]"
        return number(cell.value) + interval
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return number(cell)
    return "" if cell is None else cell


def number(value: float) -> str:
    """Return a number with three significant digits and no exponent."""
    if value == 0 or not abs(value) < 1e12:
        return f"{value:g}"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}"
