"""What does a patch budget bring, and what does it cost? Throughput of the image tower alone, and retrieval.

    python -m benchmarks.budget [--bundle BUNDLE] [--phantoms 1000] [--rounds 5] [--out FILE.json]

Throughput: a call at a time on each core, in the batch that the calibration of the tower finds, budgets interleaved,
medians; ratios are of processor time, which other programs bend least. Retrieval: held-out phantoms of seeds from 100,000
on, as `python -m export.budget` measures it. Beside the choice of patches that is served stand three others of as many
patches, so that each part of it shows what it is worth:

    random            drawn for each radiograph
    even spread       nothing is left out first: the same patches of every radiograph
    random picture    what shows nothing is left out first, the rest is drawn

The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.towers import items as pictures
from benchmarks.towers import speed
from export.budget import Choice, Yardstick, as_served, table_lines
from export.retrieval import FIRST_SEED, Vectors, held_out
from mcr_infer.inference.autotune import autotune, cpu_model, runtime_version
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.inference.patch_budget import emptiness, spread

BUDGETS = (1.0, 0.75, 0.5, 0.35, 0.25)


def at_random(patches: Vectors, count: int, row: int) -> NDArray[np.int64]:
    """Draw patches, whatever they show."""
    return np.sort(np.random.default_rng([row]).permutation(len(patches))[:count])


def spread_alone(patches: Vectors, count: int, _: int) -> NDArray[np.int64]:
    """Take the first of the even spread, whatever they show."""
    return np.sort(np.argsort(spread(int(len(patches) ** 0.5)))[:count])


def random_picture(patches: Vectors, count: int, row: int) -> NDArray[np.int64]:
    """Leave out what shows nothing first, as it is served, and draw the rest."""
    drawn = np.random.default_rng([row]).permutation(len(patches))
    return np.sort(np.lexsort((drawn, emptiness(patches)))[:count])


CHOICES: dict[str, Choice] = {
    "as served": as_served,
    "random": at_random,
    "even spread": spread_alone,
    "random picture": random_picture,
}


def measure_speed(bundle: Bundle, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure the tower alone at each budget, in each precision that it has for the CPU: the rows of a table."""
    cores = len(os.sched_getaffinity(0))
    rates: dict[tuple[str, float], list[tuple[float, float]]] = {}
    facts = {}
    for precision in ("fp32", *(name for name, one in bundle.precisions.items() if "cpu" in one.runtimes)):
        plans = {
            budget: autotune(bundle, device="cpu", precision=precision, budget=budget, cores=cores)
            for budget in BUDGETS
        }
        encoders = {
            count: ImageEncoder(bundle, device="cpu", precision=precision, threads=count)
            for count in {plan.intra_op_threads for plan in plans.values()}
        }
        for _ in range(rounds):
            for budget, plan in plans.items():
                batch = pictures(bundle, budget, plan.batch_size)
                encoder = encoders[plan.intra_op_threads]
                rates.setdefault((precision, budget), []).append(speed(encoder, plan.threads, batch, seconds))
                facts[precision, budget] = {
                    "patches": len(batch[0][1]), "calls": plan.threads, "threads": plan.intra_op_threads,
                    "batch": plan.batch_size,
                }  # fmt: skip
    medians = {key: [statistics.median(column) for column in zip(*found, strict=True)] for key, found in rates.items()}
    return [
        {
            "precision": precision, "budget": budget, **facts[precision, budget],
            "images_per_second": round(wall, 1), "images_per_core_second": round(busy, 1),
            "over_all_patches_in_fp32": round(busy / medians["fp32", 1.0][1], 2),
        }
        for (precision, budget), (wall, busy) in medians.items()
    ]  # fmt: skip


def main() -> None:
    """Measure, print tables and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--phantoms", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a measurement of speed, one call at least")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON document there, too")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    speeds = measure_speed(bundle, options.rounds, options.seconds)
    for row in speeds:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    yardstick = Yardstick(bundle, held_out(bundle, options.phantoms))
    retrieval: dict[str, list[dict[str, Any]]] = {}
    for name, choice in CHOICES.items():
        budgets = BUDGETS if choice is as_served else BUDGETS[1:]
        retrieval[name] = [yardstick.measure(budget, choice) for budget in budgets]
        print(f"\n{name}\n" + "\n".join(table_lines(retrieval[name])), flush=True)
    result = {
        "benchmark": "budget", "bundle": bundle.name, "fingerprint": bundle.fingerprint,
        "cores": len(os.sched_getaffinity(0)), "cpu": cpu_model(), "runtime": runtime_version(),
        "rounds": options.rounds, "phantoms": options.phantoms, "first_seed": FIRST_SEED,
        "speed": speeds, "retrieval": retrieval,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
