"""Mutated bundles and indexes: each is a folder of which one file is changed, with digests that match or do not."""

import hashlib
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import LONG_EDGES, case_random, edge, mutate_bytes

_ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 1e308, float("nan"), "", "x" * 5000, "../../etc/passwd", "\0",
    [], {}, [[]],
    {"a": 1}, "0" * 64, 0.5, "fp32", [1, 2, 3], "\ud800",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Changed:
    """What was done to a folder."""

    mutations: tuple[str, ...]
    trusted: bool
    """Digests were made to match: then other rows than the true ones are no fault, a crash still is."""


def change_folder(seed: int, format: str, number: int, folder: Path, manifest: str) -> Changed:
    """Change one file of a folder whose digests are in a JSON file, the manifest itself among them."""
    rng = case_random(seed, format, number)
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    )
    name = manifest if rng.random() < 0.25 else rng.choice(names)
    path = folder / name
    before = path.read_bytes()
    if name.endswith(".json") and rng.random() < 0.85:
        after, how = _change_json(rng, before)
    elif name.endswith(".sqlite") and rng.random() < 0.5:
        after, how = _change_pages(rng, before)
    else:
        after, how = mutate_bytes(rng, before, (folder / rng.choice(names)).read_bytes())
    path.write_bytes(after)
    trusted = rng.random() < 0.7
    if trusted and not name.endswith(".sqlite"):
        _match(folder, name, before, after, manifest)
    else:
        trusted = False
    return Changed(
        (f"{path.suffix[1:] or name} {how}", "digests match" if trusted else "digests as they were"), trusted
    )


def _change_json(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Change a value, a key or the nesting of a JSON document."""
    document = json.loads(data)
    places = list(_places(document))
    if not places:
        return mutate_bytes(rng, data, data[::-1])
    holder, key = rng.choice(places)
    how = rng.choice(("value", "value", "number", "drop", "rename", "nest", "repeat"))
    value = holder[key]
    match how:
        case "number" if isinstance(value, int) and not isinstance(value, bool):
            holder[key] = edge(rng, value, LONG_EDGES) * rng.choice((1, 1, -1))
        case "drop":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[str(rng.choice(_ODD))] = holder.pop(key)
        case "nest":
            for _ in range(rng.choice((1, 3, 500))):
                value = [value]
            holder[key] = value
        case "repeat" if isinstance(value, list):
            value *= rng.choice((2, 50))
        case _:
            holder[key] = rng.choice(_ODD)
    return json.dumps(document).encode(), f"json {how}"


def _places(value: Any) -> "Any":
    """Yield every place of a document: what holds it and its key."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _change_pages(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Change the pages of an SQLite file (its file format, 1.2 to 1.6): headers of the file and of b-trees, cells, order."""
    size = int.from_bytes(data[16:18], "big") or 4096
    pages = [data[at : at + size] for at in range(0, len(data), size)]
    at, other = rng.randrange(len(pages)), rng.randrange(len(pages))
    how = rng.choice(("file header", "page header", "cell", "exchange", "repeat", "zeros", "drop"))
    match how:
        case "file header":
            place = rng.choice((16, 18, 19, 20, 21, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 64, 68, 92, 96))
            pages[0] = pages[0][:place] + bytes([rng.randrange(256)]) + pages[0][place + 1 :]
        case "page header":
            place = (100 if at == 0 else 0) + rng.choice((0, 1, 3, 5, 7, 8, 9, 10, 11, 12))
            pages[at] = pages[at][:place] + bytes([rng.choice((0, 2, 5, 10, 13, 255))]) + pages[at][place + 1 :]
        case "cell":
            pages[at] = (
                pages[at][: size // 2] + mutate_bytes(rng, pages[at][size // 2 :], pages[other])[0][: size - size // 2]
            )
            pages[at] = pages[at].ljust(size, b"\0")
        case "exchange":
            pages[at], pages[other] = pages[other], pages[at]
        case "repeat":
            pages[at] = pages[other]
        case "zeros":
            pages[at] = bytes(size)
        case _:
            del pages[at]
    return b"".join(pages), f"sqlite {how}"


def _match(folder: Path, name: str, before: bytes, after: bytes, manifest: str) -> None:
    """Let the digests say what the changed file holds; a file that is called by its digest gets its new name."""
    path = folder / manifest
    old, new = hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest()
    if name != manifest:
        if old[:16] in name:
            (folder / name).rename(folder / name.replace(old[:16], new[:16]))
        document = json.loads(path.read_bytes())
        for holder, key in list(_places(document)):
            if holder[key] == old:
                holder[key] = new
                if "bytes" in holder:
                    holder["bytes"] = len(after)
    else:
        try:
            document = json.loads(after)
        except ValueError:
            return
    if isinstance(document, dict) and "digest" in document:
        del document["digest"]
        document["digest"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(document))


def fresh_copy(original: Path, copy: Path) -> Path:
    """Put a copy of a folder in the place of what is there."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    return copy
