"""The folder to which the relative paths of an index refer, so that files are found from any other folder, too.

a path, relative to the working folder -> stored -> relative to the root -> opened -> a path that this process can open

Where the working folder is not the root, an opened path is `ROOT/./PATH`: as in rsync, the dot marks where the stored part
begins, so that a row that is read and written again keeps its path.
"""

import os
import re

from mcr_infer.index.rows import loaded_path, stored_path

_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_DOTS = re.compile(r"/(?:\./)+")


def working_folder() -> str:
    """Return the absolute path of the working folder, without links; empty where it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - pathlib gives nothing more
    except FileNotFoundError:
        return ""


def shown(path: str | None) -> str | None:
    """Return an opened path as people write it, without the mark."""
    return None if path is None else _DOTS.sub("/", path)


class Root:
    """Translates paths between the working folder and the root of an index, while the working folder stays the same.

    Where the working folder is the root, and where the root is unknown, paths are stored and returned as they are.
    Absolute paths and URLs always are.
    """

    def __init__(self, folder: str) -> None:
        """`folder` is absolute, or empty where it is unknown."""
        here = working_folder() if folder else ""
        self.is_known = bool(folder) and (folder == here or os.path.isdir(folder))  # noqa: PTH112
        """False, too, where the folder is not there: files that were moved with their index are opened by relative paths."""
        self._here = here
        self._is_elsewhere = self.is_known and here != folder
        self._above = folder.rstrip("/") + "/"
        self._mark = self._above + "./"

    def stored(self, path: str | None) -> str | bytes | None:
        """Return what an index keeps of a path. Raises `UnicodeEncodeError`, see `stored_path`."""
        if path is None or not self.is_known:
            return stored_path(path)
        if path.startswith(self._mark):
            return stored_path(path.removeprefix(self._mark))
        if not self._is_elsewhere or not self._here or not _is_relative(path):
            return stored_path(path)
        above, rest = self._here, path
        while (step := rest.partition("/"))[0] in ("", ".", "..") and step[1]:
            above, rest = os.path.dirname(above) if step[0] == ".." else above, step[2]  # noqa: PTH120
        return stored_path(os.path.join(above, rest).removeprefix(self._above))  # noqa: PTH118

    def opened(self, path: str | bytes | None) -> str | None:
        """Return a stored path as this process opens it."""
        loaded = loaded_path(path)
        return self._mark + loaded if loaded and self._is_elsewhere and _is_relative(loaded) else loaded


def _is_relative(path: str) -> bool:
    return not path.startswith("/") and _URL.match(path) is None
