"""Figures of README.md and benchmarks/README.md, written from committed results: no text quotes what was not measured.

    python -m benchmarks.figures            # bring both files up to date
    python -m benchmarks.figures --check    # exit code 1 where they are not

Two kinds of marks, which Markdown does not show:

    <!-- figure: throughput.shipped.uncompressed .0f -->65<!-- / -->    a figure of the report by its name, and its format
    <!-- begin: towers -->                                             a table: of `benchmarks.quoted`, or PART / TITLE,
    | ... |                                                            a table of the report as it stands there
    <!-- end: towers -->

A format is that of Python, such as `.0f` or `+.1%`; without one a figure has three significant digits. Figures are those of
earlier documents (`benchmarks.earlier`), of the model card of the bundle that ships, and of the committed report.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.earlier import ROOT, earlier_parts
from benchmarks.markdown_page import table_lines
from benchmarks.part import Part
from benchmarks.part_command import number
from benchmarks.quoted import TABLES
from benchmarks.report import RESULTS, NotAReportError, read_report
from mcr_infer.cli import streams

TEXTS = ("README.md", "benchmarks/README.md")
REPORT = Path("benchmarks/results/report") / RESULTS

_FIGURE = re.compile(r"<!-- figure: (?P<name>\S+)(?: (?P<form>\S+))? -->(?P<told>.*?)<!-- / -->", re.DOTALL)
_TABLE = re.compile(r"<!-- begin: (?P<name>.+?) -->\n(?P<told>.*?)<!-- end: (?P=name) -->", re.DOTALL)
_MARK = re.compile(r"<!-- (?:figure|begin|end): [^>]*-->|<!-- / -->")


class UnknownFigureError(Exception):
    """A mark that names what no result holds, or that is not closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotes:
    """Everything that can be quoted."""

    root: Path
    parts: Mapping[str, Part]

    @classmethod
    def of(cls, root: Path) -> "Quotes":
        """Read committed results."""
        measured = read_report(root / REPORT).measured if (root / REPORT).is_file() else []
        # A document holds all that was ever measured of its part, a report what it measured itself.
        return cls(root=root, parts={part.name: part for part in (*measured, *earlier_parts(root))})

    def figure(self, name: str, form: str | None) -> str:
        """Return a figure as text."""
        for part in self.parts.values():
            if name in part.figures:
                value = part.figures[name].measure.value
                return number(value) if form is None else format(value, form)
        raise UnknownFigureError(f"no result holds a figure {name!r}; `python -m benchmarks` names them in its report")

    def table(self, name: str) -> str:
        """Return a table as Markdown."""
        if name in TABLES:
            return "\n".join(TABLES[name](self.root)) + "\n"
        part, _, title = name.partition(" / ")
        for table in self.parts[part].tables if part in self.parts else ():
            if table.title == title:
                return "\n".join(table_lines(table)) + "\n"
        raise UnknownFigureError(f"no table {name!r}; there are {', '.join(TABLES)}, and PART / TITLE of the report")

    def refreshed(self, text: str) -> str:
        """Return a text with all its marks filled anew. Raises `UnknownFigureError`."""
        left = _MARK.findall(_FIGURE.sub("", _TABLE.sub("", text)))
        if left:
            raise UnknownFigureError(
                f"the mark {left[0]!r} stands alone: a figure ends with <!-- / -->, a table with <!-- end: NAME -->"
            )

        def figure(found: re.Match[str]) -> str:
            opening = found[0][: found.start("told") - found.start()]
            return f"{opening}{self.figure(found['name'], found['form'])}<!-- / -->"

        def table(found: re.Match[str]) -> str:
            return f"<!-- begin: {found['name']} -->\n{self.table(found['name'])}<!-- end: {found['name']} -->"

        return _FIGURE.sub(figure, _TABLE.sub(table, text))


def differences(before: str, after: str) -> list[str]:
    """Return the lines that differ: as they stand, and as the results say."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in list(lines)[2:] if not line.startswith("@@")]


def main(words: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Bring the texts up to date, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where texts and results differ"
    )
    check = parser.parse_args(words).check
    try:
        quotes = Quotes.of(root)
    except (ValueError, NotAReportError) as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    wrong = 0
    for name in TEXTS:
        text = (root / name).read_text(encoding="utf-8")
        try:
            fresh = quotes.refreshed(text)
        except UnknownFigureError as error:
            streams.say(f"error: {name}: {error}", to_stderr=True)
            return 1
        if fresh == text:
            continue
        wrong += 1
        print(name, *differences(text, fresh), sep="\n")
        if not check:
            (root / name).write_text(fresh, encoding="utf-8")
    if check and wrong:
        print("texts and results differ: `python -m benchmarks.figures` writes them anew", file=sys.stderr)
    return 1 if check and wrong else 0


if __name__ == "__main__":
    streams.run(main)
