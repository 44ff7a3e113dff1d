"""A file that holds another image than before: its former row is re-pointed to a file that holds it, or has no path."""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from test_pipeline import bundle, count, embed, folder, index, stealthily
from test_pseudonyms import KEYS

from mcr_infer import Bundle, ImageEncoder, Index, phantom
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline.image_run import Stop, embed_images
from mcr_infer.pipeline.plan import Plan
from mcr_infer.sources import PlainFile, Sources

__all__ = ["bundle", "folder", "index"]


def uid_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def replace(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def path_of(index: Index, uid: str) -> str | None:
    row = index.get("image", uid)
    assert row is not None
    return row.path


@pytest.mark.parametrize("in_one_run", [True, False])
def test_a_row_loses_the_path_of_another_image(index: Index, bundle: Bundle, folder: Path, in_one_run: bool):
    first, second = folder / "0.dcm", folder / "1.dcm"
    former, new = uid_of(first), uid_of(second)
    embed(index, bundle, first)
    second.rename(first)
    os.utime(first, ns=(1, 1))
    files = [first, folder / "2.dcm"]
    if in_one_run:
        assert count(embed(index, bundle, *files)) == {"embedded": 2}
    else:
        assert count(embed(index, bundle, files[0])) == {"embedded": 1}
        assert count(embed(index, bundle, *files)) == {"unchanged": 1, "embedded": 1}
    assert (path_of(index, former), path_of(index, new)) == (None, str(first))
    assert index.files("image", former) == []


def test_a_row_is_pointed_to_its_other_file(index: Index, bundle: Bundle, folder: Path):
    first, twin = folder / "0.dcm", folder / "twin.dcm"
    former = uid_of(first)
    shutil.copy(first, twin)
    embed(index, bundle, first, twin)
    replace(first, folder / "1.dcm")
    os.utime(first, ns=(1, 1))
    embed(index, bundle, first)
    assert path_of(index, former) == str(twin)
    assert count(embed(index, bundle, twin)) == {"unchanged": 1}


def test_files_that_change_places_keep_both_rows(index: Index, bundle: Bundle, folder: Path):
    first, second, spare = folder / "0.dcm", folder / "1.dcm", folder / "spare"
    uids = uid_of(first), uid_of(second)
    embed(index, bundle, first, second)
    for source, target in ((first, spare), (second, first), (spare, second)):
        source.rename(target)
    for place in (first, second):
        os.utime(place, ns=(1, 1))
    embed(index, bundle, first, second)
    assert [path_of(index, uid) for uid in uids] == [str(second), str(first)]


def test_a_file_replaced_under_equal_times_is_seen(index: Index, bundle: Bundle, folder: Path):
    first, second = folder / "0.dcm", folder / "1.dcm"
    if first.stat().st_size != second.stat().st_size:
        pytest.skip("the two files differ in size")
    former, new = uid_of(first), uid_of(second)
    embed(index, bundle, first)
    stealthily(first, lambda path: replace(path, second))
    assert count(embed(index, bundle, first)) == {"embedded": 1}
    assert (path_of(index, former), path_of(index, new)) == (None, str(first))


def test_a_member_replaced_in_an_archive_is_seen(index: Index, bundle: Bundle, folder: Path, tmp_path: Path):
    archive = tmp_path / "all.zip"

    def run(source: Path) -> None:
        with zipfile.ZipFile(archive, "w") as file:
            file.write(source, "a.dcm")
        encoder = ImageEncoder(bundle, threads=1)
        plan = Plan(workers=2, calls=1, call_size=2)
        list(embed_images(Sources([str(archive)]), index=index, encoder=encoder, plan=plan))

    former, new = uid_of(folder / "0.dcm"), uid_of(folder / "1.dcm")
    run(folder / "0.dcm")
    run(folder / "1.dcm")
    assert (path_of(index, former), path_of(index, new)) == (None, f"{archive}/a.dcm")


@pytest.mark.parametrize("twin", [False, True])
def test_a_resumed_run_points_replaced_rows_elsewhere(
    index: Index, bundle: Bundle, folder: Path, tmp_path: Path, twin: bool
):
    first, second, last = (folder / f"{seed}.dcm" for seed in range(3))
    others, spare = [tmp_path / "8.dcm", tmp_path / "9.dcm"], folder / "twin.dcm"
    for seed, other in enumerate(others, start=8):
        write_dicom(phantom.make(seed, 64), other)
    former, kept, never, *new = (uid_of(path) for path in (first, second, last, *others))
    if twin:
        shutil.copy(first, spare)
    # More files between them than a run looks ahead.
    between = [tmp_path / f"{seed}.dcm" for seed in range(10, 26)]
    for seed, path in enumerate(between, start=10):
        write_dicom(phantom.make(seed, 32), path)
    files = [first, *([spare] if twin else []), second, *between, last]
    stop, seen = Stop(), []
    sources = [PlainFile(path=str(path)) for path in files]
    encoder, plan = ImageEncoder(bundle, threads=1), Plan(workers=1, calls=1, call_size=1)
    for outcome in embed_images(sources, index=index, encoder=encoder, plan=plan, stop=stop):
        seen.append(outcome.path)
        if outcome.path == str(second):
            stop.ask()
    assert str(last) not in seen
    assert (former in index.ids("image"), never in index.ids("image")) == (True, False)
    left = len(files) - len(seen)
    for path, other in zip((first, last), others, strict=True):
        replace(path, other)
    resumed = embed(index, bundle, *files)
    assert count(resumed) == {"embedded": 1 + left, "unchanged": len(seen) - 1}
    assert path_of(index, former) == (str(spare) if twin else None)
    assert [path_of(index, uid) for uid in (kept, *new)] == [str(second), str(first), str(last)]
    assert index.get("image", never) is None


@pytest.fixture
def keyed(bundle: Bundle, tmp_path: Path) -> Iterator[Index]:
    facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": str(bundle.path)}
    with Index.open_or_create(
        tmp_path / "keyed", fingerprint=bundle.fingerprint, pseudonymous=True, secret_check=KEYS.secret_check, **facts
    ) as store:
        yield store


def test_a_pseudonymous_row_forgets_the_replaced_file(keyed: Index, bundle: Bundle, folder: Path):
    first = folder / "0.dcm"
    assert KEYS.secret is not None
    former, new = (KEYS.secret.image_key(uid_of(folder / name)) for name in ("0.dcm", "1.dcm"))

    def run() -> None:
        encoder, plan = ImageEncoder(bundle, threads=1), Plan(workers=2, calls=1, call_size=2)
        sources = Sources([str(first)])
        list(embed_images(sources, index=keyed, encoder=encoder, plan=plan, naming=KEYS))

    run()
    replace(first, folder / "1.dcm")
    os.utime(first, ns=(1, 1))
    run()
    assert path_of(keyed, former) is None
    assert keyed.files("image", former) == []
    assert len(keyed.files("image", new)) == 1
