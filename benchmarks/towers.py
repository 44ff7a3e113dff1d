"""What is an image tower worth on this CPU? Radiographs a second by precision, patch budget, batch and use of the cores.

    python -m benchmarks.towers [--bundle BUNDLE] [--vit DIR] [--rounds 3] [--seconds 0.4] [--out FILE.json]

    calls      one session of one thread a call, a call on each core at once
    threads    one session whose calls use all cores; on a single core there is no such choice

Then, for one radiograph a call and all patches on one core, what single options of the runtime change: memory arena and
pattern, threads that spin, packed weights, optimised graphs, and its bfloat16 products, which only some processors have.
`max_abs` says how far the embeddings move with it: an option that moves nothing and gains nothing does nothing here.

Beside radiographs a second stand those a second of processor time, which other programs on the machine bend least.

--vit also measures a ViT-B/16 of random weights at 224 pixels (196 patches), made in DIR if it is not there. Sessions are
opened anew in every round, rounds are interleaved, figures are medians. The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.large import make_vit
from mcr_infer.inference.autotune import cpu_model, runtime_version, throughput
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, Patches

BUDGETS = (1.0, 0.5, 0.35)
BATCHES = (1, 4, 8, 16)
PRECISIONS = ("fp32", "int8")

OPTIONS: dict[str, dict[str, Any]] = {
    "as served": {},
    "no memory arena": {"enable_cpu_mem_arena": False},
    "no memory pattern": {"enable_mem_pattern": False},
    "threads that spin": {"session.intra_op.allow_spinning": "1"},
    "weights not packed": {"session.disable_prepacking": "1"},
    "graph not optimised": {"graph_optimization_level": 0},
    "denormals are zero": {"session.set_denormal_as_zero": "1"},
    "bfloat16 products": {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"},
}
"""Changes to the session of `bulk`: attributes of SessionOptions, and entries of its configuration, which have a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One way to use the tower."""

    precision: str
    budget: float
    calls: int
    threads: int
    batch: int


def uses(bundle: Bundle, cores: int) -> Iterator[Use]:
    """Give every way that is measured for a bundle."""
    for precision in PRECISIONS:
        if precision != "fp32" and precision not in bundle.precisions:
            continue
        for calls, threads in sorted({(cores, 1), (1, cores)}):
            for budget in BUDGETS:
                for batch in BATCHES:
                    yield Use(precision=precision, budget=budget, calls=calls, threads=threads, batch=batch)


def items(bundle: Bundle, budget: float, count: int) -> list[Patches]:
    """Cut pictures of noise."""
    rng = np.random.default_rng(0)
    side = bundle.preprocess.image_size
    return [bundle.preprocess.patches(rng.random((side, side), dtype=np.float32), budget=budget) for _ in range(count)]


def speed(encoder: ImageEncoder, calls: int, batch: list[Patches], seconds: float) -> tuple[float, float]:
    """Embed a batch again and again, some calls at a time; radiographs a second, and a second of processor time."""
    wall, busy = time.perf_counter(), time.process_time()
    rate = throughput(encoder, calls, batch, seconds)
    busy, wall = time.process_time() - busy, time.perf_counter() - wall
    return rate, rate * wall / busy


def measure(bundle: Bundle, cores: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure each use in each round; the rows of the table."""
    rates: dict[Use, list[tuple[float, float]]] = {use: [] for use in uses(bundle, cores)}
    for _ in range(rounds):
        opened: dict[tuple[str, int], ImageEncoder] = {}
        for use in rates:
            if (use.precision, use.threads) not in opened:
                opened.clear()
                opened[use.precision, use.threads] = ImageEncoder(
                    bundle, device="cpu", precision=use.precision, threads=use.threads
                )
            encoder, batch = opened[use.precision, use.threads], items(bundle, use.budget, use.batch)
            throughput(encoder, use.calls, batch[:1], 0.0)  # memory of this shape
            rates[use].append(speed(encoder, use.calls, batch, seconds))
    return [
        {
            "precision": use.precision, "budget": use.budget, "calls": use.calls, "threads": use.threads,
            "batch": use.batch,
            "images_per_second": round(statistics.median(rate for rate, _ in found), 2),
            "images_per_core_second": round(statistics.median(rate for _, rate in found), 2),
        }
        for use, found in rates.items()
    ]  # fmt: skip


def measure_options(bundle: Bundle, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure single options of the runtime, by processor time, beside the session as it is served: rows of a table."""
    import onnxruntime

    batch = items(bundle, 1.0, 1)
    patches, positions = (np.stack(part) for part in zip(*batch, strict=True))
    inputs = bundle.preprocess.tower_inputs(patches, positions)
    rows = []
    for precision in PRECISIONS:
        if precision != "fp32" and precision not in bundle.precisions:
            continue
        path = str(bundle.verified_tower("image", precision))
        rates: dict[str, list[float]] = {name: [] for name in OPTIONS}
        outputs = {}
        for _ in range(rounds):
            for name, changes in OPTIONS.items():
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = 1
                given = {"session.intra_op.allow_spinning": "0", **changes}
                for key, value in given.items():
                    if "." in key:
                        options.add_session_config_entry(key, value)
                    elif key == "graph_optimization_level":
                        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                    else:
                        setattr(options, key, value)
                session = onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
                outputs[name] = session.run(["embedding"], inputs)[0]
                count, began = 0, time.process_time()
                while not count or time.process_time() - began < seconds:
                    session.run(["embedding"], inputs)
                    count += len(batch)
                rates[name].append(count / (time.process_time() - began))
        base = statistics.median(rates["as served"])
        rows += [
            {
                "precision": precision, "option": name, "images_per_core_second": round(statistics.median(found), 2),
                "over_as_served": round(statistics.median(found) / base, 3),
                "max_abs": float(f"{np.abs(outputs[name] - outputs['as served']).max():.1e}"),
            }
            for name, found in rates.items()
        ]  # fmt: skip
    return rows


def main() -> None:
    """Measure the bundles, print tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--vit", type=Path, metavar="DIR", help="measure a ViT-B/16 of random weights, too, made there")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a measurement, one call at least")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON document there, too")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    bundles = [Bundle.open(options.bundle), *([make_vit(options.vit)] if options.vit else [])]
    result: dict[str, Any] = {
        "benchmark": "towers", "cores": cores, "cpu": cpu_model(), "runtime": runtime_version(),
        "rounds": options.rounds, "seconds": options.seconds, "bundles": {},
    }  # fmt: skip
    for bundle in bundles:
        found = {
            "patches": bundle.preprocess.patch_count,
            "uses": measure(bundle, cores, options.rounds, options.seconds),
            "options": measure_options(bundle, options.rounds, options.seconds),
        }
        result["bundles"][bundle.name] = found
        for row in (*found["uses"], *found["options"]):
            print(bundle.name, "  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
