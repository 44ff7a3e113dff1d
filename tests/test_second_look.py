"""`embed-images --keep-locals` and `query --rerank`, as they are typed."""

import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from conftest import json_lines, run_cli, words
from mcr_infer import phantom
from mcr_infer.cli.query import query
from mcr_infer.index import Index, search
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.retrieval.late_interaction import DEPTH, late_interaction
from mcr_infer.retrieval.queries import Question
from mcr_infer.retrieval.reranker import Reranker
from mcr_infer.retrieval.vectorizer import QueryVectorizer

QUESTION = "left pneumothorax"


def ask(index: Path, *arguments: str) -> tuple[list[dict], str]:
    done = run_cli("query", QUESTION, "--index", index, "--json", *arguments)
    return json_lines(done.stdout), done.stderr


def test_the_index_keeps_what_the_tower_gave(kept_index: Path, phantom_folder: Path):
    encoder = ImageEncoder(Bundle.open())
    with Index.open(kept_index) as index, index.snapshot():
        hits = search(index, TextEncoder(Bundle.open()).encode([QUESTION]), k=24)[0]
        kept = index.locals("image", [hit.label for hit in hits])
        assert len(kept) == 24
        assert {len(content) for content in kept.values()} == {13_608}
        first = index.rows([hits[0].label])[hits[0].label]
    seed = int(Path(str(first.path)).stem.split("-")[1])
    pixels = phantom.make(seed, 256).radiograph().pixels
    _, (expected,) = encoder.encode_with_locals([encoder.preprocess.patches(pixels)])
    got = TokenEmbeddings.from_bytes(kept[hits[0].label])
    assert np.abs(got.vectors - expected.vectors).max() < np.abs(expected.vectors).max() / 250
    assert got.positions is not None
    assert got.positions.tolist() == encoder.preprocess.patches(pixels)[1].tolist()
    # The embedding is the weighted sum of what is kept.
    pooled = got.weights @ got.vectors
    assert pooled / np.linalg.norm(pooled) @ first.vector > 0.9999


def test_hits_are_ranked_by_the_cosine_and_the_second_look_together(kept_index: Path):
    plain, _ = ask(kept_index, "-k", "24")
    assert all("rerank_score" not in hit for hit in plain)
    hits, told = ask(kept_index, "--rerank", "-k", "24")
    assert list(hits[0]) == [
        "rank", "score", "rerank_score", "id", "kind", "path", "study_uid", "series_uid", "metadata", "unknown_words",
        "file_exists",
    ]  # fmt: skip
    assert "again" not in told
    assert [hit["rank"] for hit in hits] == list(range(1, 25))
    scores = [hit["rerank_score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    cosines = {hit["id"]: hit["score"] for hit in plain}
    assert {hit["id"]: hit["score"] for hit in hits} == pytest.approx(cosines, abs=2e-6)

    texts = TextEncoder(Bundle.open())
    _, (words,) = texts.encode_with_locals([QUESTION])
    with Index.open(kept_index) as index, index.snapshot():
        found = search(index, texts.encode([QUESTION]), k=24)[0]
        kept = index.locals("image", [hit.label for hit in found])
    late = late_interaction(words, [TokenEmbeddings.from_bytes(kept[hit.label]) for hit in found])
    expected = {hit.id: hit.score + value for hit, value in zip(found, late.tolist(), strict=True)}
    assert {hit["id"]: hit["rerank_score"] for hit in hits} == pytest.approx(expected, abs=2e-6)
    # Another order than that of the cosine, or the test would not see the difference.
    assert [hit["id"] for hit in hits] != [hit["id"] for hit in plain]


def test_only_the_first_hits_are_looked_at_again_and_as_many_as_are_shown_at_least(kept_index: Path):
    plain, _ = ask(kept_index, "-k", "5")
    hits, _ = ask(kept_index, "--rerank", "--rerank-depth", "5", "-k", "3")
    assert {hit["id"] for hit in hits} <= {hit["id"] for hit in plain}
    hits, _ = ask(kept_index, "--rerank", "--rerank-depth", "1", "-k", "5")
    assert {hit["id"] for hit in hits} == {hit["id"] for hit in plain}
    assert inspect.signature(query).parameters["rerank_depth"].default == DEPTH


def test_what_is_not_kept_is_read_again_and_what_cannot_be_read_is_told(
    phantom_folder: Path, kept_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantom_folder, "dicoms")
    run_cli("embed-images", "dicoms", "--index", "index")
    expected, _ = ask(kept_index, "--rerank", "-k", "24")
    hits, told = ask(Path("index"), "--rerank", "-k", "24")
    assert "note: 24 radiographs are read and embedded again, since the index keeps no patches of them" in told
    assert "could not" not in told
    scores = {hit["id"]: hit["rerank_score"] for hit in expected}
    assert {hit["id"]: hit["rerank_score"] for hit in hits} == scores  # packed and unpacked like those that are kept

    by_rank = {hit["rank"]: Path(hit["path"]) for hit in hits}
    by_rank[1].unlink()
    by_rank[2].write_bytes(by_rank[2].read_bytes()[:5000])
    by_rank[20].unlink()
    write_dicom(phantom.make(7, 128), by_rank[20])  # another picture at the place of one that was embedded
    hits, told = ask(Path("index"), "--rerank", "-k", "24")
    assert "note: 3 of 24 radiographs could not be re-ranked and keep the order of the cosine" in told
    unseen = {Path(hit["path"]): hit for hit in hits if hit["rerank_score"] is None}
    assert set(unseen) == {by_rank[1], by_rank[2], by_rank[20]}
    # They stand where others of their cosine do: near their place, neither first nor last of all.
    assert unseen[by_rank[1]]["rank"] <= 4
    assert unseen[by_rank[20]]["rank"] >= 15


def test_rows_that_are_embedded_again_keep_no_old_patches(phantom_folder: Path, tmp_path: Path):
    index = tmp_path / "index"
    shutil.copy(phantom_folder / "phantom-000500.dcm", tmp_path / "a.dcm")
    run_cli("embed-images", tmp_path / "a.dcm", "--index", index, "--keep-locals")
    changed = pydicom.dcmread(tmp_path / "a.dcm")
    changed.PixelData = changed.pixel_array[::-1].copy().tobytes()
    changed.save_as(tmp_path / "a.dcm")
    run_cli("embed-images", tmp_path / "a.dcm", "--index", index)  # without its patches
    hits, told = ask(index, "--rerank")
    assert "1 radiographs are read and embedded again" in told
    assert len(hits) == 1


def test_sentences_with_weights_are_looked_at_together(kept_index: Path):
    hits, _ = ask(kept_index, "--not", "pleural effusion", "--rerank", "-k", "24")
    bundle = Bundle.open()
    question = Question.of(sentences=[QUESTION], unwanted=["pleural effusion"])
    asked = QueryVectorizer(None, bundle, device="cpu").vectorize([question], with_words=True)
    vectors, (words,) = asked.vectors, asked.words
    wanted, unwanted = (weight for _, weight in words)
    assert unwanted == pytest.approx(-0.5 * wanted)
    assert wanted > 0
    with Index.open(kept_index) as index, index.snapshot():
        found = search(index, vectors, k=24)[0]
        look = Reranker(index, bundle, device="cpu", notify=pytest.fail)
        expected = look.rank(words, found, 24)
        assert (look.candidates, look.unseen) == (24, 0)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]


def test_what_was_read_again_is_held_for_the_next_question_as_far_as_it_may(
    phantom_index: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle, told = Bundle.open(), []
    questions = [Question.of(sentences=[text]) for text in (QUESTION, "cardiomegaly")]
    asked = QueryVectorizer(None, bundle, device="cpu").vectorize(questions, with_words=True)
    vectors, words = asked.vectors, asked.words
    with Index.open(phantom_index) as index, index.snapshot():
        first, second = search(index, vectors, k=6)
        different = len({hit.label for hit in (*first, *second)})
        look = Reranker(index, bundle, device="cpu", notify=told.append)
        ranked = look.rank(words[0], first, 6)
        look.rank(words[1], second, 6)
        assert [int(line.split()[0]) for line in told] == [6, *([different - 6] if different > 6 else [])]
        assert (look.candidates, look.unseen) == (different, 0)
        assert look.rank(words[0], first, 6) == ranked
        assert len(told) <= 2

        monkeypatch.setattr("mcr_infer.retrieval.reranker._HELD_BYTES", 2 * 13_608)
        forgetful, told = Reranker(index, bundle, device="cpu", notify=lambda line: told.append(line)), []
        assert forgetful.rank(words[0], first, 6) == ranked
        assert forgetful.rank(words[0], first, 6) == ranked
        assert [int(line.split()[0]) for line in told] == [6, 4]


def test_many_questions_are_looked_at_each_by_its_own_words(kept_index: Path, tmp_path: Path):
    (tmp_path / "questions").write_text(f"{QUESTION}\nright pneumothorax\n")
    done = run_cli(
        "query", "--queries-from", tmp_path / "questions", "--rerank", "-k", "6", "--json", "--index", kept_index
    )
    hits = json_lines(done.stdout)
    alone, _ = ask(kept_index, "--rerank", "-k", "6")
    first = [hit for hit in hits if hit["query"] == "1"]
    assert [hit["id"] for hit in first] == [hit["id"] for hit in alone]
    assert [hit["id"] for hit in hits if hit["query"] == "2"] != [hit["id"] for hit in first]


def test_what_has_no_words_or_no_patches_is_refused(kept_index: Path, phantom_folder: Path, tmp_path: Path):
    picture = phantom_folder / "phantom-000500.dcm"
    told = run_cli("query", "--image", picture, "--rerank", "--index", kept_index, code=1).stderr
    assert "error: --rerank compares the words of sentences with patches" in told
    told = run_cli("query", "x", "--kind", "report", "--rerank", "--index", kept_index, code=2).stderr
    assert "--rerank compares patches, which reports do not" in words(told)

    foreign = tmp_path / "foreign"
    shutil.copytree(Bundle.open().path, foreign)
    manifest = json.loads((foreign / "manifest.json").read_text())
    (foreign / "manifest.json").write_text(json.dumps(manifest | {"origin": {"model": "clip"}}))
    for arguments in (
        ("embed-images", picture, "--keep-locals", "--index", tmp_path / "new"),
        ("query", QUESTION, "--rerank", "--index", kept_index),
    ):
        told = run_cli(*arguments, "--bundle", foreign, code=1).stderr
        assert "cannot re-rank: it is a model from elsewhere" in told
    assert not (tmp_path / "new").exists()
