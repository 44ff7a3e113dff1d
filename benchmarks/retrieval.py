"""How well does a bundle find? Recall among held-out phantoms, for each precision and patch budget.

    python -m benchmarks.retrieval [--quick] [--bundle BUNDLE]

Phantoms from seed 100,000 on, which no training saw; an answer is right where the finding sets are the same (kind and side).
Precisions that are made for GPUs run on the CPU as their graphs stand. The last line of stdout is one JSON document.
"""

import time

from benchmarks.harness import Gauge
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from export.budget import within
from export.retrieval import FIRST_SEED, KS, HeldOut, Towers, Vectors, agreement, embed, held_out
from mcr_infer.evaluation.protocols import Direction, evaluate_pairs
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.tower import Purpose

BUDGETS = (1.0, 0.75, 0.5, 0.35)


def run(options: Options) -> Part:
    """Embed held-out phantoms in every precision and budget, and measure what is found."""
    started = time.perf_counter()
    bundle = Bundle.open(options.bundle)
    count = 300 if options.quick else 1000
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Figure] = {}
    points: list[tuple[float, float, float | None, float | None]] = []
    with Gauge() as gauge:
        items = held_out(bundle, count)
        full = embed(_towers(bundle, FULL), items)
        for precision in (FULL, *bundle.precisions):
            towers = _towers(bundle, precision)
            for budget in BUDGETS if precision == FULL and bundle.preprocess.input == "patches" else (1.0,):
                part = items if budget == 1.0 else within(items, budget)
                vectors = embed(towers, part)
                found = _directions(items, vectors)
                cells = [each for one in found for each in (percent(one, 1), percent(one, 10))]
                kept = agreement((full[1], full[0]), (vectors[1], vectors[0]))
                rows.append((precision, f"{budget:.0%}", *cells, round(100 * kept, 1)))
                # In a smaller gallery more is found.
                key = f"retrieval.{bundle.name}.of_{count}.{precision}.{budget:.2f}"
                for name, one in zip(("image_to_report", "report_to_image"), found, strict=True):
                    for k in KS:
                        figures[f"{key}.{name}.r{k}"] = Figure(measure=percent(one, k), unit="%", better="higher")
                if precision == FULL:
                    rate = percent(found[1], 10)
                    points.append((100 * budget, rate.value, rate.low, rate.high))
            gauge.tick()
    recall = [
        Column(name=f"R@{k} {way}", unit="%", better="higher")
        for way in ("image → report", "report → image")
        for k in KS
    ]
    return Part(
        name="retrieval",
        title="What is found",
        question="How often does the bundle find what shows the same, in each precision and patch budget?",
        command="python -m benchmarks.retrieval",
        tables=(
            Table(
                title=f"{count} held-out phantoms from seed {FIRST_SEED:,}, finding sets",
                columns=(
                    Column(name="precision"),
                    Column(name="patches"),
                    *recall,
                    Column(name="first ten that stay, report → image", unit="%", better="higher"),
                ),
                rows=tuple(rows),
                note="Means over finding sets, each of which counts the same; 95 % intervals of the bootstrap by patient. "
                "The phantoms are 256 pixels a side; the model card has them as files of 512.",
            ),
        ),
        plots=(
            Plot(
                title="Recall of the right image among ten, by patch budget",
                kind="line",
                x=Column(name="patches", unit="%"),
                y=Column(name="R@10 report → image", unit="%", better="higher"),
                series=(Series(name=f"{bundle.name}, {FULL}", points=tuple(points)),),
            ),
        ),
        figures=figures,
        notes=((bundle.notice,) if bundle.notice else ()),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def _towers(bundle: Bundle, precision: str) -> Towers:
    variant = bundle.variant(precision)
    purpose: Purpose = "bulk" if variant is None or "cpu" in variant.runtimes else "proof"
    return {
        side: open_tower(bundle, side, device="cpu", precision=precision, purpose=purpose) for side in ("image", "text")
    }


def _directions(items: HeldOut, vectors: tuple[Vectors, Vectors]) -> tuple[Direction, Direction]:
    found = evaluate_pairs(*vectors, items.pairs, ks=KS).protocol("finding sets")
    return found.image_to_report, found.report_to_image


def percent(direction: Direction, k: int) -> Measure:
    """Return recall at k in percent with its interval."""
    one = direction.recall[k]
    return Measure(value=round(100 * one.value, 1), low=round(100 * one.low, 1), high=round(100 * one.high, 1))


if __name__ == "__main__":
    run_alone(run)
