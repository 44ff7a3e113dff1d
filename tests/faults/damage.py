"""Each file of an index cut, changed by one bit, exchanged for that of another index, and lost.

Every case is looked at by a reader, then by a writer that goes on, then by a reader again: what the first one does not
notice must not become wrong by what the second one does. Some are looked at through the command line, too.
"""

import contextlib
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.aftermath import Told
from tests.faults.inspection import REFUSED, RIGHT, WRONG, Findings, inspect, warm, write_on
from tests.faults.operations import add_for_long
from tests.faults.outcome import Outcome
from tests.faults.process import DiedError, Victim, isolated
from tests.faults.sample import State, id_of, make

KEPT_OPEN = 9
"""Steps of a writer after which the folder is copied while it is open, which is what a power cut leaves."""

FAULTS = ("truncated", "bit flipped", "deleted", "swapped, same bundle", "swapped, other bundle")

COMMANDS = 0.1
"""The share of cases that are looked at through the command line as well."""


@dataclass(frozen=True, slots=True)
class Ground:
    """The indexes whose files are damaged or exchanged."""

    closed: Path
    """With graphs, vectors and facts; closed."""

    left: Path
    """As a power cut leaves it: rows wait in store.sqlite-wal that no file beside the store has."""

    of_closed: State
    of_left: State
    same_bundle: Path
    other_bundle: Path
    """Other indexes as a power cut leaves them, so that they have every file."""


def ground(place: Path) -> Ground:
    """Make the indexes."""
    place.mkdir()
    closed, left = place / "closed", place / "left"
    start = make(closed)
    of_left = cut_off(closed, left, start)
    for name, other in (("same", {}), ("other", {"fingerprint": "ab12" * 16})):
        began = make(place / f"{name}-closed", first=500, **other)
        cut_off(place / f"{name}-closed", place / name, began, **other)
    warm(start)
    warm(of_left)
    return Ground(closed, left, start, of_left, place / "same", place / "other")


def cut_off(original: Path, copy: Path, start: State, **other: object) -> State:
    """Copy a folder while a writer that has just committed has it open; return what it holds."""
    working = copy.with_name(f"{copy.name}-working")
    shutil.copytree(original, working)
    steps = 1 + 2 * KEPT_OPEN
    victim = Victim(lambda tell: add_for_long(working, tell, **other), hold_after=steps)
    words = [victim.next() for _ in range(steps)]
    victim.kill()
    words += victim.rest()
    shutil.copytree(working, copy)
    shutil.rmtree(working)
    return Told.of(start, words).acknowledged


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that was done to one file."""

    what: str
    content: bytes | None
    """None where the file is gone."""


def cuts(content: bytes) -> Iterator[Damage]:
    """Cut a file at several places."""
    size = len(content)
    for length in sorted({0, 1, 16, 100, 4096, 8192, size // 4, size // 2, 3 * size // 4, size - 4096, size - 1}):
        if 0 <= length < size:
            yield Damage(f"cut to {length} of {size} bytes", content[:length])


def flipped(content: bytes, count: int, draw: random.Random) -> Iterator[Damage]:
    """Change one bit at each of many places."""
    for _ in range(count if content else 0):
        place, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        yield Damage(f"bit {bit} of byte {place}", bytes(changed))


def kinds_of_file(folder: Path) -> list[str]:
    """Return patterns for the files of an index, the graphs, vectors and facts of both kinds as one each."""
    names = ["store.sqlite", "index.json", "writer.lock", "graph-*.hnsw", "vectors-*.bin", "facts-*.bin"]
    return [*names, *(["store.sqlite-wal", "store.sqlite-shm"] if (folder / "store.sqlite-wal").exists() else [])]


def damaged(
    fault: str, pattern: str, sound: Ground, *, left: bool, flips: int, at_most: int | None, seed: int, place: Path
) -> Outcome:
    """Do one thing to one file, at all places; `left` takes the index that a power cut left, `at_most` a sample."""
    original, state = (sound.left, sound.of_left) if left else (sound.closed, sound.of_closed)
    outcome = Outcome(fault=fault, target=f"{pattern}{', left open' if left else ''}")
    draw = random.Random(f"{seed} {fault} {pattern} {left}")
    outcome.facts["seed"] = seed
    paths = sorted(original.glob(pattern))
    for path in paths:
        content = path.read_bytes()
        if fault == "truncated":
            cases = [*cuts(content)]
        elif fault == "bit flipped":
            cases = [*flipped(content, -(-flips // len(paths)), draw)]
        elif fault == "deleted":
            cases = [Damage("deleted", None)]
        else:
            other = sound.same_bundle if fault == "swapped, same bundle" else sound.other_bundle
            (theirs,) = other.glob(pattern if "*" not in pattern else f"{path.name.rsplit('-', 1)[0]}-*")
            cases = [Damage(f"that of {other.name}", theirs.read_bytes())]
        if at_most is not None and len(cases) > at_most:
            cases = draw.sample(cases, at_most)
        for damage in cases:
            folder = place / "damaged"
            shutil.copytree(original, folder)
            if damage.content is None:
                (folder / path.name).unlink()
            else:
                (folder / path.name).write_bytes(damage.content)
            outcome.note(
                f"{path.name}, {damage.what}", *_looked_at(folder, state, with_commands=draw.random() < COMMANDS)
            )
            shutil.rmtree(folder)
    return outcome


def _looked_at(folder: Path, state: State, *, with_commands: bool) -> list[Findings]:
    found: list[Findings] = []
    try:
        if with_commands:
            found.append(commands(folder, state))
        found.append(isolated(lambda: inspect(folder, state, forgetful=True)))
        written, finished = isolated(lambda: write_on(folder, state))
        found.append(written)
        if written["writer"] == RIGHT:
            found.append(isolated(lambda: inspect(folder, finished, forgetful=True)))
    except DiedError as death:
        found.append({"process": f"{WRONG}{death}"})
    return found


def commands(folder: Path, state: State) -> Findings:
    """Ask through the command line, in processes of their own."""
    like = id_of("image", next(iter(state.of("image"))))
    asked = {
        "mcr-infer info": ["info", "--index", str(folder)],
        "mcr-infer query": ["query", "--like", like, "--index", str(folder), "-k", "3", "--json"],
    }
    return said_by(asked, folder.parent / "said")


def said_by(asked: Mapping[str, list[str]], place: Path) -> Findings:
    """Run commands of `mcr-infer`: right is exit code 0, refused is 1 or 4 (busy) and one line that begins with `error:`."""
    findings = {}
    for name, arguments in asked.items():
        code, said = isolated(lambda arguments=arguments: _command(arguments, place))
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if "Traceback" in said or code not in (0, 1, 4) or (code != 0) != (len(errors) == 1):
            findings[name] = f"{WRONG}exit {code}, {said!r}"
        else:
            findings[name] = RIGHT if code == 0 else f"{REFUSED}{errors[0].removeprefix('error: ')}"
    return findings


def _command(arguments: list[str], place: Path) -> tuple[int, str]:
    """Run a command of `mcr-infer` in this process, which is its own; the exit code, and what it wrote on stderr."""
    from mcr_infer.cli.app import main

    with place.open("wb") as file:
        os.dup2(file.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.argv = ["mcr-infer", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - a traceback is what this looks for
        import traceback

        traceback.print_exc()
        code = 1
    with contextlib.suppress(ValueError):
        sys.stderr.flush()
    return code, place.read_text()
