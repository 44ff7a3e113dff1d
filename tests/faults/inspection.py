"""What a process finds in an index that something was done to, part by part, against rows that follow from their numbers.

A part is `right`; or it was `refused`, with one clear error of ours; or it is wrong, and then says what is. An error that
blames the question counts as wrong: every question here has an answer.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import KINDS, Index, Row, parse_filter, search
from tests.faults.sample import DIM, LIMIT, State, add, delete, id_of, locals_of, opened, row_of, stamp_of, unit

RIGHT = "right"
REFUSED = "refused: "
WRONG = "wrong: "

Findings = dict[str, str]
"""By part: `RIGHT`, or what was said after `REFUSED` or `WRONG`."""

QUERIES = 2
WHERE = "view=PA and number >= 20 and not precision=int8"


class WrongAnswer(AssertionError):
    """An answer is not what the rows say."""


def expect(truth: bool, what: str) -> None:
    """Raise `WrongAnswer` unless something is true."""
    if not truth:
        raise WrongAnswer(what)


@contextmanager
def part(findings: Findings, name: str) -> Iterator[None]:
    """Note how a part ends; the first bad word about it stays."""
    said = RIGHT
    try:
        yield
    except EmbeddingIndexError as error:
        text = str(error)
        said = f"{REFUSED}{text}" if text and "\n" not in text else f"{WRONG}an error of several lines: {text!r}"
    except WrongAnswer as wrong:
        said = f"{WRONG}{wrong}"
    except Exception as foreign:  # noqa: BLE001 - a traceback is what this looks for
        said = f"{WRONG}{type(foreign).__name__}: {foreign}"
    if findings.get(name, RIGHT) == RIGHT:
        findings[name] = said


def inspect(folder: Path, expected: State, *, forgetful: bool = False, notes: list[str] | None = None) -> Findings:
    """Open an index for reading and compare every part of it with what it must hold.

    `forgetful` lets it not know a file any more, which is then embedded again, or kept patches, which a re-ranking then
    reads again from their file, and says so.
    """
    findings: Findings = {}
    notes = [] if notes is None else notes
    with part(findings, "open"), Index.open(folder, exact_limit=LIMIT, notify=notes.append) as index:
        compare(index, expected, findings, forgetful=forgetful)
    with part(findings, "exact"), Index.open(folder, exact_limit=10**9, notify=notes.append) as index:
        for kind in KINDS:
            _searches(index, kind, expected, shortly=True)
    return findings


def compare(index: Index, expected: State, findings: Findings, *, forgetful: bool = False) -> None:
    """Compare every part of an open index with what it must hold."""
    with part(findings, "identity"):
        told = (index.bundle, index.bundle_path, index.embedding_dim)
        expect(told == ("phantom", "shipped", DIM), f"the index says it is {told}")
    checks: Mapping[str, Callable[[Index, str, State], None]] = {
        "count": _count,
        "ids": _ids,
        "rows": _rows,
        "files": partial(_files, forgetful=forgetful),
        "provenance": _provenance,
        "search": _searches,
    }
    by_label = {"locals": partial(_locals, forgetful=forgetful), "vectors": _vectors, "facts": _facts}
    for kind in KINDS:
        for name, check in checks.items():
            with part(findings, name):
                check(index, kind, expected)
        with part(findings, "labels"):
            numbers = _numbers(index, kind, expected)
            for name, check_by_label in by_label.items():
                with part(findings, name):
                    check_by_label(index, kind, expected, numbers)


def found_state(index: Index, *, first_format: bool = False) -> State:
    """Return what an index holds, row for row: whatever it holds must be a row that follows from its number."""
    rows = {}
    for kind in KINDS:
        for id in index.ids(kind):
            row = index.get(kind, id)
            expect(row is not None, f"{kind} {id} is among the ids and is not there")
            assert row is not None
            number, revision = int(str(row.metadata["number"])), int(str(row.metadata["revision"]))
            rows[kind, number] = revision
    return State(rows, first_format)


def write_on(folder: Path, state: State, *, notes: list[str] | None = None) -> tuple[Findings, State]:
    """Go on with an index as its next writer would: replace, add, delete, save; return what there must be then."""
    findings: Findings = {}
    begun = {key for key in state.rows if key[1] % 40 == 0}
    newer = [("image", 900_001), ("report", 900_002), ("image", 900_003)]
    with part(findings, "writer"), opened(folder, notify=None if notes is None else notes.append) as index:
        add(index, sorted(begun), 7)
        state = state.with_rows(begun, 7)
        add(index, newer, 0)
        state = state.with_rows(newer, 0)
        gone = [("image", 900_003), *sorted(key for key in state.rows if key[1] % 40 == 1)]
        delete(index, gone)
        state = state.without(gone)
        index.save_snapshots()
    return findings, state


@cache
def _expected_row(kind: str, number: int, revision: int, first_format: bool) -> Row:
    return row_of(kind, number, revision, first_format=first_format)


def warm(expected: State) -> None:
    """Draw rows now, so that every process that is forked from this one need not."""
    for kind in KINDS:
        _expected(kind, expected)


def _expected(kind: str, expected: State) -> dict[int, Row]:
    """Return the rows of a kind by their numbers."""
    return {
        number: _expected_row(kind, number, revision, expected.is_first_format(number, revision))
        for number, revision in expected.of(kind).items()
    }


def _facts_of(row: Row) -> tuple[object, ...]:
    return (
        row.id, row.kind, row.path, row.study_uid, row.series_uid, row.patient_key, dict(row.metadata),
        row.vector.tobytes(), row.precision, row.patch_budget, row.content_digest, row.text,
    )  # fmt: skip


def _count(index: Index, kind: str, expected: State) -> None:
    count = index.count(kind)
    expect(count == len(expected.of(kind)), f"{count} {kind}s are counted, there are {len(expected.of(kind))}")


def _ids(index: Index, kind: str, expected: State) -> None:
    ids = index.ids(kind)
    expect(ids == sorted(id_of(kind, number) for number in expected.of(kind)), f"the ids of {kind}s differ")


def _rows(index: Index, kind: str, expected: State) -> None:
    for number, right in _expected(kind, expected).items():
        row = index.get(kind, right.id)
        expect(row is not None, f"{kind} {number} is lost")
        assert row is not None
        expect(_facts_of(row) == _facts_of(right), f"{kind} {number} is another row")
    expect(index.get(kind, "2.25.77777777") is None, "a row is there that nobody added")


def _files(index: Index, kind: str, expected: State, *, forgetful: bool) -> None:
    for number in expected.of(kind):
        known = index.known_file(stamp_of(kind, number), kind=kind)
        right = known == id_of(kind, number) or (forgetful and known is None)
        expect(right, f"the file of {kind} {number} is known as {known}")
    expect(index.known_file(stamp_of(kind, 77_777_777), kind=kind) is None, "a file is known that nobody added")


def _numbers(index: Index, kind: str, expected: State) -> dict[int, int]:
    """Return the number that each label of a kind leads to."""
    labels, _ = index.vectors(kind)
    number_of = {row.id: number for number, row in _expected(kind, expected).items()}
    rows = index.rows(labels.tolist())
    expect({row.id for row in rows.values()} == number_of.keys(), f"the labels lead to other {kind}s")
    return {label: number_of[row.id] for label, row in rows.items()}


def _locals(index: Index, kind: str, expected: State, numbers: dict[int, int], *, forgetful: bool) -> None:
    revisions = expected.of(kind)
    kept = index.locals(kind, numbers)
    for label, number in numbers.items():
        first = expected.is_first_format(number, revisions[number])
        right = None if first else locals_of(kind, number, revisions[number])
        expect(kept.get(label) in ({right, None} if forgetful else {right}), f"the locals of {kind} {number} differ")


def _vectors(index: Index, kind: str, expected: State, numbers: dict[int, int]) -> None:
    labels, vectors = index.vectors(kind)
    rows = _expected(kind, expected)
    expect(len(labels) == len(numbers) == len(rows), f"there are {len(labels)} vectors of {kind}s")
    for label, vector in zip(labels.tolist(), vectors, strict=True):
        expect(np.array_equal(vector, rows[numbers[label]].vector), f"the vector of {kind} {numbers[label]} differs")


def _provenance(index: Index, kind: str, expected: State) -> None:
    told, rows = index.provenance(kind), _expected(kind, expected).values()
    expect(told == {(row.precision, row.patch_budget) for row in rows}, f"{kind}s are said to come from {sorted(told)}")


def _facts(index: Index, kind: str, expected: State, numbers: dict[int, int]) -> None:
    rows = _expected(kind, expected)
    if not rows:
        return
    facts = index.facts(kind)
    expect(facts.labels.tolist() == sorted(numbers), f"the facts are of other {kind}s")
    asked: tuple[tuple[str, Callable[[Row], bool]], ...] = (
        (f"number={next(iter(rows))}", lambda row: row.metadata["number"] == next(iter(rows))),
        ("revision!=0", lambda row: row.metadata["revision"] != 0),
        ("patch_budget<0.7", lambda row: row.patch_budget < 0.7),
        ("view in (PA) and precision=fp32", lambda row: (row.metadata["view"], row.precision) == ("PA", "fp32")),
        ("study_uid='1.2.5'", lambda row: row.study_uid == "1.2.5"),
        ("patient_key is missing", lambda row: row.patient_key is None),
    )
    for where, matches in asked:
        found = facts.labels[parse_filter(where).mask(facts)].tolist()
        right = [label for label in sorted(numbers) if matches(rows[numbers[label]])]
        expect(found == right, f"{where} matches other {kind}s")


def ranking(kind: str, expected: State, query: NDArray[np.float32]) -> list[tuple[float, Row]]:
    """Return all rows of a kind by their cosine, then by id, as numpy says."""
    rows = list(_expected(kind, expected).values())
    scores = (np.stack([row.vector for row in rows]).astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    return sorted(zip(scores.tolist(), rows, strict=True), key=lambda pair: (-pair[0], pair[1].id))


def _searches(index: Index, kind: str, expected: State, *, shortly: bool = False) -> None:
    count = len(expected.of(kind))
    if not count:
        return
    for seed in range(1 if shortly else QUERIES):
        query = unit((seed, 1, 2, 3))
        ranked = ranking(kind, expected, query)
        matching = [pair for pair in ranked if _matches(pair[1])]
        studies: dict[str | None, tuple[float, Row]] = {}
        for pair in ranked:
            studies.setdefault(pair[1].study_uid, pair)
        first = {ranked[0][1].id}
        broad = {"kind": kind, "k": 7, "ef_search": 2 * count, "fingerprint": index.fingerprint}
        answers = {
            "nearest": (search(index, query, **broad), ranked),
            "by study": (search(index, query, distinct=("study",), **broad), [*studies.values()]),
            "excluding": (search(index, query, exclude=first, **broad), ranked[1:]),
        }
        if matching:
            answers["filtered"] = (search(index, query, where=WHERE, **broad), matching)
        if not seed and not shortly:
            answers["all"] = (search(index, query, kind=kind, k=count, fingerprint=index.fingerprint), ranked)
        for how, ((hits,), right) in answers.items():
            wanted = right[: count if how == "all" else 7]
            expect([hit.id for hit in hits] == [row.id for _, row in wanted], f"{kind}s, {how}: other rows are found")
            apart = max((abs(hit.score - score) for hit, (score, _) in zip(hits, wanted, strict=True)), default=0.0)
            expect(apart < 1e-9, f"{kind}s, {how}: scores differ by {apart}")


def _matches(row: Row) -> bool:
    return row.metadata["view"] == "PA" and int(str(row.metadata["number"])) >= 20 and row.precision != "int8"
