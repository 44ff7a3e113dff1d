"""Does a bundle understand words that its training never used? Hand-written sentences against phantoms it never saw.

    python -m benchmarks.language [--bundle BUNDLE] [--phantoms 1000] [--out FILE.json]

`benchmarks/paraphrases.csv` was written by hand before the phrase tables of the phantoms: sentences that a radiologist
could type, and the labels of a right answer. Each sentence is asked beside `WORDINGS` wordings of the same labels from the
generator's own tables, the language of training: the distance between the two is what paraphrasing costs. Then every kind
of finding is denied, and the radiographs that come first must not show it; what plainly asking for it brings stands beside
that, since a model that does not know a finding does not return it either way.

    capped precision   share of right answers among the first min(10, right answers in the gallery): a label set that only
                       four phantoms show can still reach 1; without a right answer a sentence is not judged
    base rate          share of right answers in the gallery: what a random ranking gets

Ties count against the model. The last line of stdout is one JSON document; --out writes every sentence, too.
"""

import argparse
import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.errors import ConfigError, McrError
from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_labels_match, split_findings
from mcr_infer.phantom.findings import KINDS, Finding, draw_finding, finding_set
from mcr_infer.phantom.language import describe

PARAPHRASES = Path(__file__).with_name("paraphrases.csv")
FIRST_SEED = 100_000
"""Neither training (1,000,000 and more) nor validation (900,000 and more) uses the seeds from here on."""

TOP = 10
WORDINGS = 5
DENIALS = ("no {}", "there is no {}", "no evidence of {}")
BATCH = 16

NORMAL, ABSENCE = "normal", "absence alone"
"""Groups of the sentences that name no finding."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """A sentence and the labels of its right answers, each `[side] [lobe] kind` as far as the sentence says it."""

    text: str
    shown: tuple[str, ...]
    absent: tuple[str, ...]
    """Labels that no finding of a right answer has; with both empty, a right answer is normal."""

    def answered_by(self, findings: str) -> bool:
        """Say whether a radiograph with these findings shows all that must be shown and nothing that must be absent."""
        if not self.shown and not self.absent:
            return not split_findings(findings)
        shows = not self.shown or finding_labels_match(";".join(self.shown), findings)
        return shows and not any(finding_labels_match(label, findings) for label in self.absent)

    @property
    def groups(self) -> tuple[str, ...]:
        """The kinds of findings that the sentence names as there; `NORMAL` or `ABSENCE` where it names none."""
        if self.shown:
            return tuple(sorted({kind_of(label) for label in self.shown}))
        return (ABSENCE,) if self.absent else (NORMAL,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A sentence, how many radiographs answer it, and the capped precision of the sentence and of generated wordings."""

    sentence: Sentence
    matching: int
    base_rate: float
    paraphrase: float
    generated: float
    """Mean over the wordings."""


def read_paraphrases(path: Path = PARAPHRASES) -> list[Sentence]:
    """Read the columns `text` and `findings` (labels separated by `;`, `!` before what must be absent).

    Raises `ConfigError` for a label that names no kind of finding.
    """
    with path.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    sentences = []
    for row in rows:
        labels = split_findings(row["findings"])
        shown = tuple(label for label in labels if not label.startswith("!"))
        absent = tuple(label.removeprefix("!") for label in labels if label.startswith("!"))
        for label in (*shown, *absent):
            kind_of(label)
        sentences.append(Sentence(text=row["text"], shown=shown, absent=absent))
    return sentences


def kind_of(label: str) -> str:
    """Return the kind of finding that a label names; raises `ConfigError` where it names none."""
    for kind in KINDS:
        if set(kind.split()) <= set(label.split()):
            return kind
    raise ConfigError(f"the label {label!r} names no kind of finding; known: {', '.join(KINDS)}")


def finding_of(label: str, rng: np.random.Generator) -> Finding:
    """Draw a finding that a label describes: what the label leaves open (side, lobe, size) is drawn as for a phantom.

    Raises `ConfigError` where there is no such finding.
    """
    kind = kind_of(label)
    side = next((side for side in ("left", "right", "bilateral") if side in label.split()), None)
    lobe = re.search(r"\b(?:upper|middle|lower) lobe\b", label)
    for _ in range(1000):
        drawn = draw_finding(kind, rng, side=side)
        if lobe is None or drawn.lobe == lobe[0]:
            return drawn
    raise ConfigError(f"no phantom shows {label!r}")


def generate(sentence: Sentence, rng: np.random.Generator) -> str:
    """Say in the generator's own words what a sentence asks for; an absence follows as its queries put it."""
    if not sentence.shown and sentence.absent:
        return f"no {' or '.join(sentence.absent)}"
    text = describe([finding_of(label, rng) for label in sentence.shown], rng)
    return f"{text}, no {' or '.join(sentence.absent)}" if sentence.absent else text


def capped_precision(scores: metrics.Floats, relevant: metrics.Bools, k: int) -> metrics.Floats:
    """Precision of each query among its first min(k, relevant items): scores [Q, G], relevant [Q, G] -> [Q].

    NaN for a query without any relevant item.
    """
    ranked = metrics.ranked_relevance(scores, relevant)
    depth = np.minimum(k, relevant.sum(axis=1))
    hits = np.cumsum(ranked, axis=1)[np.arange(len(ranked)), np.maximum(depth, 1) - 1]
    shares: metrics.Floats = np.where(depth > 0, hits / np.maximum(depth, 1), np.nan)
    return shares


def judge(
    images: Vectors, findings: Sequence[str], sentences: Sequence[Sentence], encode: Callable[[list[str]], Vectors]
) -> list[Judged]:
    """Ask every sentence and its generated wordings over images [N, D] that show `findings`; leave unanswerable ones out."""
    wordings = [
        generate(one, np.random.default_rng([row, n])) for row, one in enumerate(sentences) for n in range(WORDINGS)
    ]
    relevant = np.array([[one.answered_by(each) for each in findings] for one in sentences])
    asked = encode([one.text for one in sentences]).astype(np.float64) @ images.T
    generated = encode(wordings).astype(np.float64) @ images.T
    own = capped_precision(asked, relevant, TOP)
    theirs = capped_precision(generated, np.repeat(relevant, WORDINGS, axis=0), TOP).reshape(-1, WORDINGS).mean(axis=1)
    return [
        Judged(
            sentence=one,
            matching=int(relevant[row].sum()),
            base_rate=float(relevant[row].mean()),
            paraphrase=float(own[row]),
            generated=float(theirs[row]),
        )
        for row, one in enumerate(sentences)
        if relevant[row].any()
    ]


def mean_figures(judged: Sequence[Judged], *, resamples: int = metrics.RESAMPLES) -> dict[str, Any]:
    """Average over sentences, with 95 % intervals from resampled sentences, and over the groups of sentences."""
    values = np.array([(one.paraphrase, one.generated, one.base_rate) for one in judged])
    mean, low, high = metrics.mean_interval(
        values, np.ones(len(judged)), np.arange(len(judged)), count=resamples, seed=0
    )
    groups = {}
    for name in (*KINDS, NORMAL, ABSENCE):
        rows = [row for row, one in enumerate(judged) if name in one.sentence.groups]
        if rows:
            means = values[rows].mean(axis=0)
            groups[name] = {"sentences": len(rows)} | _named(means)
    macro = np.mean([[each["paraphrase"], each["generated"], each["base_rate"]] for each in groups.values()], axis=0)
    intervals = {
        name: [round(float(low[i]), 4), round(float(high[i]), 4)] for i, name in enumerate(("paraphrase", "generated"))
    }
    return {
        "sentences": len(judged),
        "mean_over_sentences": _named(mean) | {"intervals": intervals},
        "mean_over_groups": _named(macro),
        "groups": groups,
    }


def denial_figures(
    images: Vectors, findings: Sequence[str], encode: Callable[[list[str]], Vectors]
) -> dict[str, dict[str, float]]:
    """Deny each kind that some images [N, D] show: its share among the first `TOP`, when it is asked for, in the gallery."""
    figures = {}
    for kind in KINDS:
        shows = np.array([finding_labels_match(kind, each) for each in findings])
        if not shows.any():
            continue
        scores = encode([words.format(kind) for words in DENIALS] + [kind]).astype(np.float64) @ images.T
        # Denied, images without the kind are the answers: among equal scores those that show it come first, against us.
        denied = metrics.ranked_relevance(scores[:-1], np.tile(~shows, (len(DENIALS), 1)))
        asked = metrics.ranked_relevance(scores[-1:], shows[None, :])
        figures[kind] = {
            "shown_when_denied": round(1.0 - float(metrics.precision_at(denied, TOP).mean()), 4),
            "shown_when_asked": round(float(metrics.precision_at(asked, TOP)[0]), 4),
            "base_rate": round(float(shows.mean()), 4),
        }
    return figures


def _named(values: Sequence[float] | metrics.Floats) -> dict[str, float]:
    names = ("paraphrase", "generated", "base_rate")
    return {name: round(float(value), 4) for name, value in zip(names, values, strict=True)}


def embed_phantoms(encoder: ImageEncoder, count: int, size: int) -> tuple[Vectors, list[str]]:
    """Make `count` held-out phantoms and embed them: unit vectors [N, D] and their finding sets."""
    vectors, findings = [], []
    for start in range(FIRST_SEED, FIRST_SEED + count, BATCH):
        made = [phantom.make(seed, size) for seed in range(start, min(start + BATCH, FIRST_SEED + count))]
        vectors.append(
            encoder.encode_radiographs([one.radiograph(rendering=encoder.preprocess.rendering) for one in made])
        )
        findings += [finding_set(one.findings) for one in made]
    return np.concatenate(vectors), findings


def table_lines(result: dict[str, Any]) -> list[str]:
    """Render the means and the denials as Markdown tables."""
    lines = ["| sentences about | count | paraphrase % | generated % | base rate % |", "|---|---|---|---|---|"]

    def row(name: str, count: object, values: dict[str, float]) -> str:
        cells = (f"{100 * values[key]:.1f}" for key in ("paraphrase", "generated", "base_rate"))
        return f"| {' | '.join([name, str(count), *cells])} |"

    groups = result["groups"]
    lines += [row(name, each["sentences"], each) for name, each in groups.items()]
    lines.append(row("mean over these", len(groups), result["mean_over_groups"]))
    lines.append(row("mean over sentences", result["sentences"], result["mean_over_sentences"]))
    lines += ["", f"| shown in the top {TOP} | denied % | asked for % | base rate % |", "|---|---|---|---|"]
    for kind, each in result["denials"].items():
        cells = (f"{100 * each[key]:.1f}" for key in ("shown_when_denied", "shown_when_asked", "base_rate"))
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return lines


def main() -> None:
    """Make the gallery, ask, print tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="folder of a bundle (default: the one that ships)")
    parser.add_argument("--phantoms", type=int, default=1000, help="phantoms in the gallery (default: 1000)")
    parser.add_argument("--size", type=int, default=256, help="their side in pixels (default: 256)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write every sentence here, too")
    options = parser.parse_args()
    if not TOP <= options.phantoms <= 100_000:
        parser.error(f"--phantoms must lie in [{TOP}, 100000], got {options.phantoms}")
    try:
        bundle = Bundle.open(options.bundle)
        sentences = read_paraphrases()
        images, findings = embed_phantoms(ImageEncoder(bundle), options.phantoms, options.size)
        encode = TextEncoder(bundle).encode
        judged = judge(images, findings, sentences, encode)
        denials = denial_figures(images, findings, encode)
    except McrError as exc:
        raise SystemExit(f"error: {exc}") from exc
    result = {
        "benchmark": "language",
        "bundle": bundle.name,
        "fingerprint": bundle.fingerprint,
        "phantoms": options.phantoms,
        "first_seed": FIRST_SEED,
        "size": options.size,
        "top": TOP,
        "not_judged": len(sentences) - len(judged),
        **mean_figures(judged),
        "denials": denials,
    }
    print("\n".join(table_lines(result)))
    print(json.dumps(result))
    if options.out is not None:
        each = [
            {
                "text": one.sentence.text,
                "shown": list(one.sentence.shown),
                "absent": list(one.sentence.absent),
                "matching": one.matching,
                "paraphrase": round(one.paraphrase, 4),
                "generated": round(one.generated, 4),
                "base_rate": round(one.base_rate, 4),
            }
            for one in judged
        ]
        options.out.write_text(json.dumps(result | {"each": each}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
