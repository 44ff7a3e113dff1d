"""Chunks of mutated archives and DICOMDIRs through real runs, beside what Python's own readers list."""

import contextlib
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pydicom

from mcr_infer.images.third_party import quietly
from tests.fuzz import samples
from tests.fuzz.dicomdirs import FILES, dicomdir
from tests.fuzz.embedding import Group, Told, account, run_isolated
from tests.fuzz.pictures import Case
from tests.fuzz.tally import Tally
from tests.fuzz.tars import tar_archive
from tests.fuzz.zips import zip_archive

_MOST = 400
"""Members that Python's readers are asked for."""


def fuzz_archives(format: str, seed: int, numbers: range, place: Path, tally: Tally) -> None:
    """Make the cases of one chunk, run them and note what came of each."""
    make, write, listed = ARCHIVES[format]
    folder = place / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    groups = []
    for number in numbers:
        case = make(seed, number)
        groups.append(Group(number, case.mutations, str(write(folder, case))))
    finished = list(account(run_isolated(groups, place, tally, reduce=True), tally))
    for group, told, ignored in finished:
        if ignored >= 0:
            _check(group, told, ignored, listed(Path(group.path)), tally)
    for group in groups[len(finished) :]:
        tally.find("unaccounted", group.number, group.mutations, "the run ended before it")
    shutil.rmtree(folder)


def _check(group: Group, told: list[Told], ignored: int, listed: set[str], tally: Tally) -> None:
    """Everything that another reader finds has an outcome, or was left out by its name, or the archive itself failed."""
    refused = any(one.path == group.path and one.status != "embedded" for one in told)
    if len(told) + ignored < len(listed) and not refused:
        words = f"{len(told)} outcomes and {ignored} ignored, while Python lists {len(listed)}: {sorted(listed)[:20]}"
        tally.find("unaccounted", group.number, group.mutations, words)
    folder = str(Path(group.path).parent)
    outside = [one.path for one in told if not one.path.startswith(folder)]
    if outside:
        tally.find("unaccounted", group.number, group.mutations, f"outcomes of other files: {outside}")


def _write_archive(suffix: str) -> Callable[[Path, Case], Path]:
    def write(folder: Path, case: Case) -> Path:
        path = folder / f"{case.number:08d}{suffix}"
        path.write_bytes(case.data)
        return path

    return write


def _write_dicomdir(folder: Path, case: Case) -> Path:
    place = folder / f"{case.number:08d}"
    for file in FILES:
        image = place / file.replace("\\", "/")
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(samples.jpegs()[len(file) % 3])
    (place / "DICOMDIR").write_bytes(case.data)
    return place / "DICOMDIR"


def _in_zip(path: Path) -> set[str]:
    """Return the members that `zipfile` can unpack."""
    found = set()
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as archive:
        for info in archive.infolist()[:_MOST]:
            with contextlib.suppress(Exception):
                if not info.is_dir() and (info.file_size or info.compress_size) and archive.read(info):
                    found.add(f"{info.filename} at {info.header_offset}")
    return found


def _in_tar(path: Path) -> set[str]:
    """Return the members that `tarfile` finds before it fails."""
    found = set()
    with contextlib.suppress(Exception), tarfile.open(path) as archive:
        for member in archive:
            if member.isreg() and len(found) < _MOST:
                found.add(f"{member.name} at {member.offset}")
    return found


def _in_dicomdir(path: Path) -> set[str]:
    """Return the files of the image records that pydicom finds."""
    found = set()
    with contextlib.suppress(Exception), quietly():
        for number, record in enumerate(pydicom.dcmread(path).DirectoryRecordSequence):
            if str(record.DirectoryRecordType).strip() == "IMAGE" and record.get("ReferencedFileID"):
                found.add(f"{record.ReferencedFileID} in record {number}")
    return found


ARCHIVES: Mapping[str, tuple[Callable[[int, int], Case], Callable[[Path, Case], Path], Callable[[Path], set[str]]]] = {
    "zip": (zip_archive, _write_archive(".zip"), _in_zip),
    "tar": (tar_archive, _write_archive(".tar"), _in_tar),
    "dicomdir": (dicomdir, _write_dicomdir, _in_dicomdir),
}
