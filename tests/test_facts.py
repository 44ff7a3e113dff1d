"""Facts of rows: saved, loaded, cut and joined they say the same, and a file that says nonsense is one clear error."""

import contextlib
import hashlib
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError, QueryError
from mcr_infer.index import Row, parse_filter
from mcr_infer.index.columns import KEYS, MetadataColumns, key_of, load_facts, read_facts, save_facts
from mcr_infer.index.manifest import ColumnFile
from mcr_infer.index.rows import to_columns

VECTOR = np.eye(8, dtype=np.float32)[0]

names = st.sampled_from(["view", "study_year", "note", "größe", ""])
scalars = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False, allow_infinity=False),
)  # fmt: skip
some_rows = st.lists(
    st.builds(
        lambda study, key, digest, metadata, precision, budget: {
            "study_uid": study, "patient_key": key, "content_digest": digest, "metadata": metadata,
            "precision": precision, "patch_budget": budget,
        },
        st.sampled_from([None, "1.2.3", "1.2.4"]), st.sampled_from([None, "k"]), st.sampled_from([None, "0f", "1f"]),
        st.dictionaries(names, scalars, max_size=4), st.sampled_from(["fp32", "int8"]), st.sampled_from([1.0, 0.5]),
    ),
    max_size=6,
)  # fmt: skip


def read(rows: list[dict], labels: list[int] | None = None, *, generation: int = 3) -> MetadataColumns:
    labels = list(range(1, len(rows) + 1)) if labels is None else labels
    columns = [
        to_columns(Row(id=f"{label}", kind="image", path=None, vector=VECTOR, **row))
        for label, row in zip(labels, rows, strict=True)
    ]
    return read_facts(np.array(labels, dtype=np.int64), enumerate(columns), generation=generation)


def told(facts: MetadataColumns) -> dict[int, dict[str, object]]:
    """Return what facts say of each label, in plain words."""
    said: dict[int, dict[str, object]] = {}
    for place, label in enumerate(facts.labels.tolist()):
        one: dict[str, object] = {name: int(facts.keys[name][place]) for name in KEYS}
        for name, column in facts.columns.items():
            code, number = int(column.codes[place]), float(column.numbers[place])
            value = column.words[code] if code >= 0 else None if np.isnan(number) else number
            if value is not None:
                one[f"fact {name}"] = value
        said[label] = one
    return said


def meant(rows: list[dict], labels: list[int]) -> dict[int, dict[str, object]]:
    """Return what facts should say of rows."""
    said = {}
    for label, row in zip(labels, rows, strict=True):
        one: dict[str, object] = {
            name: 0 if row.get(name) is None else key_of(row[name]) for name in KEYS if name != "id"
        }
        one["id"] = key_of(f"{label}")
        facts = {**row["metadata"], "precision": row["precision"], "patch_budget": row["patch_budget"]}
        for name, fact in facts.items():
            if isinstance(fact, bool):
                one[f"fact {name}"] = "true" if fact else "false"
            elif fact is not None:
                one[f"fact {name}"] = fact if isinstance(fact, str) else float(fact)
        said[label] = one
    return said


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=some_rows)
def test_what_is_saved_is_what_is_loaded(rows: list[dict]):
    facts = read(rows)
    assert told(facts) == meant(rows, list(range(1, len(rows) + 1)))
    with tempfile.TemporaryDirectory() as place:
        saved = save_facts(Path(place), "image", facts)
        loaded = load_facts(Path(place), "image", saved, dim=8)
        assert told(loaded) == told(facts)
        assert (loaded.generation, saved.rows) == (3, len(rows))
        assert loaded.provenance == {(row["precision"], row["patch_budget"]) for row in rows}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(rows=some_rows, data=st.data())
def test_facts_of_some_rows_and_of_others_are_the_facts_of_all(rows: list[dict], data: st.DataObject):
    labels = list(range(1, len(rows) + 1))
    first = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), dtype=np.bool_)
    whole = read(rows)
    parts = [
        read(
            [row for row, keep in zip(rows, mask, strict=True) if keep], np.array(labels)[mask].tolist(), generation=at
        )
        for mask, at in ((first, 3), (~first, 4))
    ]
    assert told(whole.at(first)) == told(parts[0])
    assert told(parts[0].joined(parts[1])) == told(whole)
    assert parts[0].joined(parts[1]).generation == 4
    assert whole.are_all([f"{label}" for label in labels])
    assert not whole.are_all([*[f"{label}" for label in labels], "x"])
    assert whole.knows(["x", "1"]) == bool(rows)
    assert whole.doubled == 0


def test_two_rows_of_one_id_are_counted():
    one = [{"metadata": {}, "precision": "fp32", "patch_budget": 1.0}]
    assert read(one).joined(read(one)).doubled == 1


ROWS = [
    {"metadata": {"view": "PA", "year": 2019}, "precision": "fp32", "patch_budget": 1.0},
    {"metadata": {"view": "AP"}, "precision": "int8", "patch_budget": 0.5},
    {"metadata": {}, "precision": "fp32", "patch_budget": 1.0},
]


def published(content: bytes, *, rows: int = 3) -> str | MetadataColumns:
    """Put a file where the manifest names it, with a digest that matches; return what is made of it."""
    with tempfile.TemporaryDirectory() as place:
        known = ColumnFile(sha256=hashlib.sha256(content).hexdigest(), rows=rows, generation=3)
        (Path(place) / known.file_name("facts", "image")).write_bytes(content)
        try:
            return load_facts(Path(place), "image", known, dim=8)
        except IndexCorruptError as error:
            return str(error)


def saved(rows: list[dict]) -> tuple[dict, bytes]:
    """Return header and arrays of a file of facts."""
    with tempfile.TemporaryDirectory() as place:
        known = save_facts(Path(place), "image", read(rows))
        content = (Path(place) / known.file_name("facts", "image")).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def packed(header: object, arrays: bytes) -> bytes:
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + arrays


HEADER, ARRAYS = saved(ROWS)


@pytest.mark.parametrize(
    "header",
    [
        [],
        7,
        {"rows": 4, "columns": HEADER["columns"]},
        {"rows": "3", "columns": HEADER["columns"]},
        {"rows": 3},
        {"rows": 3, "columns": []},
        {"rows": 3, "columns": {}},
        {"rows": 3, "columns": {**HEADER["columns"], "view": []}},
        {"rows": 3, "columns": {**HEADER["columns"], "view": {"numbers": False, "words": ["PA"]}}},
        {"rows": 3, "columns": {**HEADER["columns"], "view": {"numbers": False, "words": [1, 2]}}},
        {"rows": 3, "columns": {**HEADER["columns"], "view": {"numbers": False, "words": 5}}},
        {"rows": 3, "columns": {**HEADER["columns"], "view": {"numbers": True, "words": ["PA", "AP"]}}},
        {"rows": 3, "columns": {**HEADER["columns"], "more": {"numbers": True, "words": []}}},
    ],
)
def test_a_header_that_says_nonsense_is_one_clear_error(header: object):
    assert isinstance(published(packed(HEADER, ARRAYS)), MetadataColumns)
    said = published(packed(header, ARRAYS))
    assert isinstance(said, str)
    assert said.endswith(".bin is no file of facts")


def test_lengths_and_orders_that_make_no_sense_are_one_clear_error():
    whole = packed(HEADER, ARRAYS)
    turned = ARRAYS[8:16] + ARRAYS[:8] + ARRAYS[16:]  # labels that do not ascend
    for content in (
        whole + b"\0",
        whole[:-1],
        whole[:7],
        packed(HEADER, turned),
        struct.pack("<Q", 2**64 - 1) + whole[8:],
        struct.pack("<Q", 2**64 - 1) + b'{"rows": 0, "columns": {}}',
        struct.pack("<Q", 10**6) + b"[" * 10**6,
    ):
        for rows in (0, 3):
            said = published(content, rows=rows)
            assert isinstance(said, str)
            assert said.endswith(".bin is no file of facts")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
@example(changes=[(0, 255)])
def test_whatever_a_file_says_it_is_refused_or_can_be_asked(changes: list[tuple[int, int]]):
    content = bytearray(packed(HEADER, ARRAYS))
    for place, value in changes:
        content[place % len(content)] = value
    facts = published(bytes(content))
    if isinstance(facts, str):
        assert "\n" not in facts
        return
    for where in ("view=PA", "year>=2019", "view is missing", "precision=fp32 and patch_budget<1", "study_uid=1.2"):
        # A changed byte may be one of a column's name.
        with contextlib.suppress(QueryError):
            assert parse_filter(where).mask(facts).shape == (3,)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), [], b"x"])
def test_metadata_that_no_filter_could_compare_are_refused(value: object):
    with pytest.raises(EmbeddingIndexError, match=r"'year' must be a string, a finite number, a truth value or None"):
        Row(id="1", kind="image", path=None, vector=VECTOR, metadata={"year": value})  # type: ignore[dict-item]
