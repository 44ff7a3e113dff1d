"""What was measured earlier and lies in `results/` as JSON, in the shape of the report.

Each benchmark that writes a JSON document of its own has a reader here, in one of the modules
`earlier_*`; a document that is not there is no part of the report, one that cannot be read is an error, since it would be
missing without a word.
"""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.earlier_archives import ARCHIVES
from benchmarks.earlier_card import CARDS
from benchmarks.earlier_likeness import LIKENESS
from benchmarks.earlier_quality import QUALITY
from benchmarks.earlier_queries import QUERIES
from benchmarks.earlier_recall import SEARCH
from benchmarks.earlier_speed import SPEED
from benchmarks.part import Part

ROOT = Path(__file__).parents[1]

READERS: Mapping[str, Callable[[Any, str], Part]] = {
    **CARDS,
    **ARCHIVES,
    **SPEED,
    **QUALITY,
    **QUERIES,
    **SEARCH,
    **LIKENESS,
}
"""By the path of the document within the checkout."""


def earlier_parts(root: Path = ROOT) -> tuple[Part, ...]:
    """Return a part for each document that is there. Raises `ValueError` for one that does not hold what it should."""
    days = committed_on(root)
    return tuple(
        _read(root, path, reader, days.get(path, "")) for path, reader in READERS.items() if (root / path).is_file()
    )


def committed_on(root: Path) -> dict[str, str]:
    """Return the day of the last commit of each document; none outside of a checkout, or where git is not installed."""
    words = ["git", "-C", str(root), "log", "--format=:%cs", "--name-only", "--relative", "--", *READERS]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return {}
    days: dict[str, str] = {}
    day = ""
    for line in told.splitlines():
        if line.startswith(":"):
            day = line[1:]
        elif line:
            days.setdefault(line, day)
    return days


def _read(root: Path, path: str, reader: Callable[[Any, str], Part], day: str) -> Part:
    text = (root / path).read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.endswith(".json") else text
        return reader(values, taken(values, path, day))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: no document of this benchmark: {error!r}; measure it again, or mend its reader"
        ) from error


def taken(values: Any, path: str, day: str = "") -> str:
    """Return where a document lies, when it was committed, and what it says about its machine; a text says nothing."""
    place = f"{path}, committed {day}" if day else path
    if not isinstance(values, Mapping):
        return place
    machine = values.get("machine", {})
    told = [
        machine.get("processor") or values.get("cpu", ""),
        _cores(machine.get("cores") or values.get("cores")),
        machine.get("system", ""),
        values.get("runtime") or _version(machine, "onnxruntime"),
        f"bundle {values['bundle']}" if isinstance(values.get("bundle"), str) else "",
    ]
    return f"{place}: {', '.join(filter(None, told)) or 'it does not say on which machine'}"


def _cores(count: int | None) -> str:
    return "" if count is None else f"{count} core{'s' if count > 1 else ''}"


def _version(machine: Mapping[str, Any], name: str) -> str:
    found = machine.get("packages", {}).get(name)
    return f"{name} {found}" if found else ""
