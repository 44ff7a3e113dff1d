"""The tokenizer of reports: texts become token ids [N, T] for the text tower."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Their ids are their places in this tuple."""


SEEN = ("none", "later", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How the text tower of a model from elsewhere was trained to see texts of different lengths."""

    token_id: int
    """What fills a text up."""

    seen: str
    """Who sees the filling: `none`, the attention mask hides it; `later`, only the filling itself, in a tower in which no
    word sees the next; `all`, every word: each text is filled up to `max_tokens`, as it was in training, by the tower."""

    def __post_init__(self) -> None:
        if self.token_id < 0 or self.seen not in SEEN:
            raise ConfigError(
                f"padding needs a token_id from 0 on and seen as one of {', '.join(SEEN)}; got {self.token_id} and "
                f"{self.seen!r}"
            )

    def to_dict(self) -> dict[str, object]:
        """Return the rule as it stands in a manifest."""
        return asdict(self)


class ReportTokenizer:
    """Texts become token ids with the special tokens that the tower wants, at most `max_tokens`.

    The tokenizer of our own towers is a lower-case WordPiece, [CLS] first and [SEP] last; others bring theirs.
    """

    def __init__(self, tokenizer: "Tokenizer", max_tokens: int, *, padding: Padding | None = None) -> None:
        """Take over a tokenizer: its own truncation and padding are switched off, this class does both.

        `padding` None fills up with [PAD].
        """
        pad = tokenizer.token_to_id(SPECIAL_TOKENS[0]) if padding is None else padding.token_id
        if pad is None or max_tokens < 3:
            raise BundleError(f"a tokenizer needs the token [PAD] and max_tokens >= 3, got {pad} and {max_tokens}")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A report that spells a special token means its letters.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        # A unigram model does not name its unknown token: it is <unk> by convention.
        names = {getattr(tokenizer.model, "unk_token", None) or "<unk>", SPECIAL_TOKENS[1], "<unk>"}
        self.unknown_ids = frozenset(id for name in names if (id := tokenizer.token_to_id(name)) is not None)
        """What stands for letters that the vocabulary does not have; empty for a tokenizer of bytes."""

        self.pad_id: int = pad
        self.max_tokens = max_tokens
        special = tokenizer.encode("a").special_tokens_mask
        head = special.index(0) if 0 in special else len(special)
        self._special_ends = head, special[head:].count(1)

    @property
    def mask_id(self) -> int:
        """The id of [MASK]; raises `BundleError` where the vocabulary has none."""
        found = self._tokenizer.token_to_id(SPECIAL_TOKENS[4])
        if found is None:
            raise BundleError(f"the tokenizer has no token {SPECIAL_TOKENS[4]}")
        return found

    @classmethod
    def from_file(cls, path: Path, max_tokens: int, *, padding: Padding | None = None) -> "ReportTokenizer":
        """Load tokenizer.json; raises `BundleError` when it cannot be read as one."""
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(os.fsencode(path).decode())
        except Exception as exc:  # the library raises nothing narrower
            raise BundleError(f"{path} cannot be read as a tokenizer.json: {exc}") from exc
        return cls(tokenizer, max_tokens, padding=padding)

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Turn texts into input_ids [N, T] and attention_mask [N, T], padded to the longest of them.

        What goes beyond `max_tokens` is cut off before the last token, [SEP] or its like; `lengths` tells beforehand which
        texts that are.
        """
        return self.batch([self.truncated(ids) for ids in self.token_ids(texts)])

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text with its special tokens, however many they are."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def truncated(self, ids: Sequence[int]) -> Sequence[int]:
        """Cut what goes beyond `max_tokens` off before the last token, [SEP] or its like."""
        return ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], ids[-1]]

    def batch(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pad rows of token ids to input_ids [N, T] and attention_mask [N, T]."""
        return _padded(rows, self.pad_id), _padded([[1] * len(ids) for ids in rows], 0)

    @property
    def special_ends(self) -> tuple[int, int]:
        """How many special tokens stand before and after the words of a text: (1, 1) with [CLS] and [SEP]."""
        return self._special_ends

    def tokens_and_words(self, text: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a text, however many, and the number of the word that each is part of.

        Special tokens are part of no word: -1.
        """
        encoding = self._tokenizer.encode(text)
        return encoding.ids, [-1 if word is None else word for word in encoding.word_ids]

    def encodings(self, texts: Sequence[str]) -> "list[Encoding]":
        """Split texts into tokens with their words and places in the text; without special tokens, and not cut."""
        return self._tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def normalized(self, word: str) -> str:
        """Return a word as the tokenizer sees it: in lower case, without accents, or as it is."""
        normalizer = self._tokenizer.normalizer
        return word if normalizer is None else normalizer.normalize_str(word).strip()

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of each text [N] with [CLS] and [SEP], not cut: those above `max_tokens` lose their end."""
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)


def _padded(rows: Sequence[Sequence[int]], fill: int) -> NDArray[np.int64]:
    padded = np.full((len(rows), max(map(len, rows), default=0)), fill, dtype=np.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Train a lower-case WordPiece on texts; the same texts give the same vocabulary, in any process.

    Raises `ConfigError` where `vocab_size` cannot hold the special tokens and each letter, alone and inside a word.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in texts]
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    alphabet = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters)]
    if vocab_size < len(alphabet):
        raise ConfigError(f"vocab_size {vocab_size} is too small: special tokens and letters alone are {len(alphabet)}")
    trained = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    trained.pre_tokenizer = pre_tokenizer
    # The library numbers letters as its hash maps happen to meet them, and breaks ties between merges by number. Given
    # beforehand, as special tokens, the numbers are fixed; the vocabulary then moves to a tokenizer where they are plain.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=alphabet, min_frequency=2, show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(), unk_token=SPECIAL_TOKENS[1]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.post_processor = processors.BertProcessing((SPECIAL_TOKENS[3], 3), (SPECIAL_TOKENS[2], 2))
    return tokenizer
