"""kill -9 at random instants of everything that writes; then a fresh process looks, another goes on, a third looks again."""

import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from tests.faults.aftermath import Told, look
from tests.faults.inspection import RIGHT, WRONG, Findings, inspect, warm, write_on
from tests.faults.operations import OPERATIONS, Operation
from tests.faults.outcome import Outcome
from tests.faults.process import DiedError, Victim, isolated

_ATTEMPTS = 50
"""How many times more often than asked for an operation may end before its instant: it is not always equally fast."""


def kill(name: str, *, instants: int, seed: int, place: Path) -> Outcome:
    """Kill one operation at many instants."""
    operation, draw = OPERATIONS[name], random.Random(seed)
    original = place / f"{name}-original"
    start = operation.prepare(original)
    runs = [_undisturbed(operation, original, place / f"{name}-whole") for _ in range(3)]
    measured = seconds = statistics.median(seconds for seconds, _ in runs)
    warm(start)
    warm(Told.of(start, runs[0][1]).acknowledged)
    outcome = Outcome(fault="kill -9", target=name)
    landed, acknowledged, attempts = 0, 0, 0
    while landed < instants and attempts < _ATTEMPTS * instants:
        attempts += 1
        folder = place / f"{name}-{attempts}"
        shutil.copytree(original, folder)
        delay = draw.uniform(0.0, seconds)
        victim = Victim(lambda tell, folder=folder: operation.run(folder, tell))
        victim.next()
        if victim.ends_within(delay):
            seconds = delay  # it is faster than it was when it was measured: the next instants lie before this one
        else:
            victim.kill()
        told = Told.of(start, victim.rest())
        if victim.killed or victim.failed:
            landed += victim.killed
            acknowledged += told.steps
            case = f"attempt {attempts}, {1000 * delay:.1f} ms of {1000 * seconds:.1f}, after {told.steps} steps"
            by_itself = {} if victim.killed else {"writer": f"{WRONG}failed by itself"}
            outcome.note(case, by_itself, *_afterwards(folder, told), only_right=True)
        shutil.rmtree(folder)
    shutil.rmtree(original)
    outcome.facts |= {
        "seed": seed, "operation_ms": round(1000 * measured, 1), "attempts": attempts, "killed_at_work": landed,
        "steps_acknowledged": acknowledged,
    }  # fmt: skip
    return outcome


def _undisturbed(operation: Operation, original: Path, folder: Path) -> tuple[float, list[Any]]:
    """Let an operation end; its seconds, and what it told."""
    shutil.copytree(original, folder)
    victim = Victim(lambda tell: operation.run(folder, tell))
    victim.next()
    begun = time.perf_counter()
    words = victim.rest()
    seconds = time.perf_counter() - begun
    if victim.failed:
        raise DiedError("the operation does not even end well undisturbed")
    shutil.rmtree(folder)
    return seconds, words


def _afterwards(folder: Path, told: Told) -> tuple[Findings, ...]:
    """Look at what a killed writer left, go on, and look again; each in a process of its own."""
    try:
        first, state = isolated(lambda: look(folder, told))
        if state is None or set(first.values()) != {RIGHT}:
            return (first,)
        second, finished = isolated(lambda: write_on(folder, state))
        return first, second, isolated(lambda: inspect(folder, finished))
    except DiedError as death:
        return ({"process": f"{WRONG}{death}"},)
