import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import write_report
from benchmarks.card import card_rows
from benchmarks.earlier import ROOT
from benchmarks.html_page import html_page
from benchmarks.machine import container_limits, gpus, machine_card, own_bytes
from benchmarks.markdown_page import markdown_page, plot_lines
from benchmarks.part import Column, Part, Plot, Series, Table
from benchmarks.part_command import cell_text
from benchmarks.report import NotAReportError, commit_of, read_report
from report_page import Page
from report_parts import HOSTILE, one_part, one_report


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


def test_memory_and_age_are_those_of_the_process_itself():
    import numpy as np

    held = np.ones(200 << 20, dtype=np.uint8)
    program = (
        "import time; time.sleep(0.5); from benchmarks.machine import own_age, own_bytes; "
        "print(own_bytes('VmHWM'), own_bytes('VmRSS'), own_age())"
    )
    peak, now, age = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    # The kernel brings the peak up to date in steps of some pages.
    assert 1 << 20 < int(now) < int(peak) + (1 << 20) < held.nbytes
    assert 0.4 < float(age) < 60
    with pytest.raises(ValueError, match="no VmWrong"):
        own_bytes("VmWrong")


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


def test_a_part_without_points_says_so():
    empty = Plot(
        title="Nothing", kind="line", x=Column(name="x"), y=Column(name="y"), series=(Series(name="a", points=()),)
    )
    page = html_page(one_report(Part(name="p", title="P", question="?", command="-", plots=(empty,))))
    assert "Nothing: nothing was measured that could be drawn." in Page(page).all_of("p")
    assert "<svg" not in page
