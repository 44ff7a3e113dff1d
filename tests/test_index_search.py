"""Search: against numpy, always k hits, one order for ties; and the whole index against a dictionary."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
    for query, hits in enumerate(search(index, queries, kind="image", k=25)):
        expected = np.argsort(-scores[query])[:25]
        assert [hit.id for hit in hits] == [f"{i:04d}" for i in expected]
        assert [hit.rank for hit in hits] == list(range(1, 26))
        assert np.abs(np.array([hit.score for hit in hits]) - scores[query][expected]).max() < 1e-12


def test_a_hit_says_what_its_row_says(index: Index) -> None:
    ((hit,),) = search(index, units(500, seed=1)[7], k=1)
    assert hit == Hit(
        rank=1, score=hit.score, id="0007", kind="image", path="images/7.dcm", metadata={"number": 7}, label=8
    )
    assert abs(hit.score - 1.0) < 1e-6
    assert hit.score <= 1.0


def test_a_batch_gives_what_single_queries_give(index: Index) -> None:
    queries = units(40, seed=4)
    batch = search(index, queries, k=10)
    assert batch == [search(index, query, k=10)[0] for query in queries]
    assert batch[::-1] == search(index, queries[::-1], k=10)


def test_kinds_do_not_mix(index: Index) -> None:
    (hits,) = search(index, units(500, seed=1)[7], kind="report", k=5)
    assert {hit.kind for hit in hits} == {"report"}
    assert hits[0].path == f"reports/{int(hits[0].id)}.dcm"


def test_k_is_bounded_by_what_there_is(index: Index) -> None:
    (hits,) = search(index, units(1, seed=3), kind="report", k=1000)
    assert sorted(hit.id for hit in hits) == [f"{i:04d}" for i in range(20)]


def test_excluded_rows_make_room_for_the_next(index: Index) -> None:
    query = units(1, seed=3)
    (hits,) = search(index, query, k=12)
    (others,) = search(index, query, k=10, exclude={hits[0].id, hits[4].id})
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
        (hits,) = search(index, vectors[3], k=10)
    assert [hit.id for hit in hits] == [f"{i:04d}" for i in [3, *range(10, 110, 7)][:10]]
    assert len({hit.score for hit in hits}) == 1


def test_questions_that_cannot_be_answered(index: Index, tmp_path: Path) -> None:
    query = units(1, seed=3)[0]
    with pytest.raises(QueryError, match="k must be at least 1, got 0"):
        search(index, query, k=0)
    with pytest.raises(QueryError, match="image or report, got 'study'"):
        search(index, query, kind="study")
    with pytest.raises(QueryError, match=r"has 16 dimensions, got an array \[1, 8\]"):
        search(index, query[:8])
    with pytest.raises(QueryError, match="finite vector of length 1"):
        search(index, query * np.float32(2))
    with pytest.raises(QueryError, match="finite vector of length 1"):
        search(index, np.full(DIM, np.nan, dtype=np.float32))
    with opened(tmp_path / "empty") as empty, pytest.raises(QueryError, match=r"holds no reports: .*embed-reports"):
        search(empty, query, kind="report")


class IndexAgainstDictionary(RuleBasedStateMachine):
    """Any sequence of changes, saves and reopenings leaves the index saying what a dictionary says."""

    LIMIT = 6

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.index = opened(self.folder, exact_limit=self.LIMIT)
        self.reader = Index.open(self.folder, exact_limit=self.LIMIT, notify=lambda _: None)
        self.model: dict[tuple[str, str], np.ndarray] = {}
        self.drawn = 0

    @rule(ids=st.lists(st.integers(0, 14), max_size=6), kind=st.sampled_from(["image", "report"]))
    def add(self, ids: list[int], kind: str) -> None:
        rows = []
        for id in ids:
            self.drawn += 1
            vector = units(1, seed=self.drawn)[0]
            rows.append(Row(id=f"{id:04d}", kind=kind, path=None, vector=vector))
            self.model[kind, f"{id:04d}"] = vector
        self.index.add(rows)

    @rule(ids=st.sets(st.integers(0, 14), max_size=5), kind=st.sampled_from(["image", "report"]))
    def delete(self, ids: set[int], kind: str) -> None:
        gone = [self.model.pop((kind, f"{id:04d}"), None) for id in ids]
        assert self.index.delete(kind, [f"{id:04d}" for id in ids]) == sum(vector is not None for vector in gone)

    @rule(rebuild=st.booleans())
    def save(self, rebuild: bool) -> None:
        self.index.save_snapshots(rebuild=rebuild)

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = opened(self.folder, exact_limit=self.LIMIT)

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = Index.open(self.folder, exact_limit=self.LIMIT, notify=lambda _: None)

    @rule(seed=st.integers(0, 5), k=st.integers(1, 20), kind=st.sampled_from(["image", "report"]))
    def query(self, seed: int, k: int, kind: str) -> None:
        query = units(1, seed=10_000 + seed)[0]
        expected = sorted(
            (-float(vector.astype(np.float64) @ query.astype(np.float64)), id)
            for (its_kind, id), vector in self.model.items()
            if its_kind == kind
        )
        for index in (self.index, self.reader):
            if expected:
                assert [hit.id for hit in search(index, query, kind=kind, k=k)[0]] == [id for _, id in expected[:k]]
            else:
                with pytest.raises(QueryError, match="holds no"):
                    search(index, query, kind=kind, k=k)

    @invariant()
    def rows_are_those_of_the_dictionary(self) -> None:
        for index in (self.index, self.reader):
            for kind in ("image", "report"):
                ids = sorted(id for its_kind, id in self.model if its_kind == kind)
                assert index.ids(kind) == ids
                assert index.count(kind) == len(ids)
        for (kind, id), vector in self.model.items():
            assert np.array_equal(self.index.vector(kind, id), vector)

    def teardown(self) -> None:
        self.reader.close()
        self.index.close()
        shutil.rmtree(self.folder)


TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
TestIndexAgainstDictionary.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
