"""Pairs of radiograph and report become vectors for an evaluation, which no bad input may thin out."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ImageError, ReportError
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.images import read_image
from mcr_infer.inference.encoder import ImageEncoder, Patches, TextEncoder
from mcr_infer.inference.vocabulary import unread_note
from mcr_infer.reports import Headings, SelectedText, select_text


def embed_pairs(
    pairs: Sequence[Pair],
    *,
    images: ImageEncoder,
    texts: TextEncoder,
    batch_size: int,
    workers: int,
    budget: float = 1.0,
    headings: Headings | None = None,
    notify: Callable[[str], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed pairs of radiograph and report to unit vectors [N, D] and [N, D], for an evaluation.

    An evaluation over what happened to be readable would say nothing: the first unreadable radiograph or empty report
    ends it with `ImageError` or `ReportError`. `budget` is the share of the patches that the image tower sees, `headings`
    are those by which sections are found, None for the known ones alone. `notify` is called with how many reports are too
    long for the text tower, and how many have words that it does not know.
    """
    images.preprocess.patches_within(budget)  # refused before a file is opened

    def cut(pair: Pair) -> Patches:
        try:
            radiograph = read_image(pair.image, rendering=images.preprocess.rendering)
        except ImageError as error:
            raise type(error)(f"{pair.image}: {error}", reason=error.reason) from error
        return images.preprocess.patches(radiograph.pixels, aspect=radiograph.aspect, budget=budget)

    def words(pair: Pair) -> SelectedText:
        try:
            return select_text(pair.report, headings=headings)
        except ReportError as error:
            raise ReportError(f"report of {pair.image}: {error}", reason=error.reason) from error

    kept = [words(pair) for pair in pairs]
    fitted = texts.fit(kept)
    reports = texts.encode_fitted(fitted)
    if notify is not None:
        if long := sum(text.strategy is not None for text in fitted):
            notify(
                f"{long} reports have more than the {texts.max_tokens} tokens that the text tower takes: --long-text"
            )
        counts = Counter(one.unread for one in texts.vocabulary.read([one.text for one in kept]) if one.unread)
        told = unread_note(counts, len(pairs), rule=texts.vocabulary.rule)
        if told is not None:
            notify(told)
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        parts = [
            images.encode(list(pool.map(cut, pairs[start : start + batch_size])))
            for start in range(0, len(pairs), batch_size)
        ]
    return np.concatenate(parts), reports
