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

from mcr_infer.index import Index
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.pipeline.decoding import Limits
from mcr_infer.pipeline.image_run import embed_images
from mcr_infer.pipeline.plan import Plan
from mcr_infer.sources import Source, Sources
from tests.faults.process import DiedError, Victim
from tests.fuzz.tally import Tally, death_of
from tests.tiny import DIM, tiny_bundle

SECONDS = 20.0
"""What one file may take before it is a failure; more than half a minute without any outcome is a hang."""

NAMES, NUMBERS = (b"surname", b"forename"), (b"4711", b"19370415")
"""Of the patient in the samples: in no outcome, whatever the case. Lower case."""

_MEASURES = frozenset({"multi_frame", "too_large", "bit_depth", "corrupt", "truncated"})
"""Reasons whose words quote how large an image is said to be, which is a number of any kind."""

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


Ran = tuple[Group, list[Told], int]
"""A group, its outcomes, and how many entries were left out by their names; -1 where the run ended at it."""


def run_isolated(groups: list[Group], place: Path, tally: Tally, *, reduce: bool) -> list[Ran]:
    """Run all groups through one `embed_images` in a process of its own; return what came of each.

    A crash, a hang or a traceback of that process is a finding. The first group that was not through is the one that is
    blamed, though one that was ahead may have done it; a new process goes on behind it.
    """
    bundle()
    done: list[Ran] = []
    errors = place / "stderr"
    while len(done) < len(groups):
        rest = groups[len(done) :]
        victim = Victim(lambda tell, rest=rest: _embed(rest, place / "index", errors, reduce, tell))  # type: ignore[misc]
        try:
            done += _follow(victim, rest, tally)
        finally:
            victim.kill()
            victim.rest()
        said = errors.read_bytes() if errors.exists() else b""
        if b"Traceback" in said:
            tally.find("traceback", -1, (), said.decode(errors="replace"))
        if any(secret in said.lower() for secret in (*NAMES, *NUMBERS)):
            tally.find("leak", -1, (), said.decode(errors="replace"))
    return done


def _follow(victim: Victim, groups: list[Group], tally: Tally) -> list[Ran]:
    """Hear what a run says until it ends; return the groups that were through, and the one at which it ended badly."""
    done: list[Ran] = []
    told: list[Told] = []
    try:
        while True:
            what, value = victim.next()
            if what == "outcome":
                told.append(Told(*value))
            elif what == "left":  # the run has gone on to the next group, and all outcomes of this one are told
                done.append((groups[len(done)], told, value))
                told = []
            elif what == "raised":
                kind, words = "traceback", value
                break
            else:
                return done
    except DiedError as error:
        words = str(error)
        kind = "hung" if words.startswith(("hangs", "says nothing")) else "parent crashed"
    blamed = groups[min(len(done), len(groups) - 1)]
    tally.find(kind, blamed.number, blamed.mutations, words)
    return done if len(done) == len(groups) else [*done, (blamed, told, -1)]


def _embed(groups: list[Group], index: Path, errors: Path, reduce: bool, tell: Tell) -> None:
    with errors.open("wb") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        _run(groups, index, reduce, tell)
    except BaseException:  # noqa: BLE001 - a traceback is what this looks for
        tell(("raised", traceback.format_exc()[-1800:]))
        return
    tell(("end", None))


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

    def leave() -> None:
        """Tell of every group that is through: outcomes come in the order of the sources."""
        nonlocal at, seen
        while at < len(counts) and seen == counts[at]:
            tell(("left", ignored[at]))
            at, seen = at + 1, 0

    with Index.open_or_create(
        folder, fingerprint=used.fingerprint, embedding_dim=DIM, bundle=used.name, bundle_path=str(used.path),
        notify=lambda _: None,
    ) as index:  # fmt: skip
        for outcome in embed_images(everything(), index=index, encoder=encoder, plan=plan):
            leave()
            seen += 1
            tell(("outcome", (outcome.path, outcome.status, outcome.reason, outcome.error)))
            leave()
        leave()
    assert at == len(groups), f"{at} of {len(groups)} groups are through, {seen} outcomes of the next"


def account(done: Iterable[Ran], tally: Tally) -> Iterator[Ran]:
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
    secrets = NAMES if told.reason in _MEASURES or told.reason == "uid_conflict" else (*NAMES, *NUMBERS)
    # A file that is missing is called what its DICOMDIR calls it, whatever that is.
    if told.reason != "missing" and any(secret.decode() in error.lower() for secret in secrets):
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
