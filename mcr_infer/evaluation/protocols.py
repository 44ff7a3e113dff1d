"""Evaluation of a bundle on pairs of radiographs and reports: the protocols of wheel, training, export and benchmarks.

    diagonal       a query is answered by its own pair alone
    reports        any item whose report has the same words answers it: the headline on real reports
    finding sets   any item with the same findings, kind and side, answers it; each finding set counts the same, however
                   often it occurs: the headline on phantoms
    deduplicated   the diagonal over the first pair of each distinct report and image

Ties are counted against the model (`evaluation.metrics`); beside each figure stand its 95 % bootstrap interval, drawn by
patient over the queries with the gallery held fixed, and what a random ranking gets. What labels allow beside these, AUROC
and precision by finding and by class, is measured in `mcr_infer.evaluation.zero_shot`.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mcr_infer.errors import ConfigError
from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_set_key
from mcr_infer.evaluation.metrics import KS, RESAMPLES, Integers, Interval
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.evaluation.zero_shot import (
    ClassFigures,
    EncodeText,
    LabelFigures,
    Vectors,
    class_lines,
    evaluate_classes,
    evaluate_labels,
    label_lines,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """Retrieval one way."""

    queries: int
    gallery: int
    recall: dict[int, Interval]
    """Share of queries with an answer among the first k, by k."""

    median_rank: int
    chance_median_rank: int

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        return {
            "queries": self.queries,
            "gallery": self.gallery,
            "recall": {str(k): figure.to_dict() for k, figure in self.recall.items()},
            "median_rank": self.median_rank,
            "chance_median_rank": self.chance_median_rank,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """Retrieval both ways under one rule of what answers a query."""

    name: str
    average: str
    """`micro`: each query counts the same; `macro`: each finding set does."""

    classes: int
    """Distinct answers: pairs, reports or finding sets."""

    image_to_report: Direction
    report_to_image: Direction

    @property
    def rsum(self) -> float:
        """Sum of all recalls of both directions in percent: 600 is perfect with three values of k."""
        return 100.0 * sum(figure.value for figure in self._recalls())

    @property
    def chance_rsum(self) -> float:
        """RSUM that a random ranking gets on average."""
        return 100.0 * sum(figure.chance for figure in self._recalls())

    def _recalls(self) -> list[Interval]:
        return [figure for one in (self.image_to_report, self.report_to_image) for figure in one.recall.values()]

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        return {
            "name": self.name,
            "average": self.average,
            "classes": self.classes,
            "image_to_report": self.image_to_report.to_dict(),
            "report_to_image": self.report_to_image.to_dict(),
            "rsum": self.rsum,
            "chance_rsum": self.chance_rsum,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Everything that the labels of the pairs allow."""

    pairs: int
    patients: int
    """Distinct patients, or pairs where the file names no patient: the unit of the bootstrap."""

    labelled: int
    """Pairs whose findings are known: finding sets, labels and classes are judged among them."""

    protocols: tuple[Protocol, ...]
    labels: tuple[LabelFigures, ...]
    classes: ClassFigures | None
    """None where the pairs have too few radiographs with one of the classes and nothing else."""

    @property
    def mean_average_precision(self) -> float | None:
        """Mean over labels (label mAP); None without labels."""
        return float(np.mean([one.average_precision for one in self.labels])) if self.labels else None

    @property
    def chance_mean_average_precision(self) -> float | None:
        """Label mAP that a random ranking gets on average; None without labels."""
        return float(np.mean([one.chance_average_precision for one in self.labels])) if self.labels else None

    def protocol(self, name: str) -> Protocol:
        """Return one protocol by name; raises `ConfigError` when the pairs do not allow it."""
        for one in self.protocols:
            if one.name == name:
                return one
        raise ConfigError(f"no protocol {name!r}; there are {', '.join(one.name for one in self.protocols)}")

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        return {
            "pairs": self.pairs,
            "patients": self.patients,
            "labelled": self.labelled,
            "protocols": [one.to_dict() for one in self.protocols],
            "labels": [one.to_dict() for one in self.labels],
            "mean_average_precision": self.mean_average_precision,
            "chance_mean_average_precision": self.chance_mean_average_precision,
            "classes": None if self.classes is None else self.classes.to_dict(),
        }

    def markdown(self) -> str:
        """Render the figures as Markdown tables."""
        lines = _retrieval_lines(self)
        if self.labels:
            mean, chance = float(self.mean_average_precision or 0), float(self.chance_mean_average_precision or 0)
            lines += ["", *label_lines(self.labels), "", f"Label mAP {100 * mean:.1f} % (chance {100 * chance:.1f})."]
        if self.classes is not None:
            lines += ["", *class_lines(self.classes)]
        return "\n".join(lines) + "\n"


def evaluate_pairs(
    images: Vectors,
    reports: Vectors,
    pairs: Sequence[Pair],
    *,
    encode_text: EncodeText | None = None,
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Evaluate unit vectors of images [N, D] and reports [N, D], row i from pair i, under every protocol they allow.

    Finding sets, labels and classes are judged among the pairs that have findings; the figures by label need `encode_text`
    too, which embeds the prompts.
    Raises `ConfigError` when the arrays do not fit the pairs or are not unit vectors.
    """
    _check_vectors(images, reports, pairs)
    groups = _numbered(pair.patient if pair.patient is not None else row for row, pair in enumerate(pairs))
    words = [" ".join(pair.report.lower().split()) for pair in pairs]
    own = np.arange(len(pairs))
    first = _first_of_each(words, [str(pair.image) for pair in pairs])

    def protocol(name: str, labels: Integers, rows: Integers, *, macro: bool = False) -> Protocol:
        ways = [
            _direction(
                one[rows],
                other[rows],
                labels[rows],
                _numbered(groups[rows]),
                macro=macro,
                ks=ks,
                count=resamples,
                seed=seed,
            )
            for one, other in ((images, reports), (reports, images))
        ]
        return Protocol(
            name=name,
            average="macro" if macro else "micro",
            classes=len(np.unique(labels[rows])),
            image_to_report=ways[0],
            report_to_image=ways[1],
        )

    protocols = [protocol("diagonal", own, own), protocol("reports", _numbered(words), own)]
    labels: tuple[LabelFigures, ...] = ()
    classes: ClassFigures | None = None
    known = np.array([row for row, pair in enumerate(pairs) if pair.findings is not None], dtype=np.int64)
    if len(known) > 1:
        findings = [pairs[row].findings or "" for row in known]
        sets = np.full(len(pairs), -1, dtype=np.int64)
        sets[known] = _numbered(finding_set_key(one) for one in findings)
        protocols.append(protocol("finding sets", sets, known, macro=True))
        whose = _numbered(groups[known])
        if encode_text is not None:
            labels = evaluate_labels(
                images[known], findings, encode_text, groups=whose, ks=ks, resamples=resamples, seed=seed
            )
        classes = evaluate_classes(
            images[known],
            reports[known],
            findings,
            encode_text=encode_text,
            groups=whose,
            resamples=resamples,
            seed=seed,
        )
    if len(first) > 1:
        protocols.append(protocol("deduplicated", own, first))
    return Evaluation(
        pairs=len(pairs),
        patients=int(groups.max()) + 1,
        labelled=len(known),
        protocols=tuple(protocols),
        labels=labels,
        classes=classes,
    )


def _direction(
    queries: Vectors, gallery: Vectors, labels: Integers, groups: Integers, *,
    macro: bool, ks: Sequence[int], count: int, seed: int,
) -> Direction:  # fmt: skip
    """Retrieve gallery [N, D] with queries [N, D] whose rows carry the same labels [N]."""
    ranks = metrics.label_ranks(queries, gallery, labels, labels)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    relevant = counts[inverse]
    weights = metrics.macro_weights(labels) if macro else np.ones(len(labels))
    hits = np.stack([ranks <= k for k in ks], axis=1).astype(np.float64)
    value, low, high = metrics.mean_interval(hits, weights, groups, count=count, seed=seed)
    chance = [np.average(metrics.chance_of_hit(len(gallery), relevant, k), weights=weights) for k in ks]
    return Direction(
        queries=len(queries),
        gallery=len(gallery),
        recall={
            k: Interval(value=float(value[i]), low=float(low[i]), high=float(high[i]), chance=float(chance[i]))
            for i, k in enumerate(ks)
        },
        median_rank=metrics.median_rank(ranks, weights),
        chance_median_rank=metrics.chance_median_rank(len(gallery), relevant, weights),
    )


def _check_vectors(images: Vectors, reports: Vectors, pairs: Sequence[Pair]) -> None:
    for name, vectors in (("images", images), ("reports", reports)):
        if vectors.ndim != 2 or len(vectors) != len(pairs) or vectors.shape != images.shape:
            raise ConfigError(
                f"{name} must be one vector a pair of one length, got {list(vectors.shape)} for {len(pairs)} pairs"
            )
        if not (np.abs(np.linalg.norm(vectors, axis=1) - 1.0) < 1e-3).all():
            raise ConfigError(f"the vectors of {name} must have length 1")
    if len(pairs) < 2:
        raise ConfigError(f"retrieval needs at least 2 pairs, got {len(pairs)}")


def _numbered(keys: Iterable[Hashable]) -> Integers:
    """Number equal keys alike, from 0 in order of appearance."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(key, len(seen)) for key in keys], dtype=np.int64)


def _first_of_each(words: Sequence[str], images: Sequence[str]) -> Integers:
    """Rows whose report and whose image have not occurred before."""
    reports_seen: set[str] = set()
    images_seen: set[str] = set()
    rows = []
    for row, (report, image) in enumerate(zip(words, images, strict=True)):
        if report not in reports_seen and image not in images_seen:
            reports_seen.add(report)
            images_seen.add(image)
            rows.append(row)
    return np.array(rows, dtype=np.int64)


def _retrieval_lines(evaluation: Evaluation) -> list[str]:
    ks = list(evaluation.protocols[0].image_to_report.recall)
    columns = [
        "protocol",
        "direction",
        "gallery",
        *(f"R@{k} % [95 %] (chance)" for k in ks),
        "median rank (chance)",
        "RSUM (chance)",
    ]
    lines = [
        f"{evaluation.pairs} pairs, {evaluation.labelled} of them with known findings, {evaluation.patients} patients. "
        "Ties count against the model; intervals are bootstrapped by patient.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for one in evaluation.protocols:
        name = f"{one.name} ({one.classes}, {one.average})"
        for way, figures in (("image → report", one.image_to_report), ("report → image", one.report_to_image)):
            recalls = [f"{r.text()} ({100 * r.chance:.1f})" for r in figures.recall.values()]
            rank = f"{figures.median_rank} ({figures.chance_median_rank})"
            rsum = f"{one.rsum:.1f} ({one.chance_rsum:.1f})"
            lines.append(f"| {' | '.join([name, way, str(figures.gallery), *recalls, rank, rsum])} |")
    return lines
