"""One walk through what a command line names: folders downwards, archives inwards."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mcr_infer.errors import ImageError
from mcr_infer.sources.listing import Entry, list_sorted
from mcr_infer.sources.names import is_archive, is_zip, kind_of_no_image
from mcr_infer.sources.source import Failed, PlainFile, Source
from mcr_infer.sources.tar_archive import is_compressed, read_tar
from mcr_infer.sources.zip_archive import read_zip


class Uncountable(Exception):
    """What a walk meets can only be counted by reading it; raised by a walk that only counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How one iteration goes, and what it has left out so far."""

    largest: int
    """Bytes that a member of an archive may have once it is unpacked."""
    listed: int
    """Entries of one folder that are held at once."""
    ignored: Counter[str]
    """Filled on the way."""
    counting: bool = False
    """Only the number of candidates matters: nothing is read that a number is not worth."""

    def named(self, path: str) -> Iterator[Source]:
        """Yield the candidates of one name of the command line."""
        if Path(path).is_dir():
            yield from self._folder(path)
        elif is_archive(path):
            yield from self._archive(path)
        else:
            yield PlainFile(path=path)

    def _archive(self, path: str) -> Iterator[Source]:
        """Yield the members of an archive; where it ends in a failure, the failure comes last, in its name."""
        try:
            if is_zip(path):
                yield from read_zip(path, largest=self.largest, ignored=self.ignored)
            elif self.counting and is_compressed(path):
                raise Uncountable
            else:
                yield from read_tar(path, largest=self.largest, ignored=self.ignored)
        except ImageError as error:
            yield Failed(path=path, error=error)

    def _folder(self, top: str) -> Iterator[Source]:
        """Yield the candidates below a folder, depth first; one listing a level is held, and what was seen is let go."""
        try:
            levels = [_Level(top, self.listed)]
        except OSError:
            yield PlainFile(path=top)
            return
        linked: set[tuple[int, int]] = set()
        while levels:
            entry = next(levels[-1].entries, None)
            if entry is None:
                levels.pop()
                continue
            if entry.name.startswith("."):
                self.ignored["hidden"] += 1
                continue
            path = os.path.join(levels[-1].path, entry.name)  # noqa: PTH118 - Path would change the spelling
            try:
                if not (entry.is_folder or (entry.is_link and os.path.isdir(path))):  # noqa: PTH112
                    yield from self._file(path, entry)
                    continue
                level = _Level(path, self.listed)
            except OSError:
                yield PlainFile(path=path)
                continue
            if entry.is_link:
                if level.identity in linked or any(level.identity == above.identity for above in levels):
                    self.ignored["linked again"] += 1
                    continue
                linked.add(level.identity)
            levels.append(level)

    def _file(self, path: str, entry: Entry) -> Iterator[Source]:
        if is_archive(entry.name) and os.path.isfile(path):  # noqa: PTH113
            yield from self._archive(path)
            return
        kind = kind_of_no_image(entry.name)
        # A link to nowhere stays a candidate: whoever made it expects to find it embedded.
        if kind is None and not (entry.is_file or entry.is_link):
            kind = "device, pipe or socket"
        if kind is None:
            yield PlainFile(path=path)
        else:
            self.ignored[kind] += 1


class _Level:
    """A folder on the way down, with the entries that are still to be looked at."""

    __slots__ = ("entries", "identity", "path")

    def __init__(self, path: str, listed: int) -> None:
        status = Path(path).stat()
        self.path = path
        self.identity = (status.st_dev, status.st_ino)
        self.entries: Iterator[Entry] = list_sorted(path, listed=listed)
