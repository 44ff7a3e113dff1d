"""Readers of documents about what is found, and about training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.earlier_values import Document, figure
from benchmarks.part import Cell, Column, Figure, Measure, Part, Plot, Series, Table

_WAYS = {"image_to_report": "image → report", "report_to_image": "report → image"}


def budget(values: Document, taken: str) -> Part:
    """Read `results/budget.json`."""
    speed, retrieval = values["speed"], values["retrieval"]
    whole = retrieval["as served"][0]
    columns = [
        Column(name="patches"),
        Column(name="chosen"),
        *(Column(name=f"R@{k} {way}", unit="%", better="higher") for k in (1, 10) for way in _WAYS.values()),
        Column(name="first ten that stay, text → image", unit="%", better="higher"),
        Column(name="largest loss of a finding", unit="points"),
    ]
    rows: list[tuple[Cell, ...]] = []
    for chosen, runs in retrieval.items():
        for run in runs:
            finding, loss = max(run["finding_recall_loss"].items(), key=lambda item: item[1])
            rows.append(
                (
                    *(f"{run['budget']:.0%}", "all" if run["budget"] == 1 else chosen),
                    *(round(100 * run["recall"][f"{way}_r{k}"], 1) for k in (1, 10) for way in _WAYS),
                    round(100 * run["top10_agreement"]["text_to_image"], 1),
                    "" if run["budget"] == 1 else f"{100 * loss:.1f} ({finding})",
                )
            )
    figures = {
        f"budget.{use['precision']}.{use['budget']:g}.speed": figure(
            use["images_per_core_second"], "radiographs/core-s", "higher"
        )
        for use in speed
    }
    for run in retrieval["as served"]:
        for name, value in run["recall"].items():
            figures[f"budget.{run['budget']:g}.{name}"] = figure(round(100 * value, 2), "%", "higher")
    figures |= _over_random(retrieval)
    for way in _WAYS:
        figures[f"budget.1.{way}_r1"] = figure(round(100 * whole["recall"][f"{way}_r1"], 2), "%", "higher")
    return Part(
        name="budget",
        title="Patch budgets",
        question="What does showing the tower fewer patches bring and cost, beside other choices of as many?",
        command="python -m benchmarks.budget",
        taken=taken,
        tables=(
            Table(
                title="The image tower alone",
                columns=(
                    Column(name="patches"),
                    Column(name="precision"),
                    Column(name="speed", unit="radiographs/core-s", better="higher"),
                    Column(name="over all patches in fp32", unit="×", better="higher"),
                ),
                rows=tuple(
                    (f"{u['budget']:.0%}", u["precision"], u["images_per_core_second"], u["over_all_patches_in_fp32"])
                    for u in speed
                ),
            ),
            Table(
                title=f"Retrieval among {values['phantoms']:,} phantoms, finding sets, fp32",
                columns=tuple(columns),
                rows=tuple(rows),
            ),
        ),
        plots=(
            Plot(
                title="R@10 by budget, report → image",
                kind="line",
                x=Column(name="patches shown", unit="%"),
                y=Column(name="R@10", unit="%", better="higher"),
                series=tuple(_budget_line(chosen, [whole, *runs]) for chosen, runs in retrieval.items()),
            ),
            Plot(
                title="Speed by budget",
                kind="line",
                x=Column(name="patches shown", unit="%"),
                y=Column(name="speed", unit="radiographs/core-s", better="higher"),
                series=tuple(
                    Series(
                        name=precision,
                        points=tuple(
                            (100 * u["budget"], u["images_per_core_second"], None, None)
                            for u in speed
                            if u["precision"] == precision
                        ),
                    )
                    for precision in sorted({u["precision"] for u in speed})
                ),
            ),
        ),
        figures=figures,
    )


def _over_random(retrieval: Document) -> dict[str, Figure]:
    """Return what each choice of patches keeps of R@10 that drawing as many loses, in points, and its R@10."""
    drawn = {run["budget"]: run["recall"] for run in retrieval["random"]}
    found = {}
    for chosen, runs in retrieval.items():
        for run in (run for run in runs if run["budget"] in drawn):
            for way in _WAYS:
                key, value = f"{way}_r10", run["recall"][f"{way}_r10"]
                name = f"budget.{run['budget']:g}.{chosen.replace(' ', '_')}.{key}"
                found[name] = figure(round(100 * value, 2), "%", "higher")
                found[f"{name}.over_random"] = figure(100 * (value - drawn[run["budget"]][key]), "points", "higher")
    return found


def _budget_line(chosen: str, runs: list[Document]) -> Series:
    found = {100 * run["budget"]: 100 * run["recall"]["report_to_image_r10"] for run in runs}
    return Series(name=chosen, points=tuple((x, y, None, None) for x, y in sorted(found.items())))


def language(values: Document, taken: str) -> Part:
    """Read `results/language.json`."""
    means, groups, denials = values["mean_over_sentences"], values["groups"], values["denials"]
    bounds = means["intervals"]
    ways = {"paraphrase": "other words", "generated": "the training's own words"}
    whole = {way: Measure(value=100 * means[way], low=100 * bounds[way][0], high=100 * bounds[way][1]) for way in ways}
    return Part(
        name="language",
        title="Language",
        question="Does the bundle understand words that its training never used, and denials?",
        command="python -m benchmarks.language",
        taken=taken,
        tables=(
            Table(
                title=f"Right answers among the first {values['top']}, {values['sentences']} sentences",
                columns=(
                    Column(name="findings"),
                    Column(name="sentences"),
                    *(Column(name=told, unit="%", better="higher") for told in ways.values()),
                    Column(name="chance", unit="%"),
                ),
                rows=(
                    ("all sentences", values["sentences"], *whole.values(), round(100 * means["base_rate"], 1)),
                    *(
                        (name, one["sentences"], *(round(100 * one[key], 1) for key in (*ways, "base_rate")))
                        for name, one in groups.items()
                    ),
                ),
                note="A sentence that names two kinds is in both rows. Intervals: sentences drawn again.",
            ),
            Table(
                title=f"Share of the first {values['top']} that shows a finding",
                columns=(
                    Column(name="finding"),
                    Column(name="when denied", unit="%", better="lower"),
                    Column(name="when asked for", unit="%", better="higher"),
                    Column(name="chance", unit="%"),
                ),
                rows=tuple(
                    (
                        name,
                        *(round(100 * one[key], 1) for key in ("shown_when_denied", "shown_when_asked", "base_rate")),
                    )
                    for name, one in denials.items()
                ),
            ),
        ),
        plots=(
            Plot(
                title=f"Right answers among the first {values['top']}",
                kind="bar",
                x=Column(name="findings"),
                y=Column(name="right answers", unit="%", better="higher"),
                x_names=tuple(groups),
                series=tuple(
                    Series(
                        name=told,
                        points=tuple(
                            (float(i), round(100 * one[way], 1), None, None) for i, one in enumerate(groups.values())
                        ),
                    )
                    for way, told in ways.items()
                ),
            ),
        ),
        figures={"language.sentences": figure(values["sentences"], "sentences", "")}
        | {
            f"language.{way}": Figure(
                measure=whole[way],
                unit="%",
                better="higher",
                headline=f"of the first {values['top']} answers are right, asked in words that training never used"
                if way == "paraphrase"
                else "",
            )
            for way in ways
        },
    )


def frameworks(values: Document, taken: str) -> Part:
    """Read `train/results/frameworks.json`."""
    kinds = {"mcr": "MCR", "dual_stream": "dual stream"}
    figures = {}
    for name, one in values.items():
        for what, told in (("time", "of the time"), ("memory", "of the memory")):
            figures[f"frameworks.{name}.{what}"] = figure(
                one[f"{what}_ratio"],
                "×",
                "lower",
                f"{told} of a dual-stream step, ViT-B/16 and BERT-base" if name == "mimic_cxr_vitb16" else "",
            )
    return Part(
        name="frameworks",
        title="A training step",
        question="What does a step of MCR cost beside one of the dual-stream framework?",
        command="python -m benchmarks.frameworks --config FILE.toml",
        taken=taken,
        tables=(
            Table(
                title="A step",
                columns=(
                    Column(name="configuration"),
                    Column(name="batch"),
                    *(Column(name=told, unit="s", better="lower") for told in kinds.values()),
                    Column(name="time, MCR over dual stream", unit="×", better="lower"),
                    *(Column(name=told, unit="MiB", better="lower") for told in kinds.values()),
                    Column(name="memory, MCR over dual stream", unit="×", better="lower"),
                ),
                rows=tuple(
                    (
                        *(one["config"], one["batch"], *(one[kind]["seconds"] for kind in kinds), one["time_ratio"]),
                        *(*(one[kind]["peak_mib"] for kind in kinds), one["memory_ratio"]),
                    )
                    for one in values.values()
                ),
            ),
        ),
        plots=(
            Plot(
                title="A step of MCR over one of dual stream",
                kind="bar",
                x=Column(name="configuration"),
                y=Column(name="MCR over dual stream", unit="×", better="lower"),
                x_names=tuple(one["config"] for one in values.values()),
                series=tuple(
                    Series(
                        name=what,
                        points=tuple(
                            (float(i), one[f"{what}_ratio"], None, None) for i, one in enumerate(values.values())
                        ),
                    )
                    for what in ("time", "memory")
                ),
            ),
        ),
        figures=figures,
    )


def proof(values: Document, taken: str) -> Part:
    """Read `train/results/proof.json`."""
    shown = {"image_to_report_r10": "R@10 image → report", "report_to_image_r10": "R@10 report → image"}
    plots = []
    for name, runs in values["tables"].items():
        series = [
            Series(
                name=told.removeprefix("R@10 "),
                points=tuple((float(i), *_spread(run[key])) for i, run in enumerate(runs.values())),
            )
            for key, told in shown.items()
        ]
        plots.append(
            Plot(
                title=f"R@10: {name}",
                kind="bar",
                x=Column(name=name),
                y=Column(name="R@10", unit="%", better="higher"),
                x_names=tuple(runs),
                series=tuple(series),
                note="Whiskers: one standard deviation of the seeds.",
            )
        )
    return Part(
        name="proof",
        title="The parts of the method",
        question="What does each part of the method bring, in many short trainings on phantoms?",
        command="python -m train.ablation",
        taken=taken,
        tables=tuple(
            Table(
                title=name[0].upper() + name[1:],
                columns=(
                    Column(name="variant"),
                    Column(name="steps"),
                    Column(name="seeds"),
                    *(Column(name=told, unit="%", better="higher") for told in shown.values()),
                ),
                rows=tuple(
                    (
                        *(variant, run["steps"], len(run["seeds"])),
                        *(f"{run[key]['mean']} ± {run[key]['sd']}" for key in shown),
                    )
                    for variant, run in runs.items()
                ),
                note="Mean and standard deviation of the seeds.",
            )
            for name, runs in values["tables"].items()
        ),
        plots=tuple(plots),
        figures={
            f"proof.{table}.{variant}.{key}".replace(" ", "_").replace(",", ""): Figure(
                measure=Measure(value=run[key]["mean"]), unit="%", better="higher"
            )
            for table, runs in values["tables"].items()
            for variant, run in runs.items()
            for key in shown
        },
    )


def _spread(value: Mapping[str, float]) -> tuple[float, float, float]:
    return value["mean"], value["mean"] - value["sd"], value["mean"] + value["sd"]


def long_texts(values: Document, taken: str) -> Part:
    """Read `results/long_texts.json`, which has the shape of the report."""
    return replace(Part.from_dict(values), taken=taken)


QUALITY: Mapping[str, Callable[[Any, str], Part]] = {
    "benchmarks/results/budget.json": budget,
    "benchmarks/results/language.json": language,
    "benchmarks/results/long_texts.json": long_texts,
    "train/results/frameworks.json": frameworks,
    "train/results/proof.json": proof,
}
