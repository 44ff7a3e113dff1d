"""An index and the bundle that made it, behind one object: what notebooks, services and pages use.

Archive.open("mcr-index") -> embed, search, explain
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.errors import BundleError, IndexMismatchError, QueryError
from mcr_infer.index import Hit, Index, search
from mcr_infer.index.filters import Filter
from mcr_infer.index.manifest import NO_BUNDLE
from mcr_infer.index.protocols import IndexReader
from mcr_infer.index.search import Distinct
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.long_text import strategy_like
from mcr_infer.retrieval.late_interaction import DEPTH, check_comparable, cosines
from mcr_infer.retrieval.queries import Part, Question
from mcr_infer.retrieval.vectorizer import QueryVectorizer, QueryVectors

if TYPE_CHECKING:
    from mcr_infer.retrieval.reranker import Reranker

SHIPPED = "shipped"
"""How an index names the bundle inside the wheel: by this word, since a wheel may move."""


def has_bundle(index: Index) -> bool:
    """True unless the vectors of an index are of a model that is not a bundle."""
    return index.bundle_path != NO_BUNDLE


def bundle_of(index: Index, named: Path | None = None) -> Bundle:
    """Open the bundle of an index: the one that is named, else the one that the index remembers.

    Raises `BundleError` where that one is missing, `IndexMismatchError` where the bundle is not the one that made the index.
    """
    if named is None and not has_bundle(index):
        raise BundleError(
            f"the index {index.folder} holds vectors of the model {index.bundle!r}, which is not a bundle: there is no text "
            "tower to embed a sentence with, and no image tower. Search it from Python with vectors of that model, or name "
            f"a bundle of the fingerprint {index.fingerprint[:12]} with --bundle"
        )
    remembered = None if index.bundle_path == SHIPPED else Path(index.bundle_path)
    if named is None and remembered is not None and not remembered.is_dir():
        raise BundleError(
            f"the index {index.folder} was made with the bundle in {remembered}, which is not there any more: "
            "name its new place with --bundle"
        )
    bundle = Bundle.open(named or remembered)
    if named is None and remembered is None and bundle.fingerprint != index.fingerprint:
        raise IndexMismatchError(
            f"the index {index.folder} was made with the bundle of another release of mcr-infer: embed into a new --index, "
            "or name that bundle with --bundle"
        )
    index.check_bundle(bundle.fingerprint)
    return bundle


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """How the words of a sentence match the patches of a radiograph."""

    cosines: NDArray[np.float32]
    """Of each word with each patch [T, K]."""

    word_weights: NDArray[np.float32]
    """How much each word counts in the vector of the sentence [T]; they sum to 1."""

    patch_weights: NDArray[np.float32]
    """How much each patch counts in the vector of the radiograph [K]; they sum to 1."""

    positions: NDArray[np.int64] | None
    """Places of the patches in the grid of the tower, row by row [K]; None where an earlier release kept the patches."""


class Archive:
    """An index that is open for reading, and its bundle; a context manager, for one thread as the index is.

    Towers that make query vectors are opened when they are first needed and stay open; re-ranking opens its own where
    patches must be read again.
    """

    def __init__(
        self,
        index: Index,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str = FULL,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        """Take over an open index and the bundle that made it; `notify` is told what takes long.

        Raises `IndexMismatchError` where the bundle did not make the index.
        """
        index.check_bundle(bundle.fingerprint)
        self.index, self.bundle = index, bundle
        self._device, self._precision, self._notify = device, precision, notify or (lambda _: None)
        self._vectorizers: dict[str, QueryVectorizer] = {}

    @classmethod
    def open(
        cls,
        index: str | Path,
        *,
        bundle: str | Path | None = None,
        device: str = "auto",
        precision: str = FULL,
        notify: Callable[[str], None] | None = None,
    ) -> "Archive":
        """Open an index with the bundle that it remembers, or a named one. Raises what `Index.open` and `bundle_of` do."""
        opened = Index.open(index, notify=notify)
        try:
            found = bundle_of(opened, None if bundle is None else Path(bundle))
            return cls(opened, found, device=device, precision=precision, notify=notify)
        except BaseException:
            opened.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.index.close()

    def embed(self, *questions: str | Question, kind: str = "image") -> Embeddings:
        """Return a vector of length 1 for each sentence or question [Q, D], made as rows of a kind were."""
        return self._vectorizer(kind).vectorize([_question(one) for one in questions]).vectors

    def search(
        self,
        *questions: str | Question,
        kind: str = "image",
        k: int = 10,
        where: Filter | str | None = None,
        distinct: Collection[Distinct] = (),
        rerank: bool = False,
    ) -> list[list[Hit]]:
        """Return the k nearest rows of a kind for each sentence or question, best first.

        `where` and `distinct` are those of `mcr_infer.index.search`. `rerank` compares the words of sentences with the
        patches of the first `DEPTH` hits. Raises `QueryError` as `QueryVectorizer.vectorize` does and for the re-ranking
        of reports, `BundleError` where the bundle cannot re-rank.
        """
        asked = [_question(one) for one in questions]
        if rerank:
            if kind != "image":
                raise QueryError("re-ranking compares patches, which reports do not have: search images without it")
            check_comparable(self.bundle)
        with self.index.snapshot():
            found = self._vectorizer(kind).vectorize(asked, with_words=rerank)
            return find_hits(
                self.index,
                asked,
                found,
                kind=kind,
                k=k,
                where=where,
                distinct=distinct,
                reranker=self._reranker() if rerank else None,
            )

    def explain(self, sentence: str, id: str) -> Explanation:
        """Compare the words of a sentence with the patches of the radiograph of a row.

        Raises `QueryError` where there is no such row, or its patches are neither kept nor in a file that can be read,
        `BundleError` where words and patches of the bundle cannot be compared.
        """
        check_comparable(self.bundle)
        with self.index.snapshot():
            found = self._vectorizer("image").vectorize([Question(sentences=(Part(sentence),))], with_words=True)
            ((words, _),) = found.words[0]
            label = self.index.label("image", id)
            patches = self._reranker().patches_of([label]).get(label)
        if patches is None:
            raise QueryError(
                f"the patches of image {id!r} are not kept in index {self.index.folder}, and its file cannot be read: embed "
                "with --keep-locals, or restore the file"
            )
        return Explanation(
            cosines=cosines(words, patches),
            word_weights=words.weights / words.weights.sum(),
            patch_weights=patches.weights / patches.weights.sum(),
            positions=None if patches.positions is None else patches.positions.astype(np.int64),
        )

    def _reranker(self) -> "Reranker":
        from mcr_infer.retrieval.reranker import Reranker  # brings what decodes files

        return Reranker(self.index, self.bundle, device=self._device, precision=self._precision, notify=self._notify)

    def _vectorizer(self, kind: str) -> QueryVectorizer:
        if kind not in self._vectorizers:
            self._vectorizers[kind] = QueryVectorizer(
                self.index,
                self.bundle,
                device=self._device,
                precision=self._precision,
                long_text=strategy_like(self.index.text_strategies(kind)),
            )
        return self._vectorizers[kind]


def find_hits(
    index: IndexReader,
    questions: Sequence[Question],
    asked: QueryVectors,
    *,
    kind: str,
    k: int,
    where: Filter | str | None = None,
    distinct: Collection[Distinct] = (),
    ef_search: int | None = None,
    reranker: "Reranker | None" = None,
    depth: int = DEPTH,
) -> list[list[Hit]]:
    """Return the k nearest rows of a kind for each question and its vector, best first; inside `IndexReader.snapshot`.

    A `reranker` ranks the first `depth` of them again.
    """
    # A case is not similar to itself: it would only take the first place.
    likes = {part.what for question in questions for part in question.likes} if kind == "image" else ()
    hits = search(
        index,
        asked.vectors,
        kind=kind,
        k=k if reranker is None else max(k, depth),
        where=where,
        distinct=distinct,
        exclude=likes,
        ef_search=ef_search,
    )
    return hits if reranker is None else reranker.rank_all(asked.words, hits, k)


def _question(given: str | Question) -> Question:
    return given if isinstance(given, Question) else Question(sentences=(Part(given),))
