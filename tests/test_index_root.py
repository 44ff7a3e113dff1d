"""Relative paths and the root of an index: files are found from any folder, and rows keep their paths."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from conftest import invoke, json_lines
from mcr_infer import phantom
from mcr_infer.index import Index
from mcr_infer.index.root import Root, shown
from mcr_infer.phantom.dicom import write_dicom

COUNT = 12


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `dicoms`, `table.csv` and their `index`, embedded in it by relative paths; and `elsewhere` below."""
    (tmp_path / "dicoms").mkdir()
    for seed in range(COUNT):
        write_dicom(phantom.make(seed, 64), tmp_path / "dicoms" / f"{seed:02}.dcm")
    (tmp_path / "table.csv").write_text("report\nNo acute abnormality.\nLarge left pleural effusion.\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    embed("dicoms", "index")
    invoke("embed-reports", "table.csv", "--index", "index")
    return tmp_path


def embed(images: str | Path, index: str | Path, *options: str, code: int = 0) -> dict:
    done = invoke("embed-images", images, "--index", index, "--json", *options, code=code)
    return json_lines(done.stdout)[-1]


def hits_of(index: str | Path, *options: str) -> list[dict]:
    return json_lines(invoke("query", "left pleural effusion", "--index", index, "-k", "20", "--json", *options).stdout)


def stored_paths(index: Path) -> list[str]:
    with sqlite3.connect(index / "store.sqlite") as connection:
        return sorted(str(path) for (path,) in connection.execute("SELECT path FROM rows"))


def info_of(index: str | Path) -> dict:
    return json.loads(invoke("info", "--index", index, "--check-files", "--json").stdout)


def test_query_finds_files_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch):
    assert {hit["path"] for hit in hits_of("index")} == {f"dicoms/{seed:02}.dcm" for seed in range(COUNT)}
    monkeypatch.chdir(project / "elsewhere")
    hits = hits_of("../index")
    assert {hit["path"] for hit in hits} == {str(project / "dicoms" / f"{seed:02}.dcm") for seed in range(COUNT)}
    assert all(hit["file_exists"] for hit in hits)
    assert {hit["path"] for hit in hits_of("../index", "--kind", "report")} == {
        str(project / "table.csv:2"),
        str(project / "table.csv:3"),
    }


def test_rerank_reads_files_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch):
    expected = {hit["id"]: hit["rerank_score"] for hit in hits_of("index", "--rerank")}
    assert None not in expected.values()
    monkeypatch.chdir(project / "elsewhere")
    assert {hit["id"]: hit["rerank_score"] for hit in hits_of("../index", "--rerank")} == expected


def test_prune_and_info_look_up_files_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "dicoms" / "03.dcm").unlink()
    monkeypatch.chdir(project / "elsewhere")
    told = info_of("../index")
    assert (told["images_without_file"], told["images_untold"], told["reports_untold"]) == (1, 0, 0)
    assert told["root"] == str(project)
    pruned = json.loads(invoke("prune", "--index", "../index", "--json").stdout)
    assert pruned["deleted"] == {"image": 1, "report": 0}


def test_known_files_are_known_from_another_folder(project: Path, monkeypatch: pytest.MonkeyPatch):
    before = stored_paths(project / "index")
    monkeypatch.chdir(project / "elsewhere")
    assert embed("../dicoms", "../index")["unchanged"] == COUNT
    again = json_lines(invoke("embed-reports", "../table.csv", "--index", "../index", "--json").stdout)[-1]
    assert again["unchanged"] == 2
    assert stored_paths(project / "index") == before


def test_new_files_from_another_folder_are_stored_below_the_root(project: Path, monkeypatch: pytest.MonkeyPatch):
    write_dicom(phantom.make(50, 64), project / "elsewhere" / "new.dcm")
    monkeypatch.chdir(project / "elsewhere")
    assert embed("new.dcm", "../index")["embedded"] == 1
    assert "elsewhere/new.dcm" in stored_paths(project / "index")
    monkeypatch.chdir(project)
    assert embed("elsewhere", "index")["unchanged"] == 1


def test_files_outside_the_root_are_stored_by_absolute_paths(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project / "elsewhere")
    embed("../dicoms", "index")
    assert stored_paths(project / "elsewhere" / "index")[0] == "../dicoms/00.dcm"  # as given in the root
    monkeypatch.chdir(project / "dicoms")
    write_dicom(phantom.make(51, 64), project / "dicoms" / "new.dcm")
    embed("new.dcm", "../elsewhere/index")
    assert str(project / "dicoms" / "new.dcm") in stored_paths(project / "elsewhere" / "index")
    assert all(hit["file_exists"] for hit in hits_of("../elsewhere/index"))


def test_a_row_written_again_from_elsewhere_keeps_its_path(project: Path, monkeypatch: pytest.MonkeyPatch):
    before = stored_paths(project / "index")
    write_dicom(phantom.make(60, 64), project / "dicoms" / "03.dcm")  # another image in the place of a known one
    monkeypatch.chdir(project / "elsewhere")
    assert embed("../dicoms", "../index")["embedded"] == 1
    told = info_of("../index")
    assert (told["images"], told["images_without_file"]) == (COUNT + 1, 0)
    assert stored_paths(project / "index") == sorted([*before, "None"])  # of the image that is in no file any more


def test_a_file_that_moved_is_found_from_elsewhere(project: Path, monkeypatch: pytest.MonkeyPatch):
    (project / "dicoms" / "03.dcm").rename(project / "dicoms" / "moved.dcm")
    monkeypatch.chdir(project / "elsewhere")
    assert embed("../dicoms", "../index")["unchanged"] == COUNT
    paths = stored_paths(project / "index")
    assert "dicoms/moved.dcm" in paths
    assert "dicoms/03.dcm" not in paths


def test_merge_and_export_from_elsewhere_name_the_files(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project / "elsewhere")
    invoke("merge", "../index", "--index", "merged")
    assert stored_paths(project / "elsewhere" / "merged") == stored_paths(project / "index")
    assert info_of("merged")["root"] == str(project)
    invoke("export", "--out", "out", "--index", "../index", "--kind", "image")
    told = [json.loads(line) for line in (project / "elsewhere" / "out" / "rows.jsonl").read_text().splitlines()]
    assert sorted(row["path"] for row in told) == [str(project / "dicoms" / f"{seed:02}.dcm") for seed in range(COUNT)]


def test_files_moved_with_their_index_are_found(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir("/")
    project.rename(project.with_name("moved"))
    moved = project.with_name("moved")
    told = info_of(moved / "index")
    assert (told["images_without_file"], told["images_untold"]) == (0, COUNT)
    monkeypatch.chdir(moved)
    assert all(hit["file_exists"] for hit in hits_of("index"))
    assert embed("dicoms", "index")["unchanged"] == COUNT
    assert info_of("index")["root"] == str(moved)
    shutil.rmtree(moved)


def test_an_index_without_a_root_takes_one_where_its_files_are(project: Path, monkeypatch: pytest.MonkeyPatch):
    with Index.open("index", writable=True) as index:
        index.set_root("")
    monkeypatch.chdir(project / "elsewhere")
    write_dicom(phantom.make(50, 64), project / "elsewhere" / "new.dcm")
    embed(project / "elsewhere" / "new.dcm", "../index")
    assert info_of("../index")["root"] is None
    monkeypatch.chdir(project)
    embed("dicoms", "index")
    assert info_of("index")["root"] == str(project)


def test_a_pseudonymous_index_has_no_root(project: Path):
    (project / "secret").write_bytes(bytes(range(64)))
    (project / "secret").chmod(0o600)
    keyed = project / "keyed"
    embed("dicoms", keyed, "--site-secret", "secret", "--pseudonymise")
    assert info_of(keyed)["root"] is None
    assert not any(str(project).encode() in path.read_bytes() for path in keyed.iterdir() if path.is_file())


def test_a_root_whose_name_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / os.fsdecode(b"r\xf6ntgen")
    place.mkdir()
    write_dicom(phantom.make(1, 64), place / "one.dcm")
    monkeypatch.chdir(place)
    embed("one.dcm", tmp_path / "index")
    monkeypatch.chdir(tmp_path)
    (hit,) = hits_of("index")
    assert hit["file_exists"]
    assert info_of("index")["images_without_file"] == 0


def test_a_working_folder_that_was_removed(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project / "elsewhere")
    (project / "elsewhere").rmdir()
    hits = hits_of(project / "index")
    assert len(hits) == COUNT
    assert all(hit["file_exists"] for hit in hits)
    told = json.loads(invoke("info", "--index", project / "index", "--check-files", "--json").stdout)
    assert (told["images_without_file"], told["images_untold"]) == (0, 0)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("a.dcm", "sub/a.dcm"),
        ("./a.dcm", "sub/a.dcm"),
        ("../a.dcm", "a.dcm"),
        (".././/a.dcm", "a.dcm"),
        ("x/../a.dcm", "sub/x/../a.dcm"),  # x may be a link
        ("../../a.dcm", "ABOVE/a.dcm"),
        ("/data/a.dcm", "/data/a.dcm"),
        ("dicomweb://host/studies/1", "dicomweb://host/studies/1"),
    ],
)
def test_paths_are_stored_relative_to_the_root(
    given: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    monkeypatch.chdir(root / "sub")
    paths = Root(str(root))
    assert paths.stored(given) == stored.replace("ABOVE", str(tmp_path))
    opened = paths.opened(paths.stored(given))
    assert paths.stored(opened) == paths.stored(given)
    assert Path(os.path.normpath(str(shown(opened)))) == Path(os.path.normpath(root / "sub" / given)) or ":" in given
