"""What a search asks for: sentences, radiographs and rows of the index, each with a weight.

"left pleural effusion", not "pneumothorax", like this radiograph -> Question -> `QueryVectorizer`
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcr_infer.errors import QueryError
from mcr_infer.index.rows import is_unicode

NOT_WEIGHT = 0.5
NOT_WEIGHT_BESIDE_IMAGE = 1.0
"""How much a sentence that is not wanted takes away, where it does not say so itself; a picture needs more of a push."""

_WEIGHTED = re.compile(r"(?P<what>[^^]*[^^\s])\s*\^\s*(?P<weight>\d+(?:\.\d*)?|\.\d+)\s*", re.DOTALL)
_MAX_LINE = 1 << 20


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
