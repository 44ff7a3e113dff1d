"""What a data set holds, looked at as a whole before the first step: which pairs are taken, and every one that is not.

records -> split and view -> files and reports -> leakage -> two selections, and a survey that is printed and kept
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.reports import Headings, SelectedText, read_headings, select_text
from train.config import Radiographs
from train.data.faults import Fault, Faults
from train.data.records import Record, Source
from train.data.selection import Selection, SelectionBuilder

_AHEAD = 1024
"""Records whose files are looked at together, by a few threads: on a network share each look waits for an answer."""

_THREADS = 8

_TOGETHER = 32
"""Of them, those that one thread looks at in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found and what is done about it."""

    source: str
    origin: dict[str, str]
    text: str
    """Which part of a report is taken."""
    read: int
    """Records of the data set."""
    parts: dict[str, int]
    """Pairs by the part of the report that their text is."""
    views: dict[str, int]
    """Images of the two splits by view, taken or not; the empty one is not stated."""
    splits: dict[str, int]
    """Images by split, taken or not; the empty one is not stated."""
    training: dict[str, Any]
    validation: dict[str, Any]
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield the survey as lines for a person."""
        yield f"{self.source}: {self.read} records read, text: {self.text}"
        for name, facts in (("training", self.training), ("validation", self.validation)):
            yield f"{name}: {facts['pairs']} pairs, {facts['texts']} texts, {facts['patients']} patients"
        yield f"splits: {_listed(self.splits)}"
        yield from self.notes
        yield from (str(fault) for fault in self.faults)

    def to_json(self) -> dict[str, Any]:
        """Return the survey as it is kept with the run."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        faults = [{name: getattr(fault, name) for name in fault.__dataclass_fields__} for fault in self.faults]
        return values | {"faults": faults}


class Surveyed(NamedTuple):
    """The two selections, and what the survey has counted so far."""

    training: Selection
    validation: Selection
    faults: Faults
    read: int
    parts: Counter[str]
    views: Counter[str]
    splits: Counter[str]

    def summary(self, source: Source, config: Radiographs) -> Survey:
        """Return the survey of what is left."""
        return Survey(
            source=source.kind, origin=source.origin, text=config.text, read=self.read, parts=dict(self.parts),
            views=dict(self.views), training=self.training.facts(), validation=self.validation.facts(),
            splits=dict(self.splits), faults=self.faults.listed(), notes=source.notes,
        )  # fmt: skip


def survey(source: Source, config: Radiographs) -> Surveyed:
    """Read all records and choose; raises `ConfigError` for faults that are refused, and where a split stays empty."""
    faults, parts, views, splits = Faults(config), Counter[str](), Counter[str](), Counter[str]()
    columns = {config.train_split: SelectionBuilder(), config.validation_split: SelectionBuilder()}
    wanted = _wanted(source.records(), config, faults, views, splits)
    headings = read_headings(Path(config.headings)) if config.headings else None
    # Images of one study follow each other.
    choose = lru_cache(maxsize=64)(lambda report: _chosen(report, config, headings))
    for record, status, report in _with_files(wanted):
        if isinstance(status, str):
            faults.add(status, record.name)
        elif isinstance(report, _Unread):
            faults.add(report.kind, record.name)
        elif (chosen := choose(report)) is None:
            faults.add("empty_report", record.name)
        else:
            parts[chosen.part] += 1
            columns[record.split or ""].add(record, status, chosen)
    training, validation = columns[config.train_split].selection(), columns[config.validation_split].selection()
    training = _without_leakage(training, validation, faults)
    for selection in (training, validation):
        for name, patient, labels in zip(selection.names, selection.patients, selection.labels, strict=True):
            if patient is None:
                faults.add("no_patient", name or "")
            if labels is None:
                faults.add("no_labels", name or "")
    faults.refuse(source.origin)
    surveyed = Surveyed(training, validation, faults, splits.total(), parts, views, splits)
    require_pairs(surveyed, config)
    return surveyed


def _chosen(report: str, config: Radiographs, headings: Headings | None) -> SelectedText | None:
    try:
        return select_text(report, use=config.text, headings=headings)
    except ReportError:
        return None


def require_pairs(surveyed: Surveyed, config: Radiographs) -> None:
    """Raise `ConfigError` where a split has no pair left."""
    for split, selection in ((config.train_split, surveyed.training), (config.validation_split, surveyed.validation)):
        if not len(selection.names):
            views = ", ".join(f"{count} {view or 'without a view'}" for view, count in surveyed.views.most_common())
            raise ConfigError(
                f"no pair of split {split!r} is left of {surveyed.read} records; the splits are {_listed(surveyed.splits)} "
                f"(data.radiographs.train_split and validation_split name the two); of both there are images of "
                f"these views: {views or 'none'}; wanted are {', '.join(config.views) or 'all'}"
                + "".join(f"\n  {fault}" for fault in surveyed.faults.listed())
            )


def _wanted(
    records: Iterator[Record], config: Radiographs, faults: Faults, views: Counter[str], splits: Counter[str]
) -> Iterator[Record]:
    """Leave out records of other splits and views, and those that come again."""
    wanted_views = {view.upper() for view in config.views}
    seen: set[bytes] = set()
    for record in records:
        splits[record.split or ""] += 1
        if record.image is None:
            faults.add("no_image", record.name)
        elif record.split is None:
            faults.add("no_split", record.name)
        elif record.split not in (config.train_split, config.validation_split):
            faults.add("other_split", record.name)
        else:
            views[record.view or ""] += 1
            path = hashlib.blake2b(os.fsencode(record.image), digest_size=12).digest()
            if wanted_views and record.view not in wanted_views:
                faults.add("other_view", record.name)
            elif path in seen:
                faults.add("duplicate", record.name)
            else:
                seen.add(path)
                yield record


def _listed(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{split or 'not stated'} {count}" for split, count in splits.items()) or "none"


class _Unread(NamedTuple):
    """A report that could not be read."""

    kind: str


def _with_files(records: Iterator[Record]) -> Iterator[tuple[Record, os.stat_result | str, str | _Unread]]:
    """Look at the image file and read the report of each record; order is kept."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="survey") as pool:
        while some := list(islice(records, _AHEAD)):
            parts = (some[start : start + _TOGETHER] for start in range(0, len(some), _TOGETHER))
            yield from chain.from_iterable(pool.map(_looked_at, parts))


def _looked_at(records: Sequence[Record]) -> list[tuple[Record, os.stat_result | str, str | _Unread]]:
    found: list[tuple[Record, os.stat_result | str, str | _Unread]] = []
    before: Path | str | None = None
    report: str | _Unread = ""
    for record in records:
        if record.report != before:  # images of one study follow each other
            before, report = record.report, _report_text(record)
        found.append((record, _image_status(record), report))
    return found


def _image_status(record: Record) -> os.stat_result | str:
    try:
        assert record.image is not None
        status = record.image.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing_image"
    except (OSError, ValueError):
        return "unreadable_image"
    usable = stat.S_ISREG(status.st_mode) and status.st_size > 0 and os.access(record.image, os.R_OK)
    return status if usable else "unreadable_image"


def _report_text(record: Record) -> str | _Unread:
    if not isinstance(record.report, Path):
        return record.report
    try:
        return record.report.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return _Unread("missing_report")
    except (OSError, UnicodeDecodeError):
        return _Unread("unreadable_report")


def _without_leakage(training: Selection, validation: Selection, faults: Faults) -> Selection:
    """Leave out the training pairs of patients who are in validation."""
    patients = {patient for patient in validation.patients if patient is not None}
    kept = [place for place, patient in enumerate(training.patients) if patient not in patients]
    if len(kept) == len(training.names):
        return training
    leaked = sorted(set(range(len(training.names))) - set(kept))
    for place in leaked:
        faults.add("leakage", training.names[place] or "")
    return training.taken(np.array(kept, dtype=np.int64))
