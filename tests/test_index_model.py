"""The whole index against a plain dictionary: any sequence of changes, saves, crashes and damages leaves it saying the same.

The dictionary knows rows and numpy, and nothing of stores, graphs or files.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mcr_infer.errors import QueryError
from mcr_infer.index import FileStamp, Index, Row, parse_filter, search
from mcr_infer.index.columns import KEYS, PLAIN
from mcr_infer.index.filters import names_in

DIM = 16
LIMIT = 6
"""Rows of a kind from which on there is a graph."""

MADE_BY = {"fingerprint": "ab12" * 16, "embedding_dim": DIM, "bundle": "phantom", "bundle_path": "shipped"}

kinds = st.sampled_from(["image", "report"])
numbers = st.integers(0, 17)


@dataclass(frozen=True)
class Known:
    """What the dictionary knows of a row."""

    row: Row
    local: bytes | None


FILTERS = {
    None: lambda row: True,
    "view=PA": lambda row: row.metadata.get("view") == "PA",
    "view!=PA": lambda row: row.metadata.get("view") != "PA",
    "view is missing": lambda row: "view" not in row.metadata,
    "number>=7 and number<13": lambda row: 7 <= row.metadata["number"] < 13,
    "not (view=PA or number<5)": lambda row: row.metadata.get("view") != "PA" and row.metadata["number"] >= 5,
    "study_uid='7.1' or precision=int8": lambda row: row.study_uid == "7.1" or row.precision == "int8",
    "id in ('0003', '0004', '0011')": lambda row: row.id in ("0003", "0004", "0011"),
    "fresh=true": lambda row: row.metadata.get("fresh") is True,
}


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


class IndexAgainstDictionary(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp())
        self.folder = self.place / "0"
        self.model: dict[tuple[str, str], Known] = {}
        self.files: dict[tuple[str, str], str] = {}
        self.drawn = 0
        self.index = self.writer()
        self.reader = self.another()

    def writer(self) -> Index:
        return Index.open_or_create(self.folder, **MADE_BY, exact_limit=LIMIT, notify=lambda _: None)  # type: ignore[arg-type]

    def another(self) -> Index:
        return Index.open(self.folder, exact_limit=LIMIT, notify=lambda _: None)

    def of(self, kind: str) -> dict[str, Known]:
        return {id: known for (its_kind, id), known in sorted(self.model.items()) if its_kind == kind}

    def draw(self, number: int, kind: str) -> Known:
        self.drawn += 1
        view = {0: "PA", 1: "AP"}.get(self.drawn % 3)
        metadata = {"number": number, **({"view": view} if view else {}), **({"fresh": True} if number > 14 else {})}
        row = Row(
            id=f"{number:04d}",
            kind=kind,
            path=f"{kind}/{number}.dcm",
            study_uid=None if number == 2 else f"7.{number // 3}",
            content_digest=None if number % 5 == 0 else f"{number // 2:064x}",
            metadata=metadata,
            precision="int8" if self.drawn % 4 == 0 else "fp32",
            vector=unit(self.drawn),
        )
        return Known(row, b"%d" % self.drawn if self.drawn % 2 else None)

    @rule(ids=st.lists(numbers, max_size=8), kind=kinds)
    def add(self, ids: list[int], kind: str) -> None:
        # The last of several rows of one id is the one that stays.
        drawn = {f"{number:04d}": self.draw(number, kind) for number in ids}
        stamps = {id: FileStamp(path=str(known.row.path), size=3, mtime_ns=self.drawn) for id, known in drawn.items()}
        self.index.add(
            [known.row for known in drawn.values()],
            files=[(stamp, id) for id, stamp in stamps.items()],
            file_kind=kind,
            locals={(kind, id): known.local for id, known in drawn.items() if known.local is not None},
        )
        self.model |= {(kind, id): known for id, known in drawn.items()}
        self.files |= {(kind, id): str(self.drawn) for id in drawn}

    @rule(ids=st.sets(numbers, max_size=6), kind=kinds)
    def delete(self, ids: set[int], kind: str) -> None:
        gone = [self.model.pop((kind, f"{number:04d}"), None) for number in ids]
        assert self.index.delete(kind, [f"{number:04d}" for number in ids]) == sum(known is not None for known in gone)

    @rule(where=st.sampled_from([where for where in FILTERS if where]), kind=kinds)
    def delete_by_filter(self, where: str, kind: str) -> None:
        doomed = [id for id, known in self.of(kind).items() if FILTERS[where](known.row)]
        facts = self.index.facts(kind)
        if not self.can_be_asked(where, kind):
            with pytest.raises(QueryError, match="no row has"):
                parse_filter(where).mask(facts)
            return
        labels = facts.labels[parse_filter(where).mask(facts)]
        assert self.index.delete_rows({kind: labels.tolist()}) == {kind: len(doomed)}
        for id in doomed:
            del self.model[kind, id]

    def can_be_asked(self, where: str | None, kind: str) -> bool:
        """True where every fact of a filter is one of some row."""
        known = {*KEYS, *PLAIN, *(name for one in self.of(kind).values() for name in one.row.metadata)}
        return where is None or {*names_in(parse_filter(where))} <= known

    @rule(rebuild=st.booleans(), purge=st.booleans())
    def save(self, rebuild: bool, purge: bool) -> None:
        self.index.save_snapshots(rebuild=rebuild, purge=purge)

    @rule()
    def erase(self) -> None:
        self.index.erase()

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = self.writer()

    @rule()
    def lose_power(self) -> None:
        """Go on with what is on the disk, as it is at this moment."""
        newer = self.place / str(int(self.folder.name) + 1)
        shutil.copytree(self.folder, newer)
        self.reader.close()
        self.index.close()
        self.folder = newer
        self.index = self.writer()
        self.reader = self.another()

    @rule(place=st.integers(0, 50), share=st.floats(0, 1, exclude_max=True), lost=st.booleans())
    def damage_a_snapshot(self, place: int, share: float, lost: bool) -> None:
        """Flip a bit of a file beside the store, or lose it: whoever comes next must not notice by what it is told."""
        paths = sorted(path for path in self.folder.iterdir() if path.suffix in (".bin", ".hnsw"))
        if not paths:
            return
        path = paths[place % len(paths)]
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 1
        path.unlink()
        if not lost:
            path.write_bytes(content)
        self.reopen_reader()

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = self.another()

    @rule(ids=st.sets(numbers, min_size=1, max_size=4), kind=kinds)
    def read_while_a_writer_commits(self, ids: set[int], kind: str) -> None:
        """What is read in one snapshot comes from one moment."""
        with self.reader.snapshot():
            before = self.reader.ids(kind), self.reader.count(kind)
            vectors = self.reader.vectors(kind)[1].tobytes()
            self.add(sorted(ids), kind)
            assert (self.reader.ids(kind), self.reader.count(kind)) == before
            assert self.reader.vectors(kind)[1].tobytes() == vectors
        assert self.reader.ids(kind) == list(self.of(kind))

    @rule(
        seed=st.integers(0, 5),
        k=st.integers(1, 20),
        kind=kinds,
        where=st.sampled_from(list(FILTERS)),
        distinct=st.sampled_from([(), ("study",), ("content",), ("study", "content")]),
        exclude=st.sets(numbers, max_size=2),
        exact=st.booleans(),
    )
    def query(
        self, seed: int, k: int, kind: str, where: str | None, distinct: tuple, exclude: set[int], exact: bool
    ) -> None:
        query = unit(10_000 + seed)
        ranked = self.ranked(kind, query, where, distinct, {f"{number:04d}" for number in exclude})
        for index in (self.index, self.reader):
            with exactly(index, exact):
                if not self.of(kind) or not self.can_be_asked(where, kind):
                    with pytest.raises(QueryError, match=r"holds no|no row has"):
                        self.asked(index, query, kind, k, where, distinct, exclude)
                    continue
                hits = self.asked(index, query, kind, k, where, distinct, exclude)
            assert [hit.id for hit in hits] == [id for _, id in ranked[:k]]
            assert np.allclose([hit.score for hit in hits], [score for score, _ in ranked[:k]], rtol=0, atol=1e-12)

    def asked(self, index: Index, query: np.ndarray, kind: str, k: int, where: str | None, distinct, exclude) -> list:
        found = search(
            index,
            query,
            kind=kind,
            k=k,
            where=None if where is None else parse_filter(where),
            distinct=distinct,
            exclude={f"{number:04d}" for number in exclude},
            fingerprint=index.fingerprint,
        )
        return found[0]

    def ranked(self, kind: str, query: np.ndarray, where, distinct, exclude) -> list[tuple[float, str]]:
        """Rank the dictionary."""
        rows = [known.row for id, known in self.of(kind).items() if FILTERS[where](known.row) and id not in exclude]
        scored = [(float((row.vector.astype(np.float64) * query.astype(np.float64)).sum()), row) for row in rows]
        scored.sort(key=lambda pair: (-pair[0], pair[1].id))
        for name in distinct:
            seen, first = set(), []
            for score, row in scored:
                value = row.study_uid if name == "study" else row.content_digest
                if value is None or value not in seen:
                    first.append((score, row))
                seen.add(value)
            scored = first
        return [(score, row.id) for score, row in scored]

    @invariant()
    def rows_are_those_of_the_dictionary(self) -> None:
        for index in (self.index, self.reader):
            for kind in ("image", "report"):
                known = self.of(kind)
                assert index.ids(kind) == list(known)
                assert index.count(kind) == len(known)
                assert index.provenance(kind) == {(one.row.precision, 1.0) for one in known.values()}
        for (kind, id), known in self.model.items():
            row = self.index.get(kind, id)
            assert row is not None
            assert np.array_equal(row.vector, known.row.vector)
            assert (row.metadata, row.study_uid, row.precision) == (
                known.row.metadata,
                known.row.study_uid,
                known.row.precision,
            )
            stamp = FileStamp(path=str(known.row.path), size=3, mtime_ns=int(self.files[kind, id]))
            assert self.index.known_file(stamp, kind=kind) == id

    @invariant()
    def locals_are_those_of_the_dictionary(self) -> None:
        for kind in ("image", "report"):
            with self.reader.snapshot():
                labels = self.reader.labels(kind).tolist()
                kept, rows = self.reader.locals(kind, labels), self.reader.rows(labels)
            found = {rows[label].id: content for label, content in kept.items()}
            assert found == {id: one.local for id, one in self.of(kind).items() if one.local is not None}

    def teardown(self) -> None:
        self.reader.close()
        self.index.close()
        shutil.rmtree(self.place)


@contextmanager
def exactly(index: Index, exact: bool) -> Iterator[None]:
    """Look at every row, whatever their number."""
    if exact:
        index.exact_limit = 10**9
    try:
        yield
    finally:
        index.exact_limit = LIMIT


class TestIndexAgainstDictionary(IndexAgainstDictionary.TestCase):
    """The same sequences in every run."""

    settings = settings(max_examples=60, stateful_step_count=20, deadline=None, derandomize=True)


@pytest.mark.nightly
class TestIndexAgainstDictionaryForLong(IndexAgainstDictionary.TestCase):
    """Ten times as many, others in every run."""

    settings = settings(max_examples=1000, stateful_step_count=20, deadline=None)
