"""Readers of documents about archives: files to rows, decoding, endurance, faults, phantoms."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.earlier_values import Document, bars, figure, span
from benchmarks.part import Cell, Column, Figure, Part, Plot, Series, Table


def throughput(values: Document, taken: str) -> Part:
    """Read `results/throughput.json`."""
    bound, plain = values["bound"], values["plain"]
    figures = {
        f"throughput.{b['bundle']}.{b['syntax']}": figure(b["images_per_second"], "images/s", "higher") for b in bound
    }
    for one in plain:
        key = f"throughput.over_plain.{one['syntax']}.{one['precision']}.budget_{one['budget']:g}"
        figures[f"throughput.plain.{one['syntax']}"] = figure(one["plain_images_per_second"], "images/s", "")
        headline = ""
        if (one["syntax"], one["precision"], one["budget"]) == ("jpeg-2000", "fp32", 1.0):
            headline = "as fast as pydicom and timm in PyTorch over JPEG 2000 files, ViT-B/16, fp32"
        figures[key] = Figure(measure=span(one["ratio"], one["ratios"]), unit="×", better="higher", headline=headline)
    shares = [b["share_of_bound"] for b in bound]
    figures["throughput.share_of_bound.min"] = figure(min(shares), "", "higher")
    figures["throughput.share_of_bound.max"] = figure(max(shares), "", "higher")
    figures["throughput.share_of_bound.worst_round"] = figure(min(min(b["shares"]) for b in bound), "", "higher")
    names = tuple(f"{b['bundle']}, {b['syntax']}" for b in bound)
    return Part(
        name="throughput",
        title="Archives: throughput",
        question="How fast does a folder of DICOM files become rows, beside what the machine could do and a plain script?",
        command="python -m benchmarks.throughput --work DIR",
        taken=taken,
        tables=(
            Table(
                title="Files to committed rows",
                columns=(
                    Column(name="bundle"),
                    Column(name="files"),
                    Column(name="decode, render", unit="core-ms", better="lower"),
                    Column(name="resize, cut", unit="core-ms", better="lower"),
                    Column(name="tower", unit="core-ms", better="lower"),
                    Column(name="bound", unit="images/s"),
                    Column(name="speed", unit="images/s", better="higher"),
                    Column(name="share of the bound", better="higher"),
                    Column(name="least and greatest share"),
                ),
                rows=tuple(
                    (
                        *(b["bundle"], b["syntax"], *b["core_ms"].values()),
                        *(b["bound"], b["images_per_second"], b["share_of_bound"]),
                        f"{min(b['shares']):.2f} to {max(b['shares']):.2f}",
                    )
                    for b in bound
                ),
                note=f"Medians of {values['rounds']} rounds. The bound is what the cores could do if reading, decoding, "
                "rendering, resizing and the tower alone took any time.",
            ),
            Table(
                title="Beside a plain script: pydicom, a window, a resize, ViT-B/16 of timm in PyTorch",
                columns=(
                    Column(name="files"),
                    Column(name="precision"),
                    Column(name="patches"),
                    Column(name="plain", unit="images/s"),
                    Column(name="mcr-infer", unit="images/s", better="higher"),
                    Column(name="over plain", unit="×", better="higher"),
                ),
                rows=tuple(
                    (
                        *(p["syntax"], p["precision"], f"{p['budget']:.0%}", p["plain_images_per_second"]),
                        *(p["images_per_second"], span(p["ratio"], p["ratios"])),
                    )
                    for p in plain
                ),
                note="Brackets: least and greatest of the rounds.",
            ),
            Table(
                title="What precision and budget cost in retrieval, against fp32 with all patches",
                columns=(
                    Column(name="bundle"),
                    Column(name="precision"),
                    Column(name="patches"),
                    Column(name="first ten that stay, image → image", unit="%", better="higher"),
                    Column(name="R@10 image → report", unit="%", better="higher"),
                    Column(name="R@10 report → image", unit="%", better="higher"),
                ),
                rows=tuple(
                    (
                        *(c["bundle"], c["precision"], f"{c['budget']:.0%}", 100 * c["image_to_image_top10"]),
                        *(_percent(c.get("recall"), f"{way}_r10") for way in ("image_to_report", "report_to_image")),
                    )
                    for c in values["cost"]
                ),
                note="A tower of random weights has no recall.",
            ),
        ),
        plots=(
            Plot(
                title="Speed, and what the machine could do",
                kind="bar",
                x=Column(name="files"),
                y=Column(name="speed", unit="images/s", better="higher"),
                x_names=names,
                series=(
                    Series(name="mcr-infer", points=bars([b["images_per_second"] for b in bound])),
                    Series(name="bound", points=bars([b["bound"] for b in bound])),
                ),
            ),
        ),
        figures=figures,
    )


def _percent(recall: Mapping[str, float] | None, key: str) -> Cell:
    return None if recall is None else 100 * recall[key]


def decoding(values: Document, taken: str) -> Part:
    """Read `results/decoding.json`."""
    rows = values["rows"]
    reduced = next(name for name in rows[0]["core_ms"] if name != "full")
    return Part(
        name="decoding",
        title="Decoding",
        question="What does a file of 2,500 × 2,000 pixels cost until it is patches, by transfer syntax?",
        command="python -m benchmarks.decoding",
        taken=taken,
        tables=(
            Table(
                title="From file to patches",
                columns=(
                    Column(name="transfer syntax"),
                    Column(name="size", unit="MB"),
                    Column(name="in full", unit="core-ms", better="lower"),
                    Column(name="reduced", unit="core-ms", better="lower"),
                    Column(name="reduction"),
                    Column(name="cosine to the full decode", better="higher"),
                ),
                rows=tuple(
                    (
                        *(row["name"], row["megabytes"], row["core_ms"]["full"]),
                        *(
                            (row["core_ms"][reduced], f"1/{row['reduction'][reduced]}", f"{row['least_cosine']:.5f}")
                            if row["reduction"][reduced] > 1
                            else (None, "as in full", None)
                        ),
                    )
                    for row in rows
                ),
            ),
        ),
        plots=(
            Plot(
                title="Core-milliseconds a file",
                kind="bar",
                x=Column(name="transfer syntax"),
                y=Column(name="file to patches", unit="core-ms", better="lower"),
                x_names=tuple(row["name"] for row in rows),
                series=(
                    Series(name="in full", points=bars([row["core_ms"]["full"] for row in rows])),
                    Series(
                        name="reduced",
                        points=tuple(
                            (float(place), row["core_ms"][reduced], None, None)
                            for place, row in enumerate(rows)
                            if row["reduction"][reduced] > 1
                        ),
                    ),
                ),
            ),
        ),
        figures={
            f"decoding.{row['name'].lower().replace(' ', '_').replace(',', '')}.{way.replace(' ', '_')}": figure(
                row["core_ms"][way], "core-ms", "lower"
            )
            for row in rows
            for way in row["core_ms"]
        },
    )


def endurance(values: Document, taken: str) -> Part:
    """Read `results/endurance.json`."""
    memory, kills, malformed = values["memory"], values["kills"], values["malformed"]
    samples = [(float(count), mib, None, None) for count, mib in memory["samples_mib"].items()]
    return Part(
        name="endurance",
        title="Archives: endurance",
        question="Does memory stay constant, do kills lose nothing, and do broken files stop nothing?",
        command="python -m tests.faults.endurance memory|kills|malformed",
        taken=taken,
        tables=(
            Table(
                title="What was tried and what came of it",
                columns=(Column(name="trial"), Column(name="size"), Column(name="result")),
                rows=(
                    (
                        "memory",
                        f"{memory['files']:,} files",
                        f"{memory['growth']:.1%} more at the end than after 1,000 files",
                    ),
                    (
                        "kills",
                        f"{kills['kills']} kills",
                        f"{kills['rows_that_differ']} rows differ in {kills['indexes_compared']} indexes",
                    ),
                    (
                        "broken files",
                        f"{malformed['broken']} among {malformed['good']}",
                        f"{sum(malformed['failed'].values())} failed and {sum(malformed['left_out'].values())} left out, "
                        f"each with a reason, {len(malformed['broken_embedded'])} embedded, "
                        f"{malformed['unchanged']} the same image as another",
                    ),
                ),
            ),
        ),
        plots=(
            Plot(
                title="Memory of a run, its worker included",
                kind="line",
                x=Column(name="files embedded"),
                y=Column(name="memory", unit="MiB", better="lower"),
                series=(Series(name="memory", points=tuple(samples)),),
            ),
        ),
        figures={
            "endurance.memory.growth": figure(
                100 * memory["growth"], "%", "lower", f"more memory after {memory['files']:,} files than after 1,000"
            ),
            "endurance.memory.files": figure(memory["files"], "files", ""),
            "endurance.memory.mib_at_1000": figure(memory["mib_at_1000"], "MiB", "lower"),
            "endurance.memory.mib_at_the_end": figure(memory["mib_at_the_end"], "MiB", "lower"),
            "endurance.kills": figure(kills["kills"], "kills", ""),
            "endurance.kills.indexes": figure(kills["indexes_compared"], "indexes", ""),
            "endurance.kills.rows_that_differ": figure(kills["rows_that_differ"], "rows", "lower"),
            "endurance.malformed.good": figure(malformed["good"], "files", ""),
            "endurance.malformed.broken": figure(malformed["broken"], "files", ""),
            "endurance.malformed.embedded": figure(len(malformed["broken_embedded"]), "files", "lower"),
            "endurance.malformed.seconds": figure(malformed["seconds"], "s", "lower"),
        },
    )


def faults(values: Document, taken: str) -> Part:
    """Read `results/faults.json`."""
    found = values["outcomes"]
    ends = ("cases", "right_answers", "one_clear_error", "neither")
    kills = [one for one in found if one["fault"] == "kill -9"]
    reading = [one for one in found if one["fault"] == "readers meanwhile"]
    return Part(
        name="faults",
        title="What was broken on purpose",
        question="What does an index do when it is killed, fills the disk, is damaged or made to crash?",
        command="python -m tests.faults",
        taken=taken,
        tables=(
            Table(
                title="Cases by how they end",
                columns=(
                    Column(name="fault"),
                    Column(name="of what"),
                    *(Column(name=end.replace("_", " ")) for end in ends),
                ),
                rows=tuple((one["fault"], one["target"], *(one[end] for end in ends)) for one in found),
            ),
        ),
        figures={
            "faults.cases": figure(values["cases"], "cases", ""),
            "faults.neither": figure(values["neither"], "cases", "lower"),
            "faults.kills": figure(sum(one["killed_at_work"] for one in kills), "kills", ""),
            "faults.kills.steps": figure(sum(one["steps_acknowledged"] for one in kills), "steps", ""),
            "faults.readers.answers": figure(sum(one["answers_of_readers"] for one in reading), "answers", ""),
            "faults.minutes": figure(values["seconds"] / 60, "min", ""),
        },
    )


def phantoms(values: Document, taken: str) -> Part:
    """Read `results/phantoms.json`."""
    speed = Column(name="speed", unit="phantoms/s", better="higher")
    return Part(
        name="phantoms",
        title="Phantoms",
        question="How many phantoms a second does one process write?",
        command="python -m benchmarks.phantoms",
        taken=taken,
        tables=(
            Table(
                title="Phantoms a second",
                columns=(Column(name="side", unit="pixels"), speed),
                rows=((values["size"], values["per_second"]),),
            ),
        ),
        figures={"phantoms.per_second": figure(values["per_second"], "phantoms/s", "higher")},
    )


ARCHIVES: Mapping[str, Callable[[Any, str], Part]] = {
    "benchmarks/results/throughput.json": throughput,
    "benchmarks/results/decoding.json": decoding,
    "benchmarks/results/endurance.json": endurance,
    "benchmarks/results/faults.json": faults,
    "benchmarks/results/phantoms.json": phantoms,
}
