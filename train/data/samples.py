"""Pixels and a text become a training sample: the preprocessing of inference, then masks over both."""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcr_infer.inference.long_text import fit
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.reports import SelectedText
from train.config import Config
from train.data import Sample
from train.masking import hide_words, split_patches


class SampleMaker:
    """What all sources of pairs share; a sample depends on its arguments and its random stream alone."""

    def __init__(self, config: Config, tokenizer: ReportTokenizer) -> None:
        self._masking, self._tokenizer, self._long_text = config.masking, tokenizer, config.data.long_text
        self._preprocess = config.model.preprocess
        finer = config.model.decoders.super_resolution
        self._target_preprocess = replace(
            self._preprocess,
            image_size=finer * self._preprocess.image_size,
            patch_size=finer * self._preprocess.patch_size,
        )

    def make(
        self,
        pixels: NDArray[np.float32],
        text: SelectedText,
        *,
        same: str,
        source: str,
        masked: bool,
        rng: np.random.Generator,
    ) -> Sample:
        """Make the sample of pixels [H, W] in [0, 1] and a text; pairs of equal `same` are positives of each other."""
        patches, positions = self._preprocess.patches(pixels)
        visible, hidden = split_patches(len(positions), self._masking.image_ratio if masked else 0.0, rng)
        targets = patches
        if len(hidden) and self._target_preprocess != self._preprocess:
            targets, _ = self._target_preprocess.patches(pixels)
        input_ids, words = self._tokens(text)
        word_mask = hide_words(words, self._masking.text_ratio if masked else 0.0, rng)
        return Sample(
            patches=patches,
            visible=visible,
            hidden=hidden,
            targets=targets[hidden],
            input_ids=input_ids,
            masked_ids=np.where(word_mask, self._tokenizer.mask_id, input_ids),
            word_mask=word_mask,
            key=_key(same),
            source=source,
        )

    def _tokens(self, text: SelectedText) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the token ids of the pieces of a text [R, T], as inference takes them, and the word of each token [R, T].

        Windows of a text are equally long. A word that stands in two of them has one number, and is hidden in both or none.
        """
        (fitted,) = fit([text], self._tokenizer, self._long_text)
        _, words = self._tokenizer.tokens_and_words(fitted.text)
        return np.array(fitted.pieces, dtype=np.int64), np.array(words, dtype=np.int64)[np.array(fitted.places)]


def _key(text: str) -> int:
    """Return 63 bits of a digest: equal texts have equal keys in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
