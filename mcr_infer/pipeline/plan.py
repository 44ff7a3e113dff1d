"""How a run uses the machine: processes that decode, threads that call the tower, and what is under way between them.

All of it is decided before the run begins and written into its report.
"""

import os
from dataclasses import dataclass, field

from mcr_infer.decoding import Limits
from mcr_infer.errors import ConfigError
from mcr_infer.images.selection import Selection


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
