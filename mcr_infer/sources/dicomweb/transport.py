"""One request to a PACS: repeated while that can help, bounded in bytes and time, and never quoted in an error."""

import random
import re
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from io import BytesIO
from typing import Any, Never

import requests
import urllib3
from requests.adapters import HTTPAdapter

from mcr_infer.errors import BrokenImageError, ConfigError, ImageError, UnsupportedImageError
from mcr_infer.sources.dicomweb.address import PacsAccess
from mcr_infer.sources.dicomweb.diagnosis import connection_failure, tls_failure
from mcr_infer.sources.dicomweb.multipart import breaks_off

_AGAIN = frozenset({429, 502, 503, 504})
"""Too many requests, and what proxies answer while a server is away."""

_FINE = frozenset({200, 204, 206})
_PIECE = 1 << 20
_ENVELOPE = 1 << 20
"""Bytes that a multipart answer may have around its instance."""

LARGEST_SEARCH_ANSWER = 256 << 20
"""Bytes; a page of results takes some hundred KiB."""

_LOOPBACK = re.compile(r"(?:127\.0\.0\.1|\[::1\]|localhost)(?::\d+)?")


_FIRST_ATTEMPTS = 2
"""How often a PACS that never answered is tried: a wrong address shows within seconds, not after minutes."""

_NOTED_EVERY = 5.0
"""Seconds between two notes about attempts that failed; many requests wait at a time."""

_LOOKED_EVERY = 0.2
"""Seconds between two looks at whether the run is to end, while a request is under way."""


class _PassingError(Exception):
    """This attempt failed in a way that the next one need not."""

    def __init__(self, what: str, *, reached: bool = True) -> None:
        super().__init__(what)
        self.what, self.reached = what, reached


class Transport(HTTPAdapter):
    """What a `requests` session sends with: dicomweb-client is given such a session, and so is the retrieval.

    Its own retry would not do: urllib3 logs the URL of what it tries again, and dicomweb-client knows no Retry-After, tries
    refusals again and gives up on a broken connection. Answers are read here whole, within their limits, so that a body
    that breaks off is tried again, too. Raises `ImageError` with the reason `pacs_refused`, `pacs_unreachable`,
    `pacs_answer`, `missing` or `too_large`.
    """

    def __init__(self, host: str, access: PacsAccess, *, plain: bool, largest: int) -> None:
        super().__init__(pool_maxsize=16, max_retries=0)
        self._host, self._access, self._plain, self._largest = host, access, plain, largest
        self._answered, self._noted = False, -_NOTED_EVERY
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let every request end at once, those that wait and those under way. May be called from a signal handler."""
        self._cancelled.set()

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002 - answers are always read here
        timeout: object = None,  # noqa: ARG002 - that of the access holds
        verify: bool | str = True,
        cert: object = None,  # noqa: ARG002 - likewise
        proxies: dict[str, str] | None = None,
    ) -> requests.Response:
        """Make a request until it succeeds, cannot succeed, or has been made often enough."""
        # dicomweb-client leaves the port out of it.
        request.headers.pop("Host", None)
        request.headers["Accept-Encoding"] = "identity"
        attempts = self._access.attempts
        for attempt in range(1, attempts + 1):
            self._authorise(request)
            wait = self._pause(attempt)
            try:
                response = self._while_wanted(partial(self._attempt, request, verify, proxies))
            except _PassingError as error:
                failure = error.what
                if not error.reached and not self._answered:
                    attempts = min(attempts, _FIRST_ATTEMPTS)
            else:
                self._answered = True
                if response.status_code not in _AGAIN:
                    return response
                failure = f"it answers {response.status_code}"
                wait = max(wait, self._asked_for(response))
            if attempt >= attempts:
                break
            self._note(f"the PACS at {self._host}: {failure}; attempt {attempt + 1} of {attempts} in {wait:.0f} s")
            self._rest(wait)
        raise BrokenImageError(
            f"the PACS at {self._host} does not answer: {failure}, {attempts} times in a row; "
            "run the same command again later",
            reason="pacs_unreachable",
        )

    def _while_wanted(self, call: Callable[[], requests.Response]) -> requests.Response:
        """Make a call in a thread of its own, and stop waiting for it once the run is to end. Raises what it raises.

        A signal does not interrupt a socket: Python goes on reading after its handler has run.
        """
        future: Future[requests.Response] = Future()

        def work() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                future.set_exception(error)

        threading.Thread(target=work, name="pacs", daemon=True).start()
        while not self._cancelled.is_set():
            try:
                return future.result(timeout=_LOOKED_EVERY)
            except FutureTimeoutError:
                if future.done():  # it was the call that ran out of time
                    raise
        raise self._ended()

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt. Raises `BrokenImageError` where the run ends meanwhile."""
        if self._cancelled.wait(seconds):
            raise self._ended()

    def _ended(self) -> BrokenImageError:
        return BrokenImageError("the run was ended while the PACS was asked", reason="pacs_unreachable")

    def _note(self, sentence: str) -> None:
        now = time.monotonic()
        if self._access.notify is not None and now - self._noted >= _NOTED_EVERY:
            self._noted = now
            self._access.notify(sentence)

    def _authorise(self, request: requests.PreparedRequest) -> None:
        """Add the token as it is now. Raises `BrokenImageError`."""
        request.headers.pop("Authorization", None)  # of a .netrc that nobody thought of
        try:
            token = self.token()
        except ConfigError as error:  # that it was fine when the run began makes it a failure of this request
            raise BrokenImageError(str(error), reason="pacs_refused") from error
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"

    def token(self) -> str | None:
        """Return the token as it is now. Raises `ConfigError` where it would be sent for everybody on the way to read."""
        token = self._access.token()
        if token is not None and self._plain and not _LOOPBACK.fullmatch(self._host):
            raise ConfigError(
                f"a token is not sent to {self._host} without TLS: use dicomweb://, or take the token away"
            )
        return token

    def _pause(self, attempt: int) -> float:
        """Return how long to wait after an attempt, in seconds; by chance, so that many do not come back at once."""
        longest = min(self._access.longest_wait, self._access.first_wait * 2.0 ** (attempt - 1))
        return random.uniform(0.5, 1.0) * longest

    def _asked_for(self, response: requests.Response) -> float:
        """Return how long the server asks to wait, in seconds (RFC 9110 10.2.3), within reason."""
        told = response.headers.get("Retry-After", "")
        try:
            seconds: float = float(told) if told.isdecimal() else (
                parsedate_to_datetime(told) - datetime.now(UTC)
            ).total_seconds()  # fmt: skip
        except (TypeError, ValueError):
            return 0.0
        return max(0.0, min(seconds, 5 * self._access.longest_wait))

    def _attempt(
        self, request: requests.PreparedRequest, verify: bool | str, proxies: dict[str, str] | None
    ) -> requests.Response:
        """Make a request once and read its answer. Raises `_PassingError`, or `ImageError` for what stays as it is."""
        seconds = self._access.connect_seconds, self._access.read_seconds
        try:
            response = super().send(
                request, stream=True, timeout=seconds, verify=self._access.authority or verify,
                cert=self._access.client_certificate, proxies=proxies,
            )  # fmt: skip
            try:
                if response.status_code in _AGAIN:
                    return response
                if response.status_code not in _FINE:
                    self._refuse(response.status_code)
                body = self._read(response, request)
            finally:
                response.close()
        except (requests.exceptions.SSLError, ssl.SSLError) as error:
            raise BrokenImageError(
                f"the TLS connection to the PACS at {self._host} fails: {tls_failure(error)}", reason="pacs_refused"
            ) from None
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            failure = connection_failure(error)
            raise _PassingError(failure.what, reached=failure.reached) from None
        if breaks_off(response.headers.get("Content-Type", ""), body):
            raise _PassingError("its answer breaks off")
        response.raw = BytesIO(body)
        # dicomweb-client would print it: words of a server, to whoever reads the log.
        response.headers.pop("Warning", None)
        return response

    def _refuse(self, status: int) -> Never:
        """Raise the error that a status means."""
        if status in (404, 410):
            raise BrokenImageError(f"the PACS at {self._host} does not have it ({status})", reason="missing")
        if status in (401, 403):
            raise BrokenImageError(
                f"the PACS at {self._host} refuses access ({status}): check the token (--pacs-token-file or "
                f"${self._access.token_variable}) or the certificate (--pacs-cert)",
                reason="pacs_refused",
            )
        if 300 <= status < 400:
            raise BrokenImageError(
                f"the PACS at {self._host} sends us elsewhere ({status}), where neither token nor trust may hold: give the "
                "address where it wants to be asked",
                reason="pacs_refused",
            )
        raise BrokenImageError(f"the PACS at {self._host} cannot answer ({status})", reason="pacs_answer")

    def _read(self, response: requests.Response, request: requests.PreparedRequest) -> bytes:
        """Read an answer whole. Raises `UnsupportedImageError` (`too_large`) as soon as it is larger than it may be."""
        searching = "json" in str(request.headers.get("Accept"))
        most = LARGEST_SEARCH_ANSWER if searching else self._largest + _ENVELOPE
        until, body = time.monotonic() + self._access.answer_seconds, bytearray()
        raw: Any = response.raw
        for piece in raw.stream(_PIECE, decode_content=True):
            body += piece
            if len(body) > most:
                raise self._too_large(most, searching)
            if time.monotonic() > until:
                raise _PassingError("its answer does not come to an end")
        return bytes(body)

    def _too_large(self, most: int, searching: bool) -> ImageError:
        if searching:
            return BrokenImageError(
                f"the PACS at {self._host} answers a search with more than {most} bytes, whatever page is asked for: search "
                "for less at a time, a month by StudyDate, say",
                reason="pacs_answer",
            )
        return UnsupportedImageError(f"the instance has more than {self._largest} bytes", reason="too_large")
