"""How long does a person wait for the first answer? Whole processes, from nothing, interleaved.

    python -m benchmarks.startup [--runs 15] [--index DIR]
    python -m benchmarks.startup --large DIR [--runs 15]

Compared with the bare imports of what a text query cannot do without (numpy, onnxruntime, tokenizers, typer), run in turn
with the measured commands so that a drifting machine moves both. Modules are compiled beforehand, as pip compiles those of
a wheel. Wall time is what a person waits; processor time (all threads) hardly depends on what else the machine does.

`--large` asks one of BERT-base's size over 10,000 rows (`benchmarks/large.py` makes it in DIR, once), beside the same
question through open_clip and sentence-transformers where they are installed: import, load the tower from a local folder,
encode one sentence, take the 10 nearest of 10,000 vectors. The last line of stdout is one JSON document.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import large

COMMAND_LINE = [sys.executable, "-m", "mcr_infer"]
BARE_IMPORTS = [sys.executable, "-c", "import numpy, onnxruntime, tokenizers, typer"]

OPEN_CLIP = """
import sys, numpy as np, open_clip, torch
folder, vectors, text = sys.argv[1:]
model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
with torch.inference_mode():
    query = model.eval().encode_text(tokenize([text]), normalize=True)[0].numpy()
print(np.argsort(-(np.load(vectors) @ query))[:10])
"""
SENTENCE_TRANSFORMERS = """
import sys, numpy as np
from sentence_transformers import SentenceTransformer
folder, vectors, text = sys.argv[1:]
query = SentenceTransformer(folder, device="cpu").encode([text], normalize_embeddings=True)[0]
print(np.argsort(-(np.load(vectors) @ query))[:10])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process took, in seconds."""

    wall: float
    processor: float


def cost(command: list[str], environment: Mapping[str, str]) -> Cost:
    """Run one process to its end; a failing one ends the benchmark with its stderr."""
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed with {process.returncode}:\n{told}")
    return Cost(wall=wall, processor=usage.ru_utime + usage.ru_stime)


def measure(
    commands: Mapping[str, list[str]], runs: int, environment: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Run commands in turn, A B C A B C ..., after an uncounted round that warms caches; compare each with the first."""
    for command in commands.values():
        cost(command, environment)
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            found[name].append(cost(command, environment))
    bare = next(iter(found.values()))
    figures = {}
    for name, each in found.items():
        pairs = list(zip(each, bare, strict=True))
        figures[name] = {
            "median_s": round(statistics.median(one.wall for one in each), 3),
            "ratio_to_bare": round(statistics.median(one.wall / base.wall for one, base in pairs), 2),
            "processor_median_s": round(statistics.median(one.processor for one in each), 3),
            "processor_ratio_to_bare": round(
                statistics.median(one.processor / base.processor for one, base in pairs), 2
            ),
        }
    return figures


def question(index: Path) -> list[str]:
    """Return the command that asks an index."""
    return [*COMMAND_LINE, "query", large.QUESTION, "--index", str(index)]


def small_commands(folder: Path, index: Path | None, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Prepare the question to the bundle that ships: over `index`, else over 12 phantoms."""
    if index is None:
        index = folder / "index"
        cost([*COMMAND_LINE, "demo", f"{folder}/dicoms", "--count", "12"], environment)
        cost([*COMMAND_LINE, "embed-images", f"{folder}/dicoms", "--index", str(index)], environment)
    return {"bare imports": BARE_IMPORTS, "--help": [*COMMAND_LINE, "--help"], "text query": question(index)}


def large_commands(folder: Path) -> dict[str, list[str]]:
    """Prepare the question to a text tower of BERT-base's size, and the same through the libraries that are installed."""
    bundle = large.make_bundle(folder / "bundle")
    large.make_index(folder / "index", bundle)
    commands = {"bare imports": BARE_IMPORTS, "text query, BERT-base, 10,000 rows": question(folder / "index")}
    for name, make, script, dim in (
        ("open_clip", large.make_open_clip, OPEN_CLIP, large.DIM),
        ("sentence-transformers", large.make_sentence_transformers, SENTENCE_TRANSFORMERS, large.WIDTH),
    ):
        module = name.replace("-", "_")
        if importlib.util.find_spec(module) is None:
            print(f"{name} is not installed and is left out", file=sys.stderr)
            continue
        make(folder / module, bundle)
        vectors = str(folder / f"vectors-{dim}.npy")
        commands[name] = [sys.executable, "-c", script, str(folder / module), vectors, large.QUESTION]
    return commands


def main() -> None:
    """Measure, print a table and the JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--index", type=Path, help="an index to query; without it, one of 12 phantoms is made")
    parser.add_argument("--large", type=Path, metavar="DIR", help="measure a tower of BERT-base's size, kept in DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # What is asked is always another process than what is measured, and none may look for models in the network.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled", "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        if options.large is None:
            name, commands = "startup", small_commands(Path(folder), options.index, environment)
        else:
            name, commands = "startup-large", large_commands(options.large)
        figures = measure(commands, options.runs, environment)
    for each, values in figures.items():
        print(
            f"{each:34} {values['median_s']:7.3f} s {values['ratio_to_bare']:6.2f} x bare imports   processor "
            f"{values['processor_median_s']:7.3f} s {values['processor_ratio_to_bare']:6.2f} x"
        )
    print(json.dumps({"benchmark": name, "runs": options.runs, "cores": len(os.sched_getaffinity(0)), **figures}))


if __name__ == "__main__":
    main()
