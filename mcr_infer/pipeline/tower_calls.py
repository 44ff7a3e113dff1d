"""Calls of the image tower, several at a time and taken back in the order in which they were made.

On a CPU one thread a call, several calls at a time, is what keeps all cores busy: threads inside one call wait for each
other, and longer so when decoding takes one of the cores.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcr_infer.inference.encoder import ImageEncoder, Patches

G = TypeVar("G")


class Embedded(NamedTuple):
    """What the tower made of a group."""

    vectors: NDArray[np.float32]
    """[N, D]."""

    locals: list[bytes] | None
    """The packed patches of each; None where they are not kept."""


class TowerCalls(Generic[G]):
    """Groups of radiographs on their way through the tower; a context manager."""

    def __init__(self, encoder: ImageEncoder, *, calls: int, keep_locals: bool = False) -> None:
        self._encoder, self._keep_locals = encoder, keep_locals
        self._threads = ThreadPoolExecutor(calls, thread_name_prefix="tower")
        self._under_way: deque[tuple[G, int, Future[Embedded] | None]] = deque()
        self.items = 0
        """Radiographs under way."""
        self.seconds = 0.0
        """Processor time of the calls, threads of the runtime beyond the calling ones not counted."""

    def __enter__(self) -> "TowerCalls[G]":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def __len__(self) -> int:
        return len(self._under_way)

    def submit(self, group: G, patches: list[Patches], done: Callable[[], None]) -> None:
        """Embed a group, which may be of nothing; `done` is called as soon as its patches are not needed any more."""
        future = self._threads.submit(self._call, patches, done) if patches else None
        self._under_way.append((group, len(patches), future))
        self.items += len(patches)

    def take(self) -> Iterator[tuple[G, Embedded]]:
        """Wait for the oldest group, and yield it and all that follow it and are done; raises what the tower raised."""
        waited = False
        while self._under_way:
            group, count, future = self._under_way[0]
            if waited and future is not None and not future.done():
                return
            waited = True
            embedded = self._embed([]) if future is None else future.result()
            self._under_way.popleft()
            self.items -= count
            yield group, embedded

    def _embed(self, patches: list[Patches]) -> Embedded:
        if not self._keep_locals:
            return Embedded(self._encoder.encode(patches), None)
        vectors, locals = self._encoder.encode_with_locals(patches)
        return Embedded(vectors, [one.to_bytes() for one in locals])

    def _call(self, patches: list[Patches], done: Callable[[], None]) -> Embedded:
        begun = time.thread_time()
        try:
            return self._embed(patches)
        finally:
            done()
            self.seconds += time.thread_time() - begun
