"""What a lower precision costs where it counts: retrieval among held-out phantoms, against the towers in fp32.

    phantoms -> both towers in fp32 and in the precision -> recall of finding sets, and whether the first ten stay the same

No torch here: the towers run as the wheel runs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer import phantom
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.evaluation.protocols import evaluate_pairs
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tower import Side, Tower
from mcr_infer.phantom.findings import finding_set
from mcr_infer.reports import embed_text

FIRST_SEED = 100_000
"""Training, validation and the demo use other seeds."""

KS = (1, 10)
TOP = 10
_BATCH = 32

Vectors = NDArray[np.float32]
Towers = Mapping[Side, Tower]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Phantoms as the towers take them, row i of everything from phantom i."""

    preprocess: Preprocess
    patches: Vectors
    """[N, K, P*P]"""

    positions: NDArray[np.int64]
    """[N, K]"""

    texts: Sequence[str]
    input_ids: NDArray[np.int64]
    """[N, T]"""

    attention_mask: NDArray[np.int64]
    """[N, T]"""

    pairs: Sequence[Pair]


def held_out(bundle: Bundle, count: int) -> HeldOut:
    """Make `count` phantoms from seed 100,000 on, cut and tokenised as the bundle does it."""
    made = [phantom.make(seed) for seed in range(FIRST_SEED, FIRST_SEED + count)]
    cut = [bundle.preprocess.patches(one.radiograph(rendering=bundle.preprocess.rendering).pixels) for one in made]
    texts = [embed_text(one.report.text) for one in made]
    input_ids, attention_mask = bundle.tokenizer().encode(texts)
    return HeldOut(
        preprocess=bundle.preprocess,
        patches=np.stack([one for one, _ in cut]),
        positions=np.stack([one for _, one in cut]),
        texts=texts,
        input_ids=input_ids,
        attention_mask=attention_mask,
        pairs=[
            Pair(image=Path(f"{one.seed}.dcm"), report=text, findings=finding_set(one.findings))
            for one, text in zip(made, texts, strict=True)
        ],
    )


def embed(towers: Towers, items: HeldOut) -> tuple[Vectors, Vectors]:
    """Embed pictures and reports to unit vectors [N, D] each."""
    return embed_images(towers["image"], items), embed_reports(towers["text"], items)


def embed_images(tower: Tower, items: HeldOut) -> Vectors:
    """Embed pictures to unit vectors [N, D]."""
    parts = [slice(start, start + _BATCH) for start in range(0, len(items.pairs), _BATCH)]
    given = (items.preprocess.tower_inputs(items.patches[rows], items.positions[rows]) for rows in parts)
    return np.concatenate([tower.run(inputs, ("embedding",))["embedding"] for inputs in given])


def embed_reports(tower: Tower, items: HeldOut) -> Vectors:
    """Embed reports to unit vectors [N, D]; they run sorted by length."""
    lengths = items.attention_mask.sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    parts = []
    for rows in np.split(order, range(_BATCH, len(order), _BATCH)):
        longest = int(lengths[rows].max())
        given = {"input_ids": items.input_ids[rows, :longest], "attention_mask": items.attention_mask[rows, :longest]}
        parts.append(tower.run(given, ("embedding",))["embedding"])
    return np.concatenate(parts)[np.argsort(order)]


def cost(items: HeldOut, full: tuple[Vectors, Vectors], lower: tuple[Vectors, Vectors]) -> dict[str, object]:
    """Compare retrieval with `lower` to retrieval with `full`, each images and reports [N, D].

    Recall is that of finding sets, macro, of `evaluation.protocols`, and its loss what the precision takes from it.
    `top10_agreement` is the mean share of the first ten that stay among the first ten.
    """
    found = {name: recalls(items, pair) for name, pair in (("fp32", full), ("lower", lower))}
    return {
        "phantoms": len(items.pairs),
        "first_seed": FIRST_SEED,
        "recall_fp32": found["fp32"],
        "recall": found["lower"],
        "recall_loss": {name: round(found["fp32"][name] - value, 5) for name, value in found["lower"].items()},
        "top10_agreement": {
            "text_to_image": agreement((full[1], full[0]), (lower[1], lower[0])),
            "image_to_report": agreement(full, lower),
        },
    }


def agreement(full: tuple[Vectors, Vectors], lower: tuple[Vectors, Vectors], *, k: int = TOP) -> float:
    """Return the mean share of the first k of a gallery that two pairs of queries [N, D] and gallery [M, D] agree on."""
    k = min(k, len(full[1]))
    first = [np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :k] for queries, gallery in (full, lower)]
    shared = [len(np.intersect1d(one, other)) for one, other in zip(*first, strict=True)]
    return round(float(np.mean(shared)) / k, 5)


def recalls(items: HeldOut, vectors: tuple[Vectors, Vectors]) -> dict[str, float]:
    """Return recall@1 and recall@10 of finding sets, macro, each way, of images and reports [N, D]."""
    found = evaluate_pairs(*vectors, items.pairs, ks=KS, resamples=1).protocol("finding sets")
    ways = (("image_to_report", found.image_to_report), ("report_to_image", found.report_to_image))
    return {f"{name}_r{k}": round(way.recall[k].value, 5) for name, way in ways for k in KS}
