"""What no digest covers in store.sqlite: the ways to a row, the counts, the version, where the bundle was."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from test_index_store import opened, row

from mcr_infer.errors import IndexCorruptError
from mcr_infer.index import Index

COUNT = 80


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of 80 images, closed; beside the store lie facts."""
    with opened(tmp_path / "index", exact_limit=50, notify=lambda _: None) as index:
        index.add([row(number) for number in range(COUNT)])
        index.save_snapshots()
    return tmp_path / "index"


def hide(folder: Path, id: str) -> None:
    """Change one letter of an id in SQLite's index of ids, and nowhere else."""
    store = folder / "store.sqlite"
    content = store.read_bytes()
    entry = b"image" + id.encode()
    places = [
        place
        for place in range(len(content))
        if content.startswith(entry, place) and not content.startswith(entry + b"study/", place)
    ]
    assert len(places) == 1
    at = places[0] + len(entry) - 1
    store.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])


def change(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / "store.sqlite") as store:
        store.execute(statement)
    store.close()


def test_a_row_that_sqlite_cannot_find_is_not_taken_for_none(folder: Path):
    hide(folder, "1.2.77")
    with Index.open(folder) as index:
        for ask in (
            lambda: index.get("image", "1.2.77"),
            lambda: index.vector("image", "1.2.77"),
            lambda: index.ids("image"),
        ):
            with pytest.raises(IndexCorruptError, match=r"cannot find all image rows by their ids: restore"):
                ask()
        assert index.get("image", "1.2.9999") is None
        assert index.get("image", "1.2.76") is not None


def test_a_row_that_sqlite_cannot_find_is_not_said_to_be_deleted(folder: Path):
    hide(folder, "1.2.77")
    with (
        opened(folder, exact_limit=50, notify=lambda _: None) as index,
        pytest.raises(IndexCorruptError, match="cannot find all image rows by their ids"),
    ):
        index.delete("image", ["1.2.77", "1.2.78"])
    with opened(folder) as index:
        assert index.delete("image", ["1.2.5", "1.2.9999"]) == 1


def test_a_row_that_is_added_beside_itself_is_noticed_before_anything_is_saved(folder: Path):
    hide(folder, "1.2.77")
    before = sorted(path.name for path in folder.iterdir())
    with opened(folder, exact_limit=50, notify=lambda _: None) as index:
        assert index.get("image", "1.2.77") is None  # a writer asks for many new ids, and trusts SQLite
        index.add([row(77)])
        with pytest.raises(IndexCorruptError, match="has 1 image rows under the id of another: restore"):
            index.save_snapshots()
        assert {path.name for path in folder.iterdir()} >= set(before)


def test_a_count_that_no_digest_covers_is_counted(folder: Path):
    change(folder, "UPDATE kinds SET generation = generation + 1, row_count = row_count + 1 WHERE kind = 'image'")
    with pytest.raises(IndexCorruptError, match="has 80 image rows, expected 81; restore"):
        Index.open(folder)
    (folder / "index.json").unlink()
    with pytest.raises(IndexCorruptError, match="has 80 image rows, expected 81; restore"):
        Index.open(folder, notify=lambda _: None)


@pytest.mark.parametrize("version", [0, -2147483646])
def test_a_store_that_has_lost_its_version_is_damaged(folder: Path, version: int):
    change(folder, f"PRAGMA user_version = {version}")
    for writable in (False, True):
        with pytest.raises(IndexCorruptError, match=f"has format_version {version}; restore"):
            Index.open(folder, writable=writable)


def test_name_and_place_of_the_bundle_are_those_that_have_a_digest(folder: Path):
    change(folder, "UPDATE identity SET value = 'shippee' WHERE name = 'bundle_path'")
    with Index.open(folder) as index:
        assert index.bundle_path == "shipped"
    with Index.open(folder, writable=True) as index:
        assert index.bundle_path == "shipped"
    (folder / "index.json").unlink()
    with Index.open(folder, notify=lambda _: None) as index:  # the writer has put it right
        assert index.bundle_path == "shipped"


def test_provenance_is_what_rows_say(tmp_path: Path):
    with opened(tmp_path / "index") as index:
        assert index.provenance("image") == frozenset()
        index.add([row(1), row(2, precision="int8", patch_budget=0.5), row(3, precision="int8")])
        assert index.provenance("image") == {("fp32", 1.0), ("int8", 0.5), ("int8", 1.0)}
        index.delete("image", ["1.2.2"])
        assert index.provenance("image") == {("fp32", 1.0), ("int8", 1.0)}
        assert index.provenance("report") == frozenset()


def test_a_fact_that_no_row_has_any_more_cannot_be_asked_for(tmp_path: Path):
    with opened(tmp_path / "index") as index:
        index.add([row(1, metadata={"view": "PA", "note": None}), row(2, metadata={"study_year": 2019})])
        assert {"view", "study_year"} <= index.facts("image").columns.keys()
        index.delete("image", ["1.2.1"])
        assert index.facts("image").columns.keys() == {"study_year", "precision", "patch_budget"}
        assert np.array_equal(index.facts("image").columns["study_year"].numbers, [2019])
