"""What to embed: the files and folders of a command line become candidate files, one at a time."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcr_infer.errors import BrokenImageError

_NOT_IMAGES = frozenset({
    ".7z", ".avi", ".bat", ".bz2", ".cfg", ".css", ".csv", ".db", ".doc", ".docx", ".dll", ".exe", ".gz", ".h5",
    ".hdf5", ".htm", ".html", ".ini", ".ipynb", ".js", ".json", ".jsonl", ".log", ".lz4", ".md", ".mov", ".mp4",
    ".nii", ".npy", ".npz", ".onnx", ".parquet", ".pdf", ".pickle", ".pkl", ".ppt", ".pptx", ".ps1", ".pt",
    ".pth", ".py", ".pyc", ".rar", ".rst", ".rtf", ".safetensors", ".sh", ".so", ".sqlite", ".sqlite3", ".tar",
    ".tgz", ".toml", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zip", ".zst",
})  # fmt: skip
"""Extensions that say clearly that a file is no image. DICOM files have any name, or a UID with dots for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One candidate: a file that was named, or that was found in a folder and may be an image."""

    path: str
    """As given on the command line, with the way inside a folder joined to it."""


class Sources:
    """The candidates of a command line, found anew in each iteration and never all held in memory.

    Named files are candidates whatever they are. Folders are walked in the order of their names: hidden entries, DICOMDIRs
    and files with the extension of something else are left out and counted in `ignored` by kind. A folder that cannot be
    listed is a candidate itself, so that reading it fails in its name. Linked folders are entered, but no two links lead
    into the same one and none into a folder above it.

    Raises `BrokenImageError` (`missing`) at once for a path that does not exist.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        for path in paths:
            try:
                Path(path or "\0").stat()  # Path("") would be the working folder
            except (OSError, ValueError) as error:
                why = (error.strerror if isinstance(error, OSError) else None) or "no path"
                raise BrokenImageError(f"{path!r}: {why}; expected a file or a folder", reason="missing") from error
        self._paths = tuple(paths)
        self.ignored: Counter[str] = Counter()
        """What the latest iteration has left out so far, by kind: an extension, `hidden`, `DICOMDIR`."""

    def __iter__(self) -> Iterator[Source]:
        """Yield the candidates in order, counting anew what is left out."""
        self.ignored.clear()
        return self._walk(self.ignored)

    def count(self) -> int:
        """Count the candidates by a walk of its own, which may run beside an iteration."""
        return sum(1 for _ in self._walk(Counter()))

    def _walk(self, ignored: Counter[str]) -> Iterator[Source]:
        for path in self._paths:
            if Path(path).is_dir():
                yield from _walk_folder(path, ignored)
            else:
                yield Source(path=path)


def _walk_folder(top: str, ignored: Counter[str]) -> Iterator[Source]:
    """Yield the candidates below a folder, depth first; one listing a level is held, and what has been seen is let go."""
    try:
        levels = [_Level(top)]
    except OSError:
        yield Source(path=top)
        return
    linked: set[tuple[int, int]] = set()
    while levels:
        if not levels[-1].entries:
            levels.pop()
            continue
        entry = levels[-1].entries.pop()
        if entry.name.startswith("."):
            ignored["hidden"] += 1
            continue
        try:
            if not entry.is_dir():
                kind = _kind_of_no_image(entry)
                if kind is None:
                    yield Source(path=entry.path)
                else:
                    ignored[kind] += 1
                continue
            level = _Level(entry.path)
        except OSError:
            yield Source(path=entry.path)
            continue
        if entry.is_symlink():
            if level.identity in linked or any(level.identity == above.identity for above in levels):
                ignored["linked again"] += 1
                continue
            linked.add(level.identity)
        levels.append(level)


class _Level:
    """A folder on the way down, with the entries that are still to be looked at, the last name first."""

    __slots__ = ("entries", "identity")

    def __init__(self, path: str) -> None:
        status = Path(path).stat()
        self.identity = (status.st_dev, status.st_ino)
        with os.scandir(path) as entries:
            self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)


def _kind_of_no_image(entry: "os.DirEntry[str]") -> str | None:
    """Return what a file clearly is instead of an image, or None; raises `OSError`."""
    if entry.name.upper() == "DICOMDIR":
        return "DICOMDIR"
    suffix = Path(entry.name).suffix.lower()
    if suffix in _NOT_IMAGES:
        return suffix
    # A link to nowhere stays a candidate: whoever made it expects to find it embedded.
    return None if entry.is_file() or entry.is_symlink() else "device, pipe or socket"
