"""Addresses of a PACS, and what is needed to ask it; what it answers: test_pacs.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from mcr_infer.errors import ConfigError, ImageError
from mcr_infer.sources import NameList, PacsAccess, Sources
from mcr_infer.sources.dicomweb.address import PacsAddress


@pytest.mark.parametrize(
    ("address", "service", "shown"),
    [
        ("dicomweb://pacs/studies", "https://pacs", "dicomweb://pacs/studies"),
        ("dicomweb://pacs:8443/a/b/studies/?Modality=DX", "https://pacs:8443/a/b", "dicomweb://pacs:8443/a/b/studies"),
        ("dicomweb+http://[::1]:80/studies/1.2", "http://[::1]:80", "dicomweb+http://[::1]:80/studies/1.2"),
        ("dicomweb://p/studies/1/series/2", "https://p", "dicomweb://p/studies/1/series/2"),
        ("dicomweb://p/studies/1/series/2/instances/3", "https://p", "dicomweb://p/studies/1/series/2/instances/3"),
    ],
)
def test_addresses(address: str, service: str, shown: str):
    parsed = PacsAddress.parse(address)
    assert (parsed.service, parsed.shown) == (service, shown)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("dicomweb://pacs/dicom-web", "it names no studies"),
        ("dicomweb:///studies", "it names no studies"),
        ("dicomweb://pacs:port/studies", "its host or port is invalid"),
        ("dicomweb://me:secret@pacs/studies", "give a token"),
        ("dicomweb://pacs/studies?Modalty=DX", "Modalty, which is not a known keyword; did you mean Modality"),
        ("dicomweb://pacs/studies?limit=10", "limit"),
        ("dicomweb://pacs/studies?secret^4711=x", "it searches by something"),
        ("dicomweb://pacs/studies?Modality=", "Modality needs one value"),
        ("dicomweb://pacs/studies?Modality=DX&Modality=CR", "Modality needs one value"),
        ("dicomweb://pacs/studies/1.2?StudyDate=2020", "it names one study and searches for others by StudyDate"),
        ("dicomweb://pacs/studies/../../secret", "it names no studies"),
    ],
)
def test_wrong_addresses_are_explained_at_the_start_and_fail_alone_in_a_list(tmp_path: Path, address: str, why: str):
    with pytest.raises(ConfigError) as caught:
        Sources([address])
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)
    (tmp_path / "list").write_text(f"{address}\n1.dcm\n")
    wrong, right = Sources(names=NameList(path=str(tmp_path / "list")))
    assert right.path == "1.dcm"
    with pytest.raises(ImageError) as failed:
        wrong.open()
    assert failed.value.reason == "pacs_address"
    assert "?" not in wrong.path
    assert "me:" not in wrong.path


def test_files_for_the_connection_must_be_there(tmp_path: Path):
    for name in ("token_file", "certificate", "authority"):
        with pytest.raises(ConfigError, match=f"is no file; expected the {name.replace('_', ' ')} for the PACS"):
            PacsAccess(**{name: str(tmp_path / "gone")})
    (tmp_path / "key").touch()
    with pytest.raises(ConfigError, match="give both"):
        PacsAccess(key=str(tmp_path / "key"))


def test_without_the_extra_the_line_that_mends_it_is_printed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "dicomweb_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'mcr-infer\[pacs\]'"):
        Sources(["dicomweb://pacs.example/studies"])


def test_importing_the_sources_loads_nothing_that_a_folder_does_not_need():
    code = "import sys, mcr_infer.sources; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "mcr_infer" in loaded
    assert not loaded & {"requests", "urllib3", "dicomweb_client", "pydicom", "PIL"}
