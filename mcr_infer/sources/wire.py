"""A source crosses over to another process as plain JSON and is made again there."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mcr_infer.sources.source import LocalSource, PlainFile
from mcr_infer.sources.tar_archive import TarMember
from mcr_infer.sources.zip_archive import ZipMember

_KINDS: Mapping[str, type[LocalSource]] = MappingProxyType(
    {kind.kind: kind for kind in (PlainFile, TarMember, ZipMember)}
)


def source_from_dict(told: Mapping[str, Any]) -> LocalSource:
    """Make the source again of which `LocalSource.to_dict` told. It stands for the same bytes as long as they lie there."""
    return _KINDS[told["kind"]](**{name: value for name, value in told.items() if name != "kind"})
