"""`mcr-infer verify` of an index: whatever is damaged is named, nothing is changed, and nothing sound is called damaged."""

import hashlib
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_index_lifecycle import filled
from test_index_store import DIM, opened, row, unit

from conftest import invoke, json_lines
from mcr_infer.index import Index, audit_rows
from mcr_infer.index.audit import audit
from mcr_infer.index.columns import Vectors, save_facts, save_vectors
from mcr_infer.index.graph import verified_nodes
from mcr_infer.index.manifest import Manifest
from mcr_infer.index.rows import COLUMNS, to_columns

LIMIT = 300
NAMES = [
    "index.json", "store.sqlite", "identity", "files", "locals", "rows image", "count image", "vectors image", "facts image",
    "graph image", "rows report", "count report", "permissions", "leftovers",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index with vectors, facts and a graph of images, and reports without."""
    with filled(tmp_path / "index", 400, exact_limit=LIMIT):
        pass
    return tmp_path / "index"


def failed(folder: Path) -> dict[str, str]:
    return {check.name: check.detail for check in audit(folder) if not check.ok}


def contents(folder: Path) -> dict[str, bytes]:
    # What a reader of SQLite's WAL leaves says nothing: an empty log, and memory that its processes share.
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal"))}


@contextmanager
def raw(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "store.sqlite")) as connection, connection:
        yield connection


def test_a_sound_index_is_sound_and_stays_as_it_is(folder: Path) -> None:
    before = contents(folder)
    checks = audit(folder)
    assert [check.name for check in checks] == NAMES
    assert all(check.ok for check in checks), checks
    told = {check.name: check.detail for check in checks}
    assert told["rows image"] == "400, each matches its digest, finite vectors of length 1 in 32 dimensions"
    assert told["locals"] == "20, each matches its digest"
    assert told["graph image"] == "400 rows as in the store"
    assert contents(folder) == before
    done = invoke("verify", folder, "--json")
    (said,) = json_lines(done.stdout)
    assert said["ok"] is True
    assert [one["name"] for one in said["checks"]] == NAMES
    assert contents(folder) == before
    assert "--device says where" in invoke("verify", folder, "--device", "cpu", code=2).stderr


def test_a_snapshot_may_be_behind_the_store_and_says_so(folder: Path) -> None:
    with Index.open(folder, writable=True, exact_limit=LIMIT) as index:
        index.add([row(7, vector=unit(70)), row(1_000)])
        index.delete("image", ["1.2.9"])
    told = {check.name: check for check in audit(folder)}
    assert all(check.ok for check in told.values()), told
    behind = "398 rows as in the store, behind the store by 2 rows that came and 2 that went"
    for what in ("vectors", "facts", "graph"):
        assert told[f"{what} image"].detail.replace("400", "398") == behind
    with Index.open(folder, writable=True, exact_limit=LIMIT) as index:
        index.save_snapshots()
    assert {check.name: check.detail for check in audit(folder)}["graph image"] == (
        "400 rows as in the store, and 2 vectors of rows that are gone"
    )


@pytest.mark.parametrize(
    ("statement", "values", "name", "said"),
    [
        ("UPDATE rows SET path = 'x' WHERE id = '1.2.5'", (), "rows image", "1 do not match their digest (row 6)"),
        ("DELETE FROM rows WHERE id = '1.2.5'", (), "count image", "399 rows, the store counted 400"),
        ("UPDATE locals SET content = x'00' WHERE label = 6", (), "locals", "1 do not match their digest (of rows 6)"),
        ("INSERT INTO locals VALUES (9999, x'00', x'00')", (), "locals", "1 belong to rows that are gone"),
        ("INSERT INTO files VALUES ('image', 'a', 1, 1, 'gone', NULL)", (), "files", "1 refer to rows that are gone"),
        ("UPDATE kinds SET generation = 0 WHERE kind = 'image'", (), "count image", "the store is older"),
        ("UPDATE identity SET value = 'other' WHERE name = 'bundle'", (), "identity", "belong to different indexes"),
    ],
)
def test_what_is_wrong_in_the_store_is_named(
    folder: Path, statement: str, values: tuple[Any, ...], name: str, said: str
) -> None:
    with raw(folder) as connection:
        connection.execute(statement, values)
    found = failed(folder)
    assert said in found[name], found


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        (np.full(DIM, np.nan, dtype=np.float32), "1 have a vector that is not finite (1.2.5)"),
        (np.full(DIM, 1.0, dtype=np.float32), "1 are not of length 1 (1.2.5)"),
        (np.ones(1, dtype=np.float32), "1 have no vector of 32 dimensions (1.2.5)"),
    ],
)
def test_a_vector_that_never_belonged_there_is_named(folder: Path, vector: np.ndarray, said: str) -> None:
    # With a digest that matches, as if a row had been written by a broken release.
    with Index.open(folder) as index:
        five = index.get("image", "1.2.5")
        assert five is not None
    object.__setattr__(five, "vector", vector)
    with raw(folder) as connection:
        marks = ", ".join(f"{name} = ?" for name in COLUMNS)
        connection.execute(f"UPDATE rows SET {marks} WHERE id = '1.2.5'", to_columns(five))
    assert said in failed(folder)["rows image"]


def test_two_rows_of_one_id_are_named(folder: Path) -> None:
    with raw(folder) as connection:
        # The index of ids is taken away and made again over less than all, as a flipped bit may.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ', UNIQUE(kind, id)', '') WHERE name = 'rows'")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'sqlite_autoindex_rows_1'")
    with raw(folder) as connection:
        columns = ", ".join(COLUMNS)
        connection.execute(f"INSERT INTO rows({columns}) SELECT {columns} FROM rows WHERE id = '1.2.5'")
        connection.execute(
            "UPDATE kinds SET row_count = row_count + 1, generation = generation + 1 WHERE kind = 'image'"
        )
    assert failed(folder)["rows image"] == "1 have the id of another"


def test_pages_that_sqlite_finds_damaged_are_named(folder: Path) -> None:
    content = bytearray((folder / "store.sqlite").read_bytes())
    content[8192 * 3 : 8192 * 3 + 40] = b"\xff" * 40
    (folder / "store.sqlite").write_bytes(content)
    assert "store.sqlite" in failed(folder)
    for content in (b"", b"no database at all" * 100):
        (folder / "store.sqlite").write_bytes(content)
        assert "store.sqlite" in failed(folder)
    (folder / "store.sqlite").unlink()
    assert "store.sqlite" in failed(folder)
    assert invoke("verify", folder, "--json", code=1)


def test_files_beside_the_store_are_checked_by_digest(folder: Path) -> None:
    intact = contents(folder)
    random = np.random.default_rng(5)
    for what in ("vectors", "facts", "graph"):
        (path,) = folder.glob(f"{what}-image-*")
        for content in (b"", intact[path.name][:-1], _flipped(intact[path.name], random), None):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
                path.chmod(0o600)
            found = failed(folder)
            assert list(found) == [f"{what} image"]
            assert path.name in found[f"{what} image"]
            assert "`mcr-infer rebuild`" in found[f"{what} image"]
            path.write_bytes(intact[path.name])
            path.chmod(0o600)
    assert failed(folder) == {}


def _flipped(content: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
    return bytes(damaged)


def test_what_the_snapshots_say_is_compared_with_the_store(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest is not None
    known = manifest.kinds["image"]
    with Index.open(folder, exact_limit=LIMIT) as index:
        labels, values = index.vectors("image")
        wrong = np.array(values)
        wrong[[3, 8]] = wrong[[8, 3]]
        vectors = save_vectors(folder, "image", Vectors(known.generation, labels, wrong))
        facts = index.facts("image")
        year = facts.columns["study_year"].numbers.copy()
        year[11] = 1999
        object.__setattr__(facts.columns["study_year"], "numbers", year)
        facts_file = save_facts(folder, "image", facts)
    with opened(folder.parent / "other", exact_limit=LIMIT) as other:
        other.add([row(n, vector=unit(n + (n == 20))) for n in range(400)])
        other.save_snapshots()
        graph = other.state("image").graph
        assert graph is not None
    (folder.parent / "other" / graph.file_name("image")).rename(folder / graph.file_name("image"))
    kinds = {"vectors": vectors, "facts": facts_file, "graph": graph}
    Manifest(
        identity=manifest.identity,
        kinds={**manifest.kinds, "image": type(known)(generation=known.generation, rows=400, **kinds)},
    ).write(folder)
    found = failed(folder)
    assert found == {
        "vectors image": "2 rows differ from the store (row 4, row 9): run `mcr-infer rebuild`",
        "facts image": "1 rows differ from the store (row 12): run `mcr-infer rebuild`",
        "graph image": "1 rows differ from the store (row 21): run `mcr-infer rebuild`",
    }
    leftovers = [check.detail for check in audit(folder) if check.name == "leftovers"]
    assert leftovers[0].count("image-") == 3
    assert "the next writer removes them" in leftovers[0]


def test_nodes_of_a_graph_are_read_as_hnswlib_reads_them(folder: Path) -> None:
    import hnswlib

    with Index.open(folder, writable=True, exact_limit=LIMIT) as index:
        index.delete("image", ["1.2.3", "1.2.30"])
        index.save_snapshots()
        snapshot = index.state("image").graph
        assert snapshot is not None
    nodes = verified_nodes(folder, "image", snapshot, dim=DIM)
    path = folder / snapshot.file_name("image")
    graph = hnswlib.Index(space="ip", dim=DIM)
    graph.load_index(str(path))
    assert set(nodes.labels.tolist()) == set(graph.get_ids_list())
    assert sorted(nodes.labels[nodes.deleted].tolist()) == [4, 31]
    alive = nodes.labels[~nodes.deleted]
    assert np.array_equal(np.array(graph.get_items(alive.tolist())), nodes.vectors[~nodes.deleted])
    content = path.read_bytes()
    first = struct.calcsize("<6QiI3QdQ")
    for at, value in ((first, b"\xff\xff"), (first + 4, struct.pack("<I", 400)), (len(content), b"\0")):
        crafted = content[:at] + value + content[at + len(value) :]
        # A folder that somebody made to crash hnswlib has digests that match.
        named = replace(snapshot, sha256=hashlib.sha256(crafted).hexdigest(), bytes=len(crafted))
        (folder / named.file_name("image")).write_bytes(crafted)
        with pytest.raises(audit_rows.IndexCorruptError, match=r"links to nodes|does not end where"):
            verified_nodes(folder, "image", named, dim=DIM)
        (folder / snapshot.file_name("image")).write_bytes(crafted)
        with pytest.raises(audit_rows.IndexCorruptError, match=r"does not match its digest|bytes, expected"):
            verified_nodes(folder, "image", snapshot, dim=DIM)


def test_permissions_leftovers_and_the_manifest(folder: Path) -> None:
    (folder / "store.sqlite").chmod(0o644)
    folder.chmod(0o755)
    (folder / ".index.json.4711.part").touch(0o600)
    (folder / "thesis.txt").touch(0o600)
    found = {check.name: check for check in audit(folder)}
    assert not found["permissions"].ok
    assert "others than the owner may use index, store.sqlite" in found["permissions"].detail
    assert ": chmod -R go= the folder" in found["permissions"].detail
    assert ".index.json.4711.part" in found["leftovers"].detail
    assert "thesis.txt: no part of an index" in found["leftovers"].detail
    (folder / "index.json").write_text("{}")
    assert "does not match its own digest" in failed(folder)["index.json"]
    (folder / "index.json").unlink()
    assert "is lost" in failed(folder)["index.json"]


def test_an_older_copy_of_the_store_is_noticed(folder: Path) -> None:
    older = (folder / "store.sqlite").read_bytes()
    with Index.open(folder, writable=True, exact_limit=LIMIT) as index:
        index.add([row(1_000)])
    (folder / "store.sqlite").write_bytes(older)
    found = failed(folder)
    assert list(found) == ["count image"]
    assert "index.json has 401 of generation 2: the store is older, restore the whole folder" in found["count image"]
