"""Runs that fill or drain an index: what runs behind `embed-images`, `embed-reports`, `prune`, `import` and `export`."""

from mcr_infer.pipeline.deidentification import Naming
from mcr_infer.pipeline.image_run import Stop, embed_images
from mcr_infer.pipeline.outcome import Outcome, Summary
from mcr_infer.pipeline.plan import Plan, usable_cores
from mcr_infer.pipeline.report_run import embed_reports
from mcr_infer.pipeline.run_report import Meter, RunReport, tower_facts

__all__ = [
    "Meter", "Naming", "Outcome", "Plan", "RunReport", "Stop", "Summary", "embed_images", "embed_reports",
    "tower_facts", "usable_cores",
]  # fmt: skip
