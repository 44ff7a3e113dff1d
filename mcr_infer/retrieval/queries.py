"""A question becomes a vector: sentences, radiographs and rows of the index, each with a weight, in one sum.

    "left pleural effusion", not "pneumothorax", like this radiograph
    -> unit vectors [P, D] and their weights [P] -> the sum, of length 1 again [D]

A sentence alone is its vector. Beside others it counts as the difference from the vector of the empty text, which is what
all sentences have in common: without that, "A" and "B" together find neither (P@10 7 % of phantoms with both, 70 % with it,
see `python -m benchmarks.combined`).
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.errors import QueryError
from mcr_infer.index import Index
from mcr_infer.index.rows import is_unicode
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.long_text import DEFAULT, LongText
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.inference.tower import Purpose
from mcr_infer.inference.vocabulary import Vocabulary, quoted

NOT_WEIGHT = 0.5
NOT_WEIGHT_BESIDE_IMAGE = 1.0
"""How much a sentence that is not wanted takes away, where it does not say so itself; a picture needs more of a push."""

_WEIGHTED = re.compile(r"(?P<what>[^^]*[^^\s])\s*\^\s*(?P<weight>\d+(?:\.\d*)?|\.\d+)\s*", re.DOTALL)
_SMALLEST_SUM = 1e-3
_MAX_LINE = 1 << 20
_MOST_SUGGESTIONS = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A sentence, the path of a radiograph or the id of a row, and how much it counts: below 0 where it is not wanted."""

    what: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one search asks for."""

    sentences: tuple[Part, ...] = ()
    images: tuple[Part, ...] = ()
    likes: tuple[Part, ...] = ()
    name: str | int | None = None
    """By which a batch of questions tells them apart: the `id` of a JSON line as it stands there, else the line number."""

    def __post_init__(self) -> None:
        if not any(part.weight > 0 for part in (*self.sentences, *self.images, *self.likes)):
            raise QueryError("a query needs a sentence, a radiograph or an id that is wanted, with a weight above 0")
        for part in self.sentences:
            if not is_unicode(part.what):
                raise QueryError(
                    "the query is not valid Unicode: give it in UTF-8, or in the encoding of the locale that is set"
                )
            if not part.what.strip():
                raise QueryError("the query is empty: ask in report language, such as 'bilateral pleural effusion'")

    @property
    def is_combined(self) -> bool:
        """True where it has more than one part."""
        return len(self.sentences) + len(self.images) + len(self.likes) > 1

    @classmethod
    def of(
        cls,
        *,
        sentences: Iterable[str] = (),
        unwanted: Iterable[str] = (),
        images: Iterable[str] = (),
        likes: Iterable[str] = (),
        name: str | int | None = None,
    ) -> "Question":
        """Read the parts, each with `^WEIGHT` at its end or without. Raises `QueryError` where nothing is wanted."""
        images, likes = tuple(images), tuple(likes)
        wanted = [_part(text, 1.0) for text in sentences]
        denied = [_part(text, NOT_WEIGHT_BESIDE_IMAGE if images or likes else NOT_WEIGHT) for text in unwanted]
        return cls(
            sentences=(*wanted, *(Part(part.what, -part.weight) for part in denied)),
            images=tuple(Part(path) if Path(path).exists() else _part(path, 1.0) for path in images),
            likes=tuple(_part(id, 1.0) for id in likes),
            name=name,
        )


def argument_text(argument: str) -> str:
    """Return an argument of the command line as the UTF-8 that it is, whatever the locale says; else as it is."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def _part(text: str, weight: float) -> Part:
    if "^" not in text:
        return Part(text, weight)
    match = _WEIGHTED.fullmatch(text)
    if match is None or not math.isfinite(float(match["weight"])):
        raise QueryError(
            f"{text!r}: a weight stands at the end as ^ and a number of at least 0 with a decimal point, as in "
            "'left effusion^0.5'; what is not wanted goes to --not"
        )
    return Part(match["what"], float(match["weight"]))


def read_questions(lines: Iterable[str], *, source: str) -> list[Question]:
    """Read questions, one a line: a sentence, or a JSON object with `query`, `not`, `image`, `like` and `id`.

    Each of the first four is a text or a list of texts. Empty lines are left out. Raises `QueryError` naming `source` and
    the line.
    """
    questions = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            if len(text) > _MAX_LINE:
                raise QueryError(f"the line has {len(text)} characters, at most {_MAX_LINE} are read")
            questions.append(
                _question(json.loads(text), str(number))
                if text.startswith("{")
                else Question.of(sentences=[text], name=str(number))
            )
        except (ValueError, QueryError) as error:
            what = str(error) if isinstance(error, QueryError) else "it begins with { and is no JSON object"
            raise QueryError(f"{source}, line {number}: {what}") from error
    if not questions:
        raise QueryError(f"{source} holds no query: one sentence or JSON object a line")
    return questions


def _question(values: Mapping[str, Any], number: str) -> Question:
    known = {"query": "sentences", "not": "unwanted", "image": "images", "like": "likes"}
    unknown = set(values) - set(known) - {"id"}
    if unknown:
        raise QueryError(f"unknown {', '.join(sorted(unknown))}; a query has {', '.join((*known, 'id'))}")
    parts = {known[name]: _texts(name, value) for name, value in values.items() if name in known}
    name = values.get("id", number)
    if type(name) not in (str, int):
        raise QueryError(f"id is a text or a whole number, got {json.dumps(name)}")
    return Question.of(**parts, name=name)


def _texts(name: str, value: object) -> list[str]:
    texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
    if len(texts) != (len(value) if isinstance(value, list) else 1):
        raise QueryError(f"{name} is a text or a list of texts")
    return texts


def open_texts(
    questions: Sequence[Question],
    bundle: Bundle,
    *,
    device: str,
    precision: str = FULL,
    long_text: LongText = DEFAULT,
) -> TextEncoder | None:
    """Open the text tower for questions, as fits one or many; None where none of them has a sentence."""
    if not any(question.sentences for question in questions):
        return None
    return TextEncoder(bundle, device=device, precision=precision, purpose=_purpose(questions), long_text=long_text)


def unknown_words(questions: Sequence[Question], texts: TextEncoder | None) -> list[tuple[str, ...]]:
    """Return the words of each question [Q] that the text tower does not know, each once, as they were written.

    Raises `QueryError` where a sentence, wanted or not, has no known word: its vector would say nothing.
    """
    if texts is None:
        return [() for _ in questions]
    readings = iter(texts.vocabulary.read([part.what for question in questions for part in question.sentences]))
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
        raise _unreadable(*unread[0], more=len(unread) - 1, vocabulary=texts.vocabulary)
    return found


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


def vectors_of(
    questions: Sequence[Question],
    bundle: Bundle,
    index: Index,
    *,
    device: str,
    precision: str = FULL,
    texts: TextEncoder | None = None,
) -> Embeddings:
    """Return a unit vector for each question [Q, D]; a tower is opened only where something goes through it.

    `texts` is the text tower, if it is open already. Rows of the index are images. Raises `QueryError` for an id that the
    index does not have and for parts that cancel each other out, `ImageError` for a radiograph that cannot be read.
    """
    purpose = _purpose(questions)
    sums = np.zeros((len(questions), bundle.embedding_dim), dtype=np.float64)
    sentences = [(row, part) for row, question in enumerate(questions) for part in question.sentences]
    if sentences:
        texts = texts or TextEncoder(bundle, device=device, precision=precision, purpose=purpose)
        empty = [""] if any(question.is_combined for question in questions) else []
        vectors = texts.encode([*(part.what for _, part in sentences), *empty]).astype(np.float64)
        for (row, part), vector in zip(sentences, vectors[: len(sentences)], strict=True):
            sums[row] += part.weight * (vector - vectors[-1] if questions[row].is_combined else vector)
    images = [(row, part) for row, question in enumerate(questions) for part in question.images]
    if images:
        encoder = ImageEncoder(bundle, device=device, precision=precision, purpose=purpose)
        for row, part in images:
            sums[row] += part.weight * _image_vector(encoder, Path(part.what)).astype(np.float64)
    return Embeddings(_unit(sums + _sums_of_rows(questions, index)), bundle.fingerprint)


def vectors_of_rows(questions: Sequence[Question], index: Index) -> Embeddings:
    """Return what `vectors_of` returns for questions of rows of the index alone, whose bundle need not be there [Q, D]."""
    return Embeddings(_unit(_sums_of_rows(questions, index)), index.fingerprint)


def _sums_of_rows(questions: Sequence[Question], index: Index) -> NDArray[np.float64]:
    sums = np.zeros((len(questions), index.embedding_dim), dtype=np.float64)
    for row, question in enumerate(questions):
        for part in question.likes:
            sums[row] += part.weight * index.vector("image", part.what).astype(np.float64)
    return sums


def vectors_with_words(
    questions: Sequence[Question],
    bundle: Bundle,
    *,
    device: str,
    precision: str = FULL,
    texts: TextEncoder | None = None,
) -> tuple[Embeddings, list[list[tuple[TokenEmbeddings, float]]]]:
    """Return what `vectors_of` returns for questions of sentences alone [Q, D], and their mapped words with their weights.

    The weights are those in the sum that was brought to length 1. Raises `QueryError` where there is a radiograph in a
    question: it has no words.
    """
    if any(question.images or question.likes for question in questions):
        raise QueryError(
            "--rerank compares the words of sentences with patches: ask with sentences alone, or leave out --rerank"
        )
    texts = texts or TextEncoder(bundle, device=device, precision=precision, purpose=_purpose(questions))
    sums, asked = np.zeros((len(questions), bundle.embedding_dim), dtype=np.float64), []
    for row, question in enumerate(questions):
        parts = question.sentences
        vectors, words = texts.encode_with_locals([*(part.what for part in parts), *([""] * question.is_combined)])
        weights = np.array([part.weight for part in parts])
        sums[row] = weights @ vectors[: len(parts)].astype(np.float64)
        if question.is_combined:
            sums[row] -= weights.sum() * vectors[-1].astype(np.float64)
        length = float(np.linalg.norm(sums[row]))
        asked.append([(one, weight / length) for one, weight in zip(words, weights.tolist(), strict=False)])
    return Embeddings(_unit(sums), bundle.fingerprint), asked


def _purpose(questions: Sequence[Question]) -> Purpose:
    return "one_shot" if len(questions) == 1 else "bulk"


def _image_vector(encoder: ImageEncoder, path: Path) -> NDArray[np.float32]:
    from mcr_infer.images import read_image

    return encoder.encode_radiographs([read_image(path, rendering=encoder.preprocess.rendering)]).reshape(-1)


def _unit(sums: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    if (lengths < _SMALLEST_SUM).any():
        raise QueryError("the parts of the query cancel each other out: what is wanted and what is not are the same")
    return np.asarray(sums / lengths, dtype=np.float32)
