"""Which patches and words one training sample hides.

Polarity everywhere: True in a word mask means hidden. Ratios are shares of what is hidden. Sampling is numpy and happens
where the sample is made, so one seed fixes a sample whatever the number of workers.
"""

import numpy as np
from numpy.typing import NDArray


def hidden_count(count: int, ratio: float) -> int:
    """Return how many of `count` patches a ratio hides; at least one stays visible."""
    return min(round(count * ratio), count - 1)


def split_patches(count: int, ratio: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the visible positions [count - M] and the hidden ones [M], both in rising order; M depends on nothing random."""
    hidden = hidden_count(count, ratio)
    order = rng.permutation(count).astype(np.int64)
    return np.sort(order[hidden:]), np.sort(order[:hidden])


def hide_words(word_ids: NDArray[np.int64], ratio: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw whole words to hide: a mask over tokens, of any shape, from the word of each (-1 = special or padding).

    All tokens of a word are hidden together. A ratio above 0 hides at least one word of a text that has any.
    """
    words = np.unique(word_ids[word_ids >= 0])
    if not len(words) or ratio == 0:
        return np.zeros(word_ids.shape, dtype=np.bool_)
    chosen = rng.choice(words, size=max(1, round(len(words) * ratio)), replace=False)
    return np.isin(word_ids, chosen)
