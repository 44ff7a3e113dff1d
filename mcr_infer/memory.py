"""What this user's cache folder remembers from one command to the next: small records in JSON that nobody else can read.

A record is believed only where nobody else can have written it, and whoever reads one checks what it says. Where there is
no such folder, or it cannot be written, nothing is remembered: slower, and never wrong.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mcr_infer.durable import replace_file

_RECORD_LIMIT = 10_000
"""Bytes of a record."""


def memory_folder(name: str) -> Path | None:
    """Return the folder of one kind of records, of this user alone; None where the user has no home."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # which is then to be ignored. Source: XDG Base Directory Specification.
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "mcr-infer" / name


def recall(record: Path) -> dict[str, object] | None:
    """Read a record; None where there is none, it is damaged, or others may write what they want into it."""
    try:
        with record.open("rb") as file:
            seen = os.fstat(file.fileno())
            content = file.read(_RECORD_LIMIT)
        values = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return None
    if seen.st_uid != os.geteuid() or seen.st_mode & 0o022 or not isinstance(values, dict):
        return None
    return values


def remember(record: Path, values: Mapping[str, object]) -> None:
    """Write a record that its owner alone may read (0600), at once or not at all. Raises `OSError`."""
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(record, (json.dumps(values) + "\n").encode(), private=True)
