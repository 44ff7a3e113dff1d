"""What can be wrong with the pairs of a data set: counted, named by examples, and refused or skipped as the run is told."""

from collections import Counter
from dataclasses import dataclass

from mcr_infer.errors import ConfigError
from train.config import Radiographs

EXAMPLES = 5
"""Of each fault, by the names that the data set itself uses."""

FAULTS = {
    "no_image": ("reports without an image", None),
    "no_split": ("images that the table of splits does not name", None),
    "other_split": ("images of other splits", None),
    "other_view": ("images of other views, or of none that is stated", None),
    "duplicate": ("images that are listed again", None),
    "missing_image": ("images that are not there", "missing_files"),
    "unreadable_image": ("images that are empty, no files or closed to this user", "missing_files"),
    "missing_report": ("images whose report is not there", "missing_files"),
    "unreadable_report": ("images whose report cannot be read as UTF-8", "missing_files"),
    "empty_report": ("images whose report has no text for data.radiographs.text", "empty_reports"),
    "leakage": ("training images of patients who are also in validation", "leakage"),
    "undecodable": ("images that cannot be decoded", "missing_files"),
    "no_patient": ("pairs without a patient: leakage cannot be seen", None),
    "no_labels": ("pairs without findings", None),
}
"""Each kind of fault in words, and the setting of data.radiographs that refuses or skips it (None = it needs none)."""

_KEPT = ("no_patient", "no_labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Pairs that something is wrong with."""

    kind: str
    """A key of `FAULTS`."""
    count: int
    examples: tuple[str, ...]
    action: str
    """`refused`, `left out` or `kept`."""

    def __str__(self) -> str:
        words, _ = FAULTS[self.kind]
        return f"{self.count} {words}: {self.action}, such as {', '.join(self.examples)}"


class Faults:
    """Counts faults while records pass by."""

    def __init__(self, config: Radiographs) -> None:
        self._config = config
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one; the first few are named."""
        self._counts[kind] += 1
        if len(examples := self._examples.setdefault(kind, [])) < EXAMPLES:
            examples.append(name)

    def listed(self) -> tuple[Fault, ...]:
        """Return what was counted so far, in the order of `FAULTS`."""
        return tuple(
            Fault(kind=kind, count=self._counts[kind], examples=tuple(self._examples[kind]), action=self._action(kind))
            for kind in FAULTS
            if self._counts[kind]
        )

    def refuse(self, origin: dict[str, str]) -> None:
        """Raise `ConfigError` for all faults that the configuration does not skip, at once."""
        refused = [fault for fault in self.listed() if fault.action == "refused"]
        if not refused:
            return
        settings = sorted({FAULTS[fault.kind][1] or "" for fault in refused})
        raise ConfigError(
            f"the data set ({', '.join(f'{role} {path}' for role, path in origin.items())}) has faults:\n"
            + "\n".join(f"  {fault}" for fault in refused)
            + "\nRepair them, or leave these pairs out with "
            + ", ".join(f'data.radiographs.{setting} = "skip"' for setting in settings)
        )

    def _action(self, kind: str) -> str:
        setting = FAULTS[kind][1]
        if kind in _KEPT:
            return "kept"
        return "refused" if setting and getattr(self._config, setting) == "refuse" else "left out"
