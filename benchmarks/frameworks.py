"""What one masked pass saves: seconds a step and peak memory of MCR and of the dual stream it is measured against.

    python -m benchmarks.frameworks --config train/configs/mimic_cxr_vitb16.toml --batch 4

Both frameworks take the same random batch through the same model; each is measured in processes of its own, in turn, so
that a busy machine slows both alike. Seconds are those of the processor, which on one thread are what the step takes on an
idle machine; what a neighbour takes away does not count. Memory is the peak during a step minus the level between steps,
when model and optimiser exist and nothing else: activations, gradients and what the optimiser needs for a moment. It has
processes of its own, because giving freed memory back at once, without which there is no level, costs time.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import own_bytes

FRAMEWORKS = ("mcr", "dual_stream")


def main() -> int:
    """Measure, print a table on stdout and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frameworks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML file of python -m train")
    parser.add_argument("--batch", type=int, default=8, help="pairs a step (default: 8)")
    parser.add_argument("--tokens", type=int, default=96, help="tokens of every report (default: 96)")
    parser.add_argument("--steps", type=int, default=3, help="measured steps a process (default: 3)")
    parser.add_argument("--repeats", type=int, default=3, help="processes a framework (default: 3)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, as in python -m train"
    )
    parser.add_argument("--out", type=Path, default=None, metavar="FILE.json", help="one entry a configuration")
    parser.add_argument("--one", choices=FRAMEWORKS, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options, options.one)))
        return 0
    seen: dict[str, list[dict[str, list[float]]]] = {name: [] for name in FRAMEWORKS}
    for _ in range(options.repeats):
        for name in FRAMEWORKS:
            seen[name].append(
                _in_a_process(name, memory=False) | {"peak_mib": _in_a_process(name, memory=True)["peak_mib"]}
            )
    each = {
        name: {key: [round(one, 4) for run in runs for one in run[key]] for key in ("seconds", "peak_mib")}
        for name, runs in seen.items()
    }
    figures = {
        name: {
            "seconds": round(statistics.median(one["seconds"]), 4),
            "peak_mib": round(statistics.median(one["peak_mib"]), 1),
        }
        for name, one in each.items()
    }
    mcr, dual = figures["mcr"], figures["dual_stream"]
    result = {
        "config": options.config.name, "overrides": options.set, "batch": options.batch, "tokens": options.tokens,
        "threads": options.threads, "processes": options.repeats, "steps": options.steps, **figures,
        "time_ratio": round(mcr["seconds"] / dual["seconds"], 3),
        "memory_ratio": round(mcr["peak_mib"] / dual["peak_mib"], 3),
        "each": each,
    }  # fmt: skip
    print("| framework | CPU seconds a step | peak memory, MiB |\n|---|---|---|")
    for name, one in figures.items():
        print(f"| {name} | {one['seconds']:.3f} | {one['peak_mib']:.0f} |")
    print(f"| ratio | {result['time_ratio']:.3f} | {result['memory_ratio']:.3f} |")
    if options.out is not None:
        known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
        known[options.config.stem] = result
        options.out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, framework: str) -> dict[str, list[float]]:
    """Take steps in this process and return the seconds and the peak memory of each."""
    import torch

    from train.config import load_config
    from train.distributed import World
    from train.loop import make_learner
    from train.step import train_step

    torch.set_num_threads(options.threads)
    overrides = [
        "run.device=cpu", "run.compile=false", "run.precision=fp32", "optim.ema_decay=0.0", *options.set,
        f"framework={framework}", f"optim.batch_size={options.batch}",
    ]  # fmt: skip
    config = load_config(options.config, overrides)
    learner, _ = make_learner(config, World(rank=0, size=1, device=torch.device("cpu")))
    batch = random_batch(config, options.batch, options.tokens)
    train_step(learner, batch, config, 0)  # the optimiser makes its state in the first step
    figures: dict[str, list[float]] = {"seconds": [], "peak_mib": []}
    for step in range(1, options.steps + 1):
        for optimizer in learner.optimizers:
            optimizer.zero_grad(set_to_none=True)
        level = _level()
        started = time.process_time()
        train_step(learner, batch, config, step)
        figures["seconds"].append(time.process_time() - started)
        figures["peak_mib"].append(own_bytes("VmHWM") / 2**20 - level)
    return figures


def random_batch(config, count: int, tokens: int):  # type: ignore[no-untyped-def]
    """Make a batch of `count` noisy images and reports of `tokens` random words, masked as the configuration says."""
    import numpy as np

    from train.data import Sample, collate
    from train.masking import hide_words, split_patches

    rng = np.random.default_rng(0)
    preprocess, finer = config.model.preprocess, config.model.decoders.super_resolution
    patches = (preprocess.image_size // preprocess.patch_size) ** 2
    samples = []
    for place in range(count):
        visible, hidden = split_patches(patches, config.masking.image_ratio, rng)
        ids = np.array([[2, *rng.integers(5, config.model.text.vocab_size, tokens - 2), 3]])
        word_mask = hide_words(np.array([[-1, *range(tokens - 2), -1]]), config.masking.text_ratio, rng)
        samples.append(
            Sample(
                patches=rng.random((patches, preprocess.patch_size**2), dtype=np.float32),
                visible=visible, hidden=hidden,
                targets=rng.random((len(hidden), (finer * preprocess.patch_size) ** 2), dtype=np.float32),
                input_ids=ids, masked_ids=np.where(word_mask, 4, ids), word_mask=word_mask, key=place,
                source=f"random {place}",
            )
        )  # fmt: skip
    return collate(samples)


def _in_a_process(framework: str, *, memory: bool) -> dict[str, list[float]]:
    """Measure in a fresh process; for memory in one that gives freed memory back at once: the level is then real."""
    giving_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = os.environ | (giving_back if memory else {})
    command = [sys.executable, "-m", "benchmarks.frameworks", *sys.argv[1:], "--one", framework]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _level() -> float:
    """Give freed memory back, begin a new peak, and return the memory in use, MiB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return own_bytes("VmRSS") / 2**20


if __name__ == "__main__":
    sys.exit(main())
