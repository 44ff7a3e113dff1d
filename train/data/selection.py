"""The pairs of one split as columns: hundreds of thousands of them cost their letters and a few numbers each."""

import hashlib
import os
from array import array
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mcr_infer.reports import Part, SelectedText
from train.data.records import Record
from train.data.strings import Strings, StringsBuilder

PARTS: tuple[Part, ...] = get_args(Part)


class Selection(NamedTuple):
    """The pairs of one split, as columns; a report that stands beside several images is kept once."""

    names: Strings
    images: Strings
    sizes: NDArray[np.int64]
    """[N] bytes of the image files"""
    changed: NDArray[np.int64]
    """[N] their times of change in nanoseconds"""
    texts: Strings
    text_of: NDArray[np.int64]
    """[N] places in `texts`"""
    parts: NDArray[np.uint8]
    """[N] places in `PARTS`"""
    conclusions: NDArray[np.int64]
    """[N] letters at the end of the text that are its conclusion, 0 = none. Of the pair, not of the text: equal texts may
    be told apart into findings and impression at other places."""
    patients: Strings
    labels: Strings
    """Findings joined by `;`, or None"""

    def text(self, index: int) -> SelectedText:
        """Return the text of a pair as it was selected from its report."""
        text, letters = self.texts[int(self.text_of[index])] or "", int(self.conclusions[index])
        conclusion = text[-letters:] if letters else None
        return SelectedText(text=text, part=PARTS[int(self.parts[index])], conclusion=conclusion)

    def taken(self, indices: NDArray[np.int64]) -> "Selection":
        """Return some of the pairs, in the order of `indices`."""
        used, text_of = np.unique(self.text_of[indices], return_inverse=True)
        return Selection(
            names=_some(self.names, indices), images=_some(self.images, indices), sizes=self.sizes[indices],
            changed=self.changed[indices], texts=_some(self.texts, used), text_of=text_of.astype(np.int64),
            parts=self.parts[indices], conclusions=self.conclusions[indices],
            patients=_some(self.patients, indices), labels=_some(self.labels, indices),
        )  # fmt: skip

    def digest(self) -> str:
        """Name the pairs: their names, texts, patients and findings in order, as every release has done."""
        digest = hashlib.blake2b(digest_size=16)
        for column in (self.names, self.texts, self.patients, self.labels):
            for text in column:
                digest.update(b"\0" if text is None else f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
        digest.update(self.text_of.tobytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return what a log says of the pairs."""
        patients = {patient for patient in self.patients if patient is not None}
        conclusions = hashlib.blake2b(self.conclusions.tobytes(), digest_size=16).hexdigest()
        return {
            "pairs": len(self.names), "texts": len(self.texts), "patients": len(patients), "digest": self.digest(),
            "conclusions": conclusions,
        }  # fmt: skip


class SelectionBuilder:
    """A selection while it grows."""

    def __init__(self) -> None:
        self._columns = [StringsBuilder() for _ in range(5)]
        self._numbers, self._places = array("q"), dict[bytes, int]()

    def add(self, record: Record, status: os.stat_result, selected: SelectedText) -> None:
        """Add a pair with the state of its image file and its text."""
        text = selected.text
        place = self._places.setdefault(hashlib.blake2b(text.encode(), digest_size=16).digest(), len(self._places))
        *columns, texts = self._columns
        if place == len(texts):
            texts.append(text)
        labels = None if record.labels is None else ";".join(record.labels)
        for column, value in zip(columns, (record.name, str(record.image), record.patient, labels), strict=True):
            column.append(value)
        part, letters = PARTS.index(selected.part), len(selected.conclusion or "")
        self._numbers.extend((status.st_size, status.st_mtime_ns, place, part, letters))

    def selection(self) -> Selection:
        """Return the pairs that were added."""
        numbers = np.array(self._numbers, dtype=np.int64).reshape(-1, 5)
        names, images, patients, labels, texts = (column.strings() for column in self._columns)
        return Selection(
            names=names, images=images, sizes=numbers[:, 0].copy(), changed=numbers[:, 1].copy(),
            texts=texts, text_of=numbers[:, 2].copy(), parts=numbers[:, 3].astype(np.uint8),
            conclusions=numbers[:, 4].copy(), patients=patients, labels=labels,
        )  # fmt: skip


def _some(texts: Strings, indices: NDArray[np.int64]) -> Strings:
    return Strings.of(texts[int(index)] for index in indices)
