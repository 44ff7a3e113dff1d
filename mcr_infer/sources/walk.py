"""One walk through what a command line names: folders downwards, archives inwards, a PACS level by level."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcr_infer.errors import BrokenImageError, ConfigError, ImageError
from mcr_infer.folders import Entry, walk_folder
from mcr_infer.sources.dicomdir import read_dicomdir
from mcr_infer.sources.dicomweb.address import PacsAccess, PacsAddress, is_pacs, without_secrets
from mcr_infer.sources.file_names import is_archive, is_dicomdir, is_zip, kind_of_no_image
from mcr_infer.sources.name_list import NameList
from mcr_infer.sources.source import Failed, PlainFile, Source
from mcr_infer.sources.tar_archive import is_compressed, read_tar
from mcr_infer.sources.zip_archive import read_zip

if TYPE_CHECKING:
    from mcr_infer.sources.dicomweb.service import Service


class Uncountable(Exception):
    """What a walk meets can only be counted by reading it; raised by a walk that only counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """How one iteration goes, and what it has left out so far."""

    largest: int
    """Bytes that a member of an archive may have once it is unpacked."""
    listed: int
    """Entries of one folder that are held at once."""
    services: "Services"
    """The PACSs that addresses lead to."""
    ignored: Counter[str]
    """Filled on the way."""
    counting: bool = False
    """Only the number of candidates matters: nothing is read that a number is not worth."""

    def named(self, path: str) -> Iterator[Source]:
        """Yield the candidates of one name of the command line."""
        if is_pacs(path):
            yield from self._pacs(path)
        elif Path(path).is_dir():
            yield from self._folder(path)
        elif is_archive(path):
            yield from self._archive(path)
        elif is_dicomdir(os.path.basename(path)):  # noqa: PTH119
            yield from _up_to_failure(path, read_dicomdir(path, ignored=self.ignored))
        else:
            yield PlainFile(path=path)

    def listed_names(self, names: NameList) -> Iterator[Source]:
        """Yield the candidates of each name of a list."""
        try:
            for name in names:
                yield from self.named(name)
        except ImageError as error:
            yield Failed(path=names.path, error=error)

    def _pacs(self, text: str) -> Iterator[Source]:
        if self.counting:
            raise Uncountable
        try:
            address = PacsAddress.parse(text)
            service = self.services.of(address)
        except ConfigError as error:
            yield Failed(path=without_secrets(text), error=BrokenImageError(str(error), reason="pacs_address"))
            return
        yield from _up_to_failure(address.shown, service.find(address, ignored=self.ignored))

    def _archive(self, path: str) -> Iterator[Source]:
        """Yield the members of an archive; where it ends in a failure, the failure comes last, in its name."""
        if is_zip(path):
            yield from _up_to_failure(path, read_zip(path, largest=self.largest, ignored=self.ignored))
        elif self.counting and is_compressed(path):
            raise Uncountable
        else:
            yield from _up_to_failure(path, read_tar(path, largest=self.largest, ignored=self.ignored))

    def _folder(self, top: str) -> Iterator[Source]:
        """Yield the candidates below a folder, depth first."""
        for path, found in walk_folder(top, listed=self.listed, ignored=self.ignored):
            if isinstance(found, OSError):
                yield _not_listed(path, found)
                continue
            try:
                yield from self._file(path, found)
            except OSError as error:
                yield _not_listed(path, error)

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


class Services:
    """The PACSs of a command line, one connection each."""

    def __init__(self, access: PacsAccess, *, largest: int) -> None:
        self._access, self._largest = access, largest
        self._known: dict[str, Service] = {}

    def of(self, address: PacsAddress) -> "Service":
        """Return the service that an address belongs to. Raises `ConfigError`."""
        if address.service not in self._known:
            from mcr_infer.sources.dicomweb.service import Service

            self._known[address.service] = Service(address, self._access, largest=self._largest)
        return self._known[address.service]

    def cancel(self) -> None:
        """Let every request end at once. May be called from a signal handler."""
        for service in list(self._known.values()):
            service.cancel()


def _up_to_failure(path: str, found: Iterator[Source]) -> Iterator[Source]:
    """Yield what is found; where that ends in a failure, the failure comes last, in the name of `path`."""
    try:
        yield from found
    except ImageError as error:
        yield Failed(path=path, error=error)


def _not_listed(path: str, error: OSError) -> Failed:
    why = error.strerror or type(error).__name__
    return Failed(path=path, error=BrokenImageError(f"the folder cannot be listed: {why}", reason="unreadable"))
