"""What is lost of a report that is too long? Recall of each strategy under lower limits, and how many reports are too long.

    python -m benchmarks.long_texts [--quick] [--bundle BUNDLE]

Phantom reports fit the limit of the bundle that ships, so the same reports are embedded with the limit lowered: what is
compared is the strategy alone. Phantoms from seed 100,000 on, which no training saw; an answer is right where the finding
sets are the same. Real reports are those of Open-I, counted with the tokenizer of the bundle, where a package that carries
them (torchxrayvision) is installed. The last line of stdout is one JSON document.
"""

import importlib.metadata
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.harness import Gauge
from benchmarks.part import Cell, Column, Figure, Measure, Options, Part, Table
from benchmarks.part_command import run_alone
from benchmarks.retrieval import percent
from export.retrieval import FIRST_SEED, embed_images, held_out
from mcr_infer import Bundle, TextEncoder, phantom
from mcr_infer.errors import ReportError
from mcr_infer.evaluation.protocols import evaluate_pairs
from mcr_infer.inference.long_text import DEFAULT, STRATEGIES
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.reports import SelectedText, select_text
from train.config import Radiographs
from train.data.open_i import open_open_i

LIMITS = (24, 32, 48)
KS = (1, 10)


def run(options: Options) -> Part:
    """Embed held-out reports by every strategy under every limit, and measure what is found."""
    started = time.perf_counter()
    bundle = Bundle.open(options.bundle)
    count = 300 if options.quick else 1000
    with Gauge() as gauge:
        items = held_out(bundle, count)
        images = embed_images(open_tower(bundle, "image", device="cpu"), items)
        reports = [select_text(phantom.make(seed, 32).report.text) for seed in range(FIRST_SEED, FIRST_SEED + count)]
        rows: list[tuple[Cell, ...]] = []
        figures: dict[str, Figure] = {}
        for limit in (bundle.max_tokens, *LIMITS):
            for strategy in STRATEGIES if limit != bundle.max_tokens else (DEFAULT,):
                encoder = TextEncoder(replace(bundle, max_tokens=limit), device="cpu", long_text=strategy)
                fitted = encoder.fit(reports)
                beyond = float(np.mean([one.strategy is not None for one in fitted]))
                found = evaluate_pairs(images, encoder.encode_fitted(fitted), items.pairs, ks=KS).protocol(
                    "finding sets"
                )
                cells: list[Cell] = []
                for way, direction in (
                    ("image_to_report", found.image_to_report),
                    ("report_to_image", found.report_to_image),
                ):
                    for k in KS:
                        share = percent(direction, k)
                        cells.append(share)
                        figures[f"long_texts.{bundle.name}.of_{count}.{limit}.{strategy}.{way}.r{k}"] = Figure(
                            measure=share, unit="%", better="higher"
                        )
                name = strategy if beyond else "all fit"
                rows.append((limit, f"{beyond:.0%}", name, *cells))
            gauge.tick()
    recall = [
        Column(name=f"R@{k} {way}", unit="%", better="higher")
        for way in ("image → report", "report → image")
        for k in KS
    ]
    tables = [
        Table(
            title=f"{count} held-out phantoms from seed {FIRST_SEED:,}, finding sets",
            columns=(Column(name="limit", unit="tokens"), Column(name="beyond it"), Column(name="strategy"), *recall),
            rows=tuple(rows),
            note="Means over finding sets, each of which counts the same; 95 % intervals of the bootstrap by patient.",
        )
    ]
    real = list(_open_i())
    if real:
        lengths = bundle.tokenizer().lengths([one.text for one in real])
        beyond = float((lengths > bundle.max_tokens).mean())
        figures[f"long_texts.{bundle.name}.open_i.beyond"] = Figure(
            measure=Measure(value=round(100 * beyond, 1)), unit="%"
        )
        tables.append(
            Table(
                title="Reports of Open-I",
                columns=(
                    Column(name="reports"), Column(name="limit", unit="tokens"), Column(name="beyond it"),
                    *(Column(name=f"{share} % have at most", unit="tokens") for share in (50, 90, 99, 100)),
                ),
                rows=((len(real), bundle.max_tokens, f"{beyond:.1%}",
                       *(int(np.percentile(lengths, share, method="higher")) for share in (50, 90, 99, 100))),),
            )
        )  # fmt: skip
    return Part(
        name="long_texts",
        title="Long texts",
        question="What is lost of a report that has more tokens than the text tower takes?",
        command="python -m benchmarks.long_texts",
        tables=tuple(tables),
        figures=figures,
        notes=((bundle.notice,) if bundle.notice else ())
        + (() if real else ("Reports of Open-I were not counted: pip install --no-deps torchxrayvision",)),
        flags=gauge.flags(),
        pace_ms=gauge.pace_ms,
        seconds=time.perf_counter() - started,
    )


def _open_i() -> Iterator[SelectedText]:
    """Yield the text of each report of Open-I that has one; nothing where no package carries them."""
    try:
        files = importlib.metadata.files("torchxrayvision") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for path in (Path(str(file.locate())) for file in files if file.name == "NLMCXR_reports.tgz"):
        records = open_open_i(Radiographs(images=str(path.parent), reports=str(path), views=())).records()
        for report in {record.study: record.report for record in records}.values():
            try:
                yield select_text(report)
            except ReportError:
                continue


if __name__ == "__main__":
    run_alone(run)
