"""What came of the cases of a format: counts by outcome and by mutation, and findings word for word."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

KINDS = ("parent crashed", "hung", "traceback", "unaccounted", "leak", "wrong rendering", "wrong answer")
"""What must not happen. A file that ends its decode worker by a signal, or takes it too long, is one named failure."""

_SHOWN = 50
"""Findings that are kept word for word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not happen, with the case that makes it happen again."""

    kind: str
    number: int
    """Of the case; -1 where it cannot be told which one."""
    mutations: tuple[str, ...]
    words: str

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


@dataclass(slots=True)
class Tally:
    """The cases of one format."""

    format: str
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """By status and reason, such as `failed: corrupt`; an archive or a table has several."""
    mutations: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    """Renderings beside those of dcmtk: equal, noted, not read by dcmtk, different."""
    deaths: Counter[str] = field(default_factory=Counter)
    """Decode workers that a codec ended, by signal; the run went on."""
    seconds: float = 0.0

    def find(self, kind: str, number: int, mutations: Iterable[str], words: str) -> None:
        """Keep a finding."""
        self.findings.append(Finding(kind, number, tuple(mutations), words[:2000]))

    def values(self) -> dict[str, Any]:
        """Return it as JSON values."""
        kinds = Counter(one.kind for one in self.findings)
        return {
            "format": self.format, "cases": self.cases, "seconds": round(self.seconds, 1),
            "outcomes": dict(sorted(self.outcomes.items())), "mutations": dict(sorted(self.mutations.items())),
            "beside_dcmtk": dict(sorted(self.compared.items())), "codec_deaths": dict(sorted(self.deaths.items())),
            "findings": {kind: kinds[kind] for kind in KINDS},
            "found": [
                {"kind": one.kind, "case": one.number, "mutations": list(one.mutations), "words": one.words}
                for one in self.findings[:_SHOWN]
            ],
        }  # fmt: skip


def merged(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add up the tallies of several runs, as JSON values, by format."""
    whole: dict[str, dict[str, Any]] = {}
    for part in parts:
        one = whole.setdefault(part["format"], {"format": part["format"], "cases": 0, "seconds": 0.0, "found": []})
        for name in ("cases", "seconds"):
            one[name] = round(one[name] + part[name], 1)
        one["found"] = (one["found"] + part["found"])[:_SHOWN]
        for name in ("outcomes", "mutations", "beside_dcmtk", "codec_deaths", "findings"):
            one[name] = dict(sorted((Counter(one.get(name, {})) + Counter(part[name])).items()))
    for one in whole.values():
        one["findings"] = {kind: one["findings"].get(kind, 0) for kind in KINDS}
    return list(whole.values())


_DEATH = re.compile(r"died \((signal \d+|exit status -?\d+)\)")


def death_of(error: str) -> str | None:
    """Return how a decode worker ended, as the error of its file says it."""
    found = _DEATH.search(error)
    return found.group(1) if found else None
