"""What moved between two reports, beyond noise.

A figure moved where its two intervals do not overlap. Where one of them has none, its noise is not known: such a figure is
named when it changed by more than the limit of `benchmarks.harness`, and as what it is. Intervals know of the noise within a
run alone: whether the machine itself was faster in one of them, as shared machines are by the hour, the gauge tells.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.card import machine_rows
from benchmarks.harness import NOISE_LIMIT
from benchmarks.part import Figure, Measure
from benchmarks.part_command import cell_text
from benchmarks.report import Report

Verdict = Literal["better", "worse", "moved", "within noise", "noise unknown", "unchanged", "other unit"]

PACE_LIMIT = 0.03
"""Relative change of the gauge from which the machine itself is said to have been faster or slower."""

_TOLD: tuple[tuple[Verdict, str], ...] = (
    ("worse", "worse"),
    ("better", "better"),
    ("moved", "moved, neither better nor worse"),
    ("noise unknown", f"changed by more than {NOISE_LIMIT:.0%}, taken once, so nobody knows its noise"),
    ("other unit", "in another unit, not compared"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure in both reports."""

    name: str
    before: Figure
    after: Figure

    @property
    def relative(self) -> float | None:
        """Change relative to before; None from zero."""
        before, after = self.before.measure.value, self.after.measure.value
        return (after - before) / abs(before) if before else None

    @property
    def verdict(self) -> Verdict:
        """What became of it."""
        before, after = self.before.measure, self.after.measure
        if self.before.unit != self.after.unit:
            return "other unit"
        if before.value == after.value:
            return "unchanged"
        if None in (before.low, before.high, after.low, after.high):
            relative = self.relative
            return "within noise" if relative is not None and abs(relative) <= NOISE_LIMIT else "noise unknown"
        if overlap(before, after):
            return "within noise"
        if not self.after.better:
            return "moved"
        return "better" if (after.value > before.value) == (self.after.better == "higher") else "worse"

    def line(self) -> str:
        """Say it on a line."""
        relative = "" if self.relative is None else f"  {self.relative:+.1%}"
        before, after = (f"{cell_text(one.measure)} {one.unit}".strip() for one in (self.before, self.after))
        return f"  {self.name}: {before} -> {after}{relative}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that differs between two reports."""

    changes: tuple[Change, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    circumstances: Mapping[str, tuple[str, str]]
    """What differs of machine, versions, bundle, commit: before and after."""

    doubtful: tuple[str, ...]
    """Flags of either report."""

    def verdicts(self, *wanted: Verdict) -> list[Change]:
        """Return the changes of some verdicts, the largest first."""
        found = [change for change in self.changes if change.verdict in wanted]
        return sorted(found, key=lambda change: -abs(change.relative or float("inf")))

    def lines(self) -> list[str]:
        """Say it in lines of text."""
        told: list[str] = []
        if self.circumstances:
            told.append("not the same circumstances:")
            told += [f"  {name}: {before} -> {after}" for name, (before, after) in self.circumstances.items()]
        if self.doubtful:
            told += ["doubtful:", *(f"  {flag}" for flag in self.doubtful)]
        for verdict, words in _TOLD:
            if found := self.verdicts(verdict):
                told += [f"{words}: {len(found)}", *(change.line() for change in found)]
        for words, names in (("new", self.new), ("gone", self.gone)):
            if names:
                told += [f"{words}: {len(names)}", *(f"  {name}" for name in names)]
        told.append(f"within noise: {len(self.verdicts('within noise'))}, unchanged: {len(self.verdicts('unchanged'))}")
        return told

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "circumstances": {name: list(both) for name, both in self.circumstances.items()},
            "doubtful": list(self.doubtful),
            "figures": [
                {
                    "name": change.name,
                    "verdict": change.verdict,
                    "before": _plain(change.before),
                    "after": _plain(change.after),
                    "relative": change.relative,
                }
                for change in self.changes
            ],
            "new": list(self.new),
            "gone": list(self.gone),
        }


def overlap(one: Measure, other: Measure) -> bool:
    """Whether two intervals overlap; touching is overlapping."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        raise ValueError("a measure without an interval overlaps nothing and everything")
    return one.low <= other.high and other.low <= one.high


def compare(before: Report, after: Report) -> Comparison:
    """Compare two reports, figure by figure."""
    old, new = before.figures, after.figures
    return Comparison(
        changes=tuple(Change(name=name, before=old[name], after=new[name]) for name in old if name in new),
        new=tuple(name for name in new if name not in old),
        gone=tuple(name for name in old if name not in new),
        circumstances=_circumstances(before, after),
        doubtful=tuple(
            f"{which}: {part.title}: {flag}"
            for which, one in (("A", before), ("B", after))
            for part, flag in one.flagged
        ),
    )


def _circumstances(before: Report, after: Report) -> dict[str, tuple[str, str]]:
    old, new = _facts(before), _facts(after)
    facts = {
        name: (old.get(name, "none"), new.get(name, "none"))
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    }
    return facts | _paces(before, after)


def _paces(before: Report, after: Report) -> dict[str, tuple[str, str]]:
    """Return what the fixed piece of work took beside each part, where the machine itself was faster in one report."""
    old, new = ({part.name: part for part in report.measured if part.pace_ms} for report in (before, after))
    return {
        f"a fixed piece of work beside {name!r}": (f"{old[name].pace_ms:.1f} ms", f"{new[name].pace_ms:.1f} ms")
        for name in old
        if name in new and abs(new[name].pace_ms / old[name].pace_ms - 1) > PACE_LIMIT
    }


def _facts(report: Report) -> dict[str, str]:
    """Return what should be the same if figures are to be compared: not the load and the clock, which are never the same."""
    rows = {name: text for name, text in machine_rows(report.machine) if name not in ("load", "clock", "versions")}
    packages = {"Python": report.machine.get("python", ""), **report.machine.get("packages", {})}
    subject = report.bundle
    return {
        "commit": report.commit.digest[:12] + (" and changes" if report.commit.changed else ""),
        "bundle": f"{subject.name} {subject.fingerprint[:16]}" if subject else "none",
        "run": "quick" if report.quick else "full",
        **rows,
        **{f"version of {name}": str(told) for name, told in packages.items()},
    }


def _plain(figure: Figure) -> dict[str, Any]:
    measure = figure.measure
    return {"value": measure.value, "low": measure.low, "high": measure.high, "unit": figure.unit}
