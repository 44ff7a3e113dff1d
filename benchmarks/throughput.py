"""How fast is an archive embedded, how near is that to what the machine could do, and to what a plain script does?

    python -m benchmarks.throughput [bound] [plain] [cost] [--work cache/throughput] [--rounds 3] \
        [--out benchmarks/results/throughput.json]

Folders of 2,500 x 2,000 pixels of 12 bits (`benchmarks/big_archive.py`), files to committed rows, each run a process of its
own, by turns.

bound     cores / (core-seconds a file of read + decode + render, resize + cut and tower, each measured alone in the same
          round): what a pipeline without any cost of its own would do
plain     pydicom's pixel_array and ViT-B/16 in PyTorch, fp32 (`benchmarks/plain.py`), same files, cores and round
cost      what each way to run the tower costs in retrieval, against fp32 with all patches, on held-out phantoms: recall of
          the bundle that ships, the first ten that stay of both

The last line of stdout is one JSON document: medians over the rounds, with the machine card. --out keeps the parts that were
measured before and are not now.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.big_archive import SYNTAXES, make_archive
from benchmarks.large import make_vit
from benchmarks.machine import load, machine_card
from export.retrieval import FIRST_SEED, Vectors, agreement, held_out, recalls
from mcr_infer import phantom
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder


class Way(NamedTuple):
    """One way to run ViT-B/16."""

    precision: str
    budget: float

    @property
    def name(self) -> str:
        """How tables call it."""
        return f"{self.precision}, {self.budget:.0%} of the patches"


WAYS = (Way("fp32", 1.0), Way("fp32", 0.5), Way("int8", 1.0), Way("int8", 0.5), Way("int8", 0.35))
COUNTS = {
    "shipped": {"uncompressed": 500, "jpeg-ls": 150, "jpeg-2000": 400},
    "vit-b16": {"uncompressed": 80, "jpeg-ls": 60, "jpeg-2000": 80},
}
"""Files of a run: fifteen seconds or more on two cores."""

PLAIN_COUNT = 32
COST_SEEDS = range(FIRST_SEED, FIRST_SEED + 300)


def main() -> None:
    """Make the files and the bundle, measure by turns, print tables and the JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="bound, plain, cost; without any, all of them")
    parser.add_argument("--work", type=Path, default=Path("cache/throughput"), help="8 GB of files are made here once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the JSON document here, too")
    options = parser.parse_args()
    if unknown := set(options.parts) - {"bound", "plain", "cost"}:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    folders = {syntax: _folder(options.work, syntax) for syntax in SYNTAXES}
    bundles = {"shipped": None, "vit-b16": make_vit(options.work / "vit-b16").path}
    card = machine_card()
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "bound": lambda: bound(folders, bundles, options.rounds),
        "plain": lambda: plain(folders, bundles["vit-b16"], options.rounds),
        "cost": lambda: cost(bundles),
    }
    result: dict[str, Any] = {"benchmark": "throughput", "rounds": options.rounds}
    if options.out is not None and options.out.exists():
        result |= json.loads(options.out.read_text(encoding="utf-8"))
    result |= {name: parts[name]() for name in options.parts or parts}
    result["machine"] = card | {"load_after": load()}
    document = json.dumps(result)
    if options.out is not None:
        options.out.write_text(document + "\n", encoding="utf-8")
    print(document)


def _folder(work: Path, syntax: str) -> Path:
    count = max(counts[syntax] for counts in COUNTS.values())
    return make_archive(work, syntax, count)[0].parent


def bound(folders: Mapping[str, Path], bundles: Mapping[str, Path | None], rounds: int) -> list[dict[str, Any]]:
    """Compare runs with the sum of their stages, bundle by bundle and syntax by syntax."""
    cases = [(bundle, syntax) for bundle in bundles for syntax in folders]
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    cores = len(os.sched_getaffinity(0))
    for _ in range(rounds):
        for case in cases:
            bundle, syntax = case
            cost = _child("stages", folders[syntax], bundles[bundle])
            run = _child("run", folders[syntax], bundles[bundle], count=COUNTS[bundle][syntax])
            limit = cores / sum(cost.values())
            found[case].append({"stages": cost, "bound": limit, "rate": run["images_per_second"], "plan": run["plan"],
                                "share": run["images_per_second"] / limit})  # fmt: skip
    rows = []
    for (bundle, syntax), runs in found.items():
        row = {
            "bundle": bundle,
            "syntax": syntax,
            "files": COUNTS[bundle][syntax],
            "core_ms": {
                stage: round(1e3 * _median(run["stages"][stage] for run in runs), 2) for stage in runs[0]["stages"]
            },
            "bound": round(_median(run["bound"] for run in runs), 2),
            "images_per_second": round(_median(run["rate"] for run in runs), 2),
            "share_of_bound": round(_median(run["share"] for run in runs), 3),
            "shares": [round(run["share"], 3) for run in runs],
            "plan": runs[-1]["plan"],
        }
        rows.append(row)
        print(
            f"{bundle:8} {syntax:13} {row['images_per_second']:7.2f} images/s  bound {row['bound']:7.2f}  "
            f"share {row['share_of_bound']:.3f}  core-ms {row['core_ms']}",
            flush=True,
        )
    return rows


def plain(folders: Mapping[str, Path], bundle: Path | None, rounds: int) -> list[dict[str, Any]]:
    """Compare ViT-B/16, in every way, with the plain way on the same files."""
    rows = []
    for syntax in ("jpeg-2000", "uncompressed"):
        rates: dict[Way, list[float]] = defaultdict(list)
        ratios: dict[Way, list[float]] = defaultdict(list)
        plains = []
        for _ in range(rounds):
            plains.append(
                _json([sys.executable, "-m", "benchmarks.plain", str(folders[syntax]), "--count", str(PLAIN_COUNT)])
            )
            for way in WAYS:
                run = _child("run", folders[syntax], bundle, way, count=COUNTS["vit-b16"][syntax])
                rates[way].append(run["images_per_second"])
                ratios[way].append(run["images_per_second"] / plains[-1]["images_per_second"])
        base = _median(one["images_per_second"] for one in plains)
        print(f"{syntax}: the plain way {base:.2f} images/s", flush=True)
        for way in WAYS:
            row = {
                "syntax": syntax,
                "precision": way.precision,
                "budget": way.budget,
                "plain_images_per_second": round(base, 3),
                "images_per_second": round(_median(rates[way]), 2),
                "ratio": round(_median(ratios[way]), 2),
                "ratios": [round(one, 2) for one in ratios[way]],
            }
            rows.append(row)
            print(f"  {way.name:28} {row['images_per_second']:6.2f} images/s, {row['ratio']:.2f} times", flush=True)
    return rows


def cost(bundles: Mapping[str, Path | None]) -> list[dict[str, Any]]:
    """Compare retrieval in each way with that in fp32 and all patches."""
    rows = []
    for name, path in bundles.items():
        bundle = Bundle.open(path)
        pictures = [phantom.make(seed).radiograph(rendering=bundle.preprocess.rendering).pixels for seed in COST_SEEDS]
        items = held_out(bundle, len(COST_SEEDS))
        full: Vectors | None = None
        reports: Vectors | None = None
        for way in WAYS:
            encoder = ImageEncoder(bundle, device="cpu", precision=way.precision)
            cut = [bundle.preprocess.patches(pixels, budget=way.budget) for pixels in pictures]
            images = np.concatenate([encoder.encode(cut[start : start + 8]) for start in range(0, len(cut), 8)])
            if full is None or reports is None:
                full, reports = images, TextEncoder(bundle, device="cpu").encode(items.texts)
            row = {
                "bundle": name,
                "precision": way.precision,
                "budget": way.budget,
                "phantoms": len(COST_SEEDS),
                "image_to_image_top10": agreement((full, full), (images, images)),
                "text_to_image_top10": agreement((reports, full), (reports, images)),
                "recall": recalls(items, (images, reports)) if path is None else None,
            }
            rows.append(row)
            print(
                f"{name:8} {way.name:28} first ten that stay: image to image {row['image_to_image_top10']:.3f}, "
                f"text to image {row['text_to_image_top10']:.3f}; recall {row['recall']}",
                flush=True,
            )
    return rows


def _child(
    what: str, folder: Path, bundle: Path | None, way: Way | None = None, *, count: int | None = None
) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.archive_run", what, str(folder)]
    command += ["--bundle", str(bundle)] if bundle is not None else []
    command += ["--precision", way.precision, "--budget", str(way.budget)] if way is not None else []
    command += ["--count", str(count)] if count is not None else []
    return _json(command)


def _json(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _median(values: Any) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    main()
