import subprocess
import sys

import numpy as np
import pytest

from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.inference.tokenizer import SPECIAL_TOKENS, ReportTokenizer, train_tokenizer

TEXTS = [
    "Small left pleural effusion. No pneumothorax.",
    "The heart is enlarged; small right effusions.",
    "No acute cardiopulmonary abnormality, 12 mm nodule.",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(TEXTS * 5, 400).save(str(path))
    return ReportTokenizer.from_file(path, 16)


def test_importing_the_readers_loads_no_tokenizers():
    code = "import sys, mcr_infer.reports, mcr_infer.inference.tokenizer; print('tokenizers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_tokens_are_padded_to_the_longest_and_masked(tokenizer):
    ids, mask = tokenizer.encode(["left effusion", "small left pleural effusion. no pneumothorax", ""])
    assert ids.dtype == mask.dtype == np.int64
    assert ids.shape == mask.shape == (3, 9)
    assert mask.sum(axis=1).tolist() == [4, 9, 2]
    assert (ids[:, 0] == 2).all()
    assert [int(row[length - 1]) for row, length in zip(ids, (4, 9, 2), strict=True)] == [3, 3, 3]
    assert (ids[mask == 0] == 0).all()
    assert (ids[mask == 1] != 0).all()
    assert ids[0, 1:3].tolist() == [ids[1, 2], ids[1, 4]]


def test_a_batch_is_its_rows_and_case_does_not_matter(tokenizer):
    together, _ = tokenizer.encode(TEXTS)
    for row, text in zip(together, TEXTS, strict=True):
        alone, _ = tokenizer.encode([text.upper()])
        assert np.array_equal(row[: alone.shape[1]], alone[0])


def test_words_know_their_tokens(tokenizer):
    texts = ["no cardiomegaly", "left effusion"]
    (first_ids, first), (second_ids, second) = (tokenizer.tokens_and_words(text) for text in texts)
    assert [first_ids, second_ids] == tokenizer.token_ids(texts)
    assert len(first) == len(first_ids)
    assert first[0] == first[-1] == -1
    assert first[1] == 0
    assert set(first[2:-1]) == {1}
    assert len(first) > 4  # an unknown word falls into pieces
    assert second == [-1, 0, 1, -1]


def test_long_texts_are_cut_and_can_be_counted(tokenizer):
    texts = ["effusion " * 14, "effusion " * 15, "effusion " * 40]
    ids, mask = tokenizer.encode(texts)
    assert tokenizer.lengths(texts).tolist() == [16, 17, 42]
    assert mask.sum(axis=1).tolist() == [16, 16, 16]
    assert (ids[:, -1] == 3).all()


def test_nothing_gives_nothing(tokenizer):
    ids, mask = tokenizer.encode([])
    assert ids.shape == mask.shape == (0, 0)
    assert tokenizer.lengths([]).shape == (0,)


def test_special_tokens_stand_where_the_models_expect_them_and_cannot_be_typed(tokenizer):
    trained = train_tokenizer(TEXTS * 5, 400)
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    ids, mask = tokenizer.encode(["[MASK] [PAD] [SEP]", "\u4e2d effusion"])
    assert not np.isin(ids[0, 1 : mask[0].sum() - 1], [0, 2, 3, 4]).any()
    assert ids[1, 1] == 1


def test_the_same_texts_make_the_same_tokenizer_in_every_process():
    code = (
        "import hashlib; from mcr_infer.inference.tokenizer import train_tokenizer\n"
        "texts = [f'{a}{b}{c} {c}{a}. {b}' for a in 'abcde' for b in 'lmnop' for c in 'vwxyz']\n"
        "print(hashlib.sha256(train_tokenizer(iter(texts), 120).to_str().encode()).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert len({run.stdout for run in runs}) == 1
    vocabulary = train_tokenizer(TEXTS * 5, 400).get_vocab()
    assert all(train_tokenizer(TEXTS * 5, 400).get_vocab() == vocabulary for _ in range(5))
    assert {"effusion", "left", "small"} <= vocabulary.keys()
    assert len(vocabulary) <= 400


def test_a_vocabulary_too_small_for_its_letters_is_refused():
    with pytest.raises(ConfigError, match="vocab_size 20 is too small"):
        train_tokenizer(TEXTS, 20)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    for wrong in (path, tmp_path / "nowhere.json"):
        with pytest.raises(BundleError, match=r"\.json cannot be read as a tokenizer"):
            ReportTokenizer.from_file(wrong, 64)
    with pytest.raises(BundleError, match="max_tokens >= 3"):
        ReportTokenizer(train_tokenizer(TEXTS, 400), 2)


def test_the_mask_has_an_id_where_there_is_one(tokenizer):
    from tokenizers import Tokenizer, models

    assert tokenizer.mask_id == SPECIAL_TOKENS.index("[MASK]")
    without = ReportTokenizer(Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]")), 8)
    with pytest.raises(BundleError, match=r"no token \[MASK\]"):
        _ = without.mask_id


def test_padding_of_others_fills_up_with_their_token_and_is_cut_before_theirs(tokenizer):
    from mcr_infer.inference.tokenizer import Padding

    other = ReportTokenizer(train_tokenizer(TEXTS * 5, 400), 5, padding=Padding(token_id=77, seen="all"))
    ids, mask = other.encode(["effusion", "small left pleural effusion no pneumothorax"])
    assert ids[0, mask[0] == 0].tolist() == [77, 77]
    assert mask.sum(axis=1).tolist() == [3, 5]
    assert ids[1, -1] == 3
    with pytest.raises(ConfigError, match="seen as one of none, later, all; got 1 and 'most'"):
        Padding(token_id=1, seen="most")
