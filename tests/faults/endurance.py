"""Does the memory of a run stay constant, does a kill at any instant lose a row, do bad files stop it?

    python -m tests.faults.endurance memory [--files 20000]
    python -m tests.faults.endurance kills [--kills 20]
    python -m tests.faults.endurance malformed FOLDER        a folder of broken DICOM files

memory      phantoms of 512 pixels, written just before they are read and removed after it, so that the disk holds few;
            resident memory of the run with its workers around file 1,000 and around the last
kills       `mcr-infer embed-images` over 300 phantoms, killed with SIGKILL at random instants and run again each time;
            afterwards the index is compared with that of an undisturbed run, row for row
malformed   the files of the folder among 200 good phantoms

The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine_card
from mcr_infer.index import Index
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.phantom.demo import write_demo
from mcr_infer.pipeline.image_run import embed_images
from mcr_infer.pipeline.plan import Plan
from mcr_infer.sources import PlainFile

DISTINCT = 16
"""Phantoms of the memory run; a file has a UID and pixels of its own all the same."""


def memory(files: int) -> dict[str, Any]:
    """Embed many files and compare memory early and late."""
    bundle = Bundle.open()
    cores = len(os.sched_getaffinity(0))
    plan = Plan(workers=cores, calls=cores, call_size=4)
    samples: dict[int, int] = {}
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": str(bundle.path)}
        with Index.open_or_create(Path(place) / "index", fingerprint=bundle.fingerprint, **facts) as index:
            encoder = ImageEncoder(bundle, device="cpu", threads=1)
            outcomes = embed_images(_passing(Path(place), files), index=index, encoder=encoder, plan=plan)
            for number, outcome in enumerate(outcomes, 1):
                assert outcome.status == "embedded", outcome
                Path(outcome.path).unlink()
                if number % 100 == 0:
                    samples[number] = _resident_bytes()
    early = statistics.median(size for number, size in samples.items() if 800 <= number <= 1200)
    late = statistics.median(size for number, size in samples.items() if number > files - 400)
    return {
        "files": files,
        "images_per_second": round(files / (time.perf_counter() - begun), 1),
        "mib_at_1000": round(early / 2**20, 1),
        "mib_at_the_end": round(late / 2**20, 1),
        "growth": round(late / early - 1, 4),
        "samples_mib": {number: round(size / 2**20, 1) for number, size in samples.items() if number % 1000 == 0},
    }


def _passing(place: Path, files: int) -> Iterator[PlainFile]:
    """Write files one by one: a few phantoms, each time with another UID and one other pixel."""
    import pydicom

    for _ in write_demo(place / "templates", count=DISTINCT, seed=0, size=512):
        pass
    templates = [pydicom.dcmread(path) for path in sorted((place / "templates").glob("*.dcm"))]
    for number in range(files):
        data = templates[number % DISTINCT]
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number + 1}"
        path = place / f"{number:06d}.dcm"
        data.save_as(path, enforce_file_format=True)
        yield PlainFile(path=str(path))


def _resident_bytes() -> int:
    """Add up the resident memory of this process and its children, memory that they share counted once each."""
    page = os.sysconf("SC_PAGE_SIZE")
    processes = ["self"]
    for task in Path("/proc/self/task").iterdir():
        processes += (task / "children").read_text().split()
    total = 0
    for process in processes:
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * page
        except FileNotFoundError:
            continue
    return total


def kills(count: int, seed: int = 0) -> dict[str, Any]:
    """Kill runs at random instants and compare what they leave with an undisturbed run."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "dicoms"
        for _ in write_demo(folder, count=300, seed=0, size=256):
            pass
        whole = Path(place) / "whole"
        seconds = _timed(folder, whole)
        index, doubled, deaths = Path(place) / "index", [], 0
        shown: set[str] = set()
        while deaths < count:
            # Small calls, and a new index where the last one is full: kills shall fall on runs that are at work.
            process = subprocess.Popen(_command(folder, index), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(timeout=draw.uniform(0.0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                deaths += 1
            ids = set(_rows(index)) if (index / "index.json").exists() else set()
            assert shown <= ids, f"{len(shown - ids)} rows were lost"
            shown = ids
            if len(ids) == 300 and deaths < count:
                doubled.append(_differences(index, whole))
                shutil.rmtree(index)
                shown = set()
        subprocess.run(_command(folder, index), check=True, capture_output=True)
        doubled.append(_differences(index, whole))
    return {"kills": deaths, "indexes_compared": len(doubled), "rows_that_differ": sum(doubled)}


def _command(folder: Path, index: Path) -> list[str]:
    return [sys.executable, "-m", "mcr_infer", "embed-images", str(folder), "--index", str(index), "--batch-size", "2"]


def _timed(folder: Path, index: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(_command(folder, index), check=True, capture_output=True)
    return time.perf_counter() - begun


def _rows(index: Path) -> dict[str, Any]:
    with Index.open(index) as store:
        return {id: store.get("image", id) for id in store.ids("image")}


def _differences(one: Path, other: Path) -> int:
    """Count rows that one of two indexes lacks, or that differ in anything, vectors below a cosine of 0.99999 included."""
    mine, theirs = _rows(one), _rows(other)
    wrong = len(mine.keys() ^ theirs.keys())
    for id in mine.keys() & theirs.keys():
        a, b = mine[id], theirs[id]
        plain = [(row.path, row.study_uid, row.series_uid, dict(row.metadata), row.precision, row.content_digest)
                 for row in (a, b)]  # fmt: skip
        wrong += plain[0] != plain[1] or float(np.dot(a.vector, b.vector)) < 0.99999
    return wrong


def malformed(folder: Path) -> dict[str, Any]:
    """Embed broken files among good ones."""
    with tempfile.TemporaryDirectory() as place:
        mixed = Path(place) / "dicoms"
        for _ in write_demo(mixed, count=200, seed=0, size=256):
            pass
        good = {str(path) for path in mixed.glob("*.dcm")}
        broken = [shutil.copy(path, mixed) for path in sorted(folder.iterdir()) if path.is_file()]
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mcr_infer", "embed-images", str(mixed), "--index", f"{place}/index", "--json"],
            capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        told = json.loads(done.stdout)
        embedded = {row.path for row in _rows(Path(place) / "index").values()}
        assert good <= embedded, f"{len(good - embedded)} good files are missing"
        return {
            "good": len(good),
            "broken": len(broken),
            "broken_embedded": sorted(Path(path).name for path in embedded - good),
            "left_out": told["left_out"],
            "failed": dict(Counter(failure["reason"] for failure in told["failures"])),
            "unchanged": told["unchanged"],
            "exit_code": done.returncode,
            "seconds": round(seconds, 1),
        }


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults.endurance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("memory", "kills", "malformed"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    if options.what == "malformed" and options.folder is None:
        parser.error("malformed needs a folder")
    found = {
        "memory": lambda: memory(options.files),
        "kills": lambda: kills(options.kills),
        "malformed": lambda: malformed(options.folder),
    }[options.what]()
    print(json.dumps({"benchmark": f"endurance {options.what}", **found, "machine": machine_card()}))


if __name__ == "__main__":
    main()
