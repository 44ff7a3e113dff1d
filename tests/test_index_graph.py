"""The graph: a checked snapshot of the store that finds what exact search finds, and is made again when it is damaged."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mcr_infer
from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import Index, Row, search
from mcr_infer.index.graph import Graph

DIM = 32
LIMIT = 100
ROOT = Path(mcr_infer.__file__).parents[1]
MADE_BY = {"fingerprint": "ab12" * 16, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}


def opened(folder: Path, *, exact_limit: int = LIMIT, notify: object = None) -> Index:
    return Index.open_or_create(folder, **MADE_BY, exact_limit=exact_limit, notify=notify)  # type: ignore[arg-type]


def units(count: int, *, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(count: int, *, seed: int, dim: int) -> np.ndarray:
    """Draw unit vectors [N, D] that have neighbours, as embeddings do: 12 directions carry most of the variance."""
    random = np.random.default_rng(seed)
    spread = np.random.default_rng(0).normal(size=(12, dim))
    vectors = (random.normal(size=(count, 12)) @ spread + 0.5 * random.normal(size=(count, dim))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, *, first: int = 0, kind: str = "image") -> list[Row]:
    return [Row(id=f"{kind}-{i:05d}", kind=kind, path=None, vector=vector) for i, vector in enumerate(vectors, first)]


def found(index: Index, queries: np.ndarray, *, k: int = 10, kind: str = "image") -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in search(index, queries, kind=kind, k=k, fingerprint=index.fingerprint)]


def graph_file(folder: Path, kind: str = "image") -> Path:
    (path,) = folder.glob(f"graph-{kind}-*.hnsw")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of 300 images with a saved graph."""
    with opened(tmp_path / "index", notify=lambda _: None) as index:
        index.add(rows_of(units(300, seed=1)))
        index.save_snapshots()
    return tmp_path / "index"


def test_recall_of_the_graph_against_exact_search(tmp_path: Path) -> None:
    said: list[str] = []
    queries = clustered(200, seed=5, dim=64)
    made_by = {**MADE_BY, "embedding_dim": 64}
    with Index.open_or_create(tmp_path / "index", **made_by, exact_limit=1000, notify=said.append) as index:  # type: ignore[arg-type]
        index.add(rows_of(clustered(3000, seed=4, dim=64)))
        approximate = search(index, queries, k=10, fingerprint=index.fingerprint)
        index.save_snapshots()
    with Index.open(tmp_path / "index") as index:
        exact = search(index, queries, k=10, fingerprint=index.fingerprint)
    hits = sum(len({a.id for a in ours} & {e.id for e in true}) for ours, true in zip(approximate, exact, strict=True))
    assert hits / 2000 >= 0.98
    assert said == ["building the graph of 3000 images from store.sqlite: there is no graph yet"]
    # Both ways score with the same sum: a row that both find has one score, to the last bit.
    scores = [{hit.id: hit.score for hit in hits} for hits in exact]
    assert all(scores[q].get(hit.id, hit.score) == hit.score for q, hits in enumerate(approximate) for hit in hits)


def test_each_kind_has_its_own_graph_and_few_rows_have_none(tmp_path: Path) -> None:
    images, reports = units(150, seed=1), units(120, seed=2)
    with opened(tmp_path / "index", notify=lambda _: None) as index:
        index.add(rows_of(images) + rows_of(reports[:90], kind="report"))
        index.save_snapshots()
        assert [path.name[:12] for path in (tmp_path / "index").glob("graph-*")] == ["graph-image-"]
        index.add(rows_of(reports[90:], first=90, kind="report"))
        index.save_snapshots()
        assert len(list((tmp_path / "index").glob("graph-*"))) == 2
        assert found(index, reports[:100], k=1, kind="report") == [[f"report-{i:05d}"] for i in range(100)]
        assert found(index, images[:100], k=1) == [[f"image-{i:05d}"] for i in range(100)]
        index.delete("report", [f"report-{i:05d}" for i in range(60)])
        index.save_snapshots()
        assert [path.name[:12] for path in (tmp_path / "index").glob("graph-*")] == ["graph-image-"]


def test_a_saved_graph_is_loaded_not_built(folder: Path) -> None:
    said: list[str] = []
    with Index.open(folder, exact_limit=LIMIT, notify=said.append) as index:
        assert found(index, units(300, seed=1), k=1) == [[f"image-{i:05d}"] for i in range(300)]
    before = graph_file(folder).stat().st_mtime_ns
    with opened(folder) as index:
        index.save_snapshots()
    assert graph_file(folder).stat().st_mtime_ns == before
    assert said == []


def test_rows_newer_than_the_snapshot_are_replayed(folder: Path) -> None:
    before = graph_file(folder).name
    more = units(40, seed=2)
    said: list[str] = []
    with opened(folder, notify=said.append) as index:
        index.add(rows_of(more, first=300))
    with Index.open(folder, exact_limit=LIMIT, notify=said.append) as index:
        assert found(index, more, k=1) == [[f"image-{i:05d}"] for i in range(300, 340)]
    with opened(folder, notify=said.append) as index:
        index.save_snapshots()
    assert graph_file(folder).name != before
    assert said == []


def test_an_open_reader_catches_up_with_each_commit(folder: Path) -> None:
    with opened(folder) as writer, Index.open(folder, exact_limit=LIMIT) as reader:
        for step in range(5):
            vectors = units(10, seed=100 + step)
            writer.add(rows_of(vectors, first=1000 + 10 * step))
            assert found(reader, vectors, k=1) == [[f"image-{1000 + 10 * step + i:05d}"] for i in range(10)]
            writer.delete("image", [f"image-{1000 + 10 * step:05d}"])
            assert found(reader, vectors[:1], k=1) != [[f"image-{1000 + 10 * step:05d}"]]


@pytest.mark.parametrize("saved", [False, True])
def test_replaced_and_deleted_rows_are_found_once_or_never(folder: Path, saved: bool) -> None:
    former, newer = units(300, seed=1), units(30, seed=9)
    with opened(folder) as index:
        index.add(rows_of(newer))
        index.delete("image", [f"image-{i:05d}" for i in range(30, 60)])
        if saved:
            index.save_snapshots()
    with Index.open(folder, exact_limit=LIMIT) as index:
        assert found(index, newer, k=1) == [[f"image-{i:05d}"] for i in range(30)]
        (everything,) = found(index, former[0], k=1000)
        assert sorted(everything) == [f"image-{i:05d}" for i in range(300) if not 30 <= i < 60]
        best = [hits[0] for hits in search(index, former[:60], k=1, fingerprint=index.fingerprint)]
        assert all(hit.score < 0.999 for hit in best)


def test_a_graph_full_of_deleted_rows_is_made_anew(folder: Path) -> None:
    with opened(folder, notify=lambda _: None) as index:
        index.delete("image", [f"image-{i:05d}" for i in range(0, 300, 2)])
        index.save_snapshots()
        assert index.graph("image").element_count == 150
        index.delete("image", ["image-00001"])
        index.save_snapshots()
        assert index.graph("image").element_count == 150
        index.save_snapshots(rebuild=True)
        assert index.graph("image").element_count == 149
    with Index.open(folder, exact_limit=LIMIT) as index:
        assert found(index, units(300, seed=1)[3], k=1) == [["image-00003"]]


def damage(folder: Path, how: str) -> None:
    path = graph_file(folder)
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        position = {"header": 17, "links": 300, "vectors": len(content) // 2}[how]
        content[position] ^= 0x10
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["deleted", "truncated", "empty", "header", "links", "vectors"])
def test_a_damaged_graph_is_said_and_made_again(folder: Path, how: str) -> None:
    damage(folder, how)
    said: list[str] = []
    queries = units(300, seed=1)
    with Index.open(folder, exact_limit=LIMIT, notify=said.append) as index:
        assert found(index, queries, k=1) == [[f"image-{i:05d}"] for i in range(300)]
    assert len(said) == 1
    assert said[0].startswith("building the graph of 300 images from store.sqlite: graph-image-")
    with opened(folder, notify=said.append) as index:
        index.save_snapshots()
    assert len(said) == 2
    with Index.open(folder, exact_limit=LIMIT, notify=said.append) as index:
        assert found(index, queries, k=1) == [[f"image-{i:05d}"] for i in range(300)]
    assert len(said) == 2


def test_a_graph_of_another_dimension_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    graph = Graph(dim=16, capacity=300)
    graph.add(np.arange(300), units(300, seed=1, dim=16))
    snapshot = graph.saved_as(tmp_path, "image")
    with pytest.raises(EmbeddingIndexError, match="is not a graph of 300 vectors of 32 dimensions"):
        Graph.load(tmp_path, "image", snapshot, dim=DIM)
    assert np.array_equal(Graph.load(tmp_path, "image", snapshot, dim=16).labels, np.arange(300))


def test_graphs_of_another_index_and_leftovers_are_cleared(folder: Path, tmp_path: Path) -> None:
    shutil.copy(graph_file(folder), folder / "graph-image-0123456789abcdef.hnsw")
    (folder / "graph-image.tmp").write_bytes(b"half a graph")
    manifest = (folder / "index.json").read_text()
    opened(folder).close()
    assert graph_file(folder).name.split(".")[0][-16:] in manifest
    assert (folder / "index.json").read_text() == manifest
    assert not (folder / "graph-image.tmp").exists()


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
    )


def test_a_save_that_runs_out_of_disk_keeps_the_former_graph(folder: Path) -> None:
    before = graph_file(folder).name
    size = graph_file(folder).stat().st_size
    # hnswlib does not notice that its writes fail at this bound, just as it does not on a full disk.
    code = f"""
import pathlib, resource, sys
from test_index_graph import opened, rows_of, units
from mcr_infer.errors import EmbeddingIndexError
with opened(pathlib.Path(sys.argv[1])) as index:
    index.add(rows_of(units(50, seed=3), first=300))
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
    try:
        index.save_snapshots()
    except EmbeddingIndexError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
    done = run_python(code, str(folder))
    assert done.stdout.strip().endswith("free some space and run the same command again"), done.stderr
    assert graph_file(folder).name == before
    with Index.open(folder, exact_limit=LIMIT) as index:
        assert found(index, units(50, seed=3), k=1) == [[f"image-{i:05d}"] for i in range(300, 350)]


def test_kill_9_while_saving_leaves_the_former_graph_or_the_new_one(folder: Path) -> None:
    code = """
import pathlib, sys
from test_index_graph import opened, rows_of, units
with opened(pathlib.Path(sys.argv[1]), notify=print) as index:
    for step in range(1000):
        index.add(rows_of(units(5, seed=step), first=int(sys.argv[2]) + 5 * step))
        print("added", index.count("image"), flush=True)
        index.save_snapshots()
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    expected = 300
    for round_number, saves in enumerate((1, 4, 2)):
        arguments = [sys.executable, "-c", code, str(folder), str(10_000 * (round_number + 1))]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            for _ in range(saves):
                expected = int(writer.stdout.readline().split()[1])
            writer.send_signal(signal.SIGKILL)
            writer.stdout.read()
        said: list[str] = []
        with Index.open(folder, exact_limit=LIMIT, notify=said.append) as index:
            count = index.count("image")
            assert count >= expected
            assert len(found(index, units(1, seed=1)[0], k=count)[0]) == count
        assert said == []


def test_hnswlib_is_loaded_only_for_a_graph(folder: Path) -> None:
    code = """
import sys
from test_index_graph import units
from mcr_infer.index import Index, search
with Index.open(sys.argv[1], exact_limit=int(sys.argv[2])) as index:
    search(index, units(1, seed=1), k=3, fingerprint=index.fingerprint)
print("hnswlib" in sys.modules)
"""
    assert run_python(code, str(folder), "300").stdout.strip() == "False"
    assert run_python(code, str(folder), "299").stdout.strip() == "True"
