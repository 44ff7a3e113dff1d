"""Rows whose file is gone, and whether they can be believed to be: an unmounted share looks as if all of it were deleted.

paths of rows -> presence -> Gone -> Index.delete_rows, unless `Gone.doubt` says why not
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index.protocols import IndexReader
from mcr_infer.index.root import shown
from mcr_infer.index.row_selection import SHOWN, Deletion
from mcr_infer.index.rows import Row
from mcr_infer.index.search import Hit

MOST = 0.1
"""Share of the rows that can go without being asked for: a night deletes few files of an archive."""

_ROW = re.compile(r":\d+$")


def presence(path: str | None, kind: str, *, rooted: bool = False) -> bool | None:
    """Return whether the file that gave a row is there; None where that cannot be told.

    So it is where no path was kept, for an instance of a PACS, and, unless the index is `rooted` (`Index.finds_files`), for
    a relative path of which not even the first part is in the working folder: it was given in another one. A row of a table
    is there if its table is, a member of an archive if its archive is.
    """
    if path is None:
        return None
    file = path if kind == "image" or os.path.lexists(path) else _ROW.sub("", path)
    if os.path.lexists(file):
        return True
    from mcr_infer.sources.dicomweb.address import is_pacs  # a plain query, whose files are there, does without

    if is_pacs(path):
        return None
    if _archive_of(file) is not None:
        return True
    start = next((part for part in file.split("/") if part not in ("", ".")), "")
    if not rooted and not os.path.isabs(file) and not os.path.lexists(start):  # noqa: PTH117
        return None
    return False


def find_file(
    index: IndexReader, row: Row | Hit, look: Callable[[str | None, str], bool | None] | None = None
) -> tuple[str | None, bool | None]:
    """Return the path by which the image or report of a row can be found, and whether it is there (see `presence`).

    That is the path of the row, unless its file is gone and another one that is known to hold the same is there. `look`
    answers in place of `presence`. To be called inside `index.snapshot`.
    """
    look = look or partial(presence, rooted=index.finds_files)
    there = look(row.path, row.kind)
    if there is False:
        for twin in index.files(row.kind, row.id):
            path = _path_of(twin.path, row.kind)
            if look(path, row.kind):
                return shown(path), True
    return shown(row.path), there


def file_of_source(source: str) -> str | None:
    """Return the file of a source of a report such as `/data/reports.csv/12`, None where it is not there any more."""
    while source and source != os.path.dirname(source):  # noqa: PTH120
        if os.path.isfile(source):  # noqa: PTH113
            return source
        source = os.path.dirname(source)  # noqa: PTH120
    return None


def _path_of(source: str, kind: str) -> str:
    """Return where a file was seen as rows have it: for a row of a table `TABLE:ROW`, or the table where it had an id."""
    if kind == "image" or (file := file_of_source(source)) is None:
        return source
    row = source[len(file) + 1 :]
    return f"{file}:{row}" if row.isdecimal() else file


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gone:
    """Rows of some kinds whose file is gone."""

    deletion: Deletion
    """Their deletion, planned."""

    rows: Mapping[str, int]
    """How many rows of each kind there are."""

    untold: Mapping[str, int]
    """Of how many rows of each kind it cannot be told whether their file is there, by kind."""

    doubt: str | None
    """Why their files may be there after all; None where nothing speaks for it."""


def find_gone(index: IndexReader, kinds: Collection[str]) -> Gone:
    """Find the rows whose file is gone, and of which no other file is known to hold the same; every path is looked up.

    Raises `IndexCorruptError`.
    """
    labels: dict[str, NDArray[np.int64]] = {}
    examples: dict[str, Sequence[str]] = {}
    rows, untold, studies = {}, {}, set()
    paths: defaultdict[bool, set[str]] = defaultdict(set)
    """Folders of rows, by whether the row is gone."""
    look = lru_cache(1024)(partial(presence, rooted=index.finds_files))  # many rows of one table
    with index.snapshot():
        for kind in kinds:
            found, ids, unknown = [], [], 0
            all_labels = index.labels(kind)
            for label, row in index.scan(kind, all_labels):
                path, there = find_file(index, row, look)
                unknown += there is None
                if there is not None and path is not None:
                    paths[not there].add(_folder_of(path))
                if there is False:
                    found.append(label)
                    ids.append(row.id)
                    studies.add(row.study_uid)
            labels[kind], examples[kind] = np.array(found, dtype=np.int64), ids[:SHOWN]
            rows[kind], untold[kind] = len(all_labels), unknown
    deletion = Deletion(labels=labels, shown=examples, studies=len(studies - {None}))
    return Gone(deletion=deletion, rows=rows, untold=untold, doubt=_doubt(deletion, rows, paths[True], paths[False]))


def _doubt(deletion: Deletion, rows: Mapping[str, int], gone: set[str], there: set[str]) -> str | None:
    """Return why rows may not be gone: their root is missing, a folder above is empty, or they are too many."""
    if not gone:
        return None
    root = os.path.commonpath([os.path.abspath(path) for path in gone | there])  # noqa: PTH100
    for folder in (root, *sorted(gone)):
        above = os.path.abspath(folder)  # noqa: PTH100
        while not os.path.isdir(above):  # noqa: PTH112
            above = os.path.dirname(above)  # noqa: PTH120
        missing = above != os.path.abspath(folder)  # noqa: PTH100
        if folder == root and missing:
            return f"{root}, the common folder of all files, is not there: is its share mounted?"
        # A folder whose files were deleted is empty, too; but then it is the very folder of the files.
        if (missing or folder == root) and not os.listdir(above):  # noqa: PTH208
            return f"{above} is an empty folder, and files of the index were below it: is its share mounted?"
    for kind, count in deletion.counts.items():
        if count > MOST * rows[kind]:
            return f"{count} of {rows[kind]} {kind} rows would go, more than {MOST:.0%}"
    return None


def _folder_of(path: str) -> str:
    """Return the folder of a file, of a table or of the archive that a member is in."""
    from mcr_infer.sources.file_names import is_archive

    parts = _ROW.sub("", path).split("/")
    ends = (end for end in range(1, len(parts)) if is_archive("/".join(parts[:end])))
    return "/".join(parts[: next(ends, len(parts)) - 1]) or ("/" if path.startswith("/") else "")


def _archive_of(path: str) -> str | None:
    """Return the archive that holds a member by this path, None where there is none."""
    from mcr_infer.sources.file_names import is_archive

    parts = path.split("/")
    for end in range(len(parts) - 1, 0, -1):
        archive = "/".join(parts[:end])
        if is_archive(archive) and os.path.isfile(archive):  # noqa: PTH113
            return archive
    return None
