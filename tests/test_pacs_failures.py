"""A PACS that is slow, refuses, breaks off or answers nonsense."""

import itertools
import time
import tracemalloc

import pytest

from mcr_infer.errors import ImageError
from mcr_infer.sources import PacsAccess
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
        monkeypatch.setattr("mcr_infer.sources.pacs.transport.time.sleep", waits.append)
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
        monkeypatch.setattr("mcr_infer.sources.pacs.transport.time.sleep", waits.append)
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


def test_nobody_at_the_port_is_unreachable():
    with serve(small_pacs()) as pacs:
        pass
    (only,) = sources(pacs, access=PacsAccess(first_wait=0.001, attempts=3))
    with pytest.raises(ImageError, match=r"the connection fails \(ConnectionError\), 3 times in a row"):
        only.open()


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
    monkeypatch.setattr("mcr_infer.sources.pacs.transport.LARGEST_SEARCH_ANSWER", 1_000_000)
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
        with pytest.raises(ImageError, match="no DICOM JSON") as caught:
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
