"""Where `benchmarks.recall` keeps what takes long to make: the vectors that are searched, the queries, and built graphs.

    images.npy [N, D]   text.npy, image.npy [Q, D]: queries   ENGINE-COUNT-SETTING.bin   built.json: what building took

Everything can be made again from its seed: the folder is a cache.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.engines import Setting, engine
from benchmarks.truth import Vectors, nearest_scores
from benchmarks.vectors import BLOCK, DIM, MODALITIES, Space, embed_sample
from mcr_infer import Bundle

QUERIES = 1024
"""Of each modality."""

TOP = 10
SEEDS = {"gallery": 1, "queries": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """The first `count` images of a folder, and queries to them."""

    folder: Path
    count: int

    @classmethod
    def open(cls, folder: Path, count: int, *, bundle: Bundle) -> "Gallery":
        """Draw what the folder lacks."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "images.npy"
        if not path.exists() or len(np.load(path, mmap_mode="r")) < count:
            say(f"drawing {count} vectors")
            space = Space.fit(embed_sample(bundle))
            for modality in MODALITIES:
                np.save(folder / f"{modality}.npy", space.draw(modality, QUERIES, seed=SEEDS["queries"]))
            part = folder / "images.part"
            drawn = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(count, DIM))
            for place, block in enumerate(space.blocks("image", count, seed=SEEDS["gallery"])):
                drawn[place * BLOCK : place * BLOCK + len(block)] = block
            drawn.flush()
            part.replace(path)
        return cls(folder=folder, count=count)

    @property
    def vectors(self) -> Vectors:
        """The images [N, D], mapped."""
        mapped: Vectors = np.load(self.folder / "images.npy", mmap_mode="r")[: self.count]
        return mapped

    def queries(self, modality: str) -> Vectors:
        """Return the queries [Q, D] of a modality."""
        given: Vectors = np.load(self.folder / f"{modality}.npy")[:QUERIES]
        return given

    def blocks(self) -> Iterator[Vectors]:
        """Give the images, `BLOCK` at a time."""
        vectors = self.vectors
        return (np.ascontiguousarray(vectors[start : start + BLOCK]) for start in range(0, self.count, BLOCK))

    def kth(self, modality: str) -> Vectors:
        """Return the score [Q] of the tenth nearest image of each query; computed once."""
        path = self.folder / f"{modality}-{self.count}-kth.npy"
        if not path.exists():
            np.save(path, nearest_scores(self.queries(modality), self.blocks(), k=TOP))
        scores: Vectors = np.load(path)
        return scores

    def file_of(self, name: str, setting: Setting) -> Path:
        """Return where an engine over these images lies."""
        suffix = "" if name == "exact" else f"-{setting}"
        return self.folder / f"{name.replace(' ', '-')}-{self.count}{suffix}.bin"

    def built(self, name: str, setting: Setting) -> Path:
        """Return the file of an engine, which is built on one thread where it is not there."""
        path = self.file_of(name, setting)
        if not path.exists():
            say(f"building {path.stem}")
            made = engine(name)
            wall, processor = time.perf_counter(), time.process_time()
            made.build(self.blocks(), count=self.count, dim=DIM, setting=setting, threads=1)
            took = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
            part = path.with_suffix(".part")
            made.save(part)
            part.replace(path)
            self._remember(path.stem, took)
        return path

    def build_time(self, name: str, setting: Setting) -> dict[str, float] | None:
        """Return the seconds that building took; None where they were not written down."""
        took: dict[str, float] | None = self._times().get(self.file_of(name, setting).stem)
        return took and {key: round(value, 1) for key, value in took.items()}

    def _times(self) -> dict[str, dict[str, float]]:
        path = self.folder / "built.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def _remember(self, stem: str, took: dict[str, float]) -> None:
        path = self.folder / "built.json"
        path.write_text(json.dumps(self._times() | {stem: took}, indent=1), encoding="utf-8")


def say(sentence: str) -> None:
    """Tell progress on stderr, with the load that may bend it."""
    print(f"{time.strftime('%H:%M:%S')} {sentence} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
