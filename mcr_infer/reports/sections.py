"""The sections of a radiology report, and the text of it that is embedded: report -> findings, impression -> text."""

import re
from dataclasses import dataclass
from typing import Literal

from mcr_infer.errors import ReportError

Use = Literal["both", "findings", "impression", "longest"]

_BOTH = r"findings?\s*(?:and|&|/)\s*(?:impressions?|conclusions?)"
_FINDINGS = r"(?:chest |radiographic |x-ray )?findings?(?: and recommendations?)?|observations?|comments?|description"
_IMPRESSION = (
    r"(?:final |overall )?impressions?(?: (?:and|&) recommendations?)?|conclusions?|opinion|summary|interpretation"
)
# Their first paragraph is about the study; prose that follows it without a header describes the image.
_CONTEXT = (
    r"(?:type of )?exam(?:ination)?s?|stud(?:y|ies)|procedures?|(?:clinical )?indications?|(?:clinical )?history|"
    r"clinical (?:information|data|details|statement)|(?:past )?medical history|history of present illness|"
    r"reason for (?:this |the )?(?:exam(?:ination)?|study|consult(?:ation)?)|techniques?|views?|comparisons?|"
    r"comparison stud(?:y|ies)|prior(?: stud(?:y|ies))?|contrast|dose|final report|report"
)
# The radiologist's last word, or no word on this image: nothing below it is read until the next header.
_OTHER = (
    r"recommendations?(?:\(s\))?|notifications?|communications?|critical results?|addend(?:um|a)|final addendum|wet read|"
    r"preliminary (?:report|read)|attestation|(?:electronically )?signed(?: by)?|dictated(?: by)?|transcribed(?: by)?|"
    r"reviewed by|attending(?: radiologist)?|radiologist|cc|end of (?:report|impression)"
)
_SIGNATURE = r"(?:electronically signed|dictated by|signed by|reviewed by|i have (?:personally )?reviewed the)"
_GROUPS = {"both": _BOTH, "findings": _FINDINGS, "impression": _IMPRESSION, "context": _CONTEXT, "other": _OTHER}
_NAME = "|".join(f"(?P<{group}>{names})" for group, names in _GROUPS.items())
_DECORATED = r"[*#=\-_ \t]*"
_HEADER = re.compile(
    # At the start of a line, in any case, with a colon or alone on the line; a signature needs neither.
    rf"^{_DECORATED}(?:(?P<line>{_NAME}){_DECORATED}(?::{_DECORATED}|$)|{_SIGNATURE}\b)",
    re.IGNORECASE | re.MULTILINE,
)
_INLINE = re.compile(
    # Within a line, as flattened reports have it: with a colon, capitalised, after a sentence; or all in capitals.
    rf"(?:(?<=[.:;?!)_]\s)|(?<=\s\s)|(?<=\s)(?=[A-Z][A-Z /]{{3,40}}:))(?=[A-Z])(?P<line>(?i:{_NAME}))[ \t]*:",
)
_PRELIMINARY = re.compile(r"^[ \t]*wet read\b.*?(?=^[ \t]*final report\b)", re.IGNORECASE | re.MULTILINE | re.DOTALL)
# MIMIC-CXR blanks out names and dates with underscores, Open-I with XXXX.
_DEIDENTIFIED = re.compile(r"_{2,}|(?<![A-Za-z])X{3,}(?![a-z])")
_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_NUMBER_AT_LINE = re.compile(r"^[ \t]*(?:\(?\d{1,2}[.)]|[-*\u2022])(?=\s)", re.MULTILINE)
_NUMBER_AFTER_STOP = re.compile(r"(?<=[.;:])\s+\d{1,2}[.)](?=\s+[A-Za-z])")
_CLOCK = re.compile(r"\b[ap]\.m\.", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """The sections that describe the image, on one line each; None where there is none. A common one is both of them."""

    findings: str | None
    impression: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedText:
    """What of a report is embedded, and which part of it that is: `whole` is a text without any known header."""

    text: str
    part: Literal["both", "findings", "impression", "whole"]

    impression: str | None = None
    """The part of `text` that is the impression; None where it was not recognized."""

    @property
    def impression_first(self) -> str:
        """The text with its impression before everything else."""
        if self.impression is None or self.impression == self.text:
            return self.text
        return f"{self.impression} {self.text.removesuffix(self.impression).rstrip()}"


def split_report(text: str) -> Sections:
    """Find findings and impression under their headers: in any case, beside the text or above it, numbered or wrapped.

    Prose without a header, below the headers about the study or above the impression, counts as findings where no header
    names them. A preliminary read, notifications, recommendations and signatures are left out, as are blanks left by
    de-identification. A text without any known header has no sections.
    """
    found, _ = _sections(text)
    return found


def select_text(text: str, *, use: Use = "both") -> SelectedText:
    """Choose the text of a report that is embedded; `longest` is the longer section, and `both` one where only one is.

    A text without any known header is taken whole for `both` and `longest`: it is a sentence or a report of one piece.
    Raises `ReportError` with reason `empty` (no words), or `no_section` where the wanted section is not there.
    """
    sections, has_headers = _sections(text)
    findings, impression = sections.findings, sections.impression
    if use == "findings" or (use == "longest" and len(findings or "") >= len(impression or "")):
        impression = None
    elif use in ("impression", "longest"):
        findings = None
    if findings and impression:
        text = findings if findings == impression else f"{findings} {impression}"
        return SelectedText(text=text, part="both", impression=impression)
    if findings or impression:
        part: Literal["findings", "impression"] = "findings" if findings else "impression"
        return SelectedText(text=findings or impression or "", part=part, impression=impression)
    whole = _clean(text)
    if not whole:
        raise ReportError("the report has no text: it is empty or holds nothing but blanks", reason="empty")
    if use in ("findings", "impression") or has_headers:
        wanted = use if use in ("findings", "impression") else "findings or impression"
        raise ReportError(f"the report has no text under a header for {wanted}", reason="no_section")
    return SelectedText(text=whole, part="whole")


def embed_text(text: str, *, use: Use = "both") -> str:
    """Choose as `select_text` does, and return the text alone."""
    return select_text(text, use=use).text


def _sections(text: str) -> tuple[Sections, bool]:
    """Return the sections, and whether the text has any known header."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\u00a0", " ")
    text = _PRELIMINARY.sub("", text)
    headers = sorted((*_HEADER.finditer(text), *_INLINE.finditer(text)), key=lambda header: header.start())
    headers = [
        one for one, before in zip(headers, [None, *headers], strict=False) if not before or one.start() >= before.end()
    ]
    if not headers:
        return Sections(findings=None, impression=None), False
    parts: dict[str, dict[str, None]] = {"findings": {}, "impression": {}, "both": {}}
    loose = _prose(text[: headers[0].start()], titled=True)
    for header, following in zip(headers, [*headers[1:], None], strict=True):
        body = text[header.end() : following.start() if following else len(text)]
        name = next((group for group in _GROUPS if header[group]), "other")
        if name in parts:
            parts[name][_clean(body)] = None  # what a copied report says twice is told once
        elif name == "context":
            named_only = header["line"].lower() in ("final report", "report")
            paragraphs = _PARAGRAPHS.split(body.strip())
            loose += _prose(body, titled=True) if named_only else _prose("\n\n".join(paragraphs[1:]), titled=False)
    both = " ".join(filter(None, parts["both"]))
    findings = " ".join(filter(None, parts["findings"])) or both or " ".join(loose)
    impression = " ".join(filter(None, parts["impression"])) or both
    return Sections(findings=findings or None, impression=impression or None), True


def _prose(text: str, *, titled: bool) -> list[str]:
    """Return the paragraphs that hold a sentence; among titles one in capitals is a title however it ends."""
    cleaned = (_clean(paragraph) for paragraph in _PARAGRAPHS.split(text.strip()))
    sentence = r"[a-z]{2,}.*[.!?](?:\s|$)" if titled else r"[A-Za-z]{2,}.*[.!?](?:\s|$)"
    return [text for text in cleaned if len(text.split()) > 2 and re.search(sentence, _CLOCK.sub("", text))]


def _clean(text: str) -> str:
    """Put text on one line without list numbers and blanks of de-identification; empty where no word is left."""
    text = _NUMBER_AT_LINE.sub(" ", _DEIDENTIFIED.sub(" ", text))
    text = " ".join(_NUMBER_AFTER_STOP.sub(" ", text).split())
    text = re.sub(r"[,;:]+\.(?=\s|$)", ".", re.sub(r" +([.,;:])", r"\1", text)).lstrip(".,;: ")
    return text if re.search(r"[^\W\d_]", text) else ""
