"""The benchmarks of the second look and of questions of several parts measure what the command line does."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from benchmarks import combined, rerank
from benchmarks.hard_pairs import HardPair, hard_pairs
from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.evaluation import metrics
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.phantom.findings import KINDS, finding_set
from mcr_infer.retrieval.late_interaction import LATE_WEIGHT, late_interaction
from mcr_infer.retrieval.queries import Question
from mcr_infer.retrieval.vectorizer import QueryVectorizer


@pytest.fixture(scope="module")
def pictures() -> rerank.Pictures:
    return rerank.see(ImageEncoder(Bundle.open()), [phantom.make(seed) for seed in range(100, 120)])


@pytest.fixture(scope="module")
def hard() -> tuple[list[phantom.Phantom], list[str], list[HardPair]]:
    return hard_pairs(400_000, 1)


def test_the_two_pictures_of_a_hard_pair_differ_in_one_thing(hard):
    made, texts, pairs = hard
    assert Counter(pair.change for pair in pairs) == {"presence": 12, "denial": 24, "side": 16, "size": 18}
    assert {pair.kind for pair in pairs} == set(KINDS)
    for pair in pairs:
        right, wrong = made[pair.right], made[pair.wrong]
        assert right.seed == wrong.seed == pair.body
        assert right.view == wrong.view
        shown, other = right.findings, wrong.findings
        if pair.change == "presence":
            assert (len(shown), other) == (1, ())
        elif pair.change == "denial":
            assert (shown, len(other)) == ((), 1)
            assert texts[pair.text] in (f"no {pair.kind}", f"no evidence of {pair.kind}")
        elif pair.change == "side":
            assert dataclasses.replace(shown[0], side=other[0].side) == other[0]
            assert shown[0].side != other[0].side
        else:
            same = dataclasses.replace(shown[0], size=other[0].size, millimetres=other[0].millimetres)
            assert same == other[0]
            assert sorted((shown[0].size, other[0].size)) == [0.15, 0.85]
    sides = [texts[pair.text] for pair in pairs if pair.change == "side" and pair.kind == "pleural effusion"]
    assert "left" in sides[0]
    assert "right" in sides[1]


def test_a_judgement_wants_the_right_picture_clearly_above():
    vectors = np.eye(2, dtype=np.float32)
    part = TokenEmbeddings(vectors=np.ones((1, 2), dtype=np.float32), weights=np.ones(1, dtype=np.float32))
    seen = rerank.Pictures(
        phantoms=[], vectors=np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32), patches=[part] * 3
    )
    asked = rerank.Texts(vectors=vectors, words=[part] * 2)
    pairs = [
        HardPair(change=change, kind="x", body=body, text=0, right=right, wrong=wrong)
        for change, body, right, wrong in (("side", 1, 0, 1), ("side", 2, 1, 0), ("size", 1, 0, 2))
    ]
    right = rerank.judge_pairs(asked, seen, pairs, None)
    assert right.tolist() == [1.0, 0.0, 0.0]  # equal scores are wrong
    figures = rerank.pair_figures(right, pairs)
    assert figures["side"][0] == 0.5
    assert figures["size"] == [0.0, 0.0, 0.0]


def test_only_the_first_of_the_cosine_are_looked_at_again(pictures: rerank.Pictures, monkeypatch: pytest.MonkeyPatch):
    texts = rerank.read(TextEncoder(Bundle.open()), ["left pneumothorax", "cardiomegaly"])
    plain = rerank.looked_again(texts, pictures, None)
    assert plain == pytest.approx(texts.vectors @ pictures.vectors.T, abs=1e-6)
    monkeypatch.setattr(rerank, "DEPTH", 7)
    again = rerank.looked_again(texts, pictures, late_interaction)
    for row, words, former in zip(again, texts.words, plain, strict=True):
        order = np.argsort(-former)
        assert set(np.argsort(-row)[:7]) == set(order[:7])
        assert np.argsort(-row)[7:].tolist() == order[7:].tolist()
        late = late_interaction(words, [pictures.patches[place] for place in order[:7]])
        assert row[order[:7]] == pytest.approx(former[order[:7]] + LATE_WEIGHT * late, abs=1e-9)


def test_every_way_is_measured_and_gains_are_differences(hard, monkeypatch: pytest.MonkeyPatch):
    bundle = Bundle.open()
    monkeypatch.setattr(rerank, "hard_pairs", lambda first, bodies: hard)  # made once for this file
    result = rerank.measure(ImageEncoder(bundle), TextEncoder(bundle), count=24, bodies=1)
    assert (result["hard_pairs"], set(result["ways"])) == (70, {
        "cosine", "second look", "patches in fp16", "patches in fp32", "late interaction alone", "cosine + best patch",
        "best patch alone",
    })  # fmt: skip
    cosine, look = result["ways"]["cosine"], result["ways"]["second look"]
    for kind in rerank.BY_SET:
        for name, (gain, *_) in result["gain"][kind].items():
            assert gain == pytest.approx(look[kind][name][0] - cosine[kind][name][0], abs=2e-4)
            assert 0.5 < cosine[kind][name][0] <= 1.0
    assert cosine["hard pairs"]["presence"][0] >= 0.9
    lines = rerank.table_lines(result)
    assert sum(line.startswith("| gain of the second look") for line in lines) == 5


def test_questions_of_several_parts_are_measured_as_they_are_asked(pictures: rerank.Pictures):
    bundle = Bundle.open()
    gallery = combined.Gallery(
        pictures=pictures, texts=TextEncoder(bundle), findings=[finding_set(one.findings) for one in pictures.phantoms]
    )
    asked = {
        "query --not": (Question.of(sentences=["cardiomegaly"], unwanted=["pleural effusion"]), combined.unwanted(
            gallery, "cardiomegaly", "pleural effusion")),
        "query A B": (Question.of(sentences=["cardiomegaly", "pleural effusion"]), combined.together(
            gallery, ["cardiomegaly", "pleural effusion"], "cardiomegaly and pleural effusion")),
    }  # fmt: skip
    for name, (question, ways) in asked.items():
        asked_for = QueryVectorizer(None, bundle, device="cpu").vectorize([question], with_words=True)
        vectors, (words,) = asked_for.vectors, asked_for.words
        cosines = gallery.images @ vectors[0]
        length = np.linalg.norm(ways[name]) / np.linalg.norm(cosines)
        assert ways[name] / length == pytest.approx(cosines, abs=1e-5)
        late = sum(weight * late_interaction(one, pictures.patches) for one, weight in words)
        assert ways[f"{name} --rerank"] == pytest.approx(
            cosines + LATE_WEIGHT * late, abs=1e-5
        )  # 20 are fewer than DEPTH


def test_figures_count_questions_and_rank_ties_last():
    right = np.array([True, False, False, True])
    asked = [
        ("a", {"good": np.array([4.0, 1, 0, 3]), "tied": np.zeros(4)}, right),
        ("a", {"good": np.array([4.0, 1, 0, 3]), "tied": np.zeros(4)}, right),
    ]
    result = combined.figures(iter(asked))
    assert result["questions"] == 2
    assert result["ways"]["good"] == {"p10": [1.0, 1.0, 1.0], "ap": [1.0, 1.0, 1.0]}
    tied = metrics.average_precision(np.array([[False, False, True, True]]))[0]
    assert result["ways"]["tied"]["p10"][0] == 0.0
    assert result["ways"]["tied"]["ap"][0] == pytest.approx(tied, abs=1e-4)
