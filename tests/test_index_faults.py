"""The index under faults: kill -9, two writers, full disk, flipped bits, swapped, cut and lost files.

Right answers or one clear error, and never a lost row that was acknowledged.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_index_store import DIM, FINGERPRINT, ROOT, opened, row, unit

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, IndexLockedError, IndexNotFoundError
from mcr_infer.index import FileStamp, Index
from mcr_infer.index.manifest import FORMAT_VERSION

WRITER = f"""
import sys
import numpy as np
from mcr_infer.index import FileStamp, Index, Row
with Index.open_or_create(
    sys.argv[1], fingerprint={FINGERPRINT!r}, embedding_dim={DIM}, bundle="phantom", bundle_path="shipped"
) as index:
    start = index.count("image")
    print("open", start, flush=True)
    for batch in range(start // 10, 100000):
        rows = []
        for i in range(batch * 10, batch * 10 + 10):
            vector = np.random.default_rng(i).normal(size={DIM}).astype(np.float32)
            rows.append(Row(id=f"1.2.{{i}}", kind="image", path=f"{{i}}.dcm", vector=vector / np.linalg.norm(vector)))
        index.add(rows, files=[(FileStamp(path=str(row.path), size=7, mtime_ns=9), row.id) for row in rows])
        print("acknowledged", batch * 10 + 10, flush=True)
"""


def start_writer(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_every_acknowledged_row_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    acknowledged = 0
    for batches in (1, 7, 2, 13, 4):
        with start_writer(folder) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline().startswith("open")
            for _ in range(batches):
                acknowledged = int(writer.stdout.readline().split()[1])
            writer.send_signal(signal.SIGKILL)
            # What it still managed to say before it died counts as well.
            for line in writer.stdout.read().split("\n"):
                if line.startswith("acknowledged ") and line.endswith("0"):
                    acknowledged = max(acknowledged, int(line.split()[1]))
        with Index.open(folder, writable=True) as index:
            count = index.count("image")
            assert count in (acknowledged, acknowledged + 10)
            assert len(index.ids("image")) == count
            for number in range(count):
                assert np.array_equal(index.vector("image", f"1.2.{number}"), unit(number))
                seen = FileStamp(path=f"{number}.dcm", size=7, mtime_ns=9)
                assert index.known_file(seen, kind="image") == f"1.2.{number}"
    assert acknowledged >= 270


def test_a_creation_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").touch()
    (tmp_path / ".index.json.4711.part").write_bytes(b"{")
    with pytest.raises(IndexNotFoundError):
        Index.open(tmp_path)
    with opened(tmp_path) as index:
        index.add([row(1)])
    with Index.open(tmp_path) as index:
        assert index.count("image") == 1


def test_one_writer_and_readers_that_see_its_commits(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with start_writer(folder) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        first = int(writer.stdout.readline().split()[1])
        with pytest.raises(IndexLockedError, match=f"written by process {writer.pid} on"):
            Index.open(folder, writable=True)
        with Index.open(folder) as reader:
            seen = reader.count("image")
            assert seen >= first
            for _ in range(5):
                last = int(writer.stdout.readline().split()[1])
            assert last >= first + 50
            assert reader.count("image") >= last
            labels, vectors = reader.vectors("image")
            assert len(labels) >= last
            assert np.array_equal(vectors[last - 1], unit(last - 1))
        writer.kill()
        writer.stdout.read()
    with Index.open(folder, writable=True) as index, pytest.raises(IndexLockedError, match=f"process {os.getpid()} "):
        Index.open(index.folder, writable=True)


@pytest.mark.parametrize("column", ["vector", "path", "metadata", "study_uid", "digest", "text", "patch_budget"])
def test_a_changed_column_is_noticed(tmp_path: Path, column: str) -> None:
    folder = tmp_path / "index"
    with opened(folder) as index:
        index.add([row(number) for number in range(3)])
    change = {"vector": unit(5).tobytes(), "metadata": '{"view": "AP"}', "digest": bytes(16), "patch_budget": 0.25}
    with sqlite3.connect(folder / "store.sqlite") as raw:
        raw.execute(f"UPDATE rows SET {column} = ? WHERE id = '1.2.1'", (change.get(column, "other"),))
    raw.close()
    with Index.open(folder) as index:
        assert index.get("image", "1.2.0") is not None
        with pytest.raises(IndexCorruptError, match=r"image '1\.2\.1' does not match its digest"):
            index.get("image", "1.2.1")
        with pytest.raises(IndexCorruptError, match=r"'1\.2\.1'"):
            index.vectors("image")


def test_a_lost_row_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(folder) as index:
        index.add([row(number) for number in range(3)])
    with sqlite3.connect(folder / "store.sqlite") as raw:
        raw.execute("DELETE FROM rows WHERE id = '1.2.1'")
    raw.close()
    with Index.open(folder) as index, pytest.raises(IndexCorruptError, match="2 image rows, expected 3"):
        index.vectors("image")


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(folder) as index:
        index.add([row(number) for number in range(200)])
    intact = (folder / "store.sqlite").read_bytes()
    random = np.random.default_rng(3)
    for _ in range(100):
        damaged = bytearray(intact)
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        (folder / "store.sqlite").write_bytes(damaged)
        try:
            with Index.open(folder) as index:
                labels, vectors = index.vectors("image")
                assert len(labels) == 200
                assert {tuple(vector) for vector in vectors} == {tuple(unit(number)) for number in range(200)}
        except EmbeddingIndexError:
            pass
    for content in (b"", b"no database at all" * 100, intact[: len(intact) // 2], intact[:1000]):
        (folder / "store.sqlite").write_bytes(content)
        with pytest.raises(IndexCorruptError, match="restore"), Index.open(folder) as index:
            index.vectors("image")
    (folder / "store.sqlite").unlink()
    with pytest.raises(IndexCorruptError, match=r"has lost store\.sqlite"):
        Index.open(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format_version": 1}',
        b'{"format_version": true}',
        b" " * 2_000_000,
    ],
)
def test_a_hostile_manifest_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "index"
    opened(folder).close()
    (folder / "index.json").write_bytes(content)
    with pytest.raises(IndexCorruptError, match=r"index\.json"):
        Index.open(folder)


def test_a_changed_manifest_is_noticed_and_a_lost_one_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(folder) as index:
        index.add([row(1)])
    manifest = json.loads((folder / "index.json").read_text())
    assert manifest["kinds"]["image"] == {
        "generation": 1,
        "rows": 1,
        "graph": None,
        "vectors": None,
        "facts": None,
        "tuning": None,
    }
    (folder / "index.json").write_text(json.dumps({**manifest, "embedding_dim": 64}))
    with pytest.raises(IndexCorruptError, match="does not match its own digest"):
        Index.open(folder)
    (folder / "index.json").unlink()
    said: list[str] = []
    with Index.open(folder, notify=said.append) as index:
        assert index.count("image") == 1
    assert len(said) == 1
    assert "lost index.json" in said[0]
    with opened(folder):
        pass
    assert json.loads((folder / "index.json").read_text()) == manifest


def test_files_of_two_indexes_are_not_mixed_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with opened(tmp_path / name) as index:
            index.add([row(1)])
    older = (tmp_path / "one" / "store.sqlite").read_bytes()
    with opened(tmp_path / "one") as index:
        index.add([row(2)])
    (tmp_path / "two" / "store.sqlite").write_bytes(older)
    with pytest.raises(IndexCorruptError, match="belong to different indexes"):
        Index.open(tmp_path / "two")
    (tmp_path / "one" / "store.sqlite").write_bytes(older)
    with pytest.raises(IndexCorruptError, match="1 image rows of generation 1, expected 2 of generation 2"):
        Index.open(tmp_path / "one")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    opened(folder).close()
    newer = FORMAT_VERSION + 1
    refusal = f"format_version {newer}, this mcr-infer reads up to {FORMAT_VERSION}"
    manifest = (folder / "index.json").read_text()
    (folder / "index.json").write_text(
        manifest.replace(f'"format_version": {FORMAT_VERSION}', f'"format_version": {newer}')
    )
    with pytest.raises(EmbeddingIndexError, match=refusal):
        Index.open(folder)
    (folder / "index.json").unlink()
    with sqlite3.connect(folder / "store.sqlite") as raw:
        raw.execute(f"PRAGMA user_version = {newer}")
    raw.close()
    with pytest.raises(EmbeddingIndexError, match=refusal):
        Index.open(folder)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(number) for number in range(10)])
        # SQLite answers SQLITE_FULL at this bound as it does on a full disk.
        pages = index._store._connection.execute("PRAGMA page_count").fetchone()[0]
        index._store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(EmbeddingIndexError, match="the disk is full; what was acknowledged before is safe"):
            index.add([row(number) for number in range(10, 500)])
        assert index.count("image") == 10
        assert len(index.vectors("image")[0]) == 10
        index._store._connection.execute("PRAGMA max_page_count = 100000")
        index.add([row(number) for number in range(10, 500)])
        assert index.count("image") == 500
