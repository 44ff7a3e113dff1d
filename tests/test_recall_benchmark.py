"""The generator of vectors for the recall benchmark, and how recall and breadth are computed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import own_index, vectors
from benchmarks import recall as benchmark
from benchmarks.engines import ENGINES, Setting, engine
from benchmarks.gallery import Gallery
from benchmarks.likeness import local_dimension
from benchmarks.race import breadth_for, in_fresh_process, race
from benchmarks.truth import nearest_scores, recall
from benchmarks.vectors import Sample, Space
from mcr_infer.index import Index, nearest
from mcr_infer.phantom.findings import draw_findings

Vectors = np.ndarray


def unit(values: Vectors) -> Vectors:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def drawn(seed: int, count: int, dim: int = 16) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dim)))


@pytest.fixture(scope="module")
def sample() -> Sample:
    """Embeddings of sixteen dimensions in which the first says the modality, and the second whether something is shown."""
    rng = np.random.default_rng(0)
    shown = [draw_findings(np.random.default_rng([1, row])) for row in range(1500)]
    told = np.array([[1.0 if each else -1.0] for each in shown])

    def modality(side: float, spread: float) -> Vectors:
        given = rng.standard_normal((len(shown), 16)) * np.arange(1, 17) ** -1.5 * spread
        given[:, :1] += side
        given[:, 1:2] += told
        return unit(given)

    return Sample(images=modality(0.5, 0.4), image_findings=shown, queries=modality(-0.5, 0.2), query_findings=shown)


@pytest.fixture(autouse=True)
def _few_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_LAW", slice(3, 12))
    monkeypatch.setattr(vectors, "BLOCK", 1000)


@pytest.fixture(scope="module")
def space(sample: Sample) -> Space:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "_LAW", slice(3, 12))
        return Space.fit(sample, dim=64, sets=2000)


def test_a_draw_is_the_same_again_and_the_start_of_a_longer_one(space: Space) -> None:
    long, short = space.draw("image", 2500, seed=3), space.draw("image", 1200, seed=3)
    assert long.shape == (2500, 64)
    assert long.dtype == np.float32
    np.testing.assert_array_equal(short, long[:1200])
    np.testing.assert_allclose(np.linalg.norm(long, axis=1), 1.0, atol=1e-5)


def test_blocks_seeds_and_modalities_are_drawn_apart(space: Space) -> None:
    long = space.draw("image", 2000, seed=3)
    assert not np.allclose(long[:1000], long[1000:])
    assert not np.allclose(long[:1000], space.draw("image", 1000, seed=4))
    assert len(np.unique(long.round(5), axis=0)) == 2000


def test_a_space_keeps_the_gap_and_the_cosines_of_what_it_was_fitted_to(sample: Sample, space: Space) -> None:
    images, text = space.draw("image", 1500, seed=1), space.draw("text", 1500, seed=1)
    for one, other, own_one, own_other in (
        (images, text, sample.images, sample.queries),
        (images, images, sample.images, sample.images),
        (text, text, sample.queries, sample.queries),
    ):
        found, given = one @ other.T, own_one @ own_other.T
        assert found.mean() == pytest.approx(given.mean(), abs=0.03)
        assert found.std() == pytest.approx(given.std(), abs=0.03)
    gap = [a.mean(axis=0) @ b.mean(axis=0) for a, b in ((images, text), (sample.images, sample.queries))]
    assert gap[0] == pytest.approx(gap[1], abs=0.03)


def test_neighbours_of_the_drawn_fill_at_least_as_many_dimensions(sample: Sample, space: Space) -> None:
    images = space.draw("image", 1500, seed=1)
    of = [
        float(np.median(local_dimension(-np.sort(-(each[1000:] @ each[:1000].T), axis=1)[:, :20])))
        for each in (images, sample.images)
    ]
    assert of[0] >= of[1]


def test_local_dimension_of_points_on_a_circle_is_one() -> None:
    angles = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float64)
    ranked = -np.sort(-(circle[:50] @ circle.T), axis=1)[:, 1:21]
    assert float(np.median(local_dimension(ranked))) == pytest.approx(1.1, abs=0.15)


def test_nearest_scores_do_not_depend_on_the_blocks() -> None:
    images, queries = drawn(0, 300), drawn(1, 20)
    expected = np.sort(queries @ images.T, axis=1)[:, -10]
    for parts in ([images], [images[:4], images[4:9], images[9:]]):
        np.testing.assert_allclose(nearest_scores(queries, parts, k=10), expected, atol=1e-6)
    with pytest.raises(ValueError, match="there are 9 vectors, expected 10 at least"):
        nearest_scores(queries, [images[:9]], k=10)


def test_recall_counts_either_of_equal_vectors_and_nothing_twice() -> None:
    images = np.concatenate([drawn(0, 50), drawn(0, 50)])  # row i and row i + 50 are the same
    queries = drawn(1, 8)
    kth = nearest_scores(queries, [images], k=10)
    order = np.argsort(-(queries @ images[:50].T), axis=1)
    twins = np.concatenate([order[:, :5], order[:, :5] + 50], axis=1)
    np.testing.assert_array_equal(recall(twins, queries, images, kth), 1.0)
    np.testing.assert_array_equal(recall(np.repeat(order[:, :5], 2, axis=1), queries, images, kth), 0.5)
    missing = np.where(np.arange(10) < 7, twins, -1)
    np.testing.assert_array_equal(recall(missing, queries, images, kth), 0.7)
    np.testing.assert_array_equal(recall(order[:, -10:], queries, images, kth), 0.0)


def test_breadth_is_the_smallest_that_reaches_the_recall() -> None:
    images, queries = drawn(0, 2000), drawn(1, 16)
    kth = nearest_scores(queries, [images], k=10)
    order = np.argsort(-(queries @ images.T), axis=1)[:, :10]
    asked = []

    def search(some: Vectors, ef: int) -> Vectors:
        asked.append(ef)
        return np.where(np.arange(10) < min(10, ef // 30), order, -1)

    found = breadth_for(0.9, search, queries, images, kth, least=10)
    assert found is not None
    assert 270 <= found <= 281  # 270, within 4 %
    assert breadth_for(0.9, lambda some, ef: np.full((16, 10), -1), queries, images, kth, least=10) is None
    assert max(asked) < 1000


def test_a_race_gives_the_ratio_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.race.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("benchmarks.race.time.process_time", lambda: clock[0] / 2)

    def takes(seconds: float) -> object:
        clock[0] += seconds
        return None

    found = race({"slow": lambda: takes(0.5), "fast": lambda: takes(0.2)}, queries=64, rounds=3)
    assert found["slow"] == {"per_second": 128, "per_processor_second": 256, "ratio": 1.0, "ratio_processor": 1.0}
    assert found["fast"]["per_second"] == 320
    assert found["fast"]["ratio"] == 2.5


@pytest.mark.parametrize("name", ENGINES)
def test_engines_find_what_is_nearest_and_are_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    if name != "exact" and name != "hnswlib":
        pytest.importorskip(name.split()[0])
    images, queries = drawn(0, 600, 64), drawn(1, 20, 64)
    kth = nearest_scores(queries, [images], k=10)
    made, loaded = engine(name), engine(name)
    made.build([images[:200], images[200:]], count=600, dim=64, setting=Setting(m=16, ef_construction=100), threads=1)
    made.save(tmp_path / "saved")
    loaded.load(tmp_path / "saved", dim=64)
    found = made.search(queries, k=10, ef=300, threads=1)
    assert found.shape == (20, 10)
    # Half precision swaps neighbours whose scores differ in the fourth place.
    assert recall(found, queries, images, kth - (1e-3 if name.endswith("16") else 0)).mean() >= 0.99
    np.testing.assert_array_equal(loaded.search(queries, k=10, ef=300, threads=1), found)


def test_the_index_over_a_gallery_has_the_graph_of_hnswlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_index, "_ADDED_AT_ONCE", 77)
    images, queries = drawn(0, 400, vectors.DIM), drawn(1, 64, vectors.DIM)
    np.save(tmp_path / "images.npy", images)
    gallery, setting = Gallery(folder=tmp_path, count=400), Setting(m=8, ef_construction=50)
    folder = own_index.filled(gallery, setting, exact_limit=100)
    bare = engine("hnswlib")
    bare.load(gallery.file_of("hnswlib", setting), dim=vectors.DIM)
    with Index.open(folder, exact_limit=100, notify=pytest.fail) as index:
        labels, scores = nearest(index, queries, k=10, ef_search=12, fingerprint=index.fingerprint)
        ids = [[int(index.rows([label])[label].id) for label in each] for each in labels.tolist()]
        np.testing.assert_array_equal(ids, bare.search(queries, k=10, ef=12, threads=1))
        np.testing.assert_allclose(scores, np.einsum("qkd,qd->qk", images[np.array(ids)], queries), atol=1e-5)
        lots = own_index.drawn_facts(400)["lot"]
        found, _ = nearest(index, queries, k=3, where="lot in (1, 2, 3)", fingerprint=index.fingerprint)
        rows = [int(index.rows([label])[label].id) for label in found.ravel().tolist()]
        assert set(lots[rows].tolist()) <= {1, 2, 3}


def test_a_gallery_gives_the_first_of_its_images_and_remembers_their_neighbours(tmp_path: Path) -> None:
    images = drawn(0, 50, 8)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "text.npy", images[:5])
    gallery = replace(Gallery(folder=tmp_path, count=50), count=30)
    np.testing.assert_array_equal(np.concatenate(list(gallery.blocks())), images[:30])
    expected = nearest_scores(images[:5], [images[:30]], k=10)
    np.testing.assert_array_equal(gallery.kth("text"), expected)
    assert (tmp_path / "text-30-kth.npy").exists()


def small_gallery(folder: Path, count: int = 300) -> Gallery:
    np.save(folder / "images.npy", drawn(0, count, vectors.DIM))
    for seed, modality in enumerate(vectors.MODALITIES, start=1):
        np.save(folder / f"{modality}.npy", drawn(seed, 32, vectors.DIM))
    return Gallery(folder=folder, count=count)


def test_a_sweep_says_recall_and_speed_of_each_breadth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "SWEPT", (10, 250))
    lines = benchmark.sweep(small_gallery(tmp_path), [Setting(m=4, ef_construction=10)], 1)
    assert [(one["queries"], one["ef_search"]) for one in lines] == [
        ("image", 10), ("image", 250), ("text", 10), ("text", 250)
    ]  # fmt: skip
    assert lines[2]["recall"] < 0.9 < 0.97 <= lines[3]["recall"]
    assert all(one["per_processor_second"] > 0 for one in lines)


def test_engines_are_raced_at_the_breadth_that_reaches_the_recall(tmp_path: Path) -> None:
    gallery, names = small_gallery(tmp_path), ("exact", "hnswlib")
    for name in names:
        gallery.built(name, benchmark.SETTING)
    efs = benchmark.breadths(gallery, names)
    assert efs["exact text 0.99"] == 10
    assert efs["hnswlib text 0.99"] >= efs["hnswlib text 0.95"] >= 10
    lines = benchmark.raced(gallery, names, efs, 1, 1)
    assert len(lines) == len(names) * len(vectors.MODALITIES) * len(benchmark.TARGETS)
    first = lines[0]
    assert (first["engine"], first["ratio"], first["threads"]) == ("hnswlib", 1.0, 1)
    assert all(one["per_second"] > 0 for one in lines)


def test_what_takes_long_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, setting = small_gallery(tmp_path), Setting(m=4, ef_construction=10)
    path = gallery.built("hnswlib", setting)
    assert path.name == "hnswlib-300-m4-10.bin"
    took = gallery.build_time("hnswlib", setting)
    assert took is not None
    assert took["processor_seconds"] >= 0
    assert gallery.build_time("faiss", setting) is None
    monkeypatch.setattr("benchmarks.gallery.engine", pytest.fail)
    assert gallery.built("hnswlib", setting) == path


def test_memory_of_an_engine_is_what_loading_it_adds(tmp_path: Path) -> None:
    gallery = small_gallery(tmp_path, 8_000)
    path = gallery.built("exact", benchmark.SETTING)
    grown = in_fresh_process(benchmark.loaded_bytes, "exact", path, threads=1)
    assert grown == pytest.approx(8_000 * vectors.DIM * 4, rel=0.1)
