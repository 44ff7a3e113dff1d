"""The address of a PACS as it is given on a command line, and the access to it: credentials, trust and patience."""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qsl, urlsplit

from mcr_infer.errors import ConfigError

_SCHEMES = MappingProxyType({"dicomweb": "https", "dicomweb+http": "http"})

_RESOURCE = re.compile(
    r"(?P<prefix>.*)/studies(?:/(?P<study>[0-9][0-9.]{0,63})(?:/series(?:/(?P<series>[0-9][0-9.]{0,63})"
    r"(?:/instances(?:/(?P<instance>[0-9][0-9.]{0,63}))?)?)?)?)?/?"
)
"""PS3.18 10.1.1, from the end of a path."""

STUDY_KEYS = (
    "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName", "PatientID",
    "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription",
)  # fmt: skip
SERIES_KEYS = (
    "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime", "BodyPartExamined",
    "Laterality", "PresentationIntentType", "ProtocolName", "PerformedProcedureStepStartDate", "Manufacturer",
    "InstitutionName", "StationName",
)  # fmt: skip
INSTANCE_KEYS = ("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "ViewPosition")
"""What may be asked for, by the level that has it (PS3.18 10.6.1.2.3, and what servers commonly index besides)."""


def is_pacs(text: str) -> bool:
    """True for the address of a PACS, or for the path of one of its instances."""
    return text.startswith(tuple(f"{scheme}://" for scheme in _SCHEMES))


def without_secrets(text: str) -> str:
    """Return an address that may be none without what was searched for and without a password, to be shown."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{re.split('[?#]', rest, maxsplit=1)[0].rpartition('@')[2]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsAddress:
    """A DICOMweb service and a selection of its instances."""

    scheme: str
    """`dicomweb` for HTTPS, `dicomweb+http` for plain HTTP."""
    host: str
    """With its port where one was given."""
    prefix: str
    """Path of the service on its host: empty, or `/` and more."""
    study: str | None = None
    series: str | None = None
    instance: str | None = None
    """The UIDs that the address names; None = all."""
    filters: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What to search for, by DICOM keyword; it can name a patient, so it is never shown."""

    @classmethod
    def parse(cls, text: str) -> "PacsAddress":
        """Take an address apart. Raises `ConfigError`, whose message does not repeat what was searched for."""
        try:
            parts = urlsplit(text)
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            port = parts.port
        except ValueError as error:
            raise _no_address("its host or port is invalid") from error
        if parts.username is not None or parts.password is not None:
            raise _no_address("a name or password in it would be stored with every radiograph: give a token (README)")
        match = _RESOURCE.fullmatch(parts.path)
        if not host or match is None or parts.fragment:
            raise _no_address("it names no studies")
        address = cls(
            scheme=parts.scheme,
            host=host if port is None else f"{host}:{port}",
            filters=MappingProxyType(_filters(parts.query)),
            **match.groupdict(),
        )
        pinned = {"study": STUDY_KEYS, "series": SERIES_KEYS, "instance": INSTANCE_KEYS}
        for level, keys in pinned.items():
            idle = sorted(set(address.filters) & set(keys))
            if getattr(address, level) is not None and idle:
                raise _no_address(f"it names one {level} and searches for others by {', '.join(idle)}")
        return address

    @property
    def service(self) -> str:
        """URL of the service, without a slash at its end."""
        return f"{_SCHEMES[self.scheme]}://{self.host}{self.prefix}"

    @property
    def plain(self) -> bool:
        """True where everybody on the way can read what is sent."""
        return _SCHEMES[self.scheme] == "http"

    @property
    def shown(self) -> str:
        """The address without what was searched for."""
        return self.path_of(self.study, self.series, self.instance)

    def path_of(self, study: str | None = None, series: str | None = None, instance: str | None = None) -> str:
        """Return the path under which a study, a series or an instance of this service is shown and stored."""
        path = f"{self.scheme}://{self.host}{self.prefix}/studies"
        for uid, level in ((study, ""), (series, "/series"), (instance, "/instances")):
            if uid is None:
                break
            path += f"{level}/{uid}"
        return path

    def filters_of(self, keys: tuple[str, ...]) -> dict[str, str]:
        """Return what to search for on one level."""
        return {key: value for key, value in self.filters.items() if key in keys}


def _filters(query: str) -> dict[str, str]:
    """Read a query string. Raises `ConfigError`."""
    known = (*STUDY_KEYS, *SERIES_KEYS, *INSTANCE_KEYS)
    filters: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f": one of {', '.join(known)}"
            # The key can be quoted if it looks like a keyword; it might be half of a name that was not escaped.
            quoted = key if re.fullmatch(r"[A-Za-z]{1,40}", key) else "something"
            raise _no_address(f"it searches by {quoted}, which is not a known keyword{hint}")
        if key in filters or not value:
            raise _no_address(f"{key} needs one value")
        filters[key] = value
    return filters


def _no_address(why: str) -> ConfigError:
    return ConfigError(
        f"the address of a PACS cannot be used: {why}. Expected dicomweb://HOST[:PORT]/PATH/studies?Modality=DX&... or "
        ".../studies/UID[/series/UID[/instances/UID]]; dicomweb+http:// for a server without TLS"
    )


TOKEN_VARIABLE = "MCR_INFER_PACS_TOKEN"
"""Environment variable that may hold the bearer token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsAccess:
    """Credentials by reference, never by value, and limits. Raises `ConfigError` for a file that is not there."""

    token_file: str | None = None
    """File that holds a bearer token (RFC 6750). It is read for every request, so a token may be renewed during a run."""
    token_variable: str = TOKEN_VARIABLE
    """Environment variable that holds one, where there is no file."""
    certificate: str | None = None
    """Client certificate, PEM; with its key, unless that stands in a file of its own."""
    key: str | None = None
    """Key of the client certificate, PEM, without a passphrase."""
    authority: str | None = None
    """Certificates of the authorities to trust, PEM; None = those that Python trusts."""
    attempts: int = 7
    """How often a request is made before its failure is believed: over two minutes with the waits between."""
    first_wait: float = 1.0
    """Seconds before the second attempt, about; each further wait is twice as long."""
    longest_wait: float = 60.0
    """Seconds; a server that asks for more by Retry-After gets up to five times as much."""
    connect_seconds: float = 10.0
    """Until a connection must stand."""
    read_seconds: float = 60.0
    """Between two pieces of an answer."""
    answer_seconds: float = 900.0
    """For a whole answer."""
    page: int = 500
    """Results that are asked for at once."""
    notify: Callable[[str], None] | None = None
    """Is told, in a sentence, when a request is made again; may be called from any thread."""

    def __post_init__(self) -> None:
        for name in ("token_file", "certificate", "key", "authority"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"{path!r} is no file; expected the {name.replace('_', ' ')} for the PACS")
        if self.page < 2:
            raise ConfigError(f"a page has at least 2 results, got {self.page}: where pages meet could not be checked")
        if self.key is not None and self.certificate is None:
            raise ConfigError("a key for the PACS is of no use without its certificate: give both")

    @property
    def client_certificate(self) -> str | tuple[str, str] | None:
        """What shows who we are, as requests takes it."""
        if self.certificate is None or self.key is None:
            return self.certificate
        return self.certificate, self.key

    def token(self) -> str | None:
        """Read the bearer token now; None where none is configured. Raises `ConfigError`, which never shows it."""
        if self.token_file is not None:
            try:
                where, token = self.token_file, Path(self.token_file).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"the token file {self.token_file} cannot be read") from error
        else:
            where, token = f"${self.token_variable}", os.environ.get(self.token_variable, "").strip()
            if not token:
                return None
        if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
            raise ConfigError(f"{where} holds no bearer token: expected one word of letters, digits and . _ ~ + / - =")
        return token
