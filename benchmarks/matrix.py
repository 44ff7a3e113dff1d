"""One tower, many ways to run it: backend, precision, batch, length, patch budget; each beside what the machine could do.

    python -m benchmarks.matrix [--quick] [--work DIR]

The same network with the same random weights runs in PyTorch (as it is, compiled, in bfloat16), in ONNX Runtime (fp32, int8)
and, where there is a GPU, on CUDA and in TensorRT; outputs are compared with those of PyTorch in fp32 before anything is
timed. Not every combination is run: from the middle of the matrix (all patches, one item, 16 words) one thing is changed at
a time. What cannot run here stands in the table with the reason.

`share of the limit` is the rate of operations over that of the bare products (`python -m benchmarks.roofline`) of as many
rows in float32: int8 can lie above it. Rounds are interleaved, figures are medians. Making models, exporting, compiling and
opening are not counted. What a precision costs in retrieval stands in `python -m benchmarks.retrieval`; random weights have
only a cosine. The last line of stdout is one JSON document.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import large
from benchmarks.harness import Gauge, in_turn, measure
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from benchmarks.roofline import Architecture, limit
from mcr_infer.backends import Side, open_tower
from mcr_infer.bundle import Bundle
from mcr_infer.errors import McrError

RUNTIMES = (
    ("ONNX Runtime CPU", "cpu"),
    ("ONNX Runtime CUDA", "cuda"),
    ("TensorRT", "tensorrt"),
)
_TARGET_SECONDS = 0.15
"""A timed call repeats the tower until it takes about as long."""

Inputs = Mapping[str, NDArray[Any]]


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
    shipped = Bundle.open(options.bundle).manifest["training"]["model"]
    small, model = _made(options.work / "shipped-sized", shipped, words=int(shipped["text"]["vocab_size"]), int8=True)
    yield _subject("bundle that ships, image", "image", small, model, shipped, (100, 50))
    yield _subject("bundle that ships, text", "text", small, model, shipped, (16, 64))
    if not options.quick:
        vit = large.make_vit(options.work / "vitb16")
        yield _subject("ViT-B/16, image", "image", vit, _model(large.VIT), large.VIT, (196, 98))
        bert = large.make_bundle(options.work / "bert")
        _add_int8(bert)
        bert = Bundle.open(bert.path)
        yield _subject("BERT-base, text", "text", bert, _model(large.MODEL), large.MODEL, (16, 64))


def _subject(
    name: str, side: Side, bundle: Bundle, model: Any, sizes: Mapping[str, Any], tokens: tuple[int, int]
) -> Subject:
    full, other = tokens
    shapes = (Shape(batch=1, tokens=full), Shape(batch=8, tokens=full), Shape(batch=1, tokens=other))
    return Subject(
        name=name, side=side, bundle=bundle, model=model, shapes=shapes, architecture=Architecture.of(name, sizes[side])
    )


def _made(out: Path, sizes: Mapping[str, Any], *, words: int, int8: bool) -> tuple[Bundle, Any]:
    bundle = large.exported(out, sizes, name=out.name, words=words)
    if int8:
        _add_int8(bundle)
    return Bundle.open(bundle.path), _model(sizes)


def _add_int8(bundle: Bundle) -> None:
    """Add int8; what it costs a model that retrieves by chance is measured on few phantoms and says nothing."""
    from export.quantize import add_precision

    if "int8" not in bundle.precisions:
        add_precision(bundle.path, "int8", phantoms=20, accept_loss=True)


def _model(sizes: Mapping[str, Any]) -> Any:
    """Make the network whose weights `large.exported` wrote: the same seed draws the same."""
    import torch

    from train.config import Config
    from train.model import MCR
    from train.settings import parse

    torch.manual_seed(0)
    return MCR(parse(Config, {"model": sizes})).eval()


Way = tuple[str, str]
"""Backend and precision."""


def ways(subject: Subject, *, compiled: bool) -> dict[Way, Callable[[Inputs], NDArray[np.float32]] | str]:
    """Return every way to run a tower, opened, or why there is none here."""
    found: dict[Way, Callable[[Inputs], NDArray[np.float32]] | str] = {}
    found["torch eager", "fp32"] = _torch(subject, compiled=False, half=False)
    found["torch eager", "bf16"] = _torch(subject, compiled=False, half=True)
    found["torch.compile", "fp32"] = (
        _torch(subject, compiled=True, half=False)
        if compiled
        else "left out of the quick run: compiling takes a minute"
    )
    cores = len(os.sched_getaffinity(0))
    for name, device in RUNTIMES:
        for precision in ("fp32", "int8") if device == "cpu" else ("fp32", "fp16"):
            try:
                tower = open_tower(
                    subject.bundle, subject.side, device=device, precision=precision, threads=cores, purpose="bulk"
                )
            except McrError as error:
                found[name, precision] = str(error).split(":")[0][:90]
                continue
            found[name, precision] = lambda inputs, tower=tower: tower.run(inputs, ("embedding",))["embedding"]
    found["ONNX Runtime CPU", "bf16"] = "no kernels for bfloat16 on x86 (see the part on sessions)"
    return found


def _torch(subject: Subject, *, compiled: bool, half: bool) -> Callable[[Inputs], NDArray[np.float32]]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    encode = subject.model.encode_image if subject.side == "image" else subject.model.encode_text
    called = torch.compile(encode) if compiled else encode

    def run(inputs: Inputs) -> NDArray[np.float32]:
        given = [torch.from_numpy(array) for array in inputs.values()]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            embedding: NDArray[np.float32] = called(*given)[0].float().numpy()
        return embedding

    return run


def _rows(subject: Subject, options: Options, gauge: Gauge) -> tuple[list[tuple[Cell, ...]], dict[str, Figure]]:
    """Measure one tower in all ways and shapes: rows of the table, and figures."""
    rounds = 3 if options.quick else 5
    opened = ways(subject, compiled=not options.quick)
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Figure] = {}
    for shape in subject.shapes:
        inputs = subject.inputs(shape)
        running = {way: call for way, call in opened.items() if not isinstance(call, str)}
        reference = running["torch eager", "fp32"](inputs)
        cosines = {way: float((call(inputs) * reference).sum(axis=1).min()) for way, call in running.items()}
        repeats = {way: _repeats(call, inputs) for way, call in running.items()}
        timed = in_turn(
            {f"{backend}|{precision}": _again(call, inputs, repeats[backend, precision])
             for (backend, precision), call in running.items()},
            rounds=rounds, between=gauge.tick,
        )  # fmt: skip
        bare = limit(subject.architecture, shape.batch * shape.tokens, "float32", seconds=0.1)
        work = subject.architecture.operations(shape.tokens, shape.batch)
        for (backend, precision), call in opened.items():
            cells: tuple[Cell, ...]
            if isinstance(call, str):
                if shape is not subject.shapes[0]:
                    continue
                cells = (call, None, None, None)
            else:
                count = repeats[backend, precision]
                seconds = [wall / count for wall in timed[f"{backend}|{precision}"].wall]
                rate = measure([shape.batch / one for one in seconds], seed=options.seed)
                share = None
                if isinstance(bare, Measure):
                    share = round(100 * work / np.median(seconds) / 1e9 / bare.value, 1)
                cells = (rate, measure([1e3 * one for one in seconds]), share, f"{cosines[backend, precision]:.5f}")
                key = f"matrix.{subject.name}.{backend}.{precision}.{shape.batch}x{shape.tokens}"
                figures[key.replace(" ", "_").replace(",", "")] = Figure(measure=rate, unit="1/s", better="higher")
            rows.append((subject.name, backend, precision, shape.batch, shape.tokens, *cells))
    return rows, figures


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
    with Gauge() as gauge:
        for subject in subjects(options):
            more, told = _rows(subject, options, gauge)
            rows += more
            figures |= told
    columns = (
        Column(name="tower"),
        Column(name="backend"),
        Column(name="precision"),
        Column(name="batch"),
        Column(name="patches or words"),
        Column(name="items", unit="1/s", better="higher"),
        Column(name="a call", unit="ms", better="lower"),
        Column(name="share of the limit", unit="%", better="higher"),
        Column(name="least cosine to torch in fp32", better="higher"),
    )
    return Part(
        name="matrix",
        title="One tower, many ways to run it",
        question="How fast does the same network run in each backend, precision, batch, length and patch budget?",
        command="python -m benchmarks.matrix",
        tables=(Table(title="Towers of random weights, all cores", columns=columns, rows=tuple(rows)),),
        plots=_plots(rows),
        figures=figures,
        notes=(
            "int8 of ONNX Runtime takes one item a call whatever it is given, so that a row does not depend on its batch.",
            "Half of the patches is the patch budget of 50 %.",
        ),
        flags=gauge.flags(),
        seconds=time.perf_counter() - started,
    )


def _plots(rows: list[tuple[Cell, ...]]) -> tuple[Plot, ...]:
    """Draw the middle of the matrix: one item, all patches."""
    towers = list(dict.fromkeys(str(row[0]) for row in rows))
    middle = {tower: next(row[4] for row in rows if row[0] == tower) for tower in towers}
    bars: dict[str, list[tuple[float, float, float | None, float | None]]] = {}
    for tower, backend, precision, batch, tokens, rate, *_ in rows:
        if batch == 1 and tokens == middle[str(tower)] and isinstance(rate, Measure):
            place = float(towers.index(str(tower)))
            bars.setdefault(f"{backend}, {precision}", []).append((place, rate.value, rate.low, rate.high))
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
