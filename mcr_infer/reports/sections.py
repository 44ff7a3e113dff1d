"""The sections of a radiology report, and the text of it that is embedded: report -> findings, impression -> text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mcr_infer.errors import ReportError
from mcr_infer.reports.headings import Headings, default_headings
from mcr_infer.reports.layout import Heading, find_headings, plain
from mcr_infer.reports.sentences import (
    Sentence,
    asks,
    clean,
    follows_up,
    is_communication,
    is_statement,
    paragraphs,
    prose,
    sentences,
    shows,
    states,
    tells_study,
)  # fmt: skip

Use = Literal["both", "findings", "impression", "longest"]
Part = Literal["both", "findings", "impression", "addendum", "whole"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections that describe the image, on one line each; None where there is none. A common one is both of them."""

    findings: str | None
    impression: str | None
    addendum: str | None = None
    """What was added to the report or corrected later: the last word, wherever it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedText:
    """What of a report is embedded, and which part of it that is: `whole` is a text without any known heading.

    An addendum stands behind whichever part it is; `addendum` is one without findings and impression.
    """

    text: str
    part: Part

    conclusion: str | None = None
    """The end of `text` that is impression and addendum; None where there is none that is told from the findings."""

    @property
    def conclusion_first(self) -> str:
        """The text with its conclusion before the findings."""
        if self.conclusion is None or self.conclusion == self.text:
            return self.text
        return f"{self.conclusion} {self.text.removesuffix(self.conclusion).rstrip()}"


def split_report(text: str, *, headings: Headings | None = None) -> Sections:
    """Find findings, impression and addendum under their headings, in any layout and in seven languages.

    Headings may be in any case, beside the text or above it, inside a line, numbered, or misspelt by one slip. Organs as
    headings (`LUNGS:`) are findings and stay in the text. Of a section about the patient or the study, the first paragraph
    is left out, except for sentences that describe the image; prose that follows is findings, and so is prose above the
    first heading. A preliminary read that a final one follows, notifications, recommendations and signatures are left out,
    as are blanks left by de-identification. A text without any known heading has no sections. `headings` are ours and those
    of a site; None means ours.
    """
    sections, _ = _sections(text, headings or default_headings())
    return sections


def select_text(text: str, *, use: Use = "both", headings: Headings | None = None) -> SelectedText:
    """Choose the text of a report that is embedded; `longest` is the longer section, and `both` one where only one is.

    A text without any known heading is taken whole for `both` and `longest`: it is a sentence or a report of one piece.
    Raises `ReportError` with reason `empty` (no words), or `no_section` where the wanted section is not there.
    """
    sections, has_headings = _sections(text, headings or default_headings())
    findings, impression = sections.findings, sections.impression
    if use == "findings" or (use == "longest" and len(findings or "") >= len(impression or "")):
        impression = None
    elif use in ("impression", "longest"):
        findings = None
    texts = list(
        dict.fromkeys(filter(None, (findings, impression, sections.addendum)))
    )  # a common section is told once
    if texts:
        part: Part = "findings" if findings else "impression" if impression else "addendum"
        return SelectedText(
            text=" ".join(texts),
            part="both" if findings and impression else part,
            conclusion=" ".join(texts[1:] if findings else texts) or None,
        )
    whole = clean(plain(text))
    if not whole:
        raise ReportError("the report has no text: it is empty or holds nothing but blanks", reason="empty")
    if use in ("findings", "impression") or has_headings:
        wanted = use if use in ("findings", "impression") else "findings or impression"
        raise ReportError(f"the report has no text under a header for {wanted}", reason="no_section")
    return SelectedText(text=whole, part="whole")


def embed_text(text: str, *, use: Use = "both", headings: Headings | None = None) -> str:
    """Choose as `select_text` does, and return the text alone."""
    return select_text(text, use=use, headings=headings).text


def _sections(text: str, names: Headings) -> tuple[Sections, bool]:
    """Return the sections, and whether the text has any known heading."""
    text = plain(text)
    headings = find_headings(text, names)
    if all(heading.kind == "organ" for heading in headings):
        return Sections(findings=(clean(text) or None) if headings else None, impression=None), bool(headings)
    first, final = _superseded(headings)
    if first < final:
        reader = _Reader(text)
        reader.read(headings[:first], start=0, end=headings[first].start)
        reader.read(headings[final:], start=headings[final].start)
        if reader.shows_something():
            return reader.sections(), True
    # Without a final report, or with one that says nothing of the image, the preliminary read is not replaced.
    reader = _Reader(text, keeps_preliminary=first < final)
    reader.read(headings, start=0)
    return reader.sections(), True


def _superseded(headings: list[Heading]) -> tuple[int, int]:
    """Return the places of the first preliminary read and of the final report after it; equal where there are not both."""
    first = next((place for place, heading in enumerate(headings) if heading.kind == "preliminary"), len(headings))
    return first, next((place for place in range(first, len(headings)) if headings[place].kind == "title"), first)


_Pieces = dict[str, None]
"""Pieces of a section in their order; what a copied report says twice is told once."""


class _Reader:
    """Goes through a report from heading to heading and collects what each section says of the image."""

    def __init__(self, text: str, *, keeps_preliminary: bool = False) -> None:
        self._text = text
        self._keeps_preliminary = keeps_preliminary
        self._parts: dict[str, _Pieces] = {"findings": {}, "impression": {}, "both": {}, "addendum": {}}
        self._loose: list[str] = []
        """Prose without a heading of its own."""
        self._doubtful: list[Sentence] = []
        """Sentences on the image among those on the patient or who signed: they count where there are no findings."""
        self._preliminary: list[str] = []
        self._headed = False
        """Whether a heading named the findings, and not organs alone."""
        self._open: _Pieces | None = None
        """The section that goes on after a word on the study in its midst."""

    def read(self, headings: list[Heading], *, start: int, end: int | None = None) -> None:
        """Read a stretch of the text with its headings."""
        end = len(self._text) if end is None else end
        self._loose += prose(self._text[start : headings[0].start if headings else end], titled=True)
        for heading, following in zip(headings, [*headings[1:], None], strict=False):
            stop = following.start if following else end
            self._take(heading, self._text[heading.end : stop], self._text[heading.start : stop])

    def _take(self, heading: Heading, body: str, whole: str) -> None:
        kind = heading.kind
        if kind in ("findings", "impression", "both"):
            self._headed = self._headed or kind != "impression"
            # Those of an addendum below the report are its last word, too.
            amends = self._open is self._parts["addendum"] and bool(self._parts[kind])
            self._open = self._parts["addendum" if amends else kind]
            if (text := clean(body)) and text not in self._parts[kind]:
                self._open[text] = None
        elif kind == "addendum":
            self._open = self._parts["addendum"]
            kept = (sentence.text for sentence in sentences(body) if not is_communication(sentence.text))
            self._add([" ".join(filter(None, kept))])
        elif kind == "organ":
            self._open = self._parts["findings"] if self._open is None else self._open
            self._add([clean(whole)])
        elif kind == "preliminary":
            self._preliminary += prose(body, titled=False)
        elif kind == "title":
            self._open = None
            self._loose += prose(body, titled=True)
        else:
            self._take_aside(heading, body)

    def _take_aside(self, heading: Heading, body: str) -> None:
        """Keep of a section about the patient, the study or what to do next the sentences on the image."""
        first, *later = paragraphs(body) or [""]
        told = sentences(first)
        if heading.kind == "study":
            self._add(one.text for one in told[:1] if states(one.text))
            # Inside a line, a word on the study stands among sentences on the image.
            inside = self._open is not None and not heading.at_line
            self._add(one.text for one in told[1:] if inside or self._is_over(one.text))
        elif heading.kind == "administrative":
            about_image = [one for one in told[1:] if shows(one.text) and not follows_up(one.text)]
            self._add(one.text for one in about_image if states(one.text))
            self._doubtful += [one for one in about_image if not states(one.text)]
        else:
            about_image = [one for one in told[1:] if shows(one.text) and not asks(one.text)]
            if self._open is not None and not heading.at_line:
                self._add(one.text for one in about_image)
            else:
                self._doubtful += about_image
        if heading.kind == "administrative":
            rest = (one.text for paragraph in later for one in sentences(paragraph))
            self._add(text for text in rest if shows(text) and not follows_up(text))
            return
        if heading.at_line and self._open is self._parts["impression"]:
            self._open = None
        self._add(prose("\n\n".join(later), titled=False))

    def _is_over(self, sentence: str) -> bool:
        """True where a later sentence below a heading about the study is about the image again."""
        if tells_study(sentence):
            return states(sentence)
        return self._open is not None or shows(sentence) or (is_statement(sentence) and not asks(sentence))

    def _add(self, texts: Iterable[str]) -> None:
        """Add to the open section, or to the prose without one."""
        for text in filter(None, texts):
            if self._open is None:
                self._loose.append(text)
            else:
                self._open[text] = None

    def shows_something(self) -> bool:
        """True where what was read describes the image."""
        return any(shows(text) for pieces in (*self._parts.values(), self._loose) for text in pieces)

    def sections(self) -> Sections:
        """Put together what was collected."""
        common, findings = " ".join(self._parts["both"]), " ".join(self._parts["findings"])
        impression, addendum = " ".join(self._parts["impression"]), " ".join(self._parts["addendum"])
        loose = self._loose + (self._preliminary if self._keeps_preliminary else [])
        if self._headed and (findings or common):
            # Titles and words on the study are left behind where the findings have a heading of their own.
            told = (one.text for text in loose for one in sentences(text))
            loose = [text for text in told if states(text) and not asks(text)]
        findings = " ".join(filter(None, [*loose, findings or common]))
        impression = impression or (findings if common else "")
        if not findings:
            alone = not impression and not addendum
            findings = " ".join(one.text for one in self._doubtful if alone or one.begins_line)
        if not (findings or impression or addendum):
            findings = " ".join(self._preliminary)
        return Sections(findings=findings or None, impression=impression or None, addendum=addendum or None)
