"""Phantoms as training pairs: pictures stored once, everything else made anew for each draw.

A picture costs tens of milliseconds and is stored, in shards that a memory map shares between workers and runs; the
report is written again at every epoch from the findings, and augmentation and masks are drawn with it. One generator,
seeded by run, epoch and phantom, makes a draw: it does not depend on the worker that makes it.
"""

import dataclasses
import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mcr_infer.files import atomic_write
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.phantom import draw_study, make, render_stored, stream
from mcr_infer.phantom.findings import Finding, finding_set
from mcr_infer.phantom.language import describe, write_report
from mcr_infer.reports import SelectedText, select_text
from train.augment import augment
from train.config import Config
from train.data import Draw, Sample
from train.data.samples import SampleMaker

SHARD = 50
"""Phantoms a shard: about two seconds of work, the most that a kill can lose per worker."""

TEXTS = ("full", "findings", "impression", "description")


class Stored(NamedTuple):
    """A phantom as the store keeps it: what the draws cannot make cheaply."""

    seed: int
    pixels: NDArray[np.uint16]
    """[H, W]"""
    findings: tuple[Finding, ...]
    view: str


class PhantomStore:
    """The phantoms of consecutive seeds, read from complete shards through memory maps."""

    def __init__(self, folder: Path, first_seed: int, count: int) -> None:
        self._first, self._count = first_seed, count
        self._pixels: dict[int, NDArray[np.uint16]] = {}
        self._facts: dict[int, list[dict[str, object]]] = {}
        for shard in _shards(first_seed, count):
            self._pixels[shard] = np.load(folder / f"{shard:08d}.npy", mmap_mode="r")
            self._facts[shard] = json.loads((folder / f"{shard:08d}.json").read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Stored:
        if not 0 <= index < self._count:
            raise IndexError(index)
        seed = self._first + index
        shard, row = divmod(seed, SHARD)
        facts = self._facts[shard][row]
        findings = tuple(Finding(**values) for values in facts["findings"])
        return Stored(seed=seed, pixels=self._pixels[shard][row], findings=findings, view=str(facts["view"]))


class Undrawn:
    """The phantoms of consecutive seeds without their pictures: enough to write about them."""

    def __init__(self, first_seed: int, count: int) -> None:
        self._first, self._count = first_seed, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Stored:
        if not 0 <= index < self._count:
            raise IndexError(index)
        findings, view = draw_study(self._first + index)
        return Stored(self._first + index, np.empty((0, 0), dtype=np.uint16), findings, view)


def open_store(
    cache: Path, *, first_seed: int, count: int, size: int, workers: int, progress: Callable[[int, int], None]
) -> PhantomStore:
    """Open the phantoms of `count` seeds, making the shards that are missing in `workers` processes (0 = in this one).

    `progress` is called with phantoms done and wanted. The folder is named after what the generator draws, so that
    pictures of another generator are never taken for these.
    """
    folder = cache / f"phantoms-{size}-{_generator_digest(size)}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = _shards(first_seed, count)
    missing = [shard for shard in wanted if not (folder / f"{shard:08d}.npy").exists()]
    for made, _ in enumerate(_make_shards(folder, missing, size, workers), start=len(wanted) - len(missing) + 1):
        progress(made * SHARD, len(wanted) * SHARD)
    return PhantomStore(folder, first_seed, count)


class PhantomPairs(Dataset[Sample]):
    """Draws of phantoms as samples: render -> augment -> the preprocessing of inference -> masks; findings -> text."""

    def __init__(self, config: Config, store: PhantomStore, tokenizer: ReportTokenizer) -> None:
        self._config, self._store = config, store
        self._samples = SampleMaker(config, tokenizer)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, draw: Draw) -> Sample:
        stored = self._store[draw.index]
        rng = np.random.default_rng([self._config.run.seed, draw.epoch, stored.seed])
        pixels = augment(render_stored(stored.pixels), self._config.augment, rng)
        text = write_text(stored, self._config.data.phantoms.shares, rng)
        return self._sample(stored, pixels, text, rng, masked=draw.masked)

    def held_out(self, index: int, *, masked: bool = False) -> Sample:
        """Return a phantom as inference meets it: not augmented, with its own whole report."""
        stored = self._store[index]
        report = write_report(stored.findings, view=stored.view, rng=stream(stored.seed, "report"))
        text = select_text(report.text, use="both")
        rng = np.random.default_rng([self._config.run.seed, stored.seed])
        return self._sample(stored, render_stored(stored.pixels), text, rng, masked=masked)

    def labels(self, index: int) -> str:
        """Return the finding set by which retrieval is judged: kinds with their sides, without lobes."""
        findings = self._store[index].findings
        return ";".join(sorted({" ".join(filter(None, (finding.side, finding.kind))) for finding in findings}))

    def patient(self, index: int) -> None:
        """Return None: each phantom is its own patient."""

    def _sample(
        self, stored: Stored, pixels: NDArray[np.float32], text: SelectedText, rng: np.random.Generator, *, masked: bool
    ) -> Sample:
        same = text.text if self._config.loss.positives == "report" else finding_set(stored.findings)
        return self._samples.make(pixels, text, same=same, source=f"phantom {stored.seed}", masked=masked, rng=rng)


def phantom_texts(
    store: PhantomStore | Undrawn, shares: Sequence[float], count: int, rng: np.random.Generator
) -> Iterator[str]:
    """Yield `count` texts as training writes them."""
    for index in range(count):
        yield write_text(store[index % len(store)], shares, rng).text


def write_text(stored: Stored, shares: Sequence[float], rng: np.random.Generator) -> SelectedText:
    """Write a text for a phantom: a report cut as inference cuts one, or a short sentence; `shares` as in `TEXTS`."""
    kind = TEXTS[int(rng.choice(len(TEXTS), p=np.asarray(shares) / sum(shares)))]
    if kind == "description":
        return SelectedText(text=describe(stored.findings, rng), part="whole")
    report = write_report(stored.findings, view=stored.view, rng=rng)
    return select_text(report.text, use="both" if kind == "full" else kind)


def _shards(first_seed: int, count: int) -> range:
    return range(first_seed // SHARD, (first_seed + count - 1) // SHARD + 1)


def _generator_digest(size: int) -> str:
    """Name what the generator draws now, by the pictures and findings of a few seeds."""
    digest = hashlib.sha256()
    for seed in range(1, 7):
        phantom = make(seed, size)
        digest.update(phantom.stored.tobytes() + finding_set(phantom.findings).encode())
    return digest.hexdigest()[:12]


def _make_shards(folder: Path, shards: Sequence[int], size: int, workers: int) -> Iterator[None]:
    """Make shards and yield after each."""
    if workers == 0 or not shards:
        for shard in shards:
            yield _make_shard(folder, shard, size)
        return
    # Spawned, not forked: the training process may already run threads, whose locks a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        for job in as_completed([pool.submit(_make_shard, folder, shard, size) for shard in shards]):
            yield job.result()


def _make_shard(folder: Path, shard: int, size: int) -> None:
    """Make the phantoms of one shard; the pictures are written last and mark it complete."""
    phantoms = [make(seed, size) for seed in range(shard * SHARD, (shard + 1) * SHARD)]
    facts = [
        {"view": phantom.view, "findings": [dataclasses.asdict(finding) for finding in phantom.findings]}
        for phantom in phantoms
    ]
    atomic_write(folder / f"{shard:08d}.json", json.dumps(facts).encode())
    pictures = io.BytesIO()
    np.save(pictures, np.stack([phantom.stored for phantom in phantoms]))
    atomic_write(folder / f"{shard:08d}.npy", pictures.getvalue())
