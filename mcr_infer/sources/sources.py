"""The candidates of a command line, found while they are asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcr_infer.errors import BrokenImageError
from mcr_infer.sources.listing import LISTED
from mcr_infer.sources.source import Source
from mcr_infer.sources.walk import Uncountable, Walk

LARGEST = 2 << 30
"""Bytes that a member of an archive, or an instance of a PACS, may have once it is unpacked."""


class Sources:
    """The candidates of a command line, found anew in each iteration and never all held in memory.

    Named files are candidates whatever they are. Folders are walked in the order of their names: hidden entries, DICOMDIRs
    and files with the extension of something else are left out and counted in `ignored` by kind. A folder that cannot be
    listed is a candidate itself, so that reading it fails in its name. Linked folders are entered, but no two links lead
    into the same one and none into a folder above it. Archives, named or found in a folder, are opened, and their members
    are treated like files in a folder; archives inside archives are left out. A damaged archive is a failure in its name.

    Raises `BrokenImageError` (`missing`) at once for a path that does not exist.
    """

    def __init__(self, paths: Sequence[str], *, largest: int = LARGEST, listed: int = LISTED) -> None:
        for path in paths:
            try:
                Path(path or "\0").stat()  # Path("") would be the working folder
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or "no path"
                raise BrokenImageError(f"{path!r}: {why}; expected a file or a folder", reason="missing") from error
        self._paths = tuple(paths)
        self._largest, self._listed = largest, listed
        self.ignored: Counter[str] = Counter()
        """What the latest iteration has left out so far, by kind: an extension, `hidden`, `DICOMDIR`."""

    def __iter__(self) -> Iterator[Source]:
        """Yield the candidates in order, counting anew what is left out."""
        self.ignored.clear()
        return self._walk(Walk(largest=self._largest, listed=self._listed, ignored=self.ignored))

    def count(self) -> int | None:
        """Count the candidates by a walk of its own, which may run beside an iteration.

        None where only reading everything can tell: compressed tar archives.
        """
        try:
            walk = Walk(largest=self._largest, listed=self._listed, ignored=Counter(), counting=True)
            return sum(1 for _ in self._walk(walk))
        except Uncountable:
            return None

    def _walk(self, walk: Walk) -> Iterator[Source]:
        for path in self._paths:
            yield from walk.named(path)
