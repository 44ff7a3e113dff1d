"""Phantoms: synthetic frontal chest radiographs with known findings and a report each. No patient is in them.

They are the demo, the test fixtures and the training set of the bundle that ships. A phantom is made from its seed alone:
the seed gives the findings, the body, the exposure and the words at any size; quantum noise is drawn for each size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.presets import Preset
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.images.rendering import Rendering, render
from mcr_infer.phantom.anatomy import draw_body
from mcr_infer.phantom.findings import Finding, draw_findings
from mcr_infer.phantom.language import Report, write_report
from mcr_infer.phantom.lesions import reshape_body
from mcr_infer.phantom.projection import STORED_MAX, project

__all__ = ["Phantom", "draw_study", "make", "render_stored", "stream"]

FIRST_TRAINING_SEED = 1_000_000
"""Training uses seeds from here on; demo and evaluation stay below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """One synthetic radiograph; `stored` [H, W] holds 12-bit values, high = radiodense (MONOCHROME2)."""

    seed: int
    stored: NDArray[np.uint16]
    findings: tuple[Finding, ...]
    report: Report
    view: str

    def radiograph(self, *, rendering: Preset = "voi") -> Radiograph:
        """Return the radiograph that reading this phantom's DICOM file gives, with the same pixels bit for bit."""
        whole_range = rendering == "voi"
        return Radiograph(
            pixels=render_stored(self.stored) if whole_range else render(self.stored, Rendering(), rendering).pixels,
            source="phantom",
            modality="DX",
            view_position=self.view,
            view_source="tag",
            rendering=rendering,
        )


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of one aspect of a phantom, independent of its other aspects."""
    return np.random.default_rng([seed, *name.encode()])


def draw_study(seed: int) -> tuple[tuple[Finding, ...], str]:
    """Draw what the phantom of a seed shows and its view, AP or PA: what its words depend on."""
    view = "AP" if stream(seed, "view").random() < 0.3 else "PA"
    return draw_findings(stream(seed, "findings")), view


def make(seed: int, size: int = 256, *, findings: tuple[Finding, ...] | None = None) -> Phantom:
    """Make the phantom of a seed, `size` pixels a side; `findings` replaces the drawn ones."""
    drawn, view = draw_study(seed)
    findings = drawn if findings is None else findings
    anatomy = stream(seed, "anatomy")
    body = reshape_body(draw_body(anatomy, view=view), findings, stream(seed, "reshape"))
    stored = project(body, findings, size=size, anatomy=anatomy, detector=stream(seed, "detector"))
    report = write_report(findings, view=view, rng=stream(seed, "report"))
    return Phantom(seed=seed, stored=stored, findings=findings, report=report, view=view)


def render_stored(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Render stored values [H, W] as a reader of the DICOM file would: its window spans all 12 bits."""
    return stored.astype(np.float32) / np.float32(STORED_MAX)
