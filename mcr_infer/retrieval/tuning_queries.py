"""What an index is asked while its breadth of search is measured: its own vectors of the other kind, or sentences."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index import Index
from mcr_infer.index.tuning import MOST_QUERIES, queries_of_other_kind
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import TextEncoder

_OWN_SENTENCES = 500
"""Sentences about findings that the package brings, enough for a recall to a third of a point."""


def tuning_queries(
    index: Index, kind: str, *, sentences: Path | None, bundle: Callable[[], Bundle], device: str
) -> tuple[NDArray[np.float32], str]:
    """Return unit vectors [Q, D] to ask a kind with, and where they come from.

    They are those of the file of sentences (one a line) where one is named, else vectors of the other kind in the same
    index, else sentences that the package brings. `bundle` opens the bundle of the index, and is called for sentences only.
    Raises `QueryError` for a file that holds none.
    """
    if sentences is None:
        vectors = queries_of_other_kind(index, kind)
        if vectors is not None:
            return vectors, f"{len(vectors)} {'reports' if kind == 'image' else 'radiographs'} of this index"
        texts, told = _own_sentences(), "sentences about findings that mcr-infer brings"
    else:
        texts, told = _read_sentences(sentences), f"sentences of {sentences}"
    return TextEncoder(bundle(), device=device).encode(texts), f"{len(texts)} {told}"


def _read_sentences(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise QueryError(f"--queries {path} cannot be read as text: {why}") from exc
    texts = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not texts:
        raise QueryError(f"--queries {path} holds no sentence: write one a line, such as 'bilateral pleural effusion'")
    return texts[:MOST_QUERIES]


def _own_sentences() -> list[str]:
    """Return short sentences about findings, each once, as one would search for them."""
    from mcr_infer.phantom import stream
    from mcr_infer.phantom.findings import draw_findings
    from mcr_infer.phantom.language import describe

    texts: dict[str, None] = {}
    seed = 0
    while len(texts) < _OWN_SENTENCES:
        texts[describe(draw_findings(stream(seed, "findings")), stream(seed, "query"))] = None
        seed += 1
    return list(texts)
