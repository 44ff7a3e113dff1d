"""The first hits of a query are looked at again: its words against their patches (`mcr_infer.rerank`).

    hits of the pooled vectors -> their patches, from the store or else from their files -> cosine + late interaction -> hits

What cannot be looked at again is counted and told, never passed over.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.bundle import FULL, Bundle
from mcr_infer.decoding import DecodePool
from mcr_infer.encoder import ImageEncoder
from mcr_infer.errors import ImageError, IndexCorruptError
from mcr_infer.index import Hit, Index, Row
from mcr_infer.local import Local
from mcr_infer.pipeline.plan import usable_cores
from mcr_infer.rerank import LATE_WEIGHT, late_interaction
from mcr_infer.sources import PlainFile

_BATCH = 16

Words = Sequence[tuple[Local, float]]
"""The mapped words of the sentences of a question, each with its weight, below 0 where it is not wanted."""


class SecondLook:
    """Patches of the candidates of one run of queries; to be used inside one `Index.snapshot`."""

    def __init__(
        self, index: Index, bundle: Bundle, *, device: str, precision: str = FULL, notify: Callable[[str], None]
    ) -> None:
        """The tower is opened only where the index does not keep the patches of a candidate; `notify` is told that."""
        self._index, self._bundle, self._device, self._precision = index, bundle, device, precision
        self._notify = notify
        self._patches: dict[int, Local | None] = {}
        """By label; None of what cannot be looked at again."""

    @property
    def candidates(self) -> int:
        """How many different rows were to be looked at again."""
        return len(self._patches)

    @property
    def unseen(self) -> int:
        """How many of them could not be: their file is gone, changed, broken, in an archive or in a PACS."""
        return sum(one is None for one in self._patches.values())

    def rank(self, words: Words, hits: Sequence[Hit], k: int) -> list[Hit]:
        """Return the k best of the hits of one question with their `rerank_score`, equal ones in the order of the cosine.

        A hit that cannot be looked at again has None, and stands where others of its cosine stand on average.
        """
        patches = self._look_at([hit.label for hit in hits])
        seen = [(hit, local) for hit in hits if (local := patches[hit.label]) is not None]
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

    def _look_at(self, labels: Iterable[int]) -> Mapping[int, Local | None]:
        """Return the patches of images by label; what one query has looked at is there for the next."""
        new = [label for label in labels if label not in self._patches]
        kept = self._index.locals("image", new)
        for label, content in kept.items():
            self._patches[label] = self._unpacked(content)
        missing = [label for label in new if label not in kept]
        if missing:
            self._patches |= self._read_again(self._index.rows(missing))
        return self._patches

    def _unpacked(self, content: bytes) -> Local:
        local = Local.from_bytes(content)
        if local.vectors.shape[1] != self._bundle.embedding_dim:
            raise IndexCorruptError(
                f"index {self._index.folder} keeps patches of {local.vectors.shape[1]} dimensions, expected "
                f"{self._bundle.embedding_dim}: restore the index from a backup, or embed into a new folder"
            )
        return local

    def _read_again(self, rows: Mapping[int, Row]) -> dict[int, Local | None]:
        """Read and embed the files of rows as they were; None where that is not possible."""
        found: dict[int, Local | None] = dict.fromkeys(rows)
        readable = {label: row for label, row in rows.items() if row.path is not None and Path(row.path).is_file()}
        if not readable:
            return found
        self._notify(
            f"{len(readable)} radiographs are read and embedded again: the index keeps no patches of them, "
            "embed-images --keep-locals does"
        )
        encoder = ImageEncoder(self._bundle, device=self._device, precision=self._precision)
        for budget in sorted({row.patch_budget for row in readable.values()}):
            chosen = [(label, row) for label, row in readable.items() if row.patch_budget == budget]
            # As many slots as there are in a batch, and the next one is being decoded meanwhile.
            with DecodePool(encoder.preprocess, workers=usable_cores(), slots=2 * _BATCH, budget=budget) as pool:
                for start in range(0, len(chosen), _BATCH):
                    found |= _embedded(chosen[start : start + _BATCH], pool, encoder)
        return found


def _embedded(rows: Sequence[tuple[int, Row]], pool: DecodePool, encoder: ImageEncoder) -> dict[int, Local]:
    """Decode and embed one batch, without the files that cannot be read or hold another picture than they did."""
    futures = [
        # In the same way as it was: a reduced picture is another one to the last bit.
        (label, row, pool.submit(PlainFile(path=str(row.path)), full=row.metadata.get("reduction", 1) == 1))
        for label, row in rows
    ]
    labels, slots = [], []
    for label, row, future in futures:
        try:
            decoded = future.result()
        except ImageError:
            continue
        if decoded.digest == row.content_digest:
            labels.append(label)
            slots.append(decoded.slot)
        else:
            pool.release(decoded.slot)
    _, locals = encoder.encode_with_locals([(pool.patches(slot), pool.positions(slot)) for slot in slots])
    for slot in slots:
        pool.release(slot)
    return dict(zip(labels, locals, strict=True))


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> Callable[[float], float]:
    """Fit y [N] by a line over x [N] (least squares); a constant where x says nothing, 0 without values."""
    if not len(x):
        return lambda _: 0.0
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    return lambda value: float(y.mean()) + slope * (value - float(x.mean()))
