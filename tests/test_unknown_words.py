"""What the commands say about words that the text tower does not know."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import invoke, json_lines, run_cli
from mcr_infer import Bundle, Index
from mcr_infer.errors import QueryError, UsageError
from mcr_infer.retrieval.queries import Question
from mcr_infer.retrieval.vectorizer import QueryVectorizer

FRENCH = "Épanchement pleural gauche de moyenne abondance. Pas de pneumothorax. Silhouette cardiaque normale."


@pytest.mark.parametrize("question", ["banana split", "xqzvw", "肺炎", "зараз пневмоторакс", "🫁", "12", "a", "?!"])
def test_a_query_without_known_words_is_an_error(question: str, phantom_index: Path):
    done = invoke("query", question, "--index", phantom_index, code=1)
    assert done.stdout == ""
    assert f"{question!r} has no word that the text tower knows" in done.stderr
    assert "Ask in report language, such as 'bilateral pleural effusion'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["cardiomegaly", "banana split"],
        ["cardiomegaly", "--not", "banana split"],
        ["banana split", "--rerank"],
        ["banana split", "--kind", "report"],
    ],
)
def test_each_sentence_needs_a_known_word(arguments: list[str], phantom_index: Path):
    assert "'banana split' has no word" in invoke("query", *arguments, "--index", phantom_index, code=1).stderr


def test_beside_an_image_a_sentence_needs_a_known_word_too(phantom_index: Path, phantom_folder: Path):
    image = next(phantom_folder.glob("*.dcm"))
    done = invoke("query", "--image", image, "--not", "xqzvw", "--index", phantom_index, code=1)
    assert "'xqzvw' has no word" in done.stderr
    hits = json_lines(invoke("query", "--image", image, "--index", phantom_index, "--json").stdout)
    assert hits[0]["unknown_words"] == []


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        (["left pleural effusion"], []),
        (["left effusion and a banana split"], ["banana", "split"]),
        (["cardiomegaly", "left banana", "--not", "pacemaker banana xqzvw"], ["banana", "xqzvw"]),
        (["left banana effusion", "--rerank"], ["banana"]),
        (["Épanchement pleural"], ["Épanchement"]),
    ],
)
def test_unknown_words_are_noted_and_in_json(arguments: list[str], unknown: list[str], phantom_index: Path):
    done = invoke("query", *arguments, "--index", phantom_index, "-k", "2", "--json")
    assert [hit["unknown_words"] for hit in json_lines(done.stdout)] == [unknown, unknown]
    note = f"note: unknown words {', '.join(map(repr, unknown))} (absent from the training text of the bundle)"
    assert (note in done.stderr) is bool(unknown)
    assert ("unknown words" in done.stderr) is bool(unknown)


def test_a_word_spelled_alike_is_suggested(phantom_index: Path):
    done = invoke("query", "pneumothoraces", "--index", phantom_index, code=1)
    assert "known words that look alike: 'pneumothorax'" in done.stderr


def test_questions_of_a_file_are_told_apart(phantom_index: Path, tmp_path: Path):
    file = tmp_path / "q.txt"
    file.write_text('left pneumothorax\n\nleft banana\n{"query": "xqzvw effusion", "id": "mine"}\n')
    done = invoke("query", "--queries-from", file, "-k", "1", "--index", phantom_index, "--json")
    told = [(hit["query"], hit["unknown_words"]) for hit in json_lines(done.stdout)]
    assert told == [("1", []), ("3", ["banana"]), ("mine", ["xqzvw"])]
    assert "note: query 3: unknown words 'banana'" in done.stderr
    assert "note: query mine: unknown words 'xqzvw'" in done.stderr
    file.write_text('left pneumothorax\nbanana split\n{"query": "xqzvw", "id": "mine"}\n')
    done = invoke("query", "--queries-from", file, "--index", phantom_index, code=1)
    assert "error: query 2: the sentence 'banana split' has no word" in done.stderr
    assert "1 more sentence without one" in done.stderr
    assert done.stdout == ""


def test_notes_of_many_questions_are_few(phantom_index: Path, tmp_path: Path):
    file = tmp_path / "q.txt"
    file.write_text("left banana\n" * 8)
    done = invoke("query", "--queries-from", file, "-k", "1", "--index", phantom_index)
    assert done.stderr.count("unknown words 'banana'") == 5
    assert "note: 3 more queries have unknown words" in done.stderr


def test_control_characters_of_a_query_are_escaped(phantom_index: Path):
    done = invoke("query", "\x1b[31mxqzvw\nqqq", "--index", phantom_index, code=1)
    assert "\x1b" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error")]) == 1
    assert "qqq'" in done.stderr.splitlines()[-1]


def test_vectors_and_rows_need_no_words(phantom_index: Path):
    with Index.open(phantom_index) as index:
        first, second = index.ids("image")[:2]
        rows = QueryVectorizer(index, None).vectorize([Question.of(likes=[first]), Question.of(likes=[second])])
        assert rows.unknown_words == [(), ()]
        vectorizer = QueryVectorizer(index, Bundle.open(), device="cpu")
        asked = [Question.of(sentences=["left banana", "banana effusion"], likes=[first])]
        assert vectorizer.vectorize(asked).unknown_words == [("banana",)]
        with pytest.raises(QueryError, match="the sentence 'xqzvw' has no word"):
            vectorizer.vectorize([Question.of(sentences=["left effusion"], unwanted=["xqzvw"])])


def test_parts_without_what_makes_their_vector_are_refused(phantom_index: Path):
    with pytest.raises(UsageError, match="needs an index or a bundle"):
        QueryVectorizer(None, None)
    with pytest.raises(UsageError, match=r"the row '1\.2' of a question needs an index"):
        QueryVectorizer(None, Bundle.open()).vectorize([Question.of(likes=["1.2"])])
    with Index.open(phantom_index) as index, pytest.raises(UsageError, match="needs a bundle"):
        QueryVectorizer(index, None).vectorize([Question.of(sentences=["effusion"])])


def test_a_bundle_without_a_list_says_so(
    foreign_bundle: Callable[[str], tuple[Path, Bundle]], phantom_folder: Path, tmp_path: Path
):
    bundle, index = foreign_bundle("clip")[1], tmp_path / "index"
    run_cli("embed-images", next(phantom_folder.glob("*.dcm")), "--bundle", bundle.path, "--index", index)
    done = invoke("query", "xqzvw", "--index", index, code=1)
    assert "'xqzvw' (spelled in fragments by the tokenizer; the bundle lists no training words" in done.stderr
    done = invoke("query", "left effusion xqzvw", "--index", index, "--json")
    assert json_lines(done.stdout)[0]["unknown_words"] == ["xqzvw"]
    assert "unknown words 'xqzvw' (spelled in fragments by the tokenizer; the bundle lists no" in done.stderr


# ---- Reports -----------------------------------------------------------------------------------------------------------


def test_reports_with_unknown_words_are_counted(tmp_path: Path):
    table = tmp_path / "reports.csv"
    texts = ["Left pleural effusion.", "Left effusion of Zwqxson.", FRENCH, "Hier ist nichts zu sehen", "Unauffällig."]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "report"), *enumerate(texts)])
    index = tmp_path / "index"
    done = invoke("embed-reports", table, "--index", index, "--json")
    summary = json.loads(done.stdout)
    assert (summary["embedded"], summary["failed"]) == (5, 0)
    assert summary["unknown_words"] == {"reports": 4, "mostly_unknown": 3, "without_known_word": 2}
    assert "note: 4 of 5 reports have unknown words" in done.stderr
    assert (
        "3 of them more than known ones, 2 no known word: is their language that of the training text?" in done.stderr
    )
    # Words of a report can name a patient: they are counted, and neither shown nor kept.
    kept = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
    for text in (done.stdout, done.stderr, kept.decode("latin-1")):
        assert "zwqxson" not in text.lower()
    done = invoke("embed-reports", table, "--index", index, "--json")
    assert json.loads(done.stdout)["unknown_words"] == {"reports": 0, "mostly_unknown": 0, "without_known_word": 0}
    assert "unknown words" not in done.stderr
    with Index.open(index) as opened:
        assert opened.count("report") == 5
        counts = {id: opened.get("report", id).metadata.get("unknown_words") for id in ("0", "1", "3")}
    assert counts == {"0": None, "1": 1, "3": 5}
    found = invoke("query", "effusion", "--kind", "report", "--where", "unknown_words>1", "--index", index, "--json")
    assert {hit["id"] for hit in json_lines(found.stdout)} == {"2", "3"}


def test_known_reports_are_no_matter(phantom_folder: Path, tmp_path: Path):
    done = invoke("embed-reports", phantom_folder / "truth.csv", "--index", tmp_path / "index")
    assert "unknown words" not in done.stdout + done.stderr


def test_an_evaluation_counts_reports_too(phantom_folder: Path, tmp_path: Path):
    with (phantom_folder / "truth.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:4]
    rows[0]["report"], rows[1]["report"] = FRENCH, rows[1]["report"] + " banana"
    pairs = tmp_path / "pairs.csv"
    with pairs.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "file": str(phantom_folder / row["file"])} for row in rows)
    done = invoke("evaluate", pairs, "--json")
    assert json.loads(done.stdout)["pairs"] == 4
    assert "note: 2 of 4 reports have unknown words" in done.stderr
    assert "1 of them more than known ones, 0 no known word" in done.stderr
