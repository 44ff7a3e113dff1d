"""Quoted tables about search in vectors."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quoted_rows import Rows, results, table

_WAYS = ("exact_alone_ms", "graph_alone_ms", "exact_batch_ms", "graph_batch_ms")
_TIMES = ("exact, alone", "graph, alone", "exact, in a batch of 64", "graph, in a batch of 64")
_SETTINGS = (
    *((10_000, m, 200) for m in (8, 16, 32)),
    *((100_000, m, construction) for m, construction in ((16, 200), (32, 100), (32, 200), (32, 400))),
)
_BREADTHS = (80, 160, 320, 640, 1280)


def likeness(root: Path) -> list[str]:
    """Vectors that are searched, beside embeddings: means and standard errors."""
    found = results(root, "recall_likeness")
    columns = [found[way] for way in ("embeddings", "drawn", "normal_residuals")]

    def row(name: str, form: str, *keys: str, error: bool = False, unit: str = "") -> list[str]:
        factor = 100 if unit else 1
        cells = []
        for column in columns:
            told = [format(factor * column[key][0], form) + unit for key in keys]
            told += [f"± {column[keys[0]][1]:{form}}"] if error else []
            cells.append(" ".join(told) if error else ", ".join(told))
        return [name, *cells]

    breadth = "text: recall at {}".format
    rows = [
        row("cosine between the mean image and the mean sentence", ".3f", "gap", error=True),
        row("sentence and any image: mean, spread", ".3f", "text: random, mean", "text: random, spread"),
        row("sentence and its first, its tenth image", ".3f", "text: first", "text: tenth"),
        row("image and its first, its tenth image", ".3f", "image: first", "image: tenth"),
        row("local dimension about a sentence", ".1f", "text: local dimension", error=True),
        row("local dimension about an image", ".1f", "image: local dimension", error=True),
        row("images that are among the first ten of no sentence", ".1f", "text: never found", unit=" %"),
        row("sentences, recall of a graph at breadth 10", ".3f", breadth(10), error=True),
        *(row(f"at {one}", ".3f", breadth(one), error=True) for one in (40, 80, 160)),
        row("images, recall of a graph at breadth 10, 40", ".3f", "image: recall at 10", "image: recall at 40"),
    ]
    return table(["", "embeddings", "drawn", "drawn with normal residuals"], rows)


def settings(root: Path) -> list[str]:
    """Recall of text queries by setting of hnswlib and breadth."""
    runs = {
        (one["rows"], one["m"], one["ef_construction"], one["ef_search"]): one
        for one in _recall(root)["sweep"]["found"]
        if one["queries"] == "text"
    }
    rows: Rows = []
    for setting in _SETTINGS:
        found = [runs[*setting, breadth] for breadth in _BREADTHS]
        built = f"{found[0]['build']['processor_seconds']:.0f}"
        count, m, construction = setting
        rows.append(
            [f"{count:,}", str(m), str(construction), built, ", ".join(f"{one['recall']:.3f}" for one in found)]
        )
    recall = f"recall at ef_search {', '.join(map(str, _BREADTHS))}"
    return table(["rows", "m", "ef_construction", "core-s to build", recall], rows)


def engines(root: Path) -> list[str]:
    """Engines at equal recall, one thread, over hnswlib."""
    found = _recall(root)
    rows: Rows = []
    for run in (found["engines"]["found"], found["million"]["found"]["engines"]):
        lines = {(one["engine"], one["queries"], one["recall"]): one for one in run["speed"] if one["threads"] == 1}
        count = run["speed"][0]["rows"]
        names = dict.fromkeys(engine for engine, _, _ in lines)
        for name in sorted(names, key="exact".__eq__):
            cells = [_speed(lines[name, queries, recall]) for queries in ("image", "text") for recall in (0.95, 0.99)]
            size = run["sizes"][name]
            built = "" if name == "exact" else f"{size['build']['processor_seconds']:,.0f}"
            rows.append([f"{count:,}", name, *cells, f"{size['bytes_per_vector']:,}", built])
    head = ["rows", "engine", "images 0.95", "images 0.99", "text 0.95", "text 0.99"]
    return table([*head, "bytes a vector in memory", "core-s to build"], rows)


def _speed(line: Mapping[str, Any]) -> str:
    speed = f"{line['per_processor_second']:,.0f}"
    hnswlib = line["engine"] == "hnswlib"
    return f"{speed}, ef {line['ef_search']}" if hnswlib else f"{speed} ({line['ratio_processor']:.2f})"


def crossover(root: Path) -> list[str]:
    """Exact search or a graph, by the number of rows."""
    found = _recall(root)["crossover"]["found"][0]["by_rows"]
    rows = [[f"{one['rows']:,}", str(one["ef_search"]), *_milliseconds(one)] for one in found]
    return table(["rows", "breadth", *_TIMES], rows)


def crossover_filter(root: Path) -> list[str]:
    """The same under a filter, by the number of rows that match."""
    found = _recall(root)["crossover"]["found"][0]["by_matching_rows"]
    rows = [[f"{one['matching']:,}", str(one["ef_search"]), *_milliseconds(one)] for one in found]
    return table(["matching rows", "breadth", *_TIMES], rows)


def _milliseconds(one: Mapping[str, float]) -> list[str]:
    return [f"{one[way]:.2f}" if one[way] < 10 else f"{one[way]:.1f}" for way in _WAYS]


def index(root: Path) -> list[str]:
    """The index beside bare hnswlib with the same graph, on one thread."""
    rows = [
        [
            *(f"{one['rows']:,}", one["queries"], f"{one['ef_search']:,}", f"{one['recall']['nearest']:.4f}"),
            *(f"{one['speed'][way]['per_processor_second']:,.0f}" for way in ("hnswlib", "nearest")),
            *(f"**{one['speed']['nearest']['ratio_processor']:.2f}**", f"{one['look_up_ms_a_query']:.2f}"),
        ]
        for run in _indexes(root)
        for one in run["beside_hnswlib"]
        if one["threads"] == 1
    ]
    head = ["rows", "queries", "breadth", "recall, both", "hnswlib, q/s", "index, q/s", "index over hnswlib"]
    return table([*head, "look-up of ten rows, core-ms"], rows)


def filters(root: Path) -> list[str]:
    """Queries that share a filter, beside hnswlib's own."""
    rows: Rows = []
    for run in (one["filters"] for one in _indexes(root)):
        speed, recall = run["speed"], run["recall"]
        ten, least, ours = (speed[way]["per_processor_second"] for way in ("hnswlib, ef 10", "hnswlib", "index"))
        over = speed["index"]["ratio_processor"]
        rows.append(
            [
                *(f"{run['rows']:,}", f"{run['matching']:,}", f"{ten:,.0f}, {recall['hnswlib, ef 10']:.3f}"),
                *(f"{run['hnswlib_ef_search']}, {least:,.0f}", f"{ours:,.0f}, {recall['index']:.3f}"),
                f"**{over:.0f}**, {over / speed['hnswlib']['ratio_processor']:.0f}",
                *(f"{run['alone_processor_ms']:.1f}", f"{run['first_ms']:.0f}"),
            ]
        )
    head = ["rows", "matching", "hnswlib, ef 10: q/s, recall", "hnswlib at 0.99: breadth, q/s", "index: q/s, recall"]
    over = "over hnswlib, ef 10, and at 0.99"
    return table([*head, over, "one query alone, core-ms", "first of a process, ms"], rows)


def _recall(root: Path) -> Mapping[str, Any]:
    """Return all parts of the benchmark: those of a report, and those that take hours."""
    return {**results(root, "recall_slow"), **results(root, "recall")}


def _indexes(root: Path) -> Sequence[Any]:
    found = _recall(root)
    return [found[name]["found"] for name in ("index", "million")]


RECALL_TABLES: Mapping[str, Callable[[Path], list[str]]] = {
    "recall-likeness": likeness,
    "recall-settings": settings,
    "recall-engines": engines,
    "recall-crossover": crossover,
    "recall-crossover-filter": crossover_filter,
    "recall-index": index,
    "recall-filters": filters,
}
