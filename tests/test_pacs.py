"""A PACS that misbehaves, and what may never leave it. A real one: test_orthanc.py."""

from pathlib import Path

import pytest

from conftest import json_lines, run_cli
from mcr_infer.sources import FileStamp, Sources
from pacs_server import Answer, Asked, Pacs, paths, results, row, serve, small_pacs, sources, times


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
