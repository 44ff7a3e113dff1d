"""Real radiographs with their reports as training pairs: the survey's choice, cached pictures, a sample for each draw."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch.utils.data import Dataset

from mcr_infer.cli.streams import printable
from mcr_infer.errors import ConfigError
from mcr_infer.files import atomic_write
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.reports import SelectedText
from train.augment import augment
from train.config import Config
from train.data import Draw, Sample, require_pairs_for
from train.data.faults import Faults
from train.data.mimic import open_mimic
from train.data.open_i import open_open_i
from train.data.picture_cache import Pictures, open_pictures
from train.data.records import Source
from train.data.samples import SampleMaker
from train.data.selection import Selection
from train.data.survey import Survey, Surveyed, require_pairs, survey
from train.data.tables import open_table
from train.progress import progress_bar

SURVEY = "data.json"
"""In the run folder: what the data set held, what was taken and what was left out."""

_TOLD_EVERY = 5000
"""Pictures between two lines of progress where there is no terminal."""


class RecordStore:
    """The pairs of one split with their pictures, in the order of the data set."""

    def __init__(self, selection: Selection, pictures: Pictures) -> None:
        self._selection, self._pictures = selection, pictures

    def __len__(self) -> int:
        return len(self._selection.names)

    def name(self, index: int) -> str:
        """Return what names the pair in messages."""
        return self._selection.names[index] or ""

    def pixels(self, index: int) -> NDArray[np.float32]:
        """Return the cached picture [h, w] in [0, 1]."""
        return self._pictures[index]

    def text(self, index: int) -> SelectedText:
        """Return the text that stands beside the picture."""
        return self._selection.text(index)

    def labels(self, index: int) -> str | None:
        """Return the findings joined by `;`; None where nobody labelled the pair."""
        return self._selection.labels[index]

    def patient(self, index: int) -> str | None:
        """Return the data set's pseudonym of the patient, None where it names none."""
        return self._selection.patients[index]

    def texts(self, rng: np.random.Generator) -> Iterator[str]:
        """Yield each text once, in random order: what a tokenizer is trained on."""
        for place in rng.permutation(len(self._selection.texts)):
            yield self._selection.texts[int(place)] or ""


class RadiographPairs(Dataset[Sample]):
    """Draws of real pairs as samples: cached picture -> augment -> the preprocessing of inference -> masks; text.

    With `loss.positives = "findings"`, pairs without labels are positives of pairs with the same text alone.
    """

    def __init__(self, config: Config, store: RecordStore, tokenizer: ReportTokenizer) -> None:
        self._config, self._store = config, store
        self._samples = SampleMaker(config, tokenizer)

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, draw: Draw) -> Sample:
        rng = np.random.default_rng([self._config.run.seed, draw.epoch, self._identity(draw.index)])
        pixels = augment(self._store.pixels(draw.index), self._config.augment, rng)
        return self._sample(draw.index, pixels, rng, masked=draw.masked)

    def held_out(self, index: int, *, masked: bool = False) -> Sample:
        """Return a pair as inference meets it: not augmented; `masked` hides parts of both."""
        rng = np.random.default_rng([self._config.run.seed, self._identity(index)])
        return self._sample(index, self._store.pixels(index), rng, masked=masked)

    def labels(self, index: int) -> str | None:
        """Return the finding set by which retrieval is judged, None where nobody labelled the pair."""
        return self._store.labels(index)

    def patient(self, index: int) -> str | None:
        """Return the data set's pseudonym of the patient, None where it names none."""
        return self._store.patient(index)

    def _identity(self, index: int) -> int:
        """Return 63 bits of the pair's name, so that its draws do not depend on its place among the pairs."""
        digest = hashlib.blake2b(self._store.name(index).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def _sample(self, index: int, pixels: NDArray[np.float32], rng: np.random.Generator, *, masked: bool) -> Sample:
        text, labels = self._store.text(index), self._store.labels(index)
        by_findings = self._config.loss.positives == "findings" and labels is not None
        same = f"findings {labels}" if by_findings else text.text
        return self._samples.make(pixels, text, same=same, source=self._store.name(index), masked=masked, rng=rng)


def open_source(config: Config) -> Source:
    """Find the data set that the configuration names; raises `ConfigError`."""
    told = config.data.radiographs
    match config.data.source:
        case "mimic_cxr_jpg":
            return open_mimic(told, dicom=False)
        case "mimic_cxr":
            return open_mimic(told, dicom=True)
        case "open_i":
            return open_open_i(told)
        case "table":
            return open_table(told)
    raise ConfigError(f"data.source is {config.data.source!r}, which has no radiographs")


def open_records(
    config: Config, run: Path, console: Console, *, begin: Callable[[], None] = lambda: None
) -> tuple[RecordStore, RecordStore]:
    """Survey the data set, decode what is not in the cache yet, and return the training and the validation pairs.

    The survey is printed and, after `begin`, written to RUN/data.json. Raises `ConfigError` for faults that are refused,
    where the training pairs are not enough for a batch or lack the labels that the loss asks for, and where the data set is
    no longer the one that the run began with.
    """
    told = config.data.radiographs
    detail = config.model.image.image_size * config.model.decoders.super_resolution
    if told.cached_side < detail:
        raise ConfigError(
            f"data.radiographs.cached_side {told.cached_side} is less than model.image.image_size times "
            f"model.decoders.super_resolution, {detail}: a cached picture would be enlarged; raise it"
        )
    source = open_source(config)
    console.print(f"surveying {source.kind}", highlight=False)
    surveyed = survey(source, told)
    # Now, because decoding takes hours, and again after it, because what cannot be decoded may be what was needed.
    _require_trainable(config, surveyed)
    training, training_pictures = _decode(config, surveyed.training, surveyed.faults, "training", console)
    validation, validation_pictures = _decode(config, surveyed.validation, surveyed.faults, "validation", console)
    surveyed.faults.refuse(source.origin)
    surveyed = surveyed._replace(training=training, validation=validation)
    require_pairs(surveyed, told)
    _require_trainable(config, surveyed)
    found = surveyed.summary(source, told)
    for line in found.lines():
        console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
    _require_same(found, run)
    begin()
    run.mkdir(parents=True, exist_ok=True)
    atomic_write(run / SURVEY, json.dumps(found.to_json(), indent=1).encode())
    return RecordStore(training, training_pictures), RecordStore(validation, validation_pictures)


def _require_trainable(config: Config, surveyed: Surveyed) -> None:
    """Raise `ConfigError`, with what was left out, where a run could not train on the training pairs."""
    training = surveyed.training
    details = "".join(f"\n  {fault}" for fault in surveyed.faults.listed())
    require_pairs_for(config.optim.batch_size, count=len(training.names), details=details)
    if config.loss.positives == "findings" and all(labels is None for labels in training.labels):
        raise ConfigError(
            'loss.positives is "findings" and no training pair has labels: set it to "report", or give the table '
            f"of labels (MIMIC: chexpert or negbio; a table: data.radiographs.findings_column){details}"
        )


def _decode(
    config: Config, selection: Selection, faults: Faults, what: str, console: Console
) -> tuple[Selection, Pictures]:
    """Open the pictures of a selection and leave out those that cannot be decoded."""
    with progress_bar(console) as progress:
        bar = progress.add_task(f"decoding {what} pictures", total=None, visible=False)
        told = 0

        def tell(done: int, total: int) -> None:
            nonlocal told
            progress.update(bar, completed=done, total=total, visible=True)
            if not console.is_terminal and (done - told >= _TOLD_EVERY or done == total):
                told = done
                console.print(f"{done} of {total} {what} pictures decoded", highlight=False)

        pictures, failures = open_pictures(
            Path(config.data.cache), selection.images, selection.sizes, selection.changed,
            side=config.data.radiographs.cached_side, rendering=config.model.image.rendering,
            workers=config.run.workers, progress=tell,
            say=lambda words: console.print(
                f"{what} pictures: {words}", highlight=False, markup=False, soft_wrap=True
            ),
        )  # fmt: skip
    if not failures:
        return selection, pictures
    for failure in failures:
        faults.add("undecodable", f"{selection.names[failure.place]} ({failure.reason})")
    failed = {failure.place for failure in failures}
    kept = np.array([place for place in range(len(selection.names)) if place not in failed], dtype=np.int64)
    return selection.taken(kept), pictures.taken(kept)


def _require_same(found: Survey, run: Path) -> None:
    """Raise `ConfigError` where the pairs are not those that the run began with."""
    path, now = run / SURVEY, found.to_json()
    if path.exists():
        began = json.loads(path.read_text(encoding="utf-8"))
        for split in ("training", "validation"):
            # Runs of earlier releases cut long texts, wherever the conclusion is, and kept no digest of conclusions.
            if any(began[split].get(name, now[split][name]) != now[split][name] for name in ("digest", "conclusions")):
                raise ConfigError(
                    f"the {split} pairs are not those that {run} began with ({began[split]['pairs']} then, "
                    f"{now[split]['pairs']} now; see {path}): put the data back as they were, or start a new run"
                )
