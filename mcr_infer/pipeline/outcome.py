"""Outcome of each input, and the closing summary of a run."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.files import create_private, publish
from mcr_infer.inference.long_text import LongText
from mcr_infer.inference.vocabulary import Unread, unread_counts
from mcr_infer.pipeline.deidentification import DeidentificationPolicy

FAILURES = "failures.jsonl"
"""The failures of the latest run into an index, one JSON object a line."""

KNOWN_FAILURES = {"image": "known-failures-image.jsonl", "report": "known-failures-report.jsonl"}
"""By kind, those of the latest run that came to its end: what a later run knows again."""

NOTE_KINDS = 100
"""Different notes that are counted each; some hold numbers, and the rest is counted together."""

SHOWN_FAILURES = 5
"""Failures of one reason that stay in memory to be shown; all of them are in the file of failures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one input; `reason` and `error` are set if it was left out or failed, and only then."""

    path: str
    status: Literal["embedded", "updated", "unchanged", "duplicate", "left_out", "failed"]
    """`updated` is a report with the words of its row, of which something else was changed, without embedding it again.
    `duplicate` is an image seen for the first time in this file, while another file is known to hold it, or a report whose
    id, words, patient and study have been read earlier in this run."""
    reason: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    """What had to be decided about an input that was embedded."""
    sections: Literal["recognized", "whole", "none"] | None = None
    """Of a report that was read: what of it was taken."""
    long_text: LongText | None = None
    """Of a report with more tokens than the text tower takes: what of it was embedded."""
    unread: Unread | None = None
    """How many words of a report that was embedded the text tower does not know; None where it knows them all."""

    def to_dict(self, naming: DeidentificationPolicy) -> dict[str, object]:
        """Return a failure in the shape of `--json`, as it may be written down."""
        error = None if self.error is None else naming.error(self.error, self.path)
        return {"path": naming.shown_path(self.path), "reason": self.reason, "error": error}


class Summary:
    """The closing count of a run, filled as outcomes come in; its size does not grow with the run.

    Failures go to a file, one JSON object a line, since a run over millions of files may have many.
    """

    def __init__(
        self,
        failures: Path,
        *,
        naming: DeidentificationPolicy | None = None,
        reports: bool = False,
        known: Path | None = None,
    ) -> None:
        """Begin with an empty file of failures, readable by its owner alone. Raises `EmbeddingIndexError`.

        `reports` counts what was taken of each one, too. `known` holds the failures of the latest run of this kind that
        came to its end; those of them that fail again for the same reason are counted as known.
        """
        self._naming = naming or DeidentificationPolicy()
        self.embedded = 0
        self.updated = 0
        self.unchanged = 0
        self.duplicates = 0
        self.left_out: Counter[str] = Counter()
        """Inputs that were understood and not wanted, by reason."""
        self.failed: Counter[str] = Counter()
        """Failures by reason."""
        self.notes: Counter[str] = Counter()
        """Embedded inputs by what had to be decided about them."""
        self.sections = Counter({"recognized": 0, "whole": 0, "none": 0}) if reports else None
        """Reports that were read: with sections recognized, taken whole, without a text to embed (these failed)."""
        self.long_texts: Counter[LongText] | None = Counter() if reports else None
        """Reports with more tokens than the text tower takes, by what of them is embedded."""
        self.known_failures = 0
        """Failures whose path failed for the same reason in the latest run of this kind."""
        self._known_file = known
        self.shown: defaultdict[str, list[Outcome]] = defaultdict(list)
        """The first failures of each reason."""
        self.unread: Counter[Unread] | None = Counter() if reports else None
        """Reports that were embedded and have unknown words, by how many; None in a run over images."""
        self.seconds = 0.0
        self.interrupted: int | None = None
        """The signal that ended the run before its end."""
        self.failures_file = failures
        with self._writing():
            self._known = frozenset(_failure_keys(known))
            self._file: IO[str] = open(create_private(failures), "w", encoding="ascii")  # noqa: PTH123, SIM115

    @classmethod
    def of(cls, index: Path, *, naming: DeidentificationPolicy | None = None, reports: bool = False) -> "Summary":
        """Begin the summary of a run into an index, whose failures lie beside it; raises `EmbeddingIndexError`."""
        known = index / KNOWN_FAILURES["report" if reports else "image"]
        return cls(index / FAILURES, naming=naming, reports=reports, known=known)

    def count(self, outcome: Outcome) -> None:
        """Take one outcome into account. Raises `EmbeddingIndexError` where a failure cannot be written down."""
        reason = str(outcome.reason)
        if self.sections is not None and outcome.sections is not None:
            self.sections[outcome.sections] += 1
        if self.long_texts is not None and outcome.long_text is not None:
            self.long_texts[outcome.long_text] += 1
        if outcome.status == "embedded":
            self.embedded += 1
            for note in outcome.notes:
                self.notes[note if note in self.notes or len(self.notes) < NOTE_KINDS else "other notes"] += 1
            if outcome.unread is not None and self.unread is not None:
                self.unread[outcome.unread] += 1
        elif outcome.status == "updated":
            self.updated += 1
        elif outcome.status == "unchanged":
            self.unchanged += 1
        elif outcome.status == "duplicate":
            self.duplicates += 1
        elif outcome.status == "left_out":
            self.left_out[reason] += 1
        else:
            self.failed[reason] += 1
            if self.failed[reason] <= SHOWN_FAILURES:
                self.shown[reason].append(outcome)
            failure = outcome.to_dict(self._naming)
            self.known_failures += _failure_key(failure) in self._known
            with self._writing():
                self._file.write(json.dumps(failure) + "\n")

    def close(self, seconds: float) -> None:
        """End the count. Raises `EmbeddingIndexError` where failures cannot be written down."""
        self.seconds = seconds
        with self._writing():
            self._file.close()

    def remember_failures(self) -> None:
        """Keep the failures of this run for the next one, unless it was interrupted: then it has not seen all of them.

        Raises `EmbeddingIndexError` where they cannot be written down.
        """
        if self._known_file is None or self.interrupted is not None:
            return
        with self._writing():
            temporary = self._known_file.with_suffix(".tmp")
            with open(create_private(temporary), "wb") as copy, self.failures_file.open("rb") as file:  # noqa: PTH123
                shutil.copyfileobj(file, copy)
            publish(temporary, self._known_file)

    @property
    def inputs(self) -> int:
        """How many inputs were found, whatever became of them."""
        done = self.embedded + self.updated + self.unchanged + self.duplicates
        return done + self.left_out.total() + self.failure_count

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EmbeddingIndexError(
                f"{self.failures_file} cannot be written ({error.strerror}): free space or repair its folder, and run "
                "again; committed rows are kept"
            ) from error

    @property
    def failure_count(self) -> int:
        """How many inputs failed."""
        return self.failed.total()

    def to_dict(self) -> dict[str, object]:
        """Return the counts in the shape of `--json`, without the failures themselves."""
        return {
            "embedded": self.embedded,
            "unchanged": self.unchanged,
            **({} if self._known_file is None else {"duplicates": self.duplicates}),
            "left_out": dict(self.left_out),
            "failed": self.failure_count,
            **({} if self._known_file is None else {"known_failures": self.known_failures}),
            "notes": dict(self.notes),
            **({} if self.sections is None else {"sections": dict(self.sections)}),
            **({} if self.long_texts is None else {"long_texts": dict(self.long_texts)}),
            "interrupted": self.interrupted is not None,
            "seconds": round(self.seconds, 3),
            **({} if self.unread is None else {"unknown_words": unread_counts(self.unread)}),
        }

    def failures(self) -> Iterator[str]:
        """Yield every failure as JSON, in the order of the inputs."""
        with self.failures_file.open(encoding="ascii") as file:
            for line in file:
                yield line.rstrip("\n")


def _failure_keys(file: Path | None) -> Iterator[bytes]:
    """Yield what tells the failures of a file apart; none where there is no such file."""
    if file is None or not file.exists():
        return
    with file.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            try:
                yield _failure_key(json.loads(line))
            except (ValueError, AttributeError):  # a damaged line knows no failure
                continue


def _failure_key(failure: Mapping[str, object]) -> bytes:
    """Return a digest of the path of a failure and of its reason: there may be millions."""
    return hashlib.blake2b(json.dumps([failure.get("path"), failure.get("reason")]).encode(), digest_size=16).digest()
