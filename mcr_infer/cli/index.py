"""The commands that keep an index: `info`, `delete`, `prune`, `rebuild`, `compact`, `migrate`. Parse, call, print.

Light to import: the command line registers them at every start.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.cli.options import BundleOption, Device, DeviceOption, IndexOption, JsonOption, Kinds

if TYPE_CHECKING:
    from mcr_infer.index import Filter, Index
    from mcr_infer.pseudonyms import SiteSecret


def delete(
    index: IndexOption = Path("mcr-index"),
    id: Annotated[list[str] | None, typer.Option("--id", help="A row by its id; repeat for several.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="All rows of a study.")] = None,
    patient_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="All rows of a patient, by the key in the index.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="All of a patient, by the id, with --site-secret; - reads it from standard input."
        ),
    ] = None,
    issuer: Annotated[
        str | None, typer.Option(help="With --patient: who issued the id, where DICOM files say so.")
    ] = None,
    site_secret: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Secret of the keys in the index, which turns identifiers into keys."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="All that matches, as in 'study_year<2010'.")
    ] = None,
    kind: Annotated[
        Kinds | None, typer.Option(help="Of what; both for studies and patients, image otherwise, if not given.")
    ] = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Rebuild graphs at once, so that no deleted vector stays in them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonOption = False,
) -> None:
    """Delete rows from an index, with their vectors, files and facts: by id, study, patient or filter."""
    from mcr_infer.cli import output
    from mcr_infer.index import KINDS, Index
    from mcr_infer.index.row_selection import plan_deletion, unreachable

    if sum(bool(given) for given in (id, study, patient_key, patient, where)) != 1:
        raise typer.BadParameter("say what to delete by one of --id, --study, --patient-key, --patient, --where")
    of = kind or (Kinds.IMAGE if id or where else Kinds.BOTH)
    asked = _patient(patient, issuer, site_secret)
    with Index.open(index, writable=not dry_run, notify=output.note) as store:
        chosen = _what_to_delete(store, id, study, patient_key, asked, where, site_secret)
        found = plan_deletion(store, chosen, of.names)
        count = sum(found.counts.values())
        output.show_planned_deletion(found, index, to_stderr=json)
        if count and not dry_run:
            _ask(count, yes=yes)
            store.delete_rows(found.labels)
            store.save_snapshots(purge=purge)
            erase(store, count)
        left = {one: 0 if dry_run else unreachable(store, one) for one in KINDS}
    output.show_deletion(found, index, left, dry_run=dry_run, as_json=json)


def _patient(id: str | None, issuer: str | None, site_secret: Path | None) -> tuple[str, str | None] | None:
    """Return the id of a patient and its issuer; standard input is for ids that no list of processes should show."""
    if id is None:
        return None
    if site_secret is None:
        raise typer.BadParameter("--patient needs --site-secret: an index holds keys of patients, and never their ids")
    return (sys.stdin.readline().rstrip("\r\n") if id == "-" else id), issuer


def _what_to_delete(
    store: "Index", ids: list[str] | None, study: str | None, patient_key: str | None,
    patient: tuple[str, str | None] | None, where: str | None, site_secret: Path | None,
) -> "Filter":  # fmt: skip
    """Return the filter for what was named, with keys in the place of identifiers where the index holds keys."""
    from mcr_infer.index import parse_filter
    from mcr_infer.index.row_selection import Among

    if where is not None:
        return parse_filter(where)
    if patient_key is not None:
        return Among("patient_key", frozenset({patient_key}))
    secret = None if site_secret is None else _secret(store, site_secret)
    if patient is not None and secret is not None:
        return Among("patient_key", frozenset({secret.patient_key(*patient)}))
    column, named = ("id", ids or []) if study is None else ("study_uid", [study])
    return Among(column, frozenset(_keys_of(named, column, secret) if store.identity.pseudonymous else named))


def _secret(store: "Index", path: Path) -> "SiteSecret":
    """Read the site secret, and see whether it is that of the index."""
    from mcr_infer.errors import ConfigError
    from mcr_infer.pseudonyms import SiteSecret

    secret = SiteSecret.read(path)
    if not store.identity.secret_check:
        raise ConfigError(f"index {store.folder} holds no keys: nothing in it was made with a site secret")
    if secret.check() != store.identity.secret_check:
        raise ConfigError(f"{path} is not the site secret of the keys in index {store.folder}: name that one")
    return secret


def _keys_of(named: list[str], column: str, secret: "SiteSecret | None") -> set[str]:
    """Return what stands for UIDs in a pseudonymous index; what is a key already stays what it is."""
    from mcr_infer.pseudonyms import is_key

    found: set[str] = set()
    for one in named:
        if is_key(one):
            found.add(one)
        elif secret is None:
            raise typer.BadParameter("the index is pseudonymous: give a key, or a UID with --site-secret")
        else:
            found |= {secret.image_key(one), secret.report_key(one)} if column == "id" else {secret.study_key(one)}
    return found


def _ask(count: int, *, yes: bool) -> None:
    """Ask on the terminal whether to go on; end where the answer is no, or there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(
            f"there is no terminal to ask on whether to delete {count} rows: give --yes, or --dry-run"
        )
    typer.confirm("This cannot be undone. Delete them?", abort=True, err=True)


def erase(store: "Index", count: int) -> None:
    """Have what is deleted leave the disk, too, or say why it has not."""
    from mcr_infer.errors import EmbeddingIndexError

    try:
        gone = store.erase()
    except EmbeddingIndexError as error:
        raise EmbeddingIndexError(
            f"{count} rows are deleted and found by nobody, but pages of the store may hold parts of them: {error}"
        ) from error
    if not gone:
        _say_still_read(store)


def _say_still_read(store: "Index") -> None:
    from mcr_infer.cli import output

    output.note(
        f"a process that reads {store.folder} needs its former state: what was deleted leaves the disk once that has ended "
        "and another command has written to the index"
    )


def rebuild(
    index: IndexOption = Path("mcr-index"),
    target_recall: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Tune the breadth of search until it finds this share of the ten nearest."),
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sentences to tune with, one a line; else what the index holds.")
    ] = None,
    m: Annotated[int | None, typer.Option("--m", help="Links of a node; as before, at first 32.")] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="Breadth while graphs are built; as before, at first 200.")
    ] = None,
    bundle: BundleOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = False,
) -> None:
    """Rebuild vectors, facts and graphs from the store; with --target-recall, tune the graphs."""
    from mcr_infer.cli import output, session
    from mcr_infer.index import KINDS, Index
    from mcr_infer.index.tuning import tune
    from mcr_infer.retrieval.tuning_queries import tuning_queries

    if target_recall is None and queries is not None:
        raise typer.BadParameter("--queries are for tuning: say to what with --target-recall")
    if target_recall is not None and not 0 < target_recall <= 1:
        raise typer.BadParameter(f"--target-recall is a share in (0, 1], such as 0.99; got {target_recall}")
    reached = True
    with Index.open(index, writable=True, notify=output.note) as store:
        store.save_snapshots(rebuild=True, m=m, ef_construction=ef_construction)
        for kind in KINDS if target_recall is not None else ():
            if not store.has_graph(kind):
                output.note(f"{store.count(kind)} {kind}s are searched exactly, recall 1: there is nothing to tune")
                continue
            asked, told = tuning_queries(
                store, kind, sentences=queries, bundle=lambda: session.bundle_of(store, bundle), device=device
            )
            output.note(f"tuning the search of {store.count(kind)} {kind}s with {told}")
            tuned = tune(store, kind, asked, target_recall=target_recall or 0.0)
            store.set_tuning(kind, tuned)
            reached &= tuned.recall >= tuned.target_recall
        output.show_snapshots(store, as_json=json)
    if not reached:
        output.note(
            "the target was not reached, and the best is kept: build with more links (--m 48) or more breadth "
            "(--ef-construction 400)"
        )
        raise typer.Exit(1)


def compact(index: IndexOption = Path("mcr-index"), json: JsonOption = False) -> None:
    """Free the disk space of deleted rows: in the store, in graphs and in the write-ahead log."""
    from mcr_infer.cli import output
    from mcr_infer.index import Index
    from mcr_infer.index.index import bytes_of
    from mcr_infer.index.row_selection import compact

    before = bytes_of(index)
    with Index.open(index, writable=True, notify=output.note) as store:
        if not compact(store):
            _say_still_read(store)
    output.show_sizes(index, before=before, after=bytes_of(index), as_json=json)


def migrate(index: IndexOption = Path("mcr-index"), json: JsonOption = False) -> None:
    """Convert an index of an earlier release to the current format, as any command that writes does."""
    from mcr_infer.cli import output
    from mcr_infer.index import Index

    with Index.open(index) as store:
        former = store.format_version
    with Index.open(index, writable=True, notify=output.note) as store:
        if former != store.format_version:
            store.save_snapshots()
        output.show_migration(index, former=former, now=store.format_version, as_json=json)


def prune(
    index: IndexOption = Path("mcr-index"),
    kind: Annotated[Kinds, typer.Option(help="Kind of the rows.")] = Kinds.BOTH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Delete even if a share may not be mounted, or more than 10 % of the rows would go."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Delete the rows whose file is gone. Refuses if a share may not be mounted, or if more than 10 % would go."""
    from mcr_infer.cli import output
    from mcr_infer.errors import EmbeddingIndexError
    from mcr_infer.index import KINDS, Index
    from mcr_infer.index.row_selection import unreachable
    from mcr_infer.pipeline.missing_files import find_gone

    with Index.open(index, writable=not dry_run, notify=output.note) as store:
        if store.identity.pseudonymous:
            raise EmbeddingIndexError(
                f"index {index} is pseudonymous and keeps no paths, so that missing files cannot be recognized: delete rows "
                "with `mcr-infer delete`"
            )
        gone = find_gone(store, kind.names)
        count = sum(gone.deletion.counts.values())
        output.show_planned_deletion(gone.deletion, index, what="have lost their file", to_stderr=json)
        if untold := sum(gone.untold.values()):
            output.note(f"{untold} rows are kept, since it is not known whether their file is there")
        if count and gone.doubt and dry_run:
            output.note(f"{gone.doubt}; without --dry-run this needs --yes")
        if count and not dry_run:
            if gone.doubt and not yes:
                raise EmbeddingIndexError(
                    f"{gone.doubt}; nothing was deleted. If the files are really gone, give --yes"
                )
            store.delete_rows(gone.deletion.labels)
            store.save_snapshots()
            erase(store, count)
        left = {one: 0 if dry_run else unreachable(store, one) for one in KINDS}
    output.show_deletion(gone.deletion, index, left, dry_run=dry_run, hint=False, as_json=json)


def info(
    index: IndexOption = Path("mcr-index"),
    check_files: Annotated[
        bool, typer.Option("--check-files", help="Also count the rows whose file is gone; looks up every path.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show what an index holds and which bundle made it."""
    from mcr_infer.cli import output, session
    from mcr_infer.index import KINDS, Index

    with Index.open(index) as store:
        gone = None
        if check_files:
            from mcr_infer.pipeline.missing_files import find_gone

            gone = find_gone(store, KINDS)
        output.show_info(store, session.known_bundle(store), gone=gone, as_json=json)
