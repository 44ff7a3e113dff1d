"""A report: what was measured, on what, at which commit and of which bundle; one folder of three files that say the same.

parts -> Report -> results.json    for programs, and for `python -m benchmarks --compare`
                -> report.html     one file, no script, nothing loaded from anywhere
                -> report.md       for where HTML is not shown
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.part import SCHEMA_VERSION, Figure, Part

RESULTS = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The state of the checkout."""

    digest: str
    """Empty outside of a checkout."""

    changed: bool = False
    """Whether files that git knows differed from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The bundle that was measured."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the three files say."""

    made: str
    """Day and time (UTC)."""

    command: str
    quick: bool
    commit: Commit
    bundle: Subject | None
    machine: Mapping[str, Any]
    """Its card, from `benchmarks.machine`."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        for kind, names in (
            ("parts", [part.name for part in self.parts]),
            ("figures", [name for part in self.parts for name in part.figures]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind} of a report have the name {twice[0]!r}; names are what comparisons go by")

    @property
    def measured(self) -> list[Part]:
        """Parts of this run."""
        return [part for part in self.parts if not part.taken]

    @property
    def earlier(self) -> list[Part]:
        """Parts that were taken before, on what they say."""
        return [part for part in self.parts if part.taken]

    @property
    def headlines(self) -> list[tuple[Part, Figure]]:
        """The figures that matter most, with their parts."""
        return [(part, figure) for part in self.parts for figure in part.figures.values() if figure.headline]

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by name."""
        return {name: figure for part in self.parts for name, figure in part.figures.items()}

    @property
    def flagged(self) -> list[tuple[Part, str]]:
        """What makes numbers doubtful, part by part."""
        return [(part, flag) for part in self.parts for flag in part.flags]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "made": self.made,
            "command": self.command,
            "quick": self.quick,
            "commit": {"digest": self.commit.digest, "changed": self.commit.changed},
            "bundle": self.bundle and {"name": self.bundle.name, "fingerprint": self.bundle.fingerprint},
            "machine": dict(self.machine),
            "parts": [part.to_dict() for part in self.parts],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """Read what `to_dict` returned. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        return cls(
            made=values["made"],
            command=values["command"],
            quick=values["quick"],
            commit=Commit(**values["commit"]),
            bundle=None if values["bundle"] is None else Subject(**values["bundle"]),
            machine=values["machine"],
            parts=tuple(Part.from_dict(part) for part in values["parts"]),
        )


class NotAReportError(Exception):
    """A file that is no results.json, or one of another schema."""


def read_json(path: Path) -> Any:
    """Read a JSON document. Raises `OSError` or `ValueError`."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_report(path: Path) -> Report:
    """Read a results.json, or that of a report folder. Raises `NotAReportError` in words."""
    path = path / RESULTS if path.is_dir() else path
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise NotAReportError(f"{path}: cannot be read as JSON: {error}") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version is None:
        raise NotAReportError(f"{path}: has no schema_version; expected a {RESULTS} that `python -m benchmarks` wrote")
    if version != SCHEMA_VERSION:
        raise NotAReportError(
            f"{path}: results of schema version {version}, and this checkout reads {SCHEMA_VERSION}; numbers may mean "
            "something else there. Use the checkout that wrote it, or measure again."
        )
    try:
        return Report.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise NotAReportError(
            f"{path}: does not hold what a report of schema version {version} must: {error!r}"
        ) from error


def commit_of(folder: Path) -> Commit:
    """Return the commit that is checked out in a folder."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        digest = git("rev-parse", "HEAD")
        return Commit(digest=digest, changed=bool(digest and git("status", "--porcelain", "--untracked-files=no")))
    except FileNotFoundError:
        return Commit(digest="")
