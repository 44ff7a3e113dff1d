"""The report of a run: what was done, how fast, where the time went and what failed; `run.json` beside the index.

`Meter` measures where the time of a run goes, and how full its queues are.
"""

import json
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.files import atomic_write
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.pipeline.outcome import FAILURES, Summary
from mcr_infer.pipeline.plan import Plan, usable_cores

FILE_NAME = "run.json"
SCHEMA_VERSION = 1


@dataclass(slots=True)
class Meter:
    """Sums over a run, in seconds; `busy` is processor time, `waiting` is time of the clock."""

    busy: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By stage: decode, cut (in the workers), tower, commit."""

    waiting: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """How long the run stood still for the next decoded file (`decode`), for a call of the tower (`tower`)."""

    depths: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Decoded files that waited for a call: how often it was looked at, the sum, and the most."""

    decoder_deaths: int = 0
    worker_mib: int = 0
    """The most memory that a worker has had."""

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take processor time by stage into account."""
        for stage, one in seconds.items():
            self.busy[stage] += one

    @contextmanager
    def waits(self, what: str) -> Iterator[None]:
        """Count the time of the block as waiting."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.waiting[what] += time.perf_counter() - begun

    @contextmanager
    def works(self, stage: str) -> Iterator[None]:
        """Count the processor time of the block, in this thread."""
        begun = time.thread_time()
        try:
            yield
        finally:
            self.busy[stage] += time.thread_time() - begun

    def sees(self, depth: int) -> None:
        """Note how many decoded files are waiting now."""
        looks, total, most = self.depths
        self.depths = [looks + 1, total + depth, max(most, depth)]

    def shares(self) -> dict[str, float]:
        """Return the share of each stage in all processor time."""
        whole = sum(self.busy.values())
        return {stage: seconds / whole for stage, seconds in self.busy.items()} if whole else {}

    @property
    def mean_depth(self) -> float:
        """How many decoded files waited on average."""
        looks, total, _ = self.depths
        return total / looks if looks else 0.0

    def memory(self) -> dict[str, int]:
        """Return the peaks of resident memory in MiB: of this process so far, and of the largest worker."""
        return {"run": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "largest_worker": self.worker_mib}

    def to_dict(self) -> dict[str, object]:
        """Return the sums for the report of a run."""
        return {
            "busy_seconds": {stage: round(seconds, 3) for stage, seconds in self.busy.items()},
            "busy_share": {stage: round(share, 4) for stage, share in self.shares().items()},
            "waiting_seconds": {what: round(seconds, 3) for what, seconds in self.waiting.items()},
            "decoded_waiting": {"mean": round(self.mean_depth, 2), "most": self.depths[2]},
            "decoder_deaths": self.decoder_deaths,
            "peak_memory_mib": self.memory(),
        }


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
            atomic_write(folder / FILE_NAME, json.dumps(self.to_dict(), indent=1).encode() + b"\n", private=True)
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
