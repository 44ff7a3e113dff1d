"""Which words of a query or a report a text tower can read.

    text -> the tokenizer's own split into words -> known or unknown -> Reading

A WordPiece spells any word of known letters in pieces, without an unknown token: "banana" becomes ba ##n ##an ##a. A word
is therefore unknown where the training text of the bundle does not have it. A bundle without a list of those words (one of
a model from elsewhere, or of an earlier release) has the weaker rule alone: unknown is what becomes the unknown token or
breaks into three or more pieces, all of at most two letters.
"""

import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tokenizers import Encoding

    from mcr_infer.inference.tokenizer import ReportTokenizer

FEWEST_PIECES, LONGEST_PIECE = 3, 2
"""A word in at least so many pieces, none with more letters, is spelled and not read."""

LONGEST_ENDING, SHORTEST_STEM = 2, 4
"""A listed word with an ending of its own token is read: consolidation ##s."""

_MARKER = "▁"
"""Stands for a blank in sentencepiece, now and then as a token of its own."""

_BATCH = 1000
_SHOWN, _LONGEST_SHOWN = 10, 80

Unread = Literal["some", "most", "all"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a text, as the tokenizer splits it."""

    text: str
    """As it was written."""

    key: str
    """As the tokenizer normalizes it."""

    pieces: tuple[int, ...]
    """Letters of each token."""

    has_unknown_token: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The words of one text; numbers, punctuation and single letters count neither way."""

    known: int
    unknown: tuple[str, ...]
    """As they were written, repeated ones too."""

    @property
    def unread(self) -> Unread | None:
        """How much is unknown: `all` where no word is known, `most` above half; None where every word is known."""
        if not self.known:
            return "all"
        return None if not self.unknown else "most" if len(self.unknown) > self.known else "some"


class Vocabulary:
    """The words that the text tower of a bundle knows."""

    def __init__(self, tokenizer: "ReportTokenizer", words: frozenset[str] | None) -> None:
        """Take the tokenizer and the words of the training text, normalized by it; None where the bundle lists none."""
        self._tokenizer = tokenizer
        self.words = words
        """Those of the training text; None where only the weaker rule can be applied."""

    @property
    def rule(self) -> str:
        """Say what is wrong with unknown words, to follow them in a sentence."""
        if self.words is not None:
            return "(absent from the training text of the bundle)"
        return (
            "(spelled in fragments by the tokenizer; the bundle lists no training words, so this check misses others)"
        )

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Tell known from unknown words in each text [N]."""
        readings = []
        for words in words_of(texts, self._tokenizer):
            known, unknown = 0, []
            for word in words:
                if self._knows(word):
                    known += 1
                else:
                    unknown.append(word.text)
            readings.append(Reading(known=known, unknown=tuple(unknown)))
        return readings

    def nearest(self, word: str) -> str | None:
        """Return the listed word that is spelled most like an unknown one; None where none is like it."""
        import difflib  # only an error needs it

        near = difflib.get_close_matches(word.lower(), self.words or (), n=1, cutoff=0.75)
        return near[0] if near else None

    def _knows(self, word: Word) -> bool:
        if word.has_unknown_token:
            return False
        if self.words is None:
            return len(word.pieces) < FEWEST_PIECES or max(word.pieces) > LONGEST_PIECE
        # 12mm is mm beside a number.
        return not self.words.isdisjoint((word.key, word.key.strip(string.digits))) or self._is_inflected(word)

    def _is_inflected(self, word: Word) -> bool:
        stem, *ending = word.pieces
        return (
            len(ending) == 1
            and ending[0] <= LONGEST_ENDING
            and stem >= SHORTEST_STEM
            and word.key[:stem] in (self.words or ())
        )


def words_of(texts: Sequence[str], tokenizer: "ReportTokenizer") -> Iterator[list[Word]]:
    """Yield the words of each text [N], without numbers, punctuation and single letters.

    A word is what the tokenizer splits off, less the signs at its ends: the parts of left-sided are two words to a BERT.
    """
    seen: dict[str, Word | None] = {}
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        for text, encoding in zip(batch, tokenizer.encodings(batch), strict=True):
            yield list(_words(text, encoding, tokenizer, seen))


def training_words(texts: Iterable[str], tokenizer: "ReportTokenizer", *, least: int) -> list[str]:
    """Return the normalized words that stand in at least `least` texts, sorted; what no token stands for is left out."""
    counts: Counter[str] = Counter()
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        for words in words_of(batch, tokenizer):
            counts.update({word.key for word in words if not word.has_unknown_token})
    return sorted(word for word, count in counts.items() if count >= least)


def quoted(words: Sequence[str]) -> str:
    """Return the first few words in quotes, their control characters escaped."""
    shown = ", ".join(
        repr(word if len(word) <= _LONGEST_SHOWN else f"{word[:_LONGEST_SHOWN]}...") for word in words[:_SHOWN]
    )
    return shown if len(words) <= _SHOWN else f"{shown} and {len(words) - _SHOWN} more"


def unread_counts(counts: Mapping[Unread, int]) -> dict[str, int]:
    """Return how many reports have unknown words, have more of them than of known ones, and have no known word."""
    without = counts.get("all", 0)
    mostly = counts.get("most", 0) + without
    return {"reports": counts.get("some", 0) + mostly, "mostly_unknown": mostly, "without_known_word": without}


def unread_note(counts: Mapping[Unread, int], total: int, *, rule: str) -> str | None:
    """Say how many of `total` reports hold words that the text tower does not know; None where none does."""
    found = unread_counts(counts)
    if not found["reports"]:
        return None
    told = f"{found['reports']} of {total} reports have unknown words {rule}"
    if found["mostly_unknown"]:
        told += f", {found['mostly_unknown']} of them more than known ones, {found['without_known_word']} no known word: is "
        told += "their language that of the training text?"
    return told


def words_file(words: Iterable[str]) -> bytes:
    """Return the content of the file of a bundle that lists words: one a line, sorted."""
    return "".join(f"{word}\n" for word in sorted(words)).encode()


def _words(
    text: str, encoding: "Encoding", tokenizer: "ReportTokenizer", seen: dict[str, Word | None]
) -> Iterator[Word]:
    """Yield the words of one text; `seen` keeps what each split has become, since reports repeat their words."""
    places, numbers = encoding.offsets, encoding.word_ids
    first = 0
    for end in range(1, len(places) + 1):
        # A tokenizer that splits into pieces at once numbers no words: blanks part them.
        if end < len(places) and numbers[end] == numbers[first] and not _has_blank(text, places[end - 1], places[end]):
            continue
        written = text[places[first][0] : places[end - 1][1]]
        if written not in seen:
            seen[written] = _word(text, written, encoding, slice(first, end), tokenizer)
        word = seen[written]
        if word is not None:
            yield word
        first = end


def _has_blank(text: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    return any(map(str.isspace, text[before[1] : after[0] + 1]))


def _word(text: str, written: str, encoding: "Encoding", tokens: slice, tokenizer: "ReportTokenizer") -> Word | None:
    """Return the word that tokens make; None for a number, punctuation or a single letter."""
    kept = [index for index, letter in enumerate(written) if _is_kept(letter)]
    written = written[kept[0] : kept[-1] + 1] if kept else ""
    unknown = not tokenizer.unknown_ids.isdisjoint(encoding.ids[tokens])
    if not any(map(_is_letter_or_symbol, written)) or (len(written) == 1 and _is_alphabetic(written) and not unknown):
        return None
    # Letters are counted in the text: pieces carry markers (##, </w>) or stand for bytes.
    pieces = tuple(
        len(text[start:end].strip())
        for token, (start, end) in zip(encoding.tokens[tokens], encoding.offsets[tokens], strict=True)
        if token != _MARKER
    )
    return Word(written, tokenizer.normalized(written), pieces, unknown)


@cache
def _is_kept(letter: str) -> bool:
    """True for letters, marks, numbers and pictographs."""
    return unicodedata.category(letter)[0] in "LMN" or _is_letter_or_symbol(letter)


@cache
def _is_letter_or_symbol(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "L" or unicodedata.category(letter) == "So"


@cache
def _is_alphabetic(letter: str) -> bool:
    """False for a script in which one sign may be a word, such as Chinese."""
    return unicodedata.category(letter) in ("Lu", "Ll", "Lt", "Lm")
