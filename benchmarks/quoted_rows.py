"""Rows of quoted tables, and the committed documents that they come from."""

from pathlib import Path
from typing import Any

from benchmarks.report import read_json

Rows = list[list[str]]


def results(root: Path, name: str) -> Any:
    """Return a committed document."""
    return read_json(root / "benchmarks" / "results" / f"{name}.json")


def table(heads: list[str], rows: Rows) -> list[str]:
    """Return a table as lines of Markdown, as they are written by hand."""

    def line(cells: list[str]) -> str:
        return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"

    return [line(heads), "|" + "---|" * len(heads), *map(line, rows)]
