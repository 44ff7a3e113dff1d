"""A real PACS: Orthanc, which `.ci/pacs-tests` starts where nobody else can reach it."""

import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage

from conftest import json_lines, run_cli
from mcr_infer import phantom, read_image
from mcr_infer.errors import ImageError
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.sources import PacsAccess, Source, Sources

VARIABLE = "MCR_INFER_TEST_ORTHANC"
URL = os.environ.get(VARIABLE)

pytestmark = pytest.mark.skipif(
    URL is None, reason=f"no Orthanc: run .ci/pacs-tests, or set ${VARIABLE} to the URL of one that may be written to"
)

EXPLICIT, JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
ENCODERS = {
    JPEG_2000: lambda pixels: imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, codecformat="j2k"),
    JPEG_LS: imagecodecs.jpegls_encode,
}


@dataclass(kw_only=True)
class Orthanc:
    """What the tests put into the server, by the path under which it is shown."""

    address: str
    stored: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def store(self, data: pydicom.Dataset, folder: Path) -> str:
        """Store a data set and return the path of its instance."""
        file = folder / "stored.dcm"
        data.save_as(file, enforce_file_format=True)
        answer = request("POST", "/instances", file.read_bytes())
        self.names.append(json.loads(answer)["ID"])
        path = f"{self.address}/studies/{data.StudyInstanceUID}/series/{data.SeriesInstanceUID}"
        path += f"/instances/{data.SOPInstanceUID}"
        self.stored[path] = file.read_bytes()
        return path


def request(method: str, path: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(f"{URL}{path}", data=body, method=method), timeout=30) as answer:
        return answer.read()


def dataset(seed: int, folder: Path, syntax: str = EXPLICIT, **attributes: str) -> pydicom.Dataset:
    """Return a phantom of 64 px as a data set, its pixels encoded in a transfer syntax."""
    write_dicom(phantom.make(seed, 64), folder / "plain.dcm")
    data = pydicom.dcmread(folder / "plain.dcm")
    if syntax in ENCODERS:
        data.PixelData = encapsulate([ENCODERS[syntax](data.pixel_array)])
        data["PixelData"].VR = "OB"
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = UID(syntax)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return data


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Three transfer syntaxes, a series of five instances, a study of another year, and one of CT."""
    assert URL is not None
    folder = tmp_path_factory.mktemp("stored")
    server = Orthanc(address=f"{URL.replace('http://', 'dicomweb+http://')}/dicom-web")
    for seed, syntax in enumerate((EXPLICIT, JPEG_2000, JPEG_LS), start=900):
        server.store(dataset(seed, folder, syntax), folder)
    for number in range(1, 5):  # into the series of the first
        data = dataset(900, folder, SOPInstanceUID=f"2.25.900900{number}")
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        server.store(data, folder)
    server.store(dataset(910, folder, StudyDate="20190704"), folder)
    data = dataset(911, folder, Modality="CT", SOPClassUID=CTImageStorage)
    data.file_meta.MediaStorageSOPClassUID = CTImageStorage
    server.store(data, folder)
    yield server
    for name in server.names:
        request("DELETE", f"/instances/{name}")


def fetch(source: Source) -> bytes:
    with source.open() as stream:
        return stream.read()


@pytest.mark.parametrize("page", [2, 3, 500])
def test_every_instance_is_found_and_comes_as_it_is_stored(orthanc: Orthanc, page: int):
    found = Sources([f"{orthanc.address}/studies?Modality=DX"], pacs=PacsAccess(page=page))
    fetched = {source.path: fetch(source) for source in found}
    expected = dict(list(orthanc.stored.items())[:-1])
    assert len(expected) == 8
    assert fetched == expected
    assert len(list(found)) == 8  # none of them twice


def test_what_is_searched_for_is_what_is_found(orthanc: Orthanc):
    def found(query: str) -> set[str]:
        return {source.path for source in Sources([f"{orthanc.address}/studies?{query}"])}

    every = list(orthanc.stored)
    assert found("Modality=DX&StudyDate=20200101-20201231") == set(every[:7])
    assert found("StudyDate=20190704") == {every[7]}
    assert found("StudyDate=20180101-20181231") == set()
    assert found("SOPInstanceUID=2.25.9009003") == {every[5]}
    study = every[0].partition("/series/")[0]
    assert {source.path for source in Sources([study])} == {every[0], *every[3:7]}


def test_other_modalities_are_left_out_without_being_fetched(orthanc: Orthanc):
    found = Sources([f"{orthanc.address}/studies"])
    assert {source.path for source in found} == set(list(orthanc.stored)[:-1])
    assert found.ignored == {"series of CT": 1}


def test_compressed_radiographs_show_what_was_stored(orthanc: Orthanc, tmp_path: Path):
    """What Orthanc 1.10 would have to convert from JPEG 2000 it does not send at all: the stored syntax is asked for."""
    for number, syntax in enumerate((EXPLICIT, JPEG_2000, JPEG_LS)):
        path = list(orthanc.stored)[number]
        (source,) = Sources([path])
        (tmp_path / "fetched.dcm").write_bytes(fetch(source))
        write_dicom(phantom.make(900 + number, 64), tmp_path / "plain.dcm")
        fetched, plain = read_image(tmp_path / "fetched.dcm"), read_image(tmp_path / "plain.dcm")
        assert fetched.transfer_syntax_uid == syntax
        np.testing.assert_array_equal(fetched.pixels, plain.pixels)


def test_an_instance_that_is_gone_is_missing(orthanc: Orthanc):
    series = next(iter(orthanc.stored)).partition("/instances/")[0]
    (source,) = Sources([f"{series}/instances/1.2.3"])
    with pytest.raises(ImageError) as caught:
        source.open()
    assert caught.value.reason == "missing"


def test_a_pacs_is_embedded_once(orthanc: Orthanc, tmp_path: Path):
    command = ("embed-images", f"{orthanc.address}/studies?StudyDate=20200101", "--index", tmp_path / "index", "--json")
    (summary,) = json_lines(run_cli(*command, code=0).stdout)
    # The series of five holds one picture under five UIDs.
    assert (summary["embedded"], summary["unchanged"], summary["failed"]) == (7, 0, 0)
    (again,) = json_lines(run_cli(*command).stdout)
    assert (again["embedded"], again["unchanged"], again["failed"]) == (0, 7, 0)
    hits = json_lines(run_cli("query", "normal", "--index", tmp_path / "index", "--json").stdout)
    assert {hit["path"] for hit in hits} == set(list(orthanc.stored)[:7])
