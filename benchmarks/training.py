"""What does a training step cost? Seconds, memory and pairs a second of MCR and of the dual stream, by what is hidden.

    python -m benchmarks.training [--quick]

Each is measured by `benchmarks/frameworks.py`, in processes of its own and in turn, on one thread, by the processor's clock.
The dual stream sees each image twice, whole for the contrast and masked for the reconstruction, whatever the mask ratio;
MCR sees the visible patches alone, once. Unless --quick the towers of ViT-B/16's and BERT-base's size are measured, too, in
a small batch, of which the gradients of 190 million weights and the optimiser are a large part: a larger batch saves more.
It runs on a CPU; nothing of it has been run on a GPU by us. The last line of stdout is one JSON document.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Gauge, measure, ratio
from benchmarks.part import Cell, Column, Figure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone

CONFIGS = Path(__file__).parents[1] / "train" / "configs"
FRAMEWORKS = ("mcr", "dual_stream")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What is measured of one configuration."""

    config: str
    batch: int
    steps: int
    """Of a process."""

    processes: int
    """Of each framework."""

    hidden: tuple[float, ...]
    """Shares of the patches."""


QUICK = (Steps(config="phantom.toml", batch=8, steps=2, processes=1, hidden=(0.5, 0.75)),)
FULL = (
    Steps(config="phantom.toml", batch=16, steps=3, processes=2, hidden=(0.25, 0.5, 0.75, 0.9)),
    Steps(config="mimic_cxr_vitb16.toml", batch=4, steps=3, processes=1, hidden=(0.5, 0.75)),
)

Seen = dict[str, dict[str, list[float]]]
"""Seconds and peaks of each step, by framework."""


def run(options: Options) -> Part:
    """Measure a step of both frameworks at each mask ratio."""
    started = time.perf_counter()
    tables: list[Table] = []
    plots: list[Plot] = []
    figures: dict[str, Figure] = {}
    with Gauge() as gauge:
        for wanted in QUICK if options.quick else FULL:
            found = {}
            for hidden in wanted.hidden:
                found[hidden] = _measured(wanted, hidden)
                gauge.tick()
            tables.append(_table(wanted, found, options.seed))
            plots.append(_plot(wanted, found, options.seed))
            for hidden, seen in found.items():
                for what, key in (("time", "seconds"), ("memory", "peak_mib")):
                    over = ratio(seen["mcr"][key], seen["dual_stream"][key], seed=options.seed)
                    name = f"training.{Path(wanted.config).stem}.batch_{wanted.batch}.{hidden:.2f}.{what}_ratio"
                    figures[name] = Figure(measure=over, unit="times that of the dual stream", better="lower")
    return Part(
        name="training",
        title="A step of training",
        question="What do a step of MCR and of the dual stream cost, by the share of patches that is hidden?",
        command="python -m benchmarks.training",
        tables=tuple(tables),
        plots=tuple(plots),
        figures=figures,
        notes=(
            "By the clock of the processor, on one thread. Peak memory is what a step adds to model and optimiser.",
        ),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def _measured(wanted: Steps, hidden: float) -> Seen:
    """Measure steps of both frameworks with a share of the patches hidden, and of the words what the configuration says."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "frameworks.json"
        command = [
            sys.executable, "-m", "benchmarks.frameworks", "--config", str(CONFIGS / wanted.config),
            "--batch", str(wanted.batch), "--steps", str(wanted.steps), "--repeats", str(wanted.processes),
            "--set", f"masking.image_ratio={hidden}", "--out", str(out),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
        (found,) = json.loads(out.read_text(encoding="utf-8")).values()
        return {name: found["each"][name] for name in FRAMEWORKS}


def _table(wanted: Steps, found: Mapping[float, Seen], seed: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for hidden, seen in found.items():
        for name in FRAMEWORKS:
            seconds = seen[name]["seconds"]
            pairs = measure([wanted.batch / one for one in seconds], seed=seed)
            peak = measure(seen[name]["peak_mib"], seed=seed)
            rows.append((f"{hidden:.0%}", name, measure(seconds, seed=seed), pairs, peak))
        over = [ratio(seen["mcr"][key], seen["dual_stream"][key], seed=seed) for key in ("seconds", "peak_mib")]
        rows.append((f"{hidden:.0%}", "mcr over dual_stream", over[0], None, over[1]))
    return Table(
        title=f"{wanted.config}, batch {wanted.batch}",
        columns=(
            Column(name="patches hidden"),
            Column(name="framework"),
            Column(name="a step", unit="core-s", better="lower"),
            Column(name="pairs", unit="1/core-s", better="higher"),
            Column(name="peak memory of a step", unit="MiB", better="lower"),
        ),
        rows=tuple(rows),
    )


def _plot(wanted: Steps, found: Mapping[float, Seen], seed: int) -> Plot:
    series = []
    for name in FRAMEWORKS:
        steps = {hidden: measure(seen[name]["seconds"], seed=seed) for hidden, seen in found.items()}
        points = tuple((100 * hidden, one.value, one.low, one.high) for hidden, one in steps.items())
        series.append(Series(name=name, points=points))
    return Plot(
        title=f"Seconds of a step by the share of patches that is hidden, {wanted.config}",
        kind="line",
        x=Column(name="patches hidden", unit="%"),
        y=Column(name="a step", unit="core-s", better="lower"),
        series=tuple(series),
    )


if __name__ == "__main__":
    run_alone(run)
