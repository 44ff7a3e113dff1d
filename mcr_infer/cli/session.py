"""Which bundle goes with which index: the policy behind `--index` and `--bundle`.

An index remembers its bundle, so a query names neither. Where no index is there yet, the bundle is the one that is named,
else the one that ships. A bundle that says something about itself (it knows phantoms only) says it here, once a command.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from mcr_infer.cli.output import note
from mcr_infer.errors import BundleError, IndexNotFoundError
from mcr_infer.index import KINDS, Index
from mcr_infer.index.manifest import Identity
from mcr_infer.index.root import working_folder
from mcr_infer.inference.bundle import Bundle
from mcr_infer.pipeline.missing_files import presence
from mcr_infer.retrieval import archive
from mcr_infer.retrieval.archive import SHIPPED

if TYPE_CHECKING:
    from mcr_infer.pipeline.deidentification import DeidentificationPolicy

_LOOKED_AT = 1_000
"""Rows of a kind whose paths say whether the working folder is the root of an index."""


def open_bundle(path: Path | None) -> Bundle:
    """Open a bundle (None = the one that ships) and print its notice, if it has one, on stderr."""
    return _noticed(Bundle.open(path))


def _noticed(bundle: Bundle) -> Bundle:
    if bundle.notice:
        note(bundle.notice)
    return bundle


def bundle_of(store: Index, named: Path | None) -> Bundle:
    """Open the bundle for an open index, as `mcr_infer.retrieval.archive.bundle_of` does, and print its notice on stderr."""
    return _noticed(archive.bundle_of(store, named))


def known_bundle(store: Index) -> Bundle | None:
    """Return the bundle that made an open index; None where it is not there, or another one is in its place."""
    try:
        bundle = Bundle.open(None if store.bundle_path == SHIPPED else Path(store.bundle_path))
    except BundleError:
        return None  # what an index holds can be told without its bundle
    return bundle if bundle.fingerprint == store.fingerprint else None


def naming_of(site_secret: Path | None, *, pseudonymise: bool) -> "DeidentificationPolicy":
    """Return how rows are to be named, as it was asked for. Raises `ConfigError`."""
    from mcr_infer.pipeline.deidentification import DeidentificationPolicy  # which a query does without
    from mcr_infer.pseudonyms import SiteSecret

    secret = None if site_secret is None else SiteSecret.read(site_secret)
    return DeidentificationPolicy(secret=secret, pseudonymous=pseudonymise)


def bundle_for(index: Path, named: Path | None, naming: "DeidentificationPolicy") -> Bundle:
    """Open the bundle for an index that may not be there yet: then the named one, else the one that ships.

    An index that names its rows otherwise is refused here, before anything is measured or opened (`IndexMismatchError`).
    """
    try:
        with Index.open(index, notify=note) as store:
            store.check_secret(naming.secret_check, pseudonymous=naming.pseudonymous)
            return bundle_of(store, named)
    except IndexNotFoundError:
        return open_bundle(named)


def identity_of(bundle: Bundle) -> Identity:
    """Return the identity of a new index of a bundle, but for its own id."""
    return Identity(
        index_id="",
        fingerprint=bundle.fingerprint,
        embedding_dim=bundle.embedding_dim,
        bundle=bundle.name,
        bundle_path=SHIPPED if bundle.shipped else str(bundle.path.resolve()),
    )


def open_for_writing(index: Path, bundle: Bundle, naming: "DeidentificationPolicy") -> Index:
    """Open an index for writing, or make it; raises `IndexMismatchError` when another bundle or secret made it.

    An index without a root, as earlier versions made them, or with one that is not there any more, takes the working folder
    for it if its first relative paths are found there.
    """
    store = Index.open_or_create(
        index,
        fingerprint=bundle.fingerprint,
        embedding_dim=bundle.embedding_dim,
        bundle=bundle.name,
        bundle_path=identity_of(bundle).bundle_path,
        pseudonymous=naming.pseudonymous,
        secret_check=naming.secret_check,
        notify=note,
    )
    try:
        if not store.finds_files and not naming.pseudonymous and _fit_here(store):
            store.set_root(working_folder())
    except BaseException:
        store.close()
        raise
    return store


def _fit_here(store: Index) -> bool:
    """True where no relative path, of the first that an index holds, was given in another folder than the working folder."""
    with store.snapshot():
        rows = (row for kind in KINDS for _, row in store.scan(kind, store.labels(kind)[:_LOOKED_AT]))
        return all(row.path is None or "://" in row.path or presence(row.path, row.kind) is not None for row in rows)
