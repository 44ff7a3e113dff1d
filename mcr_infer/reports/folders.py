"""Folders of reports: every .txt file below a folder is one report."""

import os
from collections.abc import Iterator
from pathlib import Path

from mcr_infer.reports.records import ReportFailure, ReportRecord


def read_folder(folder: Path) -> Iterator[ReportRecord | ReportFailure]:
    """Yield the reports of a folder in the order of their paths; the id is the relative path without `.txt`."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(parent, name)
            if path.suffix.lower() != ".txt":
                continue
            try:
                text = path.read_text(encoding="utf-8-sig")
            except OSError as exc:
                yield ReportFailure(path=str(path), reason="unreadable", error=f"cannot be read: {exc.strerror}")
                continue
            except UnicodeDecodeError as exc:
                yield ReportFailure(path=str(path), reason="encoding", error=f"not UTF-8 at byte {exc.start}")
                continue
            yield ReportRecord(id=path.relative_to(folder).with_suffix("").as_posix(), text=text, path=str(path))
