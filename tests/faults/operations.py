"""What is done to an index while it is killed or while its disk fills up, step by step, told before and after each step.

("ready",), then for each step ("begins", rows added, their revision, rows deleted) and ("done",) when it was acknowledged;
("rebuilt",) after each rebuild, which changes no row
"""

import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mcr_infer.index import KINDS, Index
from mcr_infer.index.rows import COLUMNS, to_columns
from mcr_infer.pipeline.transfer import merging
from tests.faults.sample import (
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

T = TypeVar("T")
Tell = Callable[[Any], None]

GOLDEN = Path(__file__).parents[1] / "golden" / "index-v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that changes an index: what it starts from, and what it does."""

    prepare: Callable[[Path], State]
    """Make the folder; what it then holds."""

    run: Callable[[Path, Tell], None]
    beside: str | None = None
    """Name of another folder that it needs beside its own."""


def add_for_long(folder: Path, tell: Tell, **other: object) -> None:
    """Add new rows, and replace some, in many steps."""
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
            tell(("rebuilt",))


def _compacting(folder: Path, tell: Tell) -> None:
    with opened(folder) as index:
        tell(("ready",))
        for number in range(40, 120, 20):
            keys: list[Key] = [("image", one) for one in range(number, number + 5)]
            _step(tell, [], 0, keys, lambda chosen: delete(index, chosen))
            index.save_snapshots(purge=True)
            index.erase()


def _merging(folder: Path, tell: Tell) -> None:
    merging._BLOCK = 20  # so that there are many transactions to stop between
    with ExitStack() as stack:
        source = stack.enter_context(Index.open(_source_of(folder), notify=lambda _: None))
        stack.enter_context(source.snapshot())
        steps = [
            [(kind, int(str(row.metadata["number"]))) for _, row in part]
            for kind in KINDS
            for part in _parts(list(source.scan(kind, source.labels(kind))), merging._BLOCK)
        ]
        target = stack.enter_context(opened(folder))
        tell(("ready",))
        told = iter([*steps, None])

        def acknowledged(_: int) -> None:
            tell(("done",))
            following = next(told)
            if following is not None:
                tell(("begins", following, 0, []))

        tell(("begins", next(told), 0, []))
        merging.merge(target, [source], on_conflict="refuse", advance=acknowledged)
        target.save_snapshots()


def _parts(rows: list[T], size: int) -> list[list[T]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _source_of(folder: Path) -> Path:
    """Return where the index lies that is merged into others."""
    return folder.parent / "merged-from"


def _make_for_merging(folder: Path) -> State:
    shutil.rmtree(_source_of(folder), ignore_errors=True)
    with opened(_source_of(folder)) as index:
        for part in _parts(all_keys(5000), 50):
            add(index, part, 0)
    return make(folder)


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
    names = [name for name in COLUMNS if name not in ("patient_key", "text_strategy")]
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
    "add": Operation(prepare=make, run=add_for_long),
    "save": Operation(prepare=make, run=_saving),
    "rebuild": Operation(prepare=make, run=_rebuilding),
    "compact": Operation(prepare=make, run=_compacting),
    "delete": Operation(prepare=make, run=_deleting),
    "migrate": Operation(prepare=make_first_format, run=_migrating),
    "merge": Operation(prepare=_make_for_merging, run=_merging, beside="merged-from"),
}
