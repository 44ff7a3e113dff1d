"""Does the first query work? Four sentences against a demo folder, and how many of the top ten truly show it.

    python benchmarks/demo.py DIR        after `make demo`, or: python -m benchmarks.demo DIR

DIR holds dicoms/ with truth.csv and mcr-index/. Each query runs as its own process, exactly as a person would type it.
Exits with 1 where fewer than eight of ten hits are right.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from mcr_infer.evaluation.finding_labels import finding_labels_match
from mcr_infer.phantom.findings import DEVICES

QUERIES = {
    "bilateral pleural effusion": "bilateral pleural effusion",
    "left pneumothorax": "left pneumothorax",
    "cardiomegaly with pulmonary edema": "cardiomegaly;pulmonary edema",
    "no acute cardiopulmonary abnormality": "",
}
"""A sentence, and the labels that a hit must have; for the last, none but devices: reports of such phantoms say it, too."""

TOP = 10
ENOUGH = 8


def answers(labels: str, findings: str) -> bool:
    """Tell whether a phantom with these findings is a right answer to a sentence with these labels."""
    if not labels:
        return all(label.endswith(DEVICES) for label in findings.split(";") if label)
    return finding_labels_match(labels, findings)


def main() -> None:
    """Ask, compare with the truth, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    with (folder / "dicoms" / "truth.csv").open(newline="", encoding="utf-8") as table:
        truth = {row["file"]: row["findings"] for row in csv.DictReader(table)}
    width = max(map(len, QUERIES))
    print(f"\n{'query':{width}}  right of top {TOP}  base rate")
    missed = False
    for sentence, labels in QUERIES.items():
        command = [sys.executable, "-m", "mcr_infer", "query", sentence, "--index", str(folder / "mcr-index"), "--json"]
        done = subprocess.run([*command, "-k", str(TOP)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        hits = [json.loads(line) for line in done.stdout.splitlines()]
        right = sum(answers(labels, truth[Path(hit["path"]).name]) for hit in hits)
        base = sum(answers(labels, findings) for findings in truth.values())
        missed |= right < ENOUGH
        print(f"{sentence:{width}}  {right:>9} of {len(hits)}  {base} of {len(truth)} ({base / len(truth):.0%})")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
