"""Questions become unit vectors: sentences and radiographs through the towers of a bundle, rows through the index.

    parts of a question -> unit vectors [P, D] and their weights [P] -> the sum, scaled to length 1 again [D]

A sentence alone is its vector. Beside others it counts as the difference from the vector of the empty text, which is what
all sentences have in common: without that, "A" and "B" together find neither (P@10 7 % of phantoms with both, 70 % with it,
see `python -m benchmarks.combined`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.errors import QueryError, UsageError
from mcr_infer.index.protocols import IndexReader
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.long_text import DEFAULT, FittedText, LongText
from mcr_infer.inference.tower import Purpose
from mcr_infer.inference.vocabulary import Vocabulary, quoted
from mcr_infer.retrieval.late_interaction import Words
from mcr_infer.retrieval.queries import Question

_SMALLEST_SUM = 1e-3
_MOST_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QueryVectors:
    """Questions as vectors, and what their texts lost on the way."""

    vectors: Embeddings
    """Of length 1 [Q, D]."""

    words: Sequence[Words]
    """Of each question [Q], where they were asked for; else empty."""

    unknown_words: Sequence[tuple[str, ...]]
    """Of each question [Q]: words that the text tower does not know, each once, as they were written."""

    fitted: Sequence[FittedText]
    """Each sentence of all questions as the text tower takes it."""


class QueryVectorizer:
    """Turns questions into vectors; a tower is opened when something first goes through it, and stays open."""

    def __init__(
        self,
        index: IndexReader | None,
        bundle: Bundle | None,
        *,
        device: str = "auto",
        precision: str = FULL,
        long_text: LongText = DEFAULT,
        once: bool = False,
    ) -> None:
        """Rows of questions are looked up in `index`, everything else goes through the towers of `bundle`.

        Without one of them questions cannot have these parts. `once` opens towers so that a single call is fastest. Raises
        `UsageError` where neither is given.
        """
        if index is None and bundle is None:
            raise UsageError("a question needs an index or a bundle that makes it a vector")
        space = index if index is not None else bundle
        assert space is not None
        self._dim, self._fingerprint = space.embedding_dim, space.fingerprint
        self._index, self._bundle, self._long_text = index, bundle, long_text
        self._device, self._precision = device, precision
        self._purpose: Purpose = "one_shot" if once else "bulk"
        self._texts: TextEncoder | None = None
        self._images: ImageEncoder | None = None

    @property
    def texts(self) -> TextEncoder:
        """The text tower. Raises `UsageError` without a bundle."""
        if self._texts is None:
            self._texts = TextEncoder(
                self._opened,
                device=self._device,
                precision=self._precision,
                purpose=self._purpose,
                long_text=self._long_text,
            )
        return self._texts

    @property
    def images(self) -> ImageEncoder:
        """The image tower. Raises `UsageError` without a bundle."""
        if self._images is None:
            self._images = ImageEncoder(
                self._opened, device=self._device, precision=self._precision, purpose=self._purpose
            )
        return self._images

    @property
    def _opened(self) -> Bundle:
        if self._bundle is None:
            raise UsageError("a sentence or a radiograph needs a bundle: its towers make the vectors")
        return self._bundle

    def vectorize(self, questions: Sequence[Question], *, with_words: bool = False) -> QueryVectors:
        """Return a vector of length 1 for each question [Q, D]; rows of the index are images.

        `with_words` keeps the mapped words of sentences for re-ranking. Raises `QueryError` for a sentence without a known
        word, for an id that the index does not have, for parts that cancel each other out, and `with_words` for a question
        with other parts than sentences; `ImageError` for a radiograph that cannot be read; `UsageError` for a part whose
        index or bundle is not given.
        """
        if with_words and any(question.images or question.likes for question in questions):
            raise QueryError(
                "--rerank compares the words of sentences with patches: ask with sentences alone, or leave out --rerank"
            )
        sentences = [part.what for question in questions for part in question.sentences]
        unknown = self._unknown_words(questions) if sentences else [() for _ in questions]
        fitted = self.texts.fit(sentences) if sentences else []
        sums = np.zeros((len(questions), self._dim), dtype=np.float64)
        words = self._add_sentences(questions, sums, with_words=with_words) if sentences else [[] for _ in questions]
        for row, question in enumerate(questions):
            for part in question.images:
                sums[row] += part.weight * self._image_vector(Path(part.what)).astype(np.float64)
            for part in question.likes:
                sums[row] += part.weight * self._row_vector(part.what).astype(np.float64)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        if (lengths < _SMALLEST_SUM).any():
            raise QueryError(
                "the parts of the query cancel each other out: what is wanted and what is not are the same"
            )
        return QueryVectors(
            vectors=Embeddings(np.asarray(sums / lengths, dtype=np.float32), self._fingerprint),
            words=[
                [(one, weight / float(length)) for one, weight in asked]
                for asked, (length,) in zip(words, lengths, strict=True)
            ],
            unknown_words=unknown,
            fitted=fitted,
        )

    def _add_sentences(
        self, questions: Sequence[Question], sums: NDArray[np.float64], *, with_words: bool
    ) -> list[Words]:
        """Add the sentences of each question to its sum [Q, D]; return their words, each with the weight of its sentence."""
        words: list[Words] = [[] for _ in questions]
        texts = [[part.what for part in question.sentences] for question in questions]
        if with_words:
            # A question at a time: the words of thousands would not fit into memory.
            for row, question in enumerate(questions):
                empty = [""] if question.is_combined else []
                vectors, tokens = self.texts.encode_with_locals([*texts[row], *empty])
                words[row] = [(one, part.weight) for one, part in zip(tokens, question.sentences, strict=False)]
                sums[row] += _weighted(question, vectors, empty=vectors[-1])
            return words
        # Without a combined question the last vector is not that of the empty text, and is not needed.
        empty = [""] if any(question.is_combined and question.sentences for question in questions) else []
        vectors = self.texts.encode([*(text for each in texts for text in each), *empty])
        start = 0
        for row, question in enumerate(questions):
            end = start + len(question.sentences)
            sums[row] += _weighted(question, vectors[start:end], empty=vectors[-1])
            start = end
        return words

    def _image_vector(self, path: Path) -> NDArray[np.float32]:
        from mcr_infer.images import read_image

        radiograph = read_image(path, rendering=self.images.preprocess.rendering)
        return self.images.encode_radiographs([radiograph]).reshape(-1)

    def _row_vector(self, id: str) -> NDArray[np.float32]:
        if self._index is None:
            raise UsageError(f"the row {id!r} of a question needs an index")
        return self._index.vector("image", id)

    def _unknown_words(self, questions: Sequence[Question]) -> list[tuple[str, ...]]:
        vocabulary = self.texts.vocabulary
        readings = iter(vocabulary.read([part.what for question in questions for part in question.sentences]))
        found, unread = [], []
        for question in questions:
            words: list[str] = []
            for part in question.sentences:
                reading = next(readings)
                words += reading.unknown
                if not reading.known:
                    unread.append((question, part.what, reading.unknown))
            found.append(tuple(dict.fromkeys(words)))
        if unread:
            raise _unreadable(*unread[0], more=len(unread) - 1, vocabulary=vocabulary)
        return found


def _weighted(question: Question, vectors: NDArray[np.float32], *, empty: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the weighted sum [D] of the sentences [S, D] of a question, `empty` [D] being the vector of the empty text."""
    total = np.zeros(vectors.shape[1], dtype=np.float64)
    for part, vector in zip(question.sentences, vectors.astype(np.float64), strict=False):
        total += part.weight * (vector - empty if question.is_combined else vector)
    return total


def _unreadable(
    question: Question, sentence: str, words: Sequence[str], *, more: int, vocabulary: Vocabulary
) -> QueryError:
    where = "" if question.name is None else f"query {question.name}: "
    others = f" ({more} more sentence{'' if more == 1 else 's'} without one)" if more else ""
    near = sorted({near for word in words[:_MOST_SUGGESTIONS] if (near := vocabulary.nearest(word))})
    like = f"; known words that look alike: {quoted(near)}" if near else ""
    why = f": {quoted(words)} {vocabulary.rule}" if words else ""
    return QueryError(
        f"{where}the sentence {quoted([sentence])} has no word that the text tower knows{why}. Ask in report language, such "
        f"as 'bilateral pleural effusion'{like}{others}"
    )
