"""One run of embedding over a folder in this process, or what each of its stages costs alone.

    python -m benchmarks.archive_run run FOLDER --bundle BUNDLE        -> JSON: images a second, files to committed rows
    python -m benchmarks.archive_run stages FOLDER --bundle BUNDLE     -> JSON: core-seconds a file by stage

`benchmarks.throughput` starts these by turns. A run counts everything from the first source to the last commit, the start of
the worker processes included, but not opening the tower and looking for a plan, which a run does once.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from mcr_infer.images import read_image
from mcr_infer.index import Index
from mcr_infer.inference.autotune import autotune
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.pipeline.image_run import embed_images
from mcr_infer.pipeline.plan import Plan
from mcr_infer.pipeline.run_report import Meter
from mcr_infer.sources import Sources

STAGE_FILES = 12


def plan_of(bundle: Bundle, options: argparse.Namespace) -> Plan:
    """Return the plan that `mcr-infer embed-images` would make."""
    cores = len(os.sched_getaffinity(0))
    tower = autotune(bundle, device="cpu", precision=options.precision, budget=options.budget, cores=cores)
    return Plan(
        workers=cores,
        calls=tower.threads,
        call_size=tower.batch_size,
        call_threads=tower.intra_op_threads,
        budget=options.budget,
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Embed the first files of a folder into a new index."""
    bundle = Bundle.open(options.bundle)
    plan = plan_of(bundle, options)
    encoder = ImageEncoder(bundle, device="cpu", precision=options.precision, threads=plan.call_threads)
    paths = [str(path) for path in sorted(options.folder.glob("*.dcm"))[: options.count]]
    meter = Meter()
    with tempfile.TemporaryDirectory(dir=options.folder.parent) as place:
        facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": str(bundle.path)}
        with Index.open_or_create(Path(place) / "index", fingerprint=bundle.fingerprint, **facts) as index:
            begun = time.perf_counter()
            outcomes = list(embed_images(Sources(paths), index=index, encoder=encoder, plan=plan, meter=meter))
            seconds = time.perf_counter() - begun
            assert index.count("image") == len(paths)
    assert all(outcome.status == "embedded" for outcome in outcomes)
    return {
        "images_per_second": len(paths) / seconds,
        "files": len(paths),
        "plan": plan.to_dict(),
        **meter.to_dict(),
    }  # fmt: skip


def stages(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what a file costs: read, decode and render; resize and cut; the tower on one thread. Nothing else runs."""
    bundle = Bundle.open(options.bundle)
    plan = plan_of(bundle, options)
    encoder = ImageEncoder(bundle, device="cpu", precision=options.precision, threads=1)
    preprocess = bundle.preprocess
    paths = sorted(options.folder.glob("*.dcm"))[:STAGE_FILES]
    seconds: dict[str, list[float]] = {"decode": [], "cut": [], "tower": []}
    cut = []
    for path in (paths[0], *paths):  # the first file once more: libraries load
        begun = time.process_time()
        radiograph = read_image(path, rendering=preprocess.rendering, reduce_to=preprocess.reduce_to)
        decoded = time.process_time()
        cut.append(preprocess.cut(preprocess.image(radiograph.pixels, aspect=radiograph.aspect), budget=options.budget))
        seconds["decode"].append(decoded - begun)
        seconds["cut"].append(time.process_time() - decoded)
    batch = [cut[number % len(cut)] for number in range(plan.call_size)]
    encoder.encode(batch)
    for _ in range(5):
        begun = time.process_time()
        encoder.encode(batch)
        seconds["tower"].append((time.process_time() - begun) / len(batch))
    return {stage: statistics.median(times[1:] if stage != "tower" else times) for stage, times in seconds.items()}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.archive_run", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("what", choices=("run", "stages"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bundle", type=Path, help="without it the bundle that ships")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    print(json.dumps(run(options) if options.what == "run" else stages(options)))


if __name__ == "__main__":
    main()
