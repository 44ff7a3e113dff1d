"""Filters against plain Python: any tree, written down in any way and read again, matches what dictionaries say."""

import math
import operator
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr_infer.errors import QueryError
from mcr_infer.index import Row, parse_filter
from mcr_infer.index.columns import MetadataColumns, read_facts
from mcr_infer.index.rows import to_columns

VECTOR = np.eye(8, dtype=np.float32)[0]
COMPARE = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
RESERVED = {"and", "or", "not", "in", "is", "missing"}
NAMES = ("count", "word", "mixed", "truth", "odd name", "in", "nowhere")
UIDS = ("7.1", "7.2", "it's", '"')

words = st.one_of(
    st.sampled_from(
        ["PA", "AP", "pa", "and", "missing", "true", "12", "-3.5", "1e3", "nan", "inf", "x y", "it's", '"', "\\", ""]
    ),
    st.text(max_size=6).filter(lambda text: text.isprintable() or text.isspace()),
)
whole = st.one_of(st.integers(-20, 20), st.integers(-(2**60), 2**60))
values = {
    "count": st.one_of(whole, st.floats(allow_nan=False, allow_infinity=False)),
    "word": words,
    "mixed": st.one_of(words, st.integers(-20, 20), st.booleans(), st.none()),
    "truth": st.booleans(),
    "odd name": words,
    "in": st.integers(0, 3),
}
row_facts = st.fixed_dictionaries({}, optional=values)
rows_of_facts = st.lists(st.tuples(row_facts, st.sampled_from([None, *UIDS])), min_size=1, max_size=8)


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple:
    """Draw a filter as a tuple: what it is, then its parts."""
    if depth and draw(st.booleans()):
        what = draw(st.sampled_from(["not", "and", "or"]))
        count = 1 if what == "not" else draw(st.integers(2, 3))
        return (what, *[draw(trees(depth=depth - 1)) for _ in range(count)])
    if draw(st.integers(0, 3)) == 0:
        name = "study_uid"
        value = st.sampled_from([*UIDS, "7"])
        what = draw(st.sampled_from(["=", "!=", "missing", "in"]))
    else:
        name = draw(st.sampled_from(NAMES))
        value = st.one_of(words, whole.map(str), st.floats(allow_nan=False, allow_infinity=False).map(str))
        what = draw(st.sampled_from([*COMPARE, "!=", "missing", "in", "not in", "not missing"]))
    if "missing" in what:
        return (what, name)
    if "in" in what:
        return (what, name, *draw(st.lists(value, min_size=1, max_size=3)))
    return (what, name, draw(value))


def written(tree: tuple, draw: st.DrawFn) -> str:
    """Write a filter down in one of the ways in which it can be written."""
    what, *parts = tree
    space = draw(st.sampled_from([" ", "  ", "\t", "\n "]))
    if what in ("and", "or"):
        return f"{space}{spelled(what, draw)}{space}".join(f"({written(part, draw)})" for part in parts)
    if what == "not":
        return f"{spelled(what, draw)}{space}({written(parts[0], draw)})"
    name = token(parts[0], draw)
    if "missing" in what:
        return f"{name}{space}{spelled('is ' + what, draw)}"
    if "in" in what:
        listed = f",{space}".join(token(part, draw) for part in parts[1:])
        return f"{name}{space}{spelled(what, draw)}{space}({listed})"
    sign = draw(st.sampled_from({"=": ["=", "=="], "!=": ["!=", "<>"]}.get(what, [what])))
    gap = draw(st.sampled_from(["", " "]))
    return f"{name}{gap}{sign}{gap}{token(parts[1], draw)}"


def spelled(word: str, draw: st.DrawFn) -> str:
    return draw(st.sampled_from([word, word.upper(), word.title()]))


def token(text: str, draw: st.DrawFn) -> str:
    """Write a name or a value: as it is where that can be read, or in quotes."""
    plain = re.fullmatch(r"[^\s\"'=<>!(),]+", text) and text.lower() not in RESERVED
    if plain and draw(st.booleans()):
        return text
    quote = draw(st.sampled_from(["'", '"']))
    return quote + text.replace("\\", "\\\\").replace(quote, f"\\{quote}") + quote


class NoAnswerError(Exception):
    """The filter cannot be answered over these rows."""


def matches(tree: tuple, row: dict, every: list[dict]) -> bool:
    """Say whether a dictionary matches."""
    what, *parts = tree
    if what in ("and", "or"):
        # Every part is asked: one that cannot be answered is an error wherever it stands.
        said = [matches(part, row, every) for part in parts]
        return all(said) if what == "and" else any(said)
    if what == "not":
        return not matches(parts[0], row, every)
    if what.startswith("not "):
        return not matches((what[4:], *parts), row, every)
    if what == "!=":
        return not matches(("=", *parts), row, every)
    if what == "in":
        said = [matches(("=", parts[0], value), row, every) for value in parts[1:]]
        return any(said)
    return compared(what, parts[0], parts[1] if len(parts) > 1 else "", row, every)


def compared(what: str, name: str, value: str, row: dict, every: list[dict]) -> bool:
    known = [fact for one in every for fact in [one.get(name)] if fact is not None]
    if name != "study_uid" and not known:
        raise NoAnswerError
    fact = row.get(name)
    if what == "missing":
        return fact is None
    if name == "study_uid":
        return fact == value
    has_numbers = any(is_number(one) for one in known)
    number = as_number(value)
    if number is not None and has_numbers:
        return is_number(fact) and COMPARE[what](float(fact), number)
    if has_numbers and all(is_number(one) for one in known):
        raise NoAnswerError
    word = {True: "true", False: "false"}.get(fact, fact) if isinstance(fact, bool) else fact
    return isinstance(word, str) and COMPARE[what](word, value)


def is_number(fact: object) -> bool:
    return isinstance(fact, int | float) and not isinstance(fact, bool)


def as_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def facts_of(rows: list[tuple[dict, str | None]]) -> MetadataColumns:
    columns = [
        to_columns(Row(id=f"{place}", kind="image", path=None, study_uid=uid, metadata=facts, vector=VECTOR))
        for place, (facts, uid) in enumerate(rows)
    ]
    return read_facts(np.arange(1, len(rows) + 1), enumerate(columns), generation=1)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(rows=rows_of_facts, tree=trees(), data=st.data())
def test_a_filter_says_of_facts_what_python_says_of_dictionaries(rows, tree: tuple, data: st.DataObject):
    text = written(tree, data.draw)
    every = [facts | ({} if uid is None else {"study_uid": uid}) for facts, uid in rows]
    try:
        right = [matches(tree, row, every) for row in every]
    except NoAnswerError:
        with pytest.raises(QueryError, match="--where"):
            parse_filter(text).mask(facts_of(rows))
        return
    assert parse_filter(text).mask(facts_of(rows)).tolist() == right, text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.one_of(st.text(max_size=40), st.text(alphabet="ab=<>!(),'\" \\01andornotismg", max_size=40)))
def test_whatever_is_written_is_read_or_said_to_be_wrong(text: str):
    said = ""
    try:
        parse_filter(text)
    except QueryError as error:
        said = str(error)
    assert said == "" or said.startswith("--where cannot be read at character ")
