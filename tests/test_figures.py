import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import write_report
from benchmarks.earlier import ROOT
from benchmarks.figures import TEXTS, Quotes, UnknownFigureError, differences, main
from benchmarks.quoted import TABLES
from benchmarks.report import read_json
from report_parts import one_part, one_report


def test_what_the_readmes_quote_is_what_was_measured():
    assert main(["--check"]) == 0
    texts = "".join((ROOT / name).read_text(encoding="utf-8") for name in TEXTS)
    assert all(f"<!-- begin: {name} -->" in texts for name in TABLES)
    assert texts.count("<!-- figure: ") >= 40


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for folder in ("benchmarks", "train"):
        shutil.copytree(ROOT / folder / "results", tmp_path / folder / "results")
    for name in TEXTS:
        (tmp_path / name).write_text("nothing is quoted here\n", encoding="utf-8")
    return tmp_path


def test_a_figure_that_differs_is_found_and_mended(checkout: Path, capsys: pytest.CaptureFixture[str]):
    document = read_json(checkout / "benchmarks/results/throughput.json")
    measured = next(one for one in document["bound"] if (one["bundle"], one["syntax"]) == ("shipped", "uncompressed"))
    right = f"{measured['images_per_second']:.0f}"
    text = "at <!-- figure: throughput.shipped.uncompressed .0f -->999<!-- / --> a second,\n"
    (checkout / "README.md").write_text(text)
    assert main(["--check"], root=checkout) == 1
    told = capsys.readouterr()
    assert "-at <!-- figure: throughput.shipped.uncompressed .0f -->999<!-- / --> a second," in told.out
    assert "python -m benchmarks.figures" in told.err
    assert (checkout / "README.md").read_text() == text
    assert main([], root=checkout) == 0
    assert (checkout / "README.md").read_text() == text.replace("999", right)
    assert main(["--check"], root=checkout) == 0


def test_a_longer_table_differs_in_its_own_lines_alone():
    assert differences("a\nb\nc\n", "a\nnew\nb\nd\n") == ["+new", "-c", "+d"]


def test_results_that_cannot_be_read_are_an_error_in_words(checkout: Path, capsys: pytest.CaptureFixture[str]):
    (checkout / "benchmarks/results/startup.json").write_text("{}")
    assert main(["--check"], root=checkout) == 1
    assert capsys.readouterr().err.startswith("error: benchmarks/results/startup.json: no document of this benchmark")


def test_a_table_is_written_between_its_marks(checkout: Path):
    fresh = Quotes.of(checkout).refreshed("before\n<!-- begin: startup -->\n| old |\n<!-- end: startup -->\nafter\n")
    lines = fresh.splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[2] == "| | wall, over the bare imports | processor time, over the bare imports |"
    asked = read_json(checkout / "benchmarks/results/startup.json")["text query"]
    ratios = f"{asked['ratio_to_bare']:.2f} | {asked['processor_ratio_to_bare']:.2f}"
    assert lines[4] == f"| text query, bundle that ships | {ratios} |"
    assert len(lines) == 10


def test_figures_and_tables_of_a_committed_report_are_quoted(checkout: Path):
    write_report(
        one_report(one_part(), one_part("older", value=1, taken="earlier")), checkout / "benchmarks/results/report"
    )
    quotes = Quotes.of(checkout)
    assert (
        quotes.refreshed("<!-- figure: latency.text.p50 -->?<!-- / -->")
        == "<!-- figure: latency.text.p50 -->33.0<!-- / -->"
    )
    table = "<!-- begin: latency / Table of latency -->\n<!-- end: latency / Table of latency -->"
    assert quotes.refreshed(table).splitlines()[3] == r"| plain | 33.0 \[32.0, 34.0\] | 12.3 |"
    with pytest.raises(UnknownFigureError, match=r"no result holds a figure 'older\.text\.p50'"):
        quotes.figure("older.text.p50", None)


def test_marks_that_name_nothing_or_are_not_closed_are_errors(checkout: Path, capsys: pytest.CaptureFixture[str]):
    quotes = Quotes.of(checkout)
    for text, told in (
        ("<!-- figure: no.such -->1<!-- / -->", "no result holds a figure 'no.such'"),
        ("<!-- begin: no-such -->\n<!-- end: no-such -->", "no table 'no-such'"),
        ("<!-- figure: language.sentences -->159", "stands alone"),
        ("<!-- begin: startup -->\n| a |\n<!-- end: start -->", "stands alone"),
        ("159<!-- / -->", "stands alone"),
    ):
        with pytest.raises(UnknownFigureError, match=told):
            quotes.refreshed(text)
    (checkout / "README.md").write_text("<!-- figure: no.such -->1<!-- / -->")
    assert main(["--check"], root=checkout) == 1
    assert "error: README.md: no result holds a figure 'no.such'" in capsys.readouterr().err
