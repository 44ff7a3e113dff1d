"""The index as a store: what goes in comes out, what does not belong in is refused, and only its owner may read."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mcr_infer
from mcr_infer.errors import (
    EmbeddingIndexError,
    IndexMismatchError,
    IndexNotFoundError,
    QueryError,
)
from mcr_infer.index import FileStamp, Index, Row
from mcr_infer.index.storage import refuse_network_filesystem

DIM = 32
FINGERPRINT = "ab12" * 16
ROOT = Path(mcr_infer.__file__).parents[1]


def opened(folder: Path, **changes: object) -> Index:
    made_by = {"fingerprint": FINGERPRINT, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}
    return Index.open_or_create(folder, **{**made_by, **changes})  # type: ignore[arg-type]


def unit(seed: int, dim: int = DIM) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def row(number: int, **changes: object) -> Row:
    facts = {"id": f"1.2.{number}", "kind": "image", "path": f"study/{number}.dcm", "vector": unit(number)}
    return Row(**{**facts, **changes})  # type: ignore[arg-type]


def stamp(number: int, *, mtime_ns: int = 9) -> FileStamp:
    return FileStamp(path=f"study/{number}.dcm", size=7, mtime_ns=mtime_ns)


def facts_of(row: Row | None) -> tuple[object, ...]:
    assert row is not None
    return tuple(
        getattr(row, name).tolist() if name == "vector" else getattr(row, name) for name in Row.__dataclass_fields__
    )


def test_a_row_comes_back_as_it_was_added(tmp_path: Path) -> None:
    full = row(
        1,
        study_uid="1.2.840.1",
        series_uid="1.2.840.1.5",
        metadata={"view": "PA", "study_year": 2019, "mirrored": False, "spacing": 0.143, "body_part": None},
        precision="int8",
        patch_budget=0.5,
        content_digest="0f" * 32,
        text="No pneumothorax. Größe unverändert.",
    )
    report = row(1, kind="report", path=None, text_strategy="impression-first")
    latin_1 = row(2, path=b"archive/M\xfcller.dcm".decode("utf-8", "surrogateescape"))
    with opened(tmp_path / "index") as index:
        index.add([full, report, latin_1], files=[(replace(stamp(2), path=str(latin_1.path)), latin_1.id)])
    with Index.open(tmp_path / "index") as index:
        assert facts_of(index.get("image", "1.2.1")) == facts_of(full)
        assert facts_of(index.get("report", "1.2.1")) == facts_of(report)
        assert facts_of(index.get("image", "1.2.2")) == facts_of(latin_1)
        assert index.known_file(replace(stamp(2), path=str(latin_1.path)), kind="image") == "1.2.2"
        assert index.get("image", "1.2.3") is None
        assert (index.count("image"), index.count("report")) == (2, 1)
        assert index.ids("image") == ["1.2.1", "1.2.2"]
        assert index.provenance("image") == {("int8", 0.5), ("fp32", 1.0)}
        assert (index.bundle, index.bundle_path, index.fingerprint) == ("phantom", "shipped", FINGERPRINT)
        assert np.array_equal(index.vector("image", "1.2.1"), full.vector)
        with pytest.raises(QueryError, match=r"no report with the id '1\.2\.2'"):
            index.vector("report", "1.2.2")


def test_unchanged_files_are_known_and_twins_share_a_row(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1)], files=[(stamp(1), "1.2.1")])
        index.add([], files=[(stamp(77), "1.2.1")])
        assert index.known_file(stamp(1), kind="image") == "1.2.1"
        assert index.known_file(stamp(77), kind="image") == "1.2.1"
        assert index.known_file(stamp(1, mtime_ns=10), kind="image") is None
        assert index.known_file(replace(stamp(1), size=8), kind="image") is None
        assert index.known_file(stamp(1), kind="report") is None
        assert index.delete("image", ["1.2.1", "1.2.9"]) == 1
        assert index.count("image") == 0
        # The row is gone: the file must be embedded again when it is met again.
        assert index.known_file(stamp(77), kind="image") is None


def test_a_changed_ctime_makes_a_file_unknown(tmp_path: Path) -> None:
    seen = replace(stamp(1), ctime_ns=50)
    with opened(tmp_path / "index") as index:
        index.add([row(1), row(2)], files=[(seen, "1.2.1"), (stamp(2), "1.2.2")])
        assert index.seen_file("image", seen.path) == (seen, "1.2.1")
        assert index.known_file(seen, kind="image") == "1.2.1"
        assert index.known_file(replace(seen, ctime_ns=51), kind="image") is None
        # Neither a source without a ctime nor a row that was written without one can differ in it.
        assert index.known_file(stamp(1), kind="image") == "1.2.1"
        assert index.known_file(replace(stamp(2), ctime_ns=51), kind="image") == "1.2.2"


@pytest.mark.parametrize(
    "changes",
    [
        {"mtime_ns": -(10**18)},
        {"mtime_ns": 2**63},
        {"mtime_ns": 15_032_385_536 * 10**9, "ctime_ns": 2**63 + 5},
        {"mtime_ns": -(2**63) - 1},
        {"size": 2**64 - 1},
        {"size": 2**63, "mtime_ns": 2**64},
    ],
)
def test_times_and_sizes_beyond_64_bits_are_kept(changes: dict[str, int], tmp_path: Path) -> None:
    seen = replace(stamp(1), **changes)
    with opened(tmp_path / "index") as index:
        index.add([row(1)], files=[(seen, "1.2.1")])
        assert index.known_file(seen, kind="image") == "1.2.1"
        for name, value in changes.items():
            assert index.known_file(replace(seen, **{name: value + 1}), kind="image") is None


def test_a_replaced_image_is_not_known_by_what_was_learned(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1, content_digest="a")], files=[(stamp(1), "1.2.1"), (stamp(77), "1.2.1")])
        index.add([row(1, content_digest="b")], files=[(stamp(1), "1.2.1")], learned=[replace(stamp(77), ctime_ns=5)])
        assert index.seen_file("image", stamp(77).path) is None


def test_a_row_does_not_point_to_a_file_that_now_holds_another_image(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1), row(2)], files=[(stamp(1), "1.2.1"), (stamp(2), "1.2.2"), (stamp(50), "1.2.2")])
        index.add([row(3, path="study/1.dcm")], files=[(stamp(1, mtime_ns=20), "1.2.3")])
        index.add([row(4, path="study/2.dcm")], files=[(stamp(2, mtime_ns=20), "1.2.4")])
        paths = [found.path for id in index.ids("image") if (found := index.get("image", id))]
    assert paths == [None, "study/50.dcm", "study/1.dcm", "study/2.dcm"]


def test_the_same_id_replaces_the_row(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1), row(2), row(1, vector=unit(100))])
        index.add([row(2, vector=unit(200), path="elsewhere.dcm")])
        assert index.count("image") == 2
        assert np.array_equal(index.vector("image", "1.2.1"), unit(100))
        assert np.array_equal(index.vector("image", "1.2.2"), unit(200))
        _, vectors = index.vectors("image")
        assert vectors.shape == (2, DIM)
        assert {tuple(vector) for vector in vectors} == {tuple(unit(100)), tuple(unit(200))}


def test_a_reader_keeps_one_moment_inside_a_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as writer, Index.open(tmp_path / "index") as reader:
        writer.add([row(1)])
        with reader.snapshot():
            assert reader.count("image") == 1
            writer.add([row(2)])
            assert len(reader.vectors("image")[0]) == 1
        assert reader.count("image") == 2
        assert len(reader.vectors("image")[0]) == 2


def test_readers_do_not_write(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1)])
    with Index.open(tmp_path / "index") as reader:
        with pytest.raises(EmbeddingIndexError, match="opened for reading"):
            reader.add([row(2)])
        with pytest.raises(EmbeddingIndexError, match="opened for reading"):
            reader.delete("image", ["1.2.1"])
        assert reader.count("image") == 1


def test_a_read_only_folder_can_be_searched(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(folder) as index:
        index.add([row(1)])
    folder.chmod(0o500)
    try:
        with Index.open(folder) as index:
            assert np.array_equal(index.vector("image", "1.2.1"), unit(1))
    finally:
        folder.chmod(0o700)


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with opened(tmp_path / "index", exact_limit=5) as index:
            index.add([row(number) for number in range(10)])
            index.save_snapshots()
            modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "index").iterdir()}
    finally:
        os.umask(old)
    assert {"store.sqlite", "store.sqlite-wal", "store.sqlite-shm", "index.json", "writer.lock"} < set(modes)
    assert any(name.endswith(".hnsw") for name in modes)
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o700


def test_closing_leaves_no_wal(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(number) for number in range(100)])
        assert (tmp_path / "index" / "store.sqlite-wal").stat().st_size > 0
    index.close()
    assert {path.name for path in (tmp_path / "index").iterdir()} == {"store.sqlite", "index.json", "writer.lock"}


def test_vectors_that_are_not_unit_vectors_of_the_index_are_refused(tmp_path: Path) -> None:
    broken = unit(1)
    broken[3:5] = np.nan, np.inf
    with pytest.raises(EmbeddingIndexError, match="2 of 32 values of the embedding are not finite"):
        row(1, vector=broken)
    with pytest.raises(EmbeddingIndexError, match=r"length 1\.5, expected 1"):
        row(1, vector=(unit(1) * 1.5).astype(np.float32))
    with pytest.raises(EmbeddingIndexError, match=r"float32 \[D\], got float64 \[2, 32\]"):
        row(1, vector=np.zeros((2, 32)))
    with opened(tmp_path / "index") as index:
        with pytest.raises(
            IndexMismatchError, match=r"64 dimensions, index .* takes 32; nothing of this batch was added"
        ):
            index.add([row(1), row(2, vector=unit(2, dim=64))])
        assert index.count("image") == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "study"}, "kind image or report, got 'study'"),
        ({"id": ""}, "empty id"),
        ({"patch_budget": 0.0}, r"patch_budget must lie in \(0, 1\], got 0"),
        ({"metadata": {"view": ["PA"]}}, "metadata 'view' must be .* got list"),
        ({"metadata": {"spacing": float("nan")}}, "metadata 'spacing'"),
        ({"text": "\ud800"}, "not valid Unicode"),
    ],
)
def test_rows_are_valid_from_birth(changes: dict[str, object], message: str) -> None:
    with pytest.raises(EmbeddingIndexError, match=message):
        row(1, **changes)


def test_an_index_belongs_to_one_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    opened(folder, bundle_path="/bundles/old").close()
    with pytest.raises(
        IndexMismatchError, match=r"made by the bundle 'phantom' \(fingerprint ab12ab12ab12\).*cd34cd34cd34"
    ):
        opened(folder, fingerprint="cd34" * 16)
    with opened(folder, bundle="phantom-2", bundle_path="/bundles/new") as index:
        index.check_bundle(FINGERPRINT)
    with Index.open(folder) as index:
        assert (index.bundle, index.bundle_path) == ("phantom-2", "/bundles/new")


def test_no_index_and_folders_of_others(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="make one with `mcr-infer embed-images"):
        Index.open(tmp_path / "nothing")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(EmbeddingIndexError, match=r"other files \(thesis\.txt\) and no index"):
        opened(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"thesis.txt"}


def test_network_file_systems_are_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    archive = tmp_path / "my archive"
    escaped = str(archive).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n")
    with pytest.raises(EmbeddingIndexError, match=r"network file system \(nfs4\)"):
        refuse_network_filesystem(archive / "index", mounts=mounts)
    refuse_network_filesystem(tmp_path / "my archive 2", mounts=mounts)
    refuse_network_filesystem(archive, mounts=tmp_path / "absent")
    mounts.write_text(f"server:/x {escaped} nfs4 rw 0 0\n/dev/sdb {escaped} xfs rw 0 0\n")
    refuse_network_filesystem(archive / "index", mounts=mounts)


def test_importing_the_index_is_light() -> None:
    heavy = {"hnswlib", "onnxruntime", "pydicom", "torch", "PIL"}
    code = f"import sys, mcr_infer.index; print(sorted({heavy} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert output.stdout.strip() == "[]"
