"""Pictures decoded once: each file is read as inference reads it, made smaller, and kept in shards that runs share.

    file -> Radiograph [H, W] in [0, 1] -> shorter side at most `cached_side` -> shard -> memory map -> pixels [h, w]

A picture is found by a digest of its path, size and time of change, in a folder that is named after what the rendering
gives now; a changed file or another rendering is decoded again. Some hundreds of pictures make a shard of two files, which
appear whole or not at all: a kill loses what the workers were at. A shard is named after a digest of all its bytes, which
are read again when a run opens it: what a disk has changed is decoded again, not trained on. What no run asks for any more
stays until the folder is deleted.

Grey levels: 8 bits from an 8-bit PNG or JPEG, 16 bits from anything deeper once it is made smaller, so that the error is at
most half a level (1/510 or 1/131070). A picture that need not be made smaller is kept without any loss: 8-bit ones as
they are, others as float32. Pixels that are not square are made so here, because a cut to patches would need to know.
"""

import errno
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcr_infer.errors import ConfigError
from mcr_infer.files import atomic_write
from mcr_infer.images import Preset, Radiograph, read_image
from mcr_infer.images.rendering import Rendering, Window, render
from train.data.strings import Strings
from train.data.workers import ITEM_SECONDS, Failure, Job, run_jobs

SHARD = 256
"""Pictures a shard: about 25 MB of 8-bit pictures at a shorter side of 288."""

_FORMAT = 2
"""Of shards and index; another one gets another folder."""

_INDEX, _PICTURES = ".index", ".pictures"

_DEPTHS = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))

_ENTRY = np.dtype(
    [("key", "S32"), ("offset", np.int64), ("height", np.int32), ("width", np.int32), ("depth", np.uint8)]
)

_READERS = 4
"""Threads that compare shards with their names: a disk, or two or three cores, are what they wait for."""

_ABANDONED = 24 * 3600
"""Seconds after which the unfinished file of a killed worker is removed: its writer cannot be at it any more."""


class Pictures:
    """Cached pictures in the order in which they were asked for; a picture that failed raises `KeyError`."""

    def __init__(self, shards: Sequence[Path], shard_of: NDArray[np.int32], entries: NDArray[np.void]) -> None:
        self._shards, self._shard_of, self._entries = tuple(shards), shard_of, entries
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        """Return pixels [h, w] in [0, 1]."""
        shard, entry = int(self._shard_of[index]), self._entries[index]
        if shard < 0:
            raise KeyError(index)
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self._shards[shard], dtype=np.uint8, mode="r")
        depth = _DEPTHS[entry["depth"]]
        height, width, start = int(entry["height"]), int(entry["width"]), int(entry["offset"])
        raw = self._maps[shard][start : start + height * width * depth.itemsize]
        stored = raw.view(depth).reshape(height, width)
        if depth == np.float32:
            return np.array(stored, dtype=np.float32)
        levels = np.float32(255 if depth == np.uint8 else 65535)
        return np.asarray(stored.astype(np.float32) / levels)

    def taken(self, indices: NDArray[np.int64]) -> "Pictures":
        """Return some of the pictures, in the order of `indices`."""
        return Pictures(self._shards, self._shard_of[indices], self._entries[indices])

    def __getstate__(self) -> dict[str, Any]:
        # Another process opens its own memory maps; pickled ones would carry the pictures along.
        return self.__dict__ | {"_maps": {}}


def open_pictures(
    cache: Path,
    files: Strings,
    sizes: NDArray[np.int64],
    changed: NDArray[np.int64],
    *,
    side: int,
    rendering: Preset = "voi",
    workers: int,
    progress: Callable[[int, int], None],
    say: Callable[[str], None],
    read: Callable[[str], Radiograph] | None = None,
    seconds: float = ITEM_SECONDS,
) -> tuple[Pictures, list[Failure]]:
    """Open the pictures of files with their sizes in bytes and times of change in nanoseconds, decoding what is not there.

    They are rendered by a preset, by `read_image` unless `read` is another reader.
    `workers` processes decode (0 = this one), none of them one file for more than `seconds`; `progress` is called with files
    done and wanted, `say` with what a person should know. Returns what could not be decoded, named by its place in `files`;
    that is tried again in the next run. Raises `ConfigError` where the folder cannot be written.
    """
    folder = cache / f"pictures-{side}-{rendering_digest(side, rendering)}"
    read = read or partial(read_image, rendering=rendering)
    keys = np.array(
        [_key(file or "", int(size), int(when)) for file, size, when in zip(files, sizes, changed, strict=True)],
        dtype="S32",
    )
    failures: list[Failure] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        index = _checked(folder, keys, say)
        missing = np.flatnonzero(index.places(keys) < 0)
        parts = [missing[start : start + SHARD] for start in range(0, len(missing), SHARD)]
        jobs = [
            Job(name=str(number), items=tuple((int(i), keys[i].decode(), files[i] or "") for i in part))
            for number, part in enumerate(parts)
        ]
        done = len(keys) - len(missing)
        for job, failed in run_jobs(_Maker(folder, side, read), jobs, workers=workers, seconds=seconds):
            failures += failed
            done += len(job.items)
            progress(done, len(keys))
        if jobs:
            index = _Index(folder)
    except OSError as exc:
        raise ConfigError(
            f"pictures cannot be kept in {folder}: {exc.strerror} ({exc.filename}); make room or set data.cache"
        ) from exc
    return index.pictures(keys), sorted(failures)


class _Index:
    """Every picture of a folder, sorted by key."""

    def __init__(self, folder: Path) -> None:
        self._shards: list[Path] = []
        entries, shard_of = [np.empty(0, dtype=_ENTRY)], [np.empty(0, dtype=np.int32)]
        for path in sorted(folder.glob(f"*{_INDEX}")):
            content = path.read_bytes()
            part = np.frombuffer(content[: len(content) // _ENTRY.itemsize * _ENTRY.itemsize], dtype=_ENTRY)
            entries.append(part)
            shard_of.append(np.full(len(part), len(self._shards), dtype=np.int32))
            self._shards.append(path.with_suffix(_PICTURES))
        joined, shards = np.concatenate(entries), np.concatenate(shard_of)
        order = np.argsort(joined["key"], kind="stable")
        self._entries, self._shard_of = joined[order], shards[order]

    def places(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Find keys [N]; -1 where there is no picture."""
        if not len(self._entries):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.searchsorted(self._entries["key"], keys)
        there = self._entries["key"][np.minimum(places, len(self._entries) - 1)] == keys
        return np.where(there, places, -1).astype(np.int64)

    def shards(self, keys: NDArray[np.bytes_]) -> list[Path]:
        """Return the shards that hold some of the pictures of keys [N]."""
        places = self.places(keys)
        return [self._shards[shard] for shard in np.unique(self._shard_of[places[places >= 0]])]

    def pictures(self, keys: NDArray[np.bytes_]) -> Pictures:
        """Return the pictures of keys [N]."""
        places = self.places(keys)
        if not len(self._entries):
            return Pictures((), np.full(len(keys), -1, dtype=np.int32), np.zeros(len(keys), dtype=_ENTRY))
        return Pictures(
            self._shards, np.where(places < 0, -1, self._shard_of[places]).astype(np.int32), self._entries[places]
        )


class _Maker:
    """Makes one shard; it travels to the worker processes."""

    def __init__(self, folder: Path, side: int, read: Callable[[str], Radiograph]) -> None:
        self._folder, self._side, self._read = folder, side, read

    def item(self, item: tuple[int, str, str]) -> tuple[str, NDArray[Any]]:
        """Decode one file; raises `ImageError`."""
        _, key, path = item
        return key, stored_picture(self._read(path), self._side)

    def finish(self, _: Job, made: Sequence[tuple[str, NDArray[Any]]]) -> None:
        """Write the shard; its index is written last and marks it complete.

        Two runs that make the same shard replace it by itself.
        """
        if not made:
            return
        content, entries = bytearray(), np.zeros(len(made), dtype=_ENTRY)
        for entry, (key, stored) in zip(entries, made, strict=True):
            content += bytes(-len(content) % 4)  # float32 is read from whole words
            entry["key"], entry["offset"] = key.encode(), len(content)
            entry["height"], entry["width"] = stored.shape
            entry["depth"] = _DEPTHS.index(stored.dtype)
            content += np.ascontiguousarray(stored).tobytes()
        index = entries.tobytes()
        digest = hashlib.sha256(index)
        digest.update(content)
        shard = self._folder / digest.hexdigest()
        atomic_write(shard.with_suffix(_PICTURES), bytes(content))
        atomic_write(shard.with_suffix(_INDEX), index)


def _checked(folder: Path, keys: NDArray[np.bytes_], say: Callable[[str], None]) -> _Index:
    """Open the index of a folder without those shards of the pictures of keys [N] that are damaged."""
    index = _Index(folder)
    shards = index.shards(keys)
    if not shards:
        return index
    say(f"checking {len(shards)} cached shards")
    with ThreadPoolExecutor(_READERS, thread_name_prefix="check") as pool:
        damaged = [shard for shard, whole in zip(shards, pool.map(_is_whole, shards), strict=True) if not whole]
    for shard in damaged:
        say(f"{shard} is not what was written; the disk may be failing. What was in it is decoded again")
        # Without its index a shard does not exist. Its pictures stay for runs that map them, until they are replaced.
        shard.with_suffix(_INDEX).unlink(missing_ok=True)
    return _Index(folder) if damaged else index


def _is_whole(pictures: Path) -> bool:
    """Tell whether a shard has the bytes after which it is named."""
    try:
        digest = hashlib.sha256(pictures.with_suffix(_INDEX).read_bytes())
        with pictures.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: digest).hexdigest() == pictures.stem
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.EIO):
            raise
        return False


def stored_picture(radiograph: Radiograph, side: int) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]:
    """Return a radiograph as it is cached [h, w]: its shorter side at most `side`, never enlarged, with square pixels."""
    pixels, aspect = radiograph.pixels, radiograph.aspect
    height, width = pixels.shape
    # The direction that is sampled more finely gives way, so that nothing is enlarged.
    tall, wide = (float(height), width / aspect) if aspect > 1 else (height * aspect, float(width))
    scale = min(1.0, side / min(tall, wide))
    rows, columns = max(1, round(tall * scale)), max(1, round(wide * scale))
    eight_bits = radiograph.source in ("png", "jpeg") and radiograph.intensity == "full_range"
    if (rows, columns) != (height, width):
        # The antialiased triangle of the preprocessing: values stay in [0, 1] but for rounding.
        resized = Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR)
        pixels = np.clip(np.asarray(resized), 0.0, 1.0)
        if not eight_bits:
            return np.rint(pixels * np.float32(65535)).astype(np.uint16)
    return np.rint(pixels * np.float32(255)).astype(np.uint8) if eight_bits else pixels


def rendering_digest(side: int, preset: Preset = "voi") -> str:
    """Name what reading by a preset and shrinking give now, by what they make of a few small pictures."""
    ramp = (np.add.outer(np.arange(48) * 61, np.arange(40) * 37) % 4096).astype(np.uint16)
    window = Window(center=1800.0, width=2600.0)
    made = [
        Radiograph(pixels=render(ramp, rendering, preset).pixels, source="dicom", aspect=aspect)
        for rendering in (Rendering(), Rendering(window=window, inverted=True, slope=1.5, padding=(0, 9)))
        for aspect in (1.0, 1.25)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, levels in (("8.png", (ramp >> 4).astype(np.uint8)), ("16.png", ramp)):
            path = Path(folder, name)
            Image.fromarray(levels).save(path)
            made.append(read_image(path, rendering=preset))
    digest = hashlib.blake2b(digest_size=6, person=b"mcr-picture")
    digest.update(f"{_FORMAT} {side}".encode())
    for radiograph in made:
        # Rounded, so that the last bit of a float, which differs between processors, makes no other folder.
        stored = stored_picture(radiograph, 24)
        digest.update(f"{stored.dtype} {stored.shape} {radiograph.intensity}".encode())
        digest.update(np.rint(stored.astype(np.float64) * (4095 if stored.dtype == np.float32 else 1)).tobytes())
    return digest.hexdigest()


def _key(path: str, size: int, changed: int) -> bytes:
    text = f"{os.path.abspath(path)}\0{size}\0{changed}".encode("utf-8", "surrogateescape")  # noqa: PTH100
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def _sweep(folder: Path) -> None:
    """Remove what killed workers left behind."""
    for path in folder.glob(".*.part"):
        try:
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
        except FileNotFoundError:
            continue  # another run swept it
