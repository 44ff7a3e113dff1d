"""Plots as SVG that stands inside a page: text as text, colours and fonts by the style sheet of the page, no script.

    Plot -> plot_svg(plot, width) -> an <svg> of that width; legend and titles above the data, never over them

Bars lie on their side, so that names of any length stand beside them. On a logarithmic axis there is no zero for a bar to
begin at: values are dots there. Colours are the classes c0, c1, ... of the page; series differ by the
shape of their mark as well.
"""

import math
import textwrap
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement

from benchmarks.axis import Axis, labels, linear_range, log_range
from benchmarks.part import Plot, Series
from benchmarks.part_command import number

COLOURS = 7
"""How many there are before they begin again."""

SIZE = 12
"""Of all text, in pixels."""

_BAR, _BETWEEN_BARS, _BETWEEN_GROUPS, _LINE = 15, 3, 13, 18
_NARROW = 480
"""Below this width there is no room for names beside bars."""

_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar")

_WIDTHS = {"ijl.,:;'|!I ": 0.33, "rtf()[]-/": 0.42, "mwMW%@×→…": 0.98}
"""Of letters in parts of the size; those of DejaVu Sans, which is the widest of the fonts that the page asks for."""

Point = tuple[float, float, float | None, float | None]


def text_width(text: str, size: float = SIZE) -> float:
    """Return about how wide a text is, rather too wide, in a sans-serif font nobody knows beforehand."""
    wide = sum(
        next((width for letters, width in _WIDTHS.items() if letter in letters), 0.7 if letter.isupper() else 0.64)
        for letter in text
    )
    return wide * size


def drawable(plot: Plot) -> bool:
    """Whether there is anything to draw."""
    return any(_points(plot, one) for one in plot.series)


def not_drawn(plot: Plot) -> int:
    """Return how many points have no place on a logarithmic axis."""
    return sum(len(one.points) - len(_points(plot, one)) for one in plot.series)


def plot_svg(plot: Plot, width: int) -> Element:
    """Return the picture as an element `svg`, [width] pixels wide and as high as it needs."""
    if not drawable(plot):
        raise ValueError(f"plot {plot.title!r} has no points")
    svg = Element("svg", {"class": "plot", "role": "img", "aria-label": plot.title})
    top = _legend(svg, plot, width)
    height = (_bars if plot.kind == "bar" else _lines)(svg, plot, width, top)
    svg.set("viewBox", f"0 0 {width} {height:.0f}")
    svg.set("width", str(width))
    svg.set("height", f"{height:.0f}")
    return svg


def _points(plot: Plot, series: Series) -> list[Point]:
    """Return the points that have a place: all, but for what is no number or not positive on a logarithmic axis."""
    return [
        point
        for point in series.points
        if math.isfinite(point[0])
        and math.isfinite(point[1])
        and (point[1] > 0 or not plot.log_y)
        and (point[0] > 0 or not plot.log_x or plot.kind == "bar" or plot.x_names)
    ]


def _value_axis(plot: Plot, start: float, end: float) -> Axis:
    values = [v for s in plot.series for point in _points(plot, s) for v in point[1:] if v is not None]
    values = [v for v in values if math.isfinite(v) and (v > 0 or not plot.log_y)]
    low, high = log_range(values) if plot.log_y else linear_range(values, from_zero=plot.kind == "bar")
    return Axis(low=low, high=high, start=start, end=end, log=plot.log_y)


def _legend(svg: Element, plot: Plot, width: int) -> float:
    """Draw what the colours mean, line by line, and return where the plot may begin."""
    if len(plot.series) < 2:
        return 0
    x, y = 0.0, 0.0
    for place, series in enumerate(plot.series):
        wide = 20 + text_width(series.name)
        if x and x + wide > width:
            x, y = 0.0, y + _LINE
        _mark(svg, plot, place, x + 7, y + 9)
        y = _paragraph(svg, x + 18, y + 13, series.name, width - x - 18) - 13
        x += wide + 16
    return y + _LINE + 8


def _bars(svg: Element, plot: Plot, width: int, top: float) -> float:
    found = [{int(point[0]): point for point in _points(plot, series)} for series in plot.series]
    groups = sorted({place for points in found for place in points})
    names = [plot.x_names[g] if g < len(plot.x_names) else f"{plot.x.name} {number(g)}" for g in groups]
    beside = max(map(text_width, names)) + 12
    above = width < _NARROW or beside > 0.4 * width
    left = 0.0 if above else beside
    longest = max(text_width(number(point[1])) for points in found for point in points.values())
    axis = _value_axis(plot, left + 1, width - longest - 12)
    grid = SubElement(svg, "g", {"class": "grid"})
    y, bands = top, []
    for name, group in zip(names, groups, strict=True):
        shown = [(place, points[group]) for place, points in enumerate(found) if group in points]
        high = len(shown) * (_BAR + _BETWEEN_BARS) - _BETWEEN_BARS
        if above:
            y = _paragraph(svg, 0, y + 12, name, width) + 6
        else:
            _text(svg, left - 12, y + high / 2 + 4, name, "end")
        bands.append((y, y + high))
        for place, point in shown:
            _bar(svg, plot, axis, place, point, y, f"{name}, {plot.series[place].name}")
            y += _BAR + _BETWEEN_BARS
        y += _BETWEEN_GROUPS - _BETWEEN_BARS
    y -= _BETWEEN_GROUPS - 6
    # Names above bars stand where lines from top to bottom would cross them.
    bands = bands if above else [(top, y)]
    ticks = axis.ticks(4 if width < _NARROW else 6)
    for tick, told in zip(ticks, labels(ticks), strict=True):
        for begin, end in bands:
            _line(grid, axis.at(tick), begin - 2, axis.at(tick), end + 2, "zero" if tick == 0 else "")
        wide = text_width(told)
        _text(svg, min(max(axis.at(tick), wide / 2), width - wide / 2), y + 16, told, "middle", "tick")
    return _paragraph(svg, left, y + 36, _axis_title(plot.y.title, plot.log_y), width - left, "title") + 8


def _bar(svg: Element, plot: Plot, axis: Axis, place: int, point: Point, y: float, told: str) -> None:
    middle, end = y + _BAR / 2, axis.at(point[1])
    group = SubElement(svg, "g", {"class": f"c{place % COLOURS}"})
    SubElement(group, "title").text = f"{told}: {_told(point)}"
    if axis.log:
        _mark(group, plot, place, end, middle)
    else:
        zero = axis.at(0)
        box = {"x": min(zero, end), "y": y, "width": max(abs(end - zero), 1), "height": _BAR}
        SubElement(group, "rect", {"class": "fill"} | _numbers(box))
    right = end + (6 if axis.log else 0)
    if point[2] is not None and point[3] is not None:
        low, high = axis.at(point[2]), axis.at(point[3])
        _whisker(group, low, middle, high, middle)
        right = max(right, high)
    _text(svg, right + 5, middle + 4, number(point[1]), style="value")


def _lines(svg: Element, plot: Plot, width: int, top: float) -> float:
    top = _paragraph(svg, 0, top + 12, _axis_title(plot.y.title, plot.log_y), width, "title") + 16
    bottom = top + (210 if width < _NARROW else 260)
    y_axis = _value_axis(plot, bottom, top)
    ticks = y_axis.ticks()
    left = max(map(text_width, labels(ticks))) + 8
    xs = sorted({point[0] for series in plot.series for point in _points(plot, series)})
    x_axis = _x_axis(plot, xs, left + 10, width - 14)
    grid = SubElement(svg, "g", {"class": "grid"})
    for tick, name in zip(ticks, labels(ticks), strict=True):
        _line(grid, left, y_axis.at(tick), width, y_axis.at(tick), "zero" if tick == 0 else "")
        _text(svg, left - 8, y_axis.at(tick) + 4, name, "end", "tick")
    right = 0.0
    for tick, name in _x_ticks(plot, xs, x_axis, width):
        wide = text_width(name)
        place = min(max(x_axis.at(tick), wide / 2), width - wide / 2)
        if place - wide / 2 < right + 8:
            continue
        _line(grid, x_axis.at(tick), bottom, x_axis.at(tick), bottom + 4)
        _text(svg, place, bottom + 18, name, "middle", "tick")
        right = place + wide / 2
    for place, series in enumerate(plot.series):
        _one_line(svg, plot, place, series, x_axis, y_axis)
    _text(svg, width, bottom + 38, _axis_title(plot.x.title, plot.log_x), "end", "title")
    return bottom + 46


def _one_line(svg: Element, plot: Plot, place: int, series: Series, x_axis: Axis, y_axis: Axis) -> None:
    points = sorted(_points(plot, series), key=lambda point: point[0])
    group = SubElement(svg, "g", {"class": f"c{place % COLOURS}"})
    if len(points) > 1:
        path = " ".join(f"{x_axis.at(point[0]):.1f},{y_axis.at(point[1]):.1f}" for point in points)
        SubElement(group, "polyline", {"class": "stroke", "points": path})
    for point in points:
        x, y = x_axis.at(point[0]), y_axis.at(point[1])
        one = SubElement(group, "g")
        where = plot.x_names[int(point[0])] if plot.x_names else f"{plot.x.name} {number(point[0])}"
        SubElement(one, "title").text = f"{series.name}, {where}: {_told(point)}"
        if point[2] is not None and point[3] is not None:
            _whisker(one, x, y_axis.at(point[2]), x, y_axis.at(point[3]))
        _mark(one, plot, place, x, y)


def _x_axis(plot: Plot, xs: Sequence[float], start: float, end: float) -> Axis:
    log = plot.log_x and not plot.x_names
    low, high = xs[0], xs[-1]
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    return Axis(low=low, high=high, start=start, end=end, log=log)


def _x_ticks(plot: Plot, xs: Sequence[float], axis: Axis, width: int) -> list[tuple[float, str]]:
    """Return what stands below: names, the values that were measured where there are few, else round ones."""
    if plot.x_names:
        return [(x, plot.x_names[int(x)]) for x in xs]
    told = labels(xs)
    if sum(text_width(name) + 14 for name in told) > width * 0.8 or len(xs) > 10:
        xs = axis.ticks(4 if width < _NARROW else 7)
    return list(zip(xs, labels(xs), strict=True))


def _axis_title(title: str, log: bool) -> str:
    return f"{title} (logarithmic)" if log else title


def _told(point: Point) -> str:
    interval = "" if point[2] is None or point[3] is None else f" [{number(point[2])}, {number(point[3])}]"
    return number(point[1]) + interval


def _mark(parent: Element, plot: Plot, place: int, x: float, y: float) -> None:
    """Draw the mark of a series: a square for bars, a shape of its own for lines and dots."""
    group = SubElement(parent, "g", {"class": f"c{place % COLOURS}"})
    if plot.kind == "bar" and not plot.log_y:
        SubElement(group, "rect", {"class": "fill"} | _numbers({"x": x - 6, "y": y - 6, "width": 12, "height": 12}))
        return
    shape = _SHAPES[place % len(_SHAPES)]
    if shape in ("circle", "ring"):
        style = "fill edge" if shape == "circle" else "hollow"
        SubElement(group, "circle", {"class": style} | _numbers({"cx": x, "cy": y, "r": 4.5}))
        return
    r = 4.5
    corners = {
        "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "triangle": [(0, -5.5), (5.2, 4), (-5.2, 4)],
        "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
        "cross": [
            (-5, -2),
            (-2, -2),
            (-2, -5),
            (2, -5),
            (2, -2),
            (5, -2),
            (5, 2),
            (2, 2),
            (2, 5),
            (-2, 5),
            (-2, 2),
            (-5, 2),
        ],
        "bar": [(-6, -2), (6, -2), (6, 2), (-6, 2)],
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    SubElement(group, "polygon", {"class": "fill edge", "points": path})


def _whisker(parent: Element, x1: float, y1: float, x2: float, y2: float) -> None:
    group = SubElement(parent, "g", {"class": "whisker"})
    _line(group, x1, y1, x2, y2)
    for x, y in ((x1, y1), (x2, y2)):
        across = (0, 3) if y1 == y2 else (3, 0)
        _line(group, x - across[0], y - across[1], x + across[0], y + across[1])


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float, style: str = "") -> None:
    line = SubElement(parent, "line", _numbers({"x1": x1, "y1": y1, "x2": x2, "y2": y2}))
    if style:
        line.set("class", style)


def _text(parent: Element, x: float, y: float, text: str, anchor: str = "start", style: str = "") -> None:
    element = SubElement(parent, "text", _numbers({"x": x, "y": y}))
    element.text = text
    if anchor != "start":
        element.set("text-anchor", anchor)
    if style:
        element.set("class", style)


def _paragraph(parent: Element, x: float, y: float, text: str, width: float, style: str = "") -> float:
    """Write a text in as many lines as it needs; return where the last one stands."""
    told = textwrap.wrap(text, max(8, int(width / (0.57 * SIZE)))) if text_width(text) > width else [text]
    for place, line in enumerate(told):
        _text(parent, x, y + place * _LINE, line, style=style)
    return y + (len(told) - 1) * _LINE


def _numbers(values: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.1f}" for name, value in values.items()}
