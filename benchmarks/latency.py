"""How long does an answer take in a process that serves? Alone, in bulk, and under requests that arrive at random.

    python -m benchmarks.latency [--quick] [--work DIR]

The scenarios of MLPerf Inference (Reddi et al., arXiv 1911.02549), named as there:

    single stream   one request after the other, a hundred at least: median, 90th and 99th percentile of all of them
    offline         everything is there at once: items a second, in the batches that suit the tower
    server          Poisson arrivals at rising rates: the highest at which 99 % of the answers come within a limit
                    (`benchmarks/arrivals.py`)

Asked are a whole text query (sentence, text tower, 10,000 rows, ten hits with their rows), the text tower alone and the
image tower alone, of the bundle that ships and, unless --quick, of a ViT-B/16 and a BERT-base of random weights. Opening
towers is not counted and stands apart. The last line of stdout is one JSON document.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.arrivals import TRIAL_REQUESTS, highest_held, rising_rates
from benchmarks.harness import Gauge, for_seconds, measure, quantile
from benchmarks.large import make_bundle, make_index, make_vit
from benchmarks.part import Column, Figure, Measure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from benchmarks.towers import items
from mcr_infer.index import Index, search
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder

SENTENCES = (
    "left pleural effusion", "no pneumothorax", "cardiomegaly with pulmonary edema", "right lower lobe consolidation",
    "endotracheal tube above the carina", "small nodule in the left upper lobe", "normal chest", "dual chamber pacemaker",
)  # fmt: skip
LIMITS_MS = (100.0, 1000.0)
"""Within which 99 % of the answers have to come: of small towers, and of large ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Something that answers requests."""

    name: str
    key: str
    answer: Callable[[int], object]
    """Answers request number n."""

    bulk: Callable[[], int]
    """Answers many at once, and says how many."""

    opened: float
    """Seconds until it could answer."""

    limit_ms: float
    served: str = ""
    """Why it is not taken through the server scenario; empty where it is."""

    headline: str = ""
    """Said of its median on top of a report."""


def services(bundle: Bundle, index: Path, name: str, limit_ms: float, open_files: ExitStack) -> list[Service]:
    """Open what answers with one bundle: a text query, its text tower, its image tower."""
    cores = len(os.sched_getaffinity(0))
    began = time.perf_counter()
    texts = TextEncoder(bundle, device="cpu", purpose="bulk", threads=1)
    texts.encode(SENTENCES[:1])
    text_opened = time.perf_counter() - began
    began = time.perf_counter()
    images = ImageEncoder(bundle, device="cpu", purpose="bulk", threads=cores)
    pictures = items(bundle, 1.0, 8)
    images.encode(pictures[:1])
    image_opened = time.perf_counter() - began
    began = time.perf_counter()
    store = open_files.enter_context(Index.open(index))
    search(store, texts.encode(SENTENCES[:1]))
    index_opened = time.perf_counter() - began

    def ask(sentences: Sequence[str]) -> int:
        return len(search(store, texts.encode(sentences), k=10))

    def embed() -> int:
        return len(images.encode(pictures))

    def one(number: int) -> object:
        return texts.encode([SENTENCES[number % len(SENTENCES)]])

    many = SENTENCES * 8
    return [
        Service(
            name=f"text query, {name}", key=f"query.{name}", limit_ms=limit_ms, opened=text_opened + index_opened,
            answer=lambda number: ask([SENTENCES[number % len(SENTENCES)]]), bulk=lambda: ask(many),
            headline=f"until a sentence is answered among 10,000 rows, in a process that serves ({name})",
        ),
        Service(
            name=f"text tower, {name}", key=f"text.{name}", limit_ms=limit_ms, opened=text_opened, answer=one,
            bulk=lambda: len(texts.encode(many)),
        ),
        Service(
            name=f"image tower, {name}", key=f"image.{name}", limit_ms=limit_ms, opened=image_opened,
            answer=lambda number: images.encode([pictures[number % len(pictures)]]), bulk=embed,
        ),
    ]  # fmt: skip


def run(options: Options) -> Part:
    """Measure every service in every scenario."""
    started = time.perf_counter()
    shipped = Bundle.open(options.bundle)
    make_index(options.work / f"index-{shipped.name}", shipped)
    seconds, rounds = (1.0, 3) if options.quick else (5.0, 5)
    rows, curves, figures = [], [], {}
    with Gauge() as gauge, ExitStack() as open_files:
        opened = services(shipped, options.work / f"index-{shipped.name}", shipped.name, LIMITS_MS[0], open_files)
        if not options.quick:
            opened += _large(options.work, open_files)
        for service in opened:
            row, curve, told = _measured(service, seconds=seconds, rounds=rounds, seed=options.seed)
            rows.append(row)
            curves += [curve] if curve.points else []
            figures |= told
            gauge.tick()
    return Part(
        name="latency",
        title="Answers of a process that serves",
        question="How long does an answer take: alone, in bulk, and under requests that arrive at random?",
        command="python -m benchmarks.latency",
        tables=(_table(rows),),
        plots=(
            Plot(
                title="99th percentile of the answers at rising rates of arrival",
                kind="line",
                x=Column(name="requests", unit="1/s"),
                y=Column(name="99th percentile", unit="ms", better="lower"),
                series=tuple(curves),
                log_x=True,
                log_y=True,
                note="A trial ends as soon as it has broken its limit.",
            ),
        ),
        figures=figures,
        notes=(
            f"Limits of the server scenario: {LIMITS_MS[0]:.0f} ms with the bundle that ships, {LIMITS_MS[1]:.0f} ms with "
            "large towers. One process answers one request after the other; text uses one core, pictures use all.",
            "The highest rate is known to the step between the rates tried, about 6 %; near capacity, where a queue takes "
            "longer than a trial to settle, it can lie up to a tenth too high.",
        ),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def _large(work: Path, open_files: ExitStack) -> list[Service]:
    bert, vit = make_bundle(work / "bert"), make_vit(work / "vitb16")
    make_index(work / "index-bert", bert)
    make_index(work / "index-vitb16", vit)
    of_bert = services(bert, work / "index-bert", "BERT-base", LIMITS_MS[1], open_files)
    of_vit = services(vit, work / "index-vitb16", "ViT-B/16", LIMITS_MS[1], open_files)
    same = "as the text query, of which it is nearly all"
    return [of_bert[0], replace(of_bert[1], served=same), of_vit[2]]


def _measured(
    service: Service, *, seconds: float, rounds: int, seed: int
) -> tuple[tuple[object, ...], Series, dict[str, Figure]]:
    """Take one service through the three scenarios: a row, a curve and its figures."""
    numbers = iter(range(10**9))
    answers: list[float] = []
    for _ in range(rounds):
        least = -(-TRIAL_REQUESTS // rounds)
        answers += for_seconds(lambda: service.answer(next(numbers)), seconds / rounds, at_least=least)
    times = [1e3 * one for one in answers]
    percentiles = {
        name: quantile(times, share, seed=seed) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }
    rates = []
    for _ in range(rounds):
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds / rounds:
            count += service.bulk()
        rates.append(count / (time.perf_counter() - begun))
    offline = measure(rates, seed=seed)
    tried = []
    if not service.served:
        capacity = 1e3 / percentiles["p50"].value
        tried = rising_rates(
            service.answer, start=0.6 * capacity, limit=service.limit_ms / 1e3, seconds=1.5 * seconds, seed=seed
        )
    server = highest_held(tried)
    best: Measure | str = service.served or "no rate held the limit"
    if server is not None:
        best = Measure(value=server)
    row = (service.name, *percentiles.values(), len(times), offline, best, service.limit_ms, service.opened)
    curve = Series(name=service.name, points=tuple((one.rate, 1e3 * one.p99, None, None) for one in tried))
    key = f"latency.{service.key}"
    figures = {f"{key}.offline": Figure(measure=offline, unit="1/s", better="higher")}
    for name, one in percentiles.items():
        headline = service.headline if name == "p50" else ""
        figures[f"{key}.{name}"] = Figure(measure=one, unit="ms", better="lower", headline=headline)
    if server is not None:
        figures[f"{key}.server"] = Figure(measure=Measure(value=server), unit="1/s", better="higher")
    return row, curve, figures


def _table(rows: Sequence[tuple[object, ...]]) -> Table:
    return Table(
        title="Three scenarios",
        columns=(
            Column(name="service"),
            *(Column(name=f"alone, {name}", unit="ms", better="lower") for name in ("p50", "p90", "p99")),
            Column(name="answers"),
            Column(name="offline", unit="1/s", better="higher"),
            Column(name="server", unit="1/s", better="higher"),
            Column(name="limit of the server's p99", unit="ms"),
            Column(name="until it answers", unit="s", better="lower"),
        ),
        rows=tuple(rows),  # type: ignore[arg-type]
    )


if __name__ == "__main__":
    run_alone(run)
