"""Paragraphs and sentences of a report, and what each one is about: the image, the patient, the study, what to do next."""

import re
from dataclasses import dataclass

from mcr_infer.reports.headings import fold
from mcr_infer.reports.vocabulary import (
    ABOUT_FOLLOW_UP,
    ABOUT_PATIENT,
    ABOUT_STUDY,
    COMMUNICATED,
    FINDING,
    STATEMENT,
)  # fmt: skip

# MIMIC-CXR blanks out names and dates with underscores, Open-I with XXXX.
_DEIDENTIFIED = re.compile(r"_{2,}|(?<![A-Za-z])X{3,}(?![a-z])")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_NUMBER_AT_LINE = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)]|[-*\u2022])(?=\s)", re.MULTILINE)
_NUMBER_AFTER_STOP = re.compile(r"(?<=[.;:])\s+\d{1,2}[.)](?=\s+[A-Za-z])")
_CLOCK = re.compile(r"\b[ap]\.m\.", re.IGNORECASE)
_STOP = re.compile(r"[.!?](?=\s|$)")
_SMALL = re.compile(r"[a-zß-öø-ÿ]{2}")
_BETWEEN = re.compile(
    r"(?<=[.!?])(?<!\b[DM]r\.)(?<!\bvs\.)(?<![ap]\.m\.)\s+(?=[^\W_a-zß-öø-ÿ]|[\"(])"
    # A line that begins with a heading which nobody knows.
    r"|\n[ \t]*(?=[^\W\d_a-zß-öø-ÿ][^\n:]{1,40}:)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence, cleaned."""

    text: str
    begins_line: bool


def paragraphs(text: str) -> list[str]:
    """Split a text at blank lines."""
    return [part for part in _PARAGRAPHS.split(text.strip()) if part]


def sentences(text: str) -> list[Sentence]:
    """Split a text into sentences on one line each; one without a word, such as a date that was blanked out, is empty."""
    found, start, begins_line = [], 0, False
    for gap in (*_BETWEEN.finditer(text), None):
        found.append(Sentence(text=clean(text[start : gap.start() if gap else len(text)]), begins_line=begins_line))
        if gap:
            start, begins_line = gap.end(), "\n" in gap[0]
    return found


def prose(text: str, *, titled: bool) -> list[str]:
    """Return the paragraphs that hold a sentence or name a finding; among titles, capitals without a stop are a title."""
    return [part for part in map(clean, paragraphs(text)) if _is_prose(part, titled=titled)]


def _is_prose(text: str, *, titled: bool) -> bool:
    stops = _STOP.search(_CLOCK.sub("", text)) is not None
    written = not titled or _SMALL.search(text) is not None
    return (stops and written and len(text.split()) > 2) or (shows(text) and (stops or written))


def clean(text: str) -> str:
    """Put text on one line without list numbers and blanks of de-identification; empty where no word is left."""
    text = _NUMBER_AT_LINE.sub(" ", _DEIDENTIFIED.sub(" ", text))
    text = " ".join(_NUMBER_AFTER_STOP.sub(" ", text).split())
    text = re.sub(r"(?<![,;:])[,;:]+\.(?=\s|$)", ".", re.sub(r" +([.,;:])", r"\1", text)).lstrip(".,;: ")
    return text if re.search(r"[^\W\d_]", text) else ""


def shows(text: str) -> bool:
    """True where a text of two words or more names an organ, a device or a finding."""
    return " " in text and FINDING.search(fold(text)) is not None


def states(text: str) -> bool:
    """True where a text says something of what it names."""
    return shows(text) and is_statement(text)


def is_statement(text: str) -> bool:
    """True where a text says that something is, is not or has changed."""
    return STATEMENT.search(fold(text)) is not None


def asks(text: str) -> bool:
    """True where a text is about the patient, or asks what the study is to answer."""
    return ABOUT_PATIENT.search(fold(text)) is not None


def tells_study(text: str) -> bool:
    """True where a text is about how the study was taken or what it was compared with."""
    return len(text.split()) < 3 or ABOUT_STUDY.search(fold(text)) is not None


def follows_up(text: str) -> bool:
    """True where a text says what to do next, or who was told or signed."""
    return ABOUT_FOLLOW_UP.search(fold(text)) is not None


def is_communication(text: str) -> bool:
    """True where a sentence says whom the report was told to, and names no finding."""
    return COMMUNICATED.search(text) is not None and FINDING.search(fold(text)) is None
