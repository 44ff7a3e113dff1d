import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.earlier import READERS, earlier_parts
from benchmarks.part import Options
from benchmarks.report import read_report
from benchmarks.selection import (
    AGAIN,
    Choice,
    PartFailedError,
    again_in,
    command_again,
    failed_part,
    measure_part,
    question_of,
)

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


def test_older_benchmarks_are_measured_again_and_their_documents_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    few = replace(AGAIN["phantoms"], words=("phantoms", "--count", "20"))
    monkeypatch.setattr("benchmarks.selection.AGAIN", {"phantoms": few})
    chosen = ["--only", "phantoms", "startup-large", "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    assert main(chosen) == 0
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
    document = json.loads((tmp_path / "r/documents/phantoms.json").read_text())
    assert READERS[few.document](document, "").figures == again.figures
    assert "phantoms ..." in capsys.readouterr().err


def test_a_quick_run_shows_older_benchmarks_from_their_documents(tmp_path: Path):
    assert again_in(Options(), Choice()) == list(AGAIN)
    assert again_in(Options(), Choice(only=("roofline", "startup"))) == ["startup"]
    assert again_in(Options(quick=True), Choice(only=("startup",))) == []
    chosen = ["--quick", "--only", "phantoms", "--out", str(tmp_path / "r"), "--work", str(tmp_path / "w")]
    assert main(chosen) == 0
    report = read_report(tmp_path / "r")
    assert [part.name for part in report.earlier] == ["phantoms"]
    assert not report.measured


def test_another_bundle_is_never_measured_with_a_benchmark_of_the_one_that_ships(tmp_path: Path):
    mine = Options(bundle=tmp_path / "mine", work=tmp_path)
    assert again_in(mine, Choice()) == ["recall", "language", "combined"]
    assert command_again(AGAIN["language"], mine)[1:] == [
        "-m",
        "benchmarks.language",
        "--bundle",
        str(tmp_path / "mine"),
    ]
    assert command_again(AGAIN["startup-large"], mine)[2:] == ["benchmarks.startup", "--large", f"{tmp_path}/startup"]


def test_what_is_measured_again_is_known_by_the_name_of_its_part():
    earlier = {part.name for part in earlier_parts()}
    assert set(AGAIN) <= earlier
    assert {again.document for again in AGAIN.values()} <= set(READERS)
    assert all(question_of(name) for name in AGAIN)


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
