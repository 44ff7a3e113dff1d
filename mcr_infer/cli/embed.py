"""`mcr-infer embed-images` and `embed-reports`: parse, plan, run, print.

Light to import: the command line registers them at every start.
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.cli.options import (
    SOME_FAILED,
    AcceptKnownOption,
    AllowEmptyOption,
    BudgetOption,
    BundleOption,
    Device,
    DeviceOption,
    HeadingsOption,
    IndexOption,
    JsonOption,
    LongTextName,
    LongTextOption,
    PrecisionName,
    PrecisionOption,
    PseudonymiseOption,
    SecretOption,
)  # fmt: skip

if TYPE_CHECKING:
    from mcr_infer.pipeline.outcome import Summary


def embed_images(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="DICOM, PNG or JPEG files; folders and zip or tar archives of them; a DICOMDIR; dicomweb://HOST/PATH/studies?...",
            metavar="PATH...",
        ),
    ] = None,
    files_from: Annotated[
        str | None,
        typer.Option(
            "--files-from",
            help="File with more paths, one per line, without comments: a name may begin with #; - for standard input.",
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("--null", help="Names in --files-from end with NUL instead of a line break.")
    ] = False,
    pacs_token_file: Annotated[
        str | None,
        typer.Option(help="File with a bearer token for the PACS; default: $MCR_INFER_PACS_TOKEN."),
    ] = None,
    pacs_cert: Annotated[str | None, typer.Option(help="Client certificate for the PACS, PEM.")] = None,
    pacs_key: Annotated[str | None, typer.Option(help="Key of that certificate, if it is in a separate file.")] = None,
    pacs_ca: Annotated[
        str | None,
        typer.Option(help="Certificate authorities to trust for the PACS, PEM; default: those of the system."),
    ] = None,
    index: IndexOption = Path("mcr-index"),
    bundle: BundleOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = PrecisionName.FP32,
    patch_budget: BudgetOption = "1.0",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Radiographs per call of the tower; measured if not given.")
    ] = None,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Concurrent calls of the tower; measured if not given.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one per core.")] = None,
    modality: Annotated[
        list[str] | None, typer.Option(help="Only these: CR, DX, RG, unknown. Repeat for several.")
    ] = None,
    body_part: Annotated[
        list[str] | None, typer.Option(help="Only these body parts, such as CHEST or unknown. Repeat for several.")
    ] = None,
    view: Annotated[
        list[str] | None, typer.Option(help="Only these views, such as PA, AP, LATERAL, unknown. Repeat for several.")
    ] = None,
    intent: Annotated[
        list[str] | None,
        typer.Option(help="Only these intents: FOR PRESENTATION, FOR PROCESSING, unknown. Repeat for several."),
    ] = None,
    keep_locals: Annotated[
        bool,
        typer.Option(
            "--keep-locals", help="Also keep mapped patches, for query --rerank; README.md states their size."
        ),
    ] = False,
    full_decode: Annotated[bool, typer.Option("--full-decode", help="Always decode at full resolution.")] = False,
    file_seconds: Annotated[float, typer.Option(min=1.0, help="Time limit for decoding one file, in seconds.")] = 120.0,
    file_memory: Annotated[int, typer.Option(min=64, help="Memory limit for decoding one file, in MiB.")] = 4096,
    site_secret: SecretOption = None,
    pseudonymise: PseudonymiseOption = False,
    explain_plan: Annotated[
        bool, typer.Option("--explain-plan", help="Print how the run would use this machine, without running it.")
    ] = False,
    accept_known: AcceptKnownOption = False,
    allow_empty: AllowEmptyOption = False,
    json: JsonOption = False,
) -> None:
    """Embed radiographs into an index. Unchanged files are not opened again; a bad file does not stop the run."""
    from mcr_infer.cli import output, session
    from mcr_infer.cli.interruption import Interruption
    from mcr_infer.cli.progress import RunProgress
    from mcr_infer.images.selection import Selection
    from mcr_infer.inference.autotune import autotune
    from mcr_infer.inference.encoder import ImageEncoder
    from mcr_infer.pipeline.decoding import Limits
    from mcr_infer.pipeline.image_run import Stop, embed_images
    from mcr_infer.pipeline.outcome import Summary
    from mcr_infer.pipeline.plan import Plan, usable_cores
    from mcr_infer.pipeline.run_report import Meter, RunReport, tower_facts
    from mcr_infer.retrieval.late_interaction import check_comparable
    from mcr_infer.sources import NameList, PacsAccess, Sources

    if not paths and files_from is None:
        raise typer.BadParameter("give a PATH, or --files-from")
    if null and files_from is None:
        raise typer.BadParameter("--null says how the names of --files-from end, and there is no --files-from")
    naming = session.naming_of(site_secret, pseudonymise=pseudonymise)
    chosen = session.bundle_for(index, bundle, naming)
    if keep_locals:
        check_comparable(chosen)
    sources = Sources(
        paths or (),
        names=None if files_from is None else NameList(path=files_from, null=null),
        pacs=PacsAccess(
            token_file=pacs_token_file, certificate=pacs_cert, key=pacs_key, authority=pacs_ca, notify=output.note
        ),
    )
    selection = Selection.of(modalities=modality, body_parts=body_part, views=view, presentation_intents=intent)
    limits = Limits(seconds=file_seconds, memory_bytes=file_memory << 20)
    budget, cores = chosen.patch_budget(patch_budget), usable_cores()
    tower = autotune(
        chosen, device=device, precision=precision, budget=budget, cores=cores, threads=calls, batch_size=batch_size,
        notify=output.note,
    )  # fmt: skip
    plan = Plan(
        workers=workers or cores,
        calls=tower.threads,
        call_size=tower.batch_size,
        call_threads=tower.intra_op_threads,
        budget=budget,
        reduce=not full_decode,
        selection=selection,
        limits=limits,
    )
    encoder = ImageEncoder(chosen, device=device, precision=precision, threads=plan.call_threads)
    if explain_plan:
        output.show_plan(plan.explain(tower, chosen.preprocess), plan.to_dict() | tower_facts(encoder), as_json=json)
        return
    meter, stop = Meter(), Stop()

    def end_soon() -> None:
        stop.ask()
        sources.cancel()

    with (
        session.open_for_writing(index, chosen, naming) as store,
        RunProgress("radiographs", sources.count) as run,
        Interruption(end_soon) as interruption,
    ):
        summary = Summary.of(index, naming=naming)
        outcomes = embed_images(
            sources,
            index=store,
            encoder=encoder,
            plan=plan,
            naming=naming,
            keep_locals=keep_locals,
            meter=meter,
            stop=stop,
        )
        run.follow(outcomes, summary)
        summary.interrupted = interruption.signal
        store.save_snapshots()
        summary.remember_failures()
    report = RunReport(summary=summary, meter=meter, plan=plan, encoder=encoder, ignored=sources.ignored)
    report.write(index)
    output.show_summary(summary, what="radiographs", ignored=sources.ignored, as_json=json)
    if not json:
        output.show_stages(report, index)
    if summary.interrupted is not None:
        output.note("interrupted: what is counted is in the index; run the same command again to continue")
        raise typer.Exit(128 + summary.interrupted)
    raise typer.Exit(exit_code(summary, accept_known=accept_known, allow_empty=allow_empty))


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
    from mcr_infer.cli import output, session
    from mcr_infer.cli.progress import RunProgress
    from mcr_infer.inference.encoder import TextEncoder
    from mcr_infer.inference.vocabulary import unread_note
    from mcr_infer.pipeline.outcome import Summary
    from mcr_infer.pipeline.report_run import embed_reports
    from mcr_infer.reports import read_headings, read_reports

    if keep_text and pseudonymise:
        raise typer.BadParameter("--keep-text keeps words that can name the patient: not with --pseudonymise")
    naming = session.naming_of(site_secret, pseudonymise=pseudonymise)
    chosen = session.bundle_for(index, bundle, naming)
    names = None if headings is None else read_headings(headings)
    ignored: Counter[str] = Counter()
    records = read_reports(Path(path), patients=naming.patients, ignored=ignored)
    encoder = TextEncoder(chosen, device=device, precision=precision, long_text=long_text.value)
    with session.open_for_writing(index, chosen, naming) as store, RunProgress("reports", None) as progress:
        summary = Summary.of(index, naming=naming, reports=True)
        outcomes = embed_reports(
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
    output.show_summary(summary, what="reports", ignored=ignored, as_json=json)
    if summary.long_texts:
        output.warn_of_long_texts(summary.long_texts, limit=encoder.max_tokens)
    told = unread_note(summary.unread or {}, summary.embedded, rule=encoder.vocabulary.rule)
    if told is not None:
        output.note(told)
    raise typer.Exit(exit_code(summary, accept_known=accept_known, allow_empty=allow_empty))


def exit_code(summary: "Summary", *, accept_known: bool, allow_empty: bool) -> int:
    """Return the exit code of a run that came to its end, and say why where that is not plain from the summary.

    An input that failed gives `SOME_FAILED`; so does a run that found none, as under a share that is not mounted.
    """
    from mcr_infer.cli import output

    if not summary.inputs:
        if allow_empty:
            return 0
        output.note(
            "no input was found: is the folder empty, or its share not mounted? With --allow-empty the exit code is 0"
        )
        return SOME_FAILED
    new = summary.failure_count - summary.known_failures
    if summary.failure_count and accept_known:
        output.note(f"{summary.known_failures} failures are known from the previous run, {new} are new")
        return SOME_FAILED if new else 0
    return SOME_FAILED if summary.failure_count else 0
