"""From how many rows on is a graph faster than scoring all of them, and from how many that match a filter?

    rows of growing number -> milliseconds a query of both, alone and in a batch, at recall 0.99 of text queries

With a filter, the graph is asked for as many candidates as its search is broad, and those that do not match are left out;
exact search gathers the vectors that match, once for a batch.
"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import Engine, Rows, Setting, engine
from benchmarks.gallery import TOP, Gallery, say
from benchmarks.race import BATCH, breadth_for, race, searching
from benchmarks.truth import Vectors
from benchmarks.vectors import DIM

ROWS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5, 0.8)
TARGET = 0.99

Found = dict[str, Any]


def crossover(galleries: list[Gallery], setting: Setting, threads: int, rounds: int) -> Found:
    """Set exact search beside the graph in each gallery, and among the rows that match a filter in the last."""
    by_rows = []
    for gallery in galleries:
        graph, exact = engine("hnswlib"), engine("exact")
        graph.load(gallery.file_of("hnswlib", setting), dim=DIM)
        exact.build(gallery.blocks(), count=gallery.count, dim=DIM, setting=setting, threads=threads)
        queries = gallery.queries("text")
        ef = breadth_for(TARGET, searching(graph, threads), queries, gallery.vectors, gallery.kth("text"), least=TOP)
        line: Found = {"rows": gallery.count, "ef_search": ef}
        for name, blocks in _asked(queries):
            runs = {"exact": partial(_each, partial(exact.search, k=TOP, ef=TOP, threads=threads), blocks)}
            if ef is not None:
                runs["graph"] = partial(_each, partial(graph.search, k=TOP, ef=ef, threads=threads), blocks)
            line |= _milliseconds(name, runs, blocks, rounds)
        by_rows.append(line)
        say(f"crossover at {gallery.count} on {threads} threads")
    return {
        "threads": threads,
        "by_rows": by_rows,
        "by_matching_rows": _by_matching_rows(galleries[-1], graph, threads, rounds),
    }


def _by_matching_rows(gallery: Gallery, graph: Engine, threads: int, rounds: int) -> list[Found]:
    vectors = np.ascontiguousarray(gallery.vectors)
    queries = gallery.queries("text")[:512]
    lines = []
    for share in SHARES:
        mask = np.random.default_rng(0).random(gallery.count) < share
        places = np.flatnonzero(mask)
        kth: Vectors = np.partition(queries @ vectors[places].T, -TOP, axis=1)[:, -TOP]
        filtered = partial(_through_graph, graph, mask, threads)
        ef = breadth_for(TARGET, filtered, queries, vectors, kth, least=2 * TOP)
        line: Found = {"matching": len(places), "of": gallery.count, "ef_search": ef}
        for name, blocks in _asked(queries):
            runs = {"exact": partial(_each, partial(_among, vectors, places), blocks)}
            if ef is not None:
                runs["graph"] = partial(_each, partial(filtered, ef=ef), blocks)
            line |= _milliseconds(name, runs, blocks, rounds)
        lines.append(line)
        say(f"{len(places)} matching rows of {gallery.count} on {threads} threads")
    return lines


def _asked(queries: Vectors) -> list[tuple[str, list[Vectors]]]:
    """Return queries one by one, and a batch of them."""
    return [("alone", [queries[at : at + 1] for at in range(8)]), ("batch", [queries[:BATCH]])]


def _each(search: Any, blocks: list[Vectors]) -> list[Rows]:
    return [search(block) for block in blocks]


def _milliseconds(name: str, runs: dict[str, Any], blocks: list[Vectors], rounds: int) -> Found:
    rates = race(runs, queries=sum(len(block) for block in blocks), rounds=rounds)
    return {f"{kind}_{name}_ms": float(f"{1000 / rate['per_second']:.3g}") for kind, rate in rates.items()}


def _among(vectors: Vectors, places: NDArray[np.int64], queries: Vectors) -> Rows:
    """Score the vectors at some places only."""
    scores = queries @ vectors[places].T
    return places[np.argpartition(scores, -TOP, axis=1)[:, -TOP:]]


def _through_graph(graph: Engine, mask: NDArray[np.bool_], threads: int, queries: Vectors, ef: int) -> Rows:
    """Ask the graph for `ef` candidates and leave out those that do not match; -1 where fewer than `TOP` do."""
    rows = np.full((len(queries), TOP), -1)
    for row, found in zip(rows, graph.search(queries, k=ef, ef=ef, threads=threads), strict=True):
        kept = found[mask[found]][:TOP]
        row[: len(kept)] = kept
    return rows
