"""A model and batches small enough that a step takes milliseconds."""

import numpy as np
import torch

from train import config as cfg
from train.data import Batch, Sample, collate
from train.distributed import World
from train.loop import make_learner
from train.masking import hide_words, split_patches
from train.step import Learner

PATCHES = 16
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def tiny_model(*, decoders=None, **space) -> cfg.Model:
    return cfg.Model(
        image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=2, heads=2),
        text=cfg.TextTower(vocab_size=40, max_tokens=16, width=24, depth=2, heads=2, dropout=0.0),
        space=cfg.CommonSpace(embedding_dim=16, scorer_width=8, **space),
        decoders=cfg.Decoders(**{"image_width": 16, "image_heads": 2, "report_heads": 2} | (decoders or {})),
    )


def tiny_config(**tables) -> cfg.Config:
    optim = cfg.Optim(**{"steps": 50, "batch_size": 8, "warmup_steps": 1} | tables.pop("optim", {}))
    return cfg.Config(**{"model": tiny_model(), "optim": optim} | tables)


def make_batch(count: int = 5, *, masked: bool = True, seed: int = 0, finer: int = 1, keys=None, rows=None) -> Batch:
    """Make a batch of `count` pairs; `rows` are the windows of each report, one where it is None."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        length = int(rng.integers(5, 12))
        visible, hidden = split_patches(PATCHES, 0.5 if masked else 0.0, rng)
        shape = (1 if rows is None else rows[index], length - 2)
        words = np.pad(np.arange(np.prod(shape)).reshape(shape), ((0, 0), (1, 1)), constant_values=-1)
        input_ids = np.array([[2, *rng.integers(5, 40, length - 2), 3] for _ in words])
        word_mask = hide_words(words, 0.4 if masked else 0.0, rng)
        patches = rng.random((PATCHES, 64), dtype=np.float32)
        targets = patches if finer == 1 else rng.random((PATCHES, 64 * finer**2), dtype=np.float32)
        samples.append(
            Sample(
                patches=patches,
                visible=visible,
                hidden=hidden,
                targets=targets[hidden],
                input_ids=input_ids,
                masked_ids=np.where(word_mask, 4, input_ids),
                word_mask=word_mask,
                key=index if keys is None else keys[index],
                source=f"pair {index}",
            )
        )
    return collate(samples)


def make_tiny_learner(config: cfg.Config) -> Learner:
    return make_learner(config, ALONE)[0]
