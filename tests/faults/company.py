"""What does not belong in is refused, one process writes at a time, and whoever reads meanwhile is answered rightly."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcr_infer.index import Index, Row, search
from tests.faults.aftermath import Told
from tests.faults.damage import said_by
from tests.faults.inspection import (
    REFUSED,
    RIGHT,
    WRONG,
    Findings,
    expect,
    found_state,
    inspect,
    part,
    ranking,
    warm,
    write_on,
)
from tests.faults.operations import OPERATIONS, Operation, Tell
from tests.faults.outcome import Outcome
from tests.faults.process import DiedError, Victim, isolated
from tests.faults.sample import DIM, LIMIT, State, make, opened, row_of, unit

READERS = 3
"""Processes that read while one writes: one that keeps its index open, the others open it again for each look."""

STOP = "stop"
"""Name of a file that tells readers to end."""


def refusals(place: Path) -> Outcome:
    """Hand in what does not belong in, each in a process of its own."""
    outcome = Outcome(fault="what does not belong in", target="Index.add, Index.open_or_create")
    folder = place / "refusing"
    state = make(folder)
    warm(state)
    good, short = row_of("image", 700, 0), unit((1,))[: DIM // 2]
    cases: Mapping[str, tuple[Callable[[], object], str]] = {
        "another dimension": (lambda: _add(folder, good, short / np.linalg.norm(short)), "dimensions"),
        "a value that is not a number": (lambda: _add(folder, good, _with(good.vector, np.nan)), "not finite"),
        "a value that is infinite": (lambda: _add(folder, good, _with(good.vector, np.inf)), "not finite"),
        "of length 2": (lambda: _add(folder, good, good.vector * np.float32(2)), "has length 2"),
        "of zeros": (lambda: _add(folder, good, good.vector * np.float32(0)), "has length 0"),
        "float64": (lambda: _add(folder, good, good.vector.astype(np.float64)), "must be float32"),
        "another bundle": (lambda: opened(folder, fingerprint="cd34" * 16).close(), "was made by the bundle"),
        "another bundle of another dimension": (
            lambda: opened(folder, fingerprint="cd34" * 16, embedding_dim=64).close(), "was made by the bundle",
        ),
    }  # fmt: skip
    for name, (work, words) in cases.items():
        try:
            said = isolated(lambda work=work, words=words: _refused(work, words))
            outcome.note(name, {"adding": said}, isolated(lambda: inspect(folder, state)))
        except DiedError as death:
            outcome.note(name, {"process": f"{WRONG}{death}"})
    shutil.rmtree(folder)
    return outcome


def _with(vector: Any, value: float) -> Any:
    changed = vector.copy()
    changed[3] = value
    return changed


def _add(folder: Path, row: Row, vector: Any) -> None:
    """Add a good row and one with another vector, which must not be half done."""
    with opened(folder) as index:
        index.add([row, Row(id="2.25.701", kind="image", path=None, vector=vector / np.float32(1))])


def _refused(work: Callable[[], object], words: str) -> str:
    findings: Findings = {}
    with part(findings, "adding"):
        work()
    said = findings["adding"]
    if said == RIGHT or (said.startswith(REFUSED) and words not in said):
        return f"{WRONG}expected an error with {words!r}: {said}"
    return said


def two_writers(place: Path) -> Outcome:
    """Let a second writer try while one has the index open, then kill the first and let it try again.

    The first stops in the middle of its operation until it is killed: however slow the second is, it does not come too late.
    """
    outcome = Outcome(fault="two writers", target="Index.open, mcr-infer rebuild")
    folder = place / "contested"
    start = make(folder)
    warm(start)
    for operation, steps in (("add", 8), ("rebuild", 2), ("compact", 4)):
        first = Victim(lambda tell, operation=operation: OPERATIONS[operation].run(folder, tell), hold_after=steps)
        words = [first.next() for _ in range(steps)]
        findings = isolated(lambda first=first: _second_writer(folder, first.pid))
        findings |= said_by({"mcr-infer rebuild": ["rebuild", "--index", str(folder)]}, place / "said")
        first.kill()
        told = Told.of(start, [*words, *first.rest()])
        outcome.note(f"while one does {operation}", _named(findings))
        # After kill -9 the lock is free: whoever comes next just writes.
        state = isolated(lambda: _what_is_there(folder))
        lost = told.acknowledged.rows.keys() - state.rows.keys() - _pending_losses(told)
        written, start = isolated(lambda state=state: write_on(folder, state))
        outcome.note(
            f"after kill -9 of one that did {operation}",
            {"acknowledged": f"{WRONG}{len(lost)} rows are lost" if lost else RIGHT},
            written, isolated(lambda start=start: inspect(folder, start)), only_right=True,
        )  # fmt: skip
    shutil.rmtree(folder)
    return outcome


def _pending_losses(told: Told) -> set[tuple[str, int]]:
    return set() if told.pending is None else set(told.acknowledged.rows.keys() - told.pending.rows.keys())


def _second_writer(folder: Path, owner: int) -> Findings:
    findings: Findings = {}
    with part(findings, "writer"):
        opened(folder).close()
    if findings["writer"] == RIGHT or f"process {owner} on {os.uname().nodename}" not in findings["writer"]:
        findings["writer"] = f"{WRONG}the owner is not named: {findings['writer']}"
    return findings


def _named(findings: Findings) -> Findings:
    """A second writer must be refused, by the command as well."""
    return {
        name: said if said.startswith((REFUSED, WRONG)) else f"{WRONG}two wrote at once"
        for name, said in findings.items()
    }


def _what_is_there(folder: Path) -> State:
    with Index.open(folder, exact_limit=LIMIT, notify=lambda _: None) as index:
        return found_state(index)


def readers(name: str, *, rounds: int, place: Path) -> Outcome:
    """Read in a loop, in several processes, while another does an operation again and again."""
    operation, outcome = OPERATIONS[name], Outcome(fault="readers meanwhile", target=name)
    looks = 0
    for number in range(rounds):
        count, *findings = _round(operation, place / "read")
        looks += count
        outcome.note(f"round {number}", *findings, only_right=True)
    outcome.facts |= {"answers_of_readers": looks, "readers": READERS}
    return outcome


def _round(operation: Operation, folder: Path) -> tuple[int, Findings, Findings]:
    """Let readers look while an operation runs once; how often they did, what they found, and what is there at the end."""
    start = operation.prepare(folder)
    warm(start)
    stop = folder.with_name(STOP)
    stop.unlink(missing_ok=True)
    looking = [
        Victim(lambda tell, kept=kept: _look_again(folder, stop, start, tell, kept=kept))
        for kept in (True, *[False] * (READERS - 1))
    ]
    for reader in looking:
        reader.next()
    writer = Victim(lambda tell: operation.run(folder, tell))
    words = _end_of(writer)
    stop.touch()
    looks, findings = 0, {"writer": f"{WRONG}the writer failed" if writer.failed else RIGHT}
    for place, reader in enumerate(looking):
        told = reader.rest()
        count, found = told[-1] if told else (0, {"answers": f"{WRONG}the reader died"})
        looks += count
        findings |= {f"reader {place}, {name}": said for name, said in found.items()}
    final = Told.of(start, words).acknowledged
    last = isolated(lambda: inspect(folder, final))
    shutil.rmtree(folder)
    return looks, findings, last


def _end_of(writer: Victim) -> list[Any]:
    try:
        return [writer.next(), *writer.rest()]
    except DiedError:
        return []


def _look_again(folder: Path, stop: Path, start: State, tell: Tell, *, kept: bool) -> None:
    """Look until told to stop; tell once after the first look, and at the end how often, and what was wrong."""
    findings: Findings = {"answers": RIGHT}
    looks = 0
    with Index.open(folder, exact_limit=LIMIT, notify=lambda _: None) as held:
        while True:
            last = stop.exists()  # so that one look comes after all is done
            with part(findings, "answers"):
                if kept:
                    _look(held, start)
                else:
                    with Index.open(folder, exact_limit=LIMIT, notify=lambda _: None) as index:
                        _look(index, start)
            looks += 1
            if looks == 1:
                tell("begun")
            if last or findings["answers"] != RIGHT:
                break
    tell((looks, findings))


def _look(index: Index, start: State) -> None:
    """Search in one snapshot, and compare with numpy over what is there in that snapshot."""
    with index.snapshot():
        state = found_state(index, first_format=start.first_format)
        for kind in ("image", "report"):
            expect(index.count(kind) == len(state.of(kind)), f"{kind}s are miscounted")
            query = unit((len(state.rows), 9))
            (hits,) = search(index, query, kind=kind, k=7, ef_search=2 * len(state.rows), fingerprint=index.fingerprint)
            right = [row.id for _, row in ranking(kind, state, query)[:7]]
            expect([hit.id for hit in hits] == right, f"{kind}s: other rows are found")
