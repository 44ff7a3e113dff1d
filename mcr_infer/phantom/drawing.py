"""Thin things drawn on a phantom: vessels, catheters, wires, tubes, and the burnt-in text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mcr_infer.phantom.anatomy import SIDES, Body, Grid, Plane
from mcr_infer.phantom.findings import CENTRAL_LINE, ENDOTRACHEAL_TUBE, PACEMAKER, Finding

_OVERSAMPLING = 2
"""Lines are drawn on a canvas this many times finer and averaged down, which is their antialiasing."""

Point = tuple[float, float]


class Canvas:
    """A plane of line work in body coordinates; values are millimetres of material along the ray, at most 25.5."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        side = grid.size * _OVERSAMPLING
        self._image = Image.new("L", (side, side), 0)
        self._draw = ImageDraw.Draw(self._image)

    def _place(self, point: Point) -> Point:
        column, row = self._grid.pixel(*point)
        return (column + 0.5) * _OVERSAMPLING, (row + 0.5) * _OVERSAMPLING

    def _pixels(self, millimetres: float) -> float:
        return millimetres / self._grid.spacing * _OVERSAMPLING

    def line(self, points: Sequence[Point], *, width: float, depth: float) -> None:
        """Draw a polyline of a width (mm) that holds `depth` mm of material.

        A line thinner than the canvas can show keeps its amount of material: it is drawn wider and thinner.
        """
        wide = self._pixels(width)
        drawn = max(1, round(wide))
        value = round(min(255.0, 10.0 * depth * min(1.0, wide / drawn)))
        self._draw.line([self._place(point) for point in points], fill=value, width=drawn, joint="curve")

    def disc(self, centre: Point, *, radius: float, depth: float) -> None:
        """Draw a filled disc of a radius (mm) that holds `depth` mm of material."""
        x, y = self._place(centre)
        r = self._pixels(radius)
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=round(min(255.0, 10.0 * depth)))

    def can(self, centre: Point, *, width: float, height: float, depth: float) -> None:
        """Draw a rounded box (mm), such as a pulse generator."""
        x, y = self._place(centre)
        w, h = self._pixels(width) / 2, self._pixels(height) / 2
        self._draw.rounded_rectangle((x - w, y - h, x + w, y + h), radius=0.6 * min(w, h), fill=round(10.0 * depth))

    def plane(self) -> Plane:
        """Return the drawing at the grid's own resolution [H, W], in millimetres."""
        return np.asarray(self._image.reduce(_OVERSAMPLING), dtype=np.float32) / 10.0


def draw_vessels(grid: Grid, body: Body, rng: np.random.Generator) -> Plane:
    """Pulmonary vessels [H, W] in mm: they leave the hila, branch and thin out."""
    canvas = Canvas(grid)
    for sign in SIDES.values():
        hilum = (
            sign * (body.mediastinum + 8.0) + body.mediastinal_shift,
            rng.uniform(-6.0, 8.0) + (8.0 if sign < 0 else 0.0),  # the right hilum lies lower than the left
        )
        canvas.disc(hilum, radius=rng.uniform(7.0, 10.0), depth=11.0)
        for angle in np.linspace(-1.25, 1.35, 9) + rng.normal(0.0, 0.07, 9):
            _branch(canvas, hilum, float(angle), sign, 4.6, 5, rng)
    return canvas.plane()


def _branch(
    canvas: Canvas, start: Point, angle: float, sign: float, width: float, order: int, rng: np.random.Generator
) -> None:
    if order == 0:
        return
    length = rng.uniform(18.0, 32.0)
    end = (start[0] + sign * length * np.cos(angle), start[1] + length * np.sin(angle))
    canvas.line((start, end), width=width, depth=1.5 * width)
    spread = rng.uniform(0.12, 0.4)
    _branch(canvas, end, angle + spread * rng.uniform(-0.3, 0.6), sign, 0.74 * width, order - 1, rng)
    if rng.random() < 0.6:
        _branch(canvas, end, angle - spread, sign, 0.62 * width, order - 2 if order > 1 else 0, rng)


def draw_devices(grid: Grid, body: Body, findings: Sequence[Finding], rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return metal [H, W] and radiopaque plastic [H, W], both in mm, of the devices among the findings."""
    metal, plastic = Canvas(grid), Canvas(grid)
    for finding in findings:
        own = np.random.default_rng(rng.integers(2**63))
        if finding.kind == PACEMAKER:
            _pacemaker(metal, body, SIDES[str(finding.side)], own)
        elif finding.kind == CENTRAL_LINE:
            _central_line(plastic, body, SIDES[str(finding.side)], own)
        elif finding.kind == ENDOTRACHEAL_TUBE:
            _endotracheal_tube(plastic, body, own)
    return metal.plane(), plastic.plane()


def _smooth(points: Sequence[Point], steps: int = 24) -> list[Point]:
    """Pass a Catmull-Rom curve through the points."""
    p = np.array([points[0], *points, points[-1]], dtype=float)
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    curve = np.concatenate([*pieces, p[-1:]])
    return [(float(x), float(y)) for x, y in curve]


def _pacemaker(metal: Canvas, body: Body, sign: float, rng: np.random.Generator) -> None:
    pocket = (sign * rng.uniform(84.0, 102.0), body.apex + rng.uniform(38.0, 58.0))
    metal.can(pocket, width=rng.uniform(38.0, 48.0), height=rng.uniform(34.0, 44.0), depth=rng.uniform(7.0, 10.0))
    entry = (sign * 48.0, body.apex + 22.0)
    cava = (-16.0 + body.mediastinal_shift, body.apex + 62.0)
    ventricle = (body.heart_x + 0.62 * body.heart_half_width, body.heart_y + 26.0)
    atrium = (-20.0 + body.mediastinal_shift, body.heart_y + 4.0)
    leads = [[pocket, entry, cava, (-14.0, body.heart_y), (8.0, body.heart_y + 30.0), ventricle]]
    if rng.random() < 0.6:
        leads.append(
            [pocket, (entry[0], entry[1] + 3.0), (cava[0] + 3.0, cava[1]), (-24.0, body.heart_y + 12.0), atrium]
        )
    for lead in leads:
        metal.line(_smooth(lead), width=2.2, depth=2.2)


def _central_line(plastic: Canvas, body: Body, sign: float, rng: np.random.Generator) -> None:
    tip = (-18.0 + body.mediastinal_shift, rng.uniform(-12.0, 26.0))
    if rng.random() < 0.5:
        course = [(sign * 40.0, body.apex - 70.0), (sign * 26.0, body.apex - 8.0)]  # internal jugular
    else:
        course = [(sign * 118.0, body.apex + 40.0), (sign * 70.0, body.apex + 24.0), (sign * 30.0, body.apex + 26.0)]
    plastic.line(_smooth([*course, (-16.0 + body.mediastinal_shift, body.apex + 66.0), tip]), width=2.6, depth=8.0)


def _endotracheal_tube(plastic: Canvas, body: Body, rng: np.random.Generator) -> None:
    x = body.mediastinal_shift + rng.uniform(-2.0, 2.0)
    tip = -18.0 - rng.uniform(18.0, 50.0)
    top = body.apex - 80.0
    for offset, depth in ((-4.5, 5.0), (4.5, 5.0), (1.5, 13.0)):  # both walls and the radiopaque stripe
        plastic.line(
            _smooth([(x + offset + 4.0, top), (x + offset, body.apex), (x + offset, tip)]), width=1.8, depth=depth
        )


def burn_in(stored: NDArray[np.uint16], *, text: str, marker: str) -> None:
    """Write `text` into the lower right corner and the side marker into the upper left, at full brightness, in place."""
    size = stored.shape[0]
    layer = Image.new("L", (stored.shape[1], size), 0)
    draw = ImageDraw.Draw(layer)
    small, large = (ImageFont.load_default(size=max(8, size * share // 256)) for share in (11, 18))
    corner = (stored.shape[1] - 3, size - 3)
    draw.text(corner, text, fill=255, font=small, anchor="rs")
    draw.text((size // 20, size // 18), marker, fill=255, font=large, anchor="lt")
    # A black label under the words: they must be legible on any background.
    left, top, right, bottom = (round(edge) for edge in draw.textbbox(corner, text, font=small, anchor="rs"))
    stored[top - 2 : bottom + 2, left - 2 : right + 2] = 0
    np.copyto(stored, np.maximum(stored, np.asarray(layer, dtype=np.uint16) * 16))
