"""How long does a person wait for the first answer? Whole processes, from nothing, interleaved.

    python -m benchmarks.startup [--runs 15] [--index DIR]

Compared with the bare imports of what a text query cannot do without (numpy, onnxruntime, tokenizers, typer), run in turn
with the measured commands so that a drifting machine moves both. The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND_LINE = [sys.executable, "-m", "mcr_infer"]
BARE_IMPORTS = [sys.executable, "-c", "import numpy, onnxruntime, tokenizers, typer"]


def seconds(command: list[str]) -> float:
    """Run one process to its end and return its wall time; a failing one ends the benchmark with its stderr."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
    return elapsed


def measure(commands: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    """Time commands in turn, A B C A B C ..., after one uncounted round that warms the file cache."""
    for command in commands.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    return times


def main() -> None:
    """Measure, print a table and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--index", type=Path, help="an index to query; without it, one of 12 phantoms is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = options.index or Path(folder) / "index"
        if options.index is None:
            seconds([*COMMAND_LINE, "demo", f"{folder}/dicoms", "--count", "12"])
            seconds([*COMMAND_LINE, "embed-images", f"{folder}/dicoms", "--index", str(index)])
        times = measure(
            {
                "bare imports": BARE_IMPORTS,
                "--help": [*COMMAND_LINE, "--help"],
                "text query": [*COMMAND_LINE, "query", "bilateral pleural effusion", "--index", str(index)],
            },
            options.runs,
        )
    bare = times["bare imports"]
    result: dict[str, object] = {"benchmark": "startup", "runs": options.runs, "cores": len(os.sched_getaffinity(0))}
    for name, each in times.items():
        ratio = statistics.median(one / base for one, base in zip(each, bare, strict=True))
        result[name] = {"median_s": round(statistics.median(each), 3), "ratio_to_bare": round(ratio, 2)}
        print(
            f"{name:14} {statistics.median(each):6.3f} s   {min(each):6.3f} - {max(each):6.3f}   {ratio:5.2f} x bare imports"
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
