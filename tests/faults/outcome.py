"""What came of a fault, over all its cases: how many gave right answers, how many one clear error, and which neither."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults.inspection import REFUSED, RIGHT, WRONG, Findings

_VARYING = re.compile(r"\S*/\S+|'[^']*'|\b[0-9a-f]{12,}\b|\d+")
"""Paths, ids, digests, numbers."""

_WORDS = 160
"""Characters of an error that are kept."""

_SHOWN = 40
"""Bad cases that are kept word for word."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One line of the table."""

    fault: str
    target: str
    right: int = 0
    refused: int = 0
    bad: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    """How often each part was refused."""

    words: Counter[str] = field(default_factory=Counter)
    """How often each error was the first of a case, numbers and names left out."""

    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """All of them."""
        return self.right + self.refused + len(self.bad)

    def note(self, case: str, *stages: Findings, only_right: bool = False) -> None:
        """Count a case; with `only_right` an error of ours is no good end either."""
        said = [(name, text) for findings in stages for name, text in findings.items()]
        wrong = [f"{name}: {text}" for name, text in said if text.startswith(WRONG)]
        refused = [f"{name}: {text}" for name, text in said if text.startswith(REFUSED)]
        assert len(said) == len(wrong) + len(refused) + sum(text == RIGHT for _, text in said)
        if wrong or (only_right and refused):
            self.bad.append(f"{case}: {'; '.join(wrong or refused)}")
        elif refused:
            self.refused += 1
            first = next(text for _, text in said if text.startswith(REFUSED))
            self.words[_VARYING.sub("..", first.removeprefix(REFUSED))[:_WORDS]] += 1
            self.refusals.update({name for name, text in said if text.startswith(REFUSED)})
        else:
            self.right += 1

    def line(self) -> str:
        """Return it as a line of the table; bad cases below."""
        ends = f"{self.right:4} right answers, {self.refused:4} one clear error, {len(self.bad):3} neither"
        told = f"{self.fault:28} {self.target:34} {self.cases:4} cases: {ends}"
        return "\n    ".join([told, *self.bad[:_SHOWN]])

    def values(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "fault": self.fault, "target": self.target, "cases": self.cases, "right_answers": self.right,
            "one_clear_error": self.refused, "neither": len(self.bad), "refused_parts": dict(self.refusals),
            "first_errors": dict(self.words),
            **self.facts, "neither_cases": self.bad[:_SHOWN],
        }  # fmt: skip
