import csv
import json
import shutil
from pathlib import Path

import click
import numpy as np
import pydicom
import pytest
import typer
from PIL import Image

import dicoms
from conftest import invoke, json_lines, run_cli, words
from mcr_infer import phantom
from mcr_infer.cli.app import app
from mcr_infer.phantom.dicom import write_dicom
from tiny import tiny_bundle

COMMANDS = (
    "build-engine", "compact", "delete", "demo", "embed-images", "embed-reports", "evaluate", "export", "import", "info",
    "merge", "migrate", "prune", "pseudonym", "query", "rebuild", "verify",
)  # fmt: skip


def test_help_names_every_command_and_the_readme_describes_it():
    help_text = run_cli("--help").stdout
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    listed = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert sorted(listed) == sorted(COMMANDS)
    for command in COMMANDS:
        assert command in help_text
        assert f"mcr-infer {command}" in readme


def test_a_first_session(tmp_path: Path, phantom_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(phantom_folder, tmp_path / "dicoms")
    first = run_cli("embed-images", "./dicoms", "--json")
    (summary,) = json_lines(first.stdout)
    assert summary.keys() == {
        "duplicates",
        "embedded", "unchanged", "left_out", "failed", "failures", "interrupted", "known_failures", "notes", "seconds",
    }  # fmt: skip
    assert (summary["embedded"], summary["unchanged"], summary["failed"]) == (24, 0, 0)
    assert "phantoms" in first.stderr  # the bundle says what it knows

    hits = json_lines(run_cli("query", "bilateral pleural effusion", "-k", "5", "--json").stdout)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert list(hits[0]) == [
        "rank", "score", "id", "kind", "path", "study_uid", "series_uid", "metadata", "unknown_words",
        "file_exists",
    ]  # fmt: skip
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert all((tmp_path / hit["path"]).is_file() for hit in hits)
    assert hits[0]["path"].startswith("./dicoms/")

    (again,) = json_lines(run_cli("embed-images", "./dicoms", "--json").stdout)
    assert (again["embedded"], again["unchanged"]) == (0, 24)
    (info,) = json_lines(run_cli("info", "--json").stdout)
    assert info.keys() == {
        "images", "reports", "root", "bundle", "fingerprint", "format_version", "pseudonymous", "patient_keys",
        "recommended_patch_budget", "max_tokens", "tuning",
    }  # fmt: skip
    assert (info["images"], info["reports"], info["bundle"]) == (24, 0, "phantom")
    shown = [line[:26].strip() for line in run_cli("info").stdout.splitlines()[1:]]
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    session = readme.partition("$ mcr-infer info\n")[2].partition("\n\n")[0]
    assert [line[4:30].strip() for line in session.splitlines()[1:]] == shown


def test_a_changed_file_is_embedded_again_and_replaces_its_row(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    for seed in (1, 2):
        write_dicom(phantom.make(seed, 128), folder / f"{seed}.dcm")
    run_cli("embed-images", folder, "--index", index)
    changed = pydicom.dcmread(folder / "1.dcm")
    pixels = changed.pixel_array.copy()
    pixels[40:90, 40:90] = 4000
    changed.PixelData = pixels.tobytes()
    changed.save_as(folder / "1.dcm")
    (summary,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json").stdout)
    assert (summary["embedded"], summary["unchanged"]) == (1, 1)
    (info,) = json_lines(run_cli("info", "--index", index, "--json").stdout)
    assert info["images"] == 2


def test_one_bad_file_among_many(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    for seed in (1, 2, 3):
        write_dicom(phantom.make(seed, 128), folder / f"{seed}.dcm")
    (folder / "cut.dcm").write_bytes((folder / "1.dcm").read_bytes()[:20_000])
    (folder / "notes.dcm").write_text("not a radiograph at all")
    (folder / "list.csv").write_text("a,b\n")
    done = run_cli("embed-images", folder, "--index", index, "--json", code=3)
    (summary,) = json_lines(done.stdout)
    assert (summary["embedded"], summary["failed"]) == (3, 2)
    failures = {Path(failure["path"]).name: failure["reason"] for failure in summary["failures"]}
    assert failures == {"cut.dcm": "truncated", "notes.dcm": "not_dicom"}
    assert "1 .csv" in done.stderr
    table = run_cli("embed-images", folder, "--index", index, code=3).stdout
    assert "cut.dcm" in table
    assert "3 unchanged, 2 failed" in table


def test_what_had_to_be_decided_is_counted(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    for number in range(3):
        stored, uid = np.roll(dicoms.picture(), number, axis=0), f"1.2.{number}"
        high_bit = 15 if number else 11
        dicoms.write(folder / f"{number}.dcm", stored, SOPInstanceUID=uid, HighBit=high_bit, **dicoms.IN_12_BITS)
    done = run_cli("embed-images", folder, "--index", index)
    note = "High Bit 15 contradicts the pixels, which lie in the 12 lowest bits: read there"
    assert f"note: 2 radiographs: {note}\n" in done.stderr
    assert note not in done.stdout
    (summary,) = json_lines(run_cli("embed-images", folder, "--index", tmp_path / "other", "--json").stdout)
    assert summary["notes"] == {note: 2}
    assert json.loads((index / "run.json").read_text())["notes"] == {note: 2}
    (again,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json").stdout)
    assert (again["unchanged"], again["notes"]) == (3, {})


def test_shifted_study_dates_are_filtered_by_year(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    for number, date in enumerate(["20200105", "21800506", "22000101"]):
        stored = np.roll(dicoms.picture(), number, axis=0)
        dicoms.write(folder / f"{number}.dcm", stored, SOPInstanceUID=f"1.2.{number}", StudyDate=date)
    run_cli("embed-images", folder, "--index", index)
    found = ("query", "normal chest", "--index", index, "--json", "--where")
    years = [hit["metadata"]["study_year"] for hit in json_lines(run_cli(*found, "study_year>=2100").stdout)]
    assert sorted(years) == [2180, 2200]
    (hit,) = json_lines(run_cli(*found, "study_year=2180").stdout)
    assert hit["id"] == "1.2.1"


def test_twins_are_one_row_and_conflicts_are_named(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    write_dicom(phantom.make(1, 128), folder / "a.dcm")
    shutil.copy(folder / "a.dcm", folder / "b.dcm")
    other = pydicom.dcmread(folder / "a.dcm")
    other.PixelData = other.pixel_array[::-1].tobytes()
    other.save_as(folder / "c.dcm")
    (summary,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json", code=3).stdout)
    assert (summary["embedded"], summary["duplicates"], summary["failed"]) == (1, 1, 1)
    (failure,) = summary["failures"]
    assert failure["reason"] == "uid_conflict"
    assert "a.dcm" in failure["error"]
    # The second run opens neither twin again and still names the conflict.
    (again,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json", code=3).stdout)
    assert (again["embedded"], again["unchanged"], again["failed"]) == (0, 2, 1)


def test_no_patient_data_in_index_output_or_errors(tmp_path: Path):
    folder, index = tmp_path / "dicoms", tmp_path / "index"
    folder.mkdir()
    secrets = {
        "PatientName": "Nightingale^Florence", "PatientID": "ZX-90125", "PatientBirthDate": "18200512",
        "AccessionNumber": "ACC777123", "InstitutionName": "Scutari Barracks", "ReferringPhysicianName": "Snow^John",
        "StudyDate": "20190317",
    }  # fmt: skip
    for name, cut in (("good.dcm", None), ("cut.dcm", 30_000)):
        write_dicom(phantom.make(len(name), 160), folder / name)
        data = pydicom.dcmread(folder / name)
        for keyword, value in secrets.items():
            setattr(data, keyword, value)
        data.save_as(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:cut])
    outputs = [run_cli("embed-images", folder, "--index", index, code=3)]
    outputs.append(run_cli("query", "cardiomegaly", "--index", index, "--json"))
    outputs.append(run_cli("info", "--index", index))
    haystack = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
    haystack += "".join(done.stdout + done.stderr for done in outputs).encode()
    for value in secrets.values():
        for part in value.split("^"):
            assert part.encode() not in haystack
    assert b"2019" in haystack  # the study year is kept


def test_radiographs_and_reports_find_each_other(phantom_folder: Path, phantom_index: Path):
    at = ("--index", phantom_index, "--json")
    image = phantom_folder / "phantom-000503.dcm"
    hits = json_lines(run_cli("query", "--image", image, *at).stdout)
    assert hits[0]["path"] == str(image)
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-4)
    like = json_lines(run_cli("query", "--like", hits[0]["id"], *at).stdout)
    assert [hit["id"] for hit in like][:9] == [hit["id"] for hit in hits][1:]  # a case is not similar to itself
    reports = json_lines(run_cli("query", "--image", image, "--kind", "report", *at).stdout)
    assert {hit["kind"] for hit in reports} == {"report"}


def test_reports_are_embedded_once_and_their_text_is_not_kept(phantom_folder: Path, tmp_path: Path):
    index, table = tmp_path / "index", phantom_folder / "truth.csv"
    (first,) = json_lines(run_cli("embed-reports", table, "--index", index, "--json").stdout)
    (second,) = json_lines(run_cli("embed-reports", table, "--index", index, "--json").stdout)
    with table.open(newline="") as rows:
        reports = {row["report"] for row in csv.DictReader(rows)}
    assert first["embedded"] == len(reports)
    assert second["embedded"] == 0
    stored = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
    assert not any(report[:40].encode() in stored for report in reports)
    run_cli("embed-reports", table, "--index", tmp_path / "with-text", "--keep-text")
    kept = b"".join(path.read_bytes() for path in (tmp_path / "with-text").rglob("*") if path.is_file())
    assert next(iter(reports))[:40].encode() in kept


def test_plain_pictures_are_radiographs_too(tmp_path: Path):
    pixels = (phantom.make(9, 200).stored >> 4).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    index = tmp_path / "index"
    (summary,) = json_lines(run_cli("embed-images", tmp_path / "chest.png", "--index", index, "--json").stdout)
    assert summary["embedded"] == 1
    (hit,) = json_lines(run_cli("query", "normal chest", "--index", index, "--json").stdout)
    assert hit["id"].startswith("sha256:")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["query", "effusion", "--index", "nowhere"], 1, "nowhere"),
        (["query", "  ", "--index", "INDEX"], 1, "empty"),
        (["query", "--index", "INDEX"], 2, "one of"),
        (["query", "effusion", "--like", "1.2.3", "--index", "INDEX"], 1, "1.2.3"),
        (["query", "effusion", "--queries-from", "q.txt", "--index", "INDEX"], 2, "one of"),
        (["query", "--like", "1.2.3", "--index", "INDEX"], 1, "1.2.3"),
        (["query", "effusion", "--kind", "movie", "--index", "INDEX"], 2, "movie"),
        (["query", "effusion", "-k", "0", "--index", "INDEX"], 2, "-k"),
        (["query", "effusion", "--device", "cuda", "--index", "INDEX"], 1, "CUDA"),
        (["query", "effusion", "--bundle", "/nowhere", "--index", "INDEX"], 1, "/nowhere"),
        (["embed-images", "/nowhere/at/all", "--index", "INDEX2"], 1, "/nowhere/at/all"),
        (["embed-reports", "/nowhere.csv", "--index", "INDEX2"], 1, "/nowhere.csv"),
        (["info", "--index", "nowhere"], 1, "nowhere"),
        (["evaluate", "/nowhere.csv"], 1, "/nowhere.csv"),
    ],
)
def test_wrong_use_is_answered_in_one_line(
    arguments: list[str], code: int, words: str, phantom_index: Path, tmp_path: Path
):
    places = {"INDEX": str(phantom_index), "INDEX2": str(tmp_path / "index")}
    done = run_cli(*(places.get(argument, argument) for argument in arguments), code=code)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_index_of_another_bundle_is_refused(phantom_index: Path, phantom_folder: Path, tmp_path: Path):
    other = tiny_bundle(tmp_path / "other")
    done = run_cli("query", "effusion", "--index", phantom_index, "--bundle", other.path, code=1)
    assert "phantom" in done.stderr
    done = run_cli("embed-images", phantom_folder, "--index", phantom_index, "--bundle", other.path, code=1)
    assert "--index" in done.stderr
    # An index of its own works, and remembers its bundle.
    run_cli("embed-images", phantom_folder, "--index", tmp_path / "index", "--bundle", other.path)
    hits = json_lines(run_cli("query", "effusion", "--index", tmp_path / "index", "--json").stdout)
    assert len(hits) == 10
    shutil.rmtree(other.path)
    assert str(other.path) in run_cli("query", "effusion", "--index", tmp_path / "index", code=1).stderr


def test_evaluate_prints_both_directions(phantom_folder: Path):
    (result,) = json_lines(run_cli("evaluate", phantom_folder / "truth.csv", "--json").stdout)
    assert result["pairs"] == 24
    assert {"image_to_report", "report_to_image"} <= result["protocols"][0].keys()
    table = run_cli("evaluate", phantom_folder / "truth.csv").stdout
    assert "R@10" in table
    assert "chance" in table


def test_every_argument_has_its_help_shown():
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        shown = words(invoke(name, "--help").stdout)
        for argument in (one for one in command.params if isinstance(one, click.Argument)):
            assert argument.help, f"{name} {argument.name}"
            assert " ".join(argument.help.split()[:3]) in shown
    assert "paths of images are relative" in words(invoke("evaluate", "--help").stdout)


def test_evaluate_finds_sections_by_site_headings(phantom_folder: Path, tmp_path: Path):
    text = (phantom_folder / "truth.csv").read_text()
    for name in phantom_folder.glob("*.dcm"):
        text = text.replace(f"\n{name.name},", f"\n{name},")
    table, headings = tmp_path / "truth.csv", tmp_path / "headings.toml"
    table.write_text(text.replace("FINDINGS:", "GESEHEN:").replace("IMPRESSION:", "GEDANKE:"))
    headings.write_text('findings = ["Gesehen"]\nimpression = ["Gedanke"]\n')
    (truth,) = json_lines(invoke("evaluate", phantom_folder / "truth.csv", "--json").stdout)
    (told,) = json_lines(invoke("evaluate", table, "--headings", headings, "--json").stdout)
    (without,) = json_lines(invoke("evaluate", table, "--json").stdout)
    assert told == truth != without
    headings.write_text("gesehen = []")
    assert "unknown key gesehen" in invoke("evaluate", table, "--headings", headings, code=1).stderr


def test_evaluate_counts_labels_however_joined(phantom_folder: Path, tmp_path: Path):
    with (phantom_folder / "truth.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Image Index", "Text", "Finding Labels", "fold"])
        for row in rows:
            labels = "|".join(row["findings"].title().split(";")) or "No Finding"
            writer.writerow([phantom_folder / row["file"], row["report"], labels, "TEST"])
    names = ("--image-column", "image index", "--report-column", "Text", "--findings-column", "Finding Labels")
    (told,) = json_lines(
        run_cli("evaluate", table, *names, "--split-column", "fold", "--split", "test", "--json").stdout
    )
    (truth,) = json_lines(run_cli("evaluate", phantom_folder / "truth.csv", "--json").stdout)
    assert told == truth
    done = run_cli("evaluate", phantom_folder / "truth.csv", "--findings-column", "report", code=1)
    assert "row 2 holds a text, not labels" in " ".join(done.stderr.split())
