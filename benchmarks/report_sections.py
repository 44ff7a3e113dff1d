"""Does the embedded text hold what a report says of the image, whatever its layout? The 3,955 Indiana reports, rewritten.

    python -m benchmarks.report_sections [--reports NLMCXR_reports.tgz] [--before COMMIT] [--out FILE.json]

Open-I keeps findings, impression, indication and comparison of each report in fields of their own: they are the truth. Each
report is written as hospitals write them, in the layouts of `LAYOUTS`, and read as `embed-reports` reads it.

    kept       share of the sentences of findings and impression whose words stand in the embedded text, in their order
    context    share of the embedded words that come from indication or comparison and from neither of the two
    refused    reports with a sentence of which nothing was embedded; each is a named failure of `embed-reports`

The reports are those of the PyPI package torchxrayvision where it is installed (`pip install --no-deps torchxrayvision`).
--before measures the code of an earlier commit beside this one. The last line of stdout is one JSON document.
"""

import argparse
import html
import importlib.metadata
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mcr_infer.errors import ConfigError, McrError, ReportError
from mcr_infer.reports import embed_text

ROOT = Path(__file__).parents[1]
FIELDS = ("INDICATION", "COMPARISON", "FINDINGS", "IMPRESSION")

Report = Mapping[str, str]
"""The text of each field that a study has."""

_SENTENCE = re.compile(r"(?<=[a-zA-Z)]{2}[.!?])\s+")
_BLANK = re.compile(r"X{3,}")
_TAG = re.compile(r"<BR>|</?b>", re.IGNORECASE)

LANGUAGES = (
    ("Indication", "Comparaison", "Résultats", "Conclusion"),
    ("Klinische Angaben", "Voruntersuchung", "Befund", "Beurteilung"),
    ("Datos clínicos", "Comparación", "Hallazgos", "Impresión diagnóstica"),
    ("Indicação clínica", "Exames anteriores", "Achados", "Impressão"),
    ("Quesito diagnostico", "Confronto", "Reperti", "Conclusioni"),
    ("Klinische gegevens", "Vergelijking", "Bevindingen", "Conclusie"),
)


def sentences(text: str) -> list[str]:
    """Split a field at stops behind words."""
    return [part for part in _SENTENCE.split(text.strip()) if words(part)]


def words(text: str) -> list[str]:
    """Return the words of a text in small letters, without blanks of de-identification and numbers."""
    return re.findall(r"[a-z]+", _BLANK.sub(" ", html.unescape(_TAG.sub(" ", text))).lower())


def _written(report: Report, line: str, between: str, names: Mapping[str, str] | None = None) -> str:
    return between.join(line.format((names or {}).get(name, name), text) for name, text in report.items())


def _languages(report: Report, number: int) -> str:
    return _written(report, "{}: {}", "\n", dict(zip(FIELDS, LANGUAGES[number % len(LANGUAGES)], strict=True)))


def _slip(name: str, draw: random.Random) -> str:
    """Return a heading with one letter missing, doubled, another, or exchanged with the next."""
    place, letter = draw.randrange(1, len(name) - 1), draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    wrong = (
        name[:place] + name[place + 1 :],
        name[:place] + name[place] + name[place:],
        name[:place] + letter + name[place + 1 :],
        name[:place] + name[place + 1] + name[place] + name[place + 2 :],
    )
    return draw.choice(wrong)


def _misspelt(report: Report, number: int) -> str:
    draw = random.Random(number)
    return _written(report, "{}: {}", "\n", {name: _slip(name, draw) for name in FIELDS})


def _addendum(report: Report, *, above: bool) -> str:
    """Move the last sentence of the findings, or else of the impression, into an addendum."""
    name = "FINDINGS" if "FINDINGS" in report else "IMPRESSION"
    *before, last = sentences(report[name]) if sentences(report.get(name, "")) else [""]
    body = {key: " ".join(before) if key == name else text for key, text in report.items()}
    addendum = f"ADDENDUM: {last}"
    written = _written({key: text for key, text in body.items() if text}, "{}: {}", "\n\n")
    return f"{addendum}\n\n{written}" if above else f"{written}\n\n{addendum}"


def _comparison_inside(report: Report) -> str:
    inside = {name: text for name, text in report.items() if name != "COMPARISON"}
    name = "FINDINGS" if "FINDINGS" in inside else "IMPRESSION"
    first, *rest = sentences(inside.get(name, "")) or [""]
    compared = report.get("COMPARISON", "None").rstrip(".")
    if name in inside:
        inside[name] = " ".join([first, f"Comparison: {compared}.", *rest])
    return _written(inside, "{}: {}", "\n")


def _organs(report: Report) -> str:
    told = sentences(report.get("FINDINGS", ""))
    half = (len(told) + 1) // 2
    by_organ = {"LUNGS": " ".join(told[:half]), "HEART": " ".join(told[half:])}
    parts = {name: text for name, text in report.items() if name in ("INDICATION", "COMPARISON")}
    parts |= {name: text for name, text in by_organ.items() if text}
    return _written(parts | {name: report[name] for name in ("IMPRESSION",) if name in report}, "{}: {}", "\n")


def _without_findings_heading(report: Report) -> str:
    return "\n\n".join(text if name == "FINDINGS" else f"{name}: {text}" for name, text in report.items())


def _attended(report: Report) -> str:
    """Put a sentence of attendance into the findings, wrapped so that a line begins with `reviewed by`."""
    told = dict(report)
    name = "FINDINGS" if "FINDINGS" in told else "IMPRESSION"
    first, *rest = sentences(told.get(name, "")) or [""]
    if name in told:
        told[name] = " ".join([first, "The images were\nreviewed by the attending radiologist.", *rest])
    return _written(told, "{}: {}", "\n")


LAYOUTS: dict[str, Callable[[Report, int], str]] = {
    "headings at lines": lambda report, _: _written(report, "{}: {}", "\n"),
    "headings on lines of their own": lambda report, _: _written(report, "{}\n{}", "\n\n"),
    "one line": lambda report, _: _written(report, "{}: {}", " "),
    "one line, title case": lambda report, _: _written(report, "{}: {}", " ", {n: n.capitalize() for n in FIELDS}),
    "one line, small letters": lambda report, _: _written(report, "{}: {}", " ").lower().replace("xxxx", "XXXX"),
    "all in capitals": lambda report, _: _written(report, "{}: {}", "\n").upper(),
    "no colons": lambda report, _: _written(report, "{} {}", "\n"),
    "dashes": lambda report, _: _written(report, "{} \u2013 {}", "\n"),
    "numbered": lambda report, _: "\n".join(f"{n}. {name}: {text}" for n, (name, text) in enumerate(report.items(), 1)),
    "HTML": lambda report, _: _written(report, "<b>{}:</b> {}", "<br>"),
    "one slip in each heading": _misspelt,
    "headings in six languages": _languages,
    "organs as headings": lambda report, _: _organs(report),
    "findings without a heading": lambda report, _: _without_findings_heading(report),
    "comparison inside the findings": lambda report, _: _comparison_inside(report),
    "reviewed by, at the start of a line": lambda report, _: _attended(report),
    "addendum below": lambda report, _: _addendum(report, above=False),
    "addendum above": lambda report, _: _addendum(report, above=True),
}


def find_reports() -> Path:
    """Find the archive among the files of torchxrayvision, without importing it."""
    try:
        files = importlib.metadata.files("torchxrayvision") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths = (Path(str(file.locate())) for file in files if file.name == "NLMCXR_reports.tgz")
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ConfigError("no reports: give --reports NLMCXR_reports.tgz, or pip install --no-deps torchxrayvision")
    return found


def read_studies(path: Path) -> Iterator[Report]:
    """Yield the fields of each study in the order of the archive."""
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".xml") else None
            if file is not None:
                root = ElementTree.fromstring(file.read())
                parts = {
                    part.get("Label"): " ".join("".join(part.itertext()).split()) for part in root.iter("AbstractText")
                }
                yield {name: parts[name] for name in FIELDS if parts.get(name)}


def measure(studies: list[Report]) -> dict[str, Any]:
    """Measure the code that is imported, by layout."""
    return {name: _measured(studies, write) for name, write in LAYOUTS.items()}


def kept_and_lost(report: Report, embedded: str) -> tuple[list[str], list[str]]:
    """Return the sentences of findings and impression that stand in an embedded text, and those that do not."""
    told = f" {' '.join(words(embedded))} "
    kept: list[str] = []
    lost: list[str] = []
    for name in ("FINDINGS", "IMPRESSION"):
        for sentence in sentences(report.get(name, "")):
            (kept if f" {' '.join(words(sentence))} " in told else lost).append(sentence)
    return kept, lost


def _measured(studies: list[Report], write: Callable[[Report, int], str]) -> dict[str, Any]:
    count: Counter[str] = Counter()
    for number, report in enumerate(studies):
        try:
            embedded = embed_text(write(report, number))
        except ReportError:
            embedded = ""
        kept, lost = kept_and_lost(report, embedded)
        describing = Counter(words(f"{report.get('FINDINGS', '')} {report.get('IMPRESSION', '')}"))
        context = Counter(words(f"{report.get('INDICATION', '')} {report.get('COMPARISON', '')}"))
        extra = (Counter(words(embedded)) - describing) & context
        count.update(kept=len(kept), sentences=len(kept) + len(lost), words=len(words(embedded)), extra=extra.total())
        count["refused"] += bool((kept or lost) and not embedded)
    return {
        "sentences": count["sentences"],
        "kept": round(count["kept"] / count["sentences"], 5),
        "context": round(count["extra"] / max(count["words"], 1), 5),
        "refused": count["refused"],
    }


def _of_commit(commit: str, reports: Path) -> dict[str, Any]:
    """Measure the code of another commit, in a process that has its package in front of this one."""
    packed = subprocess.run(["git", "archive", commit, "mcr_infer"], cwd=ROOT, check=True, capture_output=True).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        command = [sys.executable, "-P", __file__, "--reports", str(reports)]
        printed = subprocess.run(
            command, cwd=folder, env=os.environ | {"PYTHONPATH": folder}, check=True, capture_output=True, text=True
        ).stdout
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])["now"]
    return result


def _commit(name: str) -> str:
    shown = subprocess.run(["git", "rev-parse", name], cwd=ROOT, capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "mcr_infer"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    dirty = name == "HEAD" and changed.stdout
    return (shown.stdout.strip() or "unknown") + (" with changes" if dirty else "")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report_sections", description=__doc__.splitlines()[0])
    parser.add_argument("--reports", type=Path, metavar="NLMCXR_reports.tgz")
    parser.add_argument("--before", metavar="COMMIT", help="measure the code of this commit, too")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    try:
        reports = options.reports or find_reports()
        studies = list(read_studies(reports))
    except (McrError, OSError, tarfile.TarError, ElementTree.ParseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result: dict[str, Any] = {"reports": len(studies), "commit": _commit("HEAD"), "now": measure(studies)}
    if options.before:
        result |= {"before_commit": _commit(options.before), "before": _of_commit(options.before, reports)}
    for name, now in result["now"].items():
        former = result.get("before", {}).get(name)
        beside = f"   before {former['kept']:8.3%} {former['context']:8.3%} {former['refused']:5}" if former else ""
        print(f"{name:40} {now['kept']:8.3%} {now['context']:8.3%} {now['refused']:5}{beside}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
