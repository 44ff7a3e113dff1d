import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import main, write_report
from benchmarks.axis import Axis, labels, linear_range, log_range
from benchmarks.card import card_rows
from benchmarks.earlier import READERS, ROOT, earlier_parts
from benchmarks.earlier_card import CARD
from benchmarks.html_page import html_page
from benchmarks.machine import container_limits, gpus, machine_card
from benchmarks.markdown_page import markdown_page, plot_lines
from benchmarks.part import Column, Options, Part, Plot, Series, Table
from benchmarks.part_command import cell_text
from benchmarks.report import NotAReportError, commit_of, read_report
from benchmarks.selection import (
    AGAIN,
    Choice,
    PartFailedError,
    command_again,
    failed_part,
    measure_part,
    question_of,
)
from benchmarks.svg_plot import plot_svg, text_width
from report_parts import HOSTILE, one_part, one_report

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """A page as a browser sees it: elements that are open must be closed in turn; cells, texts and addresses are kept."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all_of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def test_a_page_holds_every_table_plot_and_figure():
    report = one_report(one_part("latency", flags=("noisy machine",)), one_part("older", taken="results/older.json"))
    page = Page(html_page(report))
    assert page.all_of("h3") == ["Title of latency", "Title of older"]
    assert page.all_of("h4") == ["Table of latency", "Table of older"]
    assert page.all_of("td").count("plain") == 2
    assert "12.3" in page.all_of("td")
    assert "[32.0, 34.0]" in page.all_of("small")
    assert {"latency.text.p50", f"older.{HOSTILE}"} <= set(page.all_of("code"))
    assert page.all_of("strong").count("33.0") == 2
    heads = page.all_of("th")
    assert heads.count("speed\u00a0↑") == heads.count("p99\u00a0↓") == 2
    assert page.all_of("small").count("radiographs/s") == 2
    # Each plot twice, for wide and for narrow screens; what has no place on its axis is said.
    assert [tag for tag, _ in page.tags].count("svg") == 8
    assert sum("Not drawn: 1 values" in text for text in page.all_of("p")) == 2
    assert page.all_of("h2") == ["Read with care", "Measured in this run", "Measured earlier", "What it was measured on",
                                 "Measured in this run", "Measured earlier"]  # fmt: skip
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    linked = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert linked == ids == {"part-latency", "part-older"}


def test_a_reason_has_the_rest_of_its_row_and_flags_of_a_part_stand_together():
    columns = tuple(Column(name=name) for name in "abcd")
    rows = (("x", 1.0, 2.0, 3.0), ("y", "not installed", None, None), ("z", 1.0, None, None), ("w", None, 2.0, None))
    table = Table(title="T", columns=columns, rows=rows)
    part = Part(name="p", title="P", question="?", command="-", tables=(table,), flags=("noisy", "busy"))
    seen = Page(html_page(one_report(part)))
    cells = [attributes for tag, attributes in seen.tags if tag == "td"]
    assert [int(str(cell.get("colspan", 1))) for cell in cells] == [1, 1, 1, 1, 1, 3, 1, 1, 2, 1, 1, 1, 1]
    assert cells[5]["class"] == "reason"
    assert ": noisy; busy" in seen.all_of("span")


def test_a_hostile_name_is_text_and_nothing_is_loaded():
    page = html_page(one_report(one_part()))
    seen = Page(page)
    assert "script" not in {tag for tag, _ in seen.tags}
    assert HOSTILE in seen.all_of("td")
    assert HOSTILE in seen.all_of("text")
    for tag, attributes in seen.tags:
        assert not {"src", "srcset", "data", "onload", "onclick", "style"} & set(attributes), tag
        assert str(attributes.get("href", "#")).startswith("#")
    style = "".join(seen.all_of("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", page.replace("http://evil.example", ""))


def test_markdown_holds_every_table_and_figure():
    page = markdown_page(one_report(one_part("latency"), one_part("older", taken="results/older.json")))
    lines = page.splitlines()
    for name in ("latency", "older"):
        place = lines.index(f"### Table of {name}")
        assert lines[place + 2] == "| way | speed, radiographs/s ↑ | p99, ms ↓ |"
        assert lines[place + 3] == "|---|---:|---:|"
        assert lines[place + 4] == r"| plain | 33.0 \[32.0, 34.0\] | 12.3 |"
        assert any(line.startswith(f"| {name}.text.p50 | 33.0") for line in lines)
    assert r"\<script" in page
    assert not re.search(r"(?<!\\)<script", page)
    rows = [line for line in lines if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)


def test_markdown_tells_what_plots_show():
    lines = markdown_page(one_report(one_part("latency"))).splitlines()
    place = lines.index("### Bars of latency")
    assert lines[place + 2] == "time, ms, by peer:"
    assert lines[place + 4 : place + 7] == [
        "| peer | warm |", "|---|---:|", r"| mcr-infer | 3.00 \[2.50, 3.50\] |",
    ]  # fmt: skip
    points = tuple((float(x), 100.0 - x, None, None) for x in range(1, 60))
    long = Plot(title="L", kind="line", x=Column(name="breadth"), y=Column(name="recall", unit="%"),
                series=(Series(name="fp32", points=points),))  # fmt: skip
    assert plot_lines(long) == [
        "recall, %, by breadth:", "", "- fp32: from 99.0 at 1.00 to 41.0 at 59.0; least 41.0 at 59.0, greatest 99.0 at 1.00",
    ]  # fmt: skip
    empty = Plot(title="L", kind="line", x=Column(name="x"), y=Column(name="y"), series=(), note="Why.")
    assert plot_lines(empty) == ["nothing was measured that could be drawn", "", "Why."]


def test_counts_have_their_thousands_apart():
    assert [cell_text(cell) for cell in (1_000_000, 12, 1234.5, None, "-")] == ["1,000,000", "12", "1,234", "", "-"]


def test_the_card_names_machine_commit_and_bundle():
    card = dict(card_rows(one_report()))
    assert card["commit"] == "0123456789ab, with changes that are not committed"
    assert card["bundle"] == f"phantom, fingerprint {'f' * 16}"
    assert card["cores"] == "2 of 4"
    assert card["clock"] == "2600 MHz, governor performance"
    assert card["GPU"] == "Some GPU (driver 580.1, memory 81559 MiB)"
    assert card["container limits"] == "1.50 cores, 8.00 memory GiB"
    assert card["load"] == "0.1 before, 1.9 after"


def test_results_come_back_as_they_were(tmp_path: Path):
    report = one_report(one_part(flags=("noisy",)), one_part("older", taken="earlier"))
    write_report(report, tmp_path)
    assert read_report(tmp_path) == read_report(tmp_path / "results.json") == report
    assert json.loads((tmp_path / "results.json").read_text())["schema_version"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", "results.json"]


def test_results_of_another_schema_are_refused_in_words(tmp_path: Path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(one_report().to_dict() | {"schema_version": 99}))
    with pytest.raises(NotAReportError, match="schema version 99, and this checkout reads 1"):
        read_report(path)
    path.write_text("[]")
    with pytest.raises(NotAReportError, match="has no schema_version"):
        read_report(path)
    path.write_text(json.dumps(one_report().to_dict() | {"parts": [{}]}))
    with pytest.raises(NotAReportError, match="does not hold what a report of schema version 1 must"):
        read_report(path)


def test_names_that_comparisons_go_by_are_unique():
    with pytest.raises(ValueError, match="two parts of a report have the name 'latency'"):
        one_report(one_part(), one_part())


def test_all_committed_results_are_in_the_report():
    parts = earlier_parts()
    assert len(parts) == sum((ROOT / path).is_file() for path in READERS)
    committed = {f"{folder}/results/{path.name}" for folder in ("benchmarks", "train")
                 for path in (ROOT / folder / "results").glob("*.json")}  # fmt: skip
    assert committed | {CARD} == {path for path in READERS if (ROOT / path).is_file()}
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
    part = next(part for part in earlier_parts() if part.name == "recall")
    document = json.loads((ROOT / "benchmarks/results/recall.json").read_text(encoding="utf-8"))
    tables = {table.title: table for table in part.tables}
    settings = [table for title, table in tables.items() if title.startswith("Settings of hnswlib")]
    assert sum(len(table.rows) for table in settings) == len(document["sweep"]["found"])
    beside = tables["The index beside bare hnswlib with the same graph"]
    assert [row[:2] for row in beside.rows] == [
        (100_000, "image"), (100_000, "text"), (1_000_000, "image"), (1_000_000, "text"),
    ]  # fmt: skip
    assert {row[2] for row in tables["Queries that share a filter, 64 at once"].rows} == {
        "index", "hnswlib", "hnswlib, ef 10",
    }  # fmt: skip
    opening = document["million"]["found"]["opening"]
    assert tables["Opening an index in a fresh process"].rows[-1] == (
        1_000_000, opening["seconds"]["with a first answer"], opening["seconds"]["processor time"],
        opening["bytes_per_vector"]["private"], opening["bytes_per_vector"]["on_disk"],
    )  # fmt: skip
    figures = {name: figure.measure.value for name, figure in part.figures.items()}
    speed = document["index"]["found"]["filters"]["speed"]
    assert figures["recall.filter.100000.over_hnswlib_at_0.99"] == pytest.approx(
        speed["index"]["ratio_processor"] / speed["hnswlib"]["ratio_processor"]
    )
    files = [figures[f"recall.opening.1000000.bytes_on_disk.{kind}"] for kind in ("store", "graph", "vectors", "facts")]
    assert sum(files) == pytest.approx(figures["recall.opening.1000000.bytes_on_disk"], rel=1e-3)
    missed = next(plot for plot in part.plots if plot.title.startswith("What a graph"))
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


def test_a_document_that_holds_something_else_is_an_error_and_not_missing(tmp_path: Path):
    path = tmp_path / "benchmarks/results/startup.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"benchmark": "startup"}')
    with pytest.raises(ValueError, match=r"benchmarks/results/startup\.json: no document of this benchmark"):
        earlier_parts(tmp_path)


@pytest.mark.parametrize("width", [688, 350])
def test_no_text_of_a_plot_leaves_the_picture_or_stands_on_another(width: int):
    for part in (*earlier_parts(), one_part()):
        for plot in part.plots:
            svg = plot_svg(plot, width)
            boxes = []
            for text in svg.iter("text"):
                told = str(text.text)
                wide, x, y = text_width(told) * 0.94, float(text.get("x", 0)), float(text.get("y", 0))
                left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[text.get("text-anchor", "start")]
                assert left >= -1, (plot.title, told)
                assert left + wide <= width + 1, (plot.title, told)
                assert 8 <= y <= float(svg.get("height", 0)), (plot.title, told)
                boxes.append((left, y - 9, left + wide, y + 2, told))
            for place, one in enumerate(boxes):
                for other in boxes[place + 1 :]:
                    apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
                    assert apart, (plot.title, one, other)


def test_bars_are_as_long_as_their_values_and_dots_where_the_axis_is_logarithmic():
    series = (Series(name="one", points=((0, 10.0, 9.0, 11.0), (1, 20.0, None, None))),)
    plot = Plot(title="p", kind="bar", x=Column(name="x"), y=Column(name="y"), x_names=("a", "b"), series=series)
    bars = [float(bar.get("width", 0)) for bar in plot_svg(plot, 688).iter("rect")]
    assert bars[1] == pytest.approx(2 * bars[0], abs=0.2)
    assert sum(group.get("class") == "whisker" for group in plot_svg(plot, 688).iter("g")) == 1
    dots = plot_svg(Plot(title="p", kind="bar", x=plot.x, y=plot.y, x_names=("a", "b"), series=series, log_y=True), 688)
    assert list(dots.iter("rect")) == []
    assert len(list(dots.iter("circle"))) == 2
    with pytest.raises(ValueError, match="has no points"):
        plot_svg(Plot(title="p", kind="bar", x=plot.x, y=plot.y, series=()), 688)


def test_axes_have_round_limits_and_ticks():
    assert linear_range([3.0, 64.6], from_zero=True) == (0, 80)
    assert linear_range([190.6, 191.9], from_zero=False) == (0, 200)
    assert linear_range([76.0, 97.0], from_zero=False) == pytest.approx((75, 100))
    assert log_range([0.03, 7.0]) == pytest.approx((0.02, 10))
    axis = Axis(low=1, high=100, start=0, end=200, log=True)
    assert axis.at(10) == pytest.approx(100)
    assert axis.ticks() == pytest.approx([1, 3, 10, 30, 100])
    assert labels([0, 0.25, 0.5, 1000, 20.0]) == ["0", "0.25", "0.5", "1,000", "20"]


def test_the_machine_card_tells_limits_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{8 << 30}\n")
    assert container_limits(tmp_path) == {"cores": 1.5, "memory_gib": 8.0}
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert container_limits(tmp_path) == {"memory_gib": 8.0}
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "Some GPU, 580.1, 81559 MiB, 345 MHz, 1980 MHz, 700.00 W"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus() == [
        {"name": "Some GPU", "driver": "580.1", "memory": "81559 MiB", "clock now": "345 MHz",
         "greatest clock": "1980 MHz", "power limit": "700.00 W"}
    ]  # fmt: skip
    assert gpus("no-such-program-anywhere") == []
    assert machine_card()["cores"] >= 1


def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path):
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@x")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        ).stdout

    assert commit_of(tmp_path).digest == ""
    git("init", "--quiet")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "--quiet", "-m", "a")
    commit = commit_of(tmp_path)
    assert commit.digest == git("rev-parse", "HEAD").strip()
    assert not commit.changed
    (tmp_path / "a").write_text("2")
    assert commit_of(tmp_path).changed


GOOD = """
import json, sys
from benchmarks.part import Part
part = Part(name="good", title="Good", question="?", command="-")
open(sys.argv[sys.argv.index("--out") + 1], "w").write(json.dumps(part.to_dict()))
"""


def test_a_part_runs_in_a_process_of_its_own_and_says_how_it_failed():
    assert measure_part([sys.executable, "-c", GOOD]).title == "Good"
    fails = "import sys; print('loading'); sys.exit('no such library: foo')"
    with pytest.raises(PartFailedError, match="failed with exit code 1: no such library: foo"):
        measure_part([sys.executable, "-c", fails])
    with pytest.raises(PartFailedError, match="was ended by SIGKILL: it said nothing"):
        measure_part([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(PartFailedError, match="left no document"):
        measure_part([sys.executable, "-c", ""])
    with pytest.raises(PartFailedError, match="ended after 1 s without a result"):
        measure_part([sys.executable, "-c", "import time; time.sleep(60)"], seconds=1)


def test_a_part_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    commands = {"bad": "import sys; sys.exit('out of luck')", "good": GOOD}
    monkeypatch.setattr("benchmarks.__main__.MEASURED", tuple(commands))
    monkeypatch.setattr("benchmarks.selection.command_of", lambda name, _: [sys.executable, "-c", commands[name]])
    code = main(
        ["--quick", "--only", "bad", "good", "startup", "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    )
    assert code == 3
    report = read_report(tmp_path / "r")
    assert [part.name for part in report.parts] == ["bad", "good", "startup"]
    assert report.flagged[0][1] == "failed with exit code 1: out of luck"
    assert report.quick
    assert report.bundle is not None
    assert report.bundle.name == "phantom"
    assert "failed with exit code 1: out of luck" in (tmp_path / "r/report.html").read_text()
    assert "out of luck" in (tmp_path / "r/report.md").read_text()
    assert "out of luck" in capsys.readouterr().err


def test_an_unknown_part_is_wrong_usage(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--only", "latencies"])
    assert ended.value.code == 2
    assert "no part 'latencies'" in capsys.readouterr().err


def test_parts_are_chosen_by_name(capsys: pytest.CaptureFixture[str]):
    assert Choice(skip=("b",)).of("abc") == ["a", "c"]
    assert Choice(only=("b", "c"), skip=("b",)).of("abc") == ["c"]
    assert main(["--list", "--only", "roofline", "startup"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["roofline", "startup"]
    assert question_of("roofline") in told[0]
    assert failed_part("roofline", "because").flags == ("because",)


def test_what_was_measured_earlier_is_measured_again_where_that_is_quick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    chosen = ["--only", "phantoms", "startup-large", "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    assert main(["--quick", "--rerun", *chosen]) == 0
    report = read_report(tmp_path / "r")
    assert [part.name for part in report.measured] == ["phantoms"]
    assert [part.name for part in report.earlier] == ["startup-large"]
    again, before = (
        next(part for part in parts if part.name == "phantoms") for parts in (report.parts, earlier_parts())
    )
    assert list(again.figures) == list(before.figures)
    assert again.seconds > 0
    assert again.taken == ""
    assert again.figures != before.figures
    assert "phantoms ..." in capsys.readouterr().err


def test_another_bundle_is_never_measured_with_a_benchmark_of_the_one_that_ships(tmp_path: Path):
    options = Options(bundle=tmp_path / "mine")
    assert command_again("language", options)[-2:] == ["--bundle", str(tmp_path / "mine")]
    with pytest.raises(PartFailedError, match="it is about the bundle that ships"):
        command_again("startup", options)
    assert command_again("startup", Options(quick=True))[-2:] == ["--runs", "5"]
    assert {Path(path).stem for path in READERS} >= set(AGAIN)


def test_a_committed_document_that_cannot_be_read_ends_the_report_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "benchmarks/results/phantoms.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    monkeypatch.setattr("benchmarks.__main__.earlier_parts", lambda: earlier_parts(tmp_path))
    assert main(["--list"]) == 1
    assert capsys.readouterr().err.startswith("error: benchmarks/results/phantoms.json: no document of this benchmark")


def test_strict_refuses_a_busy_machine_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("benchmarks.harness.NOISE_LIMIT", -1.0)
    assert main(["--strict", "--only", "startup", "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]) == 1
    assert "noisy machine" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_the_svg_is_well_formed():
    for plot in one_part().plots:
        ElementTree.fromstring(ElementTree.tostring(plot_svg(plot, 350)))


def test_a_part_without_points_says_so():
    empty = Plot(
        title="Nothing", kind="line", x=Column(name="x"), y=Column(name="y"), series=(Series(name="a", points=()),)
    )
    page = html_page(one_report(Part(name="p", title="P", question="?", command="-", plots=(empty,))))
    assert "Nothing: nothing was measured that could be drawn." in Page(page).all_of("p")
    assert "<svg" not in page
