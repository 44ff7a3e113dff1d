"""What becomes of files that move, change, repeat or contradict each other; the towers are those of the tiny bundle."""

import os
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from mcr_infer import Bundle, ImageEncoder, Index, TextEncoder, phantom
from mcr_infer.errors import ImageError, ReportError
from mcr_infer.evaluation.embed_pairs import embed_pairs
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.images.selection import Selection
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline import report_run
from mcr_infer.pipeline.decoding import DecodePool
from mcr_infer.pipeline.image_run import embed_images
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.pipeline.plan import Plan
from mcr_infer.reports import ReportFailure, ReportRecord
from mcr_infer.sources import NameList, PlainFile, Source, Sources
from tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def index(bundle: Bundle, tmp_path: Path) -> Iterator[Index]:
    facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": str(bundle.path)}
    with Index.open_or_create(tmp_path / "index", fingerprint=bundle.fingerprint, **facts) as store:
        yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three phantoms of 64 px."""
    place = tmp_path / "dicoms"
    place.mkdir()
    for seed in range(3):
        write_dicom(phantom.make(seed, 64), place / f"{seed}.dcm")
    return place


def embed(index: Index, bundle: Bundle, *paths: Path | str, call_size: int = 2, **changes: object) -> list[Outcome]:
    plan = Plan(**({"workers": 2, "calls": 2, "call_size": call_size} | changes))
    sources = [PlainFile(path=str(path)) for path in paths]
    return list(embed_images(sources, index=index, encoder=ImageEncoder(bundle, threads=1), plan=plan))


def count(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(outcome.reason or outcome.status for outcome in outcomes)


def paint(path: Path) -> None:
    """Change pixels of a DICOM file, and its modification time with them."""
    data = pydicom.dcmread(path)
    pixels = data.pixel_array.copy()
    pixels[20:40, 20:40] = 4000
    data.PixelData = pixels.tobytes()
    data.save_as(path)
    os.utime(path, ns=(1, 1))


def paths_of(index: Index) -> set[str | None]:
    return {index.get("image", id).path for id in index.ids("image")}


def test_outcomes_come_in_the_order_of_the_files(index: Index, bundle: Bundle, folder: Path):
    files = sorted(folder.iterdir()) * 5
    outcomes = embed(index, bundle, *files, call_size=1)
    assert [outcome.path for outcome in outcomes] == [str(path) for path in files]
    assert count(outcomes) == {"embedded": 3, "unchanged": 12}


def test_rows_do_not_depend_on_the_batch(index: Index, bundle: Bundle, folder: Path):
    embed(index, bundle, *sorted(folder.iterdir()), call_size=3)
    encoder = ImageEncoder(bundle)
    for seed in range(3):
        made = phantom.make(seed, 64)
        alone = encoder.encode_radiographs([made.radiograph()])[0]
        uid = pydicom.dcmread(folder / f"{seed}.dcm").SOPInstanceUID
        assert float(index.vector("image", uid) @ alone) >= 0.99999


def test_a_folder_that_moved_is_found_at_its_new_place(index: Index, bundle: Bundle, folder: Path):
    embed(index, bundle, *folder.iterdir())
    moved = folder.rename(folder.with_name("moved"))
    assert count(embed(index, bundle, *moved.iterdir())) == {"unchanged": 3}
    assert paths_of(index) == {str(path) for path in moved.iterdir()}


def test_another_spelling_of_a_path_is_the_same_file(
    index: Index, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    embed(index, bundle, folder / "0.dcm")
    paint(folder / "0.dcm")
    monkeypatch.chdir(folder.parent)
    assert count(embed(index, bundle, "./dicoms/0.dcm")) == {"embedded": 1}
    assert paths_of(index) == {"./dicoms/0.dcm"}


def stealthily(path: Path, change: Callable[[Path], object]) -> None:
    """Change a file and put its modification time back, as rsync and backups do."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the files that are opened from now on."""
    opened: list[str] = []
    submit = DecodePool.submit

    def counted(self: DecodePool, source: Source, **how: Any) -> Any:
        opened.append(Path(source.path).name)
        return submit(self, source, **how)

    monkeypatch.setattr(DecodePool, "submit", counted)
    return opened


def test_a_replaced_file_of_equal_size_and_time_is_seen(index: Index, bundle: Bundle, folder: Path):
    files = sorted(folder.iterdir())
    embed(index, bundle, *files)
    id = str(pydicom.dcmread(files[1]).SOPInstanceUID)
    before = index.vector("image", id)
    stealthily(files[1], paint)
    assert count(embed(index, bundle, *files)) == {"unchanged": 2, "embedded": 1}
    assert not np.array_equal(index.vector("image", id), before)
    assert count(embed(index, bundle, *files)) == {"unchanged": 3}


def pack_tar(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for one in sorted(folder.iterdir()):
            archive.add(one, one.name)


def pack_zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", strict_timestamps=False) as archive:
        for one in sorted(folder.iterdir()):
            archive.write(one, one.name)


@pytest.mark.parametrize(("name", "pack"), [("a.tar", pack_tar), ("a.zip", pack_zip)])
def test_a_replaced_archive_of_equal_size_and_time_is_seen(
    index: Index, bundle: Bundle, folder: Path, tmp_path: Path, name: str, pack: Callable[[Path, Path], None]
):
    path = tmp_path / name
    encoder, plan = ImageEncoder(bundle, threads=1), Plan(workers=2, calls=2, call_size=2)

    def run() -> Counter[str]:
        return count(list(embed_images(Sources([str(path)]), index=index, encoder=encoder, plan=plan)))

    pack(folder, path)
    assert run() == {"embedded": 3}
    assert run() == {"unchanged": 3}
    paint(folder / "1.dcm")
    stealthily(path, lambda path: pack(folder, path))
    # The members that are as they were are decoded, and nothing more.
    assert run() == {"unchanged": 2, "embedded": 1}
    assert run() == {"unchanged": 3}


def test_a_replaced_file_of_a_list_of_names_is_seen(index: Index, bundle: Bundle, folder: Path, tmp_path: Path):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())))
    encoder, plan = ImageEncoder(bundle, threads=1), Plan(workers=2, calls=2, call_size=2)

    def run() -> Counter[str]:
        sources = Sources((), names=NameList(path=str(names)))
        return count(list(embed_images(sources, index=index, encoder=encoder, plan=plan)))

    assert run() == {"embedded": 3}
    stealthily(folder / "2.dcm", paint)
    assert run() == {"unchanged": 2, "embedded": 1}


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.chmod(0o600),
        lambda path: path.with_suffix(".hard").hardlink_to(path),
        lambda path: path.rename(path.with_suffix(".away")).rename(path),
        lambda path: path.write_bytes(path.read_bytes()),
    ],
    ids=["chmod", "hard link", "rename", "same bytes"],
)
def test_a_new_ctime_alone_costs_one_decode(
    index: Index, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch, touch: Callable[[Path], object]
):
    files = sorted(folder.iterdir())
    embed(index, bundle, *files)
    vector = index.vector("image", index.ids("image")[1])
    stealthily(files[1], touch)
    opened = decoded(monkeypatch)
    assert count(embed(index, bundle, *files)) == {"unchanged": 3}
    assert opened == ["1.dcm"]
    assert np.array_equal(index.vector("image", index.ids("image")[1]), vector)
    assert count(embed(index, bundle, *files)) == {"unchanged": 3}
    assert opened == ["1.dcm"]


def test_old_stamps_learn_their_ctime_without_opening(
    index: Index, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    files = sorted(folder.iterdir())
    embed(index, bundle, *files)
    index._store._connection.execute("UPDATE files SET ctime_ns = NULL")  # as migration leaves them
    opened = decoded(monkeypatch)
    assert count(embed(index, bundle, *files)) == {"unchanged": 3}
    assert opened == []
    stealthily(files[0], paint)
    assert count(embed(index, bundle, *files)) == {"unchanged": 2, "embedded": 1}
    assert opened == ["0.dcm"]


def test_files_of_odd_times_are_embedded_once(index: Index, bundle: Bundle, folder: Path):
    files = sorted(folder.iterdir())
    for path, seconds in zip(files, (-(2**31), -1, 15_032_385_535), strict=True):
        os.utime(path, (seconds, seconds))  # 1901, 1969, and 2446, which is the last year that ext4 has
    assert count(embed(index, bundle, *files)) == {"embedded": 3}
    assert count(embed(index, bundle, *files)) == {"unchanged": 3}


def test_a_corrected_header_corrects_the_row(index: Index, bundle: Bundle, folder: Path):
    path = folder / "0.dcm"
    embed(index, bundle, path)
    data = pydicom.dcmread(path)
    before = index.get("image", data.SOPInstanceUID)
    data.ViewPosition = "LL"
    data.save_as(path)
    os.utime(path, ns=(1, 1))
    assert count(embed(index, bundle, path)) == {"unchanged": 1}
    after = index.get("image", data.SOPInstanceUID)
    assert after.metadata["view"] == "LL"
    assert np.array_equal(after.vector, before.vector)


def test_a_corrected_pixel_spacing_is_embedded_again(index: Index, bundle: Bundle, folder: Path):
    path = folder / "0.dcm"
    embed(index, bundle, path)
    data = pydicom.dcmread(path)
    data.ImagerPixelSpacing = ["0.2", "0.1"]
    data.save_as(path)
    os.utime(path, ns=(1, 1))
    assert count(embed(index, bundle, path)) == {"embedded": 1}


def test_when_one_of_two_twins_changes_the_other_is_a_conflict(index: Index, bundle: Bundle, folder: Path):
    shutil.copy(folder / "0.dcm", folder / "twin.dcm")
    assert count(embed(index, bundle, folder / "0.dcm", folder / "twin.dcm")) == {"embedded": 1, "duplicate": 1}
    paint(folder / "0.dcm")
    assert count(embed(index, bundle, folder / "0.dcm")) == {"embedded": 1}
    outcomes = embed(index, bundle, folder / "0.dcm", folder / "twin.dcm")
    assert count(outcomes) == {"unchanged": 1, "uid_conflict": 1}
    assert outcomes[1].path.endswith("twin.dcm")


def compress(source: Path, target: Path) -> Path:
    """Write the same image as JPEG 2000 without loss, which keeps its SOP Instance UID."""
    imagecodecs = pytest.importorskip("imagecodecs")
    data = pydicom.dcmread(source)
    frame = imagecodecs.jpeg2k_encode(data.pixel_array, level=0, codecformat="J2K", bitspersample=12, reversible=True)
    data.PixelData = encapsulate([bytes(frame)])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    data.save_as(target)
    return target


@pytest.mark.parametrize("first", ["plain.dcm", "small.dcm"])
def test_a_twin_that_was_decoded_smaller_is_a_twin(index: Index, bundle: Bundle, tmp_path: Path, first: str):
    plain, small = tmp_path / "plain.dcm", tmp_path / "small.dcm"
    write_dicom(phantom.make(7, 128), plain)
    compress(plain, small)
    paths = [plain, small] if first == "plain.dcm" else [small, plain]
    assert count(embed(index, bundle, *paths)) == {"embedded": 1, "duplicate": 1}
    (id,) = index.ids("image")
    assert index.get("image", id).metadata.get("reduction") == (None if first == "plain.dcm" else 2)
    # A later run knows both without opening them, and one in full finds a picture that it has.
    assert count(embed(index, bundle, *paths)) == {"unchanged": 2}


def test_a_smaller_picture_of_other_pixels_is_a_conflict(index: Index, bundle: Bundle, tmp_path: Path):
    plain, other = tmp_path / "plain.dcm", tmp_path / "other.dcm"
    write_dicom(phantom.make(7, 128), plain)
    shutil.copy(plain, other)
    paint(other)
    outcomes = embed(index, bundle, plain, compress(other, tmp_path / "small.dcm"))
    assert count(outcomes) == {"embedded": 1, "uid_conflict": 1}


def test_a_selection_leaves_out_and_is_no_failure(index: Index, bundle: Bundle, folder: Path):
    (folder / "cut.dcm").write_bytes((folder / "0.dcm").read_bytes()[:4000])
    views = Counter(pydicom.dcmread(folder / f"{seed}.dcm").ViewPosition for seed in range(3))
    outcomes = embed(index, bundle, *sorted(folder.iterdir()), selection=Selection(views=("PA",)))
    assert count(outcomes) == Counter({"embedded": views["PA"], "view": 3 - views["PA"], "truncated": 1})
    assert {outcome.status for outcome in outcomes if outcome.reason == "view"} <= {"left_out"}


def test_a_file_that_vanishes_is_one_failure(index: Index, bundle: Bundle, folder: Path):
    outcomes = embed(index, bundle, folder / "0.dcm", folder / "gone.dcm", folder / "1.dcm")
    assert count(outcomes) == {"embedded": 2, "missing": 1}


def test_an_interrupted_run_keeps_what_it_said(index: Index, bundle: Bundle, folder: Path):
    files = sorted(folder.iterdir())
    run = embed_images(
        [PlainFile(path=str(path)) for path in files],
        index=index,
        encoder=ImageEncoder(bundle, threads=1),
        plan=Plan(workers=1, calls=1, call_size=1),
    )
    said = next(run)
    run.close()
    assert said.status == "embedded"
    kept = paths_of(index)
    assert said.path in kept
    assert count(embed(index, bundle, *files)) == {"embedded": 3 - len(kept), "unchanged": len(kept)}


def record(id: str, text: str, row: int) -> ReportRecord:
    return ReportRecord(id=id, text=text, path=f"reports.csv:{row}", study_uid=None)


def embed_reports(index: Index, bundle: Bundle, *records: ReportRecord | ReportFailure, keep_text: bool = False):
    encoder = TextEncoder(bundle)
    return list(report_run.embed_reports(records, index=index, encoder=encoder, batch_size=2, keep_text=keep_text))


def test_two_reports_of_one_id_never_overwrite_each_other(index: Index, bundle: Bundle):
    rows = (record("a", "Left effusion.", 2), record("a", "Right effusion.", 3), record("b", "Normal chest.", 4))
    for expected in ({"embedded": 2, "id_conflict": 1}, {"unchanged": 2, "id_conflict": 1}):
        assert count(embed_reports(index, bundle, *rows)) == expected
    assert index.count("report") == 2


def test_a_changed_report_is_embedded_again(index: Index, bundle: Bundle):
    assert count(embed_reports(index, bundle, record("a", "Left effusion.", 2))) == {"embedded": 1}
    assert count(embed_reports(index, bundle, record("a", "No effusion.", 2))) == {"embedded": 1}
    assert index.count("report") == 1


def test_text_is_kept_when_it_is_asked_for_later(index: Index, bundle: Bundle):
    one = record("a", "Left effusion.", 2)
    embed_reports(index, bundle, one)
    assert index.get("report", "a").text is None
    embed_reports(index, bundle, one, keep_text=True)
    assert index.get("report", "a").text == "Left effusion."
    assert count(embed_reports(index, bundle, one, keep_text=True)) == {"unchanged": 1}


def test_empty_and_unreadable_reports_are_failures(index: Index, bundle: Bundle):
    bad = ReportFailure(path="reports.csv:9", reason="encoding", error="not UTF-8")
    outcomes = embed_reports(index, bundle, record("a", " ___ ", 2), bad, record("b", "Clear lungs.", 3))
    assert count(outcomes) == {"embedded": 1, "empty": 1, "encoding": 1}


def test_an_evaluation_names_the_file_that_it_cannot_use(bundle: Bundle, folder: Path):
    (folder / "empty.dcm").touch()
    good = Pair(image=folder / "0.dcm", report="Normal chest.")
    towers = {"images": ImageEncoder(bundle), "texts": TextEncoder(bundle), "batch_size": 2, "workers": 1}
    images, reports = embed_pairs([good, good, good], **towers)
    assert images.shape == reports.shape == (3, bundle.embedding_dim)
    with pytest.raises(ImageError, match=r"empty\.dcm"):
        embed_pairs([good, Pair(image=folder / "empty.dcm", report="Normal.")], **towers)
    with pytest.raises(ReportError, match=r"1\.dcm"):
        embed_pairs([good, Pair(image=folder / "1.dcm", report="FINDINGS:")], **towers)
