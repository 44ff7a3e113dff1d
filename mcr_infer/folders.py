"""Folders, walked downwards: the entries of each in the order of their names, whatever their number, in bounded memory.

A folder of millions is sorted as tapes were: runs of as many names as may be held are sorted and laid down in a temporary
file without a name, then merged. Its listing is therefore a picture of one moment, in the same order on every machine; the
order of the file system itself is neither, and takes names in or leaves them out while files come and go.
"""

import heapq
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

LISTED = 10_000
"""Entries of one folder that are held at once."""

_NAME = 100
"""Bytes of a name, about: while runs are merged, as many are held as while they were made."""

_SMALLEST_PIECE = 1 << 12
"""Bytes that are read of a run at once, however many runs there are: a folder of ten million in runs of 10,000 holds
4 MiB of them."""

_FOLDER, _FILE, _LINK, _OTHER = b"d", b"f", b"l", b"o"


class Entry(NamedTuple):
    """A name in a folder with what the folder says about it; entries are ordered by the bytes of their names.

    A tuple, because millions of them are compared.
    """

    key: bytes
    """The name, as the file system has it."""
    type: bytes

    @property
    def name(self) -> str:
        """The name as text; bytes that are not UTF-8 are surrogates in it."""
        return os.fsdecode(self.key)

    @property
    def is_folder(self) -> bool:
        """True for a folder itself, not for a link to one."""
        return self.type == _FOLDER

    @property
    def is_link(self) -> bool:
        """True for a symbolic link."""
        return self.type == _LINK

    @property
    def is_file(self) -> bool:
        """True for a regular file itself."""
        return self.type == _FILE


def walk_folder(top: str, *, listed: int = LISTED, ignored: Counter[str]) -> Iterator[tuple[str, Entry | OSError]]:
    """Yield what lies below a folder, depth first, without the folders: each path with its entry.

    Hidden entries are left out and counted in `ignored`. A linked folder is entered once, and never one that is being
    walked: no loop is followed, and `linked again` counts the others. A folder that cannot be listed is yielded with the
    `OSError` that says why. One listing a level is held.
    """
    try:
        levels = [_Level(top, listed)]
    except OSError as error:
        yield top, error
        return
    linked: set[tuple[int, int]] = set()
    while levels:
        try:
            entry = next(levels[-1].entries, None)
        except OSError as error:  # of the disk that holds the names of a folder of millions
            yield levels[-1].path, error
            entry = None
        if entry is None:
            levels.pop()
            continue
        if entry.name.startswith("."):
            ignored["hidden"] += 1
            continue
        path = os.path.join(levels[-1].path, entry.name)  # noqa: PTH118 - Path would change the spelling
        if not (entry.is_folder or (entry.is_link and os.path.isdir(path))):  # noqa: PTH112
            yield path, entry
            continue
        try:
            level = _Level(path, listed)
        except OSError as error:
            yield path, error
            continue
        if entry.is_link:
            if level.identity in linked or any(level.identity == above.identity for above in levels):
                ignored["linked again"] += 1
                continue
            linked.add(level.identity)
        levels.append(level)


class _Level:
    """A folder on the way down, with the entries that are still to be looked at."""

    __slots__ = ("entries", "identity", "path")

    def __init__(self, path: str, listed: int) -> None:
        status = Path(path).stat()
        self.path = path
        self.identity = (status.st_dev, status.st_ino)
        self.entries: Iterator[Entry] = list_sorted(path, listed=listed)


def list_sorted(folder: str, *, listed: int = LISTED) -> Iterator[Entry]:
    """List a folder at once and return an iterator over its entries, sorted, of which at most `listed` are held.

    Raises `OSError` where it cannot be listed, or where the temporary file cannot be written.
    """
    run: list[Entry] = []
    spill: _Spill | None = None
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if len(run) >= listed:
                    spill = spill or _Spill(listed)
                    spill.add(sorted(run))
                    run.clear()
                run.append(Entry(os.fsencode(entry.name), _type(entry)))
    except BaseException:
        if spill is not None:
            spill.close()
        raise
    run.sort(reverse=True)
    return _drain(run) if spill is None else spill.merge(run)


def _type(entry: "os.DirEntry[str]") -> bytes:
    """Return what the folder says, mostly without asking for the entry itself."""
    if entry.is_symlink():
        return _LINK
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    return _FILE if entry.is_file(follow_symlinks=False) else _OTHER


def _drain(run: list[Entry]) -> Iterator[Entry]:
    """Yield a run that is sorted backwards, letting go of each."""
    while run:
        yield run.pop()


class _Spill:
    """Sorted runs in a temporary file that has no name and is gone with the process."""

    def __init__(self, listed: int) -> None:
        self._held = listed * _NAME
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the merge
        self._runs: list[tuple[int, int]] = []

    def add(self, run: list[Entry]) -> None:
        """Lay down a sorted run."""
        start = self._file.tell()
        self._file.writelines(entry.type + entry.key + b"\0" for entry in run)
        self._runs.append((start, self._file.tell()))

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    def merge(self, last: list[Entry]) -> Iterator[Entry]:
        """Yield all runs as one, with one that was not laid down and is sorted backwards; then give the disk space back."""
        try:
            self._file.flush()
            piece = max(_SMALLEST_PIECE, self._held // len(self._runs))
            yield from heapq.merge(_drain(last), *(self._read(start, end, piece) for start, end in self._runs))
        finally:
            self.close()

    def _read(self, start: int, end: int, piece: int) -> Iterator[Entry]:
        rest = b""
        while start < end:
            data = os.pread(self._file.fileno(), min(piece, end - start), start)
            if not data:
                raise OSError("a temporary file became shorter than it was written")
            start += len(data)
            *whole, rest = (rest + data).split(b"\0")
            for record in whole:
                yield Entry(record[1:], record[:1])
