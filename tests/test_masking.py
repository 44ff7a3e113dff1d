import numpy as np
import pytest

from train.masking import hidden_count, hide_words, split_patches


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.25, 25), (0.5, 50), (0.75, 75), (0.999, 99)])
def test_the_ratio_is_the_share_that_is_hidden(ratio, expected):
    assert hidden_count(100, ratio) == expected
    visible, hidden = split_patches(100, ratio, np.random.default_rng(0))
    assert (len(visible), len(hidden)) == (100 - expected, expected)


def test_visible_and_hidden_patches_make_up_the_image():
    visible, hidden = split_patches(49, 0.6, np.random.default_rng(1))
    assert sorted([*visible, *hidden]) == list(range(49))
    assert (np.diff(visible) > 0).all()
    assert (np.diff(hidden) > 0).all()


def test_every_patch_is_hidden_equally_often():
    rng = np.random.default_rng(2)
    counts = np.zeros(16)
    for _ in range(2000):
        counts[split_patches(16, 0.25, rng)[1]] += 1
    # 2000 draws at 1/4: mean 500, standard deviation 19.
    assert np.abs(counts - 500).max() < 80


def test_words_are_hidden_whole_and_specials_never():
    words = np.array([-1, 0, 0, 0, 1, 2, 2, 3, -1, -1])
    for seed in range(50):
        mask = hide_words(words, 0.5, np.random.default_rng(seed))
        assert not mask[words < 0].any()
        states = [set(mask[words == word].tolist()) for word in range(4)]
        assert all(len(state) == 1 for state in states)
        assert sum(state == {True} for state in states) == 2


def test_a_small_ratio_hides_one_word_and_zero_hides_none():
    words = np.array([-1, 0, 1, 2, -1])
    assert hide_words(words, 0.01, np.random.default_rng(0)).sum() == 1
    assert hide_words(words, 0.0, np.random.default_rng(0)).sum() == 0
    assert hide_words(np.array([-1, -1]), 0.5, np.random.default_rng(0)).sum() == 0
