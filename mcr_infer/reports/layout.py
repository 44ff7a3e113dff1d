"""Where the headings of a report stand: on lines of their own, beside their text, or inside a flattened line.

text -> plain lines -> headings with their place and kind

Each look is bounded by the length of the longest heading, so that the work grows with the length of a text alone.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from mcr_infer.reports.headings import LONGEST, Headings, Kind, fold
from mcr_infer.reports.vocabulary import SIGNATURE, UNMISTAKABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """One heading of a text; its own text begins at `end`."""

    start: int
    end: int
    kind: Kind
    at_line: bool
    """At the start of a line, and not inside one."""
    attested: bool = False
    """A signature that is a sentence, without a colon."""


_SPACES = {ord(char): " " for char in "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"}
_SPACES |= {ord(char): " " for char in "\u202f\u205f\u3000"}
_LINES = {ord(char): "\n" for char in "\r\f\v\x1c\x1d\x1e\x85\u2028\u2029"}
_NOTHING = {ord(char): None for char in "\u200b\u200c\u200d\u2060\ufeff\u00ad\x00"}
_COLONS = {ord(char): ":" for char in "\uff1a\ufe55\ufe13\u2236\ua789"}
_PLAIN = _SPACES | _LINES | _NOTHING | _COLONS

_TAG = re.compile(
    r"</?(?P<name>br|p|div|li|ul|ol|tr|table|tbody|h[1-6]|hr|pre|body|html|head|b|i|u|em|strong|font|span|td|th|sup|sub|"
    r"small|big|center)(?:\s[^<>]{0,200})?\s?/?>",
    re.IGNORECASE,
)
_INLINE_TAGS = frozenset(
    ("b", "i", "u", "em", "strong", "font", "span", "td", "th", "sup", "sub", "small", "big", "center")
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]{2,8}\d?);", re.IGNORECASE)
# As HL7 messages and tables that were written twice keep their line ends.
_ESCAPED_LINE = re.compile(r"\\\.br\\|\\X0[AD]\\|\\r\\n|\\n(?![a-z])")


def plain(text: str) -> str:
    """Return a text with plain line ends, spaces and colons, without HTML and what is not seen."""
    text = unicodedata.normalize("NFC", text)
    if "<" in text or "&" in text:
        text = _TAG.sub(lambda tag: " " if tag["name"].lower() in _INLINE_TAGS else "\n", text)
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "\\" in text:
        text = _ESCAPED_LINE.sub("\n", text)
    return text.replace("\r\n", "\n").translate(_PLAIN)


def find_headings(text: str, headings: Headings) -> list[Heading]:
    """Find the headings of a plain text, in order; none overlaps another."""
    found: list[Heading] = []
    ended = True
    for line in re.finditer(r"[^\n]+", text):
        start = line.start()
        if text[max(0, start - 2) : start] == "\n\n":
            ended = True
        first = _at_line(text, start, line.end(), headings, ended=ended)
        if first is not None:
            found.append(first)
            start = first.end
        if start < line.end():
            found += _inside(text, start, line.end(), headings)
        written = line[0].rstrip()
        # An indented wrapped line and a blank one look alike to `finditer`.
        ended = not written or written[-1] in ".:;!?*_=#-" or (ended and first is not None and first.end >= line.end())
    return found


# ---- At the start of a line -----------------------------------------------------------------------------------------

_DECORATION = "*#=~_>|-–—•· \t"
_BEGIN = re.compile(r"[*#=~_>|\-–—•· \t]*(?:\(?(?:\d{1,2}|[ivxIVX]{1,4}|[A-Ha-h])[.)][ \t]*)?[*_#]*")
_AFTER = re.compile(r"[*#=~_ \t]*(?::[:*#=~_\- \t]*)?")
_DASH = re.compile(r"(?P<name>[^\W\d_][^\n:]{1,48}?)[ \t]*(?:[-–—‒]{1,3}>?|=>?|;)[ \t]+(?=\S)")
_CAPITALS = re.compile(r"(?:[A-ZÀ-ÖØ-Þ][A-ZÀ-ÖØ-Þ/&]{0,24}[ \t]+){1,5}")
_SMALL = re.compile(r"[a-zß-öø-ÿ]{2}")
_ADDENDUM_OF = re.compile(
    r"[ \t]*#?\d{0,2}[ \t]*(?:\([^()\n]{0,80}\)|(?:dated|by|on|from|of|at|vom|du|del)\b[^\n]{0,80}?:(?=\s|$))",
    re.IGNORECASE,
)


def _at_line(text: str, start: int, end: int, headings: Headings, *, ended: bool) -> Heading | None:
    """Find the heading that a line begins with; `ended` is whether the line before it ended a sentence."""
    begin = _BEGIN.match(text, start, end)
    assert begin is not None
    for place in dict.fromkeys((begin.end(), start + len(text[start:end]) - len(text[start:end].lstrip(_DECORATION)))):
        if place < end and (heading := _named_line(text, start, place, end, headings, ended=ended)):
            return heading
    return None


def _named_line(text: str, start: int, place: int, end: int, headings: Headings, *, ended: bool) -> Heading | None:
    capital = text[place].isupper()
    colon = text.find(":", place, min(end, place + LONGEST + 8))
    if colon > place:
        kind = headings.kind(text[place:colon].strip(_DECORATION), misspelt=capital or ended)
        # In the middle of a sentence a line may begin with `comparison:` or `reviewed by:`.
        if kind and (capital or ended or kind in _BODY):
            return _heading(text, start, colon, end, kind)
    if end - place <= LONGEST + 8 and (capital or ended):
        alone = text[place:end].strip(_DECORATION + ".")
        if kind := headings.kind(alone, misspelt=capital and ended and " " not in alone):
            return Heading(start=start, end=end, kind=kind, at_line=True)
    if capital:
        if (dash := _DASH.match(text, place, end)) and (kind := headings.kind(dash["name"])):
            return Heading(start=start, end=dash.end(), kind=kind, at_line=True)
        if run := _in_capitals(text, place, end, headings):
            length, kind = run
            return Heading(start=start, end=place + length, kind=kind, at_line=True)
        word = re.match(r"[^\W\d_]{3,24}", text[place : place + 24])
        if word and headings.kind(word[0]) == "addendum":
            extra = _ADDENDUM_OF.match(text, place + word.end(), end)
            return _heading(text, start, extra.end() if extra else place + word.end(), end, "addendum")
    if (capital or ended) and (signature := SIGNATURE.match(text, place, end)):
        return Heading(start=start, end=signature.end(), kind="administrative", at_line=True, attested=True)
    return None


def _in_capitals(text: str, place: int, end: int, headings: Headings) -> tuple[int, Kind] | None:
    """Return length and kind of a heading in capitals before other words, as in `IMPRESSION No effusion.`."""
    run = _CAPITALS.match(text, place, end)
    if run is None or not _SMALL.search(text, run.end(), min(end, run.end() + 200)):
        return None
    ends = [word.end() for word in re.finditer(r"[^ \t]+", run[0])]
    for length in reversed(ends):
        kind = headings.kind(run[0][:length]) if length > 3 else None
        rest = text[place + length : end].lstrip()
        # `EXAM is limited.` is a sentence.
        if kind and kind != "addendum" and (kind in _BODY or not rest[:1].islower()):
            return length, kind
    return None


def _heading(text: str, start: int, named: int, end: int, kind: Kind, *, at_line: bool = True) -> Heading:
    after = _AFTER.match(text, named, end)
    assert after is not None
    return Heading(start=start, end=after.end(), kind=kind, at_line=at_line)


# ---- Inside a line --------------------------------------------------------------------------------------------------

_BODY = ("findings", "impression", "both", "addendum", "organ")
_BOUNDARY = re.compile(r"(?:[.;:?!)\]_*|•]|[ \t][-–—])[ \t]+(?:\(?\d{1,2}[.)][ \t]*)?|[ \t]{2,}")
_LAST_CAPITALS = re.compile(r"(?:^|(?<=[ \t]))[A-ZÀ-ÖØ-Þ][A-ZÀ-ÖØ-Þ/&() \-]{2,63}$")
_DETERMINERS = frozenset(
    (
        "the",
        "this",
        "these",
        "that",
        "those",
        "above",
        "of",
        "and",
        "my",
        "our",
        "his",
        "her",
        "their",
        "its",
        "all",
        "no",
        "in",
    )
)
_NO_COLON = re.compile(
    r"(?<=[ \t])(?P<name>[A-ZÀ-ÖØ-Þ]{4,24}(?:[ \t/&]+[A-ZÀ-ÖØ-Þ]{2,24}){0,3}?)"
    r"(?=[ \t]+(?:[A-ZÀ-ÖØ-Þ][a-zà-öø-þ]|\d{1,2}[.)][ \t]))"
)
_FINAL_REPORT = re.compile(r"(?<=[ \t])FINAL REPORT(?=[ \t])")
_SIGNED = re.compile(rf"(?<=[.:;!?_])[ \t]+(?=[A-Z])(?P<name>{SIGNATURE.pattern})", re.IGNORECASE)


def _inside(text: str, start: int, end: int, headings: Headings) -> Iterator[Heading]:
    """Yield the headings within the rest of a line: before a colon, or all in capitals before other words."""
    found = [*_before_colons(text, start, end, headings)]
    for run in _NO_COLON.finditer(text, start, end):
        if (kind := headings.kind(run["name"])) and kind in _BODY and kind != "organ":
            found.append(Heading(start=run.start(), end=run.end(), kind=kind, at_line=False))
    for mark in _FINAL_REPORT.finditer(text, start, end):
        found.append(Heading(start=mark.start(), end=mark.end(), kind="title", at_line=False))
    for signed in _SIGNED.finditer(text, start, end):
        if signed["name"][0].isupper():
            place = signed.start("name")
            found.append(Heading(start=place, end=signed.end(), kind="administrative", at_line=False, attested=True))
    free = start
    for heading in sorted(found, key=lambda heading: (heading.start, -heading.end)):
        if heading.start >= free:
            yield heading
            free = heading.end


def _before_colons(text: str, start: int, end: int, headings: Headings) -> Iterator[Heading]:
    free, colon = start, text.find(":", start, end)
    while colon >= 0:
        begin = max(free, colon - LONGEST)
        window = text[begin:colon]
        # Clock times and colons in a row are most of what is not a heading.
        named = window.rstrip(_DECORATION)[-1:]
        if (named.isalpha() or named in (")", "]")) and (name := _name_before(window, headings, whole=begin == free)):
            length, kind = name
            heading = _heading(text, colon - length, colon, end, kind, at_line=False)
            yield heading
            free = heading.end
        colon = text.find(":", max(colon + 1, free), end)


def _name_before(window: str, headings: Headings, *, whole: bool) -> tuple[int, Kind] | None:
    """Return the length and the kind of the heading that a piece of text ends with; `whole` begins where text begins."""
    boundaries = [boundary.end() for boundary in _BOUNDARY.finditer(window)]
    if boundaries or whole:
        name = window[boundaries[-1] if boundaries else 0 :]
        stripped = name.lstrip(_DECORATION)
        capital = stripped[:1].isupper()
        kind = headings.kind(stripped.rstrip(_DECORATION), misspelt=capital) if stripped else None
        if kind and (capital or kind not in ("organ", "title", "administrative")):
            return len(name), kind
    if capitals := _LAST_CAPITALS.search(window):
        words = [*re.finditer(r"[^ \t]+", capitals[0])]
        for number, word in enumerate(words):
            name = capitals[0][word.start() :].rstrip()
            kind = headings.kind(name, misspelt=number == len(words) - 1)
            if kind and kind != "organ":
                return len(capitals[0]) - word.start(), kind
    *before, last = window.split()[-2:] or [""]
    determined = bool(before) and before[0].lower() in _DETERMINERS
    # In small letters it is a heading where there are no other letters.
    if fold(last) in UNMISTAKABLE and not determined and (last[0].isupper() or not re.search(r"[A-WYZ]", window)):
        kind = headings.kind(last)
        return (len(window) - window.rfind(last), kind) if kind else None
    return None
