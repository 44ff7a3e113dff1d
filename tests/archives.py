"""Archives with few members, and what reading them gives."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from mcr_infer.errors import ImageError
from mcr_infer.sources import LocalSource, Source, source_from_dict

TARS = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tgz": "w:gz", "a.tar.bz2": "w:bz2", "a.tar.xz": "w:xz"}
MEMBERS = {"study/1.dcm": b"A" * 5000, "study/2.dcm": bytes(range(256)) * 9, "3.dcm": b"C"}


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return path


def member(name: str, size: int) -> tarfile.TarInfo:
    told = tarfile.TarInfo(name)
    told.size = size
    return told


def through_json(source: Source) -> Source:
    """Return the source as another process would have it; one that stays in its process as it is."""
    return source_from_dict(json.loads(json.dumps(source.to_dict()))) if isinstance(source, LocalSource) else source


def read(sources: Iterable[Source]) -> dict[str, bytes | str]:
    """Read every source; a failure becomes its reason."""
    found: dict[str, bytes | str] = {}
    for source in sources:
        try:
            with through_json(source).open() as stream:
                found[source.path] = stream.read()
        except ImageError as error:
            found[source.path] = error.reason
    return found
