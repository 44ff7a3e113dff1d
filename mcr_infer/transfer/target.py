"""The index that rows come into from elsewhere: an existing one of the same space, or a new one that is like the source."""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import Index
from mcr_infer.index.folder import create, holds_index
from mcr_infer.index.manifest import NO_BUNDLE, Identity
from mcr_infer.transfer.description import check_same_space

_FINGERPRINT = re.compile("[0-9a-f]{64}")


def foreign_identity(*, name: str, fingerprint: str | None, dim: int) -> Identity:
    """Return the identity of an index of a model without a bundle; without a fingerprint it follows from the name.

    Raises `EmbeddingIndexError` where the fingerprint is none, or there are no dimensions.
    """
    if fingerprint is not None and not _FINGERPRINT.fullmatch(fingerprint):
        raise EmbeddingIndexError(
            f"--fingerprint must be 64 hex digits, such as a SHA-256 of the weights; got {fingerprint!r}"
        )
    if dim < 1:
        raise EmbeddingIndexError(f"vectors need at least one dimension, got {dim}")
    digest = hashlib.sha256(f"mcr-infer model without a bundle: {name}".encode()).hexdigest()
    return Identity(
        index_id="",
        fingerprint=fingerprint or digest,
        embedding_dim=dim,
        bundle=name,
        bundle_path=NO_BUNDLE,
    )


def open_target(folder: Path, like: Identity, *, source: str, notify: Callable[[str], None] | None = None) -> Index:
    """Open an index for writing, or make it, so that rows of `like` may come in; `source` is where they come from.

    Raises `EmbeddingIndexError` where they are of another space or another kind of keys, and what `Index.open` raises.
    """
    if not holds_index(folder):
        create(folder, replace(like, index_id=os.urandom(16).hex()))
    index = Index.open(folder, writable=True, notify=notify)
    try:
        check_same_space(index.identity, like, place=f"index {folder}", other_place=source)
    except BaseException:
        index.close()
        raise
    return index
