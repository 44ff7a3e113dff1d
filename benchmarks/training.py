"""What does a training step cost? Seconds, memory and pairs a second of MCR and of the dual stream, by what is hidden.

    python -m benchmarks.training [--quick]

Each is measured by `benchmarks/frameworks.py`, in processes of its own and in turn, on one thread, by the processor's clock.
The dual stream sees each image twice, whole for the contrast and masked for the reconstruction, whatever the mask ratio;
MCR sees the visible patches alone, once. Unless --quick the towers are of ViT-B/16's and BERT-base's size. It runs on a CPU;
nothing of it has been run on a GPU by us. The last line of stdout is one JSON document.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Gauge
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone

CONFIGS = Path(__file__).parents[1] / "train" / "configs"
FRAMEWORKS = ("mcr", "dual_stream")


def _measured(config: str, ratio: float, *, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Measure a step of both frameworks with a mask ratio for both modalities' default words."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frameworks.json"
        command = [
            sys.executable, "-m", "benchmarks.frameworks", "--config", str(CONFIGS / config), "--batch", str(batch),
            "--steps", str(steps), "--repeats", str(repeats), "--set", f"masking.image_ratio={ratio}", "--out", str(out),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
        (found,) = json.loads(out.read_text(encoding="utf-8")).values()
        return dict(found)


def run(options: Options) -> Part:
    """Measure a step of both frameworks at each mask ratio."""
    started = time.perf_counter()
    if options.quick:
        config, batch, steps, repeats, ratios = "phantom.toml", 8, 2, 1, (0.5, 0.75)
    else:
        config, batch, steps, repeats, ratios = "mimic_cxr_vitb16.toml", 4, 1, 1, (0.5, 0.75)
    rows: list[tuple[Cell, ...]] = []
    points: dict[str, list[tuple[float, float, float | None, float | None]]] = {name: [] for name in FRAMEWORKS}
    figures: dict[str, Figure] = {}
    with Gauge() as gauge:
        for ratio in ratios:
            found = _measured(config, ratio, batch=batch, steps=steps, repeats=repeats)
            for name in FRAMEWORKS:
                seconds, peak = found[name]["seconds"], found[name]["peak_mib"]
                rows.append((f"{ratio:.0%}", name, seconds, batch / seconds, peak))
                points[name].append((100 * ratio, seconds, None, None))
            key = f"training.{Path(config).stem}.{ratio:.2f}"
            figures[f"{key}.time_ratio"] = _figure(found["time_ratio"])
            figures[f"{key}.memory_ratio"] = _figure(found["memory_ratio"])
            rows.append((f"{ratio:.0%}", "mcr over dual_stream", found["time_ratio"], None, found["memory_ratio"]))
            gauge.tick()
    return Part(
        name="training",
        title="A step of training",
        question="What do a step of MCR and of the dual stream cost, by the share of patches that is hidden?",
        command="python -m benchmarks.training",
        tables=(
            Table(
                title=f"{config}, batch {batch}, one thread",
                columns=(
                    Column(name="patches hidden"),
                    Column(name="framework"),
                    Column(name="a step", unit="s of processor time", better="lower"),
                    Column(name="pairs", unit="1/s", better="higher"),
                    Column(name="peak memory of a step", unit="MiB", better="lower"),
                ),
                rows=tuple(rows),
                note="Peak memory is what a step adds to model and optimiser.",
            ),
        ),
        plots=(
            Plot(
                title="Seconds of a step by the share of patches that is hidden",
                kind="line",
                x=Column(name="patches hidden", unit="%"),
                y=Column(name="a step", unit="s of processor time", better="lower"),
                series=tuple(Series(name=name, points=tuple(each)) for name, each in points.items()),
            ),
        ),
        figures=figures,
        flags=gauge.flags(),
        seconds=time.perf_counter() - started,
    )


def _figure(value: float) -> Figure:
    return Figure(measure=Measure(value=value), unit="times that of the dual stream", better="lower")


if __name__ == "__main__":
    run_alone(run)
