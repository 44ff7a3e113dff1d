"""Runs into an index that keeps keys alone: what becomes of files that move, change, repeat or contradict each other."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from test_pipeline import compress, count, paint, stealthily
from test_pseudonyms import KEYS, OTHER, SECRET, change

from mcr_infer import Bundle, ImageEncoder, Index, TextEncoder, phantom
from mcr_infer.errors import IndexMismatchError
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline.decoding import DecodePool
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.image_run import embed_images
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.pipeline.plan import Plan
from mcr_infer.pipeline.report_run import embed_reports
from mcr_infer.pseudonyms import is_key
from mcr_infer.reports import read_reports
from mcr_infer.sources import FileStamp, PlainFile
from tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three phantoms of 64 px of two patients, under names that would tell who they are."""
    place = tmp_path / "Ward_Seven"
    place.mkdir()
    for seed in range(3):
        path = place / f"{seed}.dcm"
        write_dicom(phantom.make(seed, 64), path)
        change(path, PatientID=f"PAT-{4700 + seed // 2}", PatientName="Surname^Forename")
    return place


def patient_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).PatientID)


def id_of(path: Path, naming: DeidentificationPolicy = KEYS) -> str:
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    return naming.secret.image_key(uid) if naming.secret and naming.pseudonymous else uid


@contextmanager
def opened(bundle: Bundle, place: Path, naming: DeidentificationPolicy = KEYS) -> Iterator[Index]:
    facts = {"embedding_dim": bundle.embedding_dim, "bundle": bundle.name, "bundle_path": "shipped"}
    with Index.open_or_create(
        place,
        fingerprint=bundle.fingerprint,
        pseudonymous=naming.pseudonymous,
        secret_check=naming.secret_check,
        **facts,
    ) as index:
        yield index


def embed(
    index: Index, bundle: Bundle, *paths: Path | str, naming: DeidentificationPolicy = KEYS, **changes: object
) -> list[Outcome]:
    plan = Plan(**({"workers": 1, "calls": 1, "call_size": 2} | changes))
    sources = [PlainFile(path=str(path)) for path in paths]
    encoder = ImageEncoder(bundle, threads=1)
    return list(embed_images(sources, index=index, encoder=encoder, plan=plan, naming=naming))


def test_orders_are_no_arguments_of_a_worker(bundle: Bundle, folder: Path):
    patients = SECRET.patients()
    with DecodePool(bundle.preprocess, workers=1, slots=2, patients=patients) as pool:
        decoded = pool.submit(PlainFile(path=str(folder / "0.dcm"))).result()
        (worker,) = pool._idle
        arguments = Path(f"/proc/{worker.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert decoded.patient_key == SECRET.patient_key(patient_of(folder / "0.dcm"))
    assert patients.to_text().encode() not in arguments + environment
    assert b"image_size" not in arguments


def test_rows_of_a_pseudonymous_index_hold_keys(bundle: Bundle, folder: Path, tmp_path: Path):
    files = sorted(folder.iterdir())
    change(files[0], ViewPosition="SURNAME", BodyPartExamined="WARD SEVEN")
    with opened(bundle, tmp_path / "index") as index:
        assert count(embed(index, bundle, *files)) == {"embedded": 3}
        row = index.get("image", id_of(files[0]))
        kept = index.files("image", row.id)
        assert count(embed(index, bundle, *files)) == {"unchanged": 3}
    header = pydicom.dcmread(files[0])
    assert row.path is None
    assert row.study_uid == SECRET.study_key(header.StudyInstanceUID)
    assert row.series_uid == SECRET.series_key(header.SeriesInstanceUID)
    assert row.patient_key == SECRET.patient_key("PAT-4700")
    assert is_key(str(row.content_digest))
    # A view and a body part that are no words of DICOM could be anything.
    assert row.metadata == {
        "modality": "DX", "study_year": 2020, "transfer_syntax": "1.2.840.10008.1.2.1", "intensity": "window",
        "mirrored": False, "view_source": "tag",
    }  # fmt: skip
    (stamp,) = kept
    status = files[0].stat()
    assert stamp.path == SECRET.path_key(str(files[0]))
    assert (stamp.size, stamp.mtime_ns) != (status.st_size, status.st_mtime_ns)
    assert 0 <= stamp.size < 2**60
    assert 0 <= stamp.mtime_ns < 2**60
    assert stamp.ctime_ns is not None
    assert 0 <= stamp.ctime_ns < 2**60
    assert stamp.ctime_ns not in (status.st_ctime_ns, stamp.mtime_ns, stamp.size)


def test_vectors_and_counts_are_those_of_a_plain_index(bundle: Bundle, folder: Path, tmp_path: Path):
    files = sorted(folder.iterdir())
    with (
        opened(bundle, tmp_path / "keys") as keys,
        opened(bundle, tmp_path / "plain", DeidentificationPolicy()) as plain,
    ):
        embed(keys, bundle, *files)
        embed(plain, bundle, *files, naming=DeidentificationPolicy())
        for path in files:
            one, other = keys.vector("image", id_of(path)), plain.vector("image", id_of(path, DeidentificationPolicy()))
            assert float(one @ other) >= 0.99999


def test_a_changed_file_is_embedded_again(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = folder / "0.dcm"
    with opened(bundle, tmp_path / "index") as index:
        embed(index, bundle, path)
        before = index.vector("image", id_of(path))
        paint(path)
        monkeypatch.chdir(folder.parent)
        assert count(embed(index, bundle, f"./{folder.name}/0.dcm")) == {"embedded": 1}
        assert float(index.vector("image", id_of(path)) @ before) < 0.9999
        assert count(embed(index, bundle, path)) == {"unchanged": 1}


def test_a_replaced_file_of_equal_size_and_time_is_seen(bundle: Bundle, folder: Path, tmp_path: Path):
    path = folder / "0.dcm"
    with opened(bundle, tmp_path / "index") as index:
        embed(index, bundle, path)
        before = index.vector("image", id_of(path))
        stealthily(path, paint)
        assert count(embed(index, bundle, path)) == {"embedded": 1}
        assert float(index.vector("image", id_of(path)) @ before) < 0.9999
        index._store._connection.execute("UPDATE files SET ctime_ns = NULL")  # as migration leaves them
        assert count(embed(index, bundle, path)) == {"unchanged": 1}
        stealthily(path, lambda path: path.chmod(0o600))
        assert count(embed(index, bundle, path)) == {"unchanged": 1}


def test_a_moved_folder_is_known_by_its_pixels(bundle: Bundle, folder: Path, tmp_path: Path):
    with opened(bundle, tmp_path / "index") as index:
        embed(index, bundle, *folder.iterdir())
        moved = folder.rename(folder.with_name("moved"))
        assert count(embed(index, bundle, *moved.iterdir())) == {"unchanged": 3}
        assert index.count("image") == 3
        # Its new place is known now: what changes there has changed.
        paint(moved / "1.dcm")
        assert count(embed(index, bundle, moved / "1.dcm")) == {"embedded": 1}


def test_a_file_that_moved_and_changed_replaces_nothing_until_it_is_told_to(
    bundle: Bundle, folder: Path, tmp_path: Path
):
    path = folder / "0.dcm"
    with opened(bundle, tmp_path / "index") as index:
        embed(index, bundle, path)
        before = index.vector("image", id_of(path))
        moved = path.rename(folder / "moved.dcm")
        paint(moved)
        (outcome,) = embed(index, bundle, moved)
        key = id_of(moved)
        assert outcome.reason == "uid_conflict"
        assert f"`mcr-infer delete --id {key}`" in str(outcome.error)
        assert np.array_equal(index.vector("image", key), before)
        assert index.delete("image", [key]) == 1
        assert count(embed(index, bundle, moved)) == {"embedded": 1}


def test_twins_and_conflicts(bundle: Bundle, folder: Path, tmp_path: Path):
    files = sorted(folder.iterdir())
    twin, other = folder / "twin.dcm", folder / "other.dcm"
    twin.write_bytes(files[0].read_bytes())
    other.write_bytes(files[1].read_bytes())
    paint(other)
    with opened(bundle, tmp_path / "index") as index:
        outcomes = embed(index, bundle, *files, twin, other)
        assert count(outcomes) == {"embedded": 3, "unchanged": 1, "uid_conflict": 1}
        assert count(embed(index, bundle, *files, twin, other)) == {"unchanged": 4, "uid_conflict": 1}
        # The twin changes: its row follows it, and the first file contradicts it from then on.
        paint(twin)
        assert count(embed(index, bundle, twin)) == {"embedded": 1}
        assert count(embed(index, bundle, files[0], twin)) == {"uid_conflict": 1, "unchanged": 1}


@pytest.mark.parametrize("first", ["plain.dcm", "small.dcm"])
def test_a_twin_that_was_decoded_smaller_is_one_as_far_as_that_can_be_seen(bundle: Bundle, tmp_path: Path, first: str):
    plain, small = tmp_path / "plain.dcm", tmp_path / "small.dcm"
    write_dicom(phantom.make(7, 128), plain)
    compress(plain, small)
    paths = [plain, small] if first == "plain.dcm" else [small, plain]
    with opened(bundle, tmp_path / "index") as index:
        assert count(embed(index, bundle, paths[0])) == {"embedded": 1}
        (outcome,) = embed(index, bundle, paths[1])
    if first == "plain.dcm":  # the second one is decoded in full, and the first one was
        assert outcome.status == "unchanged"
    else:
        assert outcome.reason == "uid_conflict"
        assert "was decoded smaller and cannot be compared" in str(outcome.error)


def test_a_corrected_header_corrects_the_row(bundle: Bundle, folder: Path, tmp_path: Path):
    path = folder / "0.dcm"
    for naming in (KEYS, DeidentificationPolicy(secret=SECRET)):
        with opened(bundle, tmp_path / f"index-{naming.pseudonymous}", naming) as index:
            embed(index, bundle, path, naming=naming)
            change(path, ViewPosition="LL", PatientID="PAT-9", StudyInstanceUID="1.2.3.99")
            assert count(embed(index, bundle, path, naming=naming)) == {"unchanged": 1}
            row = index.get("image", id_of(path, naming))
            assert row.metadata["view"] == "LL"
            assert row.patient_key == SECRET.patient_key("PAT-9")
            assert row.study_uid == (SECRET.study_key("1.2.3.99") if naming.pseudonymous else "1.2.3.99")
        change(path, ViewPosition="PA", PatientID="PAT-4700")


def test_one_image_of_two_patients_is_a_failure(bundle: Bundle, folder: Path, tmp_path: Path):
    one, other = folder / "0.dcm", folder / "copy.dcm"
    other.write_bytes(one.read_bytes())
    change(other, PatientID="PAT-9")
    naming = DeidentificationPolicy(secret=SECRET)
    with opened(bundle, tmp_path / "index", naming) as index:
        outcomes = embed(index, bundle, one, other, naming=naming)
        assert count(outcomes) == {"embedded": 1, "patient_conflict": 1}
        assert "PAT" not in str(outcomes[1].error)
        one.unlink()  # now it is the same image of a corrected patient
        assert count(embed(index, bundle, other, naming=naming)) == {"unchanged": 1}
        assert index.get("image", id_of(other, naming)).patient_key == SECRET.patient_key("PAT-9")


def test_reports_are_named_by_keys(bundle: Bundle, tmp_path: Path):
    table = tmp_path / "reports.csv"
    table.write_text(
        "id,study_id,patient_id,report\nr1,s9,PAT-1,Left effusion.\nr2,s9,PAT-1,Normal chest.\nr1,s9,PAT-1,Other words.\n"
        "r2,s9,PAT-2,Normal chest.\n"
    )

    def run(index: Index, *, keep_text: bool = False) -> list[Outcome]:
        records, encoder = read_reports(table, patients=KEYS.patients), TextEncoder(bundle)
        options = {"batch_size": 8, "keep_text": keep_text, "naming": KEYS}
        return list(embed_reports(records, index=index, encoder=encoder, **options))

    with opened(bundle, tmp_path / "index") as index:
        outcomes = run(index)
        assert count(outcomes) == {"embedded": 2, "id_conflict": 2}
        assert "another patient" in str(outcomes[1].error)
        row = index.get("report", SECRET.report_key("r1"))
        assert (row.path, row.text) == (None, None)
        assert row.study_uid == SECRET.study_key("s9")
        assert row.patient_key == SECRET.patient_key("PAT-1")
        assert row.content_digest != hashlib.sha256(b"Left effusion.").hexdigest()
        assert count(run(index)) == {"unchanged": 2, "id_conflict": 2}
        with pytest.raises(IndexMismatchError, match="a path or its words"):
            run(index, keep_text=True)
        table.write_text("id,report\nr1,Right effusion.\nr2,Normal chest.\n")
        assert count(run(index)) == {"embedded": 1, "unchanged": 1}
        assert index.get("report", SECRET.report_key("r1")).patient_key == SECRET.patient_key("PAT-1")


def test_a_pseudonymous_index_takes_nothing_but_keys(bundle: Bundle, folder: Path, tmp_path: Path):
    file = folder / "0.dcm"
    with opened(bundle, tmp_path / "index") as index:
        for naming in (
            DeidentificationPolicy(),
            DeidentificationPolicy(secret=SECRET),
            DeidentificationPolicy(secret=OTHER, pseudonymous=True),
        ):
            with pytest.raises(IndexMismatchError, match=r"site secret|pseudonymise"):
                embed(index, bundle, file, naming=naming)
        embed(index, bundle, file)
        row = index.get("image", id_of(file))
        for change_of in (
            {"path": str(file)},
            {"id": "1.2.3"},
            {"study_uid": "1.2.3"},
            {"patient_key": "PAT"},
            {"text": "x"},
        ):
            with pytest.raises(IndexMismatchError, match="takes rows that are named by keys only") as caught:
                index.add([replace(row, **change_of)])
            assert not any(str(value) in str(caught.value) for value in change_of.values() if value != "x")
        with pytest.raises(IndexMismatchError, match="a file is named by something else"):
            index.add([], files=[(FileStamp.of(str(file)), row.id)])
        assert index.ids("image") == [row.id]


def test_an_index_keeps_its_secret_and_its_way_of_naming(bundle: Bundle, tmp_path: Path):
    plain, keyed = DeidentificationPolicy(), DeidentificationPolicy(secret=SECRET)
    for name, naming in (("plain", plain), ("keyed", keyed), ("keys", KEYS)):
        with opened(bundle, tmp_path / name, naming) as index:
            assert index.identity.pseudonymous is naming.pseudonymous
            assert index.identity.secret_check == naming.secret_check
        with opened(bundle, tmp_path / name, naming):
            pass  # known again
    for name, naming, message in (
        ("plain", keyed, "made without a site secret: its rows have no keys"),
        ("plain", KEYS, "made without a site secret"),
        ("keyed", plain, "none was given: name its file with --site-secret"),
        ("keyed", DeidentificationPolicy(secret=OTHER), "made with another site secret"),
        ("keyed", KEYS, "is pseudonymous from its first row or never. Leave --pseudonymise out"),
        ("keys", plain, "none was given"),
        ("keys", keyed, "is pseudonymous: it keeps no paths and no UIDs. Give --pseudonymise"),
        ("keys", DeidentificationPolicy(secret=OTHER, pseudonymous=True), "made with another site secret"),
    ):
        with pytest.raises(IndexMismatchError, match=message), opened(bundle, tmp_path / name, naming):
            pass
