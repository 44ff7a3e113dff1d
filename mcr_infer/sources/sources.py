"""The candidates of a command line, found while they are asked for."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mcr_infer.errors import BrokenImageError
from mcr_infer.folders import LISTED
from mcr_infer.sources.dicomweb.address import PacsAccess, PacsAddress, is_pacs
from mcr_infer.sources.name_list import NameList
from mcr_infer.sources.source import Source
from mcr_infer.sources.walk import Services, Uncountable, Walk

LARGEST = 2 << 30
"""Bytes that a member of an archive, or an instance of a PACS, may have once it is unpacked."""


class Sources:
    """The candidates of a command line, found anew in each iteration and never all held in memory.

    Named files are candidates whatever they are. Folders are walked in the order of their names: hidden entries, DICOMDIRs
    and files with the extension of something else are left out and counted in `ignored` by kind. A folder that cannot be
    listed is a failure in its name. Linked folders are entered, but no two links lead
    into the same one and none into a folder above it. Archives, named or found in a folder, are opened, and their members
    are treated like files in a folder; archives inside archives are left out. A DICOMDIR that is named stands for the
    images that it refers to, and the address of a PACS for what is found there. What turns out to be damaged on the way is
    a failure in its name, and what follows is found all the same.

    Names of a list come after the paths, and one that is not there is a failure of its own.

    Raises `BrokenImageError` (`missing`) at once for a path that does not exist, and `ConfigError` for a PACS that cannot be
    asked as things are.
    """

    def __init__(
        self,
        paths: Sequence[str] = (),
        *,
        names: NameList | None = None,
        pacs: PacsAccess | None = None,
        largest: int = LARGEST,
        listed: int = LISTED,
    ) -> None:
        self._services = Services(pacs or PacsAccess(), largest=largest)
        for path in paths:
            if is_pacs(path):
                self._services.of(PacsAddress.parse(path))
                continue
            try:
                Path(path or "\0").stat()  # Path("") would be the working folder
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or "no path"
                raise BrokenImageError(f"{path!r}: {why}; expected a file or a folder", reason="missing") from error
        self._paths, self._names = tuple(paths), names
        self._largest, self._listed = largest, listed
        self.ignored: Counter[str] = Counter()
        """What the latest iteration has left out so far, by kind: an extension, `hidden`, `DICOMDIR`."""

    def __iter__(self) -> Iterator[Source]:
        """Yield the candidates in order, counting anew what is left out."""
        self.ignored.clear()
        return self._walk(self._start(self.ignored))

    def count(self) -> int | None:
        """Count the candidates by a walk of its own, which may run beside an iteration.

        None where only reading everything can tell: names on standard input, compressed tar archives, a PACS.
        """
        if self._names is not None and self._names.once:
            return None
        try:
            return sum(1 for _ in self._walk(self._start(Counter(), counting=True)))
        except Uncountable:
            return None

    def cancel(self) -> None:
        """Wait for no PACS any more: what is asked of one fails at once. May be called from a signal handler."""
        self._services.cancel()

    def _start(self, ignored: Counter[str], *, counting: bool = False) -> Walk:
        return Walk(
            largest=self._largest, listed=self._listed, services=self._services, ignored=ignored, counting=counting
        )

    def _walk(self, walk: Walk) -> Iterator[Source]:
        for path in self._paths:
            yield from walk.named(path)
        if self._names is not None:
            yield from walk.listed_names(self._names)
