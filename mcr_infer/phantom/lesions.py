"""What disease does to a chest: each finding changes the lungs, the heart or the ribs of a scene before it is projected.

A scene counts in millimetres of tissue along the ray: air-filled lung, soft tissue in place of air, bone, metal. Findings
that change the body itself (heart size, inflation, volume loss) act on the `Body` first, so that everything else follows.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mcr_infer.phantom.anatomy import SIDES, Body, Chest, Plane, smoothstep
from mcr_infer.phantom.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CONSOLIDATION,
    EDEMA,
    EFFUSION,
    HYPERINFLATION,
    NODULE,
    PNEUMOTHORAX,
    RIB_FRACTURE,
    Finding,
)  # fmt: skip


def reshape_body(body: Body, findings: Sequence[Finding], rng: np.random.Generator) -> Body:
    """Return the body as its findings have changed it: heart size, inflation, volume loss, mediastinal shift."""
    for finding in findings:
        size = finding.size
        if finding.kind == CARDIOMEGALY:
            # Cardiothoracic ratio from just above a half (barely) to 0.70 (gross).
            ratio = (0.53 if body.view == "PA" else 0.56) + 0.14 * size
            body = replace(
                body,
                heart_half_width=body.chest_half_width * ratio,
                heart_half_height=body.heart_half_height * (1.04 + 0.18 * size),
                heart_x=body.heart_x + 4.0 + 8.0 * size,
            )
        elif finding.kind == HYPERINFLATION:
            body = replace(
                body,
                dome={side: y + 14.0 + 18.0 * size for side, y in body.dome.items()},
                dome_drop=body.dome_drop * (0.55 - 0.4 * size),
                apex=body.apex - 6.0 * size,
                heart_half_width=body.heart_half_width * (0.88 - 0.08 * size),
                lung_density=body.lung_density * (0.85 - 0.3 * size),
                vessel_gain=body.vessel_gain * (0.75 - 0.3 * size),
                rib_spacing=body.rib_spacing * 1.06,
            )
        elif finding.kind == ATELECTASIS and finding.side != "bilateral":
            lost = 6.0 + 22.0 * size
            side = str(finding.side)
            if finding.lobe == "lower lobe":
                body = replace(body, dome={**body.dome, side: body.dome[side] - lost})
            # The mediastinum moves towards the side that lost volume ...
            body = replace(body, mediastinal_shift=body.mediastinal_shift + SIDES[side] * 0.35 * lost)
        elif finding.kind == EFFUSION and finding.side != "bilateral" and size > 0.6:
            # ... and away from a large effusion or a pneumothorax under tension.
            body = replace(body, mediastinal_shift=body.mediastinal_shift - SIDES[str(finding.side)] * 14.0 * size)
        elif finding.kind == PNEUMOTHORAX and size > 0.7 and rng.random() < 0.5:
            body = replace(body, mediastinal_shift=body.mediastinal_shift - SIDES[str(finding.side)] * 12.0 * size)
    return body


class Scene:
    """Millimetres of each tissue along every ray; all planes are [H, W] float32."""

    def __init__(self, chest: Chest) -> None:
        self.chest = chest
        shape = chest.grid.x.shape
        self.air = {side: chest.lung[side].copy() for side in SIDES}
        """Aerated lung of each side."""
        self.free_air = {side: np.zeros(shape, dtype=np.float32) for side in SIDES}
        """Air of each side without lung in it (pneumothorax): no vessels, no attenuation."""
        self.tissue: Plane = np.zeros(shape, dtype=np.float32)
        """Soft tissue or fluid beyond what the trunk already has, such as vessels, haze, pleural lines."""
        self.vessels: Plane = np.ones(shape, dtype=np.float32)
        """How much of the vessels can be seen, 0 to 1 and above."""
        self.rib_step: Plane = np.zeros(shape, dtype=np.float32)
        """By how much ribs are displaced, mm."""
        self.rib_gap: Plane = np.zeros(shape, dtype=np.float32)
        """Where ribs are interrupted, 0 to 1."""

    def fill(self, side: str, share: Plane) -> None:
        """Replace a share [H, W] (0 to 1) of the air of one lung by soft tissue or fluid."""
        self.air[side] *= 1.0 - np.clip(share, 0.0, 1.0)

    def flood(self, side: str, share: Plane) -> None:
        """Replace a share [H, W] (0 to 1) of all air of one side, in the lung and around it, by fluid."""
        self.fill(side, share)
        self.free_air[side] *= 1.0 - np.clip(share, 0.0, 1.0)


def add_lesions(scene: Scene, findings: Sequence[Finding], rng: np.random.Generator) -> None:
    """Put every finding that lies in lungs, pleura or ribs into the scene."""
    for finding in findings:
        # One stream a finding: how much one of them draws does not move the next.
        own = np.random.default_rng(rng.integers(2**63))
        for side in SIDES if finding.side in ("bilateral", None) else (str(finding.side),):
            if finding.kind == EFFUSION:
                _effusion(scene, side, finding.size * own.uniform(0.75, 1.1), own)
            elif finding.kind == PNEUMOTHORAX:
                _pneumothorax(scene, side, finding.size, own)
            elif finding.kind == CONSOLIDATION:
                _consolidation(scene, side, str(finding.lobe), finding.size, own)
            elif finding.kind == ATELECTASIS:
                _atelectasis(scene, side, finding.lobe or "lower lobe", finding.size, own)
            elif finding.kind == EDEMA:
                _edema(scene, side, finding.size, own)
            elif finding.kind == NODULE:
                _nodule(scene, side, str(finding.lobe), float(finding.millimetres or 8.0), own)
            elif finding.kind == RIB_FRACTURE:
                _rib_fracture(scene, side, finding.size, own)


def _clouds(scene: Scene, rng: np.random.Generator, cells: int) -> Plane:
    """Smooth random field [H, W] in [0, 1], about `cells` lumps across the picture."""
    from PIL import Image

    coarse = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    size = scene.chest.grid.size
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)


def _effusion(scene: Scene, side: str, size: float, rng: np.random.Generator) -> None:
    """Fluid at the base with a meniscus that climbs along the chest wall; a trace only blunts the angle."""
    chest, body = scene.chest, scene.chest.body
    u = np.clip(chest.across(side), 0.0, 1.0)
    angle = body.dome[side] + body.dome_drop
    surface = angle - 14.0 - 150.0 * size**1.25
    # Lateral climb of the meniscus; a slighter one towards the mediastinum.
    climb = (16.0 + 26.0 * min(1.0, 2.0 * size)) * (u**4 + 0.35 * (1 - u) ** 6)
    depth = (chest.grid.y - (surface - climb)) / rng.uniform(9.0, 16.0)
    scene.flood(side, smoothstep(depth * 0.5 + 0.5))


def _pneumothorax(scene: Scene, side: str, size: float, rng: np.random.Generator) -> None:
    """Free air between chest wall and a retracted lung whose pleura is a fine line."""
    chest, body = scene.chest, scene.chest.body
    gap = 9.0 + 62.0 * size
    wall = chest.outer - SIDES[side] * chest.grid.x
    from_apex = chest.grid.y - body.apex
    reach = np.clip(1.15 - chest.down(side) * (1.1 - 0.75 * size), 0.25 * size, 1.0)
    # The lung falls away from the apex and the side: the nearer of the two distances decides.
    retracted = np.minimum(wall, from_apex * 0.85 + 6.0) - gap * reach
    inside_chest = scene.air[side] > 0.5
    free = inside_chest * smoothstep(-retracted / 2.5 + 0.5)
    scene.free_air[side] += free * scene.air[side]
    scene.vessels *= 1.0 - free
    lung = scene.air[side] * (1.0 - free)
    scene.air[side] = np.asarray(lung * (1.0 - 0.25 * size), dtype=np.float32)
    line = rng.uniform(8.0, 12.0) * np.exp(-((retracted / 1.6) ** 2))
    scene.tissue += (inside_chest * line).astype(np.float32)


_CENTRES = {"upper lobe": (0.55, 0.22), "middle lobe": (0.33, 0.80), "lower lobe": (0.52, 0.88)}
"""Where lobes project in a frontal view, as (u, v) of the lung: the middle lobe borders the right heart, the lower lobe lies
on the diaphragm."""


def _blob(scene: Scene, side: str, u0: float, v0: float, ru: float, rv: float) -> Plane:
    """Squared elliptic distance [H, W] from a point of the lung, in units of its radii."""
    chest = scene.chest
    return np.asarray(((chest.across(side) - u0) / ru) ** 2 + ((chest.down(side) - v0) / rv) ** 2, dtype=np.float32)


def _consolidation(scene: Scene, side: str, lobe: str, size: float, rng: np.random.Generator) -> None:
    """Air-space filling of part of a lobe: ragged towards the lung, sharp where a fissure bounds it."""
    u0, v0 = _CENTRES[lobe]
    u0, v0 = u0 + rng.uniform(-0.10, 0.10), v0 + rng.uniform(-0.05, 0.05)
    grow = 0.55 + 0.75 * size
    distance = _blob(scene, side, u0, v0, 0.36 * grow, 0.20 * grow) + 0.9 * (_clouds(scene, rng, 22) - 0.5)
    share = smoothstep((1.0 - distance) / 0.7)
    if lobe == "upper lobe":
        # The minor or the upper major fissure ends it below.
        share *= smoothstep((0.50 - scene.chest.down(side)) / 0.03)
    elif lobe == "middle lobe":
        share *= smoothstep((scene.chest.down(side) - 0.56) / 0.03)
    bronchi = 1.0 - 0.25 * (_clouds(scene, rng, 40) > 0.75)
    scene.fill(side, share * (0.45 + 0.4 * size) * bronchi)


def _atelectasis(scene: Scene, side: str, lobe: str, size: float, rng: np.random.Generator) -> None:
    """Plate-like bands, and for larger ones a wedge against hilum or diaphragm; the volume is lost in `reshape_body`."""
    chest = scene.chest
    u, v = chest.across(side), chest.down(side)
    base = {"upper lobe": 0.33, "middle lobe": 0.74, "lower lobe": 0.90}[lobe]
    for band in range(1 + int(size > 0.3) + int(size > 0.7)):
        slope = rng.uniform(-0.16, 0.16)
        start, length = rng.uniform(0.08, 0.3), 0.35 + 0.4 * size
        centre = base - 0.075 * band + slope * (u - 0.5)
        along = smoothstep((u - start) / 0.06) * smoothstep((start + length - u) / 0.06)
        thickness = (2.2 + 2.6 * size) / (chest.body.dome[side] - chest.body.apex)
        plate = np.exp(-(((v - centre) / thickness) ** 2)) * along
        scene.tissue += (scene.air[side] > 1.0) * plate * rng.uniform(24.0, 38.0)
    if size > 0.35:
        toward = -0.10 if lobe == "upper lobe" else 0.06
        wedge = _blob(scene, side, 0.18, base + toward, 0.30 + 0.25 * size, 0.06 + 0.10 * size)
        scene.fill(side, smoothstep((1.0 - wedge) / 0.5) * (0.45 + 0.4 * size))


def _edema(scene: Scene, side: str, size: float, rng: np.random.Generator) -> None:
    """Perihilar haze on both sides, fuller vessels, and septal (Kerley B) lines at the lateral bases."""
    haze = np.exp(-0.9 * _blob(scene, side, 0.22, 0.62, 0.5, 0.42)) * (0.75 + 0.5 * _clouds(scene, rng, 16))
    scene.fill(side, haze * (0.14 + 0.42 * size))
    chest = scene.chest
    lines = np.cos(2 * np.pi * chest.grid.y / rng.uniform(6.5, 8.5)) > 0.72
    lateral = smoothstep((chest.across(side) - 0.86) / 0.05) * smoothstep((chest.down(side) - 0.62) / 0.08)
    scene.tissue += (scene.air[side] > 1.0) * lines * lateral * (5.0 + 8.0 * size)
    scene.vessels *= 1.0 + 0.5 * (0.4 + size) * (scene.chest.across(side) > 0)


def _nodule(scene: Scene, side: str, lobe: str, millimetres: float, rng: np.random.Generator) -> None:
    """A ball of soft tissue, its edge slightly lobulated, inside the lobe and clear of heart and diaphragm."""
    chest, body = scene.chest, scene.chest.body
    ranges = {"upper lobe": (0.14, 0.42), "middle lobe": (0.58, 0.78), "lower lobe": (0.62, 0.86)}
    v = rng.uniform(*ranges[lobe])
    lateral = rng.uniform(0.35, 0.55) if lobe == "middle lobe" else rng.uniform(0.45, 0.75)
    y = body.apex + v * (body.dome[side] - body.apex)
    outer = float(chest.half_width(np.array([y], dtype=np.float32))[0])
    x = SIDES[side] * (body.mediastinum + lateral * (outer - body.mediastinum))
    dx, dy = chest.grid.x - x, chest.grid.y - y
    wobble = 1.0 + rng.uniform(0.03, 0.10) * np.cos(np.arctan2(dy, dx) * int(rng.integers(3, 7)) + rng.uniform(0, 6.28))
    radius = 0.5 * millimetres * wobble
    scene.tissue += 2.0 * np.sqrt(np.clip(radius**2 - dx**2 - dy**2, 0.0, None)).astype(np.float32)


def _rib_fracture(scene: Scene, side: str, size: float, rng: np.random.Generator) -> None:
    """One to three neighbouring ribs step out of line at a gap; larger fractures are displaced further."""
    chest, body = scene.chest, scene.chest.body
    where = rng.uniform(0.60, 0.85)
    first = body.apex + rng.uniform(0.32, 0.68) * (body.dome[side] - body.apex)
    ribs = 1 + int(size > 0.4) + int(size > 0.75)
    height = ribs * body.rib_spacing
    rows = smoothstep((chest.grid.y - first) / 3.0) * smoothstep((first + height - chest.grid.y) / 3.0)
    u = chest.across(side)
    scene.rib_step += rows * (u > where) * (6.0 + 7.0 * size)
    scene.rib_gap = np.maximum(
        scene.rib_gap, rows * np.exp(-(((u - where) * chest.outer / (2.4 + 3.0 * size)) ** 2)).astype(np.float32)
    )
