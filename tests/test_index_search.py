"""Search: against numpy, always k hits, one order for ties."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import QueryError
from mcr_infer.index import EXACT_LIMIT, Hit, Index, Row, search

DIM = 16
MADE_BY = {"fingerprint": "ab12" * 16, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}


def opened(folder: Path, *, exact_limit: int = EXACT_LIMIT) -> Index:
    return Index.open_or_create(folder, **MADE_BY, exact_limit=exact_limit, notify=lambda _: None)  # type: ignore[arg-type]


def units(count: int, *, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, *, kind: str = "image") -> list[Row]:
    return [
        Row(id=f"{i:04d}", kind=kind, path=f"{kind}s/{i}.dcm", metadata={"number": i}, vector=vector)
        for i, vector in enumerate(vectors)
    ]


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index of 500 images and 20 reports, open."""
    with opened(tmp_path / "index") as index:
        index.add(rows_of(units(500, seed=1)) + rows_of(units(20, seed=2), kind="report"))
        yield index


def test_exact_search_is_what_numpy_says(index: Index) -> None:
    vectors, queries = units(500, seed=1), units(50, seed=3)
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    for query, hits in enumerate(search(index, queries, kind="image", k=25, fingerprint=index.fingerprint)):
        expected = np.argsort(-scores[query])[:25]
        assert [hit.id for hit in hits] == [f"{i:04d}" for i in expected]
        assert [hit.rank for hit in hits] == list(range(1, 26))
        assert np.abs(np.array([hit.score for hit in hits]) - scores[query][expected]).max() < 1e-12


def test_a_hit_says_what_its_row_says(index: Index) -> None:
    ((hit,),) = search(index, units(500, seed=1)[7], k=1, fingerprint=index.fingerprint)
    assert hit == Hit(
        rank=1, score=hit.score, id="0007", kind="image", path="images/7.dcm", metadata={"number": 7}, label=8
    )
    assert abs(hit.score - 1.0) < 1e-6
    assert hit.score <= 1.0


def test_a_batch_gives_what_single_queries_give(index: Index) -> None:
    queries = units(40, seed=4)
    batch = search(index, queries, k=10, fingerprint=index.fingerprint)
    assert batch == [search(index, query, k=10, fingerprint=index.fingerprint)[0] for query in queries]
    assert batch[::-1] == search(index, queries[::-1], k=10, fingerprint=index.fingerprint)


def test_kinds_do_not_mix(index: Index) -> None:
    (hits,) = search(index, units(500, seed=1)[7], kind="report", k=5, fingerprint=index.fingerprint)
    assert {hit.kind for hit in hits} == {"report"}
    assert hits[0].path == f"reports/{int(hits[0].id)}.dcm"


def test_k_is_bounded_by_what_there_is(index: Index) -> None:
    (hits,) = search(index, units(1, seed=3), kind="report", k=1000, fingerprint=index.fingerprint)
    assert sorted(hit.id for hit in hits) == [f"{i:04d}" for i in range(20)]


def test_excluded_rows_make_room_for_the_next(index: Index) -> None:
    query = units(1, seed=3)
    (hits,) = search(index, query, k=12, fingerprint=index.fingerprint)
    (others,) = search(index, query, k=10, exclude={hits[0].id, hits[4].id}, fingerprint=index.fingerprint)
    assert [hit.id for hit in others] == [hit.id for hit in hits if hit.rank not in (1, 5)]
    assert [hit.rank for hit in others] == list(range(1, 11))


@pytest.mark.parametrize("exact_limit", [EXACT_LIMIT, 50])
def test_equal_scores_are_ordered_by_id(tmp_path: Path, exact_limit: int) -> None:
    vectors = units(120, seed=1)
    vectors[10:110:7] = vectors[3]
    order = np.random.default_rng(0).permutation(120)
    with opened(tmp_path / "index", exact_limit=exact_limit) as index:
        rows = rows_of(vectors)
        index.add([rows[i] for i in order])
        (hits,) = search(index, vectors[3], k=10, fingerprint=index.fingerprint)
    assert [hit.id for hit in hits] == [f"{i:04d}" for i in [3, *range(10, 110, 7)][:10]]
    assert len({hit.score for hit in hits}) == 1


def test_questions_that_cannot_be_answered(index: Index, tmp_path: Path) -> None:
    query = units(1, seed=3)[0]
    with pytest.raises(QueryError, match="k must be at least 1, got 0"):
        search(index, query, k=0, fingerprint=index.fingerprint)
    with pytest.raises(QueryError, match="image or report, got 'study'"):
        search(index, query, kind="study", fingerprint=index.fingerprint)
    with pytest.raises(QueryError, match=r"has 16 dimensions, got an array \[1, 8\]"):
        search(index, query[:8], fingerprint=index.fingerprint)
    with pytest.raises(QueryError, match="finite vector of length 1"):
        search(index, query * np.float32(2), fingerprint=index.fingerprint)
    with pytest.raises(QueryError, match="finite vector of length 1"):
        search(index, np.full(DIM, np.nan, dtype=np.float32), fingerprint=index.fingerprint)
    with opened(tmp_path / "empty") as empty, pytest.raises(QueryError, match=r"holds no reports: .*embed-reports"):
        search(empty, query, kind="report", fingerprint=empty.fingerprint)
