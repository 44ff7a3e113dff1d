"""`mcr-infer embed-images`: parse, plan, run, print.

Light to import: the command line registers it at every start.
"""

from pathlib import Path
from typing import Annotated

import typer

from mcr_infer.options import (
    AcceptKnownOption,
    AllowEmptyOption,
    BudgetOption,
    BundleOption,
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    PrecisionName,
    PrecisionOption,
    PseudonymiseOption,
    SecretOption,
)  # fmt: skip


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
    from mcr_infer import console, workspace
    from mcr_infer.decoding import Limits
    from mcr_infer.encoder import ImageEncoder
    from mcr_infer.images.selection import Selection
    from mcr_infer.interruption import Interruption
    from mcr_infer.pipeline import Meter, Plan, RunReport, Stop, Summary, embed_images, tower_facts, usable_cores
    from mcr_infer.rerank import check_comparable
    from mcr_infer.run_end import exit_code
    from mcr_infer.sources import NameList, PacsAccess, Sources
    from mcr_infer.tower_plan import calibrate

    if not paths and files_from is None:
        raise typer.BadParameter("give a PATH, or --files-from")
    if null and files_from is None:
        raise typer.BadParameter("--null says how the names of --files-from end, and there is no --files-from")
    naming = workspace.naming_of(site_secret, pseudonymise=pseudonymise)
    chosen = workspace.bundle_for(index, bundle, naming)
    if keep_locals:
        check_comparable(chosen)
    sources = Sources(
        paths or (),
        names=None if files_from is None else NameList(path=files_from, null=null),
        pacs=PacsAccess(
            token_file=pacs_token_file, certificate=pacs_cert, key=pacs_key, authority=pacs_ca, notify=console.note
        ),
    )
    selection = Selection.of(modalities=modality, body_parts=body_part, views=view, presentation_intents=intent)
    limits = Limits(seconds=file_seconds, memory_bytes=file_memory << 20)
    budget, cores = chosen.patch_budget(patch_budget), usable_cores()
    tower = calibrate(
        chosen, device=device, precision=precision, budget=budget, cores=cores, threads=calls, batch_size=batch_size,
        notify=console.note,
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
        console.show_plan(plan.explain(tower, chosen.preprocess), plan.to_dict() | tower_facts(encoder), as_json=json)
        return
    meter, stop = Meter(), Stop()

    def end_soon() -> None:
        stop.ask()
        sources.cancel()

    with (
        workspace.open_for_writing(index, chosen, naming) as store,
        console.Run("radiographs", sources.count) as run,
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
    console.show_summary(summary, what="radiographs", ignored=sources.ignored, as_json=json)
    if not json:
        console.show_stages(report, index)
    if summary.interrupted is not None:
        console.note("interrupted: what is counted is in the index; run the same command again to continue")
        raise typer.Exit(128 + summary.interrupted)
    raise typer.Exit(exit_code(summary, accept_known=accept_known, allow_empty=allow_empty))
