"""Inputs become rows of the index, or vectors of an evaluation: what runs behind `embed-images` and `embed-reports`."""

from mcr_infer.pipeline.images import Stop, embed_images
from mcr_infer.pipeline.meter import Meter
from mcr_infer.pipeline.naming import Naming
from mcr_infer.pipeline.outcome import Outcome, Summary
from mcr_infer.pipeline.pairs import embed_pairs
from mcr_infer.pipeline.plan import Plan, usable_cores
from mcr_infer.pipeline.report import RunReport, tower_facts
from mcr_infer.pipeline.reports import embed_reports

__all__ = [
    "Meter", "Naming", "Outcome", "Plan", "RunReport", "Stop", "Summary", "embed_images", "embed_pairs", "embed_reports",
    "tower_facts", "usable_cores",
]  # fmt: skip
