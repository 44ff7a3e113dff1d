"""The first hits of a query are looked at again: its words against their patches (`mcr_infer.retrieval.late_interaction`).

    hits of the pooled vectors -> their patches, from the store or else from their files -> cosine + late interaction -> hits

What cannot be looked at again is counted and told, never passed over.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ImageError, IndexCorruptError
from mcr_infer.index import Hit, Row
from mcr_infer.index.protocols import IndexReader
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.encoder import ImageEncoder
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.pipeline.decoding import DecodePool
from mcr_infer.pipeline.missing_files import find_file
from mcr_infer.pipeline.plan import usable_cores
from mcr_infer.retrieval.late_interaction import LATE_WEIGHT, Words, late_interaction
from mcr_infer.sources import PlainFile

_BATCH = 16

_HELD_BYTES = 256 << 20
"""Packed patches of files that were read again which are held for the next question."""


class Reranker:
    """Patches of the candidates of one run of queries; to be used inside one `Index.snapshot`."""

    def __init__(
        self, index: IndexReader, bundle: Bundle, *, device: str, precision: str = FULL, notify: Callable[[str], None]
    ) -> None:
        """The tower is opened only where the index does not keep the patches of a candidate; `notify` is told that."""
        self._index, self._bundle, self._device, self._precision = index, bundle, device, precision
        self._notify = notify
        self._read: dict[int, bytes] = {}
        """Packed patches of files that were read again, by label, oldest first."""

        self._candidates: set[int] = set()
        self._unseen: set[int] = set()

    @property
    def candidates(self) -> int:
        """How many different rows were to be looked at again."""
        return len(self._candidates)

    @property
    def unseen(self) -> int:
        """How many of them could not be: their file is gone, changed, broken, in an archive or in a PACS."""
        return len(self._unseen)

    def rank(self, words: Words, hits: Sequence[Hit], k: int) -> list[Hit]:
        """Return the k best of the hits of one question with their `rerank_score`, equal ones in the order of the cosine.

        A hit that cannot be looked at again has None, and stands where others of its cosine stand on average.
        """
        patches = self.patches_of([hit.label for hit in hits])
        seen = [(hit, patches[hit.label]) for hit in hits if hit.label in patches]
        cosines, late = np.array([hit.score for hit, _ in seen]), np.zeros(len(seen))
        for sentence, weight in words:
            late += weight * late_interaction(sentence, [local for _, local in seen])
        scores = {
            hit.label: hit.score + LATE_WEIGHT * value for (hit, _), value in zip(seen, late.tolist(), strict=True)
        }
        usual = _line(cosines, late)
        order = sorted(
            hits, key=lambda hit: (-scores.get(hit.label, hit.score + LATE_WEIGHT * usual(hit.score)), hit.rank)
        )
        return [
            replace(hit, rank=rank, rerank_score=scores.get(hit.label)) for rank, hit in enumerate(order[:k], start=1)
        ]

    def rank_all(self, words: Sequence[Words], hits: Sequence[Sequence[Hit]], k: int) -> list[list[Hit]]:
        """Return what `rank` does for each question, and report how many candidates could not be re-ranked."""
        ranked = [self.rank(one, found, k) for one, found in zip(words, hits, strict=True)]
        if self.unseen:
            self._notify(
                f"{self.unseen} of {self.candidates} radiographs could not be re-ranked and keep the order of the cosine: "
                "the index keeps no patches of them, and no unchanged file is at their path"
            )
        return ranked

    def patches_of(self, labels: Sequence[int]) -> Mapping[int, TokenEmbeddings]:
        """Return the token embeddings of images by label, kept or of their files; without those that have neither."""
        self._candidates.update(labels)
        packed = dict(self._index.locals("image", labels))
        packed |= {label: self._read[label] for label in labels if label in self._read}
        missing = [label for label in labels if label not in packed and label not in self._unseen]
        if missing:
            again = self._read_again(self._index.rows(missing))
            self._unseen.update(label for label in missing if label not in again)
            packed |= again
            self._hold(again)
        return {label: self._unpacked(content) for label, content in packed.items()}

    def _hold(self, packed: Mapping[int, bytes]) -> None:
        """Keep what was read again for the next questions, as much of it as may be held."""
        self._read |= packed
        held = sum(map(len, self._read.values()))
        while held > _HELD_BYTES:
            held -= len(self._read.pop(next(iter(self._read))))

    def _unpacked(self, content: bytes) -> TokenEmbeddings:
        local = TokenEmbeddings.from_bytes(content)
        if local.vectors.shape[1] != self._bundle.embedding_dim:
            raise IndexCorruptError(
                f"index {self._index.folder} keeps patches of {local.vectors.shape[1]} dimensions, expected "
                f"{self._bundle.embedding_dim}: restore the index from a backup, or embed into a new folder"
            )
        return local

    def _read_again(self, rows: Mapping[int, Row]) -> dict[int, bytes]:
        """Read and embed files of rows, cut as they were, and pack their patches; what cannot be is left out."""
        located = {label: replace(row, path=find_file(self._index, row)[0]) for label, row in rows.items()}
        readable = {
            label: row
            for label, row in located.items()
            if row.path is not None and os.path.isfile(row.path)  # noqa: PTH113 - False for whatever cannot be a file
        }
        found: dict[int, bytes] = {}
        if not readable:
            return found
        self._notify(
            f"{len(readable)} radiographs are read and embedded again, since the index keeps no patches of them; "
            "embed-images --keep-locals stores patches"
        )
        encoder = ImageEncoder(self._bundle, device=self._device, precision=self._precision)
        for budget in sorted({row.patch_budget for row in readable.values()}):
            chosen = [(label, row) for label, row in readable.items() if row.patch_budget == budget]
            found |= _embedded(chosen, encoder, budget)
        return found


def _embedded(rows: Sequence[tuple[int, Row]], encoder: ImageEncoder, budget: float) -> dict[int, bytes]:
    """Decode and embed files, without those that cannot be read or hold another picture than they did."""
    found: dict[int, bytes] = {}
    # The next batch is decoded while one is embedded.
    with DecodePool(encoder.preprocess, workers=usable_cores(), slots=2 * _BATCH, budget=budget) as pool:
        # Reduced or in full, as they were: a reduced picture is another one.
        futures = [
            (label, row, pool.submit(PlainFile(path=str(row.path)), full=row.metadata.get("reduction", 1) == 1))
            for label, row in rows
        ]
        for start in range(0, len(futures), _BATCH):
            slots: dict[int, int] = {}
            for label, row, future in futures[start : start + _BATCH]:
                try:
                    decoded = future.result()
                except ImageError:
                    continue
                if decoded.digest == row.content_digest:
                    slots[label] = decoded.slot
                else:
                    pool.release(decoded.slot)
            _, locals = encoder.encode_with_locals(
                [(pool.patches(slot), pool.positions(slot)) for slot in slots.values()]
            )
            found |= {label: local.to_bytes() for label, local in zip(slots, locals, strict=True)}
            for slot in slots.values():
                pool.release(slot)
    return found


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> Callable[[float], float]:
    """Fit y [N] by a line over x [N] (least squares); a constant where x says nothing, 0 without values."""
    if not len(x):
        return lambda _: 0.0
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return lambda value: float(y.mean()) + slope * (value - float(x.mean()))
