import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.earlier import READERS, ROOT, earlier_parts
from benchmarks.earlier_card import CARD
from benchmarks.html_page import html_page
from report_page import Page
from report_parts import one_report

NOT_SHOWN = {f"benchmarks/results/{name}.json" for name in ("fuzz", "report_sections")}
"""Documents that are quoted in the README and stand for themselves."""


def test_all_committed_results_are_in_the_report():
    parts = earlier_parts()
    assert len(parts) == sum((ROOT / path).is_file() for path in READERS)
    committed = {f"{folder}/results/{path.name}" for folder in ("benchmarks", "train")
                 for path in (ROOT / folder / "results").glob("*.json")}  # fmt: skip
    shown = {path for path in READERS if (ROOT / path).is_file()}
    assert (committed | {CARD}) - NOT_SHOWN == shown
    assert all(part.tables and part.figures and part.taken.startswith(tuple(READERS)) for part in parts)
    report = one_report(*parts)
    Page(html_page(report))
    assert len(report.headlines) >= 6


def test_earlier_results_tell_the_day_of_their_last_commit(tmp_path: Path):
    def git(*words: str, day: str = "2026-01-01") -> None:
        when = {"GIT_AUTHOR_DATE": f"{day}T12:00:00", "GIT_COMMITTER_DATE": f"{day}T12:00:00"}
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, env={**os.environ, **when})

    path = tmp_path / "benchmarks/results/phantoms.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"benchmark": "phantoms", "size": 256, "per_second": 1.0}')
    assert [part.taken for part in earlier_parts(tmp_path)] == [
        "benchmarks/results/phantoms.json: it does not say on which machine"
    ]
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first", day="2026-02-03")
    path.write_text('{"benchmark": "phantoms", "size": 256, "per_second": 2.0, "cores": 2}')
    git("commit", "--quiet", "-am", "second", day="2026-04-05")
    assert [part.taken for part in earlier_parts(tmp_path)] == [
        "benchmarks/results/phantoms.json, committed 2026-04-05: 2 cores"
    ]


def test_search_in_vectors_is_told_whole():
    parts = [part for part in earlier_parts() if part.name in ("recall", "recall-slow")]
    document = {}
    for name in ("recall", "recall_slow"):
        document |= json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))
    tables: dict[str, list[tuple[object, ...]]] = {}
    for table in (table for part in parts for table in part.tables):
        tables.setdefault(table.title, []).extend(table.rows)
    settings = [rows for title, rows in tables.items() if title.startswith("Settings of hnswlib")]
    assert sum(map(len, settings)) == len(document["sweep"]["found"])
    beside = tables["The index beside bare hnswlib with the same graph"]
    assert [row[:2] for row in beside if row[2] == 1] == [
        (100_000, "image"), (100_000, "text"), (1_000_000, "image"), (1_000_000, "text"),
    ]  # fmt: skip
    assert {row[2] for row in tables["Queries that share a filter, 64 at once"]} == {
        "index", "hnswlib", "hnswlib, ef 10",
    }  # fmt: skip
    opening = document["million"]["found"]["opening"]
    assert tables["Opening an index in a fresh process"][-1] == (
        1_000_000, opening["seconds"]["with a first answer"], opening["seconds"]["processor time"],
        opening["bytes_per_vector"]["private"], opening["bytes_per_vector"]["on_disk"],
    )  # fmt: skip
    figures = {name: figure.measure.value for part in parts for name, figure in part.figures.items()}
    speed = document["index"]["found"]["filters"]["speed"]
    assert figures["recall.filter.100000.over_hnswlib_at_0.99"] == pytest.approx(
        speed["index"]["ratio_processor"] / speed["hnswlib"]["ratio_processor"]
    )
    files = [figures[f"recall.opening.1000000.bytes_on_disk.{kind}"] for kind in ("store", "graph", "vectors", "facts")]
    assert sum(files) == pytest.approx(figures["recall.opening.1000000.bytes_on_disk"], rel=1e-3)
    missed = next(plot for part in parts for plot in part.plots if plot.title.startswith("What a graph"))
    assert {len(series.points) for series in missed.series} <= set(range(3, 7))
    assert all(0 < value <= 100 for series in missed.series for _, value, _, _ in series.points)


def test_sentences_of_the_readme_about_a_second_look_are_figures():
    figures = {name: one.measure.value for part in earlier_parts() for name, one in part.figures.items()}
    ways = json.loads((ROOT / "benchmarks/results/rerank.json").read_text(encoding="utf-8"))["ways"]
    lost = [
        100 * (ways["cosine"][asked][key][0] - ways["best patch alone"][asked][key][0])
        for asked, key in (("reports", "r1"), ("reports", "p10"), ("short sentences", "r1"), ("short sentences", "p10"),
                           ("hand-written sentences", "p10"), ("radiographs, for reports", "r1"))
    ]  # fmt: skip
    assert figures["rerank.best_patch_alone.loss.min"] == pytest.approx(min(lost))
    assert figures["rerank.best_patch_alone.loss.max"] == pytest.approx(max(lost))
    assert 0 <= figures["rerank.eight_bits.largest_move"] < 1
    assert 0 < figures["rerank.choice.spread_of_the_middle"] < 5
    assert 0 < figures["combined.weights_of_not.spread"] < 10


def test_the_model_card_is_a_part_with_its_intervals():
    part = next(part for part in earlier_parts() if part.name == "card")
    rows = {row[:2]: row for row in part.tables[0].rows}
    assert len(rows) == 4
    assert (
        rows["finding sets (235, macro)", "image → report"][2]
        == part.figures["card.finding_sets.image_to_report.r1"].measure
    )
    lungs = part.figures["card.auroc.lung_nodule"].measure
    assert 0 < lungs.low <= lungs.value <= lungs.high < 1
    found = [figure.measure.value for name, figure in part.figures.items() if name.startswith("card.auroc.")]
    assert len(found) == part.figures["card.kinds"].measure.value == len(part.plots[0].series[0].points) == 12
    assert sum(value >= 0.96 for value in found) == part.figures["card.kinds_found"].measure.value
    with pytest.raises(KeyError, match="protocol"):
        READERS[CARD]("# A card without a table\n", "here")


def test_engines_at_equal_recall_stand_beside_each_other_and_one_that_does_not_get_there_says_so():
    line = {"rows": 1000, "queries": "text", "recall": 0.95, "threads": 1}
    speed = {"per_second": 5000.0, "per_processor_second": 4000.0, "ratio": 1.0, "ratio_processor": 1.0}
    run = {
        "setting": "m 32",
        "sizes": {"hnswlib": {"bytes_per_vector": 2320, "bytes_per_vector_on_disk": 2316, "build": None}},
        "speed": [
            {**line, "engine": "hnswlib", "ef_search": 80, **speed},
            {**line, "engine": "usearch", "ef_search": None},
        ],
    }
    document = {
        "top": 10,
        "batch": 64,
        "engines": {"machine": {}, "found": run},
        "million": {"found": {"engines": run}},
    }
    part = READERS["benchmarks/results/recall.json"](document, "earlier")
    assert part.tables[0].rows[0] == (1000, "text", 95.0, 1, "hnswlib", 80, 5000.0, 4000.0, 1.0)
    assert part.tables[0].rows[1][5:] == (None, *["does not get there"] * 3)
    assert part.tables[1].rows == (("hnswlib, engines", 2320, 2316), ("hnswlib, million", 2320, 2316))
    assert part.figures["recall.1000.hnswlib.text.0.95.threads_1"].measure.value == 5000.0


def test_a_tower_of_several_cores_is_told_by_its_calls_and_threads():
    document = json.loads((ROOT / "benchmarks/results/towers.json").read_text(encoding="utf-8"))
    uses = document["bundles"]["phantom"]["uses"]
    one_thread = [{**use, "calls": 2, "threads": 1} for use in uses if use["threads"] == 1]
    document["bundles"] = {
        "phantom": {
            **document["bundles"]["phantom"],
            "uses": [
                *one_thread,
                *({**use, "calls": 1, "threads": 2, "images_per_core_second": 1.0} for use in one_thread),
            ],
        }
    }
    part = READERS["benchmarks/results/towers.json"](document, "earlier")
    rows = part.tables[0].rows
    assert {row[1:3] for row in rows} == {(2, 1), (1, 2)}
    assert all(set(row[4:]) == {1.0} for row in rows if row[2] == 2)
    assert min(point[1] for series in part.plots[0].series for point in series.points) > 1.0
    assert part.figures["towers.phantom.fp32.budget_1.batch_4"].measure.value > 1.0


def test_a_document_that_holds_something_else_is_an_error_and_not_missing(tmp_path: Path):
    path = tmp_path / "benchmarks/results/startup.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"benchmark": "startup"}')
    with pytest.raises(ValueError, match=r"benchmarks/results/startup\.json: no document of this benchmark"):
        earlier_parts(tmp_path)
