"""One tower, many ways to run it: backend, precision, batch, length, patch budget; each beside what the machine could do.

    python -m benchmarks.matrix [--quick] [--work DIR]

The same network with the same random weights runs in PyTorch (as it is, compiled, in bfloat16, fp16 and int8), in ONNX
Runtime (fp32, int8) and, where there is a GPU, on CUDA and in TensorRT (`benchmarks/ways.py`). Outputs are compared with
those of PyTorch in fp32 first, and what is no parity in fp32 is not timed. Not every combination is run: from the middle of
the matrix (all patches, one item, 16 words) one thing is changed at a time: a batch of 8, half of the patches, 64 words;
what is compiled anew for each shape runs in the middle alone. What cannot run here stands in a table with the reason.

`share of the limit` is the rate of operations over that of the bare products (`python -m benchmarks.roofline`) of as many
rows in float32, taken in the same round: int8 and bfloat16 can lie above it. Rounds are interleaved, figures are medians.
Making models and exporting are not counted; loading, converting and the first call, in which compilers compile, stand
apart. Beside the speed of a precision stands what it costs: the cosine to fp32, and for the sizes of the bundle that ships
the loss of R@10 that its manifest records for the bundle itself; random weights find nothing.

The last line of stdout is one JSON document.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import large
from benchmarks.harness import Gauge, in_turn, measure
from benchmarks.machine import gpus
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from benchmarks.roofline import Architecture, products, rate
from benchmarks.ways import Inputs, Way, ways
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.tower import Side

_TARGET_SECONDS = 0.15
"""A timed call repeats the tower until it takes about as long."""

_BASE = "torch eager, fp32"
"""The way whose vectors all others are compared with."""

_PARITY = 0.9999
"""The least cosine of another way in fp32: below it, it is another network, and its speed says nothing."""

COLUMNS = (
    Column(name="tower"),
    Column(name="backend"),
    Column(name="precision"),
    Column(name="batch"),
    Column(name="patches or words"),
    Column(name="items", unit="1/s", better="higher"),
    Column(name="items of a core", unit="1/core-s", better="higher"),
    Column(name="a call", unit="ms", better="lower"),
    Column(name="share of the limit", unit="%", better="higher"),
    Column(name="least cosine to torch in fp32", better="higher"),
    Column(name="R@10 lost, image → report, report → image", unit="points", better="lower"),
    Column(name="opened, converted and called once", unit="s", better="lower"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What goes into the tower."""

    batch: int
    tokens: int
    """Patches or words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A tower in both of its forms."""

    name: str
    side: Side
    bundle: Bundle
    model: Any
    """The torch module, evaluation mode."""

    architecture: Architecture
    shapes: tuple[Shape, ...]
    """The first one is the middle of the matrix."""

    costs: Mapping[str, str]
    """What a precision costs in retrieval, where a bundle of these sizes was trained."""

    def inputs(self, shape: Shape) -> Inputs:
        """Draw inputs of a shape."""
        rng = np.random.default_rng(0)
        if self.side == "image":
            size = self.architecture.patch
            whole = self.bundle.preprocess.patch_count
            places = np.sort(rng.permutation(whole)[: shape.tokens])
            return {
                "patches": rng.random((shape.batch, shape.tokens, size), dtype=np.float32),
                "positions": np.tile(places, (shape.batch, 1)),
            }
        words = rng.integers(10, 1000, (shape.batch, shape.tokens))
        return {"input_ids": words, "attention_mask": np.ones_like(words)}


def subjects(options: Options) -> Iterator[Subject]:
    """Make the towers: the sizes of the bundle that ships and, unless quick, ViT-B/16 and BERT-base, of random weights."""
    shipped = Bundle.open()
    sizes, costs = large.shipped_sizes(), retrieval_costs(shipped)
    small = _with_precisions(large.make_shipped_sized(options.work / "shipped-sized"))
    model = _model(sizes)
    yield _subject("bundle that ships, image", "image", small, model, sizes, (100, 50), costs)
    yield _subject("bundle that ships, text", "text", small, model, sizes, (16, 64), costs)
    if not options.quick:
        vit = _with_precisions(large.make_vit(options.work / "vitb16"))
        yield _subject("ViT-B/16, image", "image", vit, _model(large.VIT), large.VIT, (196, 98), {})
        bert = _with_precisions(large.make_bundle(options.work / "bert"))
        yield _subject("BERT-base, text", "text", bert, _model(large.MODEL), large.MODEL, (16, 64), {})


Missing = dict[tuple[str, str], str]
"""Why a backend does not run in a precision."""


def retrieval_costs(bundle: Bundle) -> dict[str, str]:
    """Say what each precision of a bundle costs in retrieval, by its manifest: points of R@10 lost, each way."""
    found = {}
    for name, told in bundle.manifest["precisions"].items():
        loss = told["retrieval"]["recall_loss"]
        both = (100 * loss["image_to_report_r10"], 100 * loss["report_to_image_r10"])
        found[name] = ", ".join(f"{round(one, 1) + 0.0:.1f}" for one in both)
    return found


def _subject(
    name: str,
    side: Side,
    bundle: Bundle,
    model: Any,
    sizes: Mapping[str, Any],
    tokens: tuple[int, int],
    costs: Mapping[str, str],
) -> Subject:
    full, other = tokens
    shapes = (Shape(batch=1, tokens=full), Shape(batch=8, tokens=full), Shape(batch=1, tokens=other))
    architecture = Architecture.of(name, sizes[side])
    return Subject(
        name=name, side=side, bundle=bundle, model=model, shapes=shapes, architecture=architecture, costs=costs
    )


def _with_precisions(bundle: Bundle) -> Bundle:
    """Add int8 and, beside a GPU, fp16; what that costs a model that finds by chance says nothing, so few phantoms do."""
    from export.quantize import add_precision

    for precision in ("int8", *(["fp16"] if gpus() else [])):
        if precision not in bundle.precisions:
            add_precision(bundle.path, precision, phantoms=20, accept_loss=True)
    return Bundle.open(bundle.path)


def _model(sizes: Mapping[str, Any]) -> Any:
    """Make the network whose weights `large.exported` wrote: the same seed draws the same."""
    import torch

    from train.config import Config
    from train.model import MCR
    from train.settings import parse

    torch.manual_seed(0)
    return MCR(parse(Config, {"model": sizes})).eval()


def _rows(
    subject: Subject, options: Options, gauge: Gauge
) -> tuple[list[tuple[Cell, ...]], Missing, dict[str, Figure]]:
    """Measure one tower in all ways and shapes: rows of the table, what did not run and why, and figures."""
    rounds = 3 if options.quick else 5
    cores = len(os.sched_getaffinity(0))
    opened = list(ways(subject.bundle, subject.model, subject.side, threads=cores, compiled=not options.quick))
    missing = {(way.backend, way.precision): way.why_not for way in opened if way.call is None}
    running = {way.name: way for way in opened if way.call is not None}
    first: dict[str, float] = {}
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Figure] = {}
    for shape in subject.shapes:
        if shape is not subject.shapes[0]:
            running = {name: way for name, way in running.items() if not way.middle_only}
        inputs = subject.inputs(shape)
        cosines = _compared(running, inputs, first)
        for name, cosine in cosines.items():
            if running[name].precision == FULL and cosine < _PARITY:
                way = running.pop(name)
                missing[way.backend, way.precision] = f"not the same network as in PyTorch: cosine {cosine:.5f}"
        repeats = {name: _repeats(way.run, inputs) for name, way in running.items()}
        count = shape.batch * shape.tokens
        bare = products(subject.architecture, count, "float32", threads=cores)
        assert not isinstance(bare, str), bare  # PyTorch multiplies float32 everywhere
        limits: list[float] = []

        def between(bare: Callable[[], None] = bare, count: int = count, limits: list[float] = limits) -> None:
            limits.append(rate(bare, subject.architecture, count, seconds=0.1))
            gauge.tick()

        timed = in_turn(
            {name: _again(way.run, inputs, repeats[name]) for name, way in running.items()},
            rounds=rounds, between=between,
            clocks={name: way.clock for name, way in running.items() if way.clock is not None},
        )  # fmt: skip
        work = subject.architecture.operations(shape.tokens, shape.batch) / 1e9
        for name, way in running.items():
            seconds = [one / repeats[name] for one in timed[name].wall]
            busy = [one / repeats[name] for one in timed[name].processor]
            items = measure([shape.batch / one for one in seconds], seed=options.seed)
            shares = [100 * work / one / bound for one, bound in zip(seconds, limits, strict=True)]
            # Work of a GPU is not the processor's, nor is its limit.
            rows.append((
                subject.name, way.backend, way.precision, shape.batch, shape.tokens, items,
                None if way.on_gpu else measure([shape.batch / one for one in busy], seed=options.seed),
                measure([1e3 * one for one in seconds], seed=options.seed),
                None if way.on_gpu else measure(shares, seed=options.seed),
                f"{cosines[name]:.5f}", _cost(subject, way), way.opened + first[name],
            ))  # fmt: skip
            key = f"matrix.{subject.name}.{way.backend}.{way.precision}.{shape.batch}x{shape.tokens}"
            figures[key.replace(" ", "_").replace(",", "")] = Figure(measure=items, unit="1/s", better="higher")
    return rows, missing, figures


def _compared(running: Mapping[str, Way], inputs: Inputs, first: dict[str, float]) -> dict[str, float]:
    """Return the least cosine of each way to PyTorch in fp32; note in `first` the seconds of a way's first call."""
    vectors = {}
    for name, way in running.items():
        started = time.perf_counter()
        vectors[name] = way.run(inputs)
        first.setdefault(name, time.perf_counter() - started)
    return {name: float((one * vectors[_BASE]).sum(axis=1).min()) for name, one in vectors.items()}


def _cost(subject: Subject, way: Way) -> str:
    """Say what the precision costs in retrieval; only that of the graphs which export wrote was measured."""
    if not subject.costs:
        return "random weights"
    if way.precision == FULL:
        return "none"
    if way.backend.startswith("torch"):
        return "not measured"
    return subject.costs.get(way.precision, "not measured")


def _repeats(call: Callable[[Inputs], object], inputs: Inputs) -> int:
    call(inputs)
    started = time.perf_counter()
    call(inputs)
    return max(1, min(1000, int(_TARGET_SECONDS / (time.perf_counter() - started))))


def _again(call: Callable[[Inputs], object], inputs: Inputs, count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            call(inputs)

    return run


def run(options: Options) -> Part:
    """Measure every tower in every way."""
    started = time.perf_counter()
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Figure] = {}
    reasons: dict[tuple[str, str, str], list[str]] = {}
    with Gauge() as gauge:
        for subject in subjects(options):
            more, missing, told = _rows(subject, options, gauge)
            rows += more
            figures |= told
            for (backend, precision), reason in missing.items():
                reasons.setdefault((backend, precision, reason), []).append(subject.name)
    every = len({row[0] for row in rows})
    absent = tuple(
        (*which, "all" if len(towers) == every else "; ".join(towers)) for which, towers in sorted(reasons.items())
    )
    return Part(
        name="matrix",
        title="One tower, many ways to run it",
        question="How fast does the same network run in each backend, precision, batch, length and patch budget?",
        command="python -m benchmarks.matrix",
        tables=(
            Table(title="Towers of random weights, all cores", columns=COLUMNS, rows=tuple(rows)),
            Table(
                title="What did not run here",
                columns=(Column(name="backend"), Column(name="precision"), Column(name="why"), Column(name="towers")),
                rows=absent,
            ),
        ),
        plots=_plots(rows),
        figures=figures,
        notes=(
            "int8 of ONNX Runtime takes one item a call whatever it is given, so that a row does not depend on its batch.",
            "Half of the patches is the patch budget of 50 %; what that costs in retrieval stands in the part on it.",
            "R@10 lost is what the manifest of the bundle that ships says of its own precisions, among 1,000 phantoms; the "
            "towers that are timed have its sizes and random weights, so that PyTorch can run them.",
        ),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def _plots(rows: list[tuple[Cell, ...]]) -> tuple[Plot, ...]:
    """Draw the middle of the matrix: one item, all patches."""
    towers = list(dict.fromkeys(str(row[0]) for row in rows))
    middle = {tower: next(row[4] for row in rows if row[0] == tower) for tower in towers}
    bars: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for tower, backend, precision, batch, tokens, items, *_ in rows:
        if batch == 1 and tokens == middle[str(tower)] and isinstance(items, Measure):
            place = float(towers.index(str(tower)))
            bars.setdefault(f"{backend}, {precision}", []).append((place, items.value, items.low, items.high))
    return (
        Plot(
            title="One item a call, all patches or 16 words",
            kind="bar",
            x=Column(name="tower"),
            y=Column(name="items", unit="1/s", better="higher"),
            series=tuple(Series(name=name, points=tuple(points)) for name, points in bars.items()),
            x_names=tuple(towers),
            log_y=True,
        ),
    )


if __name__ == "__main__":
    run_alone(run)
