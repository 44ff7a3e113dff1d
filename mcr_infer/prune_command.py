"""`mcr-infer prune`: delete the rows whose file is gone.

Light to import: the command line registers it at every start.
"""

from pathlib import Path
from typing import Annotated

import typer

from mcr_infer.options import IndexOption, JsonOption, Kinds


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
    from mcr_infer import console
    from mcr_infer.errors import EmbeddingIndexError
    from mcr_infer.index import KINDS, Index
    from mcr_infer.index.deletion import unreachable
    from mcr_infer.index.gone import find_gone
    from mcr_infer.index_command import erase

    with Index.open(index, writable=not dry_run, notify=console.note) as store:
        if store.identity.pseudonymous:
            raise EmbeddingIndexError(
                f"index {index} is pseudonymous and keeps no paths, so that missing files cannot be recognized: delete rows "
                "with `mcr-infer delete`"
            )
        gone = find_gone(store, kind.names)
        count = sum(gone.doomed.counts.values())
        console.show_doomed(gone.doomed, index, what="have lost their file", to_stderr=json)
        if untold := sum(gone.untold.values()):
            console.note(f"{untold} rows are kept, since it is not known whether their file is there")
        if count and gone.doubt and dry_run:
            console.note(f"{gone.doubt}; without --dry-run this needs --yes")
        if count and not dry_run:
            if gone.doubt and not yes:
                raise EmbeddingIndexError(
                    f"{gone.doubt}; nothing was deleted. If the files are really gone, give --yes"
                )
            store.delete_rows(gone.doomed.labels)
            store.save_snapshots()
            erase(store, count)
        left = {one: 0 if dry_run else unreachable(store, one) for one in KINDS}
    console.show_deletion(gone.doomed, index, left, dry_run=dry_run, hint=False, as_json=json)
