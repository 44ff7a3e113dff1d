"""Where training pairs come from: a schedule names draws, a data set turns a draw into a sample, a batch stacks samples."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from mcr_infer.errors import ConfigError


class Draw(NamedTuple):
    """One item of one epoch; with the seed of the run it fixes every random choice in its sample."""

    index: int
    epoch: int
    masked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with one report, and what of both is hidden."""

    patches: NDArray[np.float32]
    """[K, P*P], all of them, row by row."""
    visible: NDArray[np.int64]
    """[V] positions of the patches that the tower sees."""
    hidden: NDArray[np.int64]
    """[M] positions of the patches to reconstruct; V + M = K."""
    targets: NDArray[np.float32]
    """[M, S*S] what the hidden patches show; S = P, or finer where super-resolution is asked for."""
    input_ids: NDArray[np.int64]
    """[R, T] tokens of the report before masking: one row, or a row for each window of a report that is too long."""
    masked_ids: NDArray[np.int64]
    """[R, T] the same with [MASK] where a word is hidden."""
    word_mask: NDArray[np.bool_]
    """[R, T], True = hidden."""
    key: int
    """Pairs of equal keys are positives of each other."""
    source: str
    """What names the sample in an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples stacked: N pairs, and R >= N rows of their reports, padded to the longest of the batch."""

    patches: Tensor
    """float32 [N, K, P*P]"""
    visible: Tensor
    """int64 [N, V]"""
    hidden: Tensor
    """int64 [N, M]"""
    targets: Tensor
    """float32 [N, M, S*S]"""
    input_ids: Tensor
    """int64 [R, T]"""
    masked_ids: Tensor
    """int64 [R, T]"""
    attention_mask: Tensor
    """int64 [R, T], 0 = padding"""
    word_mask: Tensor
    """bool [R, T], True = hidden"""
    pair_of: Tensor
    """int64 [R], the pair whose report each row is part of, in rising order"""
    keys: Tensor
    """int64 [N]"""
    sources: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on a device."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Batch(
            **{name: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for name, v in values.items()}
        )

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory; a `DataLoader` that pins asks for this by name."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return Batch(**{name: v.pin_memory() if isinstance(v, Tensor) else v for name, v in values.items()})

    def split(self, size: int) -> tuple["Batch", ...]:
        """Cut the batch into parts of at most `size` pairs, in order; padding stays as it is."""
        if size >= len(self.sources):
            return (self,)
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        parts = []
        for start in range(0, len(self.sources), size):
            pairs = slice(start, start + size)
            first, end = torch.searchsorted(self.pair_of, self.pair_of.new_tensor([start, start + size])).tolist()
            part = {name: value[slice(first, end) if name in _OF_ROWS else pairs] for name, value in values.items()}
            parts.append(Batch(**part | {"pair_of": part["pair_of"] - start}))
        return tuple(parts)


_OF_ROWS = ("input_ids", "masked_ids", "attention_mask", "word_mask", "pair_of")
"""Fields of a batch that have a row for each part of a report."""


class Pairs(Protocol):
    """Image-report pairs of one split, as the loop, the tokenizer and evaluation need them."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Draw) -> Sample:
        """Make the sample of a draw: augmented, and masked where the draw says so."""
        ...

    def held_out(self, index: int, *, masked: bool = False) -> Sample:
        """Make a pair as inference meets it: not augmented, with its own whole report; `masked` hides parts of both."""
        ...

    def labels(self, index: int) -> str | None:
        """Return the finding set by which retrieval is judged (joined by `;`), or None where nobody labelled the pair."""
        ...

    def patient(self, index: int) -> str | None:
        """Return what names the patient of a pair, or None where that is not known: each pair is then its own."""
        ...


class Schedule(Sampler[list[Draw]]):
    """The batches of a run from a given step on: shuffled epochs, the rest of an epoch that fills no batch left out.

    What step s holds depends on the arguments alone, so a resumed run goes on exactly where it stopped. Each of `size`
    processes takes its own part of every batch, by rank.
    """

    def __init__(
        self, count: int, *, batch_size: int, seed: int, first_step: int, steps: int, unmasked_steps: int,
        rank: int = 0, size: int = 1,
    ) -> None:  # fmt: skip
        require_pairs_for(batch_size, count=count)
        require_even_shares(batch_size, size=size)
        self._count, self._batch, self._seed = count, batch_size, seed
        self._first, self._steps, self._masked_steps = first_step, steps, steps - unmasked_steps
        self._part = slice(rank * batch_size // size, (rank + 1) * batch_size // size)

    def __len__(self) -> int:
        return self._steps - self._first

    def __iter__(self) -> Iterator[list[Draw]]:
        per_epoch = self._count // self._batch
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self._first, self._steps):
            epoch, place = divmod(step, per_epoch)
            if epoch != current:
                current, order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._count)
            chosen = order[place * self._batch : (place + 1) * self._batch][self._part]
            yield [Draw(int(index), epoch, step < self._masked_steps) for index in chosen]


def require_pairs_for(batch_size: int, *, count: int, details: str = "") -> None:
    """Raise `ConfigError`, with `details` at its end, unless `count` training pairs fill a batch."""
    if count < batch_size:
        raise ConfigError(
            f"optim.batch_size {batch_size} is larger than the training set of {count}: lower it or train on more{details}"
        )


def require_even_shares(batch_size: int, *, size: int) -> None:
    """Raise `ConfigError` unless `size` processes get equal parts of a batch."""
    if batch_size % size:
        raise ConfigError(f"optim.batch_size {batch_size} cannot be shared evenly by {size} processes")


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples whose visible counts agree; token 0 is padding."""
    counts, lengths = zip(*(sample.input_ids.shape for sample in samples), strict=True)
    input_ids = np.zeros((sum(counts), max(lengths)), dtype=np.int64)
    masked_ids, attention_mask = np.zeros_like(input_ids), np.zeros_like(input_ids)
    word_mask = np.zeros_like(input_ids, dtype=np.bool_)
    end = 0
    for sample, count, length in zip(samples, counts, lengths, strict=True):
        start, end = end, end + count
        input_ids[start:end, :length], masked_ids[start:end, :length] = sample.input_ids, sample.masked_ids
        attention_mask[start:end, :length], word_mask[start:end, :length] = 1, sample.word_mask
    return Batch(
        patches=torch.from_numpy(np.stack([sample.patches for sample in samples])),
        visible=torch.from_numpy(np.stack([sample.visible for sample in samples])),
        hidden=torch.from_numpy(np.stack([sample.hidden for sample in samples])),
        targets=torch.from_numpy(np.stack([sample.targets for sample in samples])),
        input_ids=torch.from_numpy(input_ids),
        masked_ids=torch.from_numpy(masked_ids),
        attention_mask=torch.from_numpy(attention_mask),
        word_mask=torch.from_numpy(word_mask),
        pair_of=torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        keys=torch.tensor([sample.key for sample in samples], dtype=torch.int64),
        sources=tuple(sample.source for sample in samples),
    )
