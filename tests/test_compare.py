import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main, write_report
from benchmarks.compare import compare, overlap
from benchmarks.part import Better, Figure, Measure, Part
from benchmarks.report import Report, Subject
from report_parts import one_part, one_report


def report_of(flags: tuple[str, ...] = (), **figures: tuple[float, float | None, float | None, Better]) -> Report:
    part = Part(
        name="p",
        title="P",
        question="?",
        command="-",
        flags=flags,
        figures={
            name: Figure(measure=Measure(value=value, low=low, high=high), unit="ms", better=better)
            for name, (value, low, high, better) in figures.items()
        },
    )
    return one_report(part)


def test_what_moved_is_told_from_noise():
    before = report_of(
        slower=(10, 9, 11, "lower"),
        faster=(10, 9, 11, "lower"),
        more=(10, 9, 11, "higher"),
        noisy=(10, 5, 15, "lower"),
        neither=(10, 9, 11, ""),
        once=(10, None, None, "lower"),
        once_little=(10, None, None, "lower"),
        same=(10, None, None, "lower"),
        zero=(0, None, None, "lower"),
        gone=(1, None, None, ""),
    )
    after = report_of(
        slower=(15, 14, 16, "lower"),
        faster=(5, 4, 6, "lower"),
        more=(15, 14, 16, "higher"),
        noisy=(14, 9, 19, "lower"),
        neither=(15, 14, 16, ""),
        once=(15, None, None, "lower"),
        once_little=(10.5, None, None, "lower"),
        same=(10, None, None, "lower"),
        zero=(1, None, None, "lower"),
        new=(1, None, None, ""),
    )
    found = compare(before, after)
    assert {change.name: change.verdict for change in found.changes} == {
        "slower": "worse",
        "faster": "better",
        "more": "better",
        "noisy": "within noise",
        "neither": "moved",
        "once": "noise unknown",
        "once_little": "within noise",
        "same": "unchanged",
        "zero": "noise unknown",
    }
    assert (found.new, found.gone) == (("new",), ("gone",))
    lines = found.lines()
    assert "  slower: 10.0 [9.00, 11.0] ms -> 15.0 [14.0, 16.0] ms  +50.0%" in lines
    assert "worse: 1" in lines
    assert "better: 2" in lines
    assert lines[-1] == "within noise: 2, unchanged: 1"
    assert found.circumstances == {}


def test_other_circumstances_are_named():
    before, after = report_of(), report_of(flags=("noisy machine",))
    after = dataclasses.replace(
        after,
        quick=True,
        bundle=Subject(name="mine", fingerprint="a" * 64),
        machine={**after.machine, "processor": "Other", "load": 9.0, "packages": {"numpy": "2.5.0", "torch": "2.14.1"}},
    )
    found = compare(before, after)
    assert found.circumstances == {
        "bundle": (f"phantom {'f' * 16}", f"mine {'a' * 16}"),
        "run": ("full", "quick"),
        "processor": ("Some Processor", "Other"),
        "version of numpy": ("2.4.6", "2.5.0"),
        "version of torch": ("none", "2.14.1"),
    }
    assert found.doubtful == ("B: P: noisy machine",)
    assert "  version of numpy: 2.4.6 -> 2.5.0" in found.lines()


def test_a_machine_that_was_itself_faster_is_named():
    def at(pace: float) -> Report:
        report = report_of(a=(1, 0.9, 1.1, "lower"))
        return dataclasses.replace(report, parts=(dataclasses.replace(report.parts[0], pace_ms=pace),))

    assert compare(at(20.0), at(20.5)).circumstances == {}
    assert compare(at(0.0), at(20.0)).circumstances == {}
    found = compare(at(20.0), at(18.2))
    assert found.circumstances == {"a fixed piece of work beside 'p'": ("20.0 ms", "18.2 ms")}
    assert found.lines()[0] == "not the same circumstances:"


def test_figures_of_other_units_are_not_compared():
    before, after = report_of(a=(1, 0.9, 1.1, "lower")), report_of(a=(1000, 900, 1100, "lower"))
    part = after.parts[0]
    figure = dataclasses.replace(part.figures["a"], unit="µs")
    after = dataclasses.replace(after, parts=(dataclasses.replace(part, figures={"a": figure}),))
    assert compare(before, after).changes[0].verdict == "other unit"


def test_intervals_that_touch_overlap():
    one = Measure(value=2, low=1, high=3)
    assert overlap(one, Measure(value=4, low=3, high=5))
    assert not overlap(one, Measure(value=4, low=3.01, high=5))
    with pytest.raises(ValueError, match="without an interval"):
        overlap(one, Measure(value=2))


def test_reports_are_compared_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_report(one_report(one_part(value=33)), tmp_path / "a")
    write_report(one_report(one_part(value=66)), tmp_path / "b")
    assert main(["--compare", str(tmp_path / "a"), str(tmp_path / "b/results.json")]) == 0
    told = capsys.readouterr().out
    assert "worse: 1\n  latency.text.p50: 33.0 [32.0, 34.0] ms -> 66.0 [65.0, 67.0] ms  +100.0%" in told
    assert main(["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"][0]["verdict"] == "worse"
    assert found["figures"][0]["relative"] == 1.0
    values = json.loads((tmp_path / "b/results.json").read_text()) | {"schema_version": 2}
    (tmp_path / "b/results.json").write_text(json.dumps(values))
    assert main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "results of schema version 2, and this checkout reads 1" in capsys.readouterr().err
