"""Files through `embed_images`, in a process of its own with real decode workers: what became of each."""

import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.faults.process import DiedError, Victim
from mcr_infer.bundle import Bundle
from mcr_infer.decoding import Limits
from mcr_infer.encoder import ImageEncoder
from mcr_infer.index import Index
from mcr_infer.pipeline import Plan, embed_images
from mcr_infer.sources import Source, Sources
from tests.fuzz.tally import Tally, death_of
from tests.tiny import DIM, tiny_bundle

SECONDS = 20.0
"""What one file may take before it is a failure; more than half a minute without any outcome is a hang."""

SECRETS = (b"surname", b"forename", b"4711", b"19370415")
"""Of the patient in the samples: in no outcome, whatever the case. Lower case."""

Tell = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Group:
    """Paths that are given to one run together, whose outcomes must account for them."""

    number: int
    mutations: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a run said of one input."""

    path: str
    status: str
    reason: str | None
    error: str | None


@cache
def bundle() -> Bundle:
    """Return the tiny bundle; it lies in memory as long as this process lives."""
    import atexit
    import tempfile

    folder = tempfile.mkdtemp(prefix="mcr-fuzz-bundle-", dir=memory())
    atexit.register(_remove_by, os.getpid(), folder)
    return tiny_bundle(Path(folder) / "tiny")


def _remove_by(owner: int, folder: str) -> None:
    if os.getpid() == owner:  # not by a process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def memory() -> str | None:
    """Return a folder in memory, None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run_isolated(
    groups: list[Group], place: Path, tally: Tally, *, reduce: bool
) -> list[tuple[Group, list[Told], int]]:
    """Run all groups through one `embed_images` in a process of its own; return the outcomes of each and what it ignored.

    A crash, a hang or a traceback of that process is a finding; the group that it was at is the one that is blamed, and
    what comes after it is run again.
    """
    bundle()
    done: list[tuple[Group, list[Told], int]] = []
    while len(done) < len(groups):
        rest = groups[len(done) :]
        errors = place / "stderr"
        victim = Victim(lambda tell, rest=rest, errors=errors: _embed(rest, place / "index", errors, reduce, tell))  # type: ignore[misc]
        told: dict[int, list[Told]] = {}
        ended = False
        try:
            while True:
                what, number, value = victim.next()
                if what == "outcome":
                    told.setdefault(number, []).append(Told(*value))
                elif what == "left":  # the run has gone on to the next group, and all outcomes of this one are told
                    done.append((rest[number], told.pop(number, []), value))
                elif what == "raised":
                    tally.find("traceback", -1, (), value)
                else:
                    ended = True
                    break
        except DiedError as error:
            at = len(done) - (len(groups) - len(rest))
            blamed = rest[min(at, len(rest) - 1)]
            tally.find(
                "hung" if "hang" in str(error) or "nothing" in str(error) else "parent crashed",
                blamed.number,
                blamed.mutations,
                str(error),
            )
            done.append((blamed, told.get(at, []), -1))
        victim.kill()
        victim.rest()
        said = errors.read_bytes() if errors.exists() else b""
        if b"Traceback" in said:
            tally.find("traceback", -1, (), said.decode(errors="replace"))
        if any(secret in said.lower() for secret in SECRETS):
            tally.find("leak", -1, (), said.decode(errors="replace"))
        if ended and len(done) < len(groups):
            break
    return done


def _embed(groups: list[Group], index: Path, errors: Path, reduce: bool, tell: Tell) -> None:
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        _run(groups, index, reduce, tell)
    except BaseException:  # noqa: BLE001 - a traceback is what this looks for
        tell(("raised", -1, traceback.format_exc()))
    tell(("end", 0, 0))


def _run(groups: list[Group], folder: Path, reduce: bool, tell: Tell) -> None:
    """Embed everything that the groups name, and tell of each group what came of it, in order."""
    shutil.rmtree(folder, ignore_errors=True)
    used = bundle()
    encoder = ImageEncoder(used, device="cpu", threads=1)
    plan = Plan(workers=1, calls=1, call_size=64, reduce=reduce, limits=Limits(seconds=SECONDS, memory_bytes=1 << 30))
    counts: list[int] = []
    ignored: list[int] = []

    def everything() -> Iterator[Source]:
        for group in groups:
            sources, count = Sources([group.path]), 0
            for source in sources:
                count += 1
                yield source
            counts.append(count)
            ignored.append(sources.ignored.total())

    at, seen = 0, 0
    with Index.open_or_create(
        folder, fingerprint=used.fingerprint, embedding_dim=DIM, bundle=used.name, bundle_path=str(used.path),
        notify=lambda _: None,
    ) as index:  # fmt: skip
        for outcome in embed_images(everything(), index=index, encoder=encoder, plan=plan):
            while at < len(counts) and seen == counts[at]:
                tell(("left", at, ignored[at]))
                at, seen = at + 1, 0
            seen += 1
            tell(("outcome", at, (outcome.path, outcome.status, outcome.reason, outcome.error)))
        while at < len(groups):
            tell(("left", at, ignored[at]))
            at += 1


def account(done: Iterable[tuple[Group, list[Told], int]], tally: Tally) -> Iterator[tuple[Group, list[Told], int]]:
    """Count the outcomes of every group, and look for what no outcome may be; yield the groups again."""
    for group, told, ignored in done:
        tally.cases += 1
        tally.mutations.update(group.mutations)
        if ignored:
            tally.outcomes["ignored by name"] += max(0, ignored)
        for one in told:
            tally.outcomes[one.status if one.reason is None else f"{one.status}: {one.reason}"] += 1
            _check(group, one, tally)
        yield group, told, ignored


def _check(group: Group, told: Told, tally: Tally) -> None:
    error = told.error or ""
    if (told.status in ("failed", "left_out")) != bool(told.reason and error):
        tally.find("unaccounted", group.number, group.mutations, f"{told.status} with reason {told.reason}: {error}")
    if any(secret.decode() in error.lower() for secret in SECRETS) and told.reason != "uid_conflict":
        tally.find("leak", group.number, group.mutations, error)
    if "\n" in error or "Traceback" in error:
        tally.find("traceback", group.number, group.mutations, error)
    if told.reason == "decoder_died":
        how = death_of(error) or error
        tally.deaths[how] += 1
        if how.startswith("exit"):  # no codec ended it, but an exception that nobody expected
            tally.find("traceback", group.number, group.mutations, error)
    if told.reason == "decoder_hung":
        tally.find("hung", group.number, group.mutations, error)


def once(told: list[Told]) -> bool:
    """True where no input has two outcomes."""
    return max(Counter(one.path for one in told).values(), default=1) == 1
