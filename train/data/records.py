"""One image with one report as a data set lists them: what every reader yields and the survey judges.

tables and trees of a data set -> Record -> survey -> picture cache and report texts -> RadiographPairs
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One image and its report, before anybody looked whether the files are there."""

    name: str
    """What names the record in messages and fixes its random draws: an id of the data set itself, or file and row."""
    image: Path | None
    """None where the data set has a report without an image."""
    report: Path | str
    """A file to read, or the text as the data set holds it."""
    patient: str | None
    """The data set's own pseudonym; None where it names none."""
    study: str | None
    split: str | None
    """None where the data set lists splits and has none for this image."""
    view: str | None
    """View position in upper case; None where the data set does not say."""
    labels: tuple[str, ...] | None
    """The findings that are stated as present, in lower case and sorted; empty = none are, None = nobody labelled it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A data set that was found: its records, read anew at each call, and what they were read from."""

    kind: str
    origin: dict[str, str]
    """The folders and tables that are read, for the record of the run."""
    records: Callable[[], Iterator[Record]]
    notes: tuple[str, ...] = ()
    """What was decided about the tables that their owner may not expect; printed with the survey."""


def split_by_hash(patient: str, share: float) -> bool:
    """Tell whether a patient belongs to validation: the same answer in any run, for about `share` of all patients."""
    digest = hashlib.blake2b(patient.encode(), digest_size=8, person=b"mcr-split").digest()
    return int.from_bytes(digest, "big") < share * 2**64


def view_position(text: str | None) -> str | None:
    """Return a view position in upper case, or None where the field is blank."""
    return (text or "").strip().upper() or None
