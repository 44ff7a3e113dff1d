"""Is an index whole? Every digest, every vector, and whether what lies beside the store says what the store says.

Nothing is changed, nothing is believed because something else says so, and failures are values. Rows are read once, a block
at a time, so that memory does not grow with them beyond their labels and keys.
"""

import stat
from collections.abc import Iterator
from pathlib import Path

from mcr_infer.errors import CheckResult, McrError
from mcr_infer.index.audit_rows import audit_rows
from mcr_infer.index.connection import FILE_NAME as STORE
from mcr_infer.index.index import LEFTOVERS
from mcr_infer.index.manifest import FILE_NAME as MANIFEST
from mcr_infer.index.manifest import Manifest
from mcr_infer.index.rows import KINDS
from mcr_infer.index.snapshots import states_of
from mcr_infer.index.storage import FILE_NAME as LOCK
from mcr_infer.index.store import Store

_LIVE = {STORE, f"{STORE}-wal", f"{STORE}-shm", MANIFEST, LOCK}
_REPORTS = {"run.json", "failures.jsonl", "known-failures-image.jsonl", "known-failures-report.jsonl"}
"""What `embed-images` leaves in the folder, see `mcr_infer.pipeline.run_report`."""

_ATTEMPTS = 3
_SHOWN = 5


def holds_parts(place: Path) -> bool:
    """True where a folder holds files of an index, whole or not."""
    return any((place / name).exists() for name in (MANIFEST, STORE))


def audit(folder: Path) -> list[CheckResult]:
    """Check every file of an index, every row and every vector against the others."""
    for _ in range(_ATTEMPTS):
        manifest, checks = _audit(folder)
        if all(check.ok for check in checks) or _manifest_check(folder)[0] == manifest:
            break
        # A writer has replaced files that the manifest named when this began: what was found says nothing.
    return checks


def _audit(folder: Path) -> tuple[Manifest | None, list[CheckResult]]:
    """Check what the manifest names now; return it, too."""
    manifest, checks = _manifest_check(folder)
    try:
        store = Store(folder, writable=False)
    except McrError as error:
        checks.append(CheckResult(name=STORE, ok=False, detail=str(error)))
        return manifest, [*checks, *_folder_checks(folder, manifest)]
    try:
        with store.snapshot():
            checks += _store_checks(store, manifest)
            for kind in KINDS:
                checks += audit_rows(folder, store, kind, states_of(manifest).get(kind))
    except McrError as error:
        checks.append(CheckResult(name=STORE, ok=False, detail=str(error)))
    finally:
        store.close(truncate=False)
    return manifest, [*checks, *_folder_checks(folder, manifest)]


def _manifest_check(folder: Path) -> tuple[Manifest | None, list[CheckResult]]:
    try:
        manifest = Manifest.read(folder)
    except McrError as error:
        return None, [CheckResult(name=MANIFEST, ok=False, detail=str(error))]
    if manifest is None:
        why = f"{MANIFEST} is lost; the next embed writes it again from {STORE}"
        return None, [CheckResult(name=MANIFEST, ok=False, detail=why)]
    told = f"format version {manifest.format_version}, matches its digest"
    return manifest, [CheckResult(name=MANIFEST, ok=True, detail=told)]


def _store_checks(store: Store, manifest: Manifest | None) -> Iterator[CheckResult]:
    faults = store.faults()
    told = "; ".join(faults) if faults else f"format version {store.version}, sound by SQLite's own check"
    yield CheckResult(name=STORE, ok=not faults, detail=told)
    try:
        identity = store.identity()
    except McrError as error:
        yield CheckResult(name="identity", ok=False, detail=str(error))
    else:
        same = manifest is None or manifest.identity == identity
        told = f"fingerprint {identity.fingerprint}, {identity.embedding_dim} dimensions, bundle {identity.bundle!r}"
        why = f"{STORE} and {MANIFEST} belong to different indexes: restore the folder as a whole"
        yield CheckResult(name="identity", ok=same, detail=told if same else why)
    dangling = store.dangling()
    lost = dangling["files"]
    yield CheckResult(
        name="files", ok=not lost, detail=f"{lost} refer to rows that are gone" if lost else "all refer to rows"
    )
    count, damaged = 0, []
    for label, intact in store.walk_locals():
        count += 1
        if not intact:
            damaged.append(label)
    wrong = [f"{len(damaged)} do not match their digest (of rows {_first(damaged)})"] if damaged else []
    wrong += [f"{dangling['locals']} belong to rows that are gone"] if dangling["locals"] else []
    yield CheckResult(name="locals", ok=not wrong, detail="; ".join(wrong) or f"{count}, each matches its digest")


def _folder_checks(folder: Path, manifest: Manifest | None) -> Iterator[CheckResult]:
    try:
        paths = sorted(folder.iterdir())
        modes = {path.name: path.lstat().st_mode for path in (folder, *paths) if path.exists()}
    except OSError as exc:
        yield CheckResult(name="permissions", ok=False, detail=f"{folder} cannot be read: {exc.strerror}")
        return
    open_to_others = [name for name, mode in modes.items() if stat.S_IMODE(mode) & 0o077]
    why = f"others than the owner may use {_first(open_to_others)}: chmod -R go= the folder"
    yield CheckResult(name="permissions", ok=not open_to_others, detail=why if open_to_others else "the owner's alone")
    named = {name for kind, state in states_of(manifest).items() for name in state.file_names(kind)}
    others = [path for path in paths if path.name not in _LIVE | _REPORTS | named]
    left = [path.name for path in others if any(path.match(pattern) for pattern in LEFTOVERS)]
    foreign = [path.name for path in others if path.name not in left]
    what = {
        "of a run that is under way or was cut short; the next writer removes them": left,
        "no part of an index": foreign,
    }
    told = "; ".join(f"{_first(names)}: {why}" for why, names in what.items() if names)
    yield CheckResult(name="leftovers", ok=True, detail=told or "none")


def _first(names: list[str] | list[int]) -> str:
    """Name the first few of a list."""
    return ", ".join(map(str, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
