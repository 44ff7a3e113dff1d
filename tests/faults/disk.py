"""A disk that is full at many points of everything that writes, and file systems and folders that cannot be written to.

The disk is a small tmpfs, filled but for so many bytes. Where no file system may be mounted, the writer may write
no file beyond so many bytes (RLIMIT_FSIZE), which stops the same writes with another error.
"""

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tests.faults.aftermath import Told, look
from tests.faults.inspection import REFUSED, RIGHT, WRONG, Findings, inspect, part, warm, write_on
from tests.faults.mounts import make_read_only, small_disk
from tests.faults.operations import OPERATIONS, Operation, Tell
from tests.faults.outcome import Outcome
from tests.faults.process import DiedError, Victim, isolated
from tests.faults.sample import State, make

DISK = 16 * 2**20
"""Bytes of the small file system."""

NOBODY = 65534
"""A user that owns nothing."""


def full(name: str, *, points: int, place: Path, mounted: bool) -> Outcome:
    """Let the disk run full at many points of an operation, then give space back and go on."""
    outcome = Outcome(fault="disk full", target=name)
    operation, original = OPERATIONS[name], place / f"{name}-original"
    start = operation.prepare(original)
    warm(start)
    with _disk(place / "disk", mounted) as disk:
        need = _need(operation, original, disk)
    stopped = 0
    for number in range(points):
        room = need * number // points
        with _disk(place / "disk", mounted) as disk:
            folder = disk / "index"
            _copy(operation, original, folder)
            if mounted:
                _fill(disk / "ballast", room)
            writer = _until_full(operation, folder, None if mounted else room)
            said, told = writer[-1][1], Told.of(start, writer)
            stopped += said.startswith(REFUSED)
            findings = [{"writer": said}, *_after(folder, disk / "ballast", told)]
        outcome.note(f"{room} bytes of {need} left, after {told.steps} steps", *findings)
    shutil.rmtree(original)
    outcome.facts |= {
        "by": "a tmpfs" if mounted else "RLIMIT_FSIZE", "bytes_needed": need, "writers_stopped": stopped,
    }  # fmt: skip
    return outcome


@contextmanager
def _disk(place: Path, mounted: bool) -> Iterator[Path]:
    place.mkdir()
    with small_disk(place, DISK) if mounted else nullcontext():
        yield place
    shutil.rmtree(place)


def _need(operation: Operation, original: Path, disk: Path) -> int:
    """Return by how many bytes the folder grows while an operation runs undisturbed, at most."""
    folder = disk / "index"
    _copy(operation, original, folder)
    before = most = _bytes_in(folder)
    victim = Victim(lambda tell: operation.run(folder, tell))
    while not victim.ends_within(0.002):
        most = max(most, _bytes_in(folder))
    victim.rest()
    if victim.failed:
        raise DiedError("the operation does not even end well on a large disk")
    for path in disk.iterdir():
        shutil.rmtree(path)
    return most - before


def _copy(operation: Operation, original: Path, folder: Path) -> None:
    shutil.copytree(original, folder)
    if operation.beside is not None:
        shutil.copytree(original.parent / operation.beside, folder.parent / operation.beside)


def _bytes_in(folder: Path) -> int:
    total = 0
    for entry in os.scandir(folder):
        try:
            total += entry.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def _fill(ballast: Path, room: int) -> None:
    """Fill a file system but for so many bytes."""
    found = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - room, 1))


def _until_full(operation: Operation, folder: Path, limit: int | None) -> list[Any]:
    """Run an operation in a process of its own; what it told, and last how it ended."""

    def work(tell: Tell) -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        findings: Findings = {}
        with part(findings, "writer"):
            operation.run(folder, tell)
        tell(("ended", findings["writer"]))

    victim = Victim(work)
    try:
        words = [victim.next()]
    except DiedError as death:
        return [("ended", f"{WRONG}{death}")]
    words += victim.rest()
    return words if words[-1][0] == "ended" else [*words, ("ended", f"{WRONG}the writer died")]


def _after(folder: Path, ballast: Path, told: Told) -> list[Findings]:
    """Look while the disk is full, then give space back, look, go on, and look again: then all must be right."""
    try:
        # Readers of a full disk may be refused: SQLite needs 32 KiB for the memory that processes share.
        first, _ = isolated(lambda: look(folder, told))
        ballast.unlink(missing_ok=True)
        second, state = isolated(lambda: look(folder, told))
        if state is None or set(second.values()) != {RIGHT}:
            return [first, {name: said.replace(REFUSED, WRONG) for name, said in second.items()}]
        third, finished = isolated(lambda: write_on(folder, state))
        last = third | isolated(lambda: inspect(folder, finished))
        return [first, {name: said.replace(REFUSED, WRONG) for name, said in last.items()}]
    except DiedError as death:
        return [{"process": f"{WRONG}{death}"}]


def read_only(place: Path, *, mounted: bool) -> Outcome:
    """Read from, and write to, what cannot be written to: closed indexes, and one that a killed writer left a WAL in."""
    outcome = Outcome(fault="read-only", target="folder and file system")
    state = make(place / "closed")
    warm(state)
    place.chmod(0o755)  # for the user that owns nothing
    for name in ("closed", "left by a killed writer", "the same, copied without store.sqlite-shm"):
        if mounted:
            with _disk(place / "disk", mounted) as disk:
                folder = disk / "index"
                told = _left(place / "closed", folder, name, start=state)
                make_read_only(disk)
                outcome.note(f"file system, {name}", *_reading_and_writing(folder, told, user=None))
        folder = place / "read-only"
        told = _left(place / "closed", folder, name, start=state)
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path == folder else 0o444)
        outcome.note(f"folder, {name}", *_reading_and_writing(folder, told, user=NOBODY if os.geteuid() == 0 else None))
        folder.chmod(0o755)
        shutil.rmtree(folder)
    return outcome


def _left(original: Path, folder: Path, name: str, *, start: State) -> Told:
    """Make a folder of that name: as it is after closing, or when a writer was killed after a few steps."""
    shutil.copytree(original, folder)
    if name == "closed":
        return Told(start, None, 0)
    steps = 8
    victim = Victim(lambda tell: OPERATIONS["add"].run(folder, tell), hold_after=steps)
    words = [victim.next() for _ in range(steps)]
    victim.kill()
    if "without" in name:
        (folder / "store.sqlite-shm").unlink()
    return Told.of(start, [*words, *victim.rest()])


def _reading_and_writing(folder: Path, told: Told, *, user: int | None) -> tuple[Findings, ...]:
    """Read as a process that may not write, which must be right; then write, which must be refused in one error."""

    def as_user(work: Callable[[], Any]) -> Any:
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        return work()

    try:
        found, _ = isolated(lambda: as_user(lambda: look(folder, told)))
        written, _ = isolated(lambda: as_user(lambda: write_on(folder, told.acknowledged)))
    except DiedError as death:
        return ({"process": f"{WRONG}{death}"},)
    if not written["writer"].startswith(REFUSED):
        written["writer"] = f"{WRONG}writing ended so: {written['writer']}"
    return found, {"reading": RIGHT, "writing": RIGHT} if set(found.values()) == {RIGHT} else found, written
