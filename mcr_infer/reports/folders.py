"""Folders of reports: every .txt file below a folder is one report."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

from mcr_infer.folders import Entry, walk_folder
from mcr_infer.reports.lines import encoding_of
from mcr_infer.reports.records import LONGEST, ReportFailure, ReportRecord

_LARGEST = 4 * LONGEST + 4
"""Bytes that `LONGEST` characters take at most, with a byte order mark."""


def read_folder(folder: Path, *, ignored: Counter[str]) -> Iterator[ReportRecord | ReportFailure]:
    """Yield the reports of a folder in the order of their paths, and count in `ignored` by kind what is no .txt file.

    A report is its file: the id is the file's URI (RFC 8089), of its real path, and stays when its words change.
    """
    for path, found in walk_folder(str(folder), ignored=ignored):
        if isinstance(found, OSError):
            why = found.strerror or type(found).__name__
            yield ReportFailure(path=path, reason="unreadable", error=f"the folder cannot be listed: {why}")
        elif (kind := _kind_of_no_report(path, found)) is None:
            yield _read(path, os.path.relpath(path, folder))
        else:
            ignored[kind] += 1


def _kind_of_no_report(path: str, entry: Entry) -> str | None:
    """Return what an entry is instead of a report, or None."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    if not (entry.is_file or entry.is_link):
        return "device, pipe or socket"
    # A link to nowhere may be a folder of reports: whoever made it expects to find them embedded.
    if suffix == ".txt" or (not suffix and entry.is_link and not os.path.exists(path)):  # noqa: PTH110
        return None
    return suffix or "no extension"


def _read(path: str, way: str) -> ReportRecord | ReportFailure:
    try:
        file = Path(path)
        # Opening a named pipe, which a link can lead to, would wait for a writer for ever.
        if not S_ISREG(file.stat().st_mode):
            return ReportFailure(path=path, reason="unreadable", error="a device, pipe or socket, expected a file")
        with file.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        return ReportFailure(path=path, reason="missing", error="does not exist: it was deleted, or is a dangling link")
    except OSError as exc:
        return ReportFailure(path=path, reason="unreadable", error=f"cannot be read: {exc.strerror}")
    encoding = encoding_of(data)
    try:
        text = data.decode(encoding) if len(data) <= _LARGEST else ""
    except UnicodeDecodeError as exc:
        name = encoding.removesuffix("-sig").upper()
        return ReportFailure(path=path, reason="encoding", error=f"not {name} at byte {exc.start}")
    if len(data) > _LARGEST or len(text) > LONGEST:
        return ReportFailure(path=path, reason="too_large", error=f"has more than {LONGEST} characters")
    if "\0" in text:
        return ReportFailure(
            path=path, reason="encoding", error=f"NUL at character {text.index(chr(0))}: not UTF-8 text"
        )
    source = os.path.realpath(path)
    former = Path(way).with_suffix("").as_posix()
    return ReportRecord(id=Path(source).as_uri(), text=text, path=path, source=source, former_id=former or None)
