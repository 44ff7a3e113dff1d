"""Whether the file of a row is there, as hits, `info --check-files` and `prune` know it: archives, tables, a PACS, twins."""

import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from conftest import invoke, json_lines
from mcr_infer import phantom
from mcr_infer.index import Index, Row
from mcr_infer.inference.bundle import Bundle
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline.missing_files import presence

COUNT = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three phantoms of 64 px."""
    place = tmp_path / "dicoms"
    place.mkdir()
    for seed in range(COUNT):
        write_dicom(phantom.make(seed, 64), place / f"{seed}.dcm")
    return place


def embed(index: Path, *paths: Path) -> None:
    invoke("embed-images", *paths, "--index", index)


def hits(index: Path, *options: str) -> dict[str, bool | None]:
    """Whether the file of each hit is there, by its path."""
    asked = ("query", "left pleural effusion", "-k", "20", "--index", index, "--json", *options)
    return {hit["path"]: hit["file_exists"] for hit in json_lines(invoke(*asked).stdout)}


def without_file(index: Path, kind: str = "image") -> tuple[int, int]:
    """How many rows have lost their file, and of how many that cannot be told."""
    (told,) = json_lines(invoke("info", "--index", index, "--check-files", "--json").stdout)
    return told[f"{kind}s_without_file"], told[f"{kind}s_untold"]


def pruned(index: Path, *options: str) -> dict[str, int]:
    return json.loads(invoke("prune", "--index", index, "--yes", "--json", *options).stdout)["deleted"]


def packed(folder: Path, name: str) -> Path:
    archive = folder.parent / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.iterdir()):
                file.write(path, f"deep/{path.name}")
    else:
        with tarfile.open(archive, "w:gz" if name.endswith("gz") else "w") as file:
            for path in sorted(folder.iterdir()):
                file.add(path, f"deep/{path.name}")
    return archive


@pytest.mark.parametrize("name", ["all.zip", "all.tar.gz"])
def test_a_member_is_there_while_its_archive_is(folder: Path, tmp_path: Path, name: str):
    index, archive = tmp_path / "index", packed(folder, name)
    embed(index, archive)
    members = {f"{archive}/deep/{seed}.dcm" for seed in range(COUNT)}
    assert hits(index) == dict.fromkeys(members, True)
    assert without_file(index) == (0, 0)
    archive.unlink()
    assert hits(index) == dict.fromkeys(members, False)
    assert without_file(index) == (COUNT, 0)
    assert pruned(index) == {"image": COUNT, "report": 0}


def test_a_folder_named_like_an_archive_holds_no_members(tmp_path: Path):
    (tmp_path / "all.zip").mkdir()
    assert presence(f"{tmp_path}/all.zip/1.dcm", "image") is False
    (tmp_path / "all.zip" / "1.dcm").write_bytes(b"")
    assert presence(f"{tmp_path}/all.zip/1.dcm", "image") is True


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_a_row_is_there_while_its_table_is(tmp_path: Path, name: str):
    index, table = tmp_path / "index", tmp_path / name
    texts = ("No acute abnormality.", "Left effusion.")
    rows = ["report", *texts] if name == "r.csv" else [json.dumps({"text": text}) for text in texts]
    table.write_text("\n".join(rows) + "\n")
    invoke("embed-reports", table, "--index", index)
    paths = [f"{table}:{row}" for row in ((2, 3) if name == "r.csv" else (1, 2))]
    assert hits(index, "--kind", "report") == dict.fromkeys(paths, True)
    table.rename(tmp_path / f"{name}:2")  # a file whose name looks like a row of the table
    assert hits(index, "--kind", "report") == {path: path.endswith(":2") for path in paths}
    assert without_file(index, "report") == (1, 0)
    assert pruned(index) == {"image": 0, "report": 1}


@pytest.fixture
def pacs_index(tmp_path: Path) -> Path:
    """An index of one instance of a PACS, one row without a path and one of another working folder."""
    bundle, index = Bundle.open(), tmp_path / "index"
    instance = "dicomweb://pacs.example/dicom-web/studies/1.2/series/1.3/instances/1.4"
    vector = np.eye(1, bundle.embedding_dim, dtype=np.float32)[0]
    facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": str(bundle.path)}
    with Index.open_or_create(index, fingerprint=bundle.fingerprint, **facts) as store:
        store.add([
            Row(id=str(number), kind="image", path=path, vector=vector)
            for number, path in enumerate((instance, None, "/nowhere/2.dcm"))
        ])  # fmt: skip
    return index


def test_an_instance_of_a_pacs_is_never_pruned(pacs_index: Path):
    assert set(hits(pacs_index).values()) == {None, False}
    assert without_file(pacs_index) == (1, 2)
    assert pruned(pacs_index) == {"image": 1, "report": 0}
    done = invoke("prune", "--index", pacs_index)
    assert "2 rows are kept, since it is not known whether their file is there" in done.stderr
    assert without_file(pacs_index) == (0, 2)


def test_a_pseudonymous_index_is_not_pruned(folder: Path, tmp_path: Path):
    index, secret = tmp_path / "index", tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    secret.chmod(0o600)
    invoke("embed-images", folder, "--index", index, "--site-secret", secret, "--pseudonymise")
    (folder / "0.dcm").unlink()
    for options in ((), ("--dry-run",), ("--yes",), ("--kind", "report")):
        done = invoke("prune", "--index", index, *options, code=1)
        assert f"index {index} is pseudonymous and keeps no paths" in done.stderr
        assert "mcr-infer delete" in done.stderr
    assert hits(index) == {None: None}
    assert without_file(index) == (0, COUNT)


def test_a_hit_shows_the_twin_that_is_there(folder: Path, tmp_path: Path):
    index, twin = tmp_path / "index", tmp_path / "elsewhere" / "twin.dcm"
    twin.parent.mkdir()
    twin.write_bytes((folder / "0.dcm").read_bytes())
    embed(index, folder, twin)
    assert hits(index)[f"{folder}/0.dcm"]
    (folder / "0.dcm").unlink()
    expected = {f"{folder}/1.dcm": True, f"{folder}/2.dcm": True, str(twin): True}
    assert (hits(index), without_file(index), pruned(index)["image"]) == (expected, (0, 0), 0)
    # Unchanged, the twin is not opened; the answer stays.
    embed(index, folder, twin)
    assert hits(index) == expected
    (answer,) = json_lines(invoke("query", "--like", uid_at(index, twin), "-k", "1", "--index", index, "--json").stdout)
    assert answer["file_exists"] is True
    twin.unlink()
    assert hits(index) == {f"{folder}/0.dcm": False, f"{folder}/1.dcm": True, f"{folder}/2.dcm": True}
    assert (without_file(index), pruned(index)["image"]) == ((1, 0), 1)


def uid_at(index: Path, path: Path) -> str:
    asked = ("query", "left pleural effusion", "-k", "20", "--index", index, "--json")
    return next(hit["id"] for hit in json_lines(invoke(*asked).stdout) if hit["path"] == str(path))


def test_the_second_look_opens_the_twin(folder: Path, tmp_path: Path):
    index, twin = tmp_path / "index", tmp_path / "twin.dcm"
    twin.write_bytes((folder / "0.dcm").read_bytes())
    embed(index, folder, twin)
    asked = ("query", "left pleural effusion", "--rerank", "--index", index, "--json")
    before = {hit["id"]: hit["rerank_score"] for hit in json_lines(invoke(*asked).stdout)}
    (folder / "0.dcm").unlink()
    after = {hit["id"]: hit["rerank_score"] for hit in json_lines(invoke(*asked).stdout)}
    assert None not in after.values()
    assert after == pytest.approx(before)


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_report_stays_while_another_table_has_it(tmp_path: Path, with_ids: bool):
    index, first, second = tmp_path / "index", tmp_path / "a.csv", tmp_path / "b.csv"
    header, row = ("id,report", "a/1,Left effusion.") if with_ids else ("study_uid,report", "1.2,Left effusion.")
    first.write_text(f"{header}\n{row}\n")
    second.write_text(f"{header}\nx,Normal chest.\n{row}\n")
    for table in (first, second):
        invoke("embed-reports", table, "--index", index)
    first.unlink()
    place = str(second) if with_ids else f"{second}:3"
    expected = {place: True, f"{second}:2": True}
    assert hits(index, "--kind", "report") == expected
    assert (without_file(index, "report"), pruned(index)["report"]) == ((0, 0), 0)
    # The next run gives the row its new place.
    invoke("embed-reports", second, "--index", index)
    assert hits(index, "--kind", "report") == {f"{second}:2": True, f"{second}:3": True}
    second.unlink()
    assert pruned(index)["report"] == 2
