"""What is done to an index while it is killed or while its disk fills up, step by step, told before and after each step.

("ready",), then for each step ("begins", rows added, their revision, rows deleted) and ("done",) when it was acknowledged
"""

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.sample import (
    IMAGES,
    LIMIT,
    REPORTS,
    Key,
    State,
    add,
    all_keys,
    delete,
    made_by,
    make,
    opened,
    row_of,
    stamp_of,
)
from mcr_infer.index import Index
from mcr_infer.index.rows import COLUMNS, to_columns

Tell = Callable[[Any], None]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "index-v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that changes an index: what it starts from, and what it does."""

    prepare: Callable[[Path], State]
    """Make the folder; what it then holds."""

    run: Callable[..., None]
    gradual: bool = False
    """True where a step is committed in several parts: some of its rows may be there, and all of those are right."""


def _adding(folder: Path, tell: Tell, **other: object) -> None:
    with opened(folder, **other) as index:
        tell(("ready",))
        for batch in range(30):
            for kind in ("image", "report"):
                # New rows, and a few in the place of former ones.
                keys = [(kind, 1000 + 10 * batch + number) for number in range(10)]
                replaced = [(kind, 40 + batch)]
                _step(tell, [*keys, *replaced], 2, [], lambda chosen: add(index, chosen, 2))


def _step(tell: Tell, added: list[Key], revision: int, gone: list[Key], work: Callable[[list[Key]], None]) -> None:
    tell(("begins", added, revision, gone))
    work(added or gone)
    tell(("done",))


def _saving(folder: Path, tell: Tell) -> None:
    with opened(folder) as index:
        tell(("ready",))
        for batch in range(8):
            keys = [("image", 1000 + 5 * batch + number) for number in range(5)]
            _step(tell, keys, 0, [], lambda chosen: add(index, chosen, 0))
            index.save_snapshots()


def _rebuilding(folder: Path, tell: Tell) -> None:
    with opened(folder) as index:
        tell(("ready",))
        for _ in range(4):
            index.save_snapshots(rebuild=True)


def _deleting(folder: Path, tell: Tell) -> None:
    with opened(folder) as index:
        tell(("ready",))
        for number in range(40, IMAGES, 4):
            keys: list[Key] = [("image", one) for one in range(number, min(number + 4, IMAGES))]
            _step(tell, [], 0, keys, lambda chosen: delete(index, chosen))


def _migrating(folder: Path, tell: Tell) -> None:
    tell(("ready",))
    Index.open(folder, writable=True, exact_limit=LIMIT, notify=lambda _: None).close()


def make_first_format(folder: Path) -> State:
    """Make an index of format version 1 with as many rows: the one that an earlier release left, filled with these."""
    shutil.copytree(GOLDEN, folder)
    for graph in folder.glob("graph-*"):
        graph.unlink()
    state = State(first_format=True).with_rows(all_keys(), 0)
    names = [name for name in COLUMNS if name != "patient_key"]
    with sqlite3.connect(folder / "store.sqlite") as store:
        store.execute("DELETE FROM rows")
        store.execute("DELETE FROM files")
        for kind, number in state.rows:
            values = dict(zip(COLUMNS, to_columns(row_of(kind, number, 0, first_format=True)), strict=True))
            marks = ", ".join("?" * len(names))
            store.execute(f"INSERT INTO rows({', '.join(names)}) VALUES({marks})", [values[name] for name in names])
            stamp = stamp_of(kind, number)
            known = (kind, stamp.path, stamp.size, stamp.mtime_ns, values["id"])
            store.execute("INSERT INTO files VALUES(?, ?, ?, ?, ?)", known)
        for kind, count in (("image", IMAGES), ("report", REPORTS)):
            store.execute("UPDATE kinds SET generation = 9, row_count = ? WHERE kind = ?", (count, kind))
        for name, value in made_by().items():
            store.execute("UPDATE identity SET value = ? WHERE name = ?", (value, name))
    store.close()
    (folder / "index.json").unlink()  # made again from the store, as after its loss
    return state


OPERATIONS: Mapping[str, Operation] = {
    "add": Operation(prepare=make, run=_adding),
    "save": Operation(prepare=make, run=_saving),
    "rebuild": Operation(prepare=make, run=_rebuilding),
    "delete": Operation(prepare=make, run=_deleting),
    "migrate": Operation(prepare=make_first_format, run=_migrating),
}
