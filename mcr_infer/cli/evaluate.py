"""`mcr-infer evaluate`.

Light to import: the command line registers it at every start.
"""

from pathlib import Path
from typing import Annotated

import typer

from mcr_infer.cli.options import (
    BudgetOption,
    BundleOption,
    Device,
    DeviceOption,
    FindingsColumnOption,
    HeadingsOption,
    ImageColumnOption,
    JsonOption,
    LongTextName,
    LongTextOption,
    PatientColumnOption,
    PrecisionName,
    PrecisionOption,
    ReportColumnOption,
    SplitColumnOption,
)  # fmt: skip


def evaluate(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="A CSV file with the columns image (or file) and report, and optionally patient, findings and split; "
            "paths of images are relative to its folder."
        ),
    ],
    image_column: ImageColumnOption = None,
    report_column: ReportColumnOption = None,
    patient_column: PatientColumnOption = None,
    findings_column: FindingsColumnOption = None,
    split_column: SplitColumnOption = None,
    split: Annotated[str | None, typer.Option("--split", help="Evaluate only the rows of this split.")] = None,
    label_separator: Annotated[
        str | None,
        typer.Option("--label-separator", help="Separator of the findings in a cell, if the column leaves it unclear."),
    ] = None,
    bundle: BundleOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = PrecisionName.FP32,
    patch_budget: BudgetOption = "1.0",
    headings: HeadingsOption = None,
    long_text: LongTextOption = LongTextName.IMPRESSION_FIRST,
    batch_size: Annotated[int, typer.Option(min=1, help="Radiographs per call of the image tower.")] = 16,
    json: JsonOption = False,
) -> None:
    """Measure how well a bundle finds the report of a radiograph and the radiograph of a report, on your own pairs."""
    from mcr_infer.cli import output, session
    from mcr_infer.evaluation.embed_pairs import embed_pairs
    from mcr_infer.evaluation.pairs import read_pairs
    from mcr_infer.evaluation.protocols import evaluate_pairs
    from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
    from mcr_infer.pipeline.plan import usable_cores
    from mcr_infer.reports import read_headings

    chosen = session.open_bundle(bundle)
    names = None if headings is None else read_headings(headings)
    budget = chosen.patch_budget(patch_budget)
    named = {
        "image": image_column, "report": report_column, "patient": patient_column, "findings": findings_column,
        "split": split_column,
    }  # fmt: skip
    each, notes = read_pairs(
        pairs,
        columns={role: name for role, name in named.items() if name is not None},
        label_separator=label_separator,
        split=split,
    )
    for sentence in notes:
        output.note(sentence)
    texts = TextEncoder(chosen, device=device, precision=precision, long_text=long_text.value)
    images, reports = embed_pairs(
        each,
        images=ImageEncoder(chosen, device=device, precision=precision),
        texts=texts,
        batch_size=batch_size,
        workers=usable_cores(),
        budget=budget,
        headings=names,
        notify=output.note,
    )
    output.show_evaluation(evaluate_pairs(images, reports, each, encode_text=texts.encode), as_json=json)
