"""The file of vectors: a checked snapshot that spares a cold search the store, and never changes what it finds."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from mcr_infer import files
from mcr_infer.errors import IndexCorruptError
from mcr_infer.index import Index, Row, columns, search
from mcr_infer.index.columns import SAVED_FROM
from mcr_infer.index.store import Store

DIM = 16
COUNT = SAVED_FROM + 200
MADE_BY = {"fingerprint": "ab12" * 16, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}


def units(count: int, *, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, *, first: int = 0) -> list[Row]:
    return [Row(id=f"image-{i:05d}", kind="image", path=None, vector=vector) for i, vector in enumerate(vectors, first)]


def opened(folder: Path, said: list[str] | None = None, **options: object) -> Index:
    notify = [].append if said is None else said.append
    return Index.open_or_create(folder, **MADE_BY, notify=notify, **options)  # type: ignore[arg-type]


def read(folder: Path, said: list[str] | None = None) -> Index:
    return Index.open(folder, notify=[].append if said is None else said.append)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with opened(tmp_path / "index") as index:
        index.add(rows_of(units(COUNT, seed=1)))
        index.save_snapshots()
    return tmp_path / "index"


@pytest.fixture
def read_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors are read from the store, call by call."""
    counts: list[int] = []
    real = Store.vectors

    def counted(self: Store, kind: str, labels: np.ndarray, *, dim: int) -> np.ndarray:
        counts.append(len(labels))
        return real(self, kind, labels, dim=dim)

    monkeypatch.setattr(Store, "vectors", counted)
    return counts


def vector_file(folder: Path) -> Path:
    (path,) = folder.glob("vectors-image-*.bin")
    return path


def found(index: Index, query: np.ndarray) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in search(index, query, k=12, fingerprint=index.fingerprint)[0]]


def test_a_search_reads_the_file_and_finds_the_same(
    folder: Path, read_rows: list[int], monkeypatch: pytest.MonkeyPatch
):
    query = units(1, seed=9)
    with read(folder) as index:
        fast = found(index, query)
    assert read_rows == []
    assert vector_file(folder).stat().st_mode & 0o777 == 0o600
    assert vector_file(folder).stat().st_size == COUNT * (8 + 4 * DIM)
    vector_file(folder).unlink()
    with read(folder) as index:
        assert found(index, query) == fast
    assert read_rows == [COUNT]


def test_only_rows_that_came_later_are_read_from_the_store(folder: Path, read_rows: list[int]):
    with opened(folder) as index:
        index.add(rows_of(units(3, seed=2), first=COUNT))
        index.add(rows_of(units(1, seed=3)))  # in the place of image-00000
        index.delete("image", ["image-00007"])
    with read(folder) as index:
        assert found(index, units(1, seed=3))[0] == ("image-00000", pytest.approx(1, abs=1e-6))
        assert found(index, units(3, seed=2)[2])[0][0] == f"image-{COUNT + 2:05d}"
        assert "image-00007" not in [id for id, _ in found(index, units(COUNT, seed=1)[7])]
        labels, vectors = index.vectors("image")
        assert len(labels) == len(vectors) == COUNT + 2
    assert read_rows == [4]


def test_saving_again_forgets_what_was_deleted(folder: Path, read_rows: list[int]):
    before, gone = vector_file(folder), units(COUNT, seed=1)[7].tobytes()
    assert gone in before.read_bytes()
    with opened(folder) as index:
        index.delete("image", ["image-00007"])
        index.save_snapshots()
    assert (before.exists(), gone in vector_file(folder).read_bytes()) == (False, False)
    with opened(folder) as index:
        index.save_snapshots()
        index.save_snapshots()
    assert sum(read_rows) == 0  # what had not changed was not read again


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-1], "has .* bytes, expected"),
        (lambda content: content + b"\0", "has .* bytes, expected"),
        (lambda _content: b"", "has 0 bytes, expected"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "does not match its digest"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "does not match its digest"),
    ],
)
def test_a_damaged_file_is_said_and_made_again(folder: Path, damage, words: str, read_rows: list[int]):
    query = units(1, seed=9)
    with read(folder) as index:
        expected = found(index, query)
    path = vector_file(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    said: list[str] = []
    with read(folder, said) as index:
        assert found(index, query) == expected
    assert read_rows == [COUNT]
    assert len(said) == 1
    assert said[0].startswith(f"reading the vectors of {COUNT} images from store.sqlite: {path.name}")
    assert re.search(words, said[0])
    with opened(folder) as index:
        index.save_snapshots()
    assert path.read_bytes() == whole


def test_few_rows_have_no_file_and_rows_with_a_graph_have_one(tmp_path: Path):
    with opened(tmp_path / "few") as index:
        index.add(rows_of(units(SAVED_FROM - 1, seed=1)))
        index.save_snapshots()
    assert list((tmp_path / "few").glob("vectors-*")) == []
    with opened(tmp_path / "many") as index:
        index.add(rows_of(units(SAVED_FROM, seed=1)))
        index.save_snapshots()
    with opened(tmp_path / "many", exact_limit=SAVED_FROM - 1) as index:
        index.save_snapshots()
    names = sorted(path.name.split("-")[0] for path in (tmp_path / "many").iterdir())
    assert (names.count("vectors"), names.count("facts"), names.count("graph")) == (1, 1, 1)


def test_an_index_from_before_there_were_such_files_is_read(folder: Path, read_rows: list[int]):
    from mcr_infer.index.manifest import _digest

    values = json.loads((folder / "index.json").read_text())
    values.pop("digest")
    for state in values["kinds"].values():
        del state["vectors"]
    (folder / "index.json").write_text(json.dumps({**values, "digest": _digest(values)}))
    with read(folder) as index:
        assert len(found(index, units(1, seed=9))) == 12
    assert read_rows == [COUNT]
    with opened(folder) as index:
        index.save_snapshots()
    assert json.loads((folder / "index.json").read_text())["kinds"]["image"]["vectors"]["rows"] == COUNT


def test_a_writer_that_replaces_the_file_does_not_disturb_a_reader(folder: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    with read(folder, said) as reader:
        with opened(folder) as writer:
            writer.add(rows_of(units(1, seed=2), first=COUNT))
            writer.save_snapshots()
        assert len(reader.vectors("image")[0]) == COUNT + 1
        with opened(folder) as writer:
            writer.add(rows_of(units(1, seed=3), first=COUNT + 1))
            writer.save_snapshots()
        assert found(reader, units(1, seed=3))[0][0] == f"image-{COUNT + 1:05d}"
    assert said == []


def test_the_digest_is_remembered_by_searches_and_never_by_a_writer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED_BYTES", 1)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    hashed: list[str] = []
    real = files.sha256_of
    for module in (files, columns):
        monkeypatch.setattr(module, "sha256_of", lambda path: (hashed.append(path.name), real(path))[1])
    for _ in range(3):
        with read(folder) as index:
            found(index, units(1, seed=9))
    assert hashed == [vector_file(folder).name]
    hashed.clear()
    with opened(folder) as index:
        index.save_snapshots()
    assert sorted(name.split("-")[0] for name in hashed) == ["facts", "vectors"]
    hashed.clear()
    with opened(folder) as index:
        index.add(rows_of(units(1, seed=2), first=COUNT))
        index.save_snapshots()
    # What is published again under a new digest was read.
    assert sorted(name.split("-")[0] for name in hashed) == ["facts", "vectors"]


@pytest.mark.parametrize("label", [-1, 0, 10**6, 2**62])
@pytest.mark.parametrize("distinct", [("study",), ()])
def test_labels_of_no_row_are_an_error(folder: Path, label: int, distinct: tuple[str, ...]):
    """A file whose digest matches can still name rows that there are not: whoever wrote it can compute digests, too."""
    path = vector_file(folder)
    content = bytearray(path.read_bytes())
    content[8 * (COUNT - 1) : 8 * COUNT] = label.to_bytes(8, "little", signed=True)
    manifest = json.loads((folder / "index.json").read_text())
    saved = manifest["kinds"]["image"]["vectors"]
    old, saved["sha256"] = saved["sha256"], hashlib.sha256(content).hexdigest()
    del manifest["digest"]
    manifest["digest"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(manifest))
    path.unlink()
    path.with_name(path.name.replace(old[:16], saved["sha256"][:16])).write_bytes(content)
    query = units(COUNT, seed=1)[COUNT - 1 :]  # nearest to the row whose label is wrong
    with read(folder) as index, pytest.raises(IndexCorruptError):
        search(index, query, kind="image", k=3, distinct=distinct, fingerprint=index.fingerprint)
