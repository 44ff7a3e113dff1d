"""Exit codes of runs that found nothing, or failed as the run before did; and rows whose file is gone."""

import json
from pathlib import Path

import pytest

from conftest import invoke, json_lines
from mcr_infer import phantom
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline.outcome import Outcome, Summary


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two phantoms and a file that is none, in a folder of their own."""
    place = tmp_path / "share" / "dicoms"
    place.mkdir(parents=True)
    for seed in range(2):
        write_dicom(phantom.make(seed, 64), place / f"{seed}.dcm")
    (place / "broken.dcm").write_bytes(b"no image")
    return place


def embed(folder: Path, *options: str, code: int = 0) -> dict:
    index = folder.parent.parent / "index"
    (told,) = json_lines(invoke("embed-images", folder, "--index", index, "--json", *options, code=code).stdout)
    return told


def test_known_failures_can_be_accepted(folder: Path):
    assert embed(folder, "--accept-known", code=3)["known_failures"] == 0
    assert embed(folder, "--accept-known")["known_failures"] == 1
    assert embed(folder, code=3)["known_failures"] == 1
    (folder / "other.dcm").write_bytes(b"no image either")
    told = embed(folder, "--accept-known", code=3)
    assert (told["failed"], told["known_failures"]) == (2, 1)
    assert embed(folder, "--accept-known")["known_failures"] == 2


def test_another_reason_is_a_new_failure(tmp_path: Path):
    def run(reason: str) -> Summary:
        summary = Summary.of(tmp_path)
        summary.count(Outcome(path="a.dcm", status="failed", reason=reason, error="it is broken"))
        summary.close(1.0)
        return summary

    run("truncated").remember_failures()
    assert run("truncated").known_failures == 1
    assert run("unreadable").known_failures == 0
    stopped = run("unreadable")
    stopped.interrupted = 15
    stopped.remember_failures()
    assert run("truncated").known_failures == 1


def test_reports_between_forget_no_known_failure(folder: Path, tmp_path: Path):
    embed(folder, code=3)
    table = tmp_path / "reports.csv"
    table.write_text('report\nNo acute abnormality.\n""\n')
    options = ("--index", tmp_path / "index", "--json")
    (first,) = json_lines(invoke("embed-reports", table, *options, code=3).stdout)
    assert (first["failed"], first["known_failures"]) == (1, 0)
    assert embed(folder, "--accept-known")["known_failures"] == 1
    (again,) = json_lines(invoke("embed-reports", table, *options, "--accept-known").stdout)
    assert again["known_failures"] == 1


def test_damaged_lines_know_no_failure(tmp_path: Path):
    known = tmp_path / "known-failures-image.jsonl"
    known.write_bytes(b'{"path": "a.dcm", "rea\n\xff\n[]\n' + json.dumps({"path": "b", "reason": "r"}).encode() + b"\n")
    summary = Summary.of(tmp_path)
    for path in ("a.dcm", "b"):
        summary.count(Outcome(path=path, status="failed", reason="r", error="e"))
    summary.close(1.0)
    assert summary.known_failures == 1


@pytest.mark.parametrize("name", ["", "notes.txt", ".hidden.dcm"])
def test_a_run_without_inputs_exits_with_3(tmp_path: Path, name: str):
    (tmp_path / "share").mkdir()
    if name:
        (tmp_path / "share" / name).write_text("nothing to see")
    given = ("embed-images", tmp_path / "share", "--index", tmp_path / "index")
    assert "no input was found" in invoke(*given, code=3).stderr
    invoke(*given, "--allow-empty")


def test_a_list_without_names_exits_with_3(tmp_path: Path):
    (tmp_path / "names").write_text("")
    given = ("embed-images", "--files-from", tmp_path / "names", "--index", tmp_path / "index")
    invoke(*given, code=3)
    invoke(*given, "--allow-empty")


def test_an_empty_table_exits_with_3(tmp_path: Path):
    (tmp_path / "reports.csv").write_text("report\n")
    given = ("embed-reports", tmp_path / "reports.csv", "--index", tmp_path / "index")
    assert "no input was found" in invoke(*given, code=3).stderr
    invoke(*given, "--allow-empty")


def prune(index: Path, *options: str, code: int = 0) -> dict:
    done = invoke("prune", "--index", index, "--json", *options, code=code)
    return json.loads(done.stdout) if code == 0 else {"error": done.stderr}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of twelve phantoms in two folders of a share, and their reports in a table beside it."""
    for seed in range(12):
        place = tmp_path / "share" / ("first" if seed < 11 else "last")
        place.mkdir(parents=True, exist_ok=True)
        write_dicom(phantom.make(seed, 64), place / f"{seed}.dcm")
    (tmp_path / "table.csv").write_text("report\nNo acute abnormality.\nLarge left pleural effusion.\n")
    invoke("embed-images", tmp_path / "share", "--index", tmp_path / "index")
    invoke("embed-reports", tmp_path / "table.csv", "--index", tmp_path / "index")
    return tmp_path / "index"


def test_rows_without_file_are_counted_marked_and_pruned(index: Path, tmp_path: Path):
    assert prune(index)["deleted"] == {"image": 0, "report": 0}
    (tmp_path / "share" / "last" / "11.dcm").unlink()
    (info,) = json_lines(invoke("info", "--index", index, "--check-files", "--json").stdout)
    assert (info["images_without_file"], info["reports_without_file"]) == (1, 0)
    asked = ("query", "left pleural effusion", "-k", "12", "--index", index)
    hits = json_lines(invoke(*asked, "--json").stdout)
    assert {Path(hit["path"]).name for hit in hits if hit["file_exists"] is False} == {"11.dcm"}
    assert sum(hit["file_exists"] for hit in hits) == 11
    assert prune(index, "--dry-run")["deleted"] == {"image": 1, "report": 0}
    assert prune(index)["deleted"] == {"image": 1, "report": 0}
    assert b"11.dcm" not in (index / "store.sqlite").read_bytes()
    (info,) = json_lines(invoke("info", "--index", index, "--check-files", "--json").stdout)
    assert (info["images"], info["images_without_file"]) == (11, 0)


def test_pruning_more_than_a_tenth_needs_yes(index: Path, tmp_path: Path):
    for seed in range(2):
        (tmp_path / "share" / "first" / f"{seed}.dcm").unlink()
    assert "2 of 12 image rows would go" in prune(index, code=1)["error"]
    assert prune(index, "--yes")["deleted"]["image"] == 2


@pytest.mark.parametrize("emptied", [True, False])
def test_an_unmounted_share_is_not_pruned(index: Path, tmp_path: Path, emptied: bool):
    (tmp_path / "share").rename(tmp_path / "elsewhere")
    if emptied:
        (tmp_path / "share").mkdir()
    error = prune(index, "--kind", "image", code=1)["error"]
    assert "is its share mounted?" in error or "would go" in error
    assert ("empty folder" in error) == emptied


def test_a_share_of_few_rows_is_not_pruned(index: Path, tmp_path: Path):
    (tmp_path / "share" / "last").rename(tmp_path / "away")
    place = tmp_path / "mount" / "deep"
    place.mkdir(parents=True)
    (tmp_path / "away" / "11.dcm").rename(place / "11.dcm")
    invoke("embed-images", tmp_path / "mount", "--index", index)
    place.rename(tmp_path / "deep")
    assert "mount is an empty folder" in prune(index, code=1)["error"]


def test_a_row_with_another_file_stays(index: Path, tmp_path: Path):
    original = tmp_path / "share" / "last" / "11.dcm"
    twin = tmp_path / "share" / "first" / "twin.dcm"
    twin.write_bytes(original.read_bytes())
    invoke("embed-images", tmp_path / "share", "--index", index)
    original.unlink()
    assert prune(index)["deleted"]["image"] == 0
    twin.unlink()
    assert prune(index)["deleted"]["image"] == 1


def test_duplicates_of_reports_are_counted_and_printed(tmp_path: Path):
    table = tmp_path / "reports.csv"
    table.write_text('id,report\na,Normal chest.\na,Normal chest.\nb,Edema.\na,Edema.\nb,Edema.\nc,""\n')
    names = ("embedded", "updated", "unchanged", "duplicates", "failed")

    def run(*options: str) -> str:
        return invoke("embed-reports", table, "--index", tmp_path / "index", *options, code=3).stdout

    (first,), (again,) = json_lines(run("--json")), json_lines(run("--json"))
    assert [first[name] for name in names] == [2, 0, 0, 2, 2]
    assert [again[name] for name in names] == [0, 0, 2, 2, 2]
    assert "0 reports embedded, 2 unchanged, 2 duplicates, 2 failed" in run()


def test_a_twin_is_a_duplicate_once(folder: Path):
    (folder / "twin.dcm").write_bytes((folder / "0.dcm").read_bytes())
    told = embed(folder, code=3)
    assert (told["embedded"], told["unchanged"], told["duplicates"], told["failed"]) == (2, 0, 1, 1)
    told = embed(folder, code=3)
    assert (told["embedded"], told["unchanged"], told["duplicates"], told["failed"]) == (0, 3, 0, 1)
