"""A DICOMweb server of the standard library, whose every answer a test can replace by a fault."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mcr_infer.errors import ImageError
from mcr_infer.sources import PacsAccess, Sources

PATIENT = "Surname^Forename"


@dataclass(kw_only=True)
class Asked:
    """One request as the server saw it."""

    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]


@dataclass(kw_only=True)
class Answer:
    """What the server sends; `chunks` instead of a body never say how long they will be."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    announced: int | None = None
    """Bytes that are announced, if others than are sent."""
    chunks: Iterator[bytes] | None = None


@dataclass(kw_only=True)
class Pacs:
    """Instances by study and series, and what was asked for. `fault` may answer in place of the server, or return None."""

    studies: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    modalities: dict[str, str] = field(default_factory=dict)
    """Of series that are not DX."""
    most: int | None = None
    """Results that the server sends at once, whatever is asked for."""
    fault: Callable[[Asked, int], Answer | None] = lambda asked, number: None
    """Is told what was asked for and how often that path has been asked for before."""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def address(self) -> str:
        return f"dicomweb+http://127.0.0.1:{self.port}/dicom-web"

    def paths(self) -> list[str]:
        """Return the paths under which all instances are shown, in order."""
        return [
            f"{self.address}/studies/{study}/series/{series}/instances/{instance}"
            for study, all_series in self.studies.items()
            for series, instances in all_series.items()
            for instance in instances
        ]

    def answer(self, asked: Asked) -> Answer:
        """Answer a request, as PS3.18 10.4 and 10.6 say."""
        match asked.path.removeprefix("/dicom-web").strip("/").split("/"):
            case ["studies"]:
                return self._page(asked, [row(**{"0020000D": study}) for study in self.studies])
            case ["studies", study, "series"]:
                rows = [
                    row(**{"0020000E": series, "00080060": self.modalities.get(series, "DX"), "00201209": len(found)})
                    for series, found in self.studies[study].items()
                ]
                return self._page(asked, rows)
            case ["studies", study, "series", series, "instances"]:
                return self._page(asked, [row(**{"00080018": instance}) for instance in self.studies[study][series]])
            case ["studies", study, "series", series, "instances", instance]:
                return multipart(self.studies[study][series][instance])
        return Answer(status=404)

    def _page(self, asked: Asked, rows: list[dict]) -> Answer:
        offset, limit = int(asked.query["offset"][0]), int(asked.query["limit"][0])
        return results(rows[offset : offset + min(limit, self.most or limit)])


def row(**values: str | int) -> dict:
    """Return one result of a search; like a real one it tells more than it was asked for."""
    told = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": PATIENT}]}, "00100020": {"vr": "LO", "Value": ["4711"]}}
    return told | {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items()}


def results(rows: list[dict]) -> Answer:
    """Return the answer to a search."""
    return Answer(headers={"Content-Type": "application/dicom+json"}, body=json.dumps(rows).encode())


def multipart(data: bytes, *, end: bytes = b"\r\n--B0--\r\n") -> Answer:
    """Return an instance in its envelope."""
    head = b"\r\n--B0\r\nContent-Type: application/dicom; transfer-syntax=1.2.840.10008.1.2.1\r\n\r\n"
    content_type = 'multipart/related; type="application/dicom"; boundary="B0"'
    return Answer(headers={"Content-Type": content_type}, body=head + data + end)


@contextmanager
def serve(pacs: Pacs, *, tls: ssl.SSLContext | None = None) -> Iterator[Pacs]:
    """Run a server on a free port of loopback for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60
        wbufsize = 1 << 16  # head and body in one packet: two would wait for each other

        def setup(self) -> None:
            pacs.connections += 1
            super().setup()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            asked = Asked(path=parts.path, query=parse_qs(parts.query), headers=dict(self.headers))
            before = sum(one.path == asked.path for one in pacs.asked)
            pacs.asked.append(asked)
            answer = pacs.fault(asked, before) or pacs.answer(asked)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.close_connection = answer.chunks is not None or answer.announced is not None
            if answer.chunks is None:
                self.send_header("Content-Length", str(answer.announced or len(answer.body)))
            self.end_headers()
            try:
                for piece in answer.chunks or (answer.body,):
                    self.wfile.write(piece)
            except OSError:
                self.close_connection = True  # the client has heard enough

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # TLS that did not come about

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    pacs.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
    thread.start()
    try:
        yield pacs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def small_pacs(folder: Path | None = None, *, studies: int = 3) -> Pacs:
    """Return a server of one series a study and two instances a series, of arbitrary bytes or of phantoms in `folder`."""
    from mcr_infer import phantom
    from mcr_infer.phantom.dicom import write_dicom

    found: dict[str, dict[str, dict[str, bytes]]] = {}
    for study in range(studies):
        instances = {}
        for number in range(2):
            data = bytes([study, number]) * 500
            if folder is not None:
                path = folder / "phantom.dcm"
                write_dicom(phantom.make(2 * study + number, 64), path)
                data = path.read_bytes()
                path.unlink()
            instances[f"1.{study}.0.{number}"] = data
        found[f"1.{study}"] = {f"1.{study}.0": instances}
    return Pacs(studies=found)


QUICK = PacsAccess(first_wait=0.001, longest_wait=0.002, page=2)


def sources(pacs: Pacs, query: str = "/studies?Modality=DX", access: PacsAccess = QUICK, **limits: int) -> Sources:
    return Sources([pacs.address + query], pacs=access, **limits)


def paths(found: Sources) -> list[str]:
    return [source.path for source in found]


def reason(open_: Callable[[], object]) -> str:
    with pytest.raises(ImageError) as caught:
        open_()
    return caught.value.reason


def times(pacs: Pacs, ending: str) -> int:
    return sum(asked.path.endswith(ending) for asked in pacs.asked)
