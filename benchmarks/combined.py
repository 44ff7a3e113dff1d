"""What do questions of several parts find? Sentences wanted and not wanted, beside each other and beside a radiograph.

    python -m benchmarks.combined [--bundle BUNDLE] [--phantoms 1000] [--first-seed 100000] [--out FILE.json]

    A, not B       kinds of findings that occur together and apart, in three wordings each; right is what shows A and not B
    A and B        kinds that occur together; right is what shows both
    described ..   the same of two findings of a phantom with their sides, in sentences of the generator
    image ..       a radiograph of A and the sentence B; a radiograph of A and B and B not wanted. It is no answer itself

Beside what `mcr-infer query` does (`retrieval/queries.py`: sentences count as their difference from the empty text, o) stand
the first part alone, the plain sum of the vectors, the difference from the mean of all reports (m), one sentence that says
everything, other weights, and pushing back what is near the sentence that is not wanted. Weights and ways were chosen on the
phantoms of --first-seed 200000.

    precision@10        capped: of the first min(10, right answers in the gallery), as in `benchmarks.language`
    average precision   of all right answers

Ties count against the model; intervals are bootstrapped over pairs of kinds, or over the phantoms that gave the questions.
The last line of stdout is one JSON document.
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.language import FIRST_SEED, TOP, capped_precision
from benchmarks.rerank import Pictures, see
from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.errors import McrError
from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_labels_match
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.phantom.findings import KINDS, Finding, finding_set
from mcr_infer.phantom.language import describe
from mcr_infer.retrieval.late_interaction import DEPTH, LATE_WEIGHT, late_interaction
from mcr_infer.retrieval.queries import NOT_WEIGHT, NOT_WEIGHT_BESIDE_IMAGE

WORDINGS = ("{}", "there is {}", "evidence of {}")
LEAST = 15
"""Radiographs with A and B, and with A and not B, that a pair of kinds needs."""

LEAST_RIGHT = 5
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
NEAR_SHARE = 0.1
"""Of the gallery, nearest to the sentence that is not wanted: pushed back in the way that ranks do it."""

Scores = dict[str, metrics.Floats]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Phantoms that are asked for, and a text tower to ask with. Not slotted: it remembers what it has looked up."""

    pictures: Pictures
    texts: TextEncoder
    findings: list[str]

    @cached_property
    def images(self) -> metrics.Floats:
        """Unit vectors [N, D]."""
        return self.pictures.vectors.astype(np.float64)

    @cached_property
    def shows(self) -> dict[str, metrics.Bools]:
        """Which show a kind of finding [N], by kind."""
        return {kind: self.matching(kind) for kind in KINDS}

    @cached_property
    def read(self) -> dict[str, tuple[metrics.Floats, TokenEmbeddings]]:
        """Vector [D] and words of each sentence that was asked for."""
        return {}

    def matching(self, label: str) -> metrics.Bools:
        """Say which phantoms answer a label [N]."""
        return np.array([finding_labels_match(label, one) for one in self.findings])

    def vector(self, text: str) -> metrics.Floats:
        """Return the unit vector [D] of a sentence."""
        return self._sentence(text)[0]

    def shift(self, text: str) -> metrics.Floats:
        """Return what a sentence says beyond the empty text [D]."""
        return self.vector(text) - self.vector("")

    @cached_property
    def usual(self) -> metrics.Floats:
        """Mean vector [D] of the reports of the gallery: another origin than the empty text."""
        reports = self.texts.encode([one.report.text for one in self.pictures.phantoms])
        return reports.astype(np.float64).mean(axis=0)

    def again(self, parts: Sequence[tuple[str, float]]) -> metrics.Floats:
        """Score [N] as `query --rerank` does: sentences with their weights, the first `DEPTH` looked at again."""
        total = sum((weight * self.shift(text) for text, weight in parts), start=np.zeros(self.images.shape[1]))
        length = float(np.linalg.norm(total))
        scores: metrics.Floats = self.images @ total / length
        near = np.argsort(-scores, kind="stable")[:DEPTH]
        patches = [self.pictures.patches[place] for place in near]
        late = sum(
            (weight / length * late_interaction(self._sentence(text)[1], patches) for text, weight in parts),
            start=np.zeros(len(near)),
        )
        seen = scores[near] + LATE_WEIGHT * late
        scores = scores - 1000.0  # behind all that were looked at again, in their order
        scores[near] = seen
        return scores

    def _sentence(self, text: str) -> tuple[metrics.Floats, TokenEmbeddings]:
        if text not in self.read:
            vectors, words = self.texts.encode_with_locals([text])
            self.read[text] = vectors[0].astype(np.float64), words[0]
        return self.read[text]


def unwanted(gallery: Gallery, wanted: str, denied: str) -> Scores:
    """Score the gallery by one sentence and not by another, in every way."""
    images, a, b = gallery.images, gallery.vector(wanted), gallery.vector(denied)
    away = images @ b
    ways = {"the first sentence alone": images @ a}
    ways |= {f"A - {weight} B": images @ (a - weight * b) for weight in WEIGHTS}
    ways |= {
        f"(A - o) - {weight} (B - o)": images @ (gallery.shift(wanted) - weight * gallery.shift(denied))
        for weight in WEIGHTS
    }
    ways["(A - m) - 0.5 (B - m)"] = images @ (a - gallery.usual - 0.5 * (b - gallery.usual))
    ways["one sentence, A, no B"] = images @ gallery.vector(f"{wanted}, no {denied}")
    ways["A + 0.5 of the sentence no B"] = images @ (a + 0.5 * gallery.vector(f"no {denied}"))
    ways["A - what is above the mean of B"] = images @ a - np.maximum(0.0, away - away.mean())
    ways["the tenth nearest to B last"] = images @ a - 10.0 * (away > np.quantile(away, 1.0 - NEAR_SHARE))
    ways["query --not"] = ways[f"(A - o) - {NOT_WEIGHT} (B - o)"]
    ways["query --not --rerank"] = gallery.again([(wanted, 1.0), (denied, -NOT_WEIGHT)])
    return ways


def together(gallery: Gallery, sentences: Sequence[str], joined: str) -> Scores:
    """Score the gallery by several sentences, in every way; `joined` says it all in one."""
    images = gallery.images
    each = np.stack([gallery.vector(text) for text in sentences])
    return {
        "the first sentence alone": images @ each[0],
        "A + B": images @ each.sum(axis=0),
        "(A - m) + (B - m)": images @ (each - gallery.usual).sum(axis=0),
        "the lowest of both cosines": (images @ each.T).min(axis=1),
        "sentences joined by a stop": images @ gallery.vector(". ".join(sentences)),
        "one sentence": images @ gallery.vector(joined),
        "query A B": images @ np.sum([gallery.shift(text) for text in sentences], axis=0),
        "query A B --rerank": gallery.again([(text, 1.0) for text in sentences]),
    }


Asked = tuple[object, Scores, metrics.Bools]
"""What the question is about, which others may share; the scores [N] of each way; the right answers [N]."""


def kinds_apart(gallery: Gallery) -> Iterator[Asked]:
    """A, not B: kinds that occur together and apart."""
    for a, b in itertools.permutations(KINDS, 2):
        both, right = gallery.shows[a] & gallery.shows[b], gallery.shows[a] & ~gallery.shows[b]
        if min(both.sum(), right.sum()) >= LEAST:
            for words in WORDINGS:
                yield (a, b), unwanted(gallery, words.format(a), words.format(b)), right


def kinds_together(gallery: Gallery) -> Iterator[Asked]:
    """A and B: kinds that occur together."""
    for a, b in itertools.combinations(KINDS, 2):
        right = gallery.shows[a] & gallery.shows[b]
        if right.sum() >= LEAST_RIGHT * 2:
            for words in WORDINGS:
                texts = [words.format(a), words.format(b)]
                yield (a, b), together(gallery, texts, f"{texts[0]} and {b}"), right


def described(gallery: Gallery, *, apart: bool) -> Iterator[Asked]:
    """Two findings of a phantom with their sides, in sentences of the generator: both, or the first without the second."""
    for one in gallery.pictures.phantoms:
        if len(one.findings) < 2:
            continue
        first, second = one.findings[:2]
        rng = np.random.default_rng([one.seed, 9])
        texts = [describe([finding], rng) for finding in (first, second)]
        shown = gallery.matching(side_and_kind(first))
        right = shown & (~gallery.shows[second.kind] if apart else gallery.matching(side_and_kind(second)))
        if right.sum() >= LEAST_RIGHT:
            both = describe([first, second], rng)
            yield one.seed, (unwanted(gallery, *texts) if apart else together(gallery, texts, both)), right


def beside_images(gallery: Gallery, *, apart: bool) -> Iterator[Asked]:
    """A radiograph of one finding and a sentence of another kind; or of two, the second not wanted."""
    for place, one in enumerate(gallery.pictures.phantoms):
        if len(one.findings) != (2 if apart else 1):
            continue
        image, shown = gallery.images[place], gallery.matching(side_and_kind(one.findings[0]))
        others = np.arange(len(shown)) != place
        for kind in [one.findings[1].kind] if apart else [kind for kind in KINDS if kind != one.findings[0].kind]:
            right = shown & (~gallery.shows[kind] if apart else gallery.shows[kind]) & others
            if right.sum() < LEAST_RIGHT:
                continue
            sign, text = (-1.0 if apart else 1.0), kind
            vectors = {"the radiograph alone": image, "the sentence alone": sign * gallery.vector(text)}
            for weight in (0.5, 1.0, 1.5):
                vectors[f"plain sum, weight {weight}"] = image + sign * weight * gallery.vector(text)
                vectors[f"from the empty text, weight {weight}"] = image + sign * weight * gallery.shift(text)
            weight = NOT_WEIGHT_BESIDE_IMAGE if apart else 1.0
            vectors["query"] = image + sign * weight * gallery.shift(text)
            scores = {name: (gallery.images @ vector)[others] for name, vector in vectors.items()}
            yield one.seed, scores, right[others]


def side_and_kind(finding: Finding) -> str:
    """Name a finding without its lobe."""
    return " ".join(word for word in (finding.side, finding.kind) if word)


def figures(asked: Iterator[Asked]) -> dict[str, Any]:
    """Average over questions: precision@10 and average precision of each way with their intervals."""
    rows: dict[str, list[tuple[float, float]]] = {}
    numbers: dict[object, int] = {}
    groups = []
    for about, scores, right in asked:
        groups.append(numbers.setdefault(about, len(numbers)))
        for name, one in scores.items():
            relevant = right[None, :]
            average = metrics.average_precision(metrics.ranked_relevance(one[None, :], relevant))
            rows.setdefault(name, []).append((capped_precision(one[None, :], relevant, TOP)[0], average[0]))
    ways = {}
    for name, values in rows.items():
        bounds = metrics.mean_interval(
            np.array(values), np.ones(len(values)), np.array(groups), count=metrics.RESAMPLES, seed=0
        )
        ways[name] = {
            figure: [round(float(bound[column]), 4) for bound in bounds] for column, figure in enumerate(("p10", "ap"))
        }
    return {"questions": len(groups), "ways": ways}


def table_lines(result: dict[str, Any]) -> list[str]:
    """Render all questions as Markdown tables, percent."""
    lines = []
    for name, one in result["questions"].items():
        lines += [f"| {name} ({one['questions']}) | precision@10 % [95 %] | average precision % |", "|---|---|---|"]
        for way, values in one["ways"].items():
            cells = (f"{100 * v:.1f} [{100 * low:.1f}, {100 * high:.1f}]" for v, low, high in values.values())
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def main() -> None:
    """Make the gallery, ask, print tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="folder of a bundle (default: the one that ships)")
    parser.add_argument("--phantoms", type=int, default=1000, help="phantoms in the gallery (default: 1000)")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help=f"their first seed (default: {FIRST_SEED})")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the document here, too")
    options = parser.parse_args()
    if not 100 <= options.phantoms <= 100_000 or not 0 <= options.first_seed <= 800_000:
        parser.error(
            "--phantoms must lie in [100, 100000] and --first-seed in [0, 800000], below the seeds of training"
        )
    try:
        bundle = Bundle.open(options.bundle)
        seeds = range(options.first_seed, options.first_seed + options.phantoms)
        pictures = see(ImageEncoder(bundle), [phantom.make(seed) for seed in seeds])
        gallery = Gallery(
            pictures=pictures,
            texts=TextEncoder(bundle),
            findings=[finding_set(one.findings) for one in pictures.phantoms],
        )
        questions = {
            "A, not B": figures(kinds_apart(gallery)),
            "A and B": figures(kinds_together(gallery)),
            "described A, not B": figures(described(gallery, apart=True)),
            "described A and B": figures(described(gallery, apart=False)),
            "image of A, and B": figures(beside_images(gallery, apart=False)),
            "image of A and B, not B": figures(beside_images(gallery, apart=True)),
        }
    except McrError as exc:
        raise SystemExit(f"error: {exc}") from exc
    result = {
        "benchmark": "combined",
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint,
        "phantoms": options.phantoms,
        "first_seed": options.first_seed,
        "questions": questions,
    }
    print("\n".join(table_lines(result)))
    print(json.dumps(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
