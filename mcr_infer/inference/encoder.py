"""Patches or tokens become unit vectors [N, D]: the two towers as the rest of the package uses them.

    radiographs -> Preprocess -> patches, positions -> image tower -> embedding [N, D]
    sentences -> ReportTokenizer -> tokens -> text tower -> embedding [N, D]

Where they are asked for, mapped patches and words come with them, from the same run.

A vector that is not finite or not of length 1 never leaves this module: a damaged graph, a bad driver or an overflow in
a lower precision would otherwise sit in an index unseen.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.embeddings import Embeddings
from mcr_infer.errors import BackendError, EmbeddingIndexError, UsageError
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.inference.bundle import FULL, TOWER_OUTPUTS, Bundle
from mcr_infer.inference.long_text import DEFAULT, FittedText, LongText, fit, mean_of_pieces
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.inference.tower import Purpose, Side, Tower
from mcr_infer.inference.vocabulary import Vocabulary
from mcr_infer.reports import SelectedText

Patches = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Patches [K, P*P] and their positions [K] of one radiograph."""

_TEXT_BATCH = 32
_TEXT_WINDOW = 4096
"""Texts that are tokenised and sorted by length together: bounds memory, loses next to nothing of the sorting."""

_NORM_TOLERANCE = 1e-3


class _Encoder:
    """What both encoders share: a tower and the check of what it gives."""

    def __init__(
        self, bundle: Bundle, side: Side, *, device: str, precision: str, threads: int | None, purpose: Purpose
    ) -> None:
        self._bundle, self._precision = bundle, str(precision)
        self._tower: Tower = open_tower(
            bundle, side, device=device, precision=precision, threads=threads, purpose=purpose
        )

    @property
    def device(self) -> str:
        """Where the tower really runs: `cpu` or `cuda`."""
        return self._tower.device

    @property
    def precision(self) -> str:
        """The number format of the tower, as it is recorded with each row of an index."""
        return self._precision

    @property
    def fingerprint(self) -> str:
        """The embedding space of the vectors."""
        return self._bundle.fingerprint

    @property
    def embedding_dim(self) -> int:
        """D, the length of a vector."""
        return self._bundle.embedding_dim

    def _marked(self, vectors: NDArray[np.float32]) -> Embeddings:
        """Return vectors [N, D] that know their space."""
        return Embeddings(vectors, self.fingerprint)

    def _none(self) -> Embeddings:
        """Return what is made of nothing [0, D]."""
        return self._marked(np.empty((0, self.embedding_dim), dtype=np.float32))

    def _embed(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run one batch and check its embeddings [N, D]."""
        return self._checked(self._tower.run(inputs, ("embedding",))["embedding"], inputs)

    def _embed_with_locals(
        self, inputs: Mapping[str, NDArray[Any]], lengths: Sequence[int], positions: Sequence[NDArray[np.int64] | None]
    ) -> tuple[NDArray[np.float32], list[TokenEmbeddings]]:
        """Run one batch once: its embeddings [N, D], and the mapped parts of each row, the first `lengths[row]` of them.

        `positions` are those of the patches of each row [K], None for words and for pixels.
        """
        outputs = self._tower.run(inputs, TOWER_OUTPUTS)
        vectors = self._checked(outputs["embedding"], inputs)
        parts = zip(outputs["local"], outputs["weights"], lengths, positions, strict=True)
        try:
            # Copies: a row of a batch would keep the whole batch in memory.
            locals = [
                TokenEmbeddings(
                    vectors=one[:n].copy(), weights=weights[:n].copy(), positions=None if at is None else at.copy()
                )
                for one, weights, n, at in parts
            ]
        except EmbeddingIndexError as exc:
            raise BackendError(f"the tower on {self.device} gave no mapped parts that can be used: {exc}") from exc
        return vectors, locals

    def _checked(self, vectors: NDArray[np.float32], inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return embeddings [N, D] of a batch once they are as many unit vectors as there were inputs."""
        rows = len(next(iter(inputs.values())))
        if vectors.shape != (rows, self.embedding_dim):
            raise BackendError(
                f"the tower gave embeddings of shape {list(vectors.shape)}, expected {[rows, self.embedding_dim]}"
            )
        norms = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= _NORM_TOLERANCE))  # true for NaN, too
        if bad.size:
            raise BackendError(
                f"{bad.size} of {rows} embeddings on {self.device} are not unit vectors (the first has norm "
                f"{norms[bad[0]]:.4g}): run mcr-infer verify on the bundle {self._bundle.path} "
                f"with --precision {self._precision}"
            )
        return vectors


class ImageEncoder(_Encoder):
    """The image tower of a bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str = FULL,
        threads: int | None = None,
        purpose: Purpose = "bulk",
    ) -> None:
        """Open the tower; raises `BackendError` or `BundleError` as `open_tower` does."""
        super().__init__(bundle, "image", device=device, precision=precision, threads=threads, purpose=purpose)
        self.preprocess = bundle.preprocess

    def encode(self, batch: Sequence[Patches]) -> Embeddings:
        """Embed one batch of patches and positions, all with the same number of patches K, to unit vectors [N, D]."""
        if not batch:
            return self._none()
        return self._marked(self._embed(self._inputs(batch)))

    def encode_with_locals(self, batch: Sequence[Patches]) -> tuple[Embeddings, list[TokenEmbeddings]]:
        """Embed one batch as `encode` does, in one run, and return its mapped patches with it: [N, D], N times [K, D]."""
        if not batch:
            return self._none(), []
        inputs = self._inputs(batch)
        kept: Sequence[NDArray[np.int64] | None] = [at for _, at in batch]
        counts = [len(at) for _, at in batch]
        if self.preprocess.input == "pixels":
            kept, counts = [None] * len(batch), [1] * len(batch)
        vectors, locals = self._embed_with_locals(inputs, counts, kept)
        return self._marked(vectors), locals

    def _inputs(self, batch: Sequence[Patches]) -> dict[str, NDArray[Any]]:
        """Stack a batch to what the tower takes."""
        counts = {array.shape[:1] for pair in batch for array in pair}
        if len(counts) != 1:
            raise BackendError(f"one batch takes radiographs of one patch count, got {sorted(c[0] for c in counts)}")
        patches = np.stack([patches for patches, _ in batch])
        positions = np.stack([positions for _, positions in batch])
        if self.preprocess.input == "pixels" and patches.shape[1] != 1:
            raise BackendError(
                f"the image tower of the bundle {self._bundle.name} takes whole pictures, not {patches.shape[1]} patches: "
                "it has no patch budget"
            )
        if positions.size and not 0 <= positions.min() <= positions.max() < self.preprocess.patch_count:
            raise BackendError(
                f"positions must lie in [0, {self.preprocess.patch_count}), got {positions.min()} to {positions.max()}"
            )
        return self.preprocess.tower_inputs(patches, positions)

    def encode_radiographs(self, radiographs: Sequence[Radiograph]) -> Embeddings:
        """Embed one batch of radiographs, with all their patches, to unit vectors [N, D].

        Raises `BackendError` for one that was rendered by another preset than the tower's, `UsageError` for anything but a
        sequence of radiographs.
        """
        wanted = self.preprocess.rendering
        if isinstance(radiographs, Radiograph | str):
            raise UsageError(f"encode_radiographs takes a list of radiographs, got one {type(radiographs).__name__}")
        for one in radiographs:
            if not isinstance(one, Radiograph):
                raise UsageError(
                    f"encode_radiographs takes radiographs, got a {type(one).__name__}: read files with "
                    f"read_image(path, rendering={wanted!r})"
                )
            if one.rendering != wanted:
                raise BackendError(
                    f"the bundle {self._bundle.name} takes radiographs rendered by {wanted}, got {one.rendering}: "
                    f"read_image(..., rendering={wanted!r})"
                )
        return self.encode([self.preprocess.patches(one.pixels, aspect=one.aspect) for one in radiographs])


class TextEncoder(_Encoder):
    """The text tower of a bundle with its tokenizer."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: str = FULL,
        threads: int | None = None,
        purpose: Purpose = "bulk",
        long_text: LongText = DEFAULT,
    ) -> None:
        """Open tower and tokenizer; raises `BackendError` or `BundleError` as `open_tower` does.

        `long_text` is what is done with texts of more than `max_tokens` tokens.
        """
        super().__init__(bundle, "text", device=device, precision=precision, threads=threads, purpose=purpose)
        self._tokenizer = bundle.tokenizer()
        self.long_text = long_text
        self._vocabulary: Vocabulary | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that the tower knows, opened when they are first asked for; raises `BundleError`."""
        if self._vocabulary is None:
            self._vocabulary = self._bundle.vocabulary(self._tokenizer)
        return self._vocabulary

    @property
    def max_tokens(self) -> int:
        """The most tokens that the tower takes at once, special ones included."""
        return self._tokenizer.max_tokens

    def fit(self, texts: Sequence[str | SelectedText]) -> list[FittedText]:
        """Tokenize texts as `encode` does: each says what was done where it is too long."""
        return fit(texts, self._tokenizer, self.long_text)

    def encode(self, texts: Sequence[str | SelectedText]) -> Embeddings:
        """Embed texts to unit vectors [N, D] in their order; they run sorted by length, in small batches.

        Raises `UsageError` for a single text, whose letters would be taken for texts.
        """
        if isinstance(texts, str):
            raise UsageError(f"encode takes a list of texts: encode([{texts[:40]!r}])")
        windows = [
            self.encode_fitted(self.fit(texts[start : start + _TEXT_WINDOW]))
            for start in range(0, len(texts), _TEXT_WINDOW)
        ]
        return self._marked(np.concatenate(windows)) if windows else self._none()

    def encode_fitted(self, texts: Sequence[FittedText]) -> Embeddings:
        """Embed what `fit` gave to unit vectors [N, D]: of several pieces the mean, scaled to length 1."""
        pieces = [piece for text in texts for piece in text.pieces]
        vectors = np.empty((len(pieces), self.embedding_dim), dtype=np.float32)
        order = sorted(range(len(pieces)), key=lambda place: len(pieces[place]))
        for start in range(0, len(order), _TEXT_BATCH):
            rows = order[start : start + _TEXT_BATCH]
            input_ids, attention_mask = self._tokenizer.batch([pieces[row] for row in rows])
            vectors[rows] = self._embed({"input_ids": input_ids, "attention_mask": attention_mask})
        return self._marked(mean_of_pieces(vectors, texts))

    def encode_with_locals(self, texts: Sequence[str]) -> tuple[Embeddings, list[TokenEmbeddings]]:
        """Embed a few texts in one batch and one run, with their mapped words: [N, D], N times [T, D] without padding.

        A text of several windows has the words of all of them.
        """
        if not texts:
            return self._none(), []
        fitted = self.fit(texts)
        pieces = [piece for text in fitted for piece in text.pieces]
        input_ids, attention_mask = self._tokenizer.batch(pieces)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        vectors, locals = self._embed_with_locals(inputs, [len(piece) for piece in pieces], [None] * len(pieces))
        joined, start = [], 0
        for text in fitted:
            joined.append(_joined(locals[start : start + len(text.pieces)]))
            start += len(text.pieces)
        return self._marked(mean_of_pieces(vectors, fitted)), joined


def _joined(pieces: Sequence[TokenEmbeddings]) -> TokenEmbeddings:
    """Return the mapped words of all pieces of a text; their weighted sum points where the mean of the pieces does."""
    if len(pieces) == 1:
        return pieces[0]
    weights = [one.weights / np.linalg.norm(one.weights @ one.vectors) for one in pieces]
    total = np.concatenate(weights)
    return TokenEmbeddings(
        vectors=np.concatenate([one.vectors for one in pieces]), weights=(total / total.sum()).astype(np.float32)
    )
