"""A folder of phantoms to try things on: DICOM files and `truth.csv`, which says what each of them shows."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from mcr_infer.errors import ConfigError
from mcr_infer.phantom import FIRST_TRAINING_SEED, make
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.phantom.findings import finding_set

COLUMNS = ("file", "findings", "sizes", "view", "report")
"""Of truth.csv: `findings` are labels and `sizes` their sizes (0 to 1) in the same order, both separated by `;`."""

DEMO_SIZE = 512
"""Side of a demo phantom in pixels."""


def write_demo(folder: Path, *, count: int, seed: int, size: int = DEMO_SIZE) -> Iterator[Path]:
    """Write `count` phantoms of seeds from `seed` on into a folder and yield each file as it is written.

    `truth.csv` is complete when the iterator ends. Raises `ConfigError` for seeds that training uses: a demo on what the
    model has seen would flatter it.
    """
    if count < 1 or seed < 0 or seed + count > FIRST_TRAINING_SEED:
        raise ConfigError(
            f"a demo takes at least one phantom and seeds from 0 below {FIRST_TRAINING_SEED}, which training uses; "
            f"got {count} from seed {seed}"
        )
    names = {each: f"phantom-{each:06d}.dcm" for each in range(seed, seed + count)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = sorted({path.name for path in folder.glob("phantom-*.dcm")} - set(names.values()))
        if others:
            raise ConfigError(f"{folder} holds phantoms of another demo, such as {others[0]}: choose an empty folder")
        yield from _write(folder, names, size)
    except OSError as exc:
        raise ConfigError(f"the demo cannot be written to {folder}: {exc.strerror}") from exc


def _write(folder: Path, names: Mapping[int, str], size: int) -> Iterator[Path]:
    with (folder / "truth.csv").open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(COLUMNS)
        for seed, name in names.items():
            phantom = make(seed, size)
            path = folder / name
            write_dicom(phantom, path)
            findings = sorted(phantom.findings, key=lambda finding: finding.label)
            sizes = ";".join(f"{finding.size:.2f}" for finding in findings)
            rows.writerow((path.name, finding_set(findings), sizes, phantom.view, phantom.report.text))
            yield path
