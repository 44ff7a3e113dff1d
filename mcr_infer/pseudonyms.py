"""Keys that stand for identifiers: HMAC-SHA256 under a secret of the site (RFC 2104), one space of keys for each kind.

    file with the site secret -> SiteSecret -> a key for each UID, path, report or patient -> rows of an index

Without the secret nobody can tell from a key what it stands for, nor test a guess: there are few enough UIDs of a known
root, paths and patient ids that a plain hash of them is undone by trying them all. Keys of two secrets have nothing in
common, so two sites cannot join their indexes by them; keys of two kinds neither, so a patient's key says nothing of a path.
Under one secret a key is the same in every run, index and release: that is how rows are found again, and deleted.

What this does not do. Whoever has the secret can test any identifier, so it belongs to those who may know the patients. Keys
are pseudonyms and not anonymity: rows of one patient stay recognisable as rows of one. And an embedding is patient data,
whatever its row is called: who has a radiograph can embed it and look for its neighbour.
"""

import contextlib
import hmac
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from mcr_infer.errors import ConfigError

SHORTEST = 32
"""Bytes of a site secret: as many as the digest has, and no fewer (RFC 2104, 3)."""

LONGEST = 4096
"""Bytes; what is longer is some other file."""

_FEWEST_DIFFERENT = 8
"""Different bytes in a secret: 32 zeros are long enough and no secret."""

_READABLE_BY_OTHERS = 0o077

_SPACE = b"mcr-infer pseudonyms 1: "
"""Keeps these keys apart from whatever else a site derives from its secret."""

_KEY = re.compile("[0-9a-f]{64}")
_ADDRESS = re.compile(r"[a-z][a-z0-9+]*://")

_MAKE_ONE = "(umask 077; openssl rand -hex 32 > site-secret)"


def is_key(text: str) -> bool:
    """True for what has the form of a key: 64 hex digits."""
    return _KEY.fullmatch(text) is not None


def _derive(key: bytes, *parts: str) -> bytes:
    """Return the HMAC over values that cannot run into each other: each one stands behind its length."""
    message = bytearray()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        message += len(data).to_bytes(8, "big") + data
    return hmac.digest(key, bytes(message), "sha256")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class PatientSecret:
    """What makes the keys of patients and of nothing else: derived from a site secret, which does not follow from it.

    A decode worker is told this one, since it meets hostile files.
    """

    derived: bytes

    def key(self, patient_id: str, issuer: str | None = None) -> str:
        """Return the key of a patient: of Patient ID (0010,0020), and of Issuer of Patient ID (0010,0021) where that is.

        The same id of another issuer is another patient. Spaces around a value mean nothing (PS3.5 6.2, LO). Raises
        `ConfigError` for an id without a character.
        """
        id, of = _plain(patient_id), _plain(issuer or "")
        if not id:
            raise ConfigError("the id of a patient has no character; expected Patient ID (0010,0020)")
        return _derive(self.derived, id, of).hex()

    def to_text(self) -> str:
        """Return it for a private channel."""
        return self.derived.hex()

    @classmethod
    def from_text(cls, text: str) -> "PatientSecret":
        """Read what `to_text` returned."""
        return cls(derived=bytes.fromhex(text))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class SiteSecret:
    """The secret of a site. It is never printed, logged or stored; keys are 64 hex digits.

    Raises `ConfigError` for a content that is too short, too long, or of a few bytes over and over.
    """

    content: bytes

    def __post_init__(self) -> None:
        found = len(self.content)
        if not SHORTEST <= found <= LONGEST:
            raise ConfigError(
                f"the site secret has {min(found, LONGEST + 1)} bytes{' or more' if found > LONGEST else ''}, expected "
                f"{SHORTEST} to {LONGEST}: make one with {_MAKE_ONE}"
            )
        if len(set(self.content)) < _FEWEST_DIFFERENT:
            raise ConfigError(
                f"the site secret consists of fewer than {_FEWEST_DIFFERENT} different bytes, which can be guessed: make "
                f"one with {_MAKE_ONE}"
            )

    @classmethod
    def read(cls, path: str | Path) -> "SiteSecret":
        """Read a secret from a file that nobody but its owner may read: all of its bytes, a line end included.

        Raises `ConfigError`.
        """
        try:
            with Path(path).open("rb", buffering=0) as file:
                # Of the open file: between a look at the name and the opening it could become another.
                mode = os.fstat(file.fileno()).st_mode
                if mode & _READABLE_BY_OTHERS:
                    raise ConfigError(
                        f"the site secret {path} is open to others than its owner (mode {mode & 0o777:04o}, expected 0600 "
                        f"or less): chmod 600 {path}. If others may have read it, make a new one, and new indexes with it"
                    )
                content = b""
                while len(content) <= LONGEST and (part := file.read(LONGEST + 1 - len(content))):
                    content += part
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "no path"
            raise ConfigError(
                f"the site secret {path} cannot be read: {why}. Where there is none yet, make one with {_MAKE_ONE}, "
                "and keep it as long as the indexes that are made with it"
            ) from error
        return cls(content=content)

    def check(self) -> str:
        """Return by what this secret is known again; an index keeps it. It says nothing of the secret, nor of any key."""
        return self._of("check")

    def image_key(self, uid: str) -> str:
        """Return the key of an image: of its SOP Instance UID, or of the id that it has without one."""
        return self._of("image", uid)

    def study_key(self, uid: str) -> str:
        """Return the key of a study, the same for its radiographs and its reports."""
        return self._of("study", uid)

    def series_key(self, uid: str) -> str:
        """Return the key of a series."""
        return self._of("series", uid)

    def report_key(self, id: str) -> str:
        """Return the key of a report, of its id."""
        return self._of("report", id)

    def path_key(self, path: str) -> str:
        """Return the key of a path, made absolute first, so that it does not depend on where a run is started.

        Links are not followed. The address of an instance of a PACS is taken as it stands. What counts are the bytes that
        the file system knows, so that it does not depend on the locale either.
        """
        whole = path if _ADDRESS.match(path) else os.path.abspath(path)  # noqa: PTH100 - the spelling
        with contextlib.suppress(UnicodeEncodeError):  # of a name inside an archive, which is UTF-8 everywhere
            whole = os.fsencode(whole).decode("utf-8", "surrogateescape")
        return self._of("path", whole)

    def stamp_key(self, path: str, *looks: int) -> str:
        """Return the key of how a file looked: when it was written is often when the study was made."""
        return self._of("stamp", self.path_key(path), *map(str, looks))

    def content_key(self, digest: str) -> str:
        """Return the key of a digest of pixels or of a report's words, which can be tried one after the other."""
        return self._of("content", digest)

    def patient_key(self, patient_id: str, issuer: str | None = None) -> str:
        """Return the key of a patient, see `PatientSecret.key`."""
        return self.patients().key(patient_id, issuer)

    def patients(self) -> PatientSecret:
        """Return what makes keys of patients alone."""
        return PatientSecret(derived=self._space("patient"))

    def _of(self, kind: str, *values: str) -> str:
        return _derive(self._space(kind), *values).hex()

    def _space(self, kind: str) -> bytes:
        """Return the secret of one kind of identifiers."""
        return hmac.digest(self.content, _SPACE + kind.encode("ascii"), "sha256")


def _plain(text: str) -> str:
    """Return a text value without what DICOM pads it with, in one of the spellings that Unicode has for it."""
    return unicodedata.normalize("NFC", text.strip(" \0"))
