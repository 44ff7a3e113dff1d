"""Late interaction: words against patches, instead of one vector against one vector.

The embedding is a weighted mean of all patches, in which a finding that takes two patches of a hundred all but drowns.
Mapped before they are aggregated (MbA), patches and words lie in one space and can be compared one by one:

    late(words, patches) = sum_t w_t * TAU * log sum_p v_p * exp(cos(word_t, patch_p) / TAU)

with the aggregation weights w of the words and v of the patches. The inner sum is a soft maximum: each word looks for the
patches that show it, among those that counted in the picture at all. With an infinite TAU it is the mean, which is what the
embedding knows already; with TAU = 0 it is the best patch alone (as in ColBERT, arXiv 2004.12832), which a word without
content finds anywhere. Re-ranking adds it to the cosine of the embeddings.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.token_embeddings import TokenEmbeddings

TAU = 0.1
"""Temperature of the soft maximum; chosen on phantoms that no reported figure was measured on (benchmarks/rerank.py)."""

LATE_WEIGHT = 1.0
"""Of the late interaction beside the cosine; chosen like TAU."""

DEPTH = 100
"""Candidates of the first look that are looked at again."""

Words = Sequence[tuple[TokenEmbeddings, float]]
"""The mapped words of each sentence of a question, and the weight of the sentence, below 0 where it is not wanted."""


def late_interaction(
    words: TokenEmbeddings, pictures: Sequence[TokenEmbeddings], *, tau: float = TAU
) -> NDArray[np.float64]:
    """Score pictures, patches [K, D] each, by words [T, D]: [N], each in [-1, 1] as a cosine is.

    Raises `ConfigError` where they are not of one dimension.
    """
    if not pictures:
        return np.empty(0)
    dims = {one.vectors.shape[1] for one in (words, *pictures)}
    if len(dims) != 1:
        raise ConfigError(f"words and patches must be vectors of one space, got {sorted(dims)} dimensions")
    unit = _unit(words.vectors)
    means = np.empty((len(unit), len(pictures)))
    for column, one in enumerate(pictures):  # one by one: the patches of a picture stay in the cache
        scaled = unit @ one.vectors.T  # [T, K]
        scaled *= np.float32(1.0 / tau) / _lengths(one.vectors)
        # Cosines over tau stay small: no exponential overflows, so no maximum needs to be taken out first.
        means[:, column] = np.exp(scaled, out=scaled) @ one.weights / one.weights.sum()
    weights = words.weights.astype(np.float64)
    # No matrix product: in one, the last bit of a picture's score would depend on the others.
    scores: NDArray[np.float64] = tau * ((weights / weights.sum())[:, None] * np.log(means)).sum(axis=0)
    return scores


def cosines(words: TokenEmbeddings, picture: TokenEmbeddings) -> NDArray[np.float32]:
    """Return the cosine of each word [T, D] with each patch [K, D]: [T, K]."""
    return np.asarray(_unit(words.vectors) @ _unit(picture.vectors).T, dtype=np.float32)


def check_comparable(bundle: Bundle) -> None:
    """Raise `BundleError` unless the patches and the words of a bundle are in one space: re-ranking compares them."""
    manifest = bundle.manifest
    reason = None
    if bundle.preprocess.input == "pixels":
        reason = "its image tower takes whole pictures and has no patches"
    elif "origin" in manifest:
        reason = "it is a model from elsewhere, which was trained to compare pooled vectors and not patches with words"
    elif _mapping(manifest) == "after":
        reason = (
            "it was trained to aggregate before mapping, so that single patches and words have no place in the space"
        )
    if reason is not None:
        raise BundleError(
            f"the bundle {bundle.name} cannot re-rank: {reason}. Leave out --rerank and --keep-locals, or use a "
            "bundle trained with mapping before aggregation"
        )


def _mapping(manifest: object) -> object:
    """Return training.model.space.mapping of a manifest, None where it says nothing."""
    value = manifest
    for key in ("training", "model", "space", "mapping"):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / _lengths(vectors)[:, None]


def _lengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the lengths [K] of vectors [K, D]; 1 for a vector of zeros, whose cosines are then 0."""
    lengths = np.sqrt(np.einsum("kd,kd->k", vectors, vectors))
    return np.where(lengths > 0, lengths, np.float32(1.0))
