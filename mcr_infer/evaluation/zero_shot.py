"""What finding labels let us measure beside retrieval of pairs: each label as a question, and classes against each other.

    labels     every kind, and every kind with its side, asked as `There is X.` over all radiographs: zero-shot AUROC
               against `No X.`, precision@k, average precision
    classes    radiographs that show one of a few findings and nothing else, the same number of each: precision@k by
               shared class, in the form of CheXpert 5x200 (Huang et al., GLoRIA, ICCV 2021)

The rules are those of `evaluation.protocols`: ties count against the model, intervals are bootstrapped by patient over the
queries with the gallery held fixed, and beside each figure stands what a random ranking gets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_labels_match, query_labels, split_findings
from mcr_infer.evaluation.metrics import KS, RESAMPLES, Bools, Floats, Integers, Interval

Vectors = NDArray[np.float32]
EncodeText = Callable[[Sequence[str]], Vectors]

CLASSES = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion")
"""The five findings of the CheXpert competition (Irvin et al., arXiv 1901.07031); `edema` is pulmonary edema, too."""

TOO_FEW = f"no interval, since fewer than {metrics.LEAST_FOR_INTERVAL} patients have the finding, or fewer lack it"

PER_CLASS = 200
CLASS_KS = (5, 10, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFigures:
    """What one finding label does as a query over all radiographs."""

    label: str
    positives: int
    count: int
    auroc: Interval
    """Zero-shot: similarity to `label` minus similarity to its negation."""

    precision: dict[int, float]
    """Share of the first k radiographs that have it, by k."""

    average_precision: float

    @property
    def base_rate(self) -> float:
        """Share of all radiographs that have it: the precision of a random ranking."""
        return self.positives / self.count

    @property
    def chance_average_precision(self) -> float:
        """Average precision that a random ranking gets on average."""
        return metrics.chance_of_average_precision(self.count, self.positives)

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        return {
            "label": self.label,
            "positives": self.positives,
            "count": self.count,
            "base_rate": self.base_rate,
            "auroc": self.auroc.to_dict(),
            "auroc_interval": "bootstrap by patient" if self.auroc.low is not None else TOO_FEW,
            "precision": {str(k): value for k, value in self.precision.items()},
            "average_precision": self.average_precision,
            "chance_average_precision": self.chance_average_precision,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """Precision by shared class among radiographs that show one class each and nothing else."""

    classes: tuple[str, ...]
    per_class: int
    """Radiographs of each class: the first of them in the order of the pairs."""

    image_to_report: dict[int, Interval]
    """Share of the first k reports whose radiograph has the class of the query, by k; its own report counts."""

    image_to_image: dict[int, Interval]
    """The same among radiographs, without the query and without others of its patient."""

    prompt_to_image: dict[int, float] | None
    """`There is CLASS.` over the radiographs, mean over the classes, by k; None where no text can be embedded."""

    @property
    def gallery(self) -> int:
        """Radiographs of all classes together."""
        return len(self.classes) * self.per_class

    def to_dict(self) -> dict[str, object]:
        """Return the figures as JSON takes them."""
        prompts = self.prompt_to_image
        return {
            "classes": list(self.classes),
            "per_class": self.per_class,
            "gallery": self.gallery,
            "image_to_report": {str(k): figure.to_dict() for k, figure in self.image_to_report.items()},
            "image_to_image": {str(k): figure.to_dict() for k, figure in self.image_to_image.items()},
            "prompt_to_image": prompts if prompts is None else {str(k): value for k, value in prompts.items()},
        }


def evaluate_labels(
    images: Vectors,
    findings: Sequence[str],
    encode_text: EncodeText,
    *,
    groups: Integers | None = None,
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[LabelFigures, ...]:
    """Query images [N, D] for every label that some of them have, by kind and by kind and side, and some have not.

    The prompts are `There is LABEL.` and `No LABEL.`; precision and average precision come from the positive one.
    """
    groups = np.arange(len(images)) if groups is None else groups
    asked = query_labels(findings)
    has = {label: np.array([finding_labels_match(label, one) for one in findings]) for label in asked}
    asked = [label for label in asked if not has[label].all()]
    if not asked:
        return ()
    positive = images @ encode_text([f"There is {label}." for label in asked]).T
    negative = images @ encode_text([f"No {label}." for label in asked]).T
    figures = []
    for column, label in enumerate(asked):
        scores, relevant = positive[:, column].astype(np.float64), has[label]
        ranked = metrics.ranked_relevance(scores[None, :], relevant[None, :])
        figures.append(
            LabelFigures(
                label=label,
                positives=int(relevant.sum()),
                count=len(images),
                auroc=metrics.auroc_interval(
                    scores - negative[:, column], relevant, groups, count=resamples, seed=seed
                ),
                precision={k: float(metrics.precision_at(ranked, k)[0]) for k in ks},
                average_precision=float(metrics.average_precision(ranked)[0]),
            )
        )
    return tuple(figures)


def evaluate_classes(
    images: Vectors,
    reports: Vectors,
    findings: Sequence[str],
    *,
    encode_text: EncodeText | None = None,
    groups: Integers | None = None,
    classes: Sequence[str] = CLASSES,
    per_class: int = PER_CLASS,
    ks: Sequence[int] = CLASS_KS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ClassFigures | None:
    """Measure precision@k by shared class for images [N, D] and reports [N, D], row i with `findings[i]`.

    A radiograph belongs to a class when each of its labels, at least one, has all the words of the class. Where a class
    has fewer than `per_class`, every class gets as many as the smallest has; a k that is not below that number is left
    out, since not even a perfect ranking of images without the query would reach 1. Returns None where no k is left.
    """
    rows, labels = exclusive_rows(findings, classes, per_class)
    size = len(rows) // len(classes)
    ks = [k for k in ks if k < size]
    if not ks:
        return None
    groups = np.arange(len(images)) if groups is None else groups
    _, patients = np.unique(groups[rows], return_inverse=True)
    same = labels[:, None] == labels[None, :]
    other = patients[:, None] != patients[None, :]

    def figures(scores: Floats, relevant: Bools, allowed: Bools) -> dict[int, Interval]:
        ranked = metrics.ranked_relevance(np.where(allowed, scores, -np.inf), relevant & allowed)
        precision = np.stack([metrics.precision_at(ranked, k) for k in ks], axis=1)
        value, low, high = metrics.mean_interval(precision, np.ones(len(rows)), patients, count=resamples, seed=seed)
        chance = float(np.mean((relevant & allowed).sum(axis=1) / np.maximum(1, allowed.sum(axis=1))))
        return {
            k: Interval(value=float(value[i]), low=float(low[i]), high=float(high[i]), chance=chance)
            for i, k in enumerate(ks)
        }

    chosen = images[rows].astype(np.float64)
    prompts: dict[int, float] | None = None
    if encode_text is not None:
        asked = encode_text([f"There is {name}." for name in classes]).astype(np.float64)
        ranked = metrics.ranked_relevance(asked @ chosen.T, np.arange(len(classes))[:, None] == labels[None, :])
        prompts = {k: float(metrics.precision_at(ranked, k).mean()) for k in ks}
    return ClassFigures(
        classes=tuple(classes),
        per_class=size,
        image_to_report=figures(chosen @ reports[rows].astype(np.float64).T, same, np.ones_like(same)),
        image_to_image=figures(chosen @ chosen.T, same, other),
        prompt_to_image=prompts,
    )


def exclusive_rows(findings: Sequence[str], classes: Sequence[str], per_class: int) -> tuple[Integers, Integers]:
    """Return the rows whose labels all belong to one class, the first `per_class` of each class, and their classes.

    Both are [C * M], class by class; M is `per_class` or the size of the smallest class.
    """
    found: list[list[int]] = [[] for _ in classes]
    for row, one in enumerate(findings):
        present = split_findings(one)
        for number, name in enumerate(classes):
            if present and all(finding_labels_match(name, label) for label in present):
                found[number].append(row)
    size = min(per_class, *map(len, found))
    rows = np.array([row for each in found for row in each[:size]], dtype=np.int64)
    return rows, np.repeat(np.arange(len(classes)), size)


def label_lines(labels: Sequence[LabelFigures]) -> list[str]:
    """Render the figures by label as the lines of a Markdown table."""
    ks = list(labels[0].precision)
    columns = ["finding", "positives", "base rate %", "AUROC [95 %]", *(f"P@{k} %" for k in ks), "AP % (chance)"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for one in labels:
        cells = [
            one.label,
            f"{one.positives} of {one.count}",
            f"{100 * one.base_rate:.1f}",
            one.auroc.text(scale=1.0, digits=3),
            *(f"{100 * one.precision[k]:.0f}" for k in ks),
            f"{100 * one.average_precision:.1f} ({100 * one.chance_average_precision:.1f})",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if any(one.auroc.low is None for one in labels):
        lines += ["", f"[too few]: {TOO_FEW}."]
    return lines


def class_lines(figures: ClassFigures) -> list[str]:
    """Render precision by shared class as the lines of a Markdown table."""
    ks = list(figures.image_to_report)
    columns = [f"{len(figures.classes)} x {figures.per_class}", "gallery", *(f"P@{k} % [95 %] (chance)" for k in ks)]
    lines = [
        f"Radiographs that show one of {', '.join(figures.classes)} and nothing else:",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]
    for way, precision in (("image → report", figures.image_to_report), ("image → image", figures.image_to_image)):
        cells = [f"{one.text()} ({100 * one.chance:.1f})" for one in precision.values()]
        lines.append(f"| {' | '.join([way, str(figures.gallery), *cells])} |")
    if figures.prompt_to_image is not None:
        cells = [f"{100 * value:.1f} ({100 / len(figures.classes):.1f})" for value in figures.prompt_to_image.values()]
        lines.append(f"| {' | '.join(['prompt → image', str(figures.gallery), *cells])} |")
    return lines
