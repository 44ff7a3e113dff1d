"""A report as Markdown: the same tables and figures as the HTML page; plots as small tables, or as a sentence a line."""

import re

from benchmarks.card import card_rows
from benchmarks.part import Cell, Column, Measure, Part, Plot, Series, Table
from benchmarks.part_command import cell_text, number
from benchmarks.report import Report

MOST_ROWS, MOST_COLUMNS = 16, 6
"""Of a plot that is written as a table."""


def markdown_page(report: Report) -> str:
    """Return the whole page."""
    lines = ["# mcr-infer: benchmarks", ""]
    lines += _table(("", ""), card_rows(report), (False, False))
    if report.flagged:
        lines += ["", "**Doubtful:**", ""]
        lines += [f"- {escape(part.title)}: {escape(flag)}" for part, flag in report.flagged]
    if report.headlines:
        rows = [
            (figure.headline, f"{cell_text(figure.measure)} {figure.unit}".strip(), part.title)
            for part, figure in report.headlines
        ]
        lines += ["", "## In short", "", *_table(("", "value", "from"), rows, (False, True, False))]
    for title, parts in (("Measured in this run", report.measured), ("Measured earlier", report.earlier)):
        if parts:
            lines += ["", f"# {title}"]
        for part in parts:
            lines += _part(part)
    return "\n".join(lines) + "\n"


def _part(part: Part) -> list[str]:
    lines = ["", f"## {escape(part.title)}", "", escape(part.question), "", f"    {_one_line(part.command)}"]
    if part.taken:
        lines += ["", f"Taken earlier: {escape(part.taken)}"]
    if part.flags:
        lines += ["", *(f"- **Doubtful:** {escape(flag)}" for flag in part.flags)]
    for plot in part.plots:
        lines += ["", f"### {escape(plot.title)}", "", *plot_lines(plot)]
    for table in part.tables:
        lines += ["", f"### {escape(table.title)}", "", *table_lines(table)]
        if table.note:
            lines += ["", escape(table.note)]
    figures = [
        (name, f"{cell_text(figure.measure)} {figure.unit}".strip(), figure.better)
        for name, figure in part.figures.items()
    ]
    if figures:
        lines += ["", "### Figures", "", *_table(("name", "value", "better"), figures, (False, True, False))]
    if part.notes:
        lines += ["", *(f"- {escape(note)}" for note in part.notes)]
    return lines


def plot_lines(plot: Plot) -> list[str]:
    """Return what a plot shows as lines of Markdown."""
    series = [one for one in plot.series if one.points]
    places = sorted({point[0] for one in series for point in one.points})
    note = ["", escape(plot.note)] if plot.note else []
    if not places:
        return ["nothing was measured that could be drawn", *note]
    told = f"{plot.y.title}, by {plot.x.title}:"
    if len(places) > MOST_ROWS or len(series) > MOST_COLUMNS:
        return [escape(told), "", *(f"- {escape(_course(plot, one))}" for one in series), *note]
    found = [{point[0]: Measure(value=point[1], low=point[2], high=point[3]) for point in one.points} for one in series]
    rows = [(_place(plot, x), *(cell_text(points.get(x)) for points in found)) for x in places]
    heads = (plot.x.title, *(one.name for one in series))
    return [escape(told), "", *_table(heads, rows, (False, *(True for _ in series))), *note]


def _course(plot: Plot, series: Series) -> str:
    """Say in a sentence where a line begins and ends, and what its least and greatest values are."""
    points = sorted(series.points)
    low, high = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[1])
    ends = (f"{number(point[1])} at {_place(plot, point[0])}" for point in (points[0], points[-1], low, high))
    return "{}: from {} to {}; least {}, greatest {}".format(series.name, *ends)


def _place(plot: Plot, x: float) -> str:
    return plot.x_names[int(x)] if plot.x_names else number(x)


def table_lines(table: Table) -> list[str]:
    """Return a table as lines of Markdown."""
    heads = tuple(head(column) for column in table.columns)
    rows = [tuple(cell_text(cell) for cell in row) for row in table.rows]
    return _table(heads, rows, numeric_columns(table))


def head(column: Column) -> str:
    """Return the head of a column: name, unit, and which direction is better."""
    return column.title + {"higher": " ↑", "lower": " ↓", "": ""}[column.better]


def numeric_columns(table: Table) -> tuple[bool, ...]:
    """Tell for each column whether it holds numbers, which stand at the right."""
    return tuple(
        any(is_number(row[place]) for row in table.rows)
        and not (place == 0 and any(isinstance(row[0], str) for row in table.rows))
        for place in range(len(table.columns))
    )


def is_number(cell: Cell) -> bool:
    """Whether a cell is a number or a measure."""
    return cell is not None and not isinstance(cell, str)


def escape(text: str) -> str:
    """Return text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]], numeric: tuple[bool, ...]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(escape(cell) for cell in cells) + " |"

    return [line(heads), "|" + "|".join("---:" if right else "---" for right in numeric) + "|", *map(line, rows)]
