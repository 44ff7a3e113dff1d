"""Vectors that know their space, and searches that take no others."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcr_infer.embeddings import Embeddings, fingerprint_of
from mcr_infer.errors import IndexMismatchError, QueryError, UsageError
from mcr_infer.index import Index, Row, search

DIM = 16
OWN, OTHER = "ab12" * 16, "cd34" * 16


def marked(count: int = 4, fingerprint: str = OWN) -> Embeddings:
    return Embeddings(np.eye(DIM, dtype=np.float32)[:count], fingerprint)


@pytest.fixture
def index(tmp_path: Path):
    place = tmp_path / "index"
    with Index.open_or_create(place, fingerprint=OWN, embedding_dim=DIM, bundle="tiny", bundle_path="tiny") as opened:
        opened.add(
            [
                Row(id=f"2.25.{n}", kind="image", path=None, vector=marked()[n], metadata={"view": "PA" if n else "AP"})
                for n in range(4)
            ]
        )
        yield opened


KEPT: dict[str, Callable[[Embeddings], Any]] = {
    "row": lambda v: v[0],
    "slice": lambda v: v[1:3],
    "choice": lambda v: v[[2, 0]],
    "mask": lambda v: v[np.array([True, False, True, False])],
    "copy": lambda v: v.copy(),
    "stack": lambda v: np.stack([v[0], v[2]]),
    "concatenate": lambda v: np.concatenate([v, v]),
    "vstack": lambda v: np.vstack([v[0], v]),
    "two dimensions": lambda v: np.atleast_2d(v[0]),
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
}
LOST: dict[str, Callable[[Embeddings], Any]] = {
    "sum": lambda v: v + v,
    "scaled": lambda v: v * 2,
    "negative": lambda v: -v,
    "mean": lambda v: v.mean(axis=0),
    "np.mean": lambda v: np.mean(v, axis=0),
    "product": lambda v: v @ np.eye(DIM, dtype=np.float32),
    "stack of two spaces": lambda v: np.stack([v[0], marked(fingerprint=OTHER)[0]]),
    "stack with plain": lambda v: np.stack([v[0], np.zeros(DIM, dtype=np.float32)]),
    "plain": np.asarray,
}


@pytest.mark.parametrize("how", KEPT)
def test_choosing_and_joining_keep_the_space(how: str):
    assert fingerprint_of(KEPT[how](marked())) == OWN


@pytest.mark.parametrize("how", LOST)
def test_arithmetic_and_mixing_lose_the_space(how: str):
    lost = LOST[how](marked())
    assert fingerprint_of(lost) is None
    assert type(lost) is np.ndarray


def test_writing_into_vectors_loses_the_space():
    added, written = marked(), marked()
    added += 1
    written[0] = 0
    assert (fingerprint_of(added), fingerprint_of(written)) == (None, None)
    assert added[0, 0] == 2


def test_search_refuses_another_or_an_unknown_space(index: Index):
    assert search(index, marked()[1], k=1)[0][0].id == "2.25.1"
    assert search(index, index.vector("image", "2.25.2"), k=1)[0][0].id == "2.25.2"
    with pytest.raises(IndexMismatchError, match="cannot be compared"):
        search(index, marked(fingerprint=OTHER), k=1)
    mixed = np.stack([marked()[0], marked(fingerprint=OTHER)[1]])
    for unknown in (mixed, np.asarray(marked()), marked() * np.float32(1)):
        with pytest.raises(IndexMismatchError, match=r"fingerprint=index\.fingerprint"):
            search(index, unknown, k=1)
    assert search(index, np.asarray(marked()), k=1, fingerprint=OWN)[3][0].id == "2.25.3"
    # What the vectors know is stronger than what their owner says.
    with pytest.raises(IndexMismatchError, match="cannot be compared"):
        search(index, marked(fingerprint=OTHER), k=1, fingerprint=OWN)


def test_rows_of_another_space_are_not_added(index: Index):
    with pytest.raises(IndexMismatchError, match="cannot be compared"):
        index.add([Row(id="2.25.9", kind="image", path=None, vector=marked(fingerprint=OTHER)[0])])
    assert index.count("image") == 4


def test_a_filter_can_be_text(index: Index):
    (hits,) = search(index, marked()[0], where="view=AP")
    assert [hit.id for hit in hits] == ["2.25.0"]
    with pytest.raises(QueryError):
        search(index, marked()[0], where="view=")


def test_an_index_belongs_to_its_thread(index: Index):
    said: list[BaseException] = []

    def ask() -> None:
        for work in (lambda: index.count("image"), lambda: search(index, marked()[0]), index.snapshot().__enter__):
            try:
                work()
            except UsageError as error:
                said.append(error)

    other = threading.Thread(target=ask)
    other.start()
    other.join()
    assert len(said) == 3
    assert all("opened by another thread: open it in each thread with Index.open" in str(error) for error in said)
    assert index.count("image") == 4


def test_a_closed_index_says_so(index: Index):
    index.close()
    for work in (
        lambda: index.count("image"),
        lambda: search(index, marked()[0]),
        lambda: index.get("image", "2.25.1"),
    ):
        with pytest.raises(UsageError, match=r"is closed: open it again with Index\.open"):
            work()
