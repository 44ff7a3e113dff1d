"""What an index holds a writer to: one site secret from its first row on, and in a pseudonymous one nothing but keys.

Rows with and without keys side by side would tell which key is which, and a patient of whom only some rows have the key
would be deleted in part.
"""

from collections.abc import Iterable
from pathlib import Path

from mcr_infer.errors import IndexMismatchError
from mcr_infer.files import FileStamp
from mcr_infer.index.manifest import Identity
from mcr_infer.index.rows import Row

_ELSEWHERE = "or embed into a new folder with --index"


def check_secret(folder: Path, identity: Identity, secret_check: str, *, pseudonymous: bool) -> None:
    """Raise `IndexMismatchError` unless a writer names rows as an index does; `secret_check` is empty for no secret."""
    if identity.secret_check != secret_check:
        if not secret_check:
            raise IndexMismatchError(
                f"index {folder} was made with a site secret, and none was given: name its file with --site-secret, "
                f"{_ELSEWHERE}"
            )
        if not identity.secret_check:
            raise IndexMismatchError(
                f"index {folder} was made without a site secret: its rows have no keys, so that a patient could be found "
                f"among the new ones only. Leave --site-secret out, {_ELSEWHERE}"
            )
        raise IndexMismatchError(
            f"index {folder} was made with another site secret than the one given: their keys have nothing in common. Name "
            f"the file of that secret with --site-secret, {_ELSEWHERE}"
        )
    if identity.pseudonymous and not pseudonymous:
        raise IndexMismatchError(
            f"index {folder} is pseudonymous: it keeps no paths and no UIDs. Give --pseudonymise, {_ELSEWHERE}"
        )
    if pseudonymous and not identity.pseudonymous:
        raise IndexMismatchError(
            f"index {folder} keeps paths and UIDs, and would keep those that it has: an index is pseudonymous from its "
            f"first row or never. Leave --pseudonymise out, {_ELSEWHERE}"
        )


def check_keyed(folder: Path, rows: Iterable[Row], files: Iterable[tuple[FileStamp, str]]) -> None:
    """Raise `IndexMismatchError`, which quotes nothing, where a row or a file is named otherwise than by keys."""
    from mcr_infer.pseudonyms import is_key  # which a query does without

    for row in rows:
        named = (row.study_uid, row.series_uid, row.patient_key, row.content_digest)
        if row.path is not None or row.text is not None:
            raise _refused(folder, f"a {row.kind} comes with a path or its words")
        if not all(is_key(text) for text in (row.id, *named) if text is not None):
            raise _refused(folder, f"a {row.kind} is named by something else")
    for stamp, id in files:
        if not (is_key(stamp.path) and is_key(id)):
            raise _refused(folder, "a file is named by something else")


def _refused(folder: Path, what: str) -> IndexMismatchError:
    return IndexMismatchError(
        f"index {folder} is pseudonymous and takes rows that are named by keys only: {what}; nothing of this batch was added"
    )
