"""The fault matrix: provoke every case, print a line for each kind of fault, write all of it as JSON.

    python -m tests.faults [PART ...] [--out FILE.json]

Parts: kills, disk, read-only, damage, hostile, company; by default all, which takes ten minutes on an idle core. Exit
code 1 unless every case ended in right answers or one clear error.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine_card
from tests.faults import company, damage, disk, hostile, kills
from tests.faults.mounts import own_mounts, small_disk
from tests.faults.operations import OPERATIONS
from tests.faults.outcome import Outcome

STOPPED_BY_A_FULL_DISK = ("add", "save", "rebuild", "compact", "delete", "merge")
"""What needs a disk; a migration changes a few pages only."""

BESIDE_EVERY = 4
"""Files beside a store that was left open are flipped at one of so many places: they are those of the closed one."""


_MEMORY = 2**28
"""Bytes of the file system that files are damaged on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much of the matrix is run, and where."""

    place: Path
    mounted: bool
    seed: int = 0
    instants: int = 50
    points: int = 25
    flips: int = 200
    rounds: int = 5
    at_most: int | None = None
    """Damages of a kind, a file; None stands for all of them."""

    only: tuple[str, ...] = ()
    """Operations, or patterns of files; all where it is empty."""

    def names(self, known: Iterable[str]) -> list[str]:
        """Return which of what is known is asked for."""
        return [name for name in known if not self.only or name in self.only]


def killed(extent: Extent) -> Iterator[Outcome]:
    """kill -9 at random instants."""
    for name in extent.names(OPERATIONS):
        yield kills.kill(name, instants=extent.instants, seed=extent.seed, place=extent.place)


def filled(extent: Extent) -> Iterator[Outcome]:
    """A disk that is full."""
    for name in extent.names(STOPPED_BY_A_FULL_DISK):
        yield disk.full(name, points=extent.points, place=extent.place, mounted=extent.mounted)


def read_only(extent: Extent) -> Iterator[Outcome]:
    """What cannot be written to."""
    yield disk.read_only(extent.place, mounted=extent.mounted)


def damaged(extent: Extent) -> Iterator[Outcome]:
    """Files that are cut, changed, exchanged, lost."""
    sound = damage.ground(extent.place / "ground")
    for left in (False, True):
        for pattern in extent.names(damage.kinds_of_file(sound.left if left else sound.closed)):
            for fault in damage.FAULTS:
                again = left and not pattern.startswith("store")
                flips = max(1, extent.flips // BESIDE_EVERY) if again else extent.flips
                outcome = damage.damaged(
                    fault, pattern, sound, left=left, flips=flips, at_most=extent.at_most, seed=extent.seed,
                    place=extent.place,
                )  # fmt: skip
                if outcome.cases:
                    yield outcome


def crafted(extent: Extent) -> Iterator[Outcome]:
    """Graphs that were made to crash."""
    yield hostile.crafted(extent.place)
    yield hostile.scrambled(extent.flips, extent.seed, extent.place)


def in_company(extent: Extent) -> Iterator[Outcome]:
    """What does not belong in, two writers, readers meanwhile."""
    yield company.refusals(extent.place)
    yield company.two_writers(extent.place)
    for name in extent.names(["rebuild", "compact", "migrate", "delete", "add", "merge"]):
        yield company.readers(name, rounds=extent.rounds, place=extent.place)


PARTS: Mapping[str, Callable[[Extent], Iterator[Outcome]]] = {
    "kills": killed,
    "disk": filled,
    "read-only": read_only,
    "damage": damaged,
    "hostile": crafted,
    "company": in_company,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instants", type=int, default=50, help="of kill -9, an operation")
    parser.add_argument("--points", type=int, default=25, help="at which a disk is full, an operation")
    parser.add_argument("--flips", type=int, default=200, help="places of flipped bits, a file")
    parser.add_argument("--at-most", type=int, help="damages of a kind, a file: a sample; by default all")
    parser.add_argument("--rounds", type=int, default=5, help="of readers, an operation")
    parser.add_argument("--only", nargs="*", default=(), help="operations or patterns of files")
    parser.add_argument("--work", type=Path, help="a folder on the disk that kills are to be tried on")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    unknown = sorted({*options.parts} - PARTS.keys())
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    begun, outcomes = time.perf_counter(), []
    mounted = own_mounts()
    with tempfile.TemporaryDirectory(dir=options.work) as place:
        # Nothing of these runs goes into, or comes from, what this user's cache remembers of files.
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"
        for part in options.parts or PARTS:
            extent = Extent(
                place=Path(place) / part, mounted=mounted, seed=options.seed, instants=options.instants,
                points=options.points, flips=options.flips, rounds=options.rounds, at_most=options.at_most,
                only=tuple(options.only),
            )  # fmt: skip
            Path(place).chmod(0o755)
            # Kills and readers are tried on the disk; the rest need none, and flushes to it are most of their time.
            in_memory = mounted and part not in ("kills", "company")
            extent.place.mkdir()
            with small_disk(extent.place, _MEMORY) if in_memory else nullcontext():
                for outcome in PARTS[part](extent):
                    outcomes.append(outcome)
                    print(outcome.line(), flush=True)
    cases, bad = sum(one.cases for one in outcomes), sum(len(one.bad) for one in outcomes)
    report = {
        "benchmark": "faults", "seed": options.seed, "cases": cases, "neither": bad,
        "seconds": round(time.perf_counter() - begun, 1), "outcomes": [one.values() for one in outcomes],
        "machine": machine_card(),
    }  # fmt: skip
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "outcomes"}))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
