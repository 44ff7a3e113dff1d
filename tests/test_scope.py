"""Which rows a search is about: filters, one hit a study, duplicates, exclusions; exact and through the graph, k always."""

import shutil
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import IndexCorruptError
from mcr_infer.index import EXACT_LIMIT, Index, Row, describe_no_match, nearest, parse_filter, search

DIM = 16
COUNT = 1200
MADE_BY = {"fingerprint": "ab12" * 16, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}


def units(count: int, *, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows() -> list[Row]:
    """Every fifth row has the picture of the one before; three rows a study; the last hundred have no study."""
    vectors = units(COUNT, seed=1)
    vectors[4::5] = vectors[3::5]
    return [
        Row(
            id=f"{i:05d}",
            kind="image",
            path=None,
            study_uid=f"7.{i // 3}" if i < COUNT - 100 else None,
            metadata={"view": ("PA", "AP", "LATERAL")[i % 3], "study_year": 2010 + i % 10, "lot": i % 100},
            content_digest=f"{i - (i % 5 == 4):064x}",
            vector=vector,
        )
        for i, vector in enumerate(vectors)
    ]


ROWS = rows()
VECTORS = np.stack([row.vector for row in ROWS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with a graph and all that lies beside the store."""
    place = tmp_path_factory.mktemp("scope") / "index"
    with Index.open_or_create(place, **MADE_BY, exact_limit=100, notify=lambda _: None) as index:
        index.add(ROWS)
        index.save_snapshots()
    return place


@pytest.fixture(params=["exact", "graph"])
def index(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The same index, searched in either way; subsets of more than 150 rows go through the graph."""
    monkeypatch.setattr(import_module("mcr_infer.index.search"), "LARGEST_SUBSET", 150)
    with Index.open(folder, exact_limit=EXACT_LIMIT if request.param == "exact" else 100) as opened:
        yield opened


def expected(query: np.ndarray, k: int, keep: np.ndarray) -> list[str]:
    scores = VECTORS.astype(np.float64) @ query.astype(np.float64)
    order = sorted(np.flatnonzero(keep), key=lambda place: (-scores[place], ROWS[place].id))
    return [ROWS[place].id for place in order[:k]]


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ("view=PA", lambda i: i % 3 == 0),
        ("view=PA and study_year>=2015", lambda i: i % 3 == 0 and i % 10 >= 5),
        ("lot=7", lambda i: i % 100 == 7),
        ("study_uid is missing", lambda i: i >= COUNT - 100),
        ("lot!=7", lambda i: i % 100 != 7),
    ],
)
def test_a_filter_gives_the_nearest_of_what_matches(index: Index, where: str, keep):
    mask = np.array([keep(i) for i in range(COUNT)])
    found = search(
        index, units(20, seed=2), k=10, where=parse_filter(where), ef_search=COUNT, fingerprint=index.fingerprint
    )
    for query, hits in zip(units(20, seed=2), found, strict=True):
        assert [hit.id for hit in hits] == expected(query, 10, mask)


def test_there_are_always_k_where_k_match(index: Index):
    for k in (1, 11, 12, 500):
        hits = search(index, units(1, seed=3), k=k, where="lot=7", fingerprint=index.fingerprint)[0]
        assert len(hits) == min(k, 12)
    assert len(search(index, units(1, seed=3), k=5000, fingerprint=index.fingerprint)[0]) == COUNT


def test_a_filter_that_turns_away_all_that_is_near_still_gives_k(index: Index):
    """The rows that match are those farthest from the query: the graph alone would lead to none of them."""
    query = units(1, seed=4)[0]
    far = np.argsort(VECTORS @ query)[:400]
    ids = ", ".join(ROWS[place].id for place in far)
    mask = np.isin(np.arange(COUNT), far)
    hits = search(index, query, k=25, where=f"id in ({ids})", fingerprint=index.fingerprint)[0]
    assert [hit.id for hit in hits] == expected(query, 25, mask)


def test_one_hit_a_study_is_its_best(index: Index):
    # A graph that is searched in its whole breadth: what it misses otherwise is not what this is about.
    found = search(index, units(10, seed=5), k=30, distinct=["study"], ef_search=COUNT, fingerprint=index.fingerprint)
    for query, hits in zip(units(10, seed=5), found, strict=True):
        scores = VECTORS.astype(np.float64) @ query.astype(np.float64)
        best: dict[str, int] = {}
        for place in sorted(range(COUNT), key=lambda place: (-scores[place], ROWS[place].id)):
            best.setdefault(ROWS[place].study_uid or ROWS[place].id, place)
        assert [hit.id for hit in hits] == [ROWS[place].id for place in list(best.values())[:30]]
        studies = [hit.study_uid for hit in hits if hit.study_uid]
        assert len(studies) == len(set(studies))


def test_duplicates_are_one_hit(index: Index):
    (hits,) = search(index, VECTORS[3], k=10, fingerprint=index.fingerprint)
    assert [hit.id for hit in hits[:2]] == ["00003", "00004"]
    (hits,) = search(index, VECTORS[3], k=10, distinct=["content"], fingerprint=index.fingerprint)
    assert hits[0].id == "00003"
    assert "00004" not in [hit.id for hit in hits]
    assert len(hits) == 10
    (hits,) = search(index, VECTORS[3], k=COUNT, distinct=["content", "study"], fingerprint=index.fingerprint)
    # 400 studies and 100 rows without; of the latter every fifth is a twin of the one before.
    assert len({hit.study_uid for hit in hits if hit.study_uid}) == sum(hit.study_uid is not None for hit in hits)
    assert sum(hit.study_uid is None for hit in hits) == 80


def test_a_filter_that_nothing_matches_gives_no_hits(index: Index):
    where = "view=pa and study_year=2010"
    assert search(index, units(2, seed=1), where=where, fingerprint=index.fingerprint) == [[], []]
    labels, scores = nearest(index, units(2, seed=1), where=where, fingerprint=index.fingerprint)
    assert labels.shape == scores.shape == (2, 0)
    told = describe_no_match(index, "image", parse_filter(where))
    assert "matches --where: view holds AP, LATERAL, PA; study_year holds numbers from 2010" in told


def test_labels_and_scores_without_rows(index: Index):
    queries = units(12, seed=6)
    labels, scores = nearest(
        index, queries, k=10, where=parse_filter("view=PA"), ef_search=COUNT, fingerprint=index.fingerprint
    )
    assert (labels.shape, scores.shape, labels.dtype, scores.dtype) == ((12, 10), (12, 10), np.int64, np.float32)
    hits = search(index, queries, k=10, where="view=PA", ef_search=COUNT, fingerprint=index.fingerprint)
    assert np.abs(scores - [[hit.score for hit in of] for of in hits]).max() < 1e-5
    assert [set(row) for row in labels.tolist()] == [{hit.label for hit in of} for of in hits]
    assert nearest(index, queries, k=50, where="lot=7", fingerprint=index.fingerprint)[0].shape == (
        12,
        12,
    )


def test_what_a_writer_adds_and_removes_is_filtered_too(folder: Path, tmp_path: Path):
    place = shutil.copytree(folder, tmp_path / "index")
    with Index.open(place) as reader, Index.open(place, writable=True) as writer:
        assert len(search(reader, units(1, seed=1), k=99, where="lot=7", fingerprint=reader.fingerprint)[0]) == 12
        fresh = Row(id="new", kind="image", path=None, vector=units(1, seed=9)[0], metadata={"lot": 7, "site": "north"})
        writer.add([fresh])
        writer.delete("image", ["00007", "00107"])
        hits = search(reader, units(1, seed=9), k=99, where="lot=7", fingerprint=reader.fingerprint)[0]
        assert (len(hits), hits[0].id) == (11, "new")
        assert [
            hit.id
            for hit in search(
                reader, units(1, seed=9), where=parse_filter("site=north"), fingerprint=reader.fingerprint
            )[0]
        ] == ["new"]
        writer.save_snapshots()
    with Index.open(place) as reader:
        assert [
            hit.id
            for hit in search(
                reader, units(1, seed=9), where=parse_filter("site=north"), fingerprint=reader.fingerprint
            )[0]
        ] == ["new"]
        assert (
            len(
                search(
                    reader,
                    units(1, seed=9),
                    k=2000,
                    where=parse_filter("site is missing"),
                    fingerprint=reader.fingerprint,
                )[0]
            )
            == COUNT - 2
        )


def test_a_row_that_is_not_what_the_graph_holds_is_an_error(folder: Path, tmp_path: Path):
    """Two labels that changed places keep every digest; the scores tell."""
    place = shutil.copytree(folder, tmp_path / "index")
    with sqlite3.connect(place / "store.sqlite") as raw:
        for label, other in ((8, -1), (9, 8), (-1, 9)):
            raw.execute("UPDATE rows SET label = ? WHERE label = ?", (other, label))
    raw.close()
    with (
        Index.open(place) as index,
        pytest.raises(IndexCorruptError, match=r"not what the snapshots .*`mcr-infer rebuild`"),
    ):
        search(index, VECTORS[7], k=1, fingerprint=index.fingerprint)
