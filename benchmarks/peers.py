"""What do others need for the same work? The same sentences and radiographs through networks of the same sizes, in turn.

    python -m benchmarks.peers [--quick] [--work DIR]

Sentences go through text towers of BERT-base's size, radiographs (DICOM phantoms of 1,024 pixels) through image towers of
ViT-B/16's, all of random weights: speed does not depend on them, and weights cannot be had offline. Each contender runs in a
process of its own (`benchmarks/contender.py`), in turn, several rounds; one that fails is a line with its reason. Those that
take radiographs also get a negative and a file that is cut off (`benchmarks/odd_files.py`). Vector engines are compared in
`python -m benchmarks.recall`. --quick takes networks of the sizes of the bundle that ships, which are made in seconds, and
leaves out who would have to be installed first.

The last line of stdout is one JSON document.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.abilities import abilities
from benchmarks.contender import IMAGES, TEXT
from benchmarks.harness import Gauge, measure, ratio
from benchmarks.networks import Networks, last_line
from benchmarks.odd_files import SAME, make_odd_files, run_of_ours
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from mcr_infer.phantom.demo import write_demo

_TIMEOUT = 600

Seen = Mapping[str, Sequence[Mapping[str, Any]]]
"""What each contender said of itself, round by round."""

KINDS = (("Sentences", TEXT, "sentences/s"), ("Radiographs from DICOM", IMAGES, "radiographs/s"))
"""Titles, contenders, of which the first are ours, and what they do."""

HEADLINE = "as many sentences a second as sentence-transformers, towers of BERT-base's size"


def run(options: Options) -> Part:
    """Measure every contender, in turn."""
    started = time.perf_counter()
    networks = Networks.of(options.work, small=options.quick)
    failed = networks.make()
    make_radiographs(options.work)
    odd = make_odd_files(options.work)
    with Gauge() as gauge:
        seen = _rounds(networks, failed, gauge, *((1, 0.7) if options.quick else (3, 3.0)))
        whole = run_of_ours(odd)
    tables: list[Table] = []
    plots: list[Plot] = []
    figures: dict[str, Figure] = {}
    for title, names, unit in KINDS:
        tables.append(_table(title, names, unit, seen, failed, options.seed))
        plots += _plots(title, names, unit, seen, options.seed)
        figures |= _figures(names, unit, seen, options)
    return Part(
        name="peers",
        title="Others at the same work",
        question="How fast are others with networks of the same sizes, and what do they leave to their caller?",
        command="python -m benchmarks.peers",
        tables=(*tables, _odd(seen, failed, whole), abilities()),
        plots=tuple(plots),
        figures=figures,
        notes=(f"Random weights of {networks.told}: this compares speed, not what is found.",),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def make_radiographs(work: Path) -> None:
    """Write the phantoms that all embed; those that are there are kept."""
    radiographs = work / "radiographs"
    if not radiographs.exists():
        made = work / "radiographs.part"
        shutil.rmtree(made, ignore_errors=True)
        for _ in write_demo(made, count=12, seed=0, size=1024):
            pass
        made.rename(radiographs)


def _rounds(networks: Networks, failed: dict[str, str], gauge: Gauge, rounds: int, seconds: float) -> Seen:
    """Run all contenders in turn; note in `failed` why one did not come to its end."""
    seen: dict[str, list[Mapping[str, Any]]] = {}
    contenders = [*TEXT, *IMAGES]
    for turn in range(rounds):
        for name in contenders[turn:] + contenders[:turn]:
            if name in failed:
                continue
            found = _once(name, networks, seconds)
            if isinstance(found, str):
                failed[name] = found
                seen.pop(name, None)
            else:
                seen.setdefault(name, []).append(found)
        gauge.tick()
    return seen


def _once(name: str, networks: Networks, seconds: float) -> Mapping[str, Any] | str:
    """Run a contender; return what it measured, or why it failed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.contender",
        name,
        "--work",
        str(networks.work),
        "--seconds",
        str(seconds),
    ]
    command += ["--small"] if networks.small else []
    try:
        done = subprocess.run(
            command, env=networks.environment(name), capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {_TIMEOUT} s"
    if done.returncode:
        return f"failed with exit code {done.returncode}: {last_line(done.stderr)}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _of(seen: Seen, name: str, key: str) -> list[float]:
    return [one[key] for one in seen[name]]


def _table(
    title: str, names: Mapping[str, object], unit: str, seen: Seen, failed: Mapping[str, str], seed: int
) -> Table:
    ours = next(iter(names))
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        if name not in seen:
            rows.append((name, failed[name], None, None, None))
            continue
        rates = _of(seen, name, "items_per_second")
        over = ratio(rates, _of(seen, ours, "items_per_second"), seed=seed) if ours in seen else None
        first = measure(_of(seen, name, "first_seconds"), seed=seed)
        rows.append((name, measure(rates, seed=seed), over, first, round(max(_of(seen, name, "peak_mib")))))
    return Table(
        title=title,
        columns=(
            Column(name="contender"),
            Column(name="rate", unit=unit, better="higher"),
            Column(name="over ours", unit="×", better="higher"),
            Column(name="from nothing to the first vector", unit="s", better="lower"),
            Column(name="peak memory", unit="MiB", better="lower"),
        ),
        rows=tuple(rows),
    )


def _plots(title: str, names: Mapping[str, object], unit: str, seen: Seen, seed: int) -> list[Plot]:
    """Draw the rates; of none there is no picture."""
    bars = {name: measure(_of(seen, name, "items_per_second"), seed=seed) for name in names if name in seen}
    points = tuple((float(place), rate.value, rate.low, rate.high) for place, rate in enumerate(bars.values()))
    plot = Plot(
        title=title,
        kind="bar",
        x=Column(name="contender"),
        y=Column(name="rate", unit=unit, better="higher"),
        series=(Series(name=title.lower(), points=points),),
        x_names=tuple(bars),
    )
    return [plot] if bars else []


def _figures(names: Mapping[str, object], unit: str, seen: Seen, options: Options) -> dict[str, Figure]:
    ours = next(iter(names))
    found = {}
    for name in (name for name in names if name in seen):
        # Networks of other sizes are another figure.
        key = f"peers.{'small.' if options.quick else ''}{name}".replace(" ", "_").replace(",", "")
        rates = _of(seen, name, "items_per_second")
        first: Measure = measure(_of(seen, name, "first_seconds"), seed=options.seed)
        found[f"{key}.rate"] = Figure(measure=measure(rates, seed=options.seed), unit=unit, better="higher")
        found[f"{key}.first"] = Figure(measure=first, unit="s", better="lower")
        if ours in seen and name != ours:
            headline = HEADLINE if name == "sentence-transformers" and not options.quick else ""
            over = ratio(_of(seen, ours, "items_per_second"), rates, seed=options.seed)
            found[f"{key}.ours_over"] = Figure(measure=over, unit="×", better="higher", headline=headline)
    return found


def _odd(seen: Seen, failed: Mapping[str, str], whole: str) -> Table:
    """Say what became of the odd files; `whole` is the run of our command over all of them."""
    rows: list[tuple[Cell, ...]] = [("mcr-infer embed-images", "as mcr-infer, DICOM", "", whole)]
    for name in IMAGES:
        if name not in seen:
            rows.append((name, failed[name], None, None))
            continue
        cosine, cut = seen[name][0]["negative_cosine"], seen[name][0]["cut"]
        rows.append((name, "the same vector" if cosine >= SAME else "another vector", f"{cosine:.4f}", cut))
    return Table(
        title="Odd radiographs, tested here",
        columns=(
            Column(name="contender"),
            Column(name="the same radiograph as MONOCHROME1"),
            Column(name="cosine"),
            Column(name="a file that is cut off"),
        ),
        rows=tuple(rows),
        note="Random weights look alike to each other: what counts is whether the vector is the same.",
    )


if __name__ == "__main__":
    run_alone(run)
