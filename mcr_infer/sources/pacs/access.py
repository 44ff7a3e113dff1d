"""How a PACS is reached: what it is shown of us, whom we trust, and how patient we are."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mcr_infer.errors import ConfigError

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
