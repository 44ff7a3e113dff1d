"""Everything that this machine can measure, in one report: a page, its Markdown and its numbers.

    python -m benchmarks [--out DIR] [--quick] [--only PART ...] [--skip PART ...] [--bundle B] [--strict] [--list]
    python -m benchmarks --compare A.json B.json [--json]

Parts run one after the other, each in a process of its own: one that fails is an entry that says so. The folder is written
anew after each of them. Exit codes: 0 done, 1 refused (a busy machine with --strict, results that cannot be compared), 2
wrong usage, 3 done but some parts failed. What is not measured now, in a quick run nearly all that has a document in
`results/`, is shown as it was measured earlier. What older benchmarks print is kept in DIR/documents.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.compare import compare
from benchmarks.earlier import ROOT, earlier_parts
from benchmarks.harness import Gauge
from benchmarks.html_page import html_page
from benchmarks.machine import load, machine_card
from benchmarks.markdown_page import markdown_page
from benchmarks.part import Options, Part
from benchmarks.report import RESULTS, NotAReportError, Report, Subject, commit_of, read_report
from benchmarks.selection import AGAIN, MEASURED, Choice, again_in, measured_or_failed, question_of
from mcr_infer import Bundle
from mcr_infer.cli import streams


def main(words: list[str] | None = None) -> int:
    """Measure or compare; return the exit code."""
    parser = _parser()
    given = parser.parse_args(words)
    if given.compare:
        return _compare(*given.compare, as_json=given.json)
    try:
        earlier = earlier_parts()
    except ValueError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    names = [*MEASURED, *AGAIN, *(part.name for part in earlier if part.name not in AGAIN)]
    choice = Choice(only=tuple(given.only), skip=tuple(given.skip))
    if unknown := choice.unknown(names):
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(names)}")
    bundle = given.bundle and given.bundle.resolve()
    options = Options(quick=given.quick, seed=given.seed, work=given.work.resolve(), bundle=bundle)
    measured = [*choice.of(MEASURED), *again_in(options, choice)]
    shown = tuple(part for part in earlier if part.name in choice.of(names) and part.name not in measured)
    if given.list:
        _list(measured, shown)
        return 0
    if given.strict and (flags := _flags_now()):
        print(*flags, "not measured: --strict wants a quiet machine", sep="\n", file=sys.stderr)
        return 1
    options.work.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks", *(sys.argv[1:] if words is None else words)])
    report, failed = _measure(measured, shown, options, given.out, command)
    print(f"report in {given.out}: open {given.out / 'report.html'}", file=sys.stderr)
    if given.strict and any(part.flags for part in report.measured):
        return 1
    return 3 if failed else 0


def _measure(
    names: list[str], earlier: tuple[Part, ...], options: Options, out: Path, command: str
) -> tuple[Report, list[str]]:
    """Measure parts one after the other and write the report after each; return it and the names of those that failed."""
    card = machine_card()
    bundle = Bundle.open(options.bundle)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts: list[Part] = []
    failed = []

    def report() -> Report:
        return Report(
            made=made,
            command=command,
            quick=options.quick,
            commit=commit_of(ROOT),
            bundle=Subject(name=bundle.name, fingerprint=bundle.fingerprint),
            machine={**card, "load_after": load()},
            parts=(*parts, *earlier),
        )

    write_report(report(), out)
    for name in names:
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        part, bad = measured_or_failed(name, options, out / "documents")
        parts.append(part)
        print(part.flags[0] if bad else f"{part.seconds:.0f} s", file=sys.stderr)
        failed += [name] if bad else []
        write_report(report(), out)
    return report(), failed


def write_report(report: Report, folder: Path) -> None:
    """Write the three files of a report."""
    folder.mkdir(parents=True, exist_ok=True)
    document: Mapping[str, Any] = report.to_dict()
    (folder / RESULTS).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(html_page(report), encoding="utf-8")
    (folder / "report.md").write_text(markdown_page(report), encoding="utf-8")


def _compare(before: Path, after: Path, *, as_json: bool) -> int:
    try:
        found = compare(read_report(before), read_report(after))
    except NotAReportError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    print(json.dumps(found.to_dict()) if as_json else "\n".join(found.lines()))
    return 0


def _list(measured: Sequence[str], earlier: Sequence[Part]) -> None:
    for name in measured:
        print(f"{name:16} {question_of(name)}")
    for part in earlier:
        print(f"{part.name:16} {part.question} (measured earlier)")


def _flags_now() -> tuple[str, ...]:
    """Return what makes the machine unfit to measure on, now."""
    with Gauge() as gauge:
        for _ in range(10):
            gauge.tick()
    cores = len(os.sched_getaffinity(0))
    busy = (f"other programs were running in the last minute (load {load():.1f}, {cores} cores)",)
    return gauge.flags() + (busy if load() > 0.5 * cores else ())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("cache/report"), metavar="DIR", help="the report (%(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a shorter run, for a look; its intervals are wider")
    parser.add_argument("--only", nargs="+", default=(), metavar="PART", help="these parts, and no others")
    parser.add_argument("--skip", nargs="+", default=(), metavar="PART", help="all parts but these")
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, default=Path("cache/benchmarks"), help="folder for models of random weights; kept"
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a busy machine, and call doubtful numbers a failure"
    )
    parser.add_argument("--list", action="store_true", help="name the parts and measure nothing")
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="say what moved from A to B beyond noise"
    )
    parser.add_argument("--json", action="store_true", help="the comparison as JSON")
    return parser


if __name__ == "__main__":
    streams.run(main)
