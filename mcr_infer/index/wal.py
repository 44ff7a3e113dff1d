"""store.sqlite-wal before SQLite sees it: has it lost what was committed?

SQLite takes a write-ahead log up to the first page whose checksum is wrong, and what comes after is silently dropped.
After a crash that is right for pages of a transaction that never ended, and wrong for those of one that was acknowledged.
store.sqlite-shm tells them apart: a writer notes in it how many pages are committed, once they are on the disk, and their
checksum. Where that file is gone or unreadable too, nothing can be said, and SQLite goes on as it does.

Source: https://sqlite.org/walformat.html.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import IndexCorruptError

_INDEX = struct.Struct("=3I2BH2I8s8s8s")
"""In the order of this machine: version, unused, changes; initialised, order of checksums; page size; pages committed, pages
of the database; checksum of the last committed page, salts, checksum of this header."""

_BACKFILLED = struct.Struct("=I")
_LOG = struct.Struct(">4I8s8s")
"""magic, version, page size, checkpoints; salts, checksum."""

_FRAME = struct.Struct(">2I8s8s")
"""Page, pages of the database after a commit; salts, checksum."""

_MAGIC = 0x377F0682
"""With a last bit of 1, checksums are of big-endian words."""

_BLOCK_BYTES = 1 << 22
_ATTEMPTS = 20
_MASK = 0xFFFFFFFF


class _Committed(NamedTuple):
    """What store.sqlite-shm says."""

    pages: int
    """In the log, committed."""

    backfilled: int
    """Of these, in the database as well."""

    salts: bytes
    checksum: bytes


def refuse_damaged_log(store: Path) -> None:
    """Raise `IndexCorruptError` where the log of a database lacks pages that were committed and are nowhere else."""
    shared, log = (store.with_name(f"{store.name}-{what}") for what in ("shm", "wal"))
    sound = 0
    for _ in range(_ATTEMPTS):
        committed = _committed(shared)
        if committed is None or committed.pages <= committed.backfilled:
            return
        sound = _sound_pages(log, committed)
        if sound == committed.pages:
            return
        if _committed(shared) == committed:
            break  # and no writer is at work on it just now
    else:
        return
    raise IndexCorruptError(
        f"{log} has lost changes that were acknowledged: {sound} of {committed.pages} pages are sound. Restore the folder "
        f"from a backup as a whole; or delete {shared.name} in it to go on without them, and embed again: what is in the "
        "index is skipped"
    )


def _committed(shared: Path) -> _Committed | None:
    """Read what was committed; None where that cannot be known."""
    try:
        with shared.open("rb") as file:
            content = file.read(2 * _INDEX.size + _BACKFILLED.size)
    except OSError:
        return None
    one, other = content[: _INDEX.size], content[_INDEX.size : 2 * _INDEX.size]
    if len(content) < 2 * _INDEX.size + _BACKFILLED.size or one != other:
        return None
    _, _, _, initialised, _, _, pages, _, checksum, salts, own = _INDEX.unpack(one)
    words = np.frombuffer(one[:-8], dtype="=u4")
    if not initialised or _checksums(words[None, :], (0, 0))[-1].astype("=u4").tobytes() != own:
        return None
    (backfilled,) = _BACKFILLED.unpack_from(content, 2 * _INDEX.size)
    return _Committed(pages, backfilled, salts, checksum)


def _sound_pages(log: Path, committed: _Committed) -> int:
    """Return how many of the committed pages the log holds unbroken; all of them only if the last has the known checksum."""
    try:
        with log.open("rb") as file:
            return _count_sound(file, committed)
    except OSError:
        return 0


def _count_sound(file: BinaryIO, committed: _Committed) -> int:
    header = file.read(_LOG.size)
    if len(header) < _LOG.size:
        return 0
    magic, _, page_bytes, _, salts, own = _LOG.unpack(header)
    order = ">u4" if magic & 1 else "<u4"
    if magic & ~1 != _MAGIC or salts != committed.salts or page_bytes < 512:
        return 0
    state = _checksums(np.frombuffer(header[:24], dtype=order)[None, :], (0, 0))[-1]
    if state.astype(">u4").tobytes() != own:
        return 0
    sound = 0
    for frames in _frames(file, _FRAME.size + page_bytes, committed.pages):
        content = np.frombuffer(frames, dtype=np.uint8).reshape(-1, _FRAME.size + page_bytes)
        words = np.concatenate([content[:, :8], content[:, _FRAME.size :]], axis=1).view(order)
        states = _checksums(words, (int(state[0]), int(state[1])))
        told = np.ascontiguousarray(content[:, 16:24]).view(">u4")
        own_salts = (content[:, 8:16] == np.frombuffer(salts, dtype=np.uint8)).all(axis=1)
        good = (told == states).all(axis=1) & own_salts
        if not good.all():
            return sound + int(good.argmin())
        sound, state = sound + len(states), states[-1]
    last = state.astype("=u4").tobytes()
    return sound if sound < committed.pages or last == committed.checksum else sound - 1


def _frames(file: BinaryIO, size: int, count: int) -> Iterator[bytes]:
    """Read so many frames of a size, a block at a time; fewer where the file is shorter."""
    step = max(1, _BLOCK_BYTES // size)
    for start in range(0, count, step):
        content = file.read(size * min(step, count - start))
        whole = content[: len(content) // size * size]
        if whole:
            yield whole
        if len(whole) < size * min(step, count - start):
            return


def _checksums(words: NDArray[np.uint32], state: tuple[int, int]) -> NDArray[np.uint32]:
    """Return SQLite's running checksums [N, 2] after each of N runs of words [N, 2P].

    Each pair (x, y) turns (a, b) into (a + x + b, b + y + a + x + b), modulo 2^32. That is linear, so the pairs of a run
    are summed with the weights that they have at its end.
    """
    weights, (aa, ab, ba, bb) = _weights(words.shape[1] // 2)
    added = (words.astype(np.uint64) @ weights) & _MASK
    found = np.empty((len(words), 2), dtype=np.uint32)
    a, b = state
    for place, (x, y) in enumerate(added.tolist()):
        a, b = (aa * a + ab * b + x) & _MASK, (ba * a + bb * b + y) & _MASK
        found[place] = a, b
    return found


@functools.cache
def _weights(pairs: int) -> tuple[NDArray[np.uint64], tuple[int, int, int, int]]:
    """Return what each word of a run [2P, 2] adds to the checksum at its end, and what the former one becomes by then."""
    weights = np.empty((2 * pairs, 2), dtype=np.uint64)
    aa, ab, ba, bb = 1, 0, 0, 1
    for pair in reversed(range(pairs)):
        weights[2 * pair] = (aa + ab) & _MASK, (ba + bb) & _MASK
        weights[2 * pair + 1] = ab, bb
        # One pair more: what comes before it is first turned by (a + b, a + 2b).
        aa, ab, ba, bb = (aa + ab) & _MASK, (aa + 2 * ab) & _MASK, (ba + bb) & _MASK, (ba + 2 * bb) & _MASK
    return weights, (aa, ab, ba, bb)
