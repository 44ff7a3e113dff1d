"""Filters: what is written is what is meant, and what cannot be meant is said."""

import numpy as np
import pytest

from mcr_infer.errors import QueryError
from mcr_infer.index.columns import KEYS, Column, MetadataColumns, key_of
from mcr_infer.index.filters import describe_values, parse_filter

ROWS = (
    {"view": "PA", "study_year": 2019, "mirrored": "false", "id": "1.1", "study_uid": "7.1"},
    {"view": "AP", "study_year": 2020, "mirrored": "true", "id": "1.2", "study_uid": "7.1"},
    {"view": "LATERAL", "study_year": 2021.5, "id": "1.3", "study_uid": "7.2"},
    {"study_year": 2018, "mirrored": "false", "note": "small, left", "id": "1.4"},
    {"view": "PA", "study_date": "2020-03-01", "id": "1.5", "study_uid": "7.3"},
)


@pytest.fixture(scope="module")
def facts() -> MetadataColumns:
    """Five rows of mixed facts."""
    names = dict.fromkeys(name for row in ROWS for name in row if name not in KEYS)
    columns = {}
    for name in names:
        words = tuple(dict.fromkeys(value for row in ROWS if isinstance(value := row.get(name), str)))
        columns[name] = Column(
            numbers=np.array(
                [row.get(name) if isinstance(row.get(name), int | float) else np.nan for row in ROWS], float
            ),
            codes=np.array([words.index(row[name]) if row.get(name) in words else -1 for row in ROWS], np.int32),
            words=words,
        )
    keys = {name: np.array([key_of(row[name]) if name in row else 0 for row in ROWS], np.uint64) for name in KEYS}
    return MetadataColumns(generation=1, labels=np.arange(1, 6), keys=keys, columns=columns)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("view=PA", [0, 4]),
        ("view == 'PA'", [0, 4]),
        ("view!=PA", [1, 2, 3]),
        ("view <> PA", [1, 2, 3]),
        ("not view=PA", [1, 2, 3]),
        ("study_year>=2020", [1, 2]),
        ("study_year > 2020", [2]),
        ("study_year<=2019.0", [0, 3]),
        ("study_year < 2018", []),
        ("study_year=2021.5", [2]),
        ("view=PA and study_year>=2019", [0]),
        ("view=PA or study_year>=2020", [0, 1, 2, 4]),
        ("view=AP or view=PA and study_year=2019", [0, 1]),
        ("(view=AP or view=PA) and not study_year=2019", [1, 4]),
        ("view in (PA, 'AP')", [0, 1, 4]),
        ("view not in (PA, AP)", [2, 3]),
        ("view is missing", [3]),
        ("view IS NOT missing AND study_year IS MISSING", [4]),
        ("mirrored=true", [1]),
        ("mirrored=false", [0, 3]),
        ('note="small, left"', [3]),
        (r'note="small\, left"', [3]),
        ("study_date>=2020-01-01", [4]),
        ("study_date>2020-03-01", []),
        ("study_uid=7.1", [0, 1]),
        ("study_uid!=7.1", [2, 3, 4]),
        ("study_uid is missing", [3]),
        ("id in (1.2, 1.5)", [1, 4]),
        ("not not view=PA", [0, 4]),
    ],
)
def test_a_filter_matches_the_rows_that_it_says(facts: MetadataColumns, text: str, rows: list[int]):
    assert np.flatnonzero(parse_filter(text).mask(facts)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "character 1: expected the name of a fact"),
        ("view", "character 5: expected a comparison"),
        ("view=", "character 6: expected a value"),
        ("view PA", "character 6: expected =, !=, <"),
        ("view=PA study_year=2020", "character 9: expected `and`, `or` or the end"),
        ("view=PA and", "character 12: expected the name of a fact"),
        ("(view=PA", r"character 9: expected `\)`"),
        ("view=PA)", "character 8: expected `and`, `or` or the end"),
        ("view='PA", "character 6: a character that cannot stand here, or a quote that does not end"),
        ("view=and", "put a word such as `and` into quotes"),
        ("view in PA", r"expected `\(`"),
        ("view is PA", "expected `missing`"),
        ("=PA", "expected the name of a fact"),
        ("(" * 200 + "view=PA" + ")" * 200, "more than 100 brackets"),
        ("not " * 200 + "view=PA", "more than 100 brackets and `not`"),
        ("a=1 or " * 20_000 + "a=1", "at most 100000 are read"),
        ("view=PA; drop table rows", "expected `and`, `or` or the end"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, words: str):
    with pytest.raises(QueryError, match=words):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vieuw=PA", r"no row has 'vieuw'; view\? There are: content_digest, id, "),
        ("zebra is missing", "no row has 'zebra' There are"),
        ("study_year=abc", "study_year holds numbers, got 'abc'"),
        ("study_year>=nan", "study_year holds numbers, got 'nan'"),
        ("study_uid>7", "study_uid is compared with = and !=, got >"),
    ],
)
def test_what_cannot_be_answered_is_said(facts: MetadataColumns, text: str, words: str):
    with pytest.raises(QueryError, match=words):
        parse_filter(text).mask(facts)


def test_values_are_told_to_somebody_who_found_nothing(facts: MetadataColumns):
    assert describe_values(facts, "view") == "view holds AP, LATERAL, PA"
    assert describe_values(facts, "study_year") == "study_year holds numbers from 2018 to 2021.5"
    assert describe_values(facts, "id") == "id is compared as a whole"
