"""How a run uses the machine: processes that decode, threads that call the tower, and what is under way between them.

All of it is decided before the run begins and written into its report.
"""

import os
from dataclasses import asdict, dataclass, field

from mcr_infer.errors import ConfigError
from mcr_infer.images.selection import Selection
from mcr_infer.inference.autotune import TowerConfig
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.pipeline.decoding import Limits
from mcr_infer.pipeline.decoding.shared_memory import SlotShape


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run over many images."""

    workers: int
    """Processes that decode."""

    calls: int
    """Calls of the tower at a time, each in a thread of its own."""

    call_size: int
    """Radiographs in one call."""

    call_threads: int = 1
    """Threads of the runtime within one call."""

    budget: float = 1.0
    """The share of patches that the tower sees."""

    reduce: bool = True
    """Decode at a reduced resolution where nothing is lost by it."""

    selection: Selection = field(default_factory=Selection)
    """Which radiographs are taken, by their headers."""

    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("workers", "calls", "call_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a run must be at least 1, got {getattr(self, name)}")

    @property
    def in_flight(self) -> int:
        """Radiographs that may be embedded and not yet committed: what a crash makes the next run embed again."""
        return 2 * self.calls * self.call_size

    @property
    def ahead(self) -> int:
        """Files that are given to the workers before their turn: the queue between decoding and the tower."""
        return self.in_flight + 4 * self.workers

    @property
    def slots(self) -> int:
        """Radiographs that lie in shared memory at most: ahead, in the call that is being filled, in calls; and two more to
        settle whether two files hold one image."""
        return self.ahead + self.call_size + self.in_flight + 2

    def to_dict(self) -> dict[str, object]:
        """Return the plan as JSON values."""
        return {
            "workers": self.workers,
            "calls": self.calls,
            "call_size": self.call_size,
            "call_threads": self.call_threads,
            "ahead": self.ahead,
            "in_flight": self.in_flight,
            "patch_budget": self.budget,
            "reduced_decode": self.reduce,
            "selection": self.selection.to_dict(),
            "limits": asdict(self.limits),
        }

    def explain(self, tower: TowerConfig, preprocess: Preprocess) -> list[tuple[str, str, str]]:
        """Say what each part of the plan is and why, as rows (what, how much, why)."""
        shape = SlotShape(patches=preprocess.patches_within(self.budget), area=preprocess.patch_size**2)
        measured = "remembered from an earlier run" if tower.remembered else "measured just now"
        asked = ", ".join(f"{name} {' or '.join(words)}" for name, words in self.selection.to_dict().items())
        cost = f"{tower.images_per_second:.1f} radiographs a second alone, {measured}"
        full = f"where {preprocess.reduce_to} are kept" if self.reduce else "as asked"
        return [
            ("cores", f"{usable_cores()}", "that this process may use"),
            (
                "workers",
                f"{self.workers}",
                "processes that decode; the system gives the cores to whichever side has work",
            ),
            ("calls", f"{self.calls} x {self.call_threads}", f"calls of the tower at a time x threads in each: {cost}"),
            ("call size", f"{self.call_size}", "radiographs in one call"),
            ("ahead", f"{self.ahead}", "files that are decoded before their turn: the queue before the tower"),
            (
                "in flight",
                f"{self.in_flight}",
                "radiographs embedded and not committed: what a crash makes the next run do again",
            ),
            (
                "shared memory",
                f"{self.slots * shape.slot_bytes / 2**20:.0f} MiB",
                f"{self.slots} radiographs between the two",
            ),
            ("patches", f"{shape.patches} of {preprocess.patch_count}", f"patch budget {self.budget:g}"),
            ("decode", "reduced" if self.reduce else "in full", full),
            ("limits", f"{self.limits.seconds:g} s, {self.limits.memory_bytes >> 20} MiB", "for one file"),
            ("selection", asked or "all", "by modality, body part, view and presentation intent"),
        ]
