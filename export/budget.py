"""A bundle gets a recommended patch budget: `python -m export.budget BUNDLE`.

    held-out phantoms -> their patches within each budget -> retrieval against all patches -> the manifest

Recommended is the smallest budget that, as every larger one that was measured, loses less than a point of recall@10 of
finding sets, each way, and of the recall of every single finding. 1.0 where none does. It is measured on phantoms: they
know no real finding, which is why it is never the default. The fingerprint stays. No torch here.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.folder import changed_bundle, write_patch_budget
from export.retrieval import FIRST_SEED, HeldOut, Vectors, agreement, embed_images, embed_reports, held_out, recalls
from mcr_infer.cli import streams
from mcr_infer.errors import ConfigError, McrError
from mcr_infer.evaluation import metrics
from mcr_infer.evaluation.finding_labels import finding_labels_match
from mcr_infer.evaluation.zero_shot import EncodeText
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.encoder import TextEncoder
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.patch_budget import chosen_positions, count_of
from mcr_infer.inference.tower import Tower
from mcr_infer.phantom import FIRST_TRAINING_SEED
from mcr_infer.phantom.findings import KINDS

BUDGETS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35, 0.25)
"""What is measured, each against all patches."""

LIMIT = 0.01
"""A point: what a recommended budget must lose less than."""

PROMPTS = ("{}", "There is {}.", "Evidence of {}.", "Findings are consistent with {}.")
"""How a finding is asked for; its recall is the mean over them, since a single wording moves by chance."""

PHANTOMS = 4000
FEWEST_PHANTOMS = 20

WAYS = ("image_to_report", "report_to_image")

Choice = Callable[[Vectors, int, int], NDArray[np.int64]]
"""Patches [N, P*P] of a picture, how many of them, and the row of the picture -> positions [K]."""


def as_served(patches: Vectors, count: int, _: int) -> NDArray[np.int64]:
    """Choose patches as the wheel does."""
    return chosen_positions(patches, count)


def within(items: HeldOut, budget: float, choice: Choice = as_served) -> HeldOut:
    """Leave the patches of a budget of phantoms with all of them."""
    count = count_of(budget, items.patches.shape[1])
    if count == items.patches.shape[1]:
        return items
    positions = np.stack([choice(patches, count, row) for row, patches in enumerate(items.patches)])
    patches = np.take_along_axis(items.patches, positions[:, :, None], axis=1)
    return replace(items, patches=patches, positions=positions)


def finding_recalls(images: Vectors, items: HeldOut, encode: EncodeText) -> dict[str, float]:
    """Return the recall of each kind of finding that some phantoms show, over images [N, D].

    Asked for a kind that n phantoms show, the share of them among the first n; mean over `PROMPTS`.
    """
    found = {}
    for kind in KINDS:
        shows = np.array([finding_labels_match(kind, pair.findings or "") for pair in items.pairs])
        if not 0 < shows.sum() < len(shows):
            continue
        scores = encode([words.format(kind) for words in PROMPTS]).astype(np.float64) @ images.T
        ranked = metrics.ranked_relevance(scores, np.tile(shows, (len(PROMPTS), 1)))
        found[kind] = round(float(metrics.precision_at(ranked, int(shows.sum())).mean()), 5)
    return found


class Yardstick:
    """Held-out phantoms and what retrieval among them gives with all patches, to measure budgets against."""

    def __init__(self, bundle: Bundle, items: HeldOut) -> None:
        self.items = items
        self._tower: Tower = open_tower(bundle, "image", device="cpu")
        self._encode = TextEncoder(bundle, device="cpu").encode
        self._reports = embed_reports(open_tower(bundle, "text", device="cpu"), items)
        self._full = embed_images(self._tower, items)
        self.whole = self._figures(self._full)

    def measure(self, budget: float, choice: Choice = as_served) -> dict[str, Any]:
        """Measure a budget; the row of a table, shares from 0 to 1."""
        part = within(self.items, budget, choice)
        images = self._full if part is self.items else embed_images(self._tower, part)
        figures = self._figures(images)
        return {
            "budget": budget,
            "patches": part.patches.shape[1],
            **figures,
            "recall_loss": _less(self.whole["recall"], figures["recall"]),
            "finding_recall_loss": _less(self.whole["finding_recall"], figures["finding_recall"]),
            "top10_agreement": {
                "text_to_image": agreement((self._reports, self._full), (self._reports, images)),
                "image_to_report": agreement((self._full, self._reports), (images, self._reports)),
            },
        }

    def _figures(self, images: Vectors) -> dict[str, Any]:
        return {
            "recall": recalls(self.items, (images, self._reports)),
            "finding_recall": finding_recalls(images, self.items, self._encode),
        }


def broken_limits(row: Mapping[str, Any]) -> list[str]:
    """Name what a budget loses too much of, in words; NaN is too much."""
    lost = {name: loss for name, loss in row["recall_loss"].items() if name.endswith("_r10")}
    lost |= {f"recall of {kind}": loss for kind, loss in row["finding_recall_loss"].items()}
    return [f"{name}: {100 * loss:.2f} points" for name, loss in lost.items() if not loss < LIMIT]


def recommended(table: Sequence[Mapping[str, Any]]) -> float:
    """Return the smallest budget of a table that loses little, as all larger ones in it do; 1.0 where none does."""
    best = 1.0
    for row in sorted(table, key=lambda row: -float(row["budget"])):
        if row["broken_limits"]:
            break
        best = float(row["budget"])
    return best


def add_budget(path: Path, *, phantoms: int = PHANTOMS, budgets: Sequence[float] = BUDGETS) -> Bundle:
    """Measure the budgets of a bundle and write the recommended one, with the table, into its manifest.

    Raises `ConfigError` where its image tower takes whole pictures, `BundleError` with what is wrong with the bundle; it
    stays as it was then.
    """
    if not FEWEST_PHANTOMS <= phantoms <= FIRST_TRAINING_SEED // 2:
        raise ConfigError(f"--phantoms must be from {FEWEST_PHANTOMS} to {FIRST_TRAINING_SEED // 2}, got {phantoms}")
    bundle = Bundle.open(path)
    for budget in budgets:
        bundle.preprocess.patches_within(budget)
    with changed_bundle(bundle) as folder:
        yardstick = Yardstick(bundle, held_out(bundle, phantoms))
        table = [yardstick.measure(budget) for budget in budgets]
        for row in table:
            row["broken_limits"] = broken_limits(row)
        record = {
            "recommended": recommended(table),
            "precision": FULL,
            "phantoms": phantoms,
            "first_seed": FIRST_SEED,
            "limit": LIMIT,
            "prompts": list(PROMPTS),
            "all_patches": yardstick.whole,
            "table": table,
        }
        write_patch_budget(folder, record)
    return Bundle.open(path)


def table_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Render rows of `Yardstick.measure` as the lines of a Markdown table."""
    columns = (
        "budget", "R@1 i→r, r→i %", "R@10 i→r, r→i %", "first ten that stay t→i, i→r %", "recall of findings %",
        "largest loss of a finding",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        recall, stay = row["recall"], row["top10_agreement"]
        kind, loss = max(row["finding_recall_loss"].items(), key=lambda one: one[1])
        found = np.mean(list(row["finding_recall"].values()))
        cells = (
            f"{row['budget']:.0%}",
            *(", ".join(f"{100 * recall[f'{way}_{k}']:.1f}" for way in WAYS) for k in ("r1", "r10")),
            ", ".join(f"{100 * stay[way]:.1f}" for way in ("text_to_image", "image_to_report")),
            f"{100 * found:.1f}",
            f"{100 * loss:.1f} ({kind})" if loss > 0 else "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _less(whole: Mapping[str, float], part: Mapping[str, float]) -> dict[str, float]:
    return {name: round(whole[name] - value, 5) for name, value in part.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    parser = argparse.ArgumentParser(prog="python -m export.budget", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle; it is replaced as a whole")
    parser.add_argument("--phantoms", type=int, default=PHANTOMS, metavar="N", help=f"{PHANTOMS} if not given")
    options = parser.parse_args(arguments)
    try:
        bundle = add_budget(options.bundle, phantoms=options.phantoms)
    except McrError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    table: Any = bundle.manifest["patch_budget"]
    streams.say(
        f"{bundle.path}: {bundle.name} recommends {bundle.recommended_budget}, fingerprint {bundle.fingerprint}"
    )
    print("\n".join(table_lines(table["table"])))
    for row in table["table"]:
        if row["broken_limits"]:
            print(f"{row['budget']:.0%} loses too much: {'; '.join(row['broken_limits'])}")
    return 0


if __name__ == "__main__":
    streams.run(main)
