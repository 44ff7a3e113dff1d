"""Which row of the index a report is, if it is there already: by its id, by the id of an earlier version, or by its place.

    record, digest of its words -> KnownReports -> the row that it updates, none, or an id that is taken

Two reports never share a row, and none takes the row of another while that one may still be there.
"""

import os
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mcr_infer.errors import ReportError
from mcr_infer.files import FileStamp
from mcr_infer.index import Row
from mcr_infer.index.protocols import IndexWriter
from mcr_infer.index.root import shown
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.missing_files import file_of_source
from mcr_infer.reports import ReportRecord

_ROW = re.compile(r":\d+$")

_Source = Literal["same", "gone", "other"]


class KnownReports:
    """What an index knows of the reports of one run. Records are given as `DeidentificationPolicy.report` returns them."""

    def __init__(self, index: IndexWriter, naming: DeidentificationPolicy) -> None:
        self._index, self._naming = index, naming
        self._taken: set[str] = set()
        """Former ids of rows that reports of this run have taken over."""
        self._stays = False
        """True once a row of a table stood where it stood in the former run."""
        self._moves = False
        """True once a row stood where there were other words in the former run."""

    def stamp(self, record: ReportRecord) -> FileStamp | None:
        """Return where a report was read, as an index keeps it; None where that is unknown."""
        if not record.source:
            return None
        return self._naming.stamp(FileStamp(path=record.source, size=0, mtime_ns=0))

    def is_placed(self, stamp: FileStamp, id: str) -> bool:
        """True where the index knows already that this place gave this row."""
        return self._owner(stamp) == id

    def find(self, record: ReportRecord, digest: str, *, seen: Collection[str]) -> Row | None:
        """Return the row that this report has now, under its id or a former one; None where it has none.

        `seen` are the ids of this run so far. Raises `ReportError` with reason `id_conflict` where the row is that of
        another report, as far as that can be known.
        """
        row = self._index.get("report", record.id)
        if row is None:
            return self._of_earlier_version(record, digest, seen)
        if self._source(row, record) != "other":
            return row
        same_study = record.study_uid is not None and record.study_uid == row.study_uid
        if row.content_digest != digest and not same_study:
            raise self._conflict(row, record, "text")
        if _differ(row.study_uid, record.study_uid):
            raise self._conflict(row, record, "study")
        if _differ(row.patient_key, record.patient_key):
            raise self._conflict(row, record, "patient")
        return row

    def formerly_here(self, record: ReportRecord, digest: str) -> Row | None:
        """Look who stood at the place of a report without an id of its own: a row of the same words but another id, or None.

        It may be this report with another study or patient; `take` says so once the whole table has been looked at.
        """
        stamp = self.stamp(record)
        if stamp is None or record.former_id is None:
            return None
        id = self._owner(stamp)
        row = None if id in (None, record.id) else self._index.get("report", str(id))
        self._stays |= id == record.id
        self._moves |= row is not None and row.content_digest != digest
        return row if row is not None and row.content_digest == digest else None

    def take(self, row: Row, *, seen: Collection[str]) -> bool:
        """Take a row over for the report at its place, at the end of a run; False where that may be another report.

        The table must be the one that it was but for facts: the words of each row are where they were, and some row has not
        changed at all, unless the former one told no study. Else it is another table under the same name, and equal words
        in the same row are two reports.
        """
        same_table = not self._moves and (self._stays or row.study_uid is None)
        if not same_table or row.id in seen or row.id in self._taken:
            return False
        self._taken.add(row.id)
        return True

    def facts_from(self, record: ReportRecord, row: Row, digest: str) -> ReportRecord:
        """Return a record with what its table does not say and its row knows: an empty cell takes nothing back.

        Other words that come from elsewhere are another report, whose study and patient are not those of the row.
        """
        if row.content_digest != digest and self._source(row, record) != "same":
            return record
        study, patient = record.study_uid or row.study_uid, record.patient_key or row.patient_key
        return replace(record, study_uid=study, patient_key=patient)

    def updated(self, row: Row, record: ReportRecord, *, keep_text: bool) -> Row | None:
        """Return a row with the same words as it is to be now, None where nothing changes."""
        new = replace(
            row,
            id=record.id,
            path=self._path(row, record),
            study_uid=record.study_uid,
            patient_key=record.patient_key,
            text=record.text if keep_text else row.text,
        )
        return None if _facts(new) == _facts(row) else new

    def _owner(self, stamp: FileStamp) -> str | None:
        """Return the id of the row that a place gave in the former run."""
        seen = self._index.seen_file("report", stamp.path)
        return None if seen is None else seen[1]

    def _of_earlier_version(self, record: ReportRecord, digest: str, seen: Collection[str]) -> Row | None:
        """Return the row that an earlier version made of this report, under the id that it derived."""
        former = record.former_id
        if former is None or former in seen or former in self._taken or not _is_unicode(former):
            return None
        row = self._index.get("report", former)
        if row is None or self._index.files("report", former) or _differ(row.study_uid, record.study_uid):
            return None
        # The former id of a row of a table follows from its words.
        same_words = row.content_digest == digest or not os.path.isfile(record.source)  # noqa: PTH113
        source = self._source(row, record)
        if source == "other" or not (source == "same" or same_words):
            if source == "gone" and self._naming.pseudonymous:
                raise ReportError(
                    f"an earlier version embedded other words under the name of this file, of this folder or another: if it "
                    f"was this one, run `mcr-infer delete --kind report --id {former}` and embed again",
                    reason="id_conflict",
                )
            return None
        self._taken.add(former)
        return row

    def _source(self, row: Row, record: ReportRecord) -> _Source:
        """Say whether a row came from where a record was read, from what is not there any more, or from elsewhere."""
        stamp, held = self.stamp(record), [one.path for one in self._index.files("report", row.id)]
        if stamp is not None and stamp.path in held:
            return "same"
        if held:
            if self._naming.pseudonymous:
                return "other"  # which cannot be looked for
            return "other" if any(map(file_of_source, held)) else "gone"
        if row.path is None:
            return "gone"
        file, _ = _split(row.path)
        if row.path == record.path or _is_same(file, file_of_source(record.source) or _split(record.path)[0]):
            return "same"
        return "other" if os.path.lexists(file) else "gone"

    def _path(self, row: Row, record: ReportRecord) -> str | None:
        """Return the path to keep: that of the row as long as it leads to the same row of the same table."""
        new, old = self._naming.path(record.path), row.path
        if new is None or old is None or record.path_given:
            return new
        (old_file, old_row), (new_file, new_row) = _split(old), _split(new)
        if self._source(row, record) == "same" or _is_same(old_file, new_file):
            return old if old_row == new_row else new
        return old if os.path.lexists(old_file) else new

    def _conflict(self, row: Row, record: ReportRecord, other: str) -> ReportError:
        where = shown(row.path) or "another source"
        return ReportError(
            f"the id {record.id!r} belongs to a report from {where}, which has another {other}: give one of them an id of "
            f"its own, or run `mcr-infer delete --kind report --id {record.id}` to replace it with this one",
            reason="id_conflict",
        )


def _differ(one: str | None, other: str | None) -> bool:
    """True for two values that are told and not equal."""
    return one is not None and other is not None and one != other


def _is_unicode(id: str) -> bool:
    """False for a file name that is not UTF-8: no row had it for its id."""
    try:
        id.encode()
    except UnicodeEncodeError:
        return False
    return True


def _facts(row: Row) -> tuple[str | None, ...]:
    return row.id, row.path, row.study_uid, row.patient_key, row.text


def _split(path: str) -> tuple[str, str]:
    """Return the file and the row of a path such as `reports.csv:12`; the row is empty for a file of its own."""
    found = None if os.path.isfile(path) else _ROW.search(path)  # noqa: PTH113
    return (path[: found.start()], found.group()) if found else (path, "")


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False
