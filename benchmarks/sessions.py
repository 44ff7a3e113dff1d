"""Which session recipe of ONNX Runtime is worth what? One process a recipe and round, interleaved.

    python -m benchmarks.sessions [--bundle BUNDLE] [--rounds 5] [--calls 30]

`defaults` is a session as the runtime makes it; the others are the purposes of `mcr_infer.inference.tower`. For each:

    first      the text tower is opened and answers one sentence: what a query in a new process waits for
    alone      one sentence, again and again
    together   one thread asks the text tower, another the image tower (one radiograph a call), both without a pause: the
               median and the 95th percentile of a sentence, and calls of both towers a second

Without --bundle one of BERT-base's size with random weights is made (`benchmarks/large.py`). The last line of stdout is
one JSON document: medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.inference.tower import Purpose, Side

RECIPES = ("defaults", "one_shot", "bulk", "server")
QUESTION = "small left pleural effusion with adjacent atelectasis"


def opened(bundle: Bundle, side: Side, recipe: str) -> Callable[[], object]:
    """Open a tower by a recipe and return a call that asks it for one item."""
    path = bundle.path / bundle.tower_files[side]
    if side == "text":
        tokenizer = ReportTokenizer.from_file(bundle.path / bundle.tokenizer_file, bundle.max_tokens)
        inputs = dict(zip(("input_ids", "attention_mask"), tokenizer.encode([QUESTION]), strict=True))
    else:
        pixels = np.random.default_rng(0).random((512, 512), dtype=np.float32)
        patches, positions = bundle.preprocess.patches(pixels)
        inputs = {"patches": patches[None], "positions": positions[None]}
    if recipe == "defaults":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda: session.run(["embedding"], inputs)
    purposes: dict[str, Purpose] = {"one_shot": "one_shot", "bulk": "bulk", "server": "server"}
    tower = OnnxTower(path, purpose=purposes[recipe])
    return lambda: tower.run(inputs, ["embedding"])


def times_of(call: Callable[[], object], count: int) -> list[float]:
    """Make a call again and again and return the seconds of each."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def measure(bundle: Bundle, recipe: str, calls: int) -> dict[str, float]:
    """Measure one recipe in this process."""
    started = time.perf_counter()
    text = opened(bundle, "text", recipe)
    text()
    first = time.perf_counter() - started
    alone = times_of(text, calls)
    image = opened(bundle, "image", recipe)
    times_of(image, 3)
    asking, images = threading.Event(), 0

    def ask_images() -> None:
        nonlocal images
        while not asking.is_set():
            image()
            images += 1

    beside = threading.Thread(target=ask_images)
    beside.start()
    started, busy = time.perf_counter(), time.process_time()
    together = times_of(text, calls)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    asking.set()
    beside.join()
    return {
        "first_ms": 1e3 * first,
        "alone_p10_ms": 1e3 * statistics.quantiles(alone, n=10)[0],
        "alone_ms": 1e3 * statistics.median(alone),
        "together_p10_ms": 1e3 * statistics.quantiles(together, n=10)[0],
        "together_ms": 1e3 * statistics.median(together),
        "together_p95_ms": 1e3 * statistics.quantiles(together, n=20)[-1],
        "together_calls_a_second": (calls + images) / seconds,
        "together_cores": busy / seconds,
    }


def main() -> None:
    """Measure every recipe in turn, print a table and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle; without it a large one of random weights is made")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=30, help="sentences a measurement")
    parser.add_argument("--recipe", choices=RECIPES, help="measure this one in this process and print its JSON")
    options = parser.parse_args()
    if options.recipe:
        print(json.dumps(measure(Bundle.open(options.bundle), options.recipe, options.calls)))
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle
        if bundle is None:
            from benchmarks.large import make_bundle

            bundle = make_bundle(Path(folder) / "bundle").path
        command = [sys.executable, "-m", "benchmarks.sessions", "--bundle", str(bundle), "--calls", str(options.calls)]
        found: dict[str, list[dict[str, float]]] = {recipe: [] for recipe in RECIPES}
        for _ in range(options.rounds):
            for recipe, rounds in found.items():
                done = subprocess.run([*command, "--recipe", recipe], capture_output=True, text=True, check=True)
                rounds.append(json.loads(done.stdout.splitlines()[-1]))
    result: dict[str, object] = {
        "benchmark": "sessions", "bundle": Bundle.open(bundle).name if options.bundle else "large",
        "rounds": options.rounds, "calls": options.calls, "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip
    for recipe, rounds in found.items():
        medians = {key: round(statistics.median(one[key] for one in rounds), 1) for key in rounds[0]}
        result[recipe] = medians
        print(f"{recipe:9}  " + "  ".join(f"{key} {value:8.1f}" for key, value in medians.items()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
