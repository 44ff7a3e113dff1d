"""The body of a phantom: how one synthetic chest differs from another, in millimetres, and where its parts lie.

Coordinates are those of the picture on a light box: x grows to the viewer's right, which is the patient's left; y grows
downwards; the origin lies in the midline at the height of the hila. Lengths are millimetres.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

FIELD_OF_VIEW = 410.0
"""Side of the square detector area that is shown, in millimetres (a 43 cm cassette, slightly collimated)."""

SIDES = {"left": 1.0, "right": -1.0}
"""Direction of a patient's side along x."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One chest. All lengths in millimetres, angles in radians."""

    view: str
    apex: float
    """y of the lung apices."""
    chest_half_width: float
    """Largest half width of the inner chest."""
    wall: float
    """Thickness of the chest wall at its side."""
    depth: float
    """Front-to-back thickness of the trunk."""
    dome: dict[str, float]
    """y of the top of each hemidiaphragm."""
    dome_drop: float
    """How far the diaphragm falls from its top to the costophrenic angle."""
    heart_half_width: float
    heart_half_height: float
    heart_x: float
    heart_y: float
    heart_tilt: float
    mediastinum: float
    """Half width of the mediastinum above the heart."""
    mediastinal_shift: float
    """How far trachea and heart are pushed along x."""
    rib_spacing: float
    rib_phase: float
    rib_radius: float
    rib_density: float
    lung_density: float
    """Linear attenuation of aerated lung, 1/mm."""
    vessel_gain: float
    breast: float
    """Thickness of the breast shadows; 0 for none."""
    gastric_bubble: float
    """Radius of the stomach's air bubble; 0 for none."""
    turn: float
    """Rotation in the picture plane."""
    zoom: float
    shift_x: float
    shift_y: float
    rotation_shift: float
    """How far a slight rotation of the patient about the long axis moves midline structures along x."""


def draw_body(rng: np.random.Generator, *, view: str) -> Body:
    """Draw a chest without findings; AP chests are breathed in less deeply and their hearts look larger."""
    supine = view == "AP"
    chest = rng.normal(138.0, 9.0)
    dome_right = rng.normal(92.0, 8.0) - (12.0 if supine else 0.0)
    # Cardiothoracic ratio of a normal heart: below 0.5 in PA, a little above in AP.
    ratio = min(max(rng.normal(0.435, 0.025), 0.37), 0.475) * (1.06 if supine else 1.0)
    return Body(
        view=view,
        apex=rng.normal(-132.0, 7.0),
        chest_half_width=chest,
        wall=rng.uniform(16.0, 40.0),
        depth=rng.uniform(190.0, 260.0),
        dome={"right": dome_right, "left": dome_right + rng.uniform(4.0, 16.0)},
        dome_drop=rng.uniform(30.0, 44.0),
        heart_half_width=chest * ratio,
        heart_half_height=rng.uniform(56.0, 68.0),
        heart_x=rng.uniform(14.0, 24.0),
        heart_y=dome_right - rng.uniform(36.0, 46.0),
        heart_tilt=rng.uniform(0.35, 0.6),
        mediastinum=rng.uniform(23.0, 30.0) * (1.12 if supine else 1.0),
        mediastinal_shift=0.0,
        rib_spacing=rng.uniform(19.5, 23.0),
        rib_phase=rng.uniform(0.0, 1.0),
        rib_radius=rng.uniform(4.6, 6.2),
        rib_density=rng.uniform(0.030, 0.050),
        lung_density=rng.uniform(0.0042, 0.0062),
        vessel_gain=rng.uniform(1.0, 1.6),
        breast=rng.uniform(14.0, 40.0) if rng.random() < 0.4 else 0.0,
        gastric_bubble=rng.uniform(10.0, 26.0) if rng.random() < 0.6 else 0.0,
        turn=rng.normal(0.0, 0.03),
        zoom=rng.uniform(0.93, 1.10),
        shift_x=rng.normal(0.0, 7.0),
        shift_y=rng.normal(4.0, 8.0),
        rotation_shift=rng.normal(0.0, 3.0),
    )


class Grid:
    """The picture's pixels in the coordinates of the body, and back."""

    def __init__(self, body: Body, size: int) -> None:
        self.size = size
        self.spacing = FIELD_OF_VIEW / size
        self._body = body
        axis = ((np.arange(size) + 0.5) * self.spacing - FIELD_OF_VIEW / 2).astype(np.float32)
        px, py = axis[None, :] - body.shift_x, axis[:, None] - body.shift_y
        cos, sin = math.cos(body.turn) / body.zoom, math.sin(body.turn) / body.zoom
        self.x: Plane = (cos * px + sin * py).astype(np.float32)
        self.y: Plane = (-sin * px + cos * py).astype(np.float32)

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Turn a point of the body (mm) into (column, row) of the picture, in pixels."""
        body = self._body
        cos, sin = math.cos(body.turn) * body.zoom, math.sin(body.turn) * body.zoom
        column = cos * x - sin * y + body.shift_x + FIELD_OF_VIEW / 2
        row = sin * x + cos * y + body.shift_y + FIELD_OF_VIEW / 2
        return column / self.spacing - 0.5, row / self.spacing - 0.5


class Chest:
    """The shapes of a body on a grid, computed once: both lungs' outlines and depths.

    `u` [H, W] runs from 0 at the medial to 1 at the lateral border of the lung on that side, `v` from 0 at the apex to 1
    at the top of the diaphragm.
    """

    def __init__(self, body: Body, grid: Grid) -> None:
        self.body, self.grid = body, grid
        lean = body.rotation_shift * np.clip(1 - grid.y / 150, 0, 2)
        self.midline: Plane = np.asarray(body.mediastinal_shift + lean, dtype=np.float32)
        self.outer: Plane = self.half_width(grid.y)
        # Narrow at the thoracic inlet, wider at the hila, where vessels and bronchi enter.
        hila = np.exp(-(((grid.y - 4.0) / 30.0) ** 2))
        self.mediastinum: Plane = (body.mediastinum * (0.86 + 0.30 * hila)).astype(np.float32)
        self.lung = {side: self._lung(side) for side in SIDES}

    def half_width(self, y: Plane) -> Plane:
        """Half width of the inner chest at height y [H, W]."""
        body = self.body
        s = np.clip((y - body.apex) / (0.72 * (body.dome["left"] - body.apex)), 0.0, 1.0)
        rounded = 1.0 - (1.0 - s) ** 2.3
        return np.asarray(body.chest_half_width * np.sqrt(rounded), dtype=np.float32)

    def diaphragm(self, side: str) -> Plane:
        """Height y [H, W] of the diaphragm under each pixel of one side."""
        body = self.body
        across = SIDES[side] * self.grid.x / body.chest_half_width - 0.42
        fall = np.where(across > 0, across / 0.58, across / 0.75)
        return np.asarray(body.dome[side] + body.dome_drop * fall**2, dtype=np.float32)

    def across(self, side: str) -> Plane:
        """0 at the medial, 1 at the lateral border of the lung [H, W]; beyond them outside [0, 1]."""
        inner = self.mediastinum
        distance = SIDES[side] * (self.grid.x - self.midline)
        return np.asarray((distance - inner) / np.maximum(self.outer - inner, 4.0), dtype=np.float32)

    def down(self, side: str) -> Plane:
        """0 at the apex, 1 at the top of the diaphragm [H, W]."""
        apex = self.body.apex
        return np.asarray((self.grid.y - apex) / (self.body.dome[side] - apex), dtype=np.float32)

    def _lung(self, side: str) -> Plane:
        """Front-to-back thickness [H, W] of one lung in mm, before anything displaces it."""
        u, body, y = self.across(side), self.body, self.grid.y
        profile = np.clip(4.0 * u * (1.0 - u), 0.0, 1.0) ** 0.38
        taper = np.clip((y - body.apex) / 90.0, 0.0, 1.0) ** 0.5
        above = np.clip((self.diaphragm(side) - y) / 9.0, 0.0, 1.0) ** 0.5
        open_chest = self.outer > self.mediastinum + 2.0
        return np.asarray(0.70 * body.depth * profile * (0.35 + 0.65 * taper) * above * open_chest, dtype=np.float32)


def smoothstep(values: NDArray[np.floating]) -> Plane:
    """Rise smoothly from 0 to 1 over [0, 1]."""
    t = np.clip(values, 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)
