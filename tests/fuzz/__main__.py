"""Fuzz every format, print progress on stderr and write the counts as JSON.

    python -m tests.fuzz [--only dicom,png,...] [--seed N] [--count N] [--first N] [--part K/N] [--seconds S] [--out FILE]
    python -m tests.fuzz --merge FILE... --out FILE

The cases of a format have numbers, from --first on; --part K/N takes every Nth chunk of them, so that several processes
share a run. With --out a run that was ended goes on where it was. Exit code 1 where something was found.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_card
from mcr_infer.files import atomic_write
from tests.fuzz import dcmtk
from tests.fuzz.archive_runs import fuzz_archives
from tests.fuzz.embedding import memory
from tests.fuzz.picture_runs import fuzz_pictures
from tests.fuzz.store_runs import fuzz_bundles, fuzz_indexes
from tests.fuzz.table_runs import fuzz_tables
from tests.fuzz.tally import Tally, merged

Fuzz = Callable[[int, range, Path, Tally], None]

FORMATS: Mapping[str, tuple[Fuzz, int, int]] = {
    "dicom": (partial(fuzz_pictures, "dicom"), 80_000, 1000),
    "png": (partial(fuzz_pictures, "png"), 12_000, 1000),
    "jpeg": (partial(fuzz_pictures, "jpeg"), 12_000, 1000),
    "zip": (partial(fuzz_archives, "zip"), 5_000, 500),
    "tar": (partial(fuzz_archives, "tar"), 5_000, 500),
    "dicomdir": (partial(fuzz_archives, "dicomdir"), 3_000, 500),
    "csv": (partial(fuzz_tables, "csv"), 3_000, 500),
    "jsonl": (partial(fuzz_tables, "jsonl"), 3_000, 500),
    "report": (partial(fuzz_tables, "report"), 3_000, 500),
    "bundle": (fuzz_bundles, 2_000, 200),
    "index": (fuzz_indexes, 2_000, 200),
}
"""By format: what runs a chunk of its cases, how many cases there are, and how many a chunk has."""


def main() -> None:
    """Run what was asked for."""
    options = _options()
    if options.merge:
        _write(options.out, _added_up([json.loads(path.read_text()) for path in options.merge]))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what lies in memory is removed
    known = _known(options)
    with tempfile.TemporaryDirectory(prefix="mcr-fuzz-", dir=memory()) as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/cache"  # nothing of these runs goes into this user's cache
        ended = _run_all(options, known, Path(place))
    if ended and options.part == (0, 1):
        del known["chunks"]  # whole: the next run begins anew
    _write(options.out, known)
    summary = {
        one["format"]: {"cases": one["cases"], **{k: n for k, n in one["findings"].items() if n}}
        for one in known["formats"]
    }
    print(json.dumps(summary))
    sys.exit(1 if any(sum(one["findings"].values()) for one in known["formats"]) else 0)


def _run_all(options: argparse.Namespace, known: dict[str, Any], place: Path) -> bool:
    """Run every chunk that is asked for and not known; True unless the time was over before that."""
    begun = time.monotonic()
    for format in options.only:
        fuzz, count, size = FORMATS[format]
        size = min(size, options.chunk or size)
        numbers = range(options.first, options.first + (options.count or count))
        share, shares = options.part
        for chunk, start in enumerate(numbers[::size]):
            stop = min(start + size, numbers.stop)
            if chunk % shares != share or any(
                name == format and first < stop and start < last for name, first, last in known["chunks"]
            ):
                continue
            if options.seconds is not None and time.monotonic() - begun > options.seconds:
                return False
            tally, then = Tally(format), time.monotonic()
            fuzz(options.seed, range(start, stop), place, tally)
            tally.seconds = time.monotonic() - then
            known["chunks"].append([format, start, stop])
            known["formats"] = merged([*known["formats"], tally.values()])
            _tell(tally, start)
            _write(options.out, known)
    return True


def _added_up(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several parts of one run as that of the whole."""
    first = {name: value for name, value in documents[0].items() if name != "chunks"}
    if any(document["seed"] != first["seed"] for document in documents):
        sys.exit("the results are of different seeds: numbers of cases would mean several cases")
    return {**first, "formats": merged(one for document in documents for one in document["formats"])}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(FORMATS), help=", ".join(FORMATS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="cases of each format; by default that of the committed result")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--chunk", type=int, help="cases of one run, at most")
    parser.add_argument("--part", type=_part, default=(0, 1), metavar="K/N", help="every Nth chunk, from the Kth on")
    parser.add_argument("--seconds", type=float, help="begin no chunk after so many")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="add up the results of several runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    for name in options.only:
        if name not in FORMATS:
            parser.error(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return options


def _part(text: str) -> tuple[int, int]:
    share, _, shares = text.partition("/")
    if not 1 <= int(share) <= int(shares):
        raise argparse.ArgumentTypeError("expected K/N with 1 <= K <= N")
    return int(share) - 1, int(shares)


def _known(options: argparse.Namespace) -> dict[str, Any]:
    """Return the result so far: that of the file, where a run of the same seed was ended before its end."""
    if options.out is not None and options.out.exists():
        known: dict[str, Any] = json.loads(options.out.read_text())
        if known.get("seed") == options.seed and "chunks" in known:
            return known
    return {
        "benchmark": "fuzz", "seed": options.seed, "formats": [], "chunks": [], "dcmtk": dcmtk.version(),
        "machine": machine_card(),
    }  # fmt: skip


def _tell(tally: Tally, start: int) -> None:
    found = ", ".join(
        f"{one.kind} in case {one.number} ({', '.join(one.mutations)}): {one.words[:200]}" for one in tally.findings
    )
    rate = tally.cases / tally.seconds
    print(
        f"{tally.format} {start}: {tally.cases} cases, {rate:.0f} a second; {found or 'nothing found'}",
        file=sys.stderr,
        flush=True,
    )


def _write(out: Path | None, document: Mapping[str, object]) -> None:
    if out is not None:
        atomic_write(out, json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
