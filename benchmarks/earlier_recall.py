"""Reader of the documents about search in vectors: engines, settings, exact or graph, and the index."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.earlier_values import Document, bars, figure
from benchmarks.part import Cell, Column, Figure, Part, Plot, Series, Table

_SPEED = (
    Column(name="speed", unit="queries/s", better="higher"),
    Column(name="of processor time", unit="queries/core-s", better="higher"),
)
_WAYS = {
    "exact_alone_ms": "exact, alone",
    "graph_alone_ms": "graph, alone",
    "exact_batch_ms": "exact, in a batch",
    "graph_batch_ms": "graph, in a batch",
}
_AT_ONE = {"rows": 100_000, "ef_construction": 200}
"""The graphs whose recall by breadth is drawn."""


def recall(values: Document, taken: str) -> Part:
    """Read `results/recall.json`: engines, and the index, at 100,000 rows."""
    return _search(
        values, taken, name="recall", title="Search in vectors",
        question="How many of the nearest images does a search find, and how fast, beside other engines?",
        command="python -m benchmarks.recall --part engines --part index",
    )  # fmt: skip


def recall_slow(values: Document, taken: str) -> Part:
    """Read `results/recall_slow.json`: what takes hours, settings, crossovers and a million rows."""
    return _search(
        values, taken, name="recall-slow", title="Search in vectors: settings, a million rows",
        question="How are graphs to be built, when is exact search faster, and what does a million rows take?",
        command="python -m benchmarks.recall --part sweep --part crossover --part million",
    )  # fmt: skip


def _search(values: Document, taken: str, *, name: str, title: str, question: str, command: str) -> Part:
    """Read as far as there are parts of a measurement."""
    found = {name: values[name]["found"] for name in ("engines", "million") if name in values}
    runs = {name: one["engines"] if name == "million" else one for name, one in found.items()}
    lines = [line for run in runs.values() for line in run["speed"]]
    indexes = [values[name]["found"] for name in ("index", "million") if name in values]
    indexes = [one for one in indexes if "beside_hnswlib" in one]
    sweep = values["sweep"]["found"] if "sweep" in values else []
    crossovers = values["crossover"]["found"] if "crossover" in values else []
    return Part(
        name=name,
        title=title,
        question=question,
        command=command,
        taken=taken,
        tables=(
            *_engines(values, lines, runs),
            *(_settings(sweep) if sweep else ()),
            *(table for one in crossovers for table in _crossover(one, values["batch"])),
            *(_index(indexes) if indexes else ()),
        ),
        plots=(*_engine_plots(lines), *_recall_plots(sweep), *_crossover_plots(crossovers)),
        figures={**_engine_figures(lines), **_build_figures(runs), **_index_figures(indexes),
                 **_crossover_figures(crossovers)},
        notes=(
            "Recall is the share of the ten nearest that are found. Engines are compared at the least breadth that "
            "reaches a recall; speed over hnswlib is that of the same round.",
        ),
    )  # fmt: skip


def _engines(values: Document, lines: Sequence[Document], runs: Mapping[str, Document]) -> Iterator[Table]:
    rows: list[tuple[Cell, ...]] = [
        (
            *(line["rows"], line["queries"], 100 * line["recall"], line["threads"], line["engine"], line["ef_search"]),
            *(line.get(key, "does not get there") for key in ("per_second", "per_processor_second", "ratio")),
        )
        for line in lines
    ]
    yield Table(
        title=f"Engines at equal recall, the {values['top']} nearest, {values['batch']} queries at once",
        columns=(
            Column(name="rows"),
            Column(name="queries"),
            Column(name="recall", unit="%"),
            Column(name="threads"),
            Column(name="engine"),
            Column(name="breadth"),
            *_SPEED,
            Column(name="over hnswlib", unit="×", better="higher"),
        ),
        rows=tuple(rows),
    )
    sizes = [(f"{name}, {place}", one) for place, run in runs.items() for name, one in run["sizes"].items()]
    yield Table(
        title="Memory",
        columns=(
            Column(name="engine"),
            Column(name="in memory", unit="bytes/vector", better="lower"),
            Column(name="on disk", unit="bytes/vector", better="lower"),
        ),
        rows=tuple((name, one["bytes_per_vector"], one["bytes_per_vector_on_disk"]) for name, one in sizes),
    )


def _engine_plots(lines: Sequence[Document]) -> Iterator[Plot]:
    text = [line for line in lines if line["queries"] == "text" and line["threads"] == 1 and "per_second" in line]
    for rows in dict.fromkeys(line["rows"] for line in text):
        most = max(line["recall"] for line in text if line["rows"] == rows)
        shown = [line for line in text if line["rows"] == rows and line["recall"] == most]
        yield Plot(
            title=f"Text queries at a recall of {most:.0%} among {rows:,} rows, one thread",
            kind="bar",
            x=Column(name="engine"),
            y=_SPEED[1],
            x_names=tuple(one["engine"] for one in shown),
            series=(Series(name="speed", points=bars([one["per_processor_second"] for one in shown])),),
        )


def _engine_figures(lines: Sequence[Document]) -> dict[str, Figure]:
    found = {}
    for line in lines:
        if "per_second" not in line:
            continue
        engine = line["engine"].replace(" ", "_")
        name = f"recall.{line['rows']}.{engine}.{line['queries']}.{line['recall']:g}.threads_{line['threads']}"
        found[name] = figure(line["per_second"], "queries/s", "higher")
        if line["engine"] == "hnswlib":
            found[f"{name}.breadth"] = figure(line["ef_search"], "candidates", "lower")
    breadths = {
        (line["rows"], line["recall"], line["queries"]): line["ef_search"]
        for line in lines
        if line["engine"] == "hnswlib" and line["threads"] == 1
    }
    for (rows, share, queries), breadth in breadths.items():
        if queries == "text" and (rows, share, "image") in breadths:
            wider = breadth / breadths[rows, share, "image"]
            found[f"recall.{rows}.text_over_image_breadth.{share:g}"] = figure(wider, "×", "")
    return found


def _build_figures(runs: Mapping[str, Document]) -> dict[str, Figure]:
    """Return what one vector takes of memory, beside hnswlib, and the minutes of a graph, by engine."""
    found = {}
    for place, run in runs.items():
        sizes = run["sizes"]
        for name, one in sizes.items():
            key = f"recall.sizes.{place}.{name.replace(' ', '_')}"
            found[f"{key}.bytes_per_vector"] = figure(one["bytes_per_vector"], "bytes", "lower")
            share = 100 * one["bytes_per_vector"] / sizes["hnswlib"]["bytes_per_vector"]
            found[f"{key}.share_of_hnswlib"] = figure(share, "%", "lower")
            if one["build"] is not None:
                found[f"{key}.build"] = figure(one["build"]["processor_seconds"] / 60, "core-min", "lower")
    return found


def _settings(sweep: Sequence[Document]) -> Iterator[Table]:
    """Give recall and speed of hnswlib by setting and breadth."""
    for queries in dict.fromkeys(one["queries"] for one in sweep):
        shown = [one for one in sweep if one["queries"] == queries]
        yield Table(
            title=f"Settings of hnswlib, {queries} queries",
            columns=(
                Column(name="rows"),
                Column(name="m"),
                Column(name="ef_construction"),
                Column(name="to build", unit="core-s", better="lower"),
                Column(name="breadth"),
                Column(name="recall", unit="%", better="higher"),
                Column(name="a query in twenty finds at most", unit="%", better="higher"),
                *_SPEED,
            ),
            rows=tuple(
                (
                    *(one["rows"], one["m"], one["ef_construction"], one["build"]["processor_seconds"]),
                    *(one["ef_search"], 100 * one["recall"], 100 * one["least_of_95_percent"]),
                    *(one["per_second"], one["per_processor_second"]),
                )
                for one in shown
            ),
        )


def _recall_plots(sweep: Sequence[Document]) -> Iterator[Plot]:
    """Draw what is not found, which a logarithmic axis shows where nearly all of it is."""
    lines: dict[str, list[tuple[float, float, None, None]]] = {}
    for one in sweep:
        if all(one[name] == value for name, value in _AT_ONE.items()) and one["recall"] < 1:
            series = lines.setdefault(f"{one['queries']} queries, m {one['m']}", [])
            series.append((one["ef_search"], 100 * (1 - one["recall"]), None, None))
    if lines:
        yield Plot(
            title=f"What a graph of {_AT_ONE['rows']:,} rows misses, by breadth",
            kind="line",
            x=Column(name="breadth", unit="candidates"),
            y=Column(name="not found of the ten nearest", unit="%", better="lower"),
            log_x=True,
            log_y=True,
            series=tuple(Series(name=name, points=tuple(sorted(points))) for name, points in lines.items()),
            note=f"ef_construction {_AT_ONE['ef_construction']}.",
        )


def _crossover(run: Document, batch: int) -> Iterator[Table]:
    threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
    times = tuple(Column(name=f"{told} of {batch}" if "batch" in told else told, unit="ms/query", better="lower")
                  for told in _WAYS.values())  # fmt: skip
    for key, name, title in (
        ("by_rows", "rows", f"Exact search or a graph at a recall of 99 %, {threads}"),
        ("by_matching_rows", "matching", f"The same under a filter, {threads}"),
    ):
        yield Table(
            title=title,
            columns=(
                Column(name=name, unit="rows" if key == "by_matching_rows" else ""),
                Column(name="breadth"),
                *times,
            ),
            rows=tuple((one[name], one["ef_search"], *(one[way] for way in _WAYS)) for one in run[key]),
        )


def _crossover_plots(crossovers: Sequence[Document]) -> Iterator[Plot]:
    for run in crossovers[:1]:
        for key, name, title in (
            ("by_rows", "rows", "Exact search or a graph, one thread"),
            ("by_matching_rows", "matching", f"The same under a filter, of {run['by_matching_rows'][0]['of']:,} rows"),
        ):
            yield Plot(
                title=title,
                kind="line",
                x=Column(name="rows" if key == "by_rows" else "matching rows"),
                y=Column(name="time", unit="ms/query", better="lower"),
                log_x=True,
                log_y=True,
                series=tuple(
                    Series(name=told, points=tuple((one[name], one[way], None, None) for one in run[key]))
                    for way, told in _WAYS.items()
                ),
            )


def _crossover_figures(crossovers: Sequence[Document]) -> dict[str, Figure]:
    found = {}
    for run in crossovers:
        for key, name in (("by_rows", "rows"), ("by_matching_rows", "matching")):
            for one in run[key]:
                start = f"recall.crossover.threads_{run['threads']}.{name}_{one[name]}"
                found |= {f"{start}.{way}": figure(one[way], "ms", "lower") for way in _WAYS}
                found[f"{start}.breadth"] = figure(one["ef_search"], "candidates", "lower")
        breadths = [one["ef_search"] for one in run["by_matching_rows"]]
        for which in (min, max):
            start = f"recall.crossover.threads_{run['threads']}.matching.breadth"
            found[f"{start}.{which.__name__}"] = figure(which(breadths), "candidates", "lower")
    return found


def _index(indexes: Sequence[Document]) -> Iterator[Table]:
    yield Table(
        title="The index beside bare hnswlib with the same graph",
        columns=(
            Column(name="rows"),
            Column(name="queries"),
            Column(name="threads"),
            Column(name="breadth"),
            Column(name="recall", unit="%", better="higher"),
            Column(name="hnswlib", unit="queries/core-s", better="higher"),
            Column(name="index", unit="queries/core-s", better="higher"),
            Column(name="index over hnswlib", unit="×", better="higher"),
            Column(name="look-up of ten rows", unit="core-ms", better="lower"),
        ),
        rows=tuple(
            (
                *(one["rows"], one["queries"], one["threads"], one["ef_search"], 100 * one["recall"]["nearest"]),
                *(one["speed"][way]["per_processor_second"] for way in ("hnswlib", "nearest")),
                *(one["speed"]["nearest"]["ratio_processor"], one["look_up_ms_a_query"]),
            )
            for index in indexes
            for one in index["beside_hnswlib"]
        ),
    )
    yield Table(
        title=f"Queries that share a filter, {indexes[0]['filters']['batch']} at once",
        columns=(
            Column(name="rows"),
            Column(name="matching"),
            Column(name="way"),
            Column(name="recall", unit="%", better="higher"),
            *_SPEED,
            Column(name="over hnswlib at ef 10", unit="×", better="higher"),
        ),
        rows=tuple(
            (
                *(one["rows"], one["matching"], way, _recall_of(one, way)),
                *(speed[key] for key in ("per_second", "per_processor_second", "ratio_processor")),
            )
            for one in (index["filters"] for index in indexes)
            for way, speed in one["speed"].items()
        ),
        note="hnswlib calls a Python function for each row that it sees.",
    )
    yield Table(
        title="Opening an index in a fresh process",
        columns=(
            Column(name="rows"),
            Column(name="to the first answer", unit="s", better="lower"),
            Column(name="of processor time", unit="core-s", better="lower"),
            Column(name="in memory", unit="bytes/vector", better="lower"),
            Column(name="on disk", unit="bytes/vector", better="lower"),
        ),
        rows=tuple(
            (
                *(one["rows"], one["seconds"]["with a first answer"], one["seconds"]["processor time"]),
                *(one["bytes_per_vector"]["private"], one["bytes_per_vector"]["on_disk"]),
            )
            for one in (index["opening"] for index in indexes)
        ),
    )


def _recall_of(filters: Document, way: str) -> Cell:
    """Return the recall of a way in per cent; hnswlib at its least breadth for 99 % was chosen by it, not measured again."""
    found = filters["recall"].get(way)
    return f"99, breadth {filters['hnswlib_ef_search']}" if found is None else 100 * found


def _index_figures(indexes: Sequence[Document]) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    for index in indexes:
        filters, opening = index["filters"], index["opening"]
        for one in index["beside_hnswlib"]:
            start = f"recall.index.{one['rows']}.{one['queries']}.threads_{one['threads']}"
            found[f"{start}.over_hnswlib"] = figure(one["speed"]["nearest"]["ratio_processor"], "×", "higher")
            found[f"{start}.recall"] = figure(100 * one["recall"]["nearest"], "%", "higher")
        start = f"recall.filter.{filters['rows']}"
        speed = filters["speed"]
        at_99 = speed["index"]["ratio_processor"] / speed["hnswlib"]["ratio_processor"]
        found[f"{start}.over_hnswlib"] = figure(speed["index"]["ratio_processor"], "×", "higher")
        found[f"{start}.over_hnswlib_at_0.99"] = figure(at_99, "×", "higher")
        found[f"{start}.batch"] = figure(1e3 * filters["batch"] / speed["index"]["per_second"], "ms", "lower")
        found[f"{start}.batch_after_other_work"] = figure(filters["batch_after_other_work_ms"], "ms", "lower")
        wide = next(one for one in filters.values() if isinstance(one, Mapping) and "per_processor_second" in one)
        found[f"{start}.wide"] = figure(wide["per_processor_second"], "queries/core-s", "higher")
        found[f"{start}.wide.recall"] = figure(wide["recall"], "", "higher")
        start = f"recall.opening.{opening['rows']}"
        found[f"{start}.seconds"] = figure(opening["seconds"]["with a first answer"], "s", "lower")
        found[f"{start}.processor_seconds"] = figure(opening["seconds"]["processor time"], "core-s", "lower")
        found[f"{start}.bytes_in_memory"] = figure(opening["bytes_per_vector"]["private"], "bytes", "lower")
        found[f"{start}.bytes_on_disk"] = figure(opening["bytes_per_vector"]["on_disk"], "bytes", "lower")
        for kind, prefix in (
            ("store", "store.sqlite"),
            ("graph", "graph-"),
            ("vectors", "vectors-"),
            ("facts", "facts-"),
        ):
            size = sum(size for name, size in opening["files"].items() if name.startswith(prefix))
            found[f"{start}.bytes_on_disk.{kind}"] = figure(size / opening["rows"], "bytes", "lower")
    return found


SEARCH: Mapping[str, Callable[[Any, str], Part]] = {
    "benchmarks/results/recall.json": recall,
    "benchmarks/results/recall_slow.json": recall_slow,
}
