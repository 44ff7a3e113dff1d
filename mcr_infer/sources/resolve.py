"""Sources by path and by their JSON: whether a stored path still leads to a file, and a source made again in a worker.

The first tells an image that moved from one that exists twice. The second takes a source to another process.
"""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mcr_infer.errors import ImageError
from mcr_infer.sources.dicomweb.address import is_pacs
from mcr_infer.sources.file_names import is_archive, is_zip
from mcr_infer.sources.source import LocalSource, PlainFile
from mcr_infer.sources.tar_archive import TarMember
from mcr_infer.sources.zip_archive import ZipMember, zip_holds

_LARGEST_DIRECTORY = 4 << 20
"""Bytes of a zip directory that are searched for a member: some 40,000 members, some 50 ms."""


def exists(path: str) -> bool:
    """True where a file, a member of an archive or an instance of a PACS is still there, as far as that is cheap to know.

    An instance of a PACS is there: asking would cost a request. A member of an archive is there if its archive is, and,
    for a zip archive with a directory of at most 4 MiB, if that still names it.
    """
    if is_pacs(path) or os.path.lexists(path):
        return True
    parts = path.split("/")
    for end in range(len(parts) - 1, 0, -1):
        archive, way = "/".join(parts[:end]), "/".join(parts[end:])
        if is_archive(archive) and os.path.isfile(archive):  # noqa: PTH113 - Path would change the spelling
            return not is_zip(archive) or _zip_holds(archive, way)
    return False


def _zip_holds(archive: str, way: str) -> bool:
    try:
        return zip_holds(archive, way, most_bytes=_LARGEST_DIRECTORY)
    except (ImageError, OSError):
        return True  # what cannot be read is not known to be gone


_KINDS: Mapping[str, type[LocalSource]] = MappingProxyType(
    {kind.kind: kind for kind in (PlainFile, TarMember, ZipMember)}
)


def source_from_dict(told: Mapping[str, Any]) -> LocalSource:
    """Make the source again of which `LocalSource.to_dict` told. It stands for the same bytes as long as they lie there."""
    return _KINDS[told["kind"]](**{name: value for name, value in told.items() if name != "kind"})
