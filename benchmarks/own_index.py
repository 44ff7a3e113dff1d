"""The index of this project over drawn vectors, beside bare hnswlib with the very same graph.

    gallery + drawn facts -> Index.add in batches -> the gallery's graph, relabelled -> raced, filtered, opened

The graph is that which hnswlib built for the gallery, so that nothing but what the index adds to hnswlib differs.
"""

import hashlib
import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines import Hnswlib, Setting
from benchmarks.gallery import TOP, Gallery, say
from benchmarks.machine import own_bytes
from benchmarks.race import BATCH, Search, breadth_for, in_batches, in_fresh_process, race
from benchmarks.truth import nearest_scores, recall
from benchmarks.vectors import BLOCK, DIM, MODALITIES
from mcr_infer.index import EXACT_LIMIT, Index, Row, nearest, parse_filter, search
from mcr_infer.index.manifest import Manifest, Snapshot

TARGET = 0.99
FILTER = "lot=7"
"""One of a hundred lots: 1 % of the rows."""

WIDE_FILTER = "view=PA and study_year>=2020"
"""A fifth of the rows."""

SHARES: dict[str, dict[str | int, float]] = {
    "view": {"PA": 0.6, "AP": 0.3, "LATERAL": 0.1},
    "modality": {"DX": 0.7, "CR": 0.3},
    "study_year": dict.fromkeys(range(2010, 2025), 1 / 15),
    "lot": dict.fromkeys(range(100), 1 / 100),
}
"""What the rows say of themselves, drawn independently."""

_ADDED_AT_ONCE = 5_000

Found = dict[str, object]


def drawn_facts(count: int) -> dict[str, NDArray[np.generic]]:
    """Draw the facts of `count` rows, column by column."""
    rng = np.random.default_rng(7)
    return {
        name: rng.choice(np.array(list(shares)), size=count, p=np.array(list(shares.values())))
        for name, shares in SHARES.items()
    }


def filled(gallery: Gallery, setting: Setting, *, exact_limit: int = EXACT_LIMIT) -> Path:
    """Return an index over a gallery's images with its graph; made where it is not there. Row i has the id i."""
    folder = gallery.folder / f"index-{gallery.count}-{setting}"
    if folder.exists():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    facts = {name: column.tolist() for name, column in drawn_facts(gallery.count).items()}
    say(f"filling {folder.name}")
    begun = time.perf_counter()
    with Index.open_or_create(
        part, fingerprint="0" * 64, embedding_dim=DIM, bundle="drawn", bundle_path="drawn", notify=say
    ) as index:
        at = 0
        for block in gallery.blocks():
            for start in range(0, len(block), _ADDED_AT_ONCE):
                vectors = block[start : start + _ADDED_AT_ONCE]
                index.add(
                    [
                        Row(
                            id=f"{row:08d}", kind="image", path=f"archive/{row:08d}.dcm", vector=vector,
                            metadata={name: column[row] for name, column in facts.items()},
                        )
                        for row, vector in enumerate(vectors, start=at)
                    ]
                )  # fmt: skip
                at += len(vectors)
        say(f"filled {folder.name} in {time.perf_counter() - begun:.0f} s")
        with index.snapshot():
            labels = index.vectors("image")[0]
    _place_graph(part, gallery.built("hnswlib", setting), labels, setting)
    with Index.open(part, writable=True, exact_limit=exact_limit, notify=say) as index:
        index.save_snapshots()
    part.rename(folder)
    return folder


def _place_graph(folder: Path, graph: Path, labels: NDArray[np.int64], setting: Setting) -> None:
    """Put a graph, whose labels count from 0, beside the store under the store's labels, and name it in the manifest."""
    temporary = folder / "graph.tmp"
    shutil.copyfile(graph, temporary)
    header = np.fromfile(temporary, dtype="<u8", count=6)
    elements, stride, label_at = int(header[2]), int(header[3]), int(header[4])
    level0 = np.memmap(temporary, dtype=np.uint8, mode="r+", offset=96, shape=(elements, stride))
    own = level0[:, label_at : label_at + 8].copy().view("<u8")[:, 0]
    level0[:, label_at : label_at + 8] = labels[own].astype("<u8")[:, None].view(np.uint8)
    level0.flush()
    with temporary.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = Manifest.read(folder)
    if manifest is None:
        raise SystemExit(f"{folder} has no manifest")
    state = manifest.kinds["image"]
    placed = Snapshot(
        sha256=sha256,
        bytes=temporary.stat().st_size,
        elements=elements,
        m=setting.m,
        ef_construction=setting.ef_construction,
        generation=state.generation,
    )
    temporary.chmod(0o600)
    temporary.rename(folder / placed.file_name("image"))
    replace(manifest, kinds={**manifest.kinds, "image": replace(state, graph=placed)}).write(folder)


def beside_hnswlib(gallery: Gallery, setting: Setting, rounds: int) -> list[Found]:
    """Race the index with bare hnswlib at the breadth at which hnswlib reaches `TARGET`, and time the look-up of rows."""
    bare = Hnswlib()
    bare.load(gallery.file_of("hnswlib", setting), dim=DIM)
    threads = len(os.sched_getaffinity(0))
    lines: list[Found] = []
    with Index.open(filled(gallery, setting), notify=say) as index:
        labels = index.vectors("image")[0]
        for modality in MODALITIES:
            queries, kth = gallery.queries(modality), gallery.kth(modality)
            plain: Search = partial(_plain, bare, threads)
            own: Search = partial(_own, index)
            ef = breadth_for(TARGET, plain, queries, gallery.vectors, kth, least=TOP)
            if ef is None:
                lines.append({"rows": gallery.count, "queries": modality, "recall": TARGET, "ef_search": None})
                continue
            rates = race(
                {
                    "hnswlib": partial(in_batches, plain, queries, ef),
                    "nearest": partial(in_batches, own, queries, ef),
                    "search": partial(in_batches, partial(_looked_up, index), queries, ef),
                },
                queries=len(queries),
                rounds=rounds,
            )
            found = {
                name: np.concatenate([one(queries[at : at + BATCH], ef) for at in range(0, len(queries), BATCH)])
                for name, one in (("hnswlib", plain), ("nearest", own))
            }
            found["nearest"] = np.searchsorted(labels, found["nearest"])
            lines.append(
                {
                    "rows": gallery.count, "queries": modality, "threads": threads, "ef_search": ef,
                    "recall": {
                        name: round(float(recall(rows, queries, gallery.vectors, kth).mean()), 4)
                        for name, rows in found.items()
                    },
                    "speed": rates,
                    "look_up_ms_a_query": round(
                        1000 / rates["search"]["per_processor_second"] - 1000 / rates["nearest"]["per_processor_second"], 2
                    ),
                }
            )  # fmt: skip
            say(f"{modality} queries of the index beside hnswlib at {gallery.count}")
    return lines


def filtered(gallery: Gallery, setting: Setting, rounds: int) -> Found:
    """Race batches that share a filter of 1 % with hnswlib's filter, a Python function, and time a query alone."""
    bare = Hnswlib()
    bare.load(gallery.file_of("hnswlib", setting), dim=DIM)
    queries = gallery.queries("text")
    facts = drawn_facts(gallery.count)
    mask = facts["lot"] == 7
    some = queries[:BATCH]
    kth = _kth_among(gallery, mask, queries)
    plain: Search = partial(_plain_filtered, bare, mask.tolist())
    where = parse_filter(FILTER)
    with Index.open(filled(gallery, setting), notify=say) as index:
        labels = index.vectors("image")[0]
        index.graph("image")
        begun = time.perf_counter()
        nearest(index, some[:1], k=TOP, where=where, fingerprint=index.fingerprint)
        first = time.perf_counter() - begun
        own: Search = lambda block, ef: nearest(index, block, k=TOP, where=where, fingerprint=index.fingerprint)[0]  # noqa: E731, ARG005
        ef = breadth_for(TARGET, plain, some, gallery.vectors, kth[:BATCH], least=TOP)
        swept: list[float] = []

        def all_batches() -> None:
            begun = time.perf_counter()
            own(some, 0)
            swept.append(time.perf_counter() - begun)
            in_batches(own, queries[BATCH:], 0)

        runs: dict[str, Callable[[], object]] = {"hnswlib, ef 10": partial(plain, some, TOP), "index": all_batches}
        if ef is not None:
            runs["hnswlib"] = partial(plain, some, ef)
        # hnswlib takes seconds for a batch. Of the index many are asked: one alone would show the caches that hnswlib swept.
        counts = {name: len(queries if name == "index" else some) for name in runs}
        rates = race(runs, queries=counts, rounds=rounds)
        alone = race({"index": partial(_one_by_one, own, some[:16])}, queries=16, rounds=rounds)
        wide = parse_filter(WIDE_FILTER)
        race_wide = race(
            {"index": lambda: nearest(index, some, k=TOP, where=wide, fingerprint=index.fingerprint)},
            queries=len(some),
            rounds=rounds,
        )
        wide_kth = _kth_among(gallery, (facts["view"] == "PA") & (facts["study_year"] >= 2020), some)
        wide_rows = np.searchsorted(labels, nearest(index, some, k=TOP, where=wide, fingerprint=index.fingerprint)[0])
        rows = {
            "index": np.searchsorted(labels, own(some, 0)),
            "index, alone": np.searchsorted(labels, np.concatenate([own(one[None], 0) for one in some])),
            "hnswlib, ef 10": plain(some, TOP),
        }
    return {
        "rows": gallery.count, "filter": FILTER, "matching": int(mask.sum()), "batch": BATCH,
        "hnswlib_ef_search": ef, "speed": rates,
        "recall": {
            name: round(float(recall(found, some, gallery.vectors, kth[:BATCH]).mean()), 4) for name, found in rows.items()
        },
        "first_ms": round(1000 * first, 1),
        "batch_after_other_work_ms": round(1000 * statistics.median(swept), 1),
        "alone_ms": round(1000 / alone["index"]["per_second"], 2),
        "alone_processor_ms": round(1000 / alone["index"]["per_processor_second"], 2),
        WIDE_FILTER: {
            "recall": round(float(recall(wide_rows, some, gallery.vectors, wide_kth).mean()), 4),
            **{name: race_wide["index"][name] for name in ("per_second", "per_processor_second")},
        },
    }  # fmt: skip


def _kth_among(gallery: Gallery, mask: NDArray[np.bool_], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the score [Q] of the tenth nearest of the images of a mask [N]."""
    places = np.flatnonzero(mask)
    parts = np.split(places, range(BLOCK, len(places), BLOCK))
    return nearest_scores(queries, (np.ascontiguousarray(gallery.vectors[part]) for part in parts), k=TOP)


def opened(gallery: Gallery, setting: Setting, rounds: int) -> Found:
    """Open the index in fresh processes that remember no digest, and ask it once; sizes and memory."""
    folder = filled(gallery, setting)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    with tempfile.TemporaryDirectory() as nothing, patch.dict(os.environ, {"XDG_CACHE_HOME": nothing}):
        each = []
        for _ in range(rounds + 1):
            shutil.rmtree(Path(nothing) / "mcr-infer", ignore_errors=True)
            each.append(in_fresh_process(_open_once, folder, gallery.folder, threads=len(os.sched_getaffinity(0))))
    each = each[1:]  # the first warmed the page cache
    return {
        "rows": gallery.count,
        "seconds": {name: round(float(np.median([one[0][name] for one in each])), 2) for name in each[0][0]},
        "bytes_per_vector": {
            **{name: round(size / gallery.count) for name, size in each[0][1].items()},
            "on_disk": round(sum(sizes.values()) / gallery.count),
        },
        "files": {re.sub("-[0-9a-f]{16}", "", name): size for name, size in sizes.items()},
    }  # fmt: skip


def _open_once(folder: Path, queries: Path) -> tuple[dict[str, float], dict[str, int]]:
    """Return the seconds that opening takes, step by step, and the bytes that it leaves in memory."""
    query = np.load(queries / "text.npy")[:1]
    before, resident = own_bytes("RssAnon"), own_bytes("VmRSS")
    begun, busy = time.perf_counter(), time.process_time()
    with Index.open(folder, notify=say) as index:
        index.graph("image")
        graph = time.perf_counter() - begun
        index.vectors("image")
        index.facts("image")
        ready = time.perf_counter() - begun
        nearest(index, query, k=TOP, fingerprint=index.fingerprint)
        seconds = {
            "graph": graph,
            "graph, vectors and facts": ready,
            "with a first answer": time.perf_counter() - begun,
            "processor time": time.process_time() - busy,
        }
        return seconds, {"private": own_bytes("RssAnon") - before, "resident": own_bytes("VmRSS") - resident}


def _plain(bare: Hnswlib, threads: int, queries: NDArray[np.float32], ef: int) -> NDArray[np.int64]:
    bare.graph.set_num_threads(threads)
    bare.graph.set_ef(ef)
    labels, _ = bare.graph.knn_query(queries, k=TOP)
    return np.asarray(labels).astype(np.int64)


def _own(index: Index, queries: NDArray[np.float32], ef: int) -> NDArray[np.int64]:
    return nearest(index, queries, k=TOP, ef_search=ef, fingerprint=index.fingerprint)[0]


def _looked_up(index: Index, queries: NDArray[np.float32], ef: int) -> NDArray[np.int64]:
    return np.array(
        [
            [hit.label for hit in hits]
            for hits in search(index, queries, k=TOP, ef_search=ef, fingerprint=index.fingerprint)
        ]
    )


def _one_by_one(search: Search, queries: NDArray[np.float32]) -> None:
    for query in queries:
        search(query[None], 0)


def _plain_filtered(bare: Hnswlib, mask: list[bool], queries: NDArray[np.float32], ef: int) -> NDArray[np.int64]:
    bare.graph.set_ef(ef)
    labels, _ = bare.graph.knn_query(queries, k=TOP, num_threads=1, filter=mask.__getitem__)
    return np.asarray(labels).astype(np.int64)
