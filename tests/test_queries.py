"""Questions: sentences, radiographs and rows with weights become one vector; batches of them are read from a file."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import json_lines, run_cli
from mcr_infer import Bundle, ImageEncoder, Index, TextEncoder, read_image
from mcr_infer.errors import QueryError
from mcr_infer.retrieval.queries import NOT_WEIGHT, Part, Question, read_questions
from mcr_infer.retrieval.vectorizer import QueryVectorizer


def test_parts_have_weights(tmp_path: Path):
    asked = Question.of(
        sentences=["left pleural effusion", "cardiomegaly ^0.25"],
        unwanted=["pneumothorax", "pacemaker^2"],
    )
    wanted = (Part("left pleural effusion"), Part("cardiomegaly", 0.25))
    assert asked.sentences == (*wanted, Part("pneumothorax", -NOT_WEIGHT), Part("pacemaker", -2.0))
    assert Question.of(likes=["1.2.3^.5"]).likes == (Part("1.2.3", 0.5),)
    # A file that is there is what is meant, whatever its name looks like.
    (tmp_path / "chest^2").touch()
    found = Question.of(images=[f"{tmp_path}/chest^2", f"{tmp_path}/chest.dcm^2"])
    assert found.images == (Part(f"{tmp_path}/chest^2"), Part(f"{tmp_path}/chest.dcm", 2.0))


def test_what_is_not_wanted_counts_more_beside_a_picture():
    assert Question.of(sentences=["a"], unwanted=["b"]).sentences[1].weight == -0.5
    assert Question.of(likes=["1.2"], unwanted=["b"]).sentences[0].weight == -1.0


@pytest.mark.parametrize(
    "text",
    [
        "effusion^-1",
        "effusion^,5",
        "effusion^0,5",
        "effusion^abc",
        "effusion^",
        "^2",
        "a^2^3",
        "effusion^1e3",
        "a ^ b",
        "x^nan",
    ],
)
def test_what_is_no_weight_is_refused_with_the_right_form(text: str):
    for part in ("sentences", "unwanted", "likes"):
        with pytest.raises(QueryError, match=r"a weight stands at the end as \^ and a number.*'left effusion\^0.5'"):
            Question.of(**{"sentences": ["a"], part: [text]})
    with pytest.raises(QueryError, match=r"line 2: .*a weight stands"):
        read_questions(["fine", json.dumps({"query": text})], source="q.jsonl")


def test_the_id_of_a_question_keeps_its_type():
    lines = ['{"query": "a", "id": 7}', '{"query": "a", "id": "007"}', "a"]
    assert [one.name for one in read_questions(lines, source="q")] == [7, "007", "3"]
    for id in (1.5, True, None, [1]):
        with pytest.raises(QueryError, match=r"line 1: id is a text or a whole number"):
            read_questions([json.dumps({"query": "a", "id": id})], source="q")


@pytest.mark.parametrize("given", [{}, {"unwanted": ["pneumothorax"]}, {"sentences": ["effusion^0"]}])
def test_something_must_be_wanted(given: dict[str, list[str]]):
    with pytest.raises(QueryError, match="needs a sentence, a radiograph or an id that is wanted"):
        Question.of(**given)


def test_a_vector_is_the_weighted_sum(phantom_index: Path, phantom_folder: Path):
    bundle = Bundle.open()
    file = next(phantom_folder.glob("*.dcm"))
    texts = TextEncoder(bundle, device="cpu").encode(["cardiomegaly", "pacemaker", ""]).astype(np.float64)
    image = ImageEncoder(bundle, device="cpu").encode_radiographs([read_image(file)])[0].astype(np.float64)
    with Index.open(phantom_index) as index:
        id = index.ids("image")[0]
        row = index.vector("image", id).astype(np.float64)
        asked = [
            Question.of(sentences=["cardiomegaly"]),
            Question.of(sentences=["cardiomegaly^2"], unwanted=["pacemaker^0.5"], images=[f"{file}^0.7"], likes=[id]),
        ]
        vectorizer = QueryVectorizer(index, bundle, device="cpu")
        vectors = vectorizer.vectorize(asked).vectors
        expected = 2 * (texts[0] - texts[2]) - 0.5 * (texts[1] - texts[2]) + 0.7 * image + row
        assert np.abs(vectors[0] - texts[0]).max() < 1e-5
        assert np.abs(vectors[1] - expected / np.linalg.norm(expected)).max() < 1e-5
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-6
        with pytest.raises(QueryError, match="cancel each other out"):
            vectorizer.vectorize([Question.of(sentences=["cardiomegaly"], unwanted=["cardiomegaly^1"])])


def test_questions_are_read_line_by_line():
    lines = io.StringIO(
        'left pneumothorax\n\n  normal chest^2 \n{"query": ["a", "b^2"], "not": "c", "id": "mine"}\n{"like": "1.2.3"}\n'
    )
    first, second, third, fourth = read_questions(lines, source="q.txt")
    assert (first.name, first.sentences) == ("1", (Part("left pneumothorax"),))
    assert (second.name, second.sentences) == ("3", (Part("normal chest", 2.0),))
    assert (third.name, third.sentences) == ("mine", (Part("a"), Part("b", 2.0), Part("c", -NOT_WEIGHT)))
    assert (fourth.name, fourth.likes) == ("5", (Part("1.2.3"),))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\n\n", "q.txt holds no query"),
        ("one\n{bad", r"q\.txt, line 2: it begins with \{ and is no JSON object"),
        ('{"sentence": "a"}', r"line 1: unknown sentence; a query has query, not, image, like, id"),
        ('{"query": 7}', "line 1: query is a text or a list of texts"),
        ('{"not": "a"}', "line 1: a query needs a sentence"),
        ('{"query": " "}', "line 1: the query is empty"),
    ],
)
def test_a_bad_line_is_named(text: str, words: str):
    with pytest.raises(QueryError, match=words):
        read_questions(io.StringIO(text), source="q.txt")


def test_batches_filters_and_studies_from_the_command_line(phantom_index: Path, tmp_path: Path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text('left pneumothorax\n{"query": "cardiomegaly", "not": "pacemaker", "id": "heart"}\n')
    at = ("--index", phantom_index, "--json")
    hits = json_lines(run_cli("query", "--queries-from", questions, "-k", "3", *at).stdout)
    names = [(hit["query"], hit["rank"]) for hit in hits]
    assert names == [("1", 1), ("1", 2), ("1", 3), ("heart", 1), ("heart", 2), ("heart", 3)]
    alone = json_lines(run_cli("query", "left pneumothorax", "-k", "3", *at).stdout)
    assert [hit["id"] for hit in hits[:3]] == [hit["id"] for hit in alone]
    denied = json_lines(run_cli("query", "cardiomegaly", "--not", "pacemaker", "-k", "3", *at).stdout)
    assert [hit["id"] for hit in hits[3:]] == [hit["id"] for hit in denied]
    told = run_cli("query", "--queries-from", questions, "-k", "1", "--index", phantom_index).stdout
    assert told.splitlines()[0] == "query 1"
    assert told.splitlines()[3] == "query heart"
    every = json_lines(
        run_cli("query", "normal chest", "-k", "99", "--where", "view=PA and study_year>=2000", *at).stdout
    )
    assert every
    assert {hit["metadata"]["view"] for hit in every} == {"PA"}
    by_study = json_lines(run_cli("query", "normal chest", "-k", "99", "--by-study", "--no-duplicates", *at).stdout)
    studies = [hit["study_uid"] for hit in by_study]
    assert len(studies) == len(set(studies)) == 24
    wrong = run_cli("query", "normal chest", "--where", "view=pa", *at)
    assert wrong.stdout == ""
    assert "view holds " in wrong.stderr
    assert json.loads(run_cli("info", *at).stdout)["images"] == 24
