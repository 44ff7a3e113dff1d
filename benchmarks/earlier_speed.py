"""Readers of documents about commands, sessions and towers."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.earlier_values import Document, bars, figure
from benchmarks.part import Cell, Column, Figure, Part, Plot, Series, Table


def startup(values: Document, taken: str) -> Part:
    """Read `results/startup.json`."""
    return Part(
        name="startup",
        title="Start-up",
        question="How long does a command take before it does anything, beside Python with the bare imports?",
        command="python -m benchmarks.startup",
        taken=taken,
        tables=(_processes(values),),
        plots=(_process_plot(values),),
        figures={
            "startup.query.over_bare_imports": figure(
                values["text query"]["ratio_to_bare"],
                "×",
                "lower",
                "the time of the bare imports: a whole text query, process start included",
            ),
            "startup.query.seconds": figure(values["text query"]["median_s"], "s", "lower"),
            "startup.help.seconds": figure(values["--help"]["median_s"], "s", "lower"),
        },
        notes=("Whole processes in turn: the ratios are what counts.",),
    )


def startup_large(values: Document, taken: str) -> Part:
    """Read `results/startup_large.json`."""
    own = next(name for name in values if name.startswith("text query"))
    return Part(
        name="startup-large",
        title="The first answer of a large text tower",
        question="A text tower of BERT-base's size and 10,000 rows: how long until the first answer, beside two peers?",
        command="python -m benchmarks.startup --large DIR",
        taken=taken,
        tables=(_processes(values),),
        plots=(_process_plot(values),),
        figures={
            "startup.large.query.seconds": figure(values[own]["median_s"], "s", "lower"),
            "startup.large.query.over_bare_imports": figure(values[own]["ratio_to_bare"], "×", "lower"),
            "startup.large.open_clip.over_query": figure(
                values["open_clip"]["median_s"] / values[own]["median_s"],
                "×",
                "higher",
                "as long until the first answer: open_clip beside mcr-infer, text tower of BERT-base's size",
            ),
            "startup.large.sentence_transformers.over_query": figure(
                values["sentence-transformers"]["median_s"] / values[own]["median_s"], "×", "higher"
            ),
        },
        notes=("The query has been asked before: digests of its weights and vectors are remembered.",),
    )


def _processes(values: Document) -> Table:
    rows = [
        (name, one["median_s"], one["ratio_to_bare"], one["processor_median_s"], one["processor_ratio_to_bare"])
        for name, one in _ways(values)
    ]
    return Table(
        title=f"Whole processes, medians of {values['runs']} runs",
        columns=(
            Column(name="process"),
            Column(name="wall", unit="s", better="lower"),
            Column(name="over bare imports", unit="×", better="lower"),
            Column(name="processor", unit="s", better="lower"),
            Column(name="over bare imports", unit="×", better="lower"),
        ),
        rows=tuple(rows),
    )


def _process_plot(values: Document) -> Plot:
    ways = _ways(values)
    return Plot(
        title="Time of a whole process over the bare imports",
        kind="bar",
        x=Column(name="process"),
        y=Column(name="over bare imports", unit="×", better="lower"),
        x_names=tuple(name for name, _ in ways),
        series=(
            Series(name="wall", points=bars([one["ratio_to_bare"] for _, one in ways])),
            Series(name="processor", points=bars([one["processor_ratio_to_bare"] for _, one in ways])),
        ),
    )


def _ways(values: Document) -> list[tuple[str, Document]]:
    return [(name, one) for name, one in values.items() if isinstance(one, dict)]


def sessions(values: Document, taken: str) -> Part:
    """Read `results/sessions.json`."""
    ways = _ways(values)
    keys = ("first_ms", "alone_ms", "together_ms", "together_p95_ms", "together_calls_a_second")
    return Part(
        name="sessions",
        title="Sessions of ONNX Runtime",
        question="What is each way to make a session worth, for one call, for many, and for a server?",
        command="python -m benchmarks.sessions",
        taken=taken,
        tables=(
            Table(
                title=f"Text tower of BERT-base's size, image tower of the phantoms' size, {values['rounds']} rounds",
                columns=(
                    Column(name="recipe"),
                    Column(name="first answer", unit="ms", better="lower"),
                    Column(name="a sentence alone", unit="ms", better="lower"),
                    Column(name="both towers at once, median", unit="ms", better="lower"),
                    Column(name="both towers at once, p95", unit="ms", better="lower"),
                    Column(name="both towers at once", unit="calls/s", better="higher"),
                ),
                rows=tuple((name, *(one[key] for key in keys)) for name, one in ways),
            ),
        ),
        plots=(
            Plot(
                title="First answer, and a sentence while both towers run",
                kind="bar",
                x=Column(name="recipe"),
                y=Column(name="median", unit="ms", better="lower"),
                x_names=tuple(name for name, _ in ways),
                series=(
                    Series(name="first answer", points=bars([one["first_ms"] for _, one in ways])),
                    Series(
                        name="a sentence, both towers at once", points=bars([one["together_ms"] for _, one in ways])
                    ),
                ),
            ),
        ),
        figures={f"sessions.{name}.first_ms": figure(one["first_ms"], "ms", "lower") for name, one in ways},
    )


def towers(values: Document, taken: str) -> Part:
    """Read `results/towers.json`."""
    tables, plots, figures = [], [], {}
    for name, bundle in values["bundles"].items():
        budgets = sorted({use["budget"] for use in bundle["uses"]}, reverse=True)
        rows: dict[tuple[Cell, ...], list[Cell]] = {}
        for use in sorted(bundle["uses"], key=lambda use: (*_way(use), -use["budget"])):
            rows.setdefault(_way(use), []).append(use["images_per_core_second"])
        for use in _of_one_thread(bundle):
            key = f"towers.{name}.{use['precision']}.budget_{use['budget']:g}.batch_{use['batch']}"
            figures[key] = figure(use["images_per_core_second"], "radiographs/core-s", "higher")
        shown = [Column(name=f"{b:.0%} of patches", unit="radiographs/core-s", better="higher") for b in budgets]
        ways = [Column(name=each) for each in ("precision", "calls at a time", "threads of each", "batch")]
        tables.append(
            Table(
                title=f"{name}, {bundle['patches']} patches",
                columns=(*ways, *shown),
                rows=tuple((*key, *cells) for key, cells in rows.items()),
            )
        )
        plots.append(_tower_plot(name, bundle))
    for name, bundle in values["bundles"].items():
        tables.append(
            Table(
                title=f"{name}: single options of the runtime",
                columns=(
                    Column(name="option"),
                    Column(name="precision"),
                    Column(name="speed", unit="radiographs/core-s", better="higher"),
                    Column(name="over as served", unit="×", better="higher"),
                    Column(name="largest difference of an output"),
                ),
                rows=tuple(
                    (
                        o["option"],
                        o["precision"],
                        o["images_per_core_second"],
                        o["over_as_served"],
                        f"{o['max_abs']:.2g}",
                    )
                    for o in bundle["options"]
                ),
            )
        )
    return Part(
        name="towers",
        title="The image tower on a CPU",
        question="How many radiographs does a core embed in a second, by precision, patch budget and batch?",
        command="python -m benchmarks.towers --vit DIR",
        taken=taken,
        tables=tuple(tables),
        plots=tuple(plots),
        figures=figures | _tower_ratios(values) | _option_costs(values),
        notes=("Radiographs a second of processor time, which other programs on the machine bend least.",),
    )


def _way(use: Document) -> tuple[Cell, ...]:
    return use["precision"], use["calls"], use["threads"], use["batch"]


def _of_one_thread(bundle: Document) -> list[Document]:
    """Return the uses whose calls run on one thread each: what a core is worth."""
    return [use for use in bundle["uses"] if use["threads"] == 1]


def _tower_ratios(values: Document) -> dict[str, Figure]:
    """Return speeds at a batch of 4 over that of fp32 with all patches."""
    found = {}
    for name, bundle in values["bundles"].items():
        fours = [use for use in _of_one_thread(bundle) if use["batch"] == 4]
        speed = {(use["precision"], use["budget"]): use["images_per_core_second"] for use in fours}
        for (precision, budget), value in speed.items():
            key = f"towers.{name}.{precision}.budget_{budget:g}.over_fp32_all"
            found[key] = figure(value / speed["fp32", 1.0], "×", "higher")
    return found


def _option_costs(values: Document) -> dict[str, Figure]:
    """Return the least and the greatest speed with each option of the runtime over that without it, of all bundles."""
    options: dict[str, list[float]] = {}
    for bundle in values["bundles"].values():
        for one in bundle["options"]:
            options.setdefault(one["option"].replace(" ", "_"), []).append(one["over_as_served"])
    options.pop("as_served")
    return {
        f"towers.options.{name}.{which.__name__}": figure(which(found), "×", "")
        for name, found in options.items()
        for which in (min, max)
    }


def _tower_plot(name: str, bundle: Document) -> Plot:
    series: dict[str, list[tuple[float, float, None, None]]] = {}
    for use in sorted(_of_one_thread(bundle), key=lambda use: (use["precision"], -use["budget"])):
        which = series.setdefault(f"{use['precision']}, {use['budget']:.0%} of patches", [])
        which.append((use["batch"], use["images_per_core_second"], None, None))
    return Plot(
        title=f"{name}: speed by batch, one thread a call",
        kind="line",
        x=Column(name="batch", unit="radiographs"),
        y=Column(name="speed", unit="radiographs/core-s", better="higher"),
        log_x=True,
        series=tuple(Series(name=each, points=tuple(points)) for each, points in series.items()),
    )


SPEED: Mapping[str, Callable[[Any, str], Part]] = {
    "benchmarks/results/startup.json": startup,
    "benchmarks/results/startup_large.json": startup_large,
    "benchmarks/results/towers.json": towers,
    "benchmarks/results/sessions.json": sessions,
}
