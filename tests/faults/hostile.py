"""Graph files that were made to crash hnswlib, in a folder whose digests all match: whoever made it could compute them, too.

hnswlib 0.8 believes what a file says: how many elements, where to begin, where each link leads. What is refused before it
loads the file is made again from the store. Of what is not refused only this is asked: that the process lives, and that
each hit is a row of the index with the cosine that it has. Somebody who can write to the folder can still hide rows.
"""

import hashlib
import math
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from mcr_infer.index import Index, search
from mcr_infer.index.graph import M
from mcr_infer.index.manifest import Manifest, Snapshot
from tests.faults.inspection import RIGHT, WRONG, Findings, expect, inspect, part, ranking, warm
from tests.faults.outcome import Outcome
from tests.faults.process import DiedError, isolated
from tests.faults.sample import DIM, LIMIT, State, make, unit

HEADER = struct.Struct("<6QiI3QdQ")
FIELDS = (
    "offset", "capacity", "elements", "stride", "label_at", "vector_at", "top", "entry", "higher", "lowest", "m", "factor",
    "breadth",
)  # fmt: skip
STRIDE = 8 * M + 4 + 4 * DIM + 8

Craft = Callable[[bytearray, int], None]
"""Changes a graph file of so many elements in place."""


def in_header(**values: float) -> Craft:
    """Put values into the header."""

    def craft(content: bytearray, _: int) -> None:
        fields = dict(zip(FIELDS, HEADER.unpack_from(content), strict=True)) | values
        HEADER.pack_into(content, 0, *(fields[name] for name in FIELDS))

    return craft


def in_node(node: int, offset: int, form: str, value: int) -> Craft:
    """Put a value into a node of the lowest level."""
    return lambda content, _: struct.pack_into(form, content, HEADER.size + node * STRIDE + offset, value)


def in_first_higher(offset: int, form: str, value: int) -> Craft:
    """Put a value into the links of the first node that reaches a higher level, from their size on."""

    def craft(content: bytearray, elements: int) -> None:
        at = HEADER.size + elements * STRIDE
        while not struct.unpack_from("<I", content, at)[0]:
            at += 4
        struct.pack_into(form, content, at + offset, value)

    return craft


def entry_below(content: bytearray, elements: int) -> None:
    """Let searches begin at a node that does not reach the highest level."""
    at = HEADER.size + elements * STRIDE
    levels = []
    for _ in range(elements):
        (size,) = struct.unpack_from("<I", content, at)
        levels.append(size)
        at += 4 + size
    in_header(entry=levels.index(0))(content, elements)


def label_twice(content: bytearray, _: int) -> None:
    """Give two nodes one label."""
    one, other = (HEADER.size + node * STRIDE for node in (3, 4))
    content[one + STRIDE - 8 : one + STRIDE] = content[other + STRIDE - 8 : other + STRIDE]


def cut_after(share: float) -> Craft:
    """Cut the file."""

    def craft(content: bytearray, _: int) -> None:
        del content[int(len(content) * share) :]

    return craft


CRAFTED: Mapping[str, tuple[Craft, Mapping[str, int]]] = {
    "2^40 elements": (in_header(elements=2**40, capacity=2**40), {"elements": 2**40}),
    "one element more": (in_header(elements=151, capacity=151), {"elements": 151}),
    "no elements": (in_header(elements=0), {"elements": 0}),
    "capacity of 2^60": (in_header(capacity=2**60), {}),
    "capacity below the elements": (in_header(capacity=1), {}),
    "entry point out of range": (in_header(entry=2**32 - 1), {}),
    "entry point below the highest level": (entry_below, {}),
    "highest level of a million": (in_header(top=10**6), {}),
    "highest level below 0": (in_header(top=-5), {}),
    "elements of 0 bytes": (in_header(stride=0), {}),
    "elements of 2^50 bytes": (in_header(stride=2**50), {}),
    "label at 2^40": (in_header(label_at=2**40), {}),
    "vector at 2^40": (in_header(vector_at=2**40), {}),
    "level 0 at 2^40": (in_header(offset=2**40), {}),
    "a million links": (in_header(m=10**6, higher=10**6, lowest=2 * 10**6), {"m": 10**6}),
    "no links": (in_header(m=0, higher=0, lowest=0), {"m": 0}),
    "more higher links than there is room for": (in_header(higher=2**20), {}),
    "more lowest links than there is room for": (in_header(lowest=2**20), {}),
    "level factor of 10^300": (in_header(factor=1e300), {}),
    "level factor not a number": (in_header(factor=math.nan), {}),
    "breadth of 2^62": (in_header(breadth=2**62), {"ef_construction": 2**62}),
    "60,000 links of a node": (in_node(3, 0, "<H", 60_000), {}),
    "link out of range": (in_node(3, 4, "<I", 2**31), {}),
    "link to the end": (in_node(0, 4, "<I", 150), {}),
    "label of 2^63": (in_node(3, 8 * M + 4 + 4 * DIM, "<Q", 2**63), {}),
    "label of another node": (label_twice, {}),
    "bytes of a level beyond the file": (in_first_higher(0, "<I", 2**31 - 4), {}),
    "bytes of a level that are no multiple": (in_first_higher(0, "<I", 5), {}),
    "60,000 links of a higher level": (in_first_higher(4, "<H", 60_000), {}),
    "link of a higher level out of range": (in_first_higher(8, "<I", 2**31), {}),
    "link of a higher level to a node below": (in_first_higher(8, "<I", 0), {}),
    "cut within the elements": (cut_after(0.5), {}),
    "cut within the levels": (cut_after(0.999), {}),
}


def publish(folder: Path, content: bytes, values: Mapping[str, int]) -> None:
    """Put a graph into the place of that of the images, with digests that match."""
    manifest = Manifest.read(folder)
    assert manifest is not None
    state = manifest.kinds["image"]
    assert isinstance(state.graph, Snapshot)
    (folder / state.graph.file_name("image")).unlink()
    snapshot = replace(state.graph, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), **values)
    (folder / snapshot.file_name("image")).write_bytes(content)
    replace(manifest, kinds={**manifest.kinds, "image": replace(state, graph=snapshot)}).write(folder)


def crafted(place: Path) -> Outcome:
    """Open an index with each of the crafted files, and search it: the answers are those of the store."""
    outcome, folder, state = _begun("crafted hnsw file", "graph-*.hnsw", place)
    original, elements = _graph(folder)
    refused = 0
    for name, (craft, values) in CRAFTED.items():
        content = bytearray(original)
        craft(content, elements)
        trial = place / "trial"
        shutil.copytree(folder, trial)
        publish(trial, bytes(content), values)
        findings = _lived(lambda trial=trial: _with_notes(trial, state))
        refused += findings.pop("refused", RIGHT) == RIGHT
        outcome.note(name, findings)
        shutil.rmtree(trial)
    outcome.facts["refused_before_hnswlib_saw_them"] = refused
    return outcome


def scrambled(count: int, seed: int, place: Path) -> Outcome:
    """Change words of the header, of links and of levels at random, digests matching."""
    outcome, folder, state = _begun("crafted hnsw file, at random", "graph-*.hnsw", place)
    outcome.facts["seed"] = seed
    draw = random.Random(seed)
    original, elements = _graph(folder)
    levels = HEADER.size + elements * STRIDE
    for number in range(count):
        content = bytearray(original)
        for _ in range(draw.choice((1, 1, 4))):
            where = draw.choice(("header", "links", "links", "label", "levels", "levels"))
            node = HEADER.size + draw.randrange(elements) * STRIDE
            at = {
                "header": draw.randrange(HEADER.size - 3),
                "links": node + 4 * draw.randrange(2 * M + 1),
                "label": node + STRIDE - 8,
                "levels": levels + 4 * draw.randrange((len(content) - levels) // 4),
            }[where]
            values = (0, 1, 17, 255, elements - 1, elements, 65_535, 2**31, 2**32 - 1, draw.randrange(2**32))
            struct.pack_into("<I", content, at, draw.choice(values))
        trial = place / "trial"
        shutil.copytree(folder, trial)
        publish(trial, bytes(content), {})
        outcome.note(f"number {number}", _lived(lambda trial=trial: _true_hits(trial, state)))
        shutil.rmtree(trial)
    return outcome


def _begun(fault: str, target: str, place: Path) -> tuple[Outcome, Path, State]:
    folder = place / "crafted"
    shutil.rmtree(folder, ignore_errors=True)
    state = make(folder)
    with Index.open(folder, writable=True, exact_limit=LIMIT, notify=lambda _: None) as index:
        index.save_snapshots(rebuild=True)
    warm(state)
    return Outcome(fault=fault, target=target), folder, state


def _graph(folder: Path) -> tuple[bytes, int]:
    (path,) = folder.glob("graph-image-*.hnsw")
    content = path.read_bytes()
    return content, int(HEADER.unpack_from(content)[2])


def _lived(work: Callable[[], Findings]) -> Findings:
    try:
        return isolated(work)
    except DiedError as death:
        return {"process": f"{WRONG}{death}"}


def _with_notes(folder: Path, state: State) -> Findings:
    """Inspect an index, and note whether its graph was refused and made again, with a word."""
    notes: list[str] = []
    findings = inspect(folder, state, notes=notes)
    findings["refused"] = RIGHT if any(note.startswith("building the graph of") for note in notes) else "no"
    return findings


def _true_hits(folder: Path, state: State) -> Findings:
    """Search, add and search again: an error of ours, or hits that are rows with their own cosines."""
    findings: Findings = {}
    with part(findings, "search"), Index.open(folder, exact_limit=LIMIT, notify=lambda _: None) as index:
        for seed in range(8):
            query = unit((seed, 5))
            true = {row.id: score for score, row in ranking("image", state, query)}
            (hits,) = search(index, query, k=10, fingerprint=index.fingerprint)
            expect(len({hit.id for hit in hits}) == len(hits) == 10, "fewer than ten hits, or one twice")
            expect(all(abs(hit.score - true[hit.id]) < 1e-9 for hit in hits), "a hit has another row's score")
        index.graph("image").add(np.arange(10**6, 10**6 + 40), np.stack([unit((n, 6)) for n in range(40)]))
        index.graph("image").query(unit((1, 7))[None, :], k=10, ef=100)
    return findings
