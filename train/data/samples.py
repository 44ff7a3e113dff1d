"""Pixels and a text become a training sample: the preprocessing of inference, then masks over both."""

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcr_infer.tokenizer import ReportTokenizer
from train.config import Config
from train.data import Sample
from train.masking import hide_words, split_patches


class SampleMaker:
    """What all sources of pairs share; a sample depends on its arguments and its random stream alone."""

    def __init__(self, config: Config, tokenizer: ReportTokenizer) -> None:
        self._masking, self._tokenizer = config.masking, tokenizer
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
        text: str,
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
        input_ids, _ = self._tokenizer.encode([text])
        word_mask = hide_words(self._tokenizer.word_ids([text])[0], self._masking.text_ratio if masked else 0.0, rng)
        return Sample(
            patches=patches,
            visible=visible,
            hidden=hidden,
            targets=targets[hidden],
            input_ids=input_ids[0],
            masked_ids=np.where(word_mask, self._tokenizer.mask_id, input_ids[0]),
            word_mask=word_mask,
            key=_key(same),
            source=source,
        )


def _key(text: str) -> int:
    """Return 63 bits of a digest: equal texts have equal keys in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
