"""Texts with more tokens than the text tower takes: what of them is embedded, and in how many pieces.

    report or sentence -> tokens -> one piece, or overlapping windows -> text tower -> mean of the pieces, of length 1 again

Which strategy is best was measured on phantom reports with a lower limit (`python -m benchmarks.long_texts`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.reports import SelectedText

LongText = Literal["impression-first", "windows", "truncate"]
"""What is done with a text that is too long; a text that fits is embedded whole by all of them.

`impression-first`: impression and addendum, then as much of the findings as fits. Where a report has none of its own, or one
that does not fit either, it is embedded in windows: the conclusion is never what is cut.
`windows`: overlapping pieces that together cover all of the text; the embedding is their mean, scaled to length 1.
`truncate`: the beginning alone.
"""

STRATEGIES: tuple[LongText, ...] = get_args(LongText)
DEFAULT: LongText = "impression-first"

OVERLAP = 0.25
"""Least share of a window that it has in common with the next, so that a sentence cut by one is whole in the other."""


@dataclass(frozen=True, slots=True)
class FittedText:
    """The tokens of a text in pieces that the text tower takes."""

    pieces: tuple[tuple[int, ...], ...]
    """Token ids with the special tokens of the tower, at most `max_tokens` each; at least one piece."""

    strategy: LongText | None
    """What was done because the text is too long; None where it fits."""

    text: str
    """What was tokenized: the text as it is, or with its conclusion first."""

    places: tuple[Sequence[int], ...]
    """Of each piece, the places of its tokens among all tokens of `text`."""


def fit(texts: Sequence[str | SelectedText], tokenizer: ReportTokenizer, strategy: LongText) -> list[FittedText]:
    """Tokenize texts and fit each into the limit of the tower; only a `SelectedText` has an impression to put first."""
    whole = [text if isinstance(text, str) else text.text for text in texts]
    return [
        _taken(full, ids, [range(len(ids))], None)
        if len(ids) <= tokenizer.max_tokens
        else _fit_long(text, full, ids, tokenizer, strategy)
        for text, full, ids in zip(texts, whole, tokenizer.token_ids(whole), strict=True)
    ]


def _fit_long(
    text: str | SelectedText, full: str, ids: list[int], tokenizer: ReportTokenizer, strategy: LongText
) -> FittedText:
    if strategy == "impression-first":
        if isinstance(text, SelectedText) and text.conclusion is not None:
            conclusion, reordered = tokenizer.token_ids([text.conclusion, text.conclusion_first])
            if len(conclusion) <= tokenizer.max_tokens:
                beginning = tokenizer.truncated(range(len(reordered)))
                return _taken(text.conclusion_first, reordered, [beginning], strategy)
        strategy = "windows"
    places = [tokenizer.truncated(range(len(ids)))] if strategy == "truncate" else windows(ids, tokenizer)
    return _taken(full, ids, places, strategy)


def _taken(text: str, ids: Sequence[int], places: Sequence[Sequence[int]], strategy: LongText | None) -> FittedText:
    pieces = tuple(tuple(ids[place] for place in piece) for piece in places)
    return FittedText(pieces, strategy, text, tuple(places))


def mean_of_pieces(vectors: NDArray[np.float32], texts: Sequence[FittedText]) -> NDArray[np.float32]:
    """Return the mean of the unit vectors of the pieces of each text, scaled to length 1 [N, D]."""
    counts = [len(text.pieces) for text in texts]
    if len(vectors) == len(counts):
        return vectors  # to the bit what the tower gave
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(vectors.astype(np.float64), starts)
    means = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    single = np.array(counts) == 1
    means[single] = vectors[starts[single]]
    return np.asarray(means, dtype=np.float32)


def strategy_like(rows: Collection[str]) -> LongText:
    """Return the strategy for a query, given those of the rows that it is compared with: theirs, where all agree."""
    known = [strategy for strategy in STRATEGIES if strategy in rows]
    return known[0] if len(known) == 1 else DEFAULT


def windows(ids: Sequence[int], tokenizer: ReportTokenizer) -> list[list[int]]:
    """Return the places of the tokens of each window: evenly spaced, with the special tokens at both ends of each."""
    head, tail = tokenizer.special_ends
    room = tokenizer.max_tokens - head - tail
    words = len(ids) - head - tail
    if words <= room:
        return [list(range(len(ids)))]
    count = 1 + ceil((words - room) / max(1, int(room * (1 - OVERLAP))))
    starts = [head + round(index * (words - room) / (count - 1)) for index in range(count)]
    ends = [*range(head)], [*range(len(ids) - tail, len(ids))]
    return [[*ends[0], *range(start, start + room), *ends[1]] for start in starts]
