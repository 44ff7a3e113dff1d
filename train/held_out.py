"""A model over held-out pairs: their embeddings, as the loop and the evaluation of a checkpoint use them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mcr_infer.evaluation.finding_labels import finding_set_key
from mcr_infer.evaluation.metrics import label_ranks, macro_weights
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.inference.long_text import fit, mean_of_pieces
from mcr_infer.inference.tokenizer import ReportTokenizer
from train.config import Config
from train.data import Pairs, collate
from train.model import MCR
from train.precision import autocast

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Held-out pairs in the common space, row i from pair i."""

    images: Vectors
    """[N, D]"""
    texts: Vectors
    """[N, D]"""
    pairs: tuple[Pair, ...]
    """What evaluation knows of them; `image` is the name of the source and `report` its tokens: reports that the tower
    cannot tell apart are equal."""


@torch.inference_mode()
def embed_pairs(
    model: MCR, pairs: Pairs, config: Config, *, masked: bool = False, count: int | None = None
) -> Embeddings:
    """Embed the held-out pairs, or the first `count` of them, on the model's device and in the precision of the run.

    `masked` hides of both what the masking of the run hides. The model is left in eval mode.
    """
    model.eval()
    device = model.logit_scale.device
    total = len(pairs) if count is None else min(count, len(pairs))
    images, texts, known = [], [], []
    size = config.optim.micro_batch or config.optim.batch_size  # what the memory holds in training
    for start in range(0, total, size):
        rows = range(start, min(start + size, total))
        samples = [pairs.held_out(row, masked=masked) for row in rows]
        with autocast(device, config):
            image, text = model.encode_visible(collate(samples).to(device))
        images.append(image.float().cpu().numpy())
        texts.append(text.float().cpu().numpy())
        known += [
            Pair(
                image=Path(sample.source),
                report=" ".join(map(str, sample.input_ids.ravel())),
                patient=pairs.patient(row),
                findings=pairs.labels(row),
            )
            for row, sample in zip(rows, samples, strict=True)
        ]
    return Embeddings(images=np.concatenate(images), texts=np.concatenate(texts), pairs=tuple(known))


@torch.inference_mode()
def embed_texts(model: MCR, tokenizer: ReportTokenizer, texts: list[str], config: Config) -> Vectors:
    """Embed whole texts, such as prompts, to unit vectors [N, D]."""
    device, fitted = model.logit_scale.device, fit(texts, tokenizer, config.data.long_text)
    arrays = tokenizer.batch([piece for text in fitted for piece in text.pieces])
    ids, there = (torch.from_numpy(array).to(device) for array in arrays)
    with autocast(device, config):
        vectors, _, _ = model.encode_text(ids, there)
    return mean_of_pieces(vectors.float().cpu().numpy(), fitted)


def recall_figures(embedded: Embeddings) -> dict[str, float]:
    """Return recall@1, 5 and 10 both ways: a hit shares the finding set, or the report where nobody labelled the pairs.

    Each finding set weighs the same, however many pairs have it.
    """
    known = [
        f"report {pair.report}" if pair.findings is None else finding_set_key(pair.findings) for pair in embedded.pairs
    ]
    _, codes = np.unique(np.asarray(known), return_inverse=True)
    weights = macro_weights(codes)
    figures = {}
    sides = (("image_to_report", embedded.images, embedded.texts), ("report_to_image", embedded.texts, embedded.images))
    for name, queries, gallery in sides:
        ranks = label_ranks(queries, gallery, codes, codes)
        for k in (1, 5, 10):
            figures[f"{name}_r{k}"] = float(np.average(ranks <= k, weights=weights))
    return figures
