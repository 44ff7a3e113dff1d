from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr_infer.errors import ConfigError
from mcr_infer.evaluation import metrics


def test_ranks_by_hand_with_ties_and_several_answers():
    scores = np.array(
        [
            [0.9, 0.5, 0.1, 0.0],  # the answer leads
            [0.9, 0.5, 0.5, 0.5],  # one better, two equal: against us
            [0.7, 0.7, 0.7, 0.7],  # all equal: last
            [0.9, 0.8, 0.7, 0.6],  # two answers, the better one counts, the other is no rival
            [0.9, 0.8, 0.7, 0.6],  # all answers: nothing can stand before them
        ],
        dtype=np.float32,
    )
    relevant = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    assert metrics.first_hit_ranks(scores, relevant).tolist() == [1, 4, 4, 2, 1]


def test_equal_answers_do_not_count_against_each_other():
    scores = np.array([[0.5, 0.5, 0.5, 0.2]], dtype=np.float32)
    assert metrics.first_hit_ranks(scores, np.array([[True, True, False, False]])).tolist() == [2]


def test_rounding_of_the_dot_product_is_a_tie():
    scores = np.array([[0.5000001, 0.5]], dtype=np.float32)
    assert metrics.first_hit_ranks(scores, np.array([[True, False]])).tolist() == [2]


def test_a_query_without_an_answer_has_no_rank():
    with pytest.raises(ConfigError, match="1 queries have nothing relevant"):
        metrics.first_hit_ranks(np.zeros((2, 2), np.float32), np.array([[True, False], [False, False]]))


def test_ranks_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((70, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(0, 20, 70)
    whole = metrics.label_ranks(vectors, vectors[::-1].copy(), labels, labels)
    monkeypatch.setattr(metrics, "_CELLS", 210)
    assert metrics.label_ranks(vectors, vectors[::-1].copy(), labels, labels).tolist() == whole.tolist()


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n), st.integers(1, n))))
def test_chance_equals_every_ranking_counted(case: tuple[int, int, int]):
    gallery, relevant, k = case
    orders = list(permutations(range(gallery)))
    hit = sum(min(order[:k]) < relevant for order in orders) / len(orders)
    assert metrics.chance_of_hit(gallery, np.array([relevant]), k)[0] == pytest.approx(hit)
    assert hit == pytest.approx(1 - comb(gallery - relevant, k) / comb(gallery, k))


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_chance_of_average_precision_equals_every_ranking_counted(case: tuple[int, int]):
    gallery, relevant = case
    ranked = np.array(list(permutations([place < relevant for place in range(gallery)])))
    assert metrics.chance_of_average_precision(gallery, relevant) == pytest.approx(
        metrics.average_precision(ranked).mean()
    )


def test_chance_of_a_mixture_and_beyond_the_gallery():
    chance = metrics.chance_of_hit(1000, np.array([1, 10, 1000]), 10)
    assert chance == pytest.approx([0.01, 1 - comb(990, 10) / comb(1000, 10), 1.0])
    assert metrics.chance_of_hit(4, np.array([1]), 10).tolist() == [1.0]


def test_chance_median_rank_against_simulation():
    relevant = np.array([1, 1, 3, 7])
    weights = np.array([1.0, 1.0, 2.0, 1.0])
    rng = np.random.default_rng(0)
    drawn = np.array([[rng.permutation(50)[:count].min() + 1 for count in relevant] for _ in range(4000)])
    simulated = metrics.median_rank(drawn.ravel(), np.tile(weights, 4000))
    assert abs(metrics.chance_median_rank(50, relevant, weights) - simulated) <= 1
    assert metrics.chance_median_rank(1000, np.array([1]), np.ones(1)) == 500


def test_median_rank_is_a_rank_that_occurs_and_takes_weights():
    assert metrics.median_rank(np.array([9, 1, 3, 2]), np.ones(4)) == 2
    assert metrics.median_rank(np.array([9, 1, 3]), np.ones(3)) == 3
    assert metrics.median_rank(np.array([1, 1, 1, 8]), metrics.macro_weights(np.array([0, 0, 0, 1]))) == 1
    assert metrics.median_rank(np.array([1, 1, 1, 8]), np.array([1.0, 1.0, 1.0, 4.0])) == 8


def test_the_bootstrap_interval_holds_the_mean_and_resamples_whole_patients():
    rng = np.random.default_rng(1)
    hits = (rng.random((400, 2)) < (0.3, 0.7)).astype(float)
    ones = np.ones(400)
    value, low, high = metrics.mean_interval(hits, ones, np.arange(400), count=1000, seed=0)
    assert value == pytest.approx(hits.mean(axis=0))
    assert (low < value).all()
    assert (value < high).all()
    # A binomial proportion: 1.96 standard errors either way.
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / 400), rel=0.15)

    # 10 patients with 40 equal images each know no more than 10 images.
    patients = np.repeat(np.arange(10), 40)
    same = np.repeat(rng.random(10) < 0.5, 40).astype(float)[:, None]
    _, low, high = metrics.mean_interval(same, ones, patients, count=1000, seed=0)
    assert high[0] - low[0] > 0.4
    again = metrics.mean_interval(same, ones, patients, count=1000, seed=0)
    assert (again[1][0], again[2][0]) == (low[0], high[0])


def test_macro_weights_give_each_label_the_same_say():
    labels = np.array([5, 5, 5, 2])
    hits = np.array([[1.0], [1.0], [1.0], [0.0]])
    value, _, _ = metrics.mean_interval(hits, metrics.macro_weights(labels), np.arange(4), count=10, seed=0)
    assert value[0] == pytest.approx(0.5)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 2)), min_size=2, max_size=12))
def test_auroc_equals_every_pair_counted(items: list[tuple[int, bool, int]]):
    scores, positive, weights = (np.array(column) for column in zip(*items, strict=True))
    wins = total = 0.0
    for one, is_positive, weight in items:
        for other, other_positive, other_weight in items:
            if is_positive and not other_positive:
                total += weight * other_weight
                wins += weight * other_weight * (1.0 if one > other else 0.5 if one == other else 0.0)
    got = metrics.auroc(scores.astype(float), positive.astype(bool), weights[None, :].astype(float))[0]
    assert np.isnan(got) if total == 0 else got == pytest.approx(wins / total)


def test_auroc_interval_leaves_out_resamples_of_one_class():
    figure = metrics.auroc_interval(np.arange(10.0), np.arange(10) > 4, np.arange(10), count=5000, seed=0)
    assert (figure.value, figure.low, figure.high, figure.chance) == (1.0, 1.0, 1.0, 0.5)


def test_precision_by_hand_with_a_tie_against_us():
    scores = np.array([[0.9, 0.8, 0.8, 0.1]])
    ranked = metrics.ranked_relevance(scores, np.array([[True, True, False, True]]))
    assert ranked.tolist() == [[True, False, True, True]]
    assert metrics.precision_at(ranked, 1).tolist() == [1.0]
    assert metrics.precision_at(ranked, 2).tolist() == [0.5]
    assert metrics.precision_at(ranked, 10).tolist() == [0.75]
    assert metrics.average_precision(ranked) == pytest.approx([(1 + 2 / 3 + 3 / 4) / 3])
    assert np.isnan(metrics.average_precision(np.array([[False, False]]))).all()
