"""What a writer had said when it ended, and whether that is what it left."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcr_infer.index import Index
from tests.faults.inspection import Findings, WrongAnswer, compare, expect, found_state, part
from tests.faults.sample import LIMIT, State


@dataclass(frozen=True, slots=True)
class Told:
    """What a writer had said when it ended."""

    acknowledged: State
    pending: State | None
    """As it would be if the step that had begun were done; None where no step was under way."""

    steps: int

    @classmethod
    def of(cls, start: State, words: Iterable[tuple[Any, ...]]) -> "Told":
        """Replay what was said over what there was."""
        told = cls(start, None, 0)
        for word in words:
            if word[0] == "begins":
                _, added, revision, gone = word
                told = cls(told.acknowledged, told.acknowledged.with_rows(added, revision).without(gone), told.steps)
            elif word[0] == "done" and told.pending is not None:
                told = cls(told.pending, None, told.steps + 1)
        return told


def look(folder: Path, told: Told) -> tuple[Findings, State | None]:
    """Compare an index with what was acknowledged, and then with itself; return also what it holds."""
    findings: Findings = {}
    state = None
    with part(findings, "open"), Index.open(folder, exact_limit=LIMIT, notify=lambda _: None) as index:
        with part(findings, "acknowledged"):
            found = found_state(index, first_format=told.acknowledged.first_format)
            _check(found, told)
            state = found
        if state is not None:
            compare(index, state, findings)
    return findings, state


def _check(found: State, told: Told) -> None:
    """Raise `WrongAnswer` unless what is there is what was acknowledged, with or without the step that was under way."""
    both = [told.acknowledged] if told.pending is None else [told.acknowledged, told.pending]
    if any(found.rows == one.rows for one in both):
        return
    lost = told.acknowledged.rows.keys() - found.rows.keys() - _going(told)
    expect(not lost, f"{len(lost)} acknowledged rows are lost")
    back = found.rows.keys() - told.acknowledged.rows.keys() - both[-1].rows.keys()
    expect(not back, f"{len(back)} rows are there that were deleted, or that nobody added")
    raise WrongAnswer("a step was done in part, or rows are of another revision")


def _going(told: Told) -> set[tuple[str, int]]:
    """Return the rows that the step that was under way deletes."""
    return set() if told.pending is None else set(told.acknowledged.rows.keys() - told.pending.rows.keys())
