"""Tables of reports through damage: every row is a record or a failure with its row, and none becomes another."""

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcr_infer.errors import ReportError
from mcr_infer.reports import ReportFailure, ReportRecord, read_reports
from mcr_infer.reports.records import LONGEST


def written(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def read(path: Path) -> list[tuple[str, str]]:
    """Each row with its text, or with the reason why it failed."""
    prefix = f"{path}:"
    return [
        (one.path.removeprefix(prefix), one.text if isinstance(one, ReportRecord) else f"[{one.reason}]")
        for one in read_reports(path)
    ]


def errors(path: Path) -> list[str]:
    return [one.error for one in read_reports(path) if isinstance(one, ReportFailure)]


BROKEN_QUOTES = {
    "the next row is quoted": (
        'a,"One."\nb,"Two\nc,"Three."\nd,"Four."\n', ["One.", "[format]", "Three.", "Four."],
    ),
    "the last row": ('a,"One."\nb,"Two', ["One.", "[format]"]),
    "rows without quotes follow to the end": (
        'a,One.\nb,"Two\nc,Three.\nd,Four.\n', ["One.", "[format]", "[format]", "[format]"],
    ),
    "rows without quotes follow, then one with": (
        'a,"Two\nb,Three.\nc,"Four, five."\nd,Six.\n', ["[format]", "[format]", "Four, five.", "Six."],
    ),
    "two rows in a row": ('a,"One\nb,"Two\nc,"Three."\n', ["[format]", "[format]", "Three."]),
    "a second quote at the end": ('a,"One."\nb,"Two.""\nc,"Three."\n', ["One.", "[format]", "Three."]),
    "a second quote at the start": ('a,"One."\nb,""Two."\nc,"Three."\n', ["One.", "[format]", "Three."]),
    "quotes within a quote": ('a,"A "boot" heart."\nb,Two.\n', ["[format]", "Two."]),
    "prose behind it is no row": (
        'a,"One\nand more words\nto the end.\nb,"Two."\nc,"Three."\n', ["[format]", "Two.", "Three."],
    ),
    "prose with a comma in it is not embedded": (
        'a,"A "boot" heart.\nHeart normal, lungs clear.\nThe end."\nb,Two.\n', ["[format]", "[format]", "Two."],
    ),
    "prose behind one stray quote is not embedded": (
        'a,"A 5" tube.\nHeart normal, lungs clear."\nb,"Two."\n', ["[format]", "[format]", "Two."],
    ),
    "an empty cell in quotes begins a row": (
        'a,"One\nb,""\nc,"Three\nin two lines."\nd,Four.\n', ["[format]", "[empty]", "Three\nin two lines.", "Four."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN_QUOTES)
def test_unclosed_quotes_lose_no_later_row(kind, tmp_path):
    body, expected = BROKEN_QUOTES[kind]
    found = read(written(tmp_path / "r.csv", f"id,report\n{body}"))
    assert [text for _, text in found] == expected
    assert [row for row, _ in found] == [str(number) for number in range(2, len(found) + 2)]


def test_an_unclosed_quote_is_named_by_its_line(tmp_path):
    rows = 'id,report\na,"One\nof two lines."\nb,"Two\nc,Three.\nd,"Four."\n'
    assert errors(written(tmp_path / "r.csv", rows)) == [
        "row 3 (line 4): a quote opens in line 4 and is not closed where the row ends (not CSV: ',' expected after '\"')",
        "row 4 (line 5): lies behind a quote that opens in line 4 and is not closed: close it",
    ]
    rows = 'report,mood\n"One ""or\ntwo"" lines.","open\n"Two.","good"\n'
    assert "a quote opens in line 3 " in errors(written(tmp_path / "r.csv", rows))[0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends_are_detected(delimiter, end, tmp_path):
    rows = [("id", "report", "study_uid"), ("a", "Edema, mild; stable | once.\tYes.", "1.2"), ("b", "Two.", "")]
    lines = (delimiter.join(f'"{cell}"' for cell in row) for row in rows)
    found = list(read_reports(written(tmp_path / "r.csv", end.join(lines) + end)))
    assert [(one.id, one.text, one.study_uid) for one in found] == [("a", rows[1][1], "1.2"), ("b", "Two.", None)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["r.csv", "r.tsv", "r.jsonl", "r.ndjson"])
def test_encodings_are_known_by_their_mark(encoding, name, tmp_path):
    text = '{"report": "Größe."}\n' if "n" in name else "report\nGröße.\n"
    assert read(written(tmp_path / name, text.encode(encoding)))[0][1] == "Größe."


def test_other_delimiters_and_encodings_are_refused_by_name(tmp_path):
    for data, reason, words in (
        (b"id^report\na^Edema.\n", "columns", "comma, semicolon, tab, bar"),
        ("id,report\na,Edema.\n".encode("utf-16-be"), "encoding", "byte order mark"),
        ("Größe,report\na,Edema.\n".encode("latin-1"), "encoding", "byte order mark"),
        (b"report,id,report\na,b,c\n", "columns", "'report' more than once"),
        (b'id,"report\na,Edema.\n', "format", "row 1"),
        (b"", "columns", "report"),
        (b"\n\n", "columns", "report"),
    ):
        with pytest.raises(ReportError, match=words) as caught:
            read_reports(written(tmp_path / "r.csv", data))
        assert caught.value.reason == reason


def test_rows_count_as_in_a_spreadsheet(tmp_path):
    rows = '\n\nid,report\na,"One\nof two lines."\n\nb,Two.\nc,"Three\nof two.",too many\n'
    path = written(tmp_path / "r.csv", rows)
    assert read(path) == [("4", "One\nof two lines."), ("6", "Two."), ("7", "[format]"), ("8", "[format]")]
    assert errors(path)[0].startswith("row 7 (line 8): has 3 columns, the header has 2; ")


def test_columns_that_are_not_read_may_be_anything(tmp_path):
    assert read(written(tmp_path / "r.csv", ",x,report,x,\n1,2,Edema.,3,4\n")) == [("2", "Edema.")]


def test_bad_cells_fail_by_their_row(tmp_path):
    rows = b"id,report\n\na,Ed\0ema.\nb\0,Edema.\nc,Caf\xe9.\nd\n,\n,,\n   \ne,Edema.\n"
    assert read(written(tmp_path / "r.csv", rows)) == [
        ("3", "[encoding]"), ("4", "[encoding]"), ("5", "[encoding]"), ("6", "[format]"), ("7", "[empty]"),
        ("8", "[format]"), ("9", "[format]"), ("10", "Edema."),
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [1, 1_000])
def test_huge_fields_fail_in_bounded_memory(lines, tmp_path):
    path = tmp_path / "r.csv"
    with path.open("w") as file:
        file.write('id,report\na,One.\nb,"')
        for _ in range(lines):
            file.write("x" * (20_000_000 // lines) + ("\n" if lines > 1 else ""))
        file.write('"\nc,"Three."\n')
    import tracemalloc

    tracemalloc.start()
    try:
        found = read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [("2", "One."), ("3", "[too_large]"), ("4", "Three.")]
    assert peak < 40_000_000 if lines == 1 else peak < 4_000_000


def test_the_longest_report_is_read(tmp_path):
    texts = {"r.csv": "report\n{}\n", "r.jsonl": '{{"report": "{}"}}\n'}
    for name, form in texts.items():
        assert read(written(tmp_path / name, form.format("x" * LONGEST)))[0][1] == "x" * LONGEST
        assert read(written(tmp_path / name, form.format("x" * (LONGEST + 1))))[0][1] == "[too_large]"


def test_utf16_that_is_cut_says_where(tmp_path):
    path = written(tmp_path / "r.csv", "report\nOne.\nTwo.\nThree.".encode("utf-16")[:-1])
    *records, failure = read_reports(path)
    assert [one.text for one in records] == ["One.", "Two."]
    assert (failure.reason, failure.path) == ("encoding", str(path))
    assert "follows row 3" in failure.error


def test_json_lines_are_all_accounted_for(tmp_path):
    lines = {
        '{"id": 7, "report": "Edema.", "other": {"a": [1]}}': "Edema.",
        '{"id": "a", "report": "Cut in the mid': "[format]",
        '{"id": "a", "report": "One.", "report": "Two."}': "[format]",
        '{"id": 1.5, "report": "One."}': "[format]",
        '{"id": true, "report": "One."}': "[format]",
        '{"study_id": NaN, "report": "One."}': "[format]",
        '{"study_id": ["1"], "report": "One."}': "[format]",
        '{"report": NaN}': "[empty]",
        '{"report": {"findings": "One."}}': "[empty]",
        '{"report": ["One."]}': "[empty]",
        '{"report": null, "text": "Two."}': "Two.",
        '{"report": "Nul\\u0000."}': "[encoding]",
        '{"report": "Half \\ud800."}': "[encoding]",
        '["One."]': "[format]",
        "null": "[format]",
        "\0\0\0": "[format]",
        '{"report": "Last."}': "Last.",
    }
    found = read(written(tmp_path / "r.jsonl", "\n".join(lines)))
    assert found == [(str(number), text) for number, text in enumerate(lines.values(), start=1)]


def test_parquet_rows_with_nulls_are_accounted_for(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {
        "ID": ["a", None, "c", None, "e"],
        "report": ["One.", "Two.", None, " ", "Half \0."],
        "study_id": [50, None, 51, 52, 53],
        "vector": [[1.0], None, [2.0], [3.0], None],
    }
    path = tmp_path / "r.parquet"
    parquet.write_table(arrow.table(columns), path)
    assert read(path) == [("1", "One."), ("2", "Two."), ("3", "[empty]"), ("4", "[empty]"), ("5", "[encoding]")]
    first, second, *_ = read_reports(path)
    assert (first.id, first.study_uid, second.study_uid) == ("a", "50", None)
    parquet.write_table(arrow.table({"findings": ["One."]}), path)
    with pytest.raises(ReportError, match="findings"):
        read_reports(path)
    with pytest.raises(ReportError, match="cut or damaged"):
        read_reports(written(path, b"PAR1 no more"))


def test_a_damaged_row_group_fails_row_by_row(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, texts = tmp_path / "r.parquet", [f"Nodule of {n} mm." for n in range(30)]
    table = arrow.table({"report": texts})
    parquet.write_table(
        table, path, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True
    )
    data = path.read_bytes()
    place = data.index(b"Nodule of 15")
    written(path, data[:place] + b"n" + data[place + 1 :])
    found = read(path)
    assert [row for row, _ in found] == [str(n) for n in range(1, 31)]
    assert [text for _, text in found] == texts[:10] + ["[format]"] * 10 + texts[20:]


CELLS = st.text(st.sampled_from('ab ,;"\t|.\0é'), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8),
    damage=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["", '"', ",", "\0", "x"])), max_size=3),
    name=st.sampled_from(["r.csv", "r.jsonl"]),
)
def test_random_damage_leaves_no_row_unaccounted(rows, damage, name, tmp_path_factory):
    names = ("id", "report", "study_uid")
    path = tmp_path_factory.mktemp("damage") / name
    if name == "r.csv":
        with path.open("w", newline="", encoding="utf-8") as table:
            csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([names, *rows])
    else:
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    lines = path.read_text(encoding="utf-8").split("\n")
    head, body = lines[: name == "r.csv"], lines[name == "r.csv" : -1]
    hit = set()
    for where, what in damage:
        if body:
            number = min(int(where * len(body)), len(body) - 1)
            line, hit = body[number], {*hit, number}
            column = int((where * len(body) % 1) * len(line))
            body[number] = line[:column] + what + line[column + 1 :]
    path.write_text("\n".join([*head, *body, ""]), encoding="utf-8")
    found = list(read_reports(path))
    places = [int(one.path.rpartition(":")[2]) for one in found]
    assert len(places) == len(set(places))
    # Two quotes that are missing can make two rows one, which is a row of CSV as good as any; that needs two hits.
    assert len(body) - len(hit) < len(found) <= len(body) if len(hit) > 1 else len(found) == len(body)
    intact = [row for number, row in enumerate(rows) if number not in hit]
    if not hit:
        texts = [row[1] for row in intact if row[1].strip() and "\0" not in "".join(row)]
        assert [one.text for one in found if isinstance(one, ReportRecord)] == texts


def test_the_place_of_a_row_does_not_depend_on_spelling(tmp_path, monkeypatch):
    table = written(tmp_path / "r.csv", "report\nOne.\nOne.\nTwo.\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    expected = [(one.id, one.source) for one in read_reports(table)]
    assert len({id for id, _ in expected}) == 3
    for folder, spelling in (
        (tmp_path, "r.csv"),
        (tmp_path / "deep", "../r.csv"),
        (Path("/"), f"{tmp_path}/link/r.csv"),
    ):
        monkeypatch.chdir(folder)
        assert [(one.id, one.source) for one in read_reports(Path(spelling))] == expected
    assert os.path.realpath(table) == expected[0][1].rpartition("/")[0]


def test_ids_follow_study_source_and_words(tmp_path):
    rows = "study_uid,report\n1.2,One.\n1.3,One.\n1.2,Two.\n,One.\n,One.\n1.2,One.\n"
    first = [one.id for one in read_reports(written(tmp_path / "a.csv", rows))]
    other = [one.id for one in read_reports(written(tmp_path / "b.csv", rows))]
    assert len(set(first)) == 5
    assert first[0] == first[5]  # one study in the same words is one report, wherever it is told
    assert [one == two for one, two in zip(first, other, strict=True)] == [True, True, True, False, False, True]
