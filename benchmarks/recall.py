"""How many of the nearest images does a search find, and how fast? Graphs, exact search, other engines, and the index.

    python -m benchmarks.recall [--part sweep|engines|crossover|index|million] [--store DIR] [--out FILE.json]

Vectors of 512 dimensions like those of the bundle that ships (`benchmarks/vectors.py`), 10 nearest, 1,024 text queries and
as many image queries, 64 at once. Text queries lie outside of the images and need far more breadth: they are what counts.

    sweep       hnswlib at 10,000 and 100,000 rows: links (m), breadth while building, breadth while searching
    engines     exact search, hnswlib, faiss, usearch: each at the breadth that reaches a recall, in turn, on one thread and
                on all; memory of a fresh process that has loaded the engine
    crossover   rows, and rows that match a filter, from which a graph is faster than scoring all of them
    index       the index beside bare hnswlib with the same graph; its filters beside hnswlib's own, a Python function;
                opened in a fresh process, every byte of it hashed; sizes, memory
    million     1,000,000 rows: hnswlib, faiss SQfp16 and the index, with all that the last two say. Building takes an hour:
                it runs only where it is named or its graphs are in the store

Queries a second are medians of the rounds, of the clock and of processor time; ratios are medians of the rounds' ratios.
What takes long to make is kept in the store (cache/recall). The last line of stdout is one JSON document; parts that are not
measured again keep what FILE.json says of them.
"""

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import crossover, own_index
from benchmarks.engines import ENGINES, Setting, engine
from benchmarks.gallery import QUERIES, TOP, Gallery, say
from benchmarks.machine import load, machine_card, own_bytes
from benchmarks.race import BATCH, breadth_for, in_batches, in_fresh_process, race, searching
from benchmarks.truth import recall
from benchmarks.vectors import CACHE, DIM, MODALITIES
from mcr_infer import Bundle

SETTING = Setting(m=32, ef_construction=200)
"""Every engine's, unless the sweep says otherwise."""

TARGETS = (0.95, 0.99)
COUNT, LARGE = 100_000, 1_000_000

SWEEP = {
    10_000: [Setting(m=m, ef_construction=breadth) for m in (8, 16, 32) for breadth in (100, 200, 400)],
    100_000: [Setting(m=m, ef_construction=breadth) for m, breadth in ((16, 200), (32, 100), (32, 200), (32, 400))],
}
SWEPT = (40, 80, 160, 320, 640, 1280)

PARTS = ("sweep", "engines", "crossover", "index", "million")

Found = dict[str, Any]


def sweep(gallery: Gallery, settings: list[Setting], rounds: int) -> list[Found]:
    """Measure recall and queries a second of hnswlib with each setting at each breadth, on one thread."""
    lines = []
    for setting in settings:
        made = engine("hnswlib")
        made.load(gallery.built("hnswlib", setting), dim=DIM)
        search = searching(made, 1)
        for modality in MODALITIES:
            queries, kth = gallery.queries(modality), gallery.kth(modality)
            runs = {str(ef): partial(in_batches, search, queries, ef) for ef in SWEPT}
            rates = race(runs, queries=len(queries), rounds=rounds)
            for ef in SWEPT:
                shares = recall(in_batches(search, queries, ef), queries, gallery.vectors, kth)
                lines.append(
                    {
                        "rows": gallery.count, "m": setting.m, "ef_construction": setting.ef_construction,
                        "build": gallery.build_time("hnswlib", setting), "queries": modality, "ef_search": ef,
                        "recall": round(float(shares.mean()), 4), "least_of_95_percent": float(np.quantile(shares, 0.05)),
                        **{name: rates[str(ef)][name] for name in ("per_second", "per_processor_second")},
                    }
                )  # fmt: skip
        say(f"swept {gallery.count} {setting}")
    return lines


def breadths(gallery: Gallery, names: tuple[str, ...]) -> Found:
    """Return the breadth of each engine for each kind of query and target; None where it does not get there."""
    found: Found = {}
    for name in names:
        made = engine(name)
        made.load(gallery.file_of(name, SETTING), dim=DIM)
        for modality in MODALITIES:
            queries, kth = gallery.queries(modality), gallery.kth(modality)
            for target in TARGETS:
                least = TOP
                found[f"{name} {modality} {target}"] = (
                    breadth_for(target, searching(made, 1), queries, gallery.vectors, kth, least=least)
                    if name != "exact" else least
                )  # fmt: skip
        say(f"breadths of {name} at {gallery.count}")
    return found


def raced(gallery: Gallery, names: tuple[str, ...], efs: Found, threads: int, rounds: int) -> list[Found]:
    """Race engines at their breadths; a process of its own has set the threads."""
    loaded = {}
    for name in names:
        loaded[name] = engine(name)
        loaded[name].load(gallery.file_of(name, SETTING), dim=DIM)
    order = sorted(names, key=lambda name: name != "hnswlib")
    lines = []
    for modality in MODALITIES:
        queries = gallery.queries(modality)
        for target in TARGETS:
            breadth = {name: efs[f"{name} {modality} {target}"] for name in order}
            runs = {
                name: partial(in_batches, searching(loaded[name], threads), queries, ef)
                for name, ef in breadth.items()
                if ef is not None
            }
            rates = race(runs, queries=len(queries), rounds=rounds)
            lines += [
                {
                    "rows": gallery.count, "engine": name, "queries": modality, "recall": target, "threads": threads,
                    "ef_search": breadth[name] if name != "exact" else None,
                    **(rates.get(name) or {}),
                }
                for name in order
            ]  # fmt: skip
    return lines


def loaded_bytes(name: str, path: Path) -> int:
    """Return what loading an engine adds to the memory of this process, after one query."""
    made = engine(name)
    query = np.zeros((1, DIM), dtype=np.float32)
    query[0, 0] = 1.0
    if name != "exact":  # the libraries themselves do not count
        small = np.eye(DIM, dtype=np.float32)[:64]
        made.build([small], count=64, dim=DIM, setting=SETTING, threads=1)
        made.search(query, k=1, ef=TOP, threads=1)
    before = own_bytes("RssAnon")
    made.load(path, dim=DIM)
    made.search(query, k=1, ef=TOP, threads=1)
    return own_bytes("RssAnon") - before


def engines(gallery: Gallery, names: tuple[str, ...], rounds: int) -> Found:
    """Race engines at equal recall on one thread and on all, and weigh them."""
    paths = {name: gallery.built(name, SETTING) for name in names}
    for modality in MODALITIES:
        gallery.kth(modality)
    efs = in_fresh_process(breadths, gallery, names, threads=1)
    lines = []
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        lines += in_fresh_process(raced, gallery, names, efs, threads, rounds, threads=threads)
        say(f"raced on {threads} threads at {gallery.count}")
    sizes = {
        name: {
            "bytes_per_vector": round(in_fresh_process(loaded_bytes, name, path, threads=1) / gallery.count),
            "bytes_per_vector_on_disk": round(path.stat().st_size / gallery.count),
            "build": gallery.build_time(name, SETTING),
        }
        for name, path in paths.items()
    }
    return {"setting": str(SETTING), "sizes": sizes, "speed": lines}


def million(gallery: Gallery, rounds: int) -> Found:
    """Measure all that is measured at a million rows."""
    names = ("hnswlib", "faiss SQfp16")
    return {"engines": engines(gallery, names, rounds), **of_index(gallery, rounds)}


def of_index(gallery: Gallery, rounds: int) -> Found:
    """Measure the index over a gallery: filters, beside bare hnswlib, opening."""
    own_index.filled(gallery, SETTING)
    return {
        "filters": in_fresh_process(own_index.filtered, gallery, SETTING, rounds, threads=1),
        "beside_hnswlib": [
            line
            for threads in sorted({1, len(os.sched_getaffinity(0))})
            for line in in_fresh_process(own_index.beside_hnswlib, gallery, SETTING, rounds, threads=threads)
        ],
        "opening": own_index.opened(gallery, SETTING, rounds),
    }


def main() -> None:
    """Measure the parts that are asked for and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the parts; may be repeated")
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--store", type=Path, default=CACHE / "recall", help="where vectors and graphs are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="bring the parts up to date there, too")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    known: Found = {}
    if options.out and options.out.exists():
        known = json.loads(options.out.read_text(encoding="utf-8"))
    large = Gallery(folder=options.store, count=LARGE)
    ready = large.file_of("hnswlib", SETTING).exists() and large.file_of("faiss SQfp16", SETTING).exists()
    parts = options.part or [name for name in PARTS if name != "million" or ready]
    result: Found = known | {
        "benchmark": "recall", "bundle": bundle.name, "fingerprint": bundle.fingerprint, "dimensions": DIM, "top": TOP,
        "queries": QUERIES, "batch": BATCH, "machine": machine_card(),
    }  # fmt: skip
    for part in parts:
        machine = machine_card()
        found = measured(part, options.store, bundle, options.rounds)
        result[part] = {"machine": machine, "load_after": load(), "rounds": options.rounds, "found": found}
        if options.out:
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measured(part: str, store: Path, bundle: Bundle, rounds: int) -> object:
    """Measure one part."""
    if part == "sweep":
        return [
            line
            for count, settings in SWEEP.items()
            for line in sweep(Gallery.open(store, count, bundle=bundle), settings, rounds)
        ]
    if part == "crossover":
        galleries = [Gallery.open(store, count, bundle=bundle) for count in crossover.ROWS]
        for gallery in galleries:
            gallery.built("hnswlib", SETTING)
        return [
            in_fresh_process(crossover.crossover, galleries, SETTING, threads, rounds, threads=threads)
            for threads in sorted({1, len(os.sched_getaffinity(0))})
        ]
    gallery = Gallery.open(store, LARGE if part == "million" else COUNT, bundle=bundle)
    if part == "engines":
        return engines(gallery, ENGINES, rounds)
    return million(gallery, rounds) if part == "million" else of_index(gallery, rounds)


if __name__ == "__main__":
    main()
