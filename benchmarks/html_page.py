"""A report as one HTML page: one column, no script, nothing loaded from anywhere, plots as SVG inside.

The page is built as a tree of elements and written out once, so that every text is escaped. Each plot stands in it twice,
for wide and for narrow screens, since text that shrinks with its picture cannot be read on a phone; one is
shown.
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from benchmarks.card import card_rows
from benchmarks.markdown_page import is_number, numeric_columns
from benchmarks.part import Cell, Column, Measure, Part, Plot, Table
from benchmarks.part_command import cell_text, number
from benchmarks.report import Report
from benchmarks.svg_plot import drawable, not_drawn, plot_svg

WIDE, NARROW = 688, 350
"""Widths of plots in pixels."""

_ARROWS = {"higher": "↑", "lower": "↓", "": ""}
_CONTROLS = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def html_page(report: Report) -> str:
    """Return the whole page."""
    html = Element("html", {"lang": "en"})
    head = SubElement(html, "head")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"})
    SubElement(head, "meta", {"name": "color-scheme", "content": "light dark"})
    _add(head, "title", "mcr-infer: benchmarks")
    SubElement(head, "style").text = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    main = SubElement(SubElement(html, "body"), "main")
    _top(main, report)
    for title, parts in (("Measured in this run", report.measured), ("Measured earlier", report.earlier)):
        if parts:
            _add(main, "h2", title, "group")
        for part in parts:
            _part(main, part)
    _add(
        main,
        "footer",
        "↑ more is better, ↓ less is better. Brackets and whiskers are 95 % intervals unless a note says otherwise.",
    )
    for element in html.iter():
        element.text = element.text and _CONTROLS.sub("�", element.text)
    return "<!DOCTYPE html>\n" + tostring(html, encoding="unicode", method="html") + "\n"


def anchor(name: str) -> str:
    """Return the id of a part within the page."""
    return "part-" + (re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x")


def _top(main: Element, report: Report) -> None:
    header = SubElement(main, "header")
    _add(header, "h1", "mcr-infer benchmarks")
    _add(header, "p", "How fast it embeds and answers, how well it finds, and what that was measured on.", "lead")
    if report.headlines:
        _headlines(main, report)
    if report.flagged:
        box = SubElement(main, "section", {"class": "flags"})
        _add(box, "h2", "Read with care")
        listed = SubElement(box, "ul")
        for part in (part for part in report.parts if part.flags):
            item = SubElement(listed, "li")
            _add(item, "a", part.title).set("href", f"#{anchor(part.name)}")
            _add(item, "span", f": {'; '.join(part.flags)}")
    _contents(main, report)
    card = SubElement(main, "section", {"class": "card"})
    _add(card, "h2", "What it was measured on")
    listed = SubElement(card, "dl")
    for name, text in card_rows(report):
        _add(listed, "dt", name)
        _add(listed, "dd", text)


def _headlines(main: Element, report: Report) -> None:
    summary = SubElement(main, "section", {"class": "headlines", "aria-label": "In short"})
    for part, figure in report.headlines:
        link = SubElement(summary, "a", {"href": f"#{anchor(part.name)}"})
        big = _add(link, "strong", number(figure.measure.value))
        if figure.unit:
            _add(big, "small", figure.unit if figure.unit in "×%" else f" {figure.unit}")
        _add(link, "span", figure.headline)
        if figure.measure.low is not None and figure.measure.high is not None:
            _add(link, "em", f"{number(figure.measure.low)} to {number(figure.measure.high)}")


def _contents(main: Element, report: Report) -> None:
    contents = SubElement(main, "nav", {"aria-label": "Contents"})
    for title, parts in (("Measured in this run", report.measured), ("Measured earlier", report.earlier)):
        if not parts:
            continue
        box = SubElement(contents, "div")
        _add(box, "h2", title)
        listed = SubElement(box, "ol")
        for part in parts:
            item = SubElement(listed, "li")
            _add(item, "a", part.title).set("href", f"#{anchor(part.name)}")


def _part(main: Element, part: Part) -> None:
    section = SubElement(main, "section", {"class": "part", "id": anchor(part.name)})
    _add(section, "h3", part.title)
    _add(section, "p", part.question, "question")
    _add(SubElement(section, "pre"), "code", part.command)
    if part.taken or part.seconds:
        _add(section, "p", part.taken or f"took {number(part.seconds)} s", "taken")
    for flag in part.flags:
        _add(section, "p", flag, "flag")
    for plot in part.plots:
        _plot(section, plot)
    for table in part.tables:
        _table(section, table)
    if part.notes:
        listed = SubElement(section, "ul", {"class": "notes"})
        for note in part.notes:
            _add(listed, "li", note)
    if part.figures:
        _figures(section, part)


def _plot(section: Element, plot: Plot) -> None:
    if not drawable(plot):
        _add(section, "p", f"{plot.title}: nothing was measured that could be drawn.", "taken")
        return
    figure = SubElement(section, "figure")
    _add(figure, "figcaption", plot.title)
    for width, name in ((WIDE, "wide"), (NARROW, "narrow")):
        SubElement(figure, "div", {"class": name}).append(plot_svg(plot, width))
    left_out = not_drawn(plot)
    gone = f"Not drawn: {left_out} values that a logarithmic axis has no place for." if left_out else ""
    if plot.note or gone:
        _add(figure, "p", " ".join(filter(None, (plot.note, gone))), "note")


def _table(section: Element, table: Table) -> None:
    numeric = numeric_columns(table)
    _add(section, "h4", table.title)
    box = SubElement(section, "div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": table.title})
    whole = SubElement(box, "table")
    row = SubElement(SubElement(whole, "thead"), "tr")
    for column, right in zip(table.columns, numeric, strict=True):
        _head(SubElement(row, "th", {"scope": "col"} | ({"class": "number"} if right else {})), column)
    body = SubElement(whole, "tbody")
    for cells in table.rows:
        row = SubElement(body, "tr")
        last = max((place for place, cell in enumerate(cells) if cell is not None), default=0)
        for cell, right in list(zip(cells, numeric, strict=True))[: last + 1]:
            _cell(SubElement(row, "td", {"class": "number"} if right else {}), cell)
        # A text that says why nothing was measured has the rest of its row.
        if last + 1 < len(cells):
            if isinstance(cells[last], str) and last:
                row[-1].set("colspan", str(len(cells) - last))
                row[-1].set("class", "reason")
            else:
                SubElement(row, "td", {"colspan": str(len(cells) - last - 1)})
    if table.note:
        _add(section, "p", table.note, "note")


def _head(head: Element, column: Column) -> None:
    head.text = "\u00a0".join(filter(None, (column.name, _ARROWS[column.better])))
    if column.unit:
        _add(head, "small", column.unit)


def _cell(element: Element, cell: Cell) -> None:
    if isinstance(cell, Measure) and cell.low is not None and cell.high is not None:
        element.text = number(cell.value) + " "
        _add(element, "small", f"[{number(cell.low)}, {number(cell.high)}]")
    elif is_number(cell) or cell is None or len(cell) < 32:
        element.text = cell_text(cell)
    else:
        element.text = cell
        element.set("class", f"{element.get('class', '')} words".strip())


def _figures(section: Element, part: Part) -> None:
    """Write all named figures, folded away: programs read them from results.json."""
    details = SubElement(section, "details")
    _add(details, "summary", f"Figures by name, as comparisons see them ({len(part.figures)})")
    box = SubElement(details, "div", {"class": "scroll"})
    body = SubElement(SubElement(box, "table"), "tbody")
    for name, figure in part.figures.items():
        row = SubElement(body, "tr")
        _add(SubElement(row, "td"), "code", name)
        _cell(SubElement(row, "td", {"class": "number"}), figure.measure)
        _add(row, "td", f"{figure.unit} {_ARROWS[figure.better]}".strip())


def _add(parent: Element, tag: str, text: str, style: str = "") -> Element:
    element = SubElement(parent, tag, {"class": style} if style else {})
    element.text = text
    return element
