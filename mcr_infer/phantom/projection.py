"""A scene becomes a picture: attenuation along each ray (Beer-Lambert), scatter, quantum noise, and the display curve.

Attenuation coefficients are those of water, bone and lung near 60 keV, the effective energy of a 120 kV chest beam
(NIST XCOM: water 0.0206/mm; cortical bone about 0.055/mm), rounded.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcr_infer.phantom.anatomy import SIDES, Body, Chest, Grid, Plane, smoothstep
from mcr_infer.phantom.drawing import burn_in, draw_devices, draw_vessels
from mcr_infer.phantom.findings import Finding
from mcr_infer.phantom.lesions import Scene, add_lesions

SOFT_TISSUE = 0.0206
METAL = 0.35
PLASTIC = 0.09
"""1/mm; plastic is the barium-filled kind of catheters."""

STORED_MAX = 4095
"""Phantoms are stored in 12 bits."""

BURNT_IN_TEXT = "SYNTHETIC"


def project(
    body: Body, findings: Sequence[Finding], *, size: int, anatomy: np.random.Generator, detector: np.random.Generator
) -> NDArray[np.uint16]:
    """Project a body with its findings onto a detector: stored values [size, size], 12 bit, high = radiodense.

    `anatomy` drives what is in the body and gives the same body at every size; `detector` drives exposure and noise.
    """
    grid = Grid(body, size)
    chest = Chest(body, grid)
    scene = Scene(chest)
    vessels = draw_vessels(grid, body, anatomy)
    texture = _texture(size, anatomy)
    add_lesions(scene, findings, anatomy)
    metal, plastic = draw_devices(grid, body, findings, anatomy)

    heart = _heart(chest)
    trunk = _trunk(chest)
    lung = np.zeros_like(grid.x)
    for side in SIDES:
        # The heart lies in front of lung: some air always remains behind it, and before and behind the dome.
        lung += np.maximum(scene.air[side] - 1.15 * heart, 0.22 * scene.air[side])
    lung = np.minimum(lung, 0.85 * trunk)
    aerated = lung / (0.5 * body.depth)
    inside = np.minimum(1.0, 1.6 * aerated)

    path = (
        SOFT_TISSUE * np.maximum(trunk - lung - scene.free_air["left"] - scene.free_air["right"], 0.0)
        + body.lung_density * lung * texture
    )
    path += SOFT_TISSUE * (vessels * body.vessel_gain * scene.vessels * inside + scene.tissue)
    path += (_bones(scene) + _airways(chest)) * (trunk > 20.0) + METAL * metal + PLASTIC * plastic
    return _expose(np.maximum(path, 0.0), grid, body, detector)


def _texture(size: int, rng: np.random.Generator) -> Plane:
    """Parenchymal texture [H, W] around 1: lumps of a few millimetres."""
    coarse = Image.fromarray(rng.normal(1.0, 0.10, (72, 72)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _heart(chest: Chest) -> Plane:
    """Thickness [H, W] of the heart with the great vessels above it, mm."""
    body, grid = chest.body, chest.grid
    shift = body.mediastinal_shift
    dx, dy = grid.x - body.heart_x - shift, grid.y - body.heart_y
    cos, sin = math.cos(body.heart_tilt), math.sin(body.heart_tilt)
    along, across = (cos * dx + sin * dy), (-sin * dx + cos * dy)
    # Half axes chosen so that the widest extent along x is the half width that the cardiothoracic ratio asks for.
    short = 0.92 * body.heart_half_height
    long = math.sqrt(max(body.heart_half_width**2 - (short * sin) ** 2, (0.8 * short) ** 2)) / cos
    heart = 120.0 * np.sqrt(np.clip(1.0 - (along / long) ** 2 - (across / short) ** 2, 0.0, None))
    knob_x, knob_y = body.mediastinum + 6.0 + shift, -46.0
    knob = np.sqrt(np.clip(1.0 - ((grid.x - knob_x + 8) / 19.0) ** 2 - ((grid.y - knob_y) / 19.0) ** 2, 0.0, None))
    trunk_x = body.mediastinum + 2.0 + shift
    artery = np.sqrt(np.clip(1.0 - ((grid.x - trunk_x + 6) / 17.0) ** 2 - ((grid.y + 12.0) / 24.0) ** 2, 0.0, None))
    return np.asarray(np.maximum(heart, np.maximum(70.0 * knob, 60.0 * artery)), dtype=np.float32)


def _trunk(chest: Chest) -> Plane:
    """Thickness [H, W] of the whole trunk, with neck, shoulders, breasts and the stomach's bubble, mm."""
    body, grid = chest.body, chest.grid
    distance = np.abs(grid.x)
    flank = body.chest_half_width + body.wall
    outer = flank + 75.0 * smoothstep((-62.0 - grid.y) / 26.0)
    profile = np.clip(1.0 - (distance / outer) ** 2, 0.0, 1.0) ** 0.42
    shoulder = body.apex - 28.0 + 0.42 * np.clip(distance - 58.0, 0.0, None)
    neck = 1.0 - 0.42 * smoothstep((body.apex + 12.0 - grid.y) / 42.0)
    below_shoulder = smoothstep((grid.y - shoulder) / 14.0)
    thickness = (
        body.depth * profile * neck * np.maximum(below_shoulder, np.clip(1.0 - (distance / 66.0) ** 4, 0.0, 1.0) ** 0.5)
    )
    if body.breast:
        for sign in SIDES.values():
            dx, dy = grid.x - sign * 0.56 * body.chest_half_width, grid.y - 62.0
            fall = np.where(dy > 0, dy / 42.0, dy / 70.0)
            thickness += body.breast * np.sqrt(np.clip(1.0 - (dx / 68.0) ** 2 - fall**2, 0.0, None)) * (thickness > 0)
    if body.gastric_bubble:
        r, x, y = (
            body.gastric_bubble,
            0.46 * body.chest_half_width,
            body.dome["left"] + 12.0 + body.gastric_bubble * 0.6,
        )
        bubble = np.sqrt(np.clip(1.0 - ((grid.x - x) / (1.5 * r)) ** 2 - ((grid.y - y) / (0.7 * r)) ** 2, 0.0, None))
        thickness -= 1.6 * r * bubble
    return np.asarray(np.maximum(thickness, 0.0), dtype=np.float32)


def _airways(chest: Chest) -> Plane:
    """Attenuation [H, W] that trachea and main bronchi take away (negative)."""
    grid, shift = chest.grid, chest.body.mediastinal_shift
    lean = grid.x - shift * smoothstep((grid.y - chest.body.apex + 30.0) / 80.0)
    trachea = np.sqrt(np.clip(1.0 - (lean / 8.5) ** 2, 0.0, None)) * smoothstep((-14.0 - grid.y) / 6.0)
    air = 16.0 * trachea * smoothstep((grid.y + 190.0) / 20.0)
    for sign, steep in ((1.0, 0.95), (-1.0, 1.45)):
        run = sign * lean
        off = grid.y + 17.0 - steep * run
        air = np.maximum(
            air, 10.0 * np.sqrt(np.clip(1.0 - (off / (7.0 * steep)) ** 2, 0.0, None)) * ((run > 0) & (run < 30))
        )
    return np.asarray(-SOFT_TISSUE * air, dtype=np.float32)


def _tube(offset: NDArray[np.floating], radius: float) -> Plane:
    """Ray length [H, W] through the cortex of a tube seen from the side, mm; `offset` is the distance to its axis."""
    inner = np.sqrt(np.clip((0.72 * radius) ** 2 - offset**2, 0.0, None))
    return np.asarray(2.0 * np.sqrt(np.clip(radius**2 - offset**2, 0.0, None)) - 1.5 * inner, dtype=np.float32)


def _bones(scene: Scene) -> Plane:
    """Attenuation [H, W] of ribs, clavicles and spine beyond that of soft tissue.

    Ribs repeat with the spacing of the intercostal spaces, so one periodic coordinate draws all of them at once.
    """
    chest = scene.chest
    body, grid = chest.body, chest.grid
    y = grid.y + scene.rib_step
    u = np.clip(np.abs(grid.x) / np.maximum(chest.outer, 8.0), 0.0, 1.25)
    cage = (u < 1.04) * smoothstep((grid.y - body.apex) / 14.0) * smoothstep((body.dome["left"] + 62.0 - grid.y) / 20.0)
    thicker = 1.0 + 0.9 * np.clip(u, 0.0, 1.0) ** 6
    posterior = (y - 62.0 * (u - 0.32) ** 2) / body.rib_spacing + body.rib_phase
    bone = _tube((posterior - np.round(posterior)) * body.rib_spacing * 0.95, body.rib_radius) * (u > 0.10) * thicker
    anterior = (y - 29.0 - 92.0 * np.clip(1.0 - u, 0.0, 1.0) ** 1.15) / body.rib_spacing + body.rib_phase
    ends = smoothstep((u - 0.42) / 0.10)  # costal cartilage is not seen
    bone += 0.85 * _tube((anterior - np.round(anterior)) * body.rib_spacing * 0.72, body.rib_radius) * ends
    bone *= cage * (1.0 - scene.rib_gap)

    for sign in SIDES.values():
        along = sign * grid.x
        axis = body.apex + 26.0 - 0.22 * along + 9.0 * np.sin(along / 26.0)
        if body.view == "AP":
            axis -= 12.0
        collar = _tube(grid.y - axis, 6.2) * smoothstep((along - 16.0) / 8.0) * smoothstep((158.0 - along) / 12.0)
        bone = np.maximum(bone, 1.15 * collar)

    x = grid.x - 0.5 * body.rotation_shift
    column = smoothstep((19.0 - np.abs(x)) / 5.0)
    plates = 0.75 + 0.25 * np.cos(2.0 * np.pi * grid.y / (24.0 + 0.02 * grid.y))
    return np.asarray(body.rib_density * bone + 0.010 * 26.0 * column * plates, dtype=np.float32)


def _expose(path: Plane, grid: Grid, body: Body, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Turn attenuation [H, W] into stored values: scatter, quantum noise, display curve, collimation, burnt-in text."""
    # Every choice of the exposure before the noise: a phantom of any size is exposed alike.
    scatter, photons = rng.uniform(0.006, 0.02), rng.uniform(6000.0, 25000.0)
    black, white = rng.uniform(0.3, 3.0), rng.uniform(98.5, 99.9)
    gamma, brightest = rng.uniform(1.1, 1.75), rng.uniform(0.90, 1.0)
    collimated, edges = rng.random() < 0.25, rng.uniform(0.0, 0.045, 4)

    intensity = np.exp(-path) + scatter
    # Photons are those of a square millimetre in the open beam; a pixel's share grows with its area.
    noise = rng.standard_normal(path.shape, dtype=np.float32)
    intensity += noise * np.sqrt(intensity / (photons * grid.spacing**2))
    density = -np.log(np.maximum(intensity, 1e-3))
    centre = density[path.shape[0] // 10 : -path.shape[0] // 10, path.shape[1] // 10 : -path.shape[1] // 10]
    low, high = (float(level) for level in np.percentile(centre[::4, ::4], (black, white)))
    grey = np.clip((density - low) / max(high - low, 0.5), 0.0, 1.0) ** gamma
    stored = (grey * brightest * STORED_MAX).astype(np.uint16)
    if collimated:
        top, bottom, left, right = (edges * grid.size).astype(int)
        stored[:top], stored[grid.size - bottom :] = 0, 0
        stored[:, :left], stored[:, grid.size - right :] = 0, 0
    marker = "R" if body.view == "PA" else "R AP"
    burn_in(stored, text=BURNT_IN_TEXT, marker=marker)
    return stored
