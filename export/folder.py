"""The folder of a bundle, as export writes it: digests, manifest, and a place that holds a whole bundle or none.

No torch and no onnx here: every exporter ends with this module, whatever it began with.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import CHECKSUMS, FORMAT_VERSION, GOLDEN, MANIFEST, WORDS, Bundle, fingerprint_of
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import Padding
from mcr_infer.inference.vocabulary import words_file

IMAGE, TEXT, TOKENIZER = "image.onnx", "text.onnx", "tokenizer.json"
ENGINES = "engines"
"""Built on the machine that serves, after the export: no manifest of a bundle names what lies there."""


@contextlib.contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """Give an empty folder to fill; once the block ends without an error, it takes the place of `out`.

    Raises `BundleError`, before anything is done, when `out` is something else than a bundle or holds files that no
    manifest names: they would be lost.
    """
    _refuse_to_destroy(out)
    with _replacing(out) as fresh:
        yield fresh


@contextlib.contextmanager
def changed_bundle(bundle: Bundle) -> Iterator[Path]:
    """Give a copy of a bundle, every file verified; once the block ends without an error, it takes the bundle's place.

    Engines go along. Raises `BundleError`, before anything is done, where a file is damaged or would be lost.
    """
    _refuse_to_destroy(bundle.path, kept=ENGINES)
    with _replacing(bundle.path) as fresh:
        for name in bundle.files:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(bundle.verified(name), fresh / name)
        shutil.copy2(bundle.path / MANIFEST, fresh / MANIFEST)
        if (bundle.path / ENGINES).is_dir():
            shutil.copytree(bundle.path / ENGINES, fresh / ENGINES)
        yield fresh


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    # A link or a relative name must not decide where the parts of the folder lie.
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    fresh, old = work / "new", work / "old"
    fresh.mkdir()
    try:
        yield fresh
        _to_disk(fresh)
        if out.exists():
            out.rename(old)
        try:
            fresh.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(work)


def write_manifest(
    folder: Path,
    *,
    name: str,
    created: str,
    preprocess: Preprocess,
    max_tokens: int,
    embedding_dim: int,
    weights_sha256: str,
    notice: str | None,
    parity: object,
    training: object,
    padding: Padding | None = None,
    extras: Mapping[str, object] | None = None,
) -> Bundle:
    """Describe the files that lie in `folder` in its manifest and SHA256SUMS, and open it as the bundle it now is.

    `extras` are keys beyond those that every bundle has; no reader needs them.
    """
    files = _described(folder)
    missing = [one for one in (IMAGE, TEXT, TOKENIZER, GOLDEN) if one not in files]
    if missing:
        raise BundleError(f"{folder} lacks {', '.join(missing)}: no bundle without them")
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "created": created,
        "fingerprint": fingerprint_of(
            weights_sha256=weights_sha256,
            preprocess=preprocess,
            tokenizer_sha256=str(files[TOKENIZER]["sha256"]),
            max_tokens=max_tokens,
            padding=padding,
        ),
        "weights_sha256": weights_sha256,
        "embedding_dim": embedding_dim,
        "notice": notice,
        "precision": "fp32",
        "image": {"input": preprocess.input, **preprocess.to_dict(), "file": IMAGE},
        "text": {
            "max_tokens": max_tokens,
            **({} if padding is None else {"padding": padding.to_dict()}),
            "file": TEXT,
            "tokenizer": TOKENIZER,
            **({"words": WORDS} if WORDS in files else {}),
        },
        "files": files,
        "parity": parity,
        "training": training,
        **(extras or {}),
    }
    return _write_manifest(folder, manifest)


def write_precision(folder: Path, name: str, record: Mapping[str, object]) -> Bundle:
    """Add a precision, whose files lie in `folder`, to the manifest there; one of the same name is replaced."""
    known = _manifest_in(folder).get("precisions", {})
    return _rewrite(folder, "precisions", {**known, name: record})


def write_patch_budget(folder: Path, record: Mapping[str, object]) -> Bundle:
    """Write a measured patch budget into the manifest in `folder`; an earlier one is replaced."""
    return _rewrite(folder, "patch_budget", record)


def write_words(folder: Path, words: Iterable[str]) -> Bundle:
    """Write the words of the training text into the bundle in `folder`; earlier ones are replaced."""
    (folder / WORDS).write_bytes(words_file(words))
    return _rewrite(folder, "text", {**_manifest_in(folder)["text"], "words": WORDS})


def _rewrite(folder: Path, key: str, value: object) -> Bundle:
    """Change one key of the manifest in `folder`, and describe the files that lie there now."""
    return _write_manifest(folder, {**_manifest_in(folder), key: value, "files": _described(folder)})


def _manifest_in(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return values


def _described(folder: Path) -> dict[str, dict[str, object]]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        one: {"sha256": _digest(folder / one), "bytes": (folder / one).stat().st_size}
        for one in names
        if one not in (MANIFEST, CHECKSUMS) and not one.startswith(f"{ENGINES}/")
    }


def _write_manifest(folder: Path, manifest: Mapping[str, object]) -> Bundle:
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    bundle = Bundle.open(folder)
    sums = {MANIFEST: _digest(folder / MANIFEST)} | {one: record.sha256 for one, record in bundle.files.items()}
    (folder / CHECKSUMS).write_text("".join(f"{sums[one]}  {one}\n" for one in sorted(sums)), encoding="utf-8")
    return bundle


def weights_digest(weights: Mapping[str, NDArray[np.generic]]) -> str:
    """Digest the weights of the towers: names in order, data types, shapes, little-endian bytes."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.ascontiguousarray(weights[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode() + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()


def _refuse_to_destroy(out: Path, kept: str | None = None) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        known = {MANIFEST, CHECKSUMS, *Bundle.open(out).files}
    except BundleError as error:
        raise BundleError(
            f"{out} exists and is no bundle that can be replaced: choose another --out ({error})"
        ) from error
    paths = {path.relative_to(out) for path in out.rglob("*") if not path.is_dir()}
    found = {path.as_posix() for path in paths if path.parts[0] != kept}
    if found - known:
        raise BundleError(
            f"{out} holds files that do not belong to its bundle and would be lost: "
            f"{', '.join(sorted(found - known)[:5])}; move them away or choose another --out"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _to_disk(folder: Path) -> None:
    """Force every file to disk before the rename makes them visible."""
    for path in folder.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
