"""What could this machine do at best? The products of matrices that a tower consists of, alone, at their own shapes.

    python -m benchmarks.roofline [--quick]

A block of a transformer of width W over T tokens is four products, [T, W] x [W, 3W], [T, W] x [W, W], [T, W] x [W, M] and
[T, M] x [M, W], and its attention, [T, T] x [T, W] twice. A multiplication and an addition are two operations:

    operations = depth * (8 T W^2 + 4 T W M + 4 T^2 W) + 2 T P W       P = values of a patch, 0 for words

The limit is the rate of the four products one after the other, in PyTorch on all cores, and by the number of threads; a
tower that ran at it would lose nothing to norms, softmax, GELU, memory and calls. Where a runtime does better than this
limit, its products are better than PyTorch's. The last line of stdout is one JSON document.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness import Gauge, measure, ratio
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """The sizes of a tower that its operations follow from."""

    name: str
    width: int
    depth: int
    mlp: int
    patch: int = 0
    """Values of a patch, P*P; 0 for words."""

    @classmethod
    def of(cls, name: str, values: Mapping[str, int]) -> "Architecture":
        """Read the sizes of a tower of ours from its configuration: an MLP four times as wide, as in ViT and BERT."""
        width, patch = int(values["width"]), int(values.get("patch_size", 0))
        return cls(name=name, width=width, depth=int(values["depth"]), mlp=4 * width, patch=patch * patch)

    def operations(self, tokens: int, batch: int = 1) -> float:
        """Return the operations of a batch of items of `tokens` patches or words."""
        block = 8 * tokens * self.width**2 + 4 * tokens * self.width * self.mlp + 4 * tokens**2 * self.width
        return float(batch * (self.depth * block + 2 * tokens * self.patch * self.width))

    def products(self, rows: int) -> tuple[tuple[int, int, int], ...]:
        """Return the four products of a block over some rows: [m, k] x [k, n] as (m, k, n)."""
        w, m = self.width, self.mlp
        return (rows, w, 3 * w), (rows, w, w), (rows, w, m), (rows, m, w)


KNOWN = (
    (Architecture(name="bundle that ships, image", width=192, depth=4, mlp=768, patch=256), 100),
    (Architecture(name="ViT-B/16, image", width=768, depth=12, mlp=3072, patch=256), 196),
    (Architecture(name="BERT-base, text", width=768, depth=12, mlp=3072), 16),
    (Architecture(name="BERT-base, text", width=768, depth=12, mlp=3072), 64),
)
"""Towers that are measured here, with their tokens."""

FORMATS = ("float32", "bfloat16", "int8")


def products(architecture: Architecture, rows: int, form: str, *, threads: int) -> Callable[[], None] | str:
    """Return a call of a block's four products over some rows in PyTorch, warmed up, or why there is none."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)

    def matrix(height: int, width: int) -> torch.Tensor:
        drawn = torch.randn(height, width, generator=generator)
        if form == "int8":
            return (drawn * 30).to(torch.int8)
        return drawn.to(getattr(torch, form))

    pairs = [(matrix(m, k), matrix(k, n)) for m, k, n in architecture.products(rows)]
    multiply = torch._int_mm if form == "int8" else torch.mm

    def call() -> None:
        for a, b in pairs:
            multiply(a, b)

    try:
        call()
    except RuntimeError as error:
        return f"PyTorch cannot: {str(error).splitlines()[0][:80]}"
    return call


def rate(call: Callable[[], None], architecture: Architecture, rows: int, *, seconds: float) -> float:
    """Make a call of `products` again and again; return 10⁹ operations a second."""
    operations = sum(2.0 * m * k * n for m, k, n in architecture.products(rows))
    count, started = 0, time.perf_counter()
    while not count or time.perf_counter() - started < seconds:
        call()
        count += 1
    return count * operations / (time.perf_counter() - started) / 1e9


def limit(
    architecture: Architecture, rows: int, form: str, *, seconds: float, rounds: int = 3, threads: int | None = None
) -> Measure | str:
    """Return the rate of a block's four products, in 10⁹ operations a second, or why there is none; None = all cores."""
    call = products(architecture, rows, form, threads=threads or len(os.sched_getaffinity(0)))
    if isinstance(call, str):
        return call
    return measure([rate(call, architecture, rows, seconds=seconds) for _ in range(rounds)])


def threads_to_try(cores: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of cores itself."""
    return sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {cores})


def _by_threads(
    *, seconds: float, rounds: int, tick: Callable[[], None]
) -> tuple[list[tuple[Cell, ...]], dict[str, Figure]]:
    """Measure the products of each tower in float32 at a batch of 8 with 1, 2, 4, ... threads: rows, and figures."""
    rows: list[tuple[Cell, ...]] = []
    figures: dict[str, Figure] = {}
    tries = threads_to_try(len(os.sched_getaffinity(0)))
    for tower, tokens in KNOWN:
        calls = {threads: products(tower, 8 * tokens, "float32", threads=threads) for threads in tries}
        rates: dict[int, list[float]] = {threads: [] for threads in tries}
        for _ in range(rounds):
            for threads, call in calls.items():
                assert not isinstance(call, str), call  # PyTorch multiplies float32 everywhere
                _use_threads(threads)
                rates[threads].append(rate(call, tower, 8 * tokens, seconds=seconds))
        for threads, found in rates.items():
            over = ratio(found, rates[1])
            rows.append((tower.name, tokens, threads, measure(found), over))
            key = f"roofline.{tower.name}.{tokens}.threads_{threads}".replace(" ", "_").replace(",", "")
            figures[key] = Figure(measure=measure(found), unit="GFLOP/s", better="higher")
        tick()
    return rows, figures


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def run(options: Options) -> Part:
    """Measure the limit of each known tower at batches of 1 and 8."""
    started = time.perf_counter()
    seconds, rounds = (0.07, 3) if options.quick else (0.3, 5)
    rows, series = [], {}
    figures: dict[str, Figure] = {}
    names = [f"{tower.name}, {tokens} tokens" for tower, tokens in KNOWN]
    with Gauge() as gauge:
        for place, (tower, tokens) in enumerate(KNOWN):
            for batch in (1, 8):
                found = {form: limit(tower, batch * tokens, form, seconds=seconds, rounds=rounds) for form in FORMATS}
                rows.append((tower.name, tokens, batch, *found.values()))
                gauge.tick()
                best = found["float32"]
                if isinstance(best, Measure):
                    series.setdefault(f"batch of {batch}", []).append((place, best.value, best.low, best.high))
                    key = f"roofline.{tower.name}.{tokens}.{batch}".replace(" ", "_").replace(",", "")
                    figures[key] = Figure(measure=best, unit="GFLOP/s", better="higher")
        by_threads, told = _by_threads(seconds=seconds, rounds=rounds, tick=gauge.tick)
    figures |= told
    unit = "10⁹ operations/s"
    return Part(
        name="roofline",
        title="What the machine could do",
        question="How fast are the products of matrices that the towers consist of, alone and at their own shapes?",
        command="python -m benchmarks.roofline",
        tables=(
            Table(
                title="Products of one block, all cores, PyTorch",
                columns=(
                    Column(name="tower"),
                    Column(name="tokens"),
                    Column(name="batch"),
                    *(Column(name=form, unit=unit, better="higher") for form in FORMATS),
                ),
                rows=tuple(rows),
                note="Medians over the rounds. Other parts give their rates as shares of the float32 column.",
            ),
            Table(
                title="The same in float32 at a batch of 8, by threads",
                columns=(
                    Column(name="tower"),
                    Column(name="tokens"),
                    Column(name="threads"),
                    Column(name="float32", unit=unit, better="higher"),
                    Column(name="over one thread", unit="×", better="higher"),
                ),
                rows=tuple(by_threads),
            ),
        ),
        plots=(
            Plot(
                title="Products of one block in float32",
                kind="bar",
                x=Column(name="tower"),
                y=Column(name="rate", unit=unit, better="higher"),
                series=tuple(Series(name=name, points=tuple(points)) for name, points in series.items()),
                x_names=tuple(names),
            ),
        ),
        figures=figures,
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


if __name__ == "__main__":
    run_alone(run)
