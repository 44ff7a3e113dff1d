"""The engines of a bundle: which files they are, what each was built from and for, and whether one fits this machine.

    BUNDLE/engines/manifest.json                      what is written here
    BUNDLE/engines/<tower>-<precision>-<sm>.engine    for TensorRT
    BUNDLE/engines/<tower>-<precision>-<sm>-<sm>.rtx.engine    for TensorRT-RTX, which may serve several architectures

Engines are built where they serve, after the export: they are no part of the bundle's own manifest and may be deleted.
An engine is never taken on trust: another graph, architecture or version, one changed byte, or no measured parity on this
architecture, and it is refused with the command that builds or admits it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from mcr_infer.errors import BackendError, ConfigError
from mcr_infer.files import atomic_write
from mcr_infer.inference.bundle import MANIFEST, WEIGHTS_SUFFIX, Bundle
from mcr_infer.inference.engine_profile import Profile
from mcr_infer.inference.tensorrt_api import DEVICES, MODULES, Flavor
from mcr_infer.inference.tower import Side

FOLDER = "engines"
FORMAT_VERSION = 1

_SM = re.compile(r"sm\d{2,3}")
_FILE = re.compile(r"[a-z0-9][a-z0-9.-]*\.engine")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT = 4 * 2**20
_AMPERE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What is known about one engine file."""

    file: str
    sha256: str
    bytes: int
    tower: Side
    precision: str
    flavor: Flavor
    architectures: tuple[str, ...]
    """What it was built for, as `sm86`."""

    runtime_version: str
    """Of TensorRT or TensorRT-RTX."""

    profile: Profile
    source_sha256: str
    """Digest of the graph and its weights, see `source_digest`."""

    hardware_compatible: bool = False
    """It also runs on every later architecture from Ampere on."""

    version_compatible: bool = False
    """It also runs on later versions of TensorRT."""

    parity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By architecture, what was measured there against the golden outputs; one that is not here is unverified."""

    @property
    def verified(self) -> bool:
        """Whether parity was measured on every architecture that it was built for."""
        return all(sm in self.parity for sm in self.architectures)

    def to_dict(self) -> dict[str, object]:
        """Return what stands in the manifest."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "tower": self.tower,
            "precision": self.precision,
            "flavor": self.flavor,
            "sm": list(self.architectures),
            "runtime_version": self.runtime_version,
            "profile": self.profile.to_dict(),
            "source_sha256": self.source_sha256,
            "hardware_compatible": self.hardware_compatible,
            "version_compatible": self.version_compatible,
            "verified": self.verified,
            "parity": {sm: dict(values) for sm, values in self.parity.items()},
        }

    @classmethod
    def from_dict(cls, values: object, where: str) -> "EngineRecord":
        """Read what `to_dict` wrote; raises `BackendError`, which names `where` it stood and the key."""
        if not isinstance(values, dict):
            raise BackendError(f"{where} must be an object, got {type(values).__name__}")

        def take(key: str, kind: type, holds: Callable[[Any], object] = bool) -> Any:
            value = values.get(key)
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or not holds(value):
                raise BackendError(f"{where}.{key} cannot be {value!r:.80}; build the engines again")
            return value

        try:
            profile = Profile.from_dict(take("profile", dict), f"{where}.profile")
        except ConfigError as exc:
            raise BackendError(f"{exc}; build the engines again") from exc
        return cls(
            file=take("file", str, _FILE.fullmatch),
            sha256=take("sha256", str, _DIGEST.fullmatch),
            bytes=take("bytes", int, lambda count: count > 0),
            tower=cast(Side, take("tower", str, lambda name: name in get_args(Side))),
            precision=take("precision", str, str.isprintable),
            flavor=cast(Flavor, take("flavor", str, lambda name: name in MODULES)),
            architectures=tuple(take("sm", list, lambda each: each and all(_SM.fullmatch(str(sm)) for sm in each))),
            runtime_version=take("runtime_version", str, str.isprintable),
            profile=profile,
            source_sha256=take("source_sha256", str, _DIGEST.fullmatch),
            hardware_compatible=take("hardware_compatible", bool, _anything),
            version_compatible=take("version_compatible", bool, _anything),
            parity=take("parity", dict, lambda each: all(isinstance(value, dict) for value in each.values())),
        )

    def misfit(self, *, source: str, sm: str, runtime_version: str) -> str | None:
        """Say why the engine cannot serve a graph on an architecture and a version; None where it can."""
        if self.source_sha256 != source:
            return f"it was built from another graph (SHA-256 {self.source_sha256[:12]}, the bundle's is {source[:12]})"
        if sm not in self.architectures and not (self.hardware_compatible and int(sm[2:]) >= _AMPERE):
            return f"it was built for {', '.join(self.architectures)}, this GPU is {sm}"
        if runtime_version != self.runtime_version and not (
            self.version_compatible and _runs_on_later(self.runtime_version, runtime_version)
        ):
            return f"it was built with version {self.runtime_version}, installed is {runtime_version}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """The engines of one bundle."""

    folder: Path
    engines: tuple[EngineRecord, ...] = ()

    @classmethod
    def read(cls, bundle: Bundle) -> "EngineManifest":
        """Read what is known of the engines of a bundle; none where none was built.

        Raises `BackendError` when the manifest is damaged, was changed by hand or is of another format.
        """
        folder = bundle.path / FOLDER
        path = folder / MANIFEST
        try:
            with path.open("rb") as stream:
                content = stream.read(_MANIFEST_LIMIT + 1)
            values = json.loads(content.decode("utf-8"))
        except FileNotFoundError:
            return cls(folder=folder)
        except OSError as exc:
            raise BackendError(f"{path} cannot be read: {exc.strerror}") from exc
        except (ValueError, RecursionError) as exc:
            raise BackendError(f"{path} is not valid JSON ({exc}): {_delete(folder)}") from exc
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            raise BackendError(f"{path} is not of format_version {FORMAT_VERSION}: {_delete(folder)}")
        entries = values.get("engines")
        if not isinstance(entries, list) or values.get("sha256") != _digest_of(entries):
            raise BackendError(f"{path} is damaged or was changed: its digest does not match; {_delete(folder)}")
        records = tuple(EngineRecord.from_dict(entry, f"{path}: engines[{i}]") for i, entry in enumerate(entries))
        return cls(folder=folder, engines=records)

    def write(self) -> None:
        """Replace the manifest on disk, at once and durably. Raises `OSError`."""
        entries = [record.to_dict() for record in sorted(self.engines, key=lambda record: record.file)]
        values = {"format_version": FORMAT_VERSION, "engines": entries, "sha256": _digest_of(entries)}
        atomic_write(self.folder / MANIFEST, (json.dumps(values, indent=2) + "\n").encode())

    def with_engine(self, record: EngineRecord) -> "EngineManifest":
        """Return the manifest with one more engine; one of the same file is replaced."""
        return replace(self, engines=(*(one for one in self.engines if one.file != record.file), record))

    def path(self, record: EngineRecord) -> Path:
        """Return the path of an engine after its size and digest have matched; raises `BackendError`."""
        path = self.folder / record.file
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = stream.tell()
        except OSError as exc:
            raise BackendError(
                f"engine {path} cannot be read ({exc.strerror}): {rebuild_command(self.folder.parent, record)}"
            ) from exc
        if (size, digest) != (record.bytes, record.sha256):
            raise BackendError(
                f"engine {path} is damaged or was changed: its {size} bytes have SHA-256 {digest}, "
                f"{self.folder / MANIFEST} promises {record.bytes} bytes with {record.sha256}; build it again: "
                f"{rebuild_command(self.folder.parent, record)}"
            )
        return path


def find_record(
    bundle: Bundle,
    side: Side,
    precision: str,
    sm: str,
    runtime_version: str,
    *,
    flavor: Flavor = "tensorrt",
    unverified: bool = False,
) -> EngineRecord:
    """Choose the engine of a tower for an architecture such as `sm86` and an installed version; its file is not read.

    Raises `BackendError` with every reason and the command that builds the engine, when none fits; and, unless
    `unverified` allows it, when its parity was never measured on this architecture.
    """
    wanted = (side, precision, flavor)
    source = source_digest(bundle, side, precision)
    reasons: list[str] = []
    for record in EngineManifest.read(bundle).engines:
        if (record.tower, record.precision, record.flavor) != wanted:
            continue
        reason = record.misfit(source=source, sm=sm, runtime_version=runtime_version)
        if reason is None and not unverified and sm not in record.parity:
            reason = (
                f"its parity was never measured on {sm}: "
                f"mcr-infer verify {shlex.quote(str(bundle.path))} --device {DEVICES[flavor]} --precision {precision}"
            )
            raise BackendError(f"engine {bundle.path / FOLDER / record.file} does not serve yet: {reason}")
        if reason is None:
            return record
        reasons.append(f"{record.file}: {reason}")
    command = _command(bundle.path, side, precision, flavor, (sm,) if flavor == "rtx" else ())
    what = "; ".join(reasons) or "none was built"
    raise BackendError(
        f"the bundle {bundle.path} has no {flavor} engine of its {side} tower in {precision} for {sm} and version "
        f"{runtime_version} ({what}); build it: {command}"
    )


def find_engine(
    bundle: Bundle,
    side: Side,
    precision: str,
    sm: str,
    runtime_version: str,
    *,
    flavor: Flavor = "tensorrt",
    unverified: bool = False,
) -> Path:
    """Return the verified file of the engine that `find_record` chooses; raises `BackendError` as that does, and when a
    byte of the file has changed.
    """
    record = find_record(bundle, side, precision, sm, runtime_version, flavor=flavor, unverified=unverified)
    return EngineManifest.read(bundle).path(record)


def admit(bundle: Bundle, record: EngineRecord, sm: str, parity: Mapping[str, float] | None) -> EngineRecord:
    """Write down what the gate measured on an architecture, None where the engine failed it; return the new record.

    Raises `BackendError` when the engines' folder cannot be written.
    """
    others = {name: values for name, values in record.parity.items() if name != sm}
    changed = replace(record, parity=others if parity is None else {**others, sm: parity})
    with changing(bundle):
        EngineManifest.read(bundle).with_engine(changed).write()
    return changed


def discard(bundle: Bundle, record: EngineRecord) -> None:
    """Delete an engine and forget it. Raises `BackendError` when the engines' folder cannot be written."""
    with changing(bundle) as folder:
        manifest = EngineManifest.read(bundle)
        replace(manifest, engines=tuple(one for one in manifest.engines if one.file != record.file)).write()
        (folder / record.file).unlink(missing_ok=True)


def source_digest(bundle: Bundle, side: Side, precision: str) -> str:
    """Digest what an engine is built from: the lines of the graph and its weights as `sha256sum` prints them."""
    variant = bundle.variant(precision)
    name = (bundle.tower_files if variant is None else variant.tower_files)[side]
    names = [one for one in (name, f"{name}{WEIGHTS_SUFFIX}") if one in bundle.files]
    return hashlib.sha256("".join(f"{bundle.files[one].sha256}  {one}\n" for one in names).encode()).hexdigest()


def engine_file(side: Side, precision: str, flavor: Flavor, architectures: tuple[str, ...]) -> str:
    """Name the file of an engine; raises `BackendError` for a precision that a file cannot be named by."""
    suffix = ".rtx.engine" if flavor == "rtx" else ".engine"
    name = f"{side}-{precision}-{'-'.join(architectures)}{suffix}"
    # A manifest may come from a stranger: its words never lead out of the folder.
    if not _FILE.fullmatch(name):
        raise BackendError(
            f"an engine cannot be named {name!r}: a precision has lower-case letters and digits, as fp16"
        )
    return name


def rebuild_command(bundle: Path, record: EngineRecord) -> str:
    """Return the command line that builds an engine again."""
    architectures = record.architectures if record.flavor == "rtx" else ()
    return _command(bundle, record.tower, record.precision, record.flavor, architectures)


@contextlib.contextmanager
def changing(bundle: Bundle) -> Iterator[Path]:
    """Give the folder of the engines, made if need be, to one process at a time; raises `BackendError` without access."""
    folder = bundle.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield folder
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise BackendError(
            f"engines cannot be written to {folder} ({exc.strerror}): make room, or copy the bundle to a folder that is "
            "writable"
        ) from exc


def _command(bundle: Path, side: str, precision: str, flavor: str, architectures: tuple[str, ...]) -> str:
    arch = f" --arch {','.join(architectures)}" if architectures else ""
    what = f"--tower {side} --precision {precision} --flavor {flavor}{arch}"
    return f"mcr-infer build-engine {shlex.quote(str(bundle))} {what}"


def _anything(_: object) -> bool:
    return True


def _runs_on_later(built: str, installed: str) -> bool:
    """Whether a version-compatible engine runs: a later version of the same major, or 11 for 10.

    Source: support matrix of TensorRT 11.4, engine portability.
    """
    one, two = (tuple(int(part) for part in version.split(".")[:4] if part.isdigit()) for version in (built, installed))
    return bool(one and two) and two >= one and (two[0] == one[0] or (one[0], two[0]) == (10, 11))


def _digest_of(entries: list[Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _delete(folder: Path) -> str:
    return f"delete the folder {folder} and build the engines again"
