"""The commands by which vectors travel: `export`, `import`, `merge`. Parse, call, print.

Light to import: the command line registers them at every start.
"""

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.cli.options import SOME_FAILED, IndexOption, JsonOption, Kind, Kinds

if TYPE_CHECKING:
    from mcr_infer.index.manifest import Identity
    from mcr_infer.pipeline.transfer.formats import VectorSource


class FormatName(StrEnum):
    """What an export is."""

    PARQUET = "parquet"
    NPY = "npy"


class OnConflictName(StrEnum):
    """What becomes of an id that stands for two pictures."""

    REFUSE = "refuse"
    SKIP = "skip"
    REPLACE = "replace"


ConflictOption = Annotated[
    OnConflictName, typer.Option(help="What to do with an id that stands for two pictures or reports.")
]


def export(
    out: Annotated[Path, typer.Option("--out", help="A .parquet file, or a folder for npy; neither may be there yet.")],
    index: IndexOption = Path("mcr-index"),
    kind: Annotated[Kinds, typer.Option(help="What to export.")] = Kinds.BOTH,
    where: Annotated[str | None, typer.Option(metavar="FILTER", help="Only rows that match, as in 'view=PA'.")] = None,
    format: Annotated[FormatName | None, typer.Option(help="parquet where --out ends so, npy otherwise.")] = None,
    keep_text: Annotated[bool, typer.Option("--keep-text", help="The text of reports, too, where it is kept.")] = False,
    json: JsonOption = False,
) -> None:
    """Write rows and their vectors to a Parquet file, or to a folder with vectors.npy and rows.jsonl."""
    from mcr_infer.cli import output
    from mcr_infer.index import Index, parse_filter
    from mcr_infer.pipeline.transfer.exporting import export as export_rows

    chosen = format or (FormatName.PARQUET if out.suffix == ".parquet" else FormatName.NPY)
    with Index.open(index, notify=output.note) as store:
        told = export_rows(
            store,
            out,
            format=chosen.value,
            kinds=kind.names,
            where=None if where is None else parse_filter(where),
            with_text=keep_text,
        )
    output.show_export(told, out, as_json=json)


def import_(
    source: Annotated[Path, typer.Argument(help="A Parquet file, or a folder with a .npy and a .jsonl, .csv or .txt.")],
    index: IndexOption = Path("mcr-index"),
    bundle: Annotated[Path | None, typer.Option(help="The bundle that made the vectors; for a new index.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The model that made them, if it is not a bundle; for a new index.")
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="With --name: SHA-256 of that model; else it follows from the name."),
    ] = None,
    dim: Annotated[int | None, typer.Option(min=1, help="With --name: dimensions of the vectors.")] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of the vectors; exports of mcr-infer record it.")] = Kind.IMAGE,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    vector_column: Annotated[str, typer.Option(help="Column of the vectors.")] = "vector",
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column that becomes a fact to filter by; repeat for several."),
    ] = None,
    normalise: Annotated[bool, typer.Option("--normalise", help="Divide vectors by their length.")] = False,
    on_conflict: ConflictOption = OnConflictName.REFUSE,
    json: JsonOption = False,
) -> None:
    """Import vectors that were exported from an index or made elsewhere. Invalid ones are refused by name."""
    from mcr_infer.cli import output
    from mcr_infer.cli.progress import RunProgress
    from mcr_infer.pipeline.outcome import FAILURES, Summary
    from mcr_infer.pipeline.transfer.formats import Columns
    from mcr_infer.pipeline.transfer.importing import import_vectors, open_source, open_target

    columns = Columns(id=id_column, vector=vector_column, metadata=tuple(metadata or ()))
    opened = open_source(source, columns)
    like = _identity(opened, source, index, bundle, name, fingerprint, dim)
    with (
        open_target(index, like, source=str(source), notify=output.note) as store,
        RunProgress("vectors", lambda: opened.count) as run,
    ):
        summary = Summary(index / FAILURES)
        outcomes = import_vectors(opened, store, kind=kind, normalise=normalise, on_conflict=on_conflict.value)
        run.follow(outcomes, summary)
        store.save_snapshots()
    output.show_summary(summary, what="vectors", verb="imported", as_json=json)
    raise typer.Exit(SOME_FAILED if summary.failed else 0)


def _identity(
    source: "VectorSource", path: Path, index: Path, bundle: Path | None, name: str | None, fingerprint: str | None,
    dim: int | None,
) -> "Identity":  # fmt: skip
    """Return whose vectors these are: as it was said, as the file says, or as the index that is there."""
    from mcr_infer.cli import session
    from mcr_infer.index import Index
    from mcr_infer.index.index import holds_index
    from mcr_infer.pipeline.transfer.importing import foreign_identity

    if name is None and (fingerprint is not None or dim is not None):
        raise typer.BadParameter("--fingerprint and --dim go with --name")
    if bundle is not None and name is not None:
        raise typer.BadParameter(
            "vectors are of a --bundle, or of a model with a --name that is none: give one of both"
        )
    if source.description is not None:
        return _described(source.description.identity, path, bundle, name)
    if bundle is not None:
        return session.identity_of(session.open_bundle(bundle))
    if name is not None:
        found = dim or source.dim
        if found is None:
            raise typer.BadParameter("the lists of the file have no fixed length: say how many dimensions with --dim")
        return foreign_identity(name=name, fingerprint=fingerprint, dim=found)
    if holds_index(index):
        with Index.open(index) as store:
            if store.identity.secret_check:
                raise typer.BadParameter(
                    f"rows of index {index} have keys, and those of {path} have none: only exports of such an index come in"
                )
            return store.identity
    raise typer.BadParameter(f"{path} does not say whose vectors it holds: name the --bundle, or the model with --name")


def _described(told: "Identity", path: Path, bundle: Path | None, name: str | None) -> "Identity":
    """Return whose vectors an export of ours holds: what it says, in the place where the bundle is now."""
    from dataclasses import replace

    from mcr_infer.cli import session
    from mcr_infer.pipeline.transfer.formats import check_same_space

    if name is not None:
        raise typer.BadParameter(f"{path} says itself whose vectors it holds ({told.bundle!r}): leave out --name")
    if bundle is None:
        return told
    opened = session.identity_of(session.open_bundle(bundle))
    now = replace(told, bundle=opened.bundle, bundle_path=opened.bundle_path)
    check_same_space(
        told,
        replace(now, fingerprint=opened.fingerprint, embedding_dim=opened.embedding_dim),
        place=str(path),
        other_place=f"the bundle {bundle}",
    )
    return now


def merge(
    sources: Annotated[
        list[Path], typer.Argument(help="Folders of indexes; they stay as they are.", metavar="INDEX...")
    ],
    index: Annotated[
        Path, typer.Option("--index", help="Folder of the index that takes their rows; new, or one of them.")
    ],
    on_conflict: ConflictOption = OnConflictName.REFUSE,
    json: JsonOption = False,
) -> None:
    """Merge indexes of one bundle: shared rows once; contradictory ones are conflicts."""
    from mcr_infer.cli import output
    from mcr_infer.cli.progress import RunProgress
    from mcr_infer.errors import EmbeddingIndexError
    from mcr_infer.index import Index
    from mcr_infer.index.index import holds_index
    from mcr_infer.pipeline.transfer.formats import check_same_space
    from mcr_infer.pipeline.transfer.importing import open_target
    from mcr_infer.pipeline.transfer.merging import conflicts, merge

    if len({path.resolve() for path in (*sources, index)}) != len(sources) + 1:
        raise EmbeddingIndexError(
            "an index cannot be merged into itself: name each one once, and another one with --index"
        )
    with ExitStack() as stack:
        opened: list[Index] = []
        for path in sources:
            opened.append(stack.enter_context(Index.open(path, notify=output.note)))
            stack.enter_context(opened[-1].snapshot())
            check_same_space(
                opened[0].identity, opened[-1].identity, place=f"index {sources[0]}", other_place=f"index {path}"
            )
        like = opened[0].identity
        target = None
        if holds_index(index):
            target = stack.enter_context(open_target(index, like, source=f"index {sources[0]}", notify=output.note))
        if on_conflict is OnConflictName.REFUSE and (found := list(conflicts(target, opened))):
            output.show_conflicts(found, as_json=json)
            raise typer.Exit(1)
        if target is None:
            target = stack.enter_context(open_target(index, like, source=f"index {sources[0]}", notify=output.note))
        run = stack.enter_context(RunProgress("rows", lambda: sum(one.count(kind) for one in opened for kind in Kind)))
        told = merge(target, opened, on_conflict=on_conflict.value, advance=run.advance)
        target.save_snapshots()
        output.show_merge(told, target, as_json=json)
