"""Makes the index that is kept of a format: `python tests/golden/make.py`, once, by the last release that writes it.

    index-vN/       the index itself: images with a graph, vectors and facts, reports, locals with positions, keys of
                    patients, ctimes of files, strategies of long texts, a tuning
    index-vN.json   a query, and what it found

Later releases must read the folder as it is, bring it to their own format, and find the same: `tests/test_migrations.py`.
A change of the format leaves this folder alone, raises `FORMAT_VERSION`, and runs this once more before it is released.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index import FileStamp, Index, Row, search
from mcr_infer.index.index import create
from mcr_infer.index.manifest import FORMAT_VERSION, Identity, Tuning
from mcr_infer.inference.token_embeddings import TokenEmbeddings

DIM, IMAGES, REPORTS = 16, 60, 20
EXACT_LIMIT = 30
"""So few rows that the images get a graph."""

WHERE = "view=PA and study_year>=2018"


def _unit(random: np.random.Generator) -> NDArray[np.float32]:
    vector = random.normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def _image(n: int, random: np.random.Generator) -> Row:
    # A name that is not UTF-8, as archives of the nineties have them.
    path = f"archive/{n:03}.dcm" if n else b"archive/M\xfcller.dcm".decode("utf-8", "surrogateescape")
    return Row(
        id=f"1.2.826.0.1.{n}",
        kind="image",
        path=path,
        study_uid=f"1.2.826.1.{n // 2}",
        series_uid=f"1.2.826.2.{n}",
        patient_key=None if n % 10 == 9 else f"{n // 4:064x}",
        metadata={
            "view": "PA" if n % 3 else "LATERAL",
            "study_year": 2015 + n % 6,
            "modality": "DX",
            "mirrored": n % 7 == 0,
            "spacing": 0.143,
            "body_part": None,
        },
        vector=_unit(random),
        precision="int8" if n % 5 == 0 else "fp32",
        patch_budget=0.5 if n % 4 == 0 else 1.0,
        content_digest=f"{n:064x}",
    )


def _report(n: int, random: np.random.Generator) -> Row:
    return Row(
        id=f"report-{n}",
        kind="report",
        path=f"reports.csv:{n + 2}",
        study_uid=f"1.2.826.1.{n}",
        vector=_unit(random),
        content_digest=f"{n:064x}",
        text_strategy="impression-first" if n % 7 == 0 else None,
        text="No pneumothorax. Größe unverändert." if n % 2 else None,
    )


def _stamp(n: int, image: Row) -> FileStamp:
    return FileStamp(path=str(image.path), size=7, mtime_ns=9, ctime_ns=None if n % 3 == 2 else 1000 + n)


def _local(n: int) -> TokenEmbeddings:
    """Make patches of one value each, all of them powers of 2, so that they come back exactly."""
    vectors = np.full((3, DIM), 2.0**n, dtype=np.float32)
    return TokenEmbeddings(
        vectors=vectors, weights=np.array([0.25, 0.5, 0.25], dtype=np.float32), positions=np.arange(n, n + 3)
    )


def main() -> None:
    """Write both, beside this file; what is there stays."""
    place = Path(__file__).parent / f"index-v{FORMAT_VERSION}"
    if place.exists():
        raise SystemExit(f"{place} is there, and what was kept of a format is never made again")
    random = np.random.default_rng(FORMAT_VERSION)
    images = [_image(n, random) for n in range(IMAGES)]
    identity = Identity(
        index_id=f"{FORMAT_VERSION:032x}",
        fingerprint="ab12" * 16,
        embedding_dim=DIM,
        bundle="phantom",
        bundle_path="shipped",
        secret_check="cd34" * 16,
    )
    create(place, identity)
    with Index.open(place, writable=True, exact_limit=EXACT_LIMIT) as index:
        index.add(
            images,
            files=[(_stamp(n, one), one.id) for n, one in enumerate(images)],
            locals={("image", one.id): _local(n).to_bytes() for n, one in enumerate(images[:10])},
        )
        index.add([_report(n, random) for n in range(REPORTS)])
        index.delete("image", [images[-1].id])
        index.save_snapshots()
        tuning = Tuning(ef_search=57, target_recall=0.99, recall=0.9925, queries=200, rows=IMAGES - 1)
        index.set_tuning("image", tuning)
        query = _unit(random)
        found = {
            "image": search(index, query, kind="image", k=5, fingerprint=index.fingerprint)[0],
            "report": search(index, query, kind="report", k=5, fingerprint=index.fingerprint)[0],
            "where": search(index, query, kind="image", k=5, where=WHERE, fingerprint=index.fingerprint)[0],
        }
    hits = {name: [[hit.id, hit.score] for hit in one] for name, one in found.items()}
    told = {"query": query.tolist(), "where": WHERE, "hits": hits, "ef_search": tuning.ef_search}
    place.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
