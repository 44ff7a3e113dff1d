"""A PACS that is slow, refuses, breaks off or answers nonsense."""

import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from mcr_infer.errors import ImageError
from mcr_infer.sources import PacsAccess, Sources
from mcr_infer.sources.dicomweb.transport import Transport
from pacs_server import (
    PATIENT,
    QUICK,
    Answer,
    Asked,
    multipart,
    reason,
    results,
    row,
    serve,
    small_pacs,
    sources,
    times,
)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again(status: int):
    pacs = small_pacs(studies=1)
    pacs.fault = lambda asked, before: Answer(status=status) if before < 2 else None
    with serve(pacs) as pacs:
        assert [source.open().read() for source in sources(pacs)] == [bytes([0, number]) * 500 for number in range(2)]
        assert times(pacs, "/instances/1.0.0.0") == 3


def test_a_server_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch):
    pacs = small_pacs(studies=1)
    late = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 250))
    asks = {0: "7", 1: late, 2: "86400", 3: "soon"}
    pacs.fault = lambda asked, before: (
        Answer(status=503, headers={"Retry-After": asks[before]})
        if asked.path.endswith("/1.0.0.0") and before in asks
        else None
    )
    with serve(pacs) as pacs:
        first = next(iter(sources(pacs, access=PacsAccess())))
        waits: list[float] = []
        monkeypatch.setattr(Transport, "_rest", lambda self, seconds: waits.append(seconds))
        assert len(first.open().read()) == 1000
    assert waits[0] == 7
    assert 100 < waits[1] <= 250
    assert waits[2] == 300  # within reason
    assert 4 <= waits[3] <= 8


def test_waits_grow_and_differ(monkeypatch: pytest.MonkeyPatch):
    pacs = small_pacs(studies=1)
    with serve(pacs) as pacs:
        first = next(iter(sources(pacs, access=PacsAccess())))
        pacs.fault = lambda asked, before: Answer(status=503)
        waits: list[float] = []
        monkeypatch.setattr(Transport, "_rest", lambda self, seconds: waits.append(seconds))
        with pytest.raises(
            ImageError, match="answers 503, 7 times in a row; run the same command again later"
        ) as caught:
            first.open()
    assert caught.value.reason == "pacs_unreachable"
    assert len(waits) == 6
    assert all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits))
    assert len({wait / 2**n for n, wait in enumerate(waits)}) == 6


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, "pacs_answer"), (401, "pacs_refused"), (403, "pacs_refused"), (404, "missing"), (500, "pacs_answer")],
)
def test_what_stays_as_it_is_is_not_tried_again(status: int, expected: str):
    pacs = small_pacs(studies=1)
    pacs.fault = lambda asked, before: (
        Answer(status=status, body=PATIENT.encode()) if asked.path.endswith(".1") else None
    )
    with serve(pacs) as pacs:
        good, bad = sources(pacs)
        assert len(good.open().read()) == 1000
        with pytest.raises(ImageError, match=f"127.0.0.1:{pacs.port}.*{status}") as caught:
            bad.open()
        assert caught.value.reason == expected
        assert PATIENT not in str(caught.value)
        assert times(pacs, "/instances/1.0.0.1") == 1


def test_a_refused_search_is_one_failure_in_the_name_of_the_address():
    pacs = small_pacs()
    pacs.fault = lambda asked, before: Answer(status=401)
    with serve(pacs) as pacs:
        (only,) = sources(pacs, "/studies?PatientID=4711")
        assert only.path == f"{pacs.address}/studies"
        assert reason(only.open) == "pacs_refused"
        assert len(pacs.asked) == 1


def test_a_study_that_cannot_be_listed_does_not_hide_the_others():
    pacs = small_pacs()
    pacs.fault = lambda asked, before: Answer(status=500) if "1.1/series" in asked.path else None
    with serve(pacs) as pacs:
        found = list(sources(pacs))
        assert [source.path for source in found] == [
            *pacs.paths()[:2],
            f"{pacs.address}/studies/1.1",
            *pacs.paths()[4:],
        ]
        assert reason(found[2].open) == "pacs_answer"


def first_failure(address: str, **access: object) -> str:
    (only,) = Sources([address], pacs=PacsAccess(first_wait=0.001, **access))
    with pytest.raises(ImageError) as caught:
        only.open()
    return str(caught.value)


def test_nobody_at_the_port_shows_at_once():
    with serve(small_pacs()) as pacs:
        pass
    told = first_failure(f"{pacs.address}/studies")
    assert "it refuses the connection (nothing listens at that port), 2 times in a row" in told


def test_a_name_that_does_not_resolve_shows_at_once():
    # RFC 6761 6.4: no name under it ever resolves.
    told = first_failure("dicomweb+http://pacs.invalid/dicom-web/studies")
    assert "its name cannot be resolved (check the address and the DNS), 2 times in a row" in told


def test_a_port_that_accepts_nobody_shows_within_the_limit():
    with socket.socket() as full, ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # the queue of the port is full: further connections get no answer
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(full.getsockname())
        told = first_failure(f"dicomweb+http://127.0.0.1:{full.getsockname()[1]}/d/studies", connect_seconds=0.2)
    assert "it does not accept the connection in time" in told


def test_a_pacs_that_says_nothing_is_told_from_one_that_is_away():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"dicomweb+http://127.0.0.1:{silent.getsockname()[1]}/d/studies"
        told = first_failure(address, read_seconds=0.1, attempts=3)
    assert "it accepts the connection and sends no answer in time, 3 times in a row" in told


def test_a_port_without_tls_says_so():
    with serve(small_pacs()) as pacs:
        told = first_failure(f"{pacs.address.replace('dicomweb+http', 'dicomweb')}/studies")
    assert "no TLS at that port: use dicomweb+http://" in told


def test_a_pacs_that_was_there_gets_all_attempts():
    with serve(small_pacs(studies=1)) as pacs:
        first = next(iter(sources(pacs, access=PacsAccess(first_wait=0.001, attempts=5))))
        first.service._transport.close()  # it would be asked over the connection that is open
    with pytest.raises(ImageError, match=r"refuses the connection .*, 5 times in a row"):
        first.open()


def test_attempts_are_noted():
    said: list[str] = []
    pacs = small_pacs(studies=1)
    pacs.fault = lambda asked, before: Answer(status=503) if before < 1 else None
    with serve(pacs) as pacs:
        found = list(sources(pacs, access=PacsAccess(first_wait=0.001, notify=said.append)))
    assert len(found) == 2
    assert said == [f"the PACS at 127.0.0.1:{pacs.port}: it answers 503; attempt 2 of 7 in 0 s"]


@pytest.mark.parametrize("fault", ["silent", "busy"])
def test_a_signal_ends_waiting_for_a_pacs(fault: str, tmp_path: Path):
    asked, held = threading.Event(), threading.Event()

    def answer(_: Asked, before: int) -> Answer:
        asked.set()
        if fault == "silent":
            held.wait(60)
        return Answer(status=503, headers={"Retry-After": "300"})

    pacs = small_pacs(studies=1)
    pacs.fault = answer
    with serve(pacs) as pacs:
        command = [sys.executable, "-m", "mcr_infer", "embed-images", f"{pacs.address}/studies", "--index", "index"]
        run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert asked.wait(60)
            if fault == "busy":
                assert run.stderr is not None
                noted = next(line for line in run.stderr if "attempt 2 of 7 in" in line)
                assert "it answers 503" in noted
            run.send_signal(signal.SIGTERM)
            # Without an end of its own it would go on for minutes.
            _, told = run.communicate(timeout=30)
        finally:
            held.set()
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in told
    assert "run the same command again to continue" in told


@pytest.mark.parametrize(
    "how", ["fewer bytes than announced", "no end of the envelope", "inside the header", "chunk missing"]
)
def test_an_answer_that_breaks_off_is_asked_for_again(how: str):
    pacs = small_pacs(studies=1)
    always = False

    def fault(asked: Asked, before: int) -> Answer | None:
        if not asked.path.endswith(".0.0") or (before > 0 and not always):
            return None
        answer = multipart(b"\0\0" * 500)
        if how == "fewer bytes than announced":
            return Answer(headers=answer.headers, body=answer.body[:600], announced=len(answer.body))
        if how == "chunk missing":
            return Answer(headers=answer.headers | {"Transfer-Encoding": "chunked"}, chunks=iter([b"200\r\n--B0"]))
        cut = 40 if how == "inside the header" else 700
        return Answer(headers=answer.headers, chunks=iter([answer.body[:cut]]))

    pacs.fault = fault
    with serve(pacs) as pacs:
        first = next(iter(sources(pacs)))
        assert first.open().read() == b"\0\0" * 500
        assert times(pacs, "/1.0.0.0") == 2
        always = True
        assert reason(first.open) == "pacs_unreachable"
        assert times(pacs, "/1.0.0.0") == 2 + QUICK.attempts


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(headers={"Content-Type": "text/html"}, body=PATIENT.encode()), "pacs_answer"),
        (Answer(headers={"Content-Type": "multipart/related; boundary=B0"}, body=b"--B0--\r\n"), "pacs_answer"),
        (Answer(headers={"Content-Type": "multipart/related"}, body=b"--B0\r\n\r\nx\r\n--B0--"), "pacs_answer"),
        (Answer(status=204), "pacs_answer"),
        (Answer(headers={"Content-Type": "multipart/related; boundary=B0"}, body=b"--B0--B0--"), "pacs_answer"),
    ],
)
def test_an_answer_without_an_instance_is_named(answer: Answer, expected: str):
    pacs = small_pacs(studies=1)
    pacs.fault = lambda asked, before: answer if asked.path.endswith(".0.0") else None
    with serve(pacs) as pacs, pytest.raises(ImageError) as caught:
        next(iter(sources(pacs))).open()
    assert caught.value.reason == expected
    assert PATIENT not in str(caught.value)


def test_an_instance_without_an_envelope_is_taken():
    pacs = small_pacs(studies=1)
    bare = Answer(headers={"Content-Type": "application/dicom"}, body=b"x" * 10)
    pacs.fault = lambda asked, before: bare if asked.path.endswith(".0.0") else None
    with serve(pacs) as pacs:
        assert next(iter(sources(pacs))).open().read() == b"x" * 10


def test_more_than_is_allowed_is_refused_before_it_is_in_memory():
    pacs = small_pacs(studies=1)
    endless = itertools.repeat(b"x" * 65536)
    pacs.fault = lambda asked, before: (
        Answer(headers=multipart(b"").headers, chunks=iter(endless)) if asked.path.endswith(".0.0") else None
    )
    with serve(pacs) as pacs:
        first = next(iter(sources(pacs, largest=2_000_000)))
        tracemalloc.start()
        with pytest.raises(ImageError, match="more than 2000000 bytes") as caught:
            first.open()
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
        tracemalloc.stop()
        assert caught.value.reason == "too_large"


def test_an_endless_search_answer_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mcr_infer.sources.dicomweb.transport.LARGEST_SEARCH_ANSWER", 1_000_000)
    pacs = small_pacs()
    pacs.fault = lambda asked, before: Answer(chunks=itertools.repeat(b" " * 65536))
    with serve(pacs) as pacs:
        (only,) = sources(pacs)
        with pytest.raises(ImageError, match="search for less at a time"):
            only.open()


@pytest.mark.parametrize(
    "body", [b"<html>Surname^Forename</html>", b'{"a": ["Surname^Forename"', b"[1, 2]", b"[" * 100_000]
)
def test_a_search_answer_that_is_none_is_not_quoted(body: bytes):
    pacs = small_pacs()
    pacs.fault = lambda asked, before: Answer(headers={"Content-Type": "application/dicom+json"}, body=body)
    with serve(pacs) as pacs:
        (only,) = sources(pacs)
        with pytest.raises(ImageError, match="other than DICOM JSON") as caught:
            only.open()
        assert PATIENT not in str(caught.value)


def test_results_without_a_valid_uid_reach_no_url():
    pacs = small_pacs()
    bad = [row(**{"0020000D": "../../secret"}), row(), row(**{"0020000D": 7}), row(**{"0020000D": "1.1"})]
    pacs.fault = lambda asked, before: (
        results(bad if asked.query["offset"] == ["0"] else []) if asked.path.endswith("/studies") else None
    )
    with serve(pacs) as pacs:
        *good, last = sources(pacs)
        assert [source.path for source in good] == pacs.paths()[2:4]
        with pytest.raises(ImageError, match="results that have no valid UID"):
            last.open()
        assert not any("secret" in asked.path for asked in pacs.asked)
