"""Who may see what of a PACS: tokens, certificates, redirects, and what is kept of what was asked."""

import logging
import ssl
import subprocess
from pathlib import Path

import pytest

from mcr_infer.errors import ConfigError, ImageError
from mcr_infer.sources import PacsAccess, Sources
from mcr_infer.sources.dicomweb.address import PacsAddress
from pacs_server import Answer, reason, serve, small_pacs, sources


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
        (untrusted,) = Sources([address], pacs=PacsAccess(**mine, **quick))
        with pytest.raises(ImageError, match="its certificate is not trusted: name its authority with --pacs-ca"):
            untrusted.open()
