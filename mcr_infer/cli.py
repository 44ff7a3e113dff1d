"""The command line: parse, call, print. What a command does lives in the modules that it imports when it runs.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 1 an error of ours, 2 wrong usage, 3 done but
some inputs failed, 4 the index is busy, 128 + N ended by signal N; `mcr_infer.output` says what a stream that cannot be
written costs.
"""

import gc
import inspect
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo

from mcr_infer.embed_command import embed_images
from mcr_infer.engine_command import build_engine
from mcr_infer.index_command import compact, delete, migrate, rebuild
from mcr_infer.options import (
    AcceptKnownOption,
    AllowEmptyOption,
    BudgetOption,
    BundleOption,
    Device,
    DeviceOption,
    FindingsColumnOption,
    HeadingsOption,
    ImageColumnOption,
    IndexOption,
    JsonOption,
    LongTextName,
    LongTextOption,
    PatientColumnOption,
    PrecisionName,
    PrecisionOption,
    PseudonymiseOption,
    ReportColumnOption,
    SecretOption,
    SplitColumnOption,
)  # fmt: skip
from mcr_infer.output import printable, run
from mcr_infer.prune_command import prune
from mcr_infer.pseudonym_command import pseudonym
from mcr_infer.query_command import query
from mcr_infer.transfer_command import export, import_, merge
from mcr_infer.verify_command import verify


class _Group(TyperGroup):
    """Shows arguments escaped where they are quoted as wrong usage: they may be names of files."""

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with _escaped_usage():
            return super().make_context(*given, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _escaped_usage():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _restore_help(command)
        return command


def _restore_help(command: click.Command) -> None:
    """Give the arguments of a command their help: click 8.5.1 and later drop what typer below 0.21 sets."""
    arguments = [one for one in command.params if isinstance(one, TyperArgument) and one.help is None]
    if arguments and command.callback is not None:
        declared = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        for argument in arguments:
            infos = get_args(declared[str(argument.name)])
            argument.help = next((one.help for one in infos if isinstance(one, ArgumentInfo)), None)


@contextmanager
def _escaped_usage() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]
        raise


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search chest radiographs by what they show. Research use only: not a medical device.",
)

app.command("embed-images")(embed_images)


@app.command("embed-reports")
def embed_reports(
    path: Annotated[
        str,
        typer.Argument(help="A .csv, .tsv, .jsonl or .parquet file with a column report, or a folder of .txt files."),
    ],
    index: IndexOption = Path("mcr-index"),
    bundle: BundleOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = PrecisionName.FP32,
    batch_size: Annotated[int, typer.Option(min=1, help="Reports per transaction.")] = 64,
    headings: HeadingsOption = None,
    long_text: LongTextOption = LongTextName.IMPRESSION_FIRST,
    keep_text: Annotated[bool, typer.Option("--keep-text", help="Store the text of the reports in the index.")] = False,
    site_secret: SecretOption = None,
    pseudonymise: PseudonymiseOption = False,
    accept_known: AcceptKnownOption = False,
    allow_empty: AllowEmptyOption = False,
    json: JsonOption = False,
) -> None:
    """Embed reports into an index, so that radiographs and sentences find them."""
    from mcr_infer import console, pipeline, workspace
    from mcr_infer.encoder import TextEncoder
    from mcr_infer.reports import read_headings, read_reports
    from mcr_infer.run_end import exit_code
    from mcr_infer.vocabulary import unread_note

    if keep_text and pseudonymise:
        raise typer.BadParameter("--keep-text keeps words that can name the patient: not with --pseudonymise")
    naming = workspace.naming_of(site_secret, pseudonymise=pseudonymise)
    chosen = workspace.bundle_for(index, bundle, naming)
    names = None if headings is None else read_headings(headings)
    ignored: Counter[str] = Counter()
    records = read_reports(Path(path), patients=naming.patients, ignored=ignored)
    encoder = TextEncoder(chosen, device=device, precision=precision, long_text=long_text.value)
    with workspace.open_for_writing(index, chosen, naming) as store, console.Run("reports", None) as progress:
        summary = pipeline.Summary.of(index, naming=naming, reports=True)
        outcomes = pipeline.embed_reports(
            records,
            index=store,
            encoder=encoder,
            batch_size=batch_size,
            keep_text=keep_text,
            naming=naming,
            headings=names,
        )
        progress.follow(outcomes, summary)
        store.save_snapshots()
        summary.remember_failures()
    console.show_summary(summary, what="reports", ignored=ignored, as_json=json)
    if summary.long_texts:
        console.warn_of_long_texts(summary.long_texts, limit=encoder.max_tokens)
    told = unread_note(summary.unread or {}, summary.embedded, rule=encoder.vocabulary.rule)
    if told is not None:
        console.note(told)
    raise typer.Exit(exit_code(summary, accept_known=accept_known, allow_empty=allow_empty))


app.command()(query)


@app.command()
def info(
    index: IndexOption = Path("mcr-index"),
    check_files: Annotated[
        bool, typer.Option("--check-files", help="Also count the rows whose file is gone; looks up every path.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what an index holds and which bundle made it."""
    from mcr_infer import console, workspace
    from mcr_infer.index import KINDS, Index

    with Index.open(index) as store:
        gone = None
        if check_files:
            from mcr_infer.index.gone import find_gone

            gone = find_gone(store, KINDS)
        console.show_info(store, workspace.known_bundle(store), gone=gone, as_json=json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; created if it does not exist.")],
    count: Annotated[int, typer.Option(min=1, help="Number of phantoms.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; the others follow.")] = 0,
    json: JsonOption = False,
) -> None:
    """Write synthetic chest radiographs as DICOM, and truth.csv, which says what each one shows. No patient is in them."""
    from mcr_infer import console
    from mcr_infer.phantom.demo import write_demo

    with console.Run("phantoms", lambda: count) as progress:
        for _ in write_demo(folder, count=count, seed=seed):
            progress.advance()
    console.show_demo(folder, count=count, as_json=json)


@app.command()
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
    from mcr_infer import console, pipeline, workspace
    from mcr_infer.encoder import ImageEncoder, TextEncoder
    from mcr_infer.evaluate import evaluate_pairs
    from mcr_infer.pairs import read_pairs
    from mcr_infer.reports import read_headings

    chosen = workspace.open_bundle(bundle)
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
        console.note(sentence)
    texts = TextEncoder(chosen, device=device, precision=precision, long_text=long_text.value)
    images, reports = pipeline.embed_pairs(
        each,
        images=ImageEncoder(chosen, device=device, precision=precision),
        texts=texts,
        batch_size=batch_size,
        workers=pipeline.usable_cores(),
        budget=budget,
        headings=names,
        notify=console.note,
    )
    console.show_evaluation(evaluate_pairs(images, reports, each, encode_text=texts.encode), as_json=json)


for command in (delete, prune, rebuild, compact, migrate, verify, export, merge):
    app.command()(command)
app.command("import")(import_)
app.command("build-engine")(build_engine)
app.command()(pseudonym)


def main() -> None:
    """Run the command line and end the process; see `mcr_infer.output.run`."""
    # Imports make many objects and no garbage: looking for it, then and at the end, takes a tenth of a query.
    gc.set_threshold(100_000, 20, 20)
    try:
        run(app)
    finally:
        gc.freeze()
