"""A PACS that misbehaves, and what may never leave it. A real one: test_orthanc.py."""

import itertools
import logging
import ssl
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import json_lines, run_cli
from mcr_infer.errors import ConfigError, ImageError
from mcr_infer.sources import FileStamp, PacsAccess, Sources
from mcr_infer.sources.pacs.address import PacsAddress
from pacs_server import PATIENT, Answer, Asked, Pacs, multipart, results, row, serve, small_pacs

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


def test_instances_are_found_level_by_level_and_fetched_as_they_are_stored():
    with serve(small_pacs()) as pacs:
        found = sources(pacs, "/studies?Modality=DX&StudyDate=20200101-20201231&ViewPosition=PA")
        assert paths(found) == pacs.paths()
        assert found.count() is None
        first = next(iter(found))
        assert first.opened_by == "parent"
        assert first.stamp() == FileStamp(path=pacs.paths()[0], size=0, mtime_ns=0)
        assert [source.open().read() for source in found] == [bytes([s, n]) * 500 for s in range(3) for n in range(2)]
    searched = {asked.path: asked.query for asked in pacs.asked if "includefield" in asked.query}
    assert searched["/dicom-web/studies"]["ModalitiesInStudy"] == ["DX"]
    assert searched["/dicom-web/studies"]["StudyDate"] == ["20200101-20201231"]
    assert searched["/dicom-web/studies"]["includefield"] == ["StudyInstanceUID"]
    assert searched["/dicom-web/studies/1.0/series"]["Modality"] == ["DX"]
    assert searched["/dicom-web/studies/1.0/series/1.0.0/instances"]["ViewPosition"] == ["PA"]
    assert searched["/dicom-web/studies/1.0/series/1.0.0/instances"]["includefield"] == ["SOPInstanceUID"]
    (fetched,) = (
        asked for asked in pacs.asked if asked.path == "/dicom-web/studies/1.2/series/1.2.0/instances/1.2.0.1"
    )
    assert fetched.headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert pacs.connections == 1
    assert fetched.headers["Host"] == f"127.0.0.1:{pacs.port}"


def test_an_address_can_name_a_study_a_series_or_an_instance():
    with serve(small_pacs()) as pacs:
        assert paths(sources(pacs, "/studies/1.1")) == pacs.paths()[2:4]
        assert paths(sources(pacs, "/studies/1.1/series/1.1.0")) == pacs.paths()[2:4]
        asked = len(pacs.asked)
        assert paths(Sources([pacs.paths()[3]])) == [pacs.paths()[3]]
        assert len(pacs.asked) == asked  # what is named needs no search
        assert [source.open().read() for source in Sources([pacs.paths()[3]])] == [b"\1\1" * 500]


def many(count: int) -> Pacs:
    return Pacs(studies={"1": {"1.0": {f"1.0.{number}": b"" for number in range(count)}}})


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 7, 16])
@pytest.mark.parametrize(
    "behaviour",
    ["obeys", "sends less", "ignores offset", "ignores both", "repeats the end", "counts within the page", "shuffles"],
)
def test_no_way_of_paging_loses_results_or_goes_on_for_ever(count: int, behaviour: str):
    pacs = many(count)
    pacs.most = 1 if behaviour == "sends less" else None

    def fault(asked: Asked, _: int) -> Answer | None:
        if not asked.path.endswith("/instances"):
            return None
        every = [row(**{"00080018": instance}) for instance in pacs.studies["1"]["1.0"]]
        offset = int(asked.query["offset"][0])
        limit = int(asked.query["limit"][0])
        if behaviour == "ignores offset":
            return results(every[:limit])
        if behaviour == "counts within the page":  # Orthanc 1.10, where it is asked for ModalitiesInStudy
            return results(every[:limit][offset:])
        if behaviour == "shuffles" and len(pacs.asked) % 2:
            return results(every[::-1][offset : offset + limit])
        if behaviour == "ignores both":
            return results(every)
        if behaviour == "repeats the end" and offset >= count:
            return results(every[-2:])
        return None

    pacs.fault = fault
    with serve(pacs) as pacs:
        # With a filter, so that the number which the series states is not believed.
        found = paths(sources(pacs, "/studies?SOPClassUID=1.2"))
        assert len(found) == len(set(found))
        assert behaviour == "shuffles" or found == pacs.paths()
        assert times(pacs, "/instances") <= count + 2


def test_the_number_that_a_series_states_saves_a_request():
    with serve(small_pacs()) as pacs:
        assert len(paths(sources(pacs))) == 6
        assert times(pacs, "/instances") == 3


def test_series_of_other_modalities_are_not_asked_for():
    pacs = small_pacs()
    pacs.modalities = {"1.0.0": "CT", "1.2.0": "Not^A^Code"}
    with serve(pacs) as pacs:
        found = sources(pacs, "/studies")
        assert paths(found) == pacs.paths()[2:4]
        assert found.ignored == {"series of CT": 1, "series of another modality": 1}
        assert times(pacs, "/instances") == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again(status: int):
    pacs = small_pacs(studies=1)
    pacs.fault = lambda asked, before: Answer(status=status) if before < 2 else None
    with serve(pacs) as pacs:
        assert [source.open().read() for source in sources(pacs)] == [bytes([0, number]) * 500 for number in range(2)]
        assert times(pacs, "/instances/1.0.0.0") == 3


def test_a_server_that_asks_for_time_gets_it(monkeypatch: pytest.MonkeyPatch):
    pacs = small_pacs(studies=1)
    late = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
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
    assert 90 < waits[1] <= 100
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


def test_a_token_is_read_when_it_is_needed_and_shown_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "token"
    file.write_text("first.token\n")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(small_pacs(studies=1)) as pacs:
        one, two = sources(pacs, access=PacsAccess(token_file=str(file)))
        assert {asked.headers["Authorization"] for asked in pacs.asked} == {"Bearer first.token"}
        one.open()
        file.write_text("second.token")
        two.open()
        assert [asked.headers["Authorization"] for asked in pacs.asked[-2:]] == [
            "Bearer first.token",
            "Bearer second.token",
        ]
        file.write_text("a token\nin two lines")
        with pytest.raises(ImageError, match="holds no bearer token") as caught:
            two.open()
        assert "lines" not in str(caught.value)
        monkeypatch.setenv("MCR_INFER_PACS_TOKEN", "of.the.environment")
        next(iter(sources(pacs))).open()
        assert pacs.asked[-1].headers["Authorization"] == "Bearer of.the.environment"
        monkeypatch.delenv("MCR_INFER_PACS_TOKEN")
        next(iter(sources(pacs))).open()
        assert "Authorization" not in pacs.asked[-1].headers


def test_a_token_is_not_sent_where_everybody_can_read_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCR_INFER_PACS_TOKEN", "secret")
    with pytest.raises(ConfigError, match=r"not sent to pacs\.example without TLS") as caught:
        Sources(["dicomweb+http://pacs.example/studies"])
    assert "secret" not in str(caught.value)


def test_nobody_is_followed_elsewhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MCR_INFER_PACS_TOKEN", "secret")
    with serve(small_pacs()) as elsewhere, serve(small_pacs(studies=1)) as pacs:
        pacs.fault = lambda asked, before: Answer(
            status=302, headers={"Location": f"http://127.0.0.1:{elsewhere.port}/studies"}
        )
        (only,) = sources(pacs)
        with pytest.raises(ImageError, match=r"sends us elsewhere \(302\)"):
            only.open()
        assert elsewhere.asked == []


def test_what_was_searched_for_and_what_was_told_is_kept_nowhere(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
):
    secrets = ("4711", "Surname", "Forename", "19370415")
    pacs = small_pacs()
    pacs.fault = lambda asked, before: (
        Answer(status=503) if before == 0 else Answer(status=500) if asked.path.endswith("1.1/series") else None
    )
    query = "/studies?PatientID=4711&PatientName=Surname%5EForename&PatientBirthDate=19370415"
    with caplog.at_level(logging.WARNING), serve(pacs) as pacs:
        found = list(sources(pacs, query))
        told = [f"{source!r} {source.path} {source.stamp()}" for source in found]
        told += [reason(found[2].open), str(found[2]), repr(PacsAddress.parse(pacs.address + query))]
        assert pacs.asked[0].query["PatientID"] == ["4711"]
    told += [caplog.text, *capfd.readouterr()]
    assert len(found) == 5
    assert not any(secret in text for secret in secrets for text in told)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and one for a client, each its own authority."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("server", "client"):
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ]
        command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed: it makes the certificates of this test")
    return folder


def test_a_client_certificate_and_an_authority_of_ones_own(certificates: Path, monkeypatch: pytest.MonkeyPatch):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.load_verify_locations(certificates / "client.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    # requests prefers these to what its caller says.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates / "client.pem"))
    mine = {"certificate": str(certificates / "client.pem"), "key": str(certificates / "client.key")}
    authority = {"authority": str(certificates / "server.pem")}
    with serve(small_pacs(studies=1), tls=context) as pacs:
        address = f"dicomweb://127.0.0.1:{pacs.port}/dicom-web/studies"
        quick = {"first_wait": 0.001, "attempts": 2}
        found = list(Sources([address], pacs=PacsAccess(**mine, **authority, **quick)))
        assert [len(source.open().read()) for source in found] == [1000, 1000]
        for access, expected in ((mine, {"pacs_refused"}), (authority, {"pacs_refused", "pacs_unreachable"})):
            (only,) = Sources([address], pacs=PacsAccess(**access, **quick))
            assert reason(only.open) in expected


def test_a_pacs_is_embedded_once(tmp_path: Path):
    index = tmp_path / "index"
    with serve(small_pacs(tmp_path, studies=2)) as pacs:
        pacs.fault = lambda asked, before: Answer(status=404) if asked.path.endswith("1.1.0.1") else None
        command = ("embed-images", f"{pacs.address}/studies?Modality=DX&PatientID=4711", "--index", index, "--json")
        (summary,) = json_lines(run_cli(*command, code=3).stdout)
        assert (summary["embedded"], summary["unchanged"], summary["failed"]) == (3, 0, 1)
        assert summary["failures"][0]["path"] == pacs.paths()[3]
        fetched = times(pacs, "/1.0.0.0")
        (again,) = json_lines(run_cli(*command, code=3).stdout)
        assert (again["embedded"], again["unchanged"], again["failed"]) == (0, 3, 1)
        assert times(pacs, "/1.0.0.0") == fetched == 1
        hits = json_lines(run_cli("query", "normal", "--index", index, "--json").stdout)
        assert {hit["path"] for hit in hits} == set(pacs.paths()[:3])
    assert not any(b"4711" in file.read_bytes() for file in index.iterdir() if file.is_file())
