"""Why a connection to a PACS fails, in words that say what to check; the texts of other libraries can quote the URL."""

import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import requests
import urllib3

_EXPIRED, _WRONG_NAME = 10, 62
"""X509_V_ERR_CERT_HAS_EXPIRED and X509_V_ERR_HOSTNAME_MISMATCH of OpenSSL."""

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_NOT_US = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN")


class Failure(NamedTuple):
    """What went wrong."""

    what: str
    reached: bool
    """False where no connection was made: at the beginning of a run the address is the first thing to doubt."""


_KINDS: tuple[tuple[tuple[type[BaseException], ...], Failure], ...] = (
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        Failure("its name cannot be resolved (check the address and the DNS)", reached=False),
    ),
    (
        (ConnectionRefusedError,),
        Failure("it refuses the connection (nothing listens at that port)", reached=False),
    ),
    (
        (urllib3.exceptions.NewConnectionError,),
        Failure("it cannot be reached (no route to it, or the network is down)", reached=False),
    ),
    (
        (requests.exceptions.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError),
        Failure("it does not accept the connection in time (check the address and firewalls)", reached=False),
    ),
    (
        (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError),
        Failure("it accepts the connection and sends no answer in time", reached=True),
    ),
)
"""The first that fits holds: the libraries wrap the narrow in the wide, and derive NewConnectionError from a timeout."""


def connection_failure(error: BaseException) -> Failure:
    """Say why a request got no answer."""
    causes = list(_causes(error))
    for kinds, failure in _KINDS:
        if any(isinstance(cause, kinds) for cause in causes):
            return failure
    return Failure(f"the connection fails ({type(error).__name__})", reached=True)


def tls_failure(error: BaseException) -> str:
    """Say why a TLS connection cannot be made."""
    cause = next((one for one in _causes(error) if isinstance(one, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        if cause.verify_code == _EXPIRED:
            return "its certificate has expired"
        if cause.verify_code == _WRONG_NAME:
            return "its certificate is for another host name"
        return "its certificate is not trusted: name its authority with --pacs-ca"
    reason = "" if cause is None else cause.reason or ""
    if any(word in reason for word in _NO_TLS):
        return "no TLS at that port: use dicomweb+http:// if it is meant to"
    if any(word in reason for word in _NOT_US):
        return "it requires a client certificate, or another one: --pacs-cert, --pacs-key"
    return "the handshake breaks off: check --pacs-ca, --pacs-cert and --pacs-key"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, as the libraries wrap them."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (getattr(one, "reason", None), one.__cause__, one.__context__, *one.args)
        waiting += [each for each in inner if isinstance(each, BaseException)]
