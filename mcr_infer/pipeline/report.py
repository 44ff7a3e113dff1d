"""The report of a run: what was done, how fast, where the time went and what failed; `run.json` beside the index."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from mcr_infer.durable import replace_file
from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.pipeline.meter import Meter
from mcr_infer.pipeline.outcome import FAILURES, Summary
from mcr_infer.pipeline.plan import Plan, usable_cores

FILE_NAME = "run.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One finished run over images."""

    summary: Summary
    meter: Meter
    plan: Plan
    encoder: ImageEncoder
    ignored: Mapping[str, int]
    """Entries of folders and archives that are no images by their names, by kind."""

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values."""
        summary, seconds = self.summary, self.summary.seconds
        return {
            "schema_version": SCHEMA_VERSION,
            **summary.to_dict(),
            "failures": dict(summary.failed),
            "failures_file": FAILURES,
            "ignored": dict(self.ignored),
            "images_per_second": round(summary.embedded / seconds, 3) if seconds else None,
            **self.meter.to_dict(),
            "plan": self.plan.to_dict(),
            "tower": tower_facts(self.encoder),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": usable_cores()},
            "version": version("mcr-infer"),
        }

    def write(self, folder: Path) -> None:
        """Put the report beside an index, readable by its owner alone. Raises `EmbeddingIndexError`."""
        try:
            replace_file(folder / FILE_NAME, json.dumps(self.to_dict(), indent=1).encode() + b"\n", private=True)
        except OSError as error:
            raise EmbeddingIndexError(f"index {folder}: {FILE_NAME} cannot be written: {error.strerror}") from error


def tower_facts(encoder: ImageEncoder) -> dict[str, object]:
    """Return what embeds, as JSON values."""
    return {
        "device": encoder.device,
        "precision": encoder.precision,
        "rendering": encoder.preprocess.rendering,
        "bundle_fingerprint": encoder.fingerprint,
    }
