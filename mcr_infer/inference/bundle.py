"""The bundle: the folder that export writes and inference reads.

    manifest.json   what the towers are, and the digest of every other file
    image.onnx      patches, positions (or pixels) -> embedding, local, weights
    text.onnx       input_ids, attention_mask -> embedding, local, weights
    *-int8.onnx ..  the same towers in other precisions, where export made them
    *.onnx.data     the weights of the graph of that name, which the runtime maps into memory
    tokenizer.json  the tokenizer of the text tower
    words.txt       the words of the training text, where export knew it: normalized, sorted, one a line
    golden.npz      inputs and outputs of the model that was exported

Opening a bundle reads and checks the manifest alone; each file is checked against its digest right before it is used (a
single query may remember the digest of a large file, see `mcr_infer.files`).
Keys that the manifest has beyond those read here are ignored, so that a later release may add files and tables; keys of
the preprocessing are not, because an unknown one would change what the tower sees.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.files import sha256_against, sha256_of
from mcr_infer.inference.manifest import WORD, ManifestSection
from mcr_infer.inference.patch_budget import RECOMMENDED, parse_budget
from mcr_infer.inference.preprocess import INPUT_NAMES, Preprocess
from mcr_infer.inference.tokenizer import Padding, ReportTokenizer
from mcr_infer.inference.vocabulary import Vocabulary

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
WORDS = "words.txt"
WEIGHTS_SUFFIX = ".data"
"""A graph's weights lie in the file of its name with this suffix; small graphs may have them inside."""
CHECKSUMS = "SHA256SUMS"
"""The digests of all files, the manifest included, as `sha256sum --check` reads them; nothing but `verify` opens it."""

TEXT_INPUTS = ("input_ids", "attention_mask")
SIDES = ("image", "text")
TOWER_OUTPUTS = ("embedding", "local", "weights")

_MANIFEST_LIMIT = 4 * 2**20
_SHIPPED = Path(__file__).parents[1] / "bundles" / "phantom"

FULL = "fp32"
"""The precision that every bundle has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What the manifest states about one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far the outputs of a tower may lie from the golden ones."""

    max_abs: float
    """Of an embedding value."""

    min_cosine: float
    local_max_abs: float
    """Of a mapped patch or word, over the largest value there is."""

    weights_max_abs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The towers of a bundle in another number format, as export measured and admitted them."""

    name: str
    tower_files: Mapping[str, str]
    """File of the tower, by `image` and `text`."""

    runtimes: tuple[str, ...]
    """Devices that serve it sensibly."""

    one_item: bool
    """True where a row would depend on its batch: the tower then takes one unpadded item a call."""

    tolerance: Mapping[str, Tolerance]
    """Against the golden outputs, by `image` and `text`."""

    rows_min_cosine: float | None
    """Between a row in its batch and the same row alone; None holds it to what fp32 holds."""

    accepted_loss: bool
    """True where it broke a limit of export and somebody took it all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose manifest has been read and makes sense; its files are checked when they are asked for."""

    path: Path
    shipped: bool
    """True for the bundle inside this package."""

    name: str
    created: str
    """The day of the export, YYYY-MM-DD."""

    fingerprint: str
    """Names the embedding space: vectors of equal fingerprints may be compared, others may not."""

    embedding_dim: int
    notice: str | None
    """One line that every use of the bundle must show, such as what it was trained on; None where there is none."""

    preprocess: Preprocess
    max_tokens: int
    precision: str
    tower_files: Mapping[str, str]
    """File of the tower in fp32, by `image` and `text`."""

    precisions: Mapping[str, Precision]
    """What the bundle has beside fp32, by name."""

    recommended_budget: float | None
    """The smallest patch budget that was measured to cost next to nothing; None where nobody has measured it."""

    tokenizer_file: str
    padding: Padding | None
    """How texts shorter than others are filled up; None: with [PAD], which the attention mask hides."""

    words_file: str | None
    """The words of the training text; None for a model from elsewhere or a bundle of an earlier release."""

    files: Mapping[str, FileRecord]
    manifest: Mapping[str, object]
    """The manifest as it was read: parity table, training facts."""

    @classmethod
    def open(cls, path: Path | None = None) -> "Bundle":
        """Read the manifest of the bundle in folder `path`; None is the bundle that ships with this package.

        Raises `BundleError`, which names the file and the field, when the folder is no bundle, its format is another one or
        the manifest contradicts itself.
        """
        folder = _SHIPPED if path is None else Path(path)
        return _parse(ManifestSection(_read_manifest(folder), folder / MANIFEST), folder, shipped=path is None)

    def verified(self, name: str, *, remembered: bool = False) -> Path:
        """Return the path of one file after its size and digest have matched the manifest; call it right before use.

        `remembered` takes the digest of a large file that has not changed since this user hashed it from memory, see
        `mcr_infer.files`; it is for single calls, which would wait for the digest longer than for their answer.

        Raises `BundleError`, which names the file.
        """
        record = self.files.get(name)
        path = self.path / name
        if record is None:
            raise BundleError(
                f"{path} is not among the files of the bundle {self.name}: {', '.join(sorted(self.files))}"
            )
        try:
            # Before opening: a pipe or a device would block.
            if not stat.S_ISREG(path.stat().st_mode):
                raise BundleError(f"{path} is not a regular file")
            size = path.stat().st_size
            digest = sha256_against(path, record.sha256) if remembered else sha256_of(path)
        except OSError as exc:
            raise BundleError(f"{path} cannot be read: {exc.strerror}; copy or export the bundle again") from exc
        if (size, digest) != (record.bytes, record.sha256):
            raise BundleError(
                f"{path} is damaged or was changed: its {size} bytes have SHA-256 {digest}, the manifest states "
                f"{record.bytes} bytes with {record.sha256}; copy or export the bundle again"
            )
        return path

    def variant(self, precision: str) -> Precision | None:
        """Return the towers of a precision, None for fp32; raises `BundleError` where the bundle lacks it."""
        if precision == self.precision:
            return None
        if precision not in self.precisions:
            raise BundleError(
                f"the bundle {self.name} has no towers in {precision}, only in "
                f"{', '.join((self.precision, *sorted(self.precisions)))}: in a checkout of the project, "
                f"python -m export.quantize {self.path} --precision {precision} adds them"
            )
        return self.precisions[precision]

    def patch_budget(self, asked: str) -> float:
        """Return the patch budget that a user asks for: a share in (0, 1], or `recommended` for the one of this bundle.

        Raises `ConfigError` for anything else, and for one below 1 where the image tower takes whole pictures;
        `BundleError` where the bundle recommends none.
        """
        budget = parse_budget(asked)
        if budget is None:
            budget = self.recommended_budget
        if budget is None:
            raise BundleError(
                f"the bundle {self.name} recommends no patch budget: name a share in (0, 1] instead of {RECOMMENDED!r}, or, "
                f"in a checkout of the project, measure it with python -m export.budget {self.path}"
            )
        self.preprocess.patches_within(budget)
        return budget

    def verified_tower(self, side: str, precision: str = FULL, *, remembered: bool = False) -> Path:
        """Return the path of the graph of `image` or `text` in a precision, it and its weights verified as in `verified`."""
        variant = self.variant(precision)
        name = (self.tower_files if variant is None else variant.tower_files)[side]
        if f"{name}{WEIGHTS_SUFFIX}" in self.files:
            self.verified(f"{name}{WEIGHTS_SUFFIX}", remembered=remembered)
        return self.verified(name, remembered=remembered)

    @property
    def tower_inputs(self) -> dict[str, tuple[str, ...]]:
        """What the towers take, by `image` and `text`."""
        return {"image": self.preprocess.input_names, "text": TEXT_INPUTS}

    def tokenizer(self, max_tokens: int | None = None) -> ReportTokenizer:
        """Open the tokenizer, its file verified; `max_tokens` None is the most that the text tower takes."""
        path = self.verified(self.tokenizer_file)
        return ReportTokenizer.from_file(path, max_tokens or self.max_tokens, padding=self.padding)

    def vocabulary(self, tokenizer: ReportTokenizer | None = None) -> Vocabulary:
        """Open the words that the text tower knows, their file verified; `tokenizer` is the bundle's, if it is open."""
        words = None
        if self.words_file is not None:
            path = self.verified(self.words_file)
            try:
                words = frozenset(path.read_text(encoding="utf-8").split())
            except ValueError as exc:
                raise BundleError(f"{path} is not UTF-8: copy or export the bundle again") from exc
        return Vocabulary(tokenizer or self.tokenizer(), words)

    def golden(self) -> dict[str, NDArray[np.generic]]:
        """Read the golden inputs and outputs, verified: arrays by `image.patches`, `text.embedding` and so on."""
        path = self.verified(GOLDEN)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, EOFError, OSError, KeyError) as exc:
            raise BundleError(f"{path} is not a file of arrays: {exc}") from exc


def fingerprint_of(
    *,
    weights_sha256: str,
    preprocess: Preprocess,
    tokenizer_sha256: str,
    max_tokens: int,
    padding: Padding | None = None,
) -> str:
    """Digest everything that decides which vector an input gets; runtimes and precisions are not part of it."""
    parts: dict[str, object] = {
        "max_tokens": max_tokens,
        "preprocess": preprocess.to_dict(),
        "tokenizer": tokenizer_sha256,
        "weights": weights_sha256,
    }
    if padding is not None:
        parts["padding"] = padding.to_dict()
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _is_utf8(path: Path) -> bool:
    try:
        os.fsencode(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_manifest(folder: Path) -> dict[str, object]:
    path = folder / MANIFEST
    if not _is_utf8(folder):
        raise BundleError(
            f"the bundle {folder} lies in a folder whose name is not UTF-8, and runtimes open no other: move or link it to "
            "another place"
        )
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "is not a folder"
        raise BundleError(f"{folder} is not a bundle: it {what}; python -m export.to_onnx writes one")
    try:
        with path.open("rb") as stream:
            content = stream.read(_MANIFEST_LIMIT + 1)
        if len(content) > _MANIFEST_LIMIT:
            raise BundleError(f"{path} is larger than {_MANIFEST_LIMIT} bytes, no manifest is")
        values = json.loads(content.decode("utf-8"))
    except OSError as exc:
        raise BundleError(f"{path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{path} is not valid JSON: {exc}; copy or export the bundle again") from exc
    if not isinstance(values, dict):
        raise BundleError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _parse(manifest: ManifestSection, folder: Path, *, shipped: bool) -> Bundle:
    version = manifest.take("format_version", int, f"{FORMAT_VERSION}")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{folder / MANIFEST}: format_version is {version}, this release of mcr-infer reads {FORMAT_VERSION}; "
            + ("install a newer release" if version > FORMAT_VERSION else "export the bundle again")
        )
    created = manifest.line("created")
    try:
        date.fromisoformat(created)
    except ValueError as exc:
        raise manifest.refuse("created", "a day as YYYY-MM-DD") from exc
    files = _parse_files(manifest)
    image, text = manifest.section("image"), manifest.section("text")
    if image.line("input") not in INPUT_NAMES:
        raise image.refuse("input", f"one of {', '.join(INPUT_NAMES)}, the image inputs that this release knows")
    try:
        preprocess = Preprocess.from_dict(image.rest("file"))
    except ConfigError as exc:
        raise BundleError(f"{folder / MANIFEST}: image: {exc}") from exc
    tokenizer, max_tokens = text.file("tokenizer", files), text.count("max_tokens")
    padding = _parse_padding(text)
    fingerprint = manifest.digest("fingerprint")
    expected = fingerprint_of(
        weights_sha256=manifest.digest("weights_sha256"),
        preprocess=preprocess,
        tokenizer_sha256=files[tokenizer].sha256,
        max_tokens=max_tokens,
        padding=padding,
    )
    if fingerprint != expected:
        raise manifest.refuse("fingerprint", f"that of the weights, preprocessing and tokenizer it names, {expected}")
    return Bundle(
        path=folder,
        shipped=shipped,
        name=manifest.line("name"),
        created=created,
        fingerprint=fingerprint,
        embedding_dim=manifest.count("embedding_dim"),
        notice=None if manifest.rest().get("notice") is None else manifest.line("notice"),
        preprocess=preprocess,
        max_tokens=max_tokens,
        precision=manifest.line("precision"),
        tower_files={"image": image.file("file", files), "text": text.file("file", files)},
        precisions=_parse_precisions(manifest, files),
        recommended_budget=_parse_budget(manifest),
        tokenizer_file=tokenizer,
        padding=padding,
        words_file=text.file("words", files) if "words" in text.keys else None,
        files=files,
        manifest=manifest.rest(),
    )


def _parse_padding(text: ManifestSection) -> Padding | None:
    if "padding" not in text.keys:
        return None
    section = text.section("padding")
    try:
        return Padding(token_id=section.count("token_id", least=0), seen=section.line("seen"))
    except ConfigError as exc:
        raise text.refuse("padding", f"a rule of filling up ({exc})") from exc


def _parse_budget(manifest: ManifestSection) -> float | None:
    if "patch_budget" not in manifest.keys:
        return None
    section = manifest.section("patch_budget")
    budget = section.number("recommended")
    if not 0.0 < budget <= 1.0:
        raise section.refuse("recommended", "a share in (0, 1]")
    return budget


def _parse_precisions(manifest: ManifestSection, files: Mapping[str, FileRecord]) -> dict[str, Precision]:
    if "precisions" not in manifest.keys:
        return {}
    section = manifest.section("precisions")
    found: dict[str, Precision] = {}
    for name in section.keys:
        if not WORD.fullmatch(name) or name == FULL:
            raise section.refuse(name, f"named in lower case, and not {FULL}")
        one = section.section(name)
        limits = one.section("tolerance")
        sides = {side: limits.section(side) for side in SIDES}
        found[name] = Precision(
            name=name,
            tower_files={side: one.file(side, files) for side in SIDES},
            runtimes=one.words("runtimes"),
            one_item=one.flag("one_item"),
            tolerance={
                side: Tolerance(
                    max_abs=values.number("max_abs"),
                    min_cosine=values.number("min_cosine"),
                    local_max_abs=values.number("local_max_abs"),
                    weights_max_abs=values.number("weights_max_abs"),
                )
                for side, values in sides.items()
            },
            rows_min_cosine=one.section("limits").number("rows_min_cosine") if "limits" in one.keys else None,
            accepted_loss=one.flag("accepted_loss"),
        )
    return found


def _parse_files(manifest: ManifestSection) -> dict[str, FileRecord]:
    section = manifest.section("files")
    files: dict[str, FileRecord] = {}
    for name in section.keys:
        pure = PurePosixPath(name)
        # A manifest may come from a stranger: its names never lead out of the folder.
        if not name.isprintable() or pure.is_absolute() or ".." in pure.parts or "\\" in name or str(pure) != name:
            raise section.refuse(name, "under a plain relative path inside the bundle")
        record = section.section(name)
        files[name] = FileRecord(sha256=record.digest("sha256"), bytes=record.count("bytes"))
    if GOLDEN not in files:
        raise section.refuse(GOLDEN, "present")
    return files
