"""What a file of vectors says about itself, so that it comes back into the right index or into none."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index.manifest import Identity, identity_of
from mcr_infer.index.rows import KINDS

FORMAT = "mcr-infer vectors"
VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Whose vectors these are, and how many."""

    identity: Identity
    """Of the index that they come from."""

    rows: Mapping[str, int]
    """By kind."""

    with_text: bool
    """True where the text of reports, as far as the index keeps it, came along."""

    digests: Mapping[str, str]
    """Hex SHA-256 of files beside the description, by name; empty where it stands in the file itself."""

    def to_json(self) -> str:
        """Return it in ASCII."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self.identity)}
        values |= {"rows": dict(self.rows), "with_text": self.with_text, "digests": dict(self.digests)}
        return json.dumps(values, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "Description":
        """Read what `to_json` wrote; `where` names the file. Raises `EmbeddingIndexError`."""
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError("format")
            version = values["version"]
            if type(version) is int and version > VERSION:
                raise EmbeddingIndexError(
                    f"{where} has version {version} of its format, this mcr-infer reads up to {VERSION}: install the "
                    "release that wrote it, or a later one"
                )
            return cls(
                identity=identity_of(values),
                rows={kind: int(values["rows"][kind]) for kind in KINDS if kind in values["rows"]},
                with_text=bool(values["with_text"]),
                digests={str(name): str(digest) for name, digest in values["digests"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as exc:
            raise EmbeddingIndexError(
                f"{where} is damaged: it begins as an export of mcr-infer and does not go on as one; export again"
            ) from exc


def check_same_space(one: Identity, other: Identity, *, place: str, other_place: str) -> None:
    """Raise `EmbeddingIndexError` unless rows of one index may stand in another: one space, one kind of keys."""
    if one.fingerprint != other.fingerprint or one.embedding_dim != other.embedding_dim:
        raise EmbeddingIndexError(
            f"{place} holds vectors of {one.bundle!r} (fingerprint {one.fingerprint[:12]}, {one.embedding_dim} dimensions), "
            f"{other_place} of {other.bundle!r} (fingerprint {other.fingerprint[:12]}, {other.embedding_dim} dimensions): "
            "they cannot be compared. Keep them in indexes of their own"
        )
    if one.pseudonymous != other.pseudonymous:
        plain, keyed = (place, other_place) if other.pseudonymous else (other_place, place)
        raise EmbeddingIndexError(
            f"{keyed} is pseudonymous and {plain} keeps UIDs and paths: together they would tell which is which. Embed what "
            f"{plain} holds into a pseudonymous index, too"
        )
    if bool(one.secret_check) != bool(other.secret_check):
        keyless, keyed = (place, other_place) if other.secret_check else (other_place, place)
        raise EmbeddingIndexError(
            f"rows of {keyed} have keys of their patients and rows of {keyless} have none: a deletion by patient would miss "
            f"these. Embed what {keyless} holds with the site secret, too"
        )
    if one.secret_check != other.secret_check:
        raise EmbeddingIndexError(
            f"the keys in {place} and {other_place} were made with two site secrets: one patient would have two keys. "
            "Embed again with one of the secrets"
        )
