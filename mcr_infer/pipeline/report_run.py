"""Reports become rows of the index: checked, embedded in batches, committed, and every input reported by name."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mcr_infer.errors import ReportError
from mcr_infer.files import FileStamp
from mcr_infer.index import Row
from mcr_infer.index.protocols import IndexWriter
from mcr_infer.inference.encoder import TextEncoder
from mcr_infer.inference.long_text import FittedText
from mcr_infer.inference.vocabulary import Unread
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.known_reports import KnownReports
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.reports import Headings, ReportFailure, ReportRecord, SelectedText, select_text

_STAMPS = 1_000
"""Places of unchanged reports that wait for a commit together at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """A report that was checked, as it is kept."""

    record: ReportRecord
    selected: SelectedText
    """The words that are embedded."""
    digest: str
    """Of these words."""
    fitted: FittedText
    """These words as the text tower takes them."""

    def outcome(
        self, status: Literal["embedded", "updated", "unchanged", "duplicate"], unread: Unread | None = None
    ) -> Outcome:
        """Return its outcome."""
        return Outcome(
            path=self.record.path,
            status=status,
            sections="whole" if self.selected.part == "whole" else "recognized",
            long_text=self.fitted.strategy,
            unread=unread,
        )


def embed_reports(
    records: Iterable[ReportRecord | ReportFailure],
    *,
    index: IndexWriter,
    encoder: TextEncoder,
    batch_size: int,
    keep_text: bool,
    naming: DeidentificationPolicy | None = None,
    headings: Headings | None = None,
) -> Iterator[Outcome]:
    """Embed reports into the index and yield an outcome for each; the text itself is stored only with `keep_text`.

    `headings` are those by which sections are found, None for ours alone.
    A report whose words are those of its row is not embedded again: what else has changed is written (`updated`). `naming`
    is that of the index. Raises `IndexMismatchError` where it is not, and for text in a pseudonymous index, which can name
    anybody.
    """
    naming = naming or DeidentificationPolicy()
    index.check_secret(naming.secret_check, pseudonymous=naming.pseudonymous)
    run = _Run(index, encoder, naming, batch_size=batch_size, keep_text=keep_text, headings=headings)
    for given in records:
        if isinstance(given, ReportFailure):
            yield Outcome(path=given.path, status="failed", reason=given.reason, error=given.error)
            continue
        try:
            yield from run.take(naming.report(given))
        except ReportError as error:
            yield Outcome(path=given.path, status="failed", reason=error.reason, error=str(error))
    yield from run.finish()


class _Run:
    """The state of one run: what waits for the next commit, and which ids were seen."""

    def __init__(
        self,
        index: IndexWriter,
        encoder: TextEncoder,
        naming: DeidentificationPolicy,
        *,
        batch_size: int,
        keep_text: bool,
        headings: Headings | None,
    ) -> None:
        self._index, self._encoder, self._naming = index, encoder, naming
        self._batch_size, self._keep_text, self._headings = batch_size, keep_text, headings
        self._known = KnownReports(index, naming)
        self._seen: dict[str, tuple[str, str | None, str | None]] = {}
        """Digest of the words, patient and study of each id of this run."""
        self._fresh: list[_Report] = []
        self._rows: list[tuple[_Report, Row]] = []
        """Reports whose rows are written again with the vector that they have."""
        self._former_ids: list[str] = []
        self._stamps: list[tuple[FileStamp, str]] = []
        self._undecided: list[tuple[_Report, Row]] = []
        """Reports, and a row each that may be theirs or that of a later report of this run."""

    def take(self, record: ReportRecord) -> Iterator[Outcome]:
        """Take one report, and commit where enough are waiting. Raises `ReportError` for one that cannot be embedded."""
        try:
            selected = select_text(record.text, headings=self._headings)
        except ReportError as error:
            yield Outcome(path=record.path, status="failed", reason=error.reason, error=str(error), sections="none")
            return
        digest = self._naming.content(hashlib.sha256(selected.text.encode()).hexdigest())
        (fitted,) = self._encoder.fit([selected])
        one = _Report(record=record, selected=selected, digest=digest, fitted=fitted)
        if record.id in self._seen:
            self._compare(one)
            yield one.outcome("duplicate")
            return
        row = self._known.find(record, one.digest, seen=self._seen)
        former = self._known.formerly_here(record, one.digest)
        self._seen[record.id] = one.digest, record.patient_key, record.study_uid
        if former and row is None:
            self._undecided.append((one, former))
            return
        yield from self._place(one, row)

    def finish(self) -> Iterator[Outcome]:
        """Decide what was left open, now that all ids are seen, and commit."""
        for one, former in self._undecided:
            yield from self._place(one, former if self._known.take(former, seen=self._seen) else None)
        yield from self._commit()

    def _compare(self, one: _Report) -> None:
        """Raise `ReportError` unless a report says the same as an earlier one of its id in this run."""
        record = one.record
        told = one.digest, record.patient_key, record.study_uid
        for former, now, what in zip(self._seen[record.id], told, ("text", "patient", "study"), strict=True):
            if former != now:
                why = f"an earlier report of this run has the id {record.id!r}, too, and another {what}"
                raise ReportError(why, reason="id_conflict")

    def _place(self, one: _Report, row: Row | None) -> Iterator[Outcome]:
        """Put a report where it belongs, `row` being the one that it has now."""
        record = one.record
        if row is not None:
            record = self._known.facts_from(record, row, one.digest)
            if row.id != record.id:
                self._former_ids.append(row.id)
        stamp, same_words = self._known.stamp(record), row is not None and row.content_digest == one.digest
        # The index forgets where a row came from that gets other words.
        if stamp is not None and not (same_words and self._known.is_placed(stamp, record.id)):
            self._stamps.append((stamp, record.id))
        if row is None or not same_words or row.text_strategy != one.fitted.strategy:
            self._fresh.append(replace(one, record=record))
        elif (new := self._known.updated(row, record, keep_text=self._keep_text)) is not None:
            self._rows.append((one, new))
        else:
            yield one.outcome("unchanged")
        if len(self._fresh) + len(self._rows) >= self._batch_size or len(self._stamps) >= _STAMPS:
            yield from self._commit()

    def _commit(self) -> Iterator[Outcome]:
        fresh, rows = self._fresh, self._rows
        vectors = self._encoder.encode_fitted([one.fitted for one in fresh])
        readings = self._encoder.vocabulary.read([one.selected.text for one in fresh])
        embedded = [
            Row(
                id=one.record.id,
                kind="report",
                path=self._naming.path(one.record.path),
                study_uid=one.record.study_uid,
                patient_key=one.record.patient_key,
                vector=vector,
                precision=self._encoder.precision,
                content_digest=one.digest,
                text_strategy=one.fitted.strategy,
                text=one.record.text if self._keep_text else None,
                metadata={"unknown_words": len(reading.unknown)} if reading.unknown else {},
            )
            for one, vector, reading in zip(fresh, vectors, readings, strict=True)
        ]
        if fresh or rows or self._stamps:
            self._index.add(
                [*embedded, *(row for _, row in rows)],
                files=self._stamps,
                file_kind="report",
                former_ids=self._former_ids,
            )
        self._fresh, self._rows, self._stamps, self._former_ids = [], [], [], []
        for one, reading in zip(fresh, readings, strict=True):
            yield one.outcome("embedded", reading.unread)
        yield from (one.outcome("updated") for one, _ in rows)
