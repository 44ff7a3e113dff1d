"""Does a second look help? Words against patches over the first hits, beside the cosine alone, on phantoms never seen.

    python -m benchmarks.rerank [--bundle BUNDLE] [--phantoms 1000] [--out FILE.json]
    python -m benchmarks.rerank --choose  how TAU and LATE_WEIGHT of retrieval.late_interaction were chosen, on others

Asked of the gallery are the reports of its phantoms, short sentences of the generator (both macro over finding sets, as in
`evaluation.protocols`) and the hand-written sentences of `benchmarks/paraphrases.csv`; and, the other way round, which
report belongs to a radiograph, which `mcr-infer query` does not offer. Only the first `DEPTH` of the cosine are looked at
again; the others stay behind them in their order.

    hard pairs     one phantom twice, in the same body under the same exposure, with one thing changed: whether the finding
                   is there, what side it is on, how large it is. A sentence that fits one of the two must score it higher;
                   equal scores count as wrong, chance is 50 %.

Intervals are bootstrapped over questions, those of hard pairs over bodies. Beside the shipped way stand others: the late
interaction alone, the best patch of each word instead of a soft maximum, and patches stored in 8 and in 16 bits.
The last line of stdout is one JSON document.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.hard_pairs import HardPair, hard_pairs
from benchmarks.language import FIRST_SEED, TOP, capped_precision, read_paraphrases
from benchmarks.machine import machine_card
from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.errors import McrError
from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_set_key
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.phantom.findings import finding_set
from mcr_infer.phantom.language import describe
from mcr_infer.retrieval.late_interaction import DEPTH, LATE_WEIGHT, TAU, late_interaction

CHOICE_SEED, HARD_SEED, HARD_CHOICE_SEED = 200_000, 400_000, 300_000
"""First seeds: of the gallery that TAU and LATE_WEIGHT were chosen on, of hard pairs, of hard pairs for the choice."""

BODIES = 25
"""Bodies in which each kind of finding is shown in all its ways."""

BATCH = 16
FIGURES = ("r1", "r5", "r10", "p10")
BY_SET = ("reports", "short sentences", "radiographs, for reports")
"""Kinds of questions that are averaged over finding sets."""

Vectors = NDArray[np.float32]
Late = Callable[[TokenEmbeddings, Sequence[TokenEmbeddings]], metrics.Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Sentences with their vectors [Q, D] and mapped words."""

    vectors: Vectors
    words: list[TokenEmbeddings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """Phantoms with their vectors [N, D] and mapped patches."""

    phantoms: list[phantom.Phantom]
    vectors: Vectors
    patches: list[TokenEmbeddings]


def see(encoder: ImageEncoder, phantoms: list[phantom.Phantom]) -> Pictures:
    """Embed phantoms with their patches."""
    vectors, patches = [], []
    preprocess = encoder.preprocess
    for start in range(0, len(phantoms), BATCH):
        shown = [one.radiograph(rendering=preprocess.rendering) for one in phantoms[start : start + BATCH]]
        embedded, locals = encoder.encode_with_locals([preprocess.patches(one.pixels) for one in shown])
        vectors.append(embedded)
        patches += locals
    return Pictures(phantoms=phantoms, vectors=np.concatenate(vectors), patches=patches)


def read(encoder: TextEncoder, texts: Sequence[str]) -> Texts:
    """Embed sentences with their words."""
    parts = [encoder.encode_with_locals(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return Texts(vectors=np.concatenate([one for one, _ in parts]), words=[each for _, one in parts for each in one])


def looked_again(
    texts: Texts, pictures: Pictures, late: Late | None, *, weight: float = LATE_WEIGHT, cosine: float = 1.0
) -> metrics.Floats:
    """Score pictures by texts [Q, N]: the first `DEPTH` of the cosine by the second look, the others behind them."""

    def second(row: int, near: metrics.Integers) -> metrics.Floats:
        assert late is not None
        return weight * late(texts.words[row], [pictures.patches[place] for place in near])

    return _scores(texts.vectors, pictures.vectors, None if late is None else second, cosine)


def reports_looked_at_again(
    texts: Texts, pictures: Pictures, late: Late | None, *, weight: float = LATE_WEIGHT, cosine: float = 1.0
) -> metrics.Floats:
    """Score texts by pictures [N, Q], the other way round."""

    def second(row: int, near: metrics.Integers) -> metrics.Floats:
        assert late is not None
        return weight * np.concatenate([late(texts.words[place], [pictures.patches[row]]) for place in near])

    return _scores(pictures.vectors, texts.vectors, None if late is None else second, cosine)


def _scores(
    queries: Vectors,
    gallery: Vectors,
    second: Callable[[int, metrics.Integers], metrics.Floats] | None,
    cosine: float,
) -> metrics.Floats:
    """Score gallery [N, D] by queries [Q, D]: [Q, N]. `second` scores places of the gallery for a row of the queries."""
    scores = queries.astype(np.float64) @ gallery.T.astype(np.float64)
    if second is not None:
        for number, row in enumerate(scores):
            near = np.argsort(-row, kind="stable")[:DEPTH]
            seen = cosine * row[near] + second(number, near)
            row -= 1000.0  # behind all that were looked at again, in their order
            row[near] = seen
    return scores


def retrieval(scores: metrics.Floats, labels: metrics.Integers) -> metrics.Floats:
    """Return recall at 1, 5, 10 and the capped precision of each question [Q, 4]; labels [Q] of questions and pictures."""
    relevant = labels[:, None] == labels[None, :]
    ranks = metrics.first_hit_ranks(scores, relevant)
    return np.stack([*(ranks <= k for k in metrics.KS), capped_precision(scores, relevant, TOP)], axis=1).astype(float)


def macro(values: metrics.Floats, labels: metrics.Integers | None) -> dict[str, list[float]]:
    """Average figures [Q, M] over finding sets, or over questions without labels: value, low, high of each."""
    weights = np.ones(len(values)) if labels is None else metrics.macro_weights(labels)
    mean, low, high = metrics.mean_interval(values, weights, np.arange(len(values)), count=metrics.RESAMPLES, seed=0)
    names = FIGURES[-values.shape[1] :]
    return {name: [round(float(each[i]), 4) for each in (mean, low, high)] for i, name in enumerate(names)}


def judge_pairs(
    texts: Texts, pictures: Pictures, pairs: Sequence[HardPair], late: Late | None, *, weight: float = LATE_WEIGHT,
    cosine: float = 1.0,
) -> metrics.Floats:  # fmt: skip
    """Return 1 for each pair whose right picture scores above the wrong one, else 0 [M]."""
    right = np.zeros(len(pairs))
    for number, pair in enumerate(pairs):
        places = [pair.right, pair.wrong]
        scores = cosine * (pictures.vectors[places].astype(np.float64) @ texts.vectors[pair.text])
        if late is not None:
            scores = scores + weight * late(texts.words[pair.text], [pictures.patches[place] for place in places])
        right[number] = scores[0] > scores[1] + metrics.TIE
    return right


def pair_figures(right: metrics.Floats, pairs: Sequence[HardPair]) -> dict[str, list[float]]:
    """Average over the pairs of each change, with intervals by body: value, low, high."""
    figures = {}
    for change in dict.fromkeys(pair.change for pair in pairs):
        rows = np.array([row for row, pair in enumerate(pairs) if pair.change == change])
        _, bodies = np.unique([pairs[row].body for row in rows], return_inverse=True)
        mean, low, high = metrics.mean_interval(
            right[rows, None], np.ones(len(rows)), bodies, count=metrics.RESAMPLES, seed=0
        )
        figures[change] = [round(float(each[0]), 4) for each in (mean, low, high)]
    return figures


def best_patch(words: TokenEmbeddings, pictures: Sequence[TokenEmbeddings]) -> metrics.Floats:
    """Score as ColBERT does: each word by its best patch alone, words by their weights."""
    unit = [one.vectors / np.linalg.norm(one.vectors, axis=1, keepdims=True) for one in (words, *pictures)]
    best = np.stack([(unit[0] @ patches.T).max(axis=1) for patches in unit[1:]])
    scores: metrics.Floats = best.astype(np.float64) @ words.weights.astype(np.float64)
    return scores


def seconds_of_a_look(*, words: int, patches: int, dim: int, repeats: int = 15) -> float:
    """Median time of a second look over `DEPTH` pictures with the unpacking of their patches, of random values."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> TokenEmbeddings:
        return TokenEmbeddings(
            vectors=rng.standard_normal((count, dim), dtype=np.float32),
            weights=np.full(count, 1.0 / count, dtype=np.float32),
        )

    sentence, packed = drawn(words), [drawn(patches).to_bytes() for _ in range(DEPTH)]
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        late_interaction(sentence, [TokenEmbeddings.from_bytes(each) for each in packed])
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


def ways(pictures: Pictures) -> dict[str, tuple[Pictures, dict[str, Any]]]:
    """Name the ways of scoring: the pictures as each sees them, and the arguments of `looked_again` and `judge_pairs`."""
    packed = [TokenEmbeddings.from_bytes(one.to_bytes()) for one in pictures.patches]
    half = [
        TokenEmbeddings(vectors=one.vectors.astype(np.float16).astype(np.float32), weights=one.weights)
        for one in pictures.patches
    ]
    return {
        "cosine": (pictures, {"late": None}),
        "second look": (replace(pictures, patches=packed), {"late": late_interaction}),
        "patches in fp16": (replace(pictures, patches=half), {"late": late_interaction}),
        "patches in fp32": (pictures, {"late": late_interaction}),
        "late interaction alone": (pictures, {"late": late_interaction, "cosine": 0.0}),
        "cosine + best patch": (pictures, {"late": best_patch}),
        "best patch alone": (pictures, {"late": best_patch, "cosine": 0.0}),
    }


def measure(images: ImageEncoder, encoder: TextEncoder, *, count: int, bodies: int) -> dict[str, Any]:
    """Ask every question in every way."""
    pictures = see(images, [phantom.make(seed) for seed in range(FIRST_SEED, FIRST_SEED + count)])
    findings = [finding_set(one.findings) for one in pictures.phantoms]
    _, sets = np.unique([finding_set_key(one) for one in findings], return_inverse=True)
    asked = {
        "reports": read(encoder, [one.report.text for one in pictures.phantoms]),
        "short sentences": read(encoder, short_sentences(pictures.phantoms)),
    }
    by_hand = read_paraphrases()
    relevant = np.array([[one.answered_by(each) for each in findings] for one in by_hand])
    by_hand = [one for one, row in zip(by_hand, relevant, strict=True) if row.any()]
    relevant = relevant[relevant.any(axis=1)]
    paraphrases = read(encoder, [one.text for one in by_hand])
    named = np.array([bool(one.shown) for one in by_hand])

    made, sentences, pairs = hard_pairs(HARD_SEED, bodies)
    twins, pair_texts = see(images, made), read(encoder, sentences)

    result: dict[str, Any] = {
        "finding_sets": int(sets.max()) + 1,
        "hand_written": len(by_hand),
        "hard_pairs": len(pairs),
    }
    each: dict[str, dict[str, metrics.Floats]] = {}
    hard_ways = ways(twins)
    for name, (seen, how) in ways(pictures).items():
        values = {kind: retrieval(looked_again(texts, seen, **how), sets) for kind, texts in asked.items()}
        values["radiographs, for reports"] = retrieval(reports_looked_at_again(asked["reports"], seen, **how), sets)
        scores = looked_again(paraphrases, seen, **how)
        values["hand-written sentences"] = capped_precision(scores, relevant, TOP)[:, None]
        values["hand-written, a finding named"] = values["hand-written sentences"][named]
        values["hard pairs"] = judge_pairs(pair_texts, hard_ways[name][0], pairs, **hard_ways[name][1])
        each[name] = values
    result["ways"] = {
        name: {
            kind: pair_figures(one, pairs) if kind == "hard pairs" else macro(one, sets if kind in BY_SET else None)
            for kind, one in values.items()
        }
        for name, values in each.items()
    }
    result["gain"] = {
        kind: pair_figures(one - each["cosine"][kind], pairs)
        if kind == "hard pairs"
        else macro(one - each["cosine"][kind], sets if kind in BY_SET else None)
        for kind, one in each["second look"].items()
    }
    return result


def short_sentences(phantoms: Sequence[phantom.Phantom]) -> list[str]:
    """Name the findings of each phantom in a line, as one would type it."""
    return [describe(one.findings, np.random.default_rng([one.seed, 7])) for one in phantoms]


def choose(images: ImageEncoder, encoder: TextEncoder, *, count: int, bodies: int) -> list[dict[str, Any]]:
    """Measure a grid of TAU and LATE_WEIGHT on phantoms that nothing else is measured on."""
    pictures = see(images, [phantom.make(seed) for seed in range(CHOICE_SEED, CHOICE_SEED + count)])
    _, sets = np.unique([finding_set_key(finding_set(one.findings)) for one in pictures.phantoms], return_inverse=True)
    asked = {
        "reports": read(encoder, [one.report.text for one in pictures.phantoms]),
        "short sentences": read(encoder, short_sentences(pictures.phantoms)),
    }
    made, sentences, pairs = hard_pairs(HARD_CHOICE_SEED, bodies)
    twins, pair_texts = see(images, made), read(encoder, sentences)
    grid = []
    for tau, weight in [
        (TAU, 0.0),
        *((tau, weight) for tau in (0.05, 0.07, 0.1, 0.14, 0.2) for weight in (0.5, 1.0, 2.0, 4.0)),
    ]:

        def late(words: TokenEmbeddings, seen: Sequence[TokenEmbeddings], tau: float = tau) -> metrics.Floats:
            return late_interaction(words, seen, tau=tau)

        row: dict[str, Any] = {"tau": tau, "late_weight": weight}
        for kind, texts in asked.items():
            values = macro(
                retrieval(looked_again(texts, pictures, late if weight else None, weight=weight), sets), sets
            )
            row[kind] = {name: value[0] for name, value in values.items()}
        right = judge_pairs(pair_texts, twins, pairs, late if weight else None, weight=weight)
        row["hard pairs"] = {name: value[0] for name, value in pair_figures(right, pairs).items()}
        row["mean"] = round(float(np.mean([row[kind][name] for kind in asked for name in ("r1", "p10")])), 4)
        grid.append(row)
        print(json.dumps(row), flush=True)
    return grid


def table_lines(result: dict[str, Any]) -> list[str]:
    """Render the ways as Markdown tables, percent."""

    def percent(figure: Sequence[float]) -> str:
        return f"{100 * figure[0]:.1f} [{100 * figure[1]:.1f}, {100 * figure[2]:.1f}]"

    rows = {**result["ways"], "gain of the second look": result["gain"]}
    lines = []
    for kind in BY_SET:
        lines += [f"| {kind} | R@1 % [95 %] | R@5 % | R@10 % | precision@10 % |", "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {' | '.join(percent(values[kind][figure]) for figure in FIGURES)} |"
            for name, values in rows.items()
        ] + [""]
    lines += ["| precision@10 % | hand-written sentences | those that name a finding |", "|---|---|---|"]
    lines += [
        f"| {name} | {percent(values['hand-written sentences']['p10'])} "
        f"| {percent(values['hand-written, a finding named']['p10'])} |"
        for name, values in rows.items()
    ] + [""]
    changes = list(result["gain"]["hard pairs"])
    lines += [f"| right of hard pairs, % | {' | '.join(changes)} |", f"|{'---|' * (len(changes) + 1)}"]
    lines += [
        f"| {name} | {' | '.join(percent(values['hard pairs'][change]) for change in changes)} |"
        for name, values in rows.items()
    ]
    return lines


def main() -> None:
    """Measure, print tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="folder of a bundle (default: the one that ships)")
    parser.add_argument("--phantoms", type=int, default=1000, help="phantoms in the gallery (default: 1000)")
    parser.add_argument(
        "--bodies", type=int, default=BODIES, help=f"bodies of each kind of hard pair (default: {BODIES})"
    )
    parser.add_argument("--choose", action="store_true", help="measure the grid of settings on other phantoms instead")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the document here, too")
    options = parser.parse_args()
    if not TOP <= options.phantoms <= 100_000 or not 1 <= options.bodies <= 1000:
        parser.error(f"--phantoms must lie in [{TOP}, 100000] and --bodies in [1, 1000]")
    try:
        bundle = Bundle.open(options.bundle)
        images, encoder = ImageEncoder(bundle), TextEncoder(bundle)
        sizes = {"count": options.phantoms, "bodies": options.bodies}
        figures = {"grid": choose(images, encoder, **sizes)} if options.choose else measure(images, encoder, **sizes)
    except McrError as exc:
        raise SystemExit(f"error: {exc}") from exc
    result = {
        "benchmark": "rerank",
        "machine": machine_card(),
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint,
        "phantoms": options.phantoms,
        "first_seed": CHOICE_SEED if options.choose else FIRST_SEED,
        "tau": TAU,
        "late_weight": LATE_WEIGHT,
        "depth": DEPTH,
        **figures,
    }
    if not options.choose:
        grid = bundle.preprocess.patch_count
        result["bytes_per_image"] = len(see(images, [phantom.make(0)]).patches[0].to_bytes())
        result["milliseconds"] = {
            f"20 words, {DEPTH} pictures of {patches} patches, {dim} dimensions": round(
                1e3 * seconds_of_a_look(words=20, patches=patches, dim=dim), 2
            )
            for patches, dim in ((grid, bundle.embedding_dim), (196, 512))
        }
        print("\n".join(table_lines(result)))
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
