"""Indexes of every past format: read as they are, brought to this one by a writer, and whole after a kill in the midst."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_index_store import ROOT

from conftest import invoke, json_lines
from mcr_infer.index import FileStamp, Index, parse_filter, search
from mcr_infer.index.audit import audit
from mcr_infer.index.manifest import FORMAT_VERSION
from mcr_infer.inference.token_embeddings import TokenEmbeddings

GOLDEN = Path(__file__).parent / "golden"
KEPT = sorted(path.name for path in GOLDEN.glob("index-v*") if path.is_dir())
EXACT_LIMIT = 30
MULLER = b"archive/M\xfcller.dcm".decode("utf-8", "surrogateescape")


def version_of(name: str) -> int:
    return int(name.removeprefix("index-v"))


def told_of(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def copied(name: str, folder: Path) -> Path:
    """A copy as its owner has it; git keeps no permissions."""
    shutil.copytree(GOLDEN / name, folder)
    folder.chmod(0o700)
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(("-shm", "-wal"))}


def stored_version(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder / 'store.sqlite'}?mode=ro", uri=True)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_answers(index: Index, told: dict[str, Any]) -> None:
    """The hits that the release found which wrote the index, by graph, by exact search, and by a filter."""
    query = np.array(told["query"], dtype=np.float32)
    for name, hits in told["hits"].items():
        where = parse_filter(told["where"]) if name == "where" else None
        kind = "image" if name == "where" else name
        found = search(index, query, kind=kind, k=len(hits), where=where, fingerprint=index.fingerprint)[0]
        assert [hit.id for hit in found] == [id for id, _ in hits]
        assert [hit.score for hit in found] == pytest.approx([score for _, score in hits], abs=1e-6)
    assert (index.count("image"), index.count("report")) == (59, 20)
    zero, one = index.get("image", "1.2.826.0.1.0"), index.get("report", "report-1")
    assert zero is not None
    assert one is not None
    assert zero.path == MULLER
    assert zero.metadata == {
        "view": "LATERAL", "study_year": 2015, "modality": "DX", "mirrored": True, "spacing": 0.143, "body_part": None,
    }  # fmt: skip
    assert (zero.precision, zero.patch_budget, one.text) == ("int8", 0.5, "No pneumothorax. Größe unverändert.")
    assert index.known_file(FileStamp(path=MULLER, size=7, mtime_ns=9), kind="image") == zero.id
    assert [
        hit.id
        for hit in search(
            index, zero.vector, k=1, where=parse_filter("study_year=2015"), fingerprint=index.fingerprint
        )[0]
    ] == [zero.id]


def test_an_index_of_every_format_is_kept() -> None:
    assert [version_of(name) for name in KEPT] == list(range(1, FORMAT_VERSION + 1))


@pytest.mark.parametrize("name", KEPT)
def test_a_reader_takes_it_as_it_is(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path / "index")
    before = contents(folder)
    with Index.open(folder, exact_limit=EXACT_LIMIT) as index:
        assert index.format_version == version_of(name)
        check_answers(index, told_of(name))
    assert all(check.ok for check in audit(folder)), audit(folder)
    assert json_lines(invoke("info", "--index", folder, "--json").stdout)[0]["format_version"] == version_of(name)
    assert contents(folder) == before
    folder.chmod(0o500)
    try:
        with Index.open(folder, exact_limit=EXACT_LIMIT) as index:
            check_answers(index, told_of(name))
    finally:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", KEPT)
def test_a_writer_brings_it_to_this_format(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path / "index")
    with Index.open(folder, exact_limit=EXACT_LIMIT) as reader:
        with Index.open(folder, writable=True, exact_limit=EXACT_LIMIT) as index:
            assert index.format_version == FORMAT_VERSION
            check_answers(index, told_of(name))
            index.save_snapshots()
        # Whoever read it before goes on, and sees what the new format brings.
        check_answers(reader, told_of(name))
        assert reader.format_version == FORMAT_VERSION
    assert stored_version(folder) == json.loads((folder / "index.json").read_text())["format_version"] == FORMAT_VERSION
    assert all(check.ok for check in audit(folder)), audit(folder)
    with Index.open(folder, exact_limit=EXACT_LIMIT) as index:
        check_answers(index, told_of(name))


def test_what_version_2_brought(tmp_path: Path) -> None:
    told = told_of("index-v2")
    with Index.open(copied("index-v2", tmp_path / "index"), exact_limit=EXACT_LIMIT) as index, index.snapshot():
        labels = index.select("image", parse_filter(f"patient_key={3:064x}"))
        assert [index.rows([label])[label].id for label in labels.tolist()] == [
            f"1.2.826.0.1.{n}" for n in (12, 13, 14, 15)
        ]
        assert len(index.select("image", parse_filter("patient_key is missing"))) == 5
        kept = index.locals("image", index.labels("image").tolist())
        assert sorted(kept.values()) == sorted(f"patches of 1.2.826.0.1.{n}".encode() for n in range(10))
        assert index.graph("image").ef_search == told["ef_search"] == 57
        assert index.identity.secret_check == "cd34" * 16
        state = index.state("image")
        assert state.facts is not None
        assert state.vectors is not None


def test_what_version_3_brought(tmp_path: Path) -> None:
    with Index.open(copied("index-v3", tmp_path / "index"), exact_limit=EXACT_LIMIT) as index, index.snapshot():
        first = FileStamp(path=MULLER, size=7, mtime_ns=9, ctime_ns=1000)
        assert list(index.files("image", "1.2.826.0.1.0")) == [first]
        assert index.known_file(replace(first, ctime_ns=1001), kind="image") is None
        unknown = FileStamp(path="archive/002.dcm", size=7, mtime_ns=9, ctime_ns=5)
        assert list(index.files("image", "1.2.826.0.1.2")) == [replace(unknown, ctime_ns=None)]
        assert index.known_file(unknown, kind="image") == "1.2.826.0.1.2"
        strategies = [row and row.text_strategy for row in (index.get("report", f"report-{n}") for n in (0, 1, 7, 8))]
        assert strategies == ["impression-first", None, "impression-first", None]
        kept = index.locals("image", index.labels("image").tolist())
        locals = [TokenEmbeddings.from_bytes(content) for content in kept.values()]
        assert sorted(local.vectors.max() for local in locals) == [2.0**n for n in range(10)]
        assert sorted(local.positions.tolist() for local in locals if local.positions is not None) == [
            [n, n + 1, n + 2] for n in range(10)
        ]


@pytest.mark.parametrize("name", ["index-v1", "index-v2"])
def test_old_stamps_are_accepted_and_learn_their_ctime(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path / "index")
    stamp = FileStamp(path=MULLER, size=7, mtime_ns=9, ctime_ns=77)
    with Index.open(folder) as index:
        assert index.known_file(stamp, kind="image") == "1.2.826.0.1.0"
    with Index.open(folder, writable=True) as index:
        assert index.known_file(stamp, kind="image") == "1.2.826.0.1.0"
        index.add([], learned=[stamp])
        assert list(index.files("image", "1.2.826.0.1.0")) == [stamp]
        index.add([], learned=[replace(stamp, ctime_ns=78)])
        assert index.known_file(replace(stamp, ctime_ns=78), kind="image") is None


def test_migrate_says_from_where_to_where(tmp_path: Path) -> None:
    folder = copied("index-v1", tmp_path / "index")
    done = invoke("migrate", "--index", folder)
    assert f"was converted from format version 1 to {FORMAT_VERSION}" in done.stdout
    assert json_lines(invoke("migrate", "--index", folder, "--json").stdout) == [
        {"from": FORMAT_VERSION, "to": FORMAT_VERSION}
    ]
    assert all(check.ok for check in audit(folder)), audit(folder)


KILLER = """
import os, signal, sys, time
from mcr_infer.index import Index
for line in sys.stdin:
    delay, folder = line.rstrip("\\n").split(" ", 1)
    started = time.perf_counter()
    child = os.fork()
    if not child:
        if delay == "0":
            signal.pause()  # killed before it begins
        Index.open(folder, writable=True).close()
        os._exit(0)
    if float(delay) >= 0:
        while time.perf_counter() - started < float(delay):
            pass
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(time.perf_counter() - started, flush=True)
"""


@pytest.mark.parametrize("kept", KEPT[:-1])
def test_a_kill_in_the_midst_leaves_one_or_the_other(kept: str, tmp_path: Path) -> None:
    told = told_of(kept)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as killer:
        assert killer.stdin is not None
        assert killer.stdout is not None

        def run(name: str, delay: float) -> float:
            killer.stdin.write(f"{delay} {copied(kept, tmp_path / name)}\n")  # type: ignore[union-attr]
            killer.stdin.flush()  # type: ignore[union-attr]
            return float(killer.stdout.readline())  # type: ignore[union-attr]

        whole = max(run("first", -1), run("second", -1))
        left = []
        for number in range(24):
            run(str(number), whole * number / 18 if number else 0)
            folder = tmp_path / str(number)
            left.append(stored_version(folder))
            with Index.open(folder, exact_limit=EXACT_LIMIT) as index:
                assert index.format_version == left[-1]
                check_answers(index, told)
            with Index.open(folder, writable=True, exact_limit=EXACT_LIMIT) as index:
                check_answers(index, told)
            assert stored_version(folder) == FORMAT_VERSION
            assert all(check.ok for check in audit(folder)), audit(folder)
        killer.stdin.close()
    assert left[0] == version_of(kept)
    assert set(left) <= {version_of(kept), FORMAT_VERSION}
    assert stored_version(tmp_path / "first") == FORMAT_VERSION
