import csv
import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from rich.console import Console

from mcr_infer.errors import ConfigError
from mcr_infer.reports import select_text
from train import config as cfg
from train.config import Config, load_config
from train.data.radiographs import SURVEY, open_records
from train.data.strings import Strings
from train.settings import dump_toml
from trees import Study, hospital, small_mimic, write_mimic, write_png

ALL_FAULTS = (
    ("other_split", 1), ("no_split", 1), ("other_view", 2), ("missing_image", 1), ("unreadable_image", 2),
    ("missing_report", 1), ("unreadable_report", 1), ("empty_report", 2), ("leakage", 1), ("undecodable", 2),
)  # fmt: skip
SKIP = {"missing_files": "skip", "empty_reports": "skip", "leakage": "skip"}


def config(root, **told):
    told = {"images": str(root), "cached_side": 64} | told
    return Config(
        model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
        data=cfg.Data(source="mimic_cxr_jpg", cache=str(root / "cache"), radiographs=cfg.Radiographs(**told)),
        optim=cfg.Optim(batch_size=2),
        run=cfg.Run(workers=0),
    )


def opened(settings, run):
    """Open the records; return them, what was printed, and the survey that was kept."""
    told = io.StringIO()
    console = Console(file=told, width=200)
    training, validation = open_records(settings, run, console)
    return training, validation, told.getvalue(), json.loads((run / SURVEY).read_text())


def refusal(settings, run):
    with pytest.raises(ConfigError) as caught:
        open_records(settings, run, Console(quiet=True))
    return str(caught.value)


@pytest.fixture
def faulty(tmp_path):
    """A tree with faults of most kinds, and the names of its images by study number."""

    def study(number, **told):
        return Study(patient=f"1{number:07d}", study=f"5{number:07d}", **told)

    blank = hospital("___.", "____").replace(" 1.  ____", " ___")
    studies = [
        study(0), study(1), study(2), study(3, split="validate"), study(4, split="test"), study(5, split=""),
        study(6, views=("LATERAL", "")), study(7), study(8), study(9), study(10), study(11), study(12, report=blank),
        study(13, report="FINAL REPORT\n EXAMINATION: Chest.\n INDICATION: Cough.\n"), study(14), study(15),
    ]  # fmt: skip
    studies.append(Study(patient=studies[3].patient, study="59999999"))
    write_mimic(tmp_path, studies)
    paths = [tmp_path / s.folder / f"{s.images[0]}.jpg" for s in studies]
    paths[7].unlink()
    paths[8].write_bytes(b"")
    paths[9].unlink()
    paths[9].mkdir()
    (tmp_path / f"{studies[10].folder}.txt").unlink()
    (tmp_path / f"{studies[11].folder}.txt").write_bytes(b"FINDINGS: Na\xefve.")
    paths[14].write_bytes(paths[14].read_bytes()[:300])
    paths[15].write_bytes(b"no image at all")
    return tmp_path, [f"s{s.study}/{s.images[0]}" for s in studies]


def test_every_fault_is_counted_named_printed_and_kept(faulty):
    root, names = faulty
    training, validation, told, kept = opened(config(root, **SKIP), root / "run")
    assert (len(training), len(validation)) == (3, 1)
    assert [training.name(index) for index in range(3)] == names[:3]
    assert validation.name(0) == names[3]
    faults = {fault["kind"]: fault for fault in kept["faults"]}
    assert {kind: fault["count"] for kind, fault in faults.items()} == dict(ALL_FAULTS)
    assert {fault["action"] for fault in faults.values()} == {"left out"}
    assert faults["missing_image"]["examples"] == [names[7]]
    assert faults["unreadable_image"]["examples"] == [names[8], names[9]]
    assert faults["leakage"]["examples"] == [names[16]]
    assert faults["undecodable"]["examples"] == [f"{names[14]} (truncated)", f"{names[15]} (not_dicom)"]
    assert kept["read"] == 18
    assert kept["text"] == "both"
    assert kept["views"] == {"PA": 14, "LATERAL": 1, "": 1}
    assert {name: kept["training"][name] for name in ("pairs", "texts", "patients")} == {
        "pairs": 3, "texts": 3, "patients": 3,
    }  # fmt: skip
    assert sum(kept["parts"].values()) == 3 + 1 + 1 + 2  # the pairs, the one that leaked and those without a picture
    assert "training: 3 pairs, 3 texts, 3 patients" in told
    assert "2 images whose report has no text for data.radiographs.text: left out, such as" in told


def test_faults_are_refused_together_before_anything_is_decoded(faulty):
    root, names = faulty
    message = refusal(config(root), root / "run")
    assert "1 images that are not there: refused, such as " + names[7] in message
    assert "1 training images of patients who are also in validation: refused, such as " + names[16] in message
    assert 'data.radiographs.leakage = "skip", data.radiographs.missing_files = "skip"' in message
    assert "empty_reports" not in message
    assert not (root / "cache").exists()
    assert not (root / "run").exists()
    assert "2 images whose report has no text" in refusal(config(root, empty_reports="refuse"), root / "run")


def test_a_picture_that_cannot_be_decoded_is_refused_as_a_missing_one(tmp_path):
    studies = small_mimic(tmp_path)
    path = tmp_path / studies[1].folder / f"{studies[1].images[0]}.jpg"
    path.write_bytes(path.read_bytes()[:400])
    message = refusal(config(tmp_path), tmp_path / "run")
    assert (
        f"1 images that cannot be decoded: refused, such as s{studies[1].study}/{studies[1].images[0]} (truncated)"
        in message
    )
    training, _, _, kept = opened(config(tmp_path, missing_files="skip"), tmp_path / "run")
    assert len(training) == 11
    assert studies[1].patient not in {training.patient(index) for index in range(11)}
    assert [fault["kind"] for fault in kept["faults"]] == ["other_view", "undecodable"]


def test_only_five_examples_are_named(tmp_path):
    studies = small_mimic(tmp_path)
    for study in studies[:7]:
        (tmp_path / f"{study.folder}.txt").unlink()
    message = refusal(config(tmp_path), tmp_path / "run")
    assert "7 images whose report is not there" in message
    assert message.count("/0000") == 5


def test_leakage_leaves_training_pairs_out(tmp_path):
    pairs = [("10000001", "train"), ("10000002", "train"), ("10000002", "validate"), ("10000002", "train")]
    pairs.append(("10000003", "train"))
    write_mimic(tmp_path, [Study(patient=p, study=f"5000000{i}", split=s) for i, (p, s) in enumerate(pairs)])
    assert "2 training images of patients who are also in validation" in refusal(config(tmp_path), tmp_path / "run")
    training, validation, _, _ = opened(config(tmp_path, leakage="skip"), tmp_path / "run")
    assert [training.patient(i) for i in range(len(training))] == ["10000001", "10000003"]
    assert [validation.patient(i) for i in range(len(validation))] == ["10000002"]
    assert [training.labels(0), validation.labels(0)] == ["no finding", "no finding"]


def test_a_split_without_pairs_is_refused_with_what_there_is(tmp_path):
    small_mimic(tmp_path)
    message = refusal(config(tmp_path, views=("LL",)), tmp_path / "run")
    assert "no pair of split 'train' is left of 21 records" in message
    assert "13 PA, 5 AP, 3 LATERAL; wanted are LL" in message
    assert "no pair of split 'validation' is left" in refusal(
        config(tmp_path, validation_split="validation"), tmp_path / "run"
    )


def test_views_are_compared_in_any_case(tmp_path):
    small_mimic(tmp_path)
    assert len(opened(config(tmp_path, views=("pa", "lateral")), tmp_path / "run")[0]) == 12
    assert len(opened(config(tmp_path, views=()), tmp_path / "all")[0]) == 15


def test_the_text_that_is_asked_for(tmp_path):
    report = "FINDINGS: A small left effusion is seen.\nIMPRESSION: Effusion."
    write_mimic(tmp_path, [
        Study(patient="10000001", study="50000001", report=report),
        Study(patient="10000002", study="50000002", report="IMPRESSION: A normal chest without any finding."),
        Study(patient="10000003", study="50000003", split="validate", report=report),
        Study(patient="10000004", study="50000004", report=report),
    ])  # fmt: skip
    for text, expected in {
        "both": ["A small left effusion is seen. Effusion.", "A normal chest without any finding."],
        "findings": ["A small left effusion is seen."],
        "impression": ["Effusion.", "A normal chest without any finding."],
        "longest": ["A small left effusion is seen.", "A normal chest without any finding."],
    }.items():
        expected = [*expected, expected[0]]
        training, _, _, kept = opened(config(tmp_path, text=text), tmp_path / text)
        assert [training.text(index).text for index in range(len(training))] == expected
        assert kept["text"] == text
    assert kept["parts"] == {"findings": 3, "impression": 1}


def test_a_run_goes_on_with_the_pairs_that_it_began_with(tmp_path):
    studies = small_mimic(tmp_path)
    run = tmp_path / "run"
    opened(config(tmp_path), run)
    before = (run / SURVEY).read_bytes()
    opened(config(tmp_path), run)
    assert (run / SURVEY).read_bytes() == before
    (tmp_path / f"{studies[0].folder}.txt").write_text("IMPRESSION: Something else.")
    message = refusal(config(tmp_path), run)
    assert "the training pairs are not those that" in message
    assert "(12 then, 12 now" in message
    assert (run / SURVEY).read_bytes() == before


def test_a_batch_that_the_pairs_do_not_fill_is_refused_before_anything_is_decoded(faulty):
    root, _ = faulty
    settings = dataclasses.replace(config(root, **SKIP), optim=cfg.Optim(batch_size=6))
    message = refusal(settings, root / "run")
    assert "optim.batch_size 6 is larger than the training set of 5: lower it or train on more\n" in message
    assert "\n  2 images whose report has no text for data.radiographs.text: left out, such as" in message
    assert not (root / "cache").exists()


def test_a_batch_that_needed_what_cannot_be_decoded_is_refused(faulty):
    root, names = faulty
    settings = dataclasses.replace(config(root, **SKIP), optim=cfg.Optim(batch_size=5))
    message = refusal(settings, root / "run")
    assert "optim.batch_size 5 is larger than the training set of 3: lower it or train on more\n" in message
    assert f"\n  2 images that cannot be decoded: left out, such as {names[14]} (truncated)" in message
    assert not (root / "run").exists()


def test_an_image_that_is_listed_again_is_taken_once(tmp_path):
    for number in range(4):
        write_png(tmp_path / f"{number}.png", number)
    table = tmp_path / "pairs.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([
            ("image", "report", "split"), ("0.png", "Edema.", "train"), ("1.png", "Edema.", "train"),
            ("0.png", "Effusion.", "train"), ("2.png", "Edema.", "validate"), ("1.png", "Edema.", "validate"),
        ])  # fmt: skip
    settings = config(tmp_path, table=str(table), views=())
    settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, source="table"))
    training, validation, _, kept = opened(settings, tmp_path / "run")
    assert (len(training), len(validation)) == (2, 1)
    assert [training.text(0).text, training.text(1).text] == ["Edema.", "Edema."]
    faults = {fault["kind"]: fault for fault in kept["faults"]}
    assert (faults["duplicate"]["count"], faults["duplicate"]["examples"]) == (2, ["pairs.csv:4", "pairs.csv:6"])
    assert (faults["no_patient"]["count"], faults["no_patient"]["action"]) == (3, "kept")


def test_a_cached_picture_is_never_enlarged(tmp_path):
    assert "cached_side 31 is less than model.image.image_size times model.decoders.super_resolution, 32" in refusal(
        config(tmp_path, cached_side=31), tmp_path / "run"
    )


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"cached_side": 0}, "cached_side must be at least 1, got 0"),
        ({"validation_share": 1.0}, r"validation_share must be in \(0, 1\), got 1.0"),
        ({"validation_split": "train"}, "must be another split than train_split"),
    ],
)
def test_settings_of_radiographs_are_checked(told, message):
    with pytest.raises(ConfigError, match=message):
        cfg.Radiographs(**told)


def test_settings_of_radiographs_survive_a_round_trip(tmp_path):
    told = config(tmp_path, views=(), validation_share=0.25, view_column="Projection", text="longest")
    path = tmp_path / "config.toml"
    path.write_text(dump_toml(told))
    assert load_config(path) == told


def test_texts_are_kept_apart_from_what_is_absent():
    texts = ["", None, "Ödem", None, "a" * 1000, "\udcff"]
    kept = Strings.of(texts)
    assert list(kept) == texts
    assert len(kept) == 6
    for index in (-1, 6):
        with pytest.raises(IndexError):
            kept[index]
    assert list(Strings.of([])) == []


def test_texts_for_a_tokenizer_come_once_each(tmp_path):
    shared = hospital("The lungs are clear.", "Normal.")
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", report=shared if i < 3 else None) for i in range(5)]
    write_mimic(tmp_path, [*studies, Study(patient="10000009", study="50000009", split="validate")])
    training = opened(config(tmp_path), tmp_path / "run")[0]
    texts = list(training.texts(np.random.default_rng(0)))
    assert len(texts) == len(set(texts)) == 3
    assert set(texts) == {training.text(index).text for index in range(5)}


CUT = "FINDINGS: The lungs are clear. Ödem links.\n", "FINDINGS: The lungs are clear.\nIMPRESSION: Ödem links.\n"
"""Two reports of one text that are told apart into findings and impression at other places."""


def test_equal_texts_keep_their_own_conclusions(tmp_path):
    reports = (*CUT, "IMPRESSION: Ödem links.", "The lungs are clear. Ödem links.", "ADDENDUM: Ödem links.")
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", report=report) for i, report in enumerate(reports)]
    write_mimic(tmp_path, [*studies, Study(patient="10000009", study="50000009", split="validate")])
    training, _, _, kept = opened(config(tmp_path), tmp_path / "run")
    assert [training.text(index) for index in range(5)] == [select_text(report) for report in reports]
    assert [training.text(index).conclusion for index in range(4)] == [None, "Ödem links.", "Ödem links.", None]
    assert kept["training"]["texts"] == 2
    again = pickle.loads(pickle.dumps(training))
    assert [again.text(index) for index in range(5)] == [training.text(index) for index in range(5)]


def test_conclusions_stay_with_pairs_that_are_left(tmp_path):
    reports = (CUT[0], CUT[1], "FINDINGS: Edema.\nIMPRESSION: Failure.")
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", report=report) for i, report in enumerate(reports)]
    write_mimic(tmp_path, [*studies, Study(patient="10000000", study="50000009", split="validate")])
    training = opened(config(tmp_path, leakage="skip"), tmp_path / "run")[0]
    assert [training.text(index) for index in range(2)] == [select_text(report) for report in reports[1:]]


def test_conclusions_that_moved_are_refused(tmp_path):
    studies = small_mimic(tmp_path, training=2, validation=1)
    report, run = tmp_path / f"{studies[0].folder}.txt", tmp_path / "run"
    report.write_text(CUT[0])
    began = opened(config(tmp_path), run)[3]
    report.write_text(CUT[1])
    assert "the training pairs are not those that" in refusal(config(tmp_path), run)
    for split in ("training", "validation"):
        del began[split]["conclusions"]  # as earlier releases kept it
    (run / SURVEY).write_text(json.dumps(began))
    assert opened(config(tmp_path), run)[3]["training"]["digest"] == began["training"]["digest"]
