"""Keys instead of identifiers: what they are, what an index that keeps them holds, and what it refuses."""

import hashlib
import hmac
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from test_embed_run import held_run
from test_pipeline import paint

from conftest import json_lines, run_cli
from dicoms import picture
from dicoms import write as write_small
from mcr_infer import Index, phantom
from mcr_infer.errors import BrokenImageError, ConfigError
from mcr_infer.images.dicom import read_dicom
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.outcome import FAILURES, Outcome, Summary
from mcr_infer.pseudonyms import SiteSecret, is_key
from mcr_infer.reports import ReportFailure, read_reports

SECRET = SiteSecret(content=bytes(range(32)))
OTHER = SiteSecret(content=bytes(range(1, 33)))
KEYS = DeidentificationPolicy(secret=SECRET, pseudonymous=True)


# ---- Keys -----------------------------------------------------------------------------------------------------------
def expected_key(kind: str, *values: str) -> str:
    """The construction, written down a second time."""
    space = hmac.new(bytes(range(32)), b"mcr-infer pseudonyms 1: " + kind.encode(), hashlib.sha256).digest()
    told = b"".join(len(value.encode()).to_bytes(8, "big") + value.encode() for value in values)
    return hmac.new(space, told, hashlib.sha256).hexdigest()


def test_keys_stay_what_they_are():
    """Rows are found again by keys that an earlier release made."""
    assert SECRET.image_key("1.2.3") == "c4b29b15857e37e20a56ed0369efebd8c6eb958bfae7878937ba3886cc39ff1a"
    assert SECRET.patient_key("4711") == "24057f6debab08e53d8c8f7182886633af28d569891cf6625aeca9376ac3eaa5"
    assert SECRET.patient_key("4711", "X") == "27090001e01f11dc0fb46d12f13952d5412a896671de17629b5a7ac31a6e3b61"
    assert SECRET.path_key("/a/b") == "e9f8eb0bb3acc03422936aa2f837fae385584165846886f07216c7b8c23b8d1d"
    assert SECRET.check() == "0348e8c5da5dc4e5ead5b142abd342f59c64e7cf70d21a6183f43796976ae6e8"
    assert SECRET.image_key("1.2.3") == expected_key("image", "1.2.3")
    assert SECRET.patient_key("4711", "X") == expected_key("patient", "4711", "X")


def test_kinds_and_secrets_share_no_key():
    makers = ("image_key", "study_key", "series_key", "report_key", "path_key", "patient_key", "content_key")
    keys = [getattr(secret, maker)("/1") for secret in (SECRET, OTHER) for maker in makers]
    keys += [SECRET.check(), OTHER.check(), SECRET.stamp_key("/1", 2, 3), SECRET.stamp_key("/1", 23, 0)]
    assert len(set(keys)) == len(keys) == 18
    assert all(map(is_key, keys))
    assert SECRET.patient_key("ab", "c") != SECRET.patient_key("a", "bc")


def test_padding_and_spelling_of_a_patient_id_mean_nothing():
    assert SECRET.patient_key(" 4711 \0") == SECRET.patient_key("4711", " ") == SECRET.patients().key("4711", None)
    assert SECRET.patient_key("M\u00fc1") == SECRET.patient_key("Mu\u03081")
    assert SECRET.patient_key("a") != SECRET.patient_key("A")
    with pytest.raises(ConfigError, match="has no character"):
        SECRET.patient_key("  ")


def test_a_path_has_one_key_wherever_a_run_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert SECRET.path_key("./a//b/../c.dcm") == SECRET.path_key(f"{tmp_path}/a/c.dcm")
    address = "dicomweb://pacs/studies/1.2"
    assert SECRET.path_key(address) == expected_key("path", address)


def test_a_secret_is_never_shown():
    shown = f"{SECRET!r} {SECRET} {SECRET.patients()!r} {KEYS!r}"
    assert not any(text in shown for text in (SECRET.content.hex(), repr(SECRET.content)[2:-1], "x01"))


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"x" * 31, 0o600, "has 31 bytes, expected 32 to 4096: make one with .*openssl rand"),
        (bytes(64), 0o600, "fewer than 8 different bytes"),
        (bytes(range(250)) * 20, 0o600, "has 4097 bytes or more"),
        (bytes(range(32)), 0o640, r"mode 0640, expected 0600 or less\): chmod 600"),
        (bytes(range(32)), 0o604, "mode 0604"),
    ],
    ids=["short", "repetitive", "long", "readable by the group", "readable by everyone"],
)
def test_a_secret_that_is_none_is_refused(content: bytes, mode: int, message: str, tmp_path: Path):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=message) as caught:
        SiteSecret.read(path)
    assert content.hex() not in str(caught.value)


def test_a_secret_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        SiteSecret.read(tmp_path / "none")
    with pytest.raises(ConfigError, match="Is a directory"):
        SiteSecret.read(make_private(tmp_path / "folder"))
    with pytest.raises(ConfigError, match="--pseudonymise makes keys under a secret"):
        DeidentificationPolicy(pseudonymous=True)


def make_private(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


# ---- Readers --------------------------------------------------------------------------------------------------------
def test_the_patient_of_a_file_is_a_key_or_nothing(tmp_path: Path):
    path = write_small(tmp_path / "a.dcm", picture(), PatientID=" 4711", IssuerOfPatientID="Ward 7")
    assert read_dicom(path).patient_key is None
    assert read_dicom(path, patients=SECRET.patients()).patient_key == SECRET.patient_key("4711", "Ward 7")
    without = write_small(tmp_path / "b.dcm", picture(), PatientID="")
    assert read_dicom(without, patients=SECRET.patients()).patient_key is None
    several = write_small(tmp_path / "c.dcm", picture(), PatientID=["1", "2"])
    assert read_dicom(several, patients=SECRET.patients()).patient_key == SECRET.patient_key("1\\2")
    foreign = write_small(tmp_path / "d.dcm", picture(), SpecificCharacterSet="ISO_IR 100", PatientID="M\u00fc1")
    assert read_dicom(foreign, patients=SECRET.patients()).patient_key == SECRET.patient_key("M\u00fc1")


def test_a_patient_id_that_cannot_be_read_is_a_failure(tmp_path: Path):
    data = pydicom.dcmread(write_small(tmp_path / "a.dcm", picture()))
    data[0x00100020] = pydicom.DataElement(0x00100020, "OB", b"47\x0011")
    data.save_as(tmp_path / "a.dcm")
    assert read_dicom(tmp_path / "a.dcm").patient_key is None
    with pytest.raises(BrokenImageError, match="PatientID cannot be read: correct the header") as caught:
        read_dicom(tmp_path / "a.dcm", patients=SECRET.patients())
    assert caught.value.reason == "identifier"


def test_reports_of_a_table_have_keys_of_their_patients(tmp_path: Path):
    table = tmp_path / "reports.jsonl"
    rows = [
        {"report": "Normal chest.", "patient_id": 4711},
        {"report": "Normal chest.", "patient_id": "4712", "issuer_of_patient_id": "X"},
        {"report": "Normal chest."},
        {"report": "Normal chest.", "patient_id": 4711.0},
        {"report": "Normal chest.", "patient_id": ["4711"]},
    ]
    table.write_text("\n".join(map(json.dumps, rows)))
    one, two, none, *bad = read_reports(table, patients=SECRET.patients())
    assert one.patient_key == SECRET.patient_key("4711")
    assert two.patient_key == SECRET.patient_key("4712", "X")
    assert none.patient_key is None
    assert len({one.id, two.id, none.id}) == 3  # the same words of three patients
    assert [(failure.reason, isinstance(failure, ReportFailure)) for failure in bad] == [("patient_id", True)] * 2
    plain = list(read_reports(table))
    assert {record.patient_key for record in plain} == {None}
    assert len({record.id for record in plain}) == len(rows)
    assert "4711" not in repr([one, *bad, *plain])


def change(path: Path, **attributes: object) -> None:
    """Change a header, and the modification time with it."""
    data = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    data.save_as(path)
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def test_what_is_written_down_of_failures(tmp_path: Path):
    summary = Summary(tmp_path / FAILURES, naming=KEYS)
    path = "/data/Ward_Seven/1.2.840.99.dcm"
    errors = {
        f"{path} does not exist": "the file does not exist",
        "the file /data/Ward_Seven/all.zip cannot be read": "could name the file and is not kept",
        "SOP Instance UID 1.2.840.99.7 already belongs": "SOP Instance UID (a UID) already belongs",
        "a header of Ward_Seven": "could name the file and is not kept",
        "need 524288 bytes, the file holds 96930": "need 524288 bytes, the file holds 96930",
    }
    for error in errors:
        summary.count(Outcome(path=path, status="failed", reason="broken", error=error))
    summary.count(Outcome(path="a", status="failed", reason="folder", error="a is a folder, expected an image file"))
    summary.count(Outcome(path="/d/王伟/1", status="failed", reason="lost", error="no 王伟"))
    summary.count(Outcome(path="r.csv:120", status="failed", reason="empty", error="row 120: no text"))
    summary.close(1.0)
    written = json_lines("\n".join(summary.failures()))
    paths = (path, "a", "/d/王伟/1", "r.csv:120")
    assert {one["path"] for one in written} == set(map(SECRET.path_key, paths))
    told = [*errors.values(), "the file is the file folder, expected an", "is not kept", "row 120: no text"]
    for one, expected in zip(written, told, strict=True):
        assert expected in one["error"]
    assert not any(text in json.dumps(written) for text in ("Ward", "data/"))
    # A key of 64 hex digits may hold any three digits.
    assert not any("840" in one["error"] for one in written)
    assert summary.shown["broken"][0].path == path  # the console shows it


# ---- The command line, and every byte of the folder -----------------------------------------------------------------
@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "site-secret"
    path.touch(mode=0o600)
    path.write_bytes(SECRET.content)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, a zip of two more, a file that is cut, one whose UID is taken, and a table of reports."""
    import zipfile

    place = tmp_path_factory.mktemp("outer") / "Ward_Seven" / "Surname_Forename"
    place.mkdir(parents=True)
    for seed in range(40):
        path = place / f"exam-{seed:04d}-zebra.dcm"
        write_dicom(phantom.make(3000 + seed, 64), path)
        change(path, PatientID=f"QX{seed // 2:05d}7", IssuerOfPatientID="Hospital West", PatientName="Surname^Forename")
    with zipfile.ZipFile(place / "disc-quagga.zip", "w") as disc:
        for number in (38, 39):
            path = place / f"exam-{number:04d}-zebra.dcm"
            disc.write(path, f"inside-okapi/{path.name}")
            path.unlink()
    (place / "cut-tapir.dcm").write_bytes((place / "exam-0000-zebra.dcm").read_bytes()[:4000])
    (place / "taken-gnu.dcm").write_bytes((place / "exam-0001-zebra.dcm").read_bytes())
    paint(place / "taken-gnu.dcm")
    rows = [f"REP-{n:04d}x,QX{n:05d}7,{study_of(place, n)},The heart of number {n} is enlarged." for n in range(6)]
    (place / "reports-ibex.csv").write_text(
        "id,patient_id,study_uid,report\n" + "\n".join([*rows, "REP-0009x,1,,"]) + "\n"
    )
    return place


def study_of(place: Path, number: int) -> str:
    return str(pydicom.dcmread(place / f"exam-{number:04d}-zebra.dcm", stop_before_pixels=True).StudyInstanceUID)


def identifiers(place: Path) -> set[str]:
    """All that must not be found: UIDs, patient ids, their issuer and names, parts of paths, ids and words of reports."""
    found = {
        "Ward_Seven",
        "Surname",
        "Forename",
        "zebra",
        "quagga",
        "okapi",
        "tapir",
        "gnu.dcm",
        "ibex",
        "REP-000",
        "exam-0",
    }
    found |= {"Hospital West", "heart of number", place.parts[-3]}
    for path in place.glob("exam-*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        found |= {str(header[name].value) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
        found |= {str(header.PatientID)}
    return found


def leaks(index: Path, texts: set[str]) -> set[tuple[str, str]]:
    """Return which of the texts stand in which file, in UTF-8 or UTF-16, in any case."""
    found = set()
    for path in index.iterdir():
        content = path.read_bytes().lower()
        for text in texts:
            spellings = [text.lower().encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be")]
            if any(spelling in content for spelling in spellings):
                found.add((path.name, text))
    return found


@pytest.fixture(scope="module")
def keyed(archive: Path, secret_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pseudonymous index of the archive, made by a run that was killed and gone on with."""
    index = tmp_path_factory.mktemp("keyed") / "index"
    options = ["--index", index, "--site-secret", secret_file, "--pseudonymise"]
    command = ["embed-images", archive, *options, "--batch-size", "1", "--calls", "1", "--workers", "1"]
    with held_run(*command, rows=2, hold=index.with_name("hold")):
        pass  # killed
    # As the kill left it: the WAL is there and full.
    assert (index / "store.sqlite-wal").stat().st_size > 0
    assert not leaks(index, identifiers(archive))
    with Index.open(index) as store:
        done = store.count("image")
    (summary,) = json_lines(run_cli("embed-images", archive, *options, "--json", code=3).stdout)
    assert summary["embedded"] == 40 - done < 40
    assert summary["unchanged"] == done
    run_cli("embed-reports", archive / "reports-ibex.csv", *options, code=3)
    return index


def test_no_byte_of_a_pseudonymous_index_names_anybody(archive: Path, keyed: Path, secret_file: Path):
    names = {path.name for path in keyed.iterdir()}
    assert {"store.sqlite", "index.json", "failures.jsonl", "run.json"} <= names
    assert not leaks(keyed, identifiers(archive) | {SECRET.content.hex(), SECRET.patients().to_text()})
    assert SECRET.content not in b"".join(path.read_bytes() for path in keyed.iterdir())
    options = ["--index", keyed, "--site-secret", secret_file, "--pseudonymise"]
    done = run_cli("embed-images", archive, *options, code=3)
    assert "0 radiographs embedded, 40 unchanged, 2 failed" in done.stdout
    # The console shows what it is about; what stays in the folder does not.
    assert f"failed  {archive / 'cut-tapir.dcm'}: " in done.stdout
    failures = json_lines((keyed / "failures.jsonl").read_text())
    assert {one["path"] for one in failures} == {
        SECRET.path_key(str(archive / name)) for name in ("cut-tapir.dcm", "taken-gnu.dcm")
    }
    assert Counter(one["reason"] for one in failures) == {"truncated": 1, "uid_conflict": 1}
    assert not leaks(keyed, identifiers(archive))


def test_the_leak_test_sees_leaks(archive: Path, secret_file: Path, tmp_path: Path):
    """Without --pseudonymise UIDs and paths are there, and no patient."""
    index = tmp_path / "index"
    run_cli("embed-images", archive, "--index", index, "--site-secret", secret_file, code=3)
    run_cli("embed-reports", archive / "reports-ibex.csv", "--index", index, "--site-secret", secret_file, code=3)
    found = {text for _, text in leaks(index, identifiers(archive))}
    assert {"Ward_Seven", "zebra", "okapi", "REP-000"} <= found
    assert sum(text.startswith("2.25.") for text in found) >= 3 * 38
    patients = {text for text in identifiers(archive) if text.startswith("QX")}
    assert len(patients) == 19
    assert not leaks(index, patients | {"Hospital West", "heart of number", "Surname^", "Phantom^"})
    with Index.open(index) as store:
        keys = {store.get("image", id).patient_key for id in store.ids("image")}
        assert keys == {SECRET.patient_key(f"QX{n:05d}7", "Hospital West") for n in range(20)}
        assert {store.get("report", id).patient_key for id in store.ids("report")} == {
            SECRET.patient_key(f"QX{n:05d}7") for n in range(6)
        }


def test_another_secret_or_none_is_refused_before_anything_is_opened(archive: Path, keyed: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.write_bytes(OTHER.content)
    other.chmod(0o600)
    wrong = run_cli("embed-images", archive, "--index", keyed, "--site-secret", other, "--pseudonymise", code=1)
    assert "was made with another site secret than the one given" in wrong.stderr
    none = run_cli("embed-images", archive, "--index", keyed, code=1)
    assert "name its file with --site-secret" in none.stderr
    other.chmod(0o644)
    open_to_all = run_cli("embed-images", archive, "--index", keyed, "--site-secret", other, "--pseudonymise", code=1)
    assert "chmod 600" in open_to_all.stderr
    alone = run_cli("embed-images", archive, "--index", tmp_path / "new", "--pseudonymise", code=1)
    assert "name its file with --site-secret" in alone.stderr
    assert not (tmp_path / "new").exists()


def test_rows_are_found_again_by_their_keys(archive: Path, keyed: Path, secret_file: Path):
    path = archive / "exam-0004-zebra.dcm"
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    command = ["pseudonym", "--site-secret", secret_file]
    key = run_cli(*command, "--image", uid).stdout.strip()
    hits = json_lines(run_cli("query", "--like", key, "--index", keyed, "-k", "3", "--json").stdout)
    assert [hit["path"] for hit in hits] == [None] * 3
    assert all(is_key(hit["id"]) for hit in hits)
    table = run_cli("query", "--like", key, "--index", keyed, "-k", "3").stdout
    assert hits[0]["id"] in table
    (told,) = json_lines(run_cli("info", "--index", keyed, "--json").stdout)
    assert (told["pseudonymous"], told["patient_keys"], told["images"], told["reports"]) == (True, True, 40, 6)
    with Index.open(keyed) as store:
        patient = json_lines(run_cli(*command, "--patient", "QX000027", "--issuer", "Hospital West", "--json").stdout)
        assert patient == [{"kind": "patient", "key": store.get("image", key).patient_key}]
        study = run_cli(*command, "--study", study_of(archive, 4)).stdout.strip()
        report = store.get("report", run_cli(*command, "--report", "REP-0004x").stdout.strip())
        assert store.get("image", key).study_uid == study == report.study_uid
        assert store.files("image", key)[0].path == run_cli(*command, "--path", path).stdout.strip()


def test_keys_of_standard_input(secret_file: Path):
    def keys(*arguments: str, given: bytes, code: int = 0) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "mcr_infer", "pseudonym", "--site-secret", str(secret_file), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=600)
        assert done.returncode == code, done.stderr
        return done

    told = keys("--patient", "-", "--issuer", "West", given=b"4711\r\n4712\tEast\n").stdout.decode().split()
    assert told == [SECRET.patient_key("4711", "West"), SECRET.patient_key("4712", "East")]
    assert keys("--series", "-", given=b"1.2.3\n").stdout.decode().strip() == SECRET.series_key("1.2.3")
    name = "/a/\udce9.dcm"
    assert keys("--path", "-", given=os.fsencode(name)).stdout.decode().strip() == SECRET.path_key(name)
    assert b"line 2 of standard input is empty" in keys("--path", "-", given=b"/a\n\n/b\n", code=1).stderr
    wrong = keys("--image", "-", given=b"Surname\n", code=1).stderr
    assert b"expected the UID of an image" in wrong
    assert b"Surname" not in wrong
    assert b"give one of --image" in keys("--image", "1", "--study", "2", given=b"", code=2).stderr


def test_words_of_reports_are_not_kept_with_keys(archive: Path, secret_file: Path, tmp_path: Path):
    command = [
        "embed-reports",
        archive / "reports-ibex.csv",
        "--index",
        tmp_path / "index",
        "--site-secret",
        secret_file,
    ]
    done = run_cli(*command, "--pseudonymise", "--keep-text", code=2)
    assert "words that can name the" in done.stderr
