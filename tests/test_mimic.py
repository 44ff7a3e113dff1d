import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from mcr_infer.errors import ConfigError
from mcr_infer.images import read_image
from mcr_infer.inference.long_text import DEFAULT, fit
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from mcr_infer.phantom import make
from mcr_infer.reports import SelectedText, select_text
from train import config as cfg
from train.data import Draw, collate
from train.data.mimic import open_mimic
from train.data.radiographs import SURVEY, RadiographPairs, open_records
from trees import Study, hospital, small_mimic, write_mimic

LONG = "The heart is of normal size. Both lungs are well expanded and free of edema. " * 8
STILL = cfg.Augment(gamma=0, contrast=0, brightness=0, crop=0, rotation=0)


def config(root, source="mimic_cxr_jpg", **told):
    told = {"images": str(root), "cached_side": 64} | told
    return cfg.Config(
        model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
        augment=STILL,
        data=cfg.Data(source=source, cache=str(root / "cache"), radiographs=cfg.Radiographs(**told)),
        optim=cfg.Optim(batch_size=2),
        run=cfg.Run(workers=0),
    )


def open_pairs(settings, run):
    training, validation = open_records(settings, run, Console(quiet=True))
    path = run / "tokenizer.json"
    train_tokenizer(list(training.texts(np.random.default_rng(0))), 400).save(str(path))
    tokenizer = ReportTokenizer.from_file(path, 64)
    return RadiographPairs(settings, training, tokenizer), RadiographPairs(settings, validation, tokenizer), tokenizer


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("jpg")
    return root, small_mimic(root)


def test_records_follow_the_tables(tree):
    root, studies = tree
    records = list(open_mimic(cfg.Radiographs(images=str(root)), dicom=False).records())
    assert len(records) == sum(len(study.views) for study in studies) == 21
    assert Counter(record.split for record in records) == {"train": 15, "validate": 6}
    assert Counter(record.view for record in records) == {"PA": 13, "AP": 5, "LATERAL": 3}
    first, study = records[0], studies[0]
    assert (first.patient, first.study, first.name) == ("10000000", "50000000", f"s50000000/{study.images[0]}")
    assert first.image == root / "files/p10/p10000000/s50000000" / f"{study.images[0]}.jpg"
    assert first.report == root / "files/p10/p10000000/s50000000.txt"
    assert first.labels == ("cardiomegaly", "edema")
    assert all(record.image.is_file() and record.report.is_file() for record in records)


@pytest.mark.parametrize("rendering", ["voi", "mimic_cxr_jpg"])
@pytest.mark.parametrize("source", ["mimic_cxr_jpg", "mimic_cxr"])
def test_the_tensor_of_a_pair_is_that_of_inference(source, rendering, tmp_path):
    reports = (None, None, hospital(LONG, "Large left pneumothorax."), LONG)
    studies = [
        Study(
            patient=f"1000000{i}", study=f"5000000{i}", report=report, split="validate" if report is None else "train"
        )
        for i, report in enumerate([hospital("Clear lungs.", "Normal chest."), *reports[2:], *reports[:2]])
    ]
    write_mimic(tmp_path, studies, dicom=source == "mimic_cxr")
    settings = config(tmp_path, source)
    image = dataclasses.replace(settings.model.image, rendering=rendering)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, image=image))
    pairs, held_out, tokenizer = open_pairs(settings, tmp_path / "run")
    assert (len(pairs), len(held_out)) == (3, 2)
    end = "dcm" if source == "mimic_cxr" else "jpg"
    for index, study in enumerate(studies[:3]):
        file = tmp_path / study.folder / f"{study.images[0]}.{end}"
        radiograph = read_image(file, rendering=settings.model.preprocess.rendering)
        expected, positions = settings.model.preprocess.patches(radiograph.pixels)
        text = (tmp_path / f"{study.folder}.txt").read_text()
        (fitted,) = fit([select_text(text)], tokenizer, DEFAULT)
        assert (fitted.strategy, len(fitted.pieces) > 1) == ((None, False), (DEFAULT, False), ("windows", True))[index]
        if index == 1:
            ((_, *impression, _),) = tokenizer.token_ids(["Large left pneumothorax."])
            assert list(fitted.pieces[0][1 : 1 + len(impression)]) == impression
            (cut,) = fit([select_text(text)], tokenizer, "truncate")
            assert not set(impression) & set(cut.pieces[0]) - set(*tokenizer.token_ids([LONG]))
        for sample in (pairs.held_out(index), pairs[Draw(index, 4, False)]):
            assert np.array_equal(sample.patches, expected)
            assert np.array_equal(sample.visible, positions)
            assert np.array_equal(sample.input_ids, fitted.pieces)
            assert sample.source == f"s{study.study}/{study.images[0]}"
    if source == "mimic_cxr":
        assert np.array_equal(read_image(tmp_path / studies[0].folder / f"{studies[0].images[0]}.dcm").pixels,
                              make(0, 64).radiograph().pixels)  # fmt: skip


def test_draws_repeat_and_differ_between_epochs(tree, tmp_path):
    settings = dataclasses.replace(config(tree[0]), augment=cfg.Augment())
    pairs, _, _ = open_pairs(settings, tmp_path)
    one, again, later = pairs[Draw(2, 0, True)], pairs[Draw(2, 0, True)], pairs[Draw(2, 1, True)]
    assert np.array_equal(one.patches, again.patches)
    assert np.array_equal(one.visible, again.visible)
    assert not np.array_equal(one.patches, later.patches)
    assert (len(one.visible), len(one.hidden)) == (8, 8)
    assert collate([pairs[Draw(i, 0, True)] for i in range(4)]).patches.shape == (4, 16, 64)


def test_headings_of_a_site_are_known_in_training(tmp_path):
    report = "FREITEXT: Cough.\nGESEHEN: Left effusion.\n"
    write_mimic(tmp_path, [
        Study(patient="10000001", study="50000001", report=report),
        Study(patient="10000002", study="50000002", report=report),
        Study(patient="10000003", study="50000003", report=report, split="validate"),
    ])  # fmt: skip
    headings = tmp_path / "headings.toml"
    headings.write_text('clinical = ["Freitext"]\nfindings = ["Gesehen"]\n')
    for told, text in (
        ({}, "FREITEXT: Cough. GESEHEN: Left effusion."),
        ({"headings": str(headings)}, "Left effusion."),
    ):
        training, _ = open_records(config(tmp_path, **told), tmp_path / f"run-{len(told)}", Console(quiet=True))
        assert training.text(0) == SelectedText(text=text, part="findings" if told else "whole")


def test_images_of_one_study_are_positives_of_each_other(tmp_path):
    shared = hospital("The lungs are clear. Heart size is normal.", "Normal chest.")
    write_mimic(tmp_path, [
        Study(patient="10000001", study="50000001", views=("PA", "LATERAL"), report=shared),
        Study(patient="10000002", study="50000002", views=("AP",), report=shared, present=("Edema",)),
        Study(patient="10000003", study="50000003", views=("AP",), present=("Edema",)),
        Study(patient="10000004", study="50000004", views=("AP",), present=None),
        Study(patient="10000005", study="50000005", split="validate"),
    ])  # fmt: skip
    by_report, _, _ = open_pairs(config(tmp_path, views=()), tmp_path / "one")
    keys = [by_report.held_out(index).key for index in range(5)]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3
    findings = dataclasses.replace(config(tmp_path, views=()), loss=cfg.Loss(positives="findings"))
    by_findings, _, _ = open_pairs(findings, tmp_path / "two")
    keys = [by_findings.held_out(index).key for index in range(5)]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert len(set(keys)) == 3
    assert [by_findings.labels(index) for index in range(5)] == ["no finding", "no finding", "edema", "edema", None]
    assert [by_findings.patient(index) for index in (0, 1, 4)] == ["10000001", "10000001", "10000004"]


def test_findings_as_positives_need_labels_before_anything_is_decoded(tmp_path):
    splits = ("train", "train", "validate")
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", split=s) for i, s in enumerate(splits)]
    write_mimic(tmp_path, studies, labels=False)
    settings = dataclasses.replace(config(tmp_path), loss=cfg.Loss(positives="findings"))
    with pytest.raises(ConfigError, match=r'positives is "findings" and no training pair has labels') as refused:
        open_records(settings, tmp_path / "run", Console(quiet=True))
    assert "\n  3 pairs without findings: kept, such as s50000000/" in str(refused.value)
    assert not (tmp_path / "cache").exists()
    open_pairs(config(tmp_path), tmp_path / "run")
    facts = json.loads((tmp_path / "run" / SURVEY).read_text())
    assert [(fault["kind"], fault["count"], fault["action"]) for fault in facts["faults"]] == [("no_labels", 3, "kept")]


def test_findings_as_positives_need_a_label_that_is_left_after_decoding(tmp_path):
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", present=None) for i in range(2)]
    studies += [Study(patient="10000003", study="50000003", present=("Edema",))]
    write_mimic(tmp_path, [*studies, Study(patient="10000004", study="50000004", split="validate")])
    (tmp_path / studies[2].folder / f"{studies[2].images[0]}.jpg").write_bytes(b"no image at all")
    settings = dataclasses.replace(config(tmp_path, missing_files="skip"), loss=cfg.Loss(positives="findings"))
    with pytest.raises(
        ConfigError, match=r"no training pair has labels(?s:.*)1 images that cannot be decoded: left out"
    ):
        open_records(settings, tmp_path / "run", Console(quiet=True))


def test_labels_of_the_training_pairs_alone_are_enough(tmp_path):
    studies = [Study(patient=f"1000000{i}", study=f"5000000{i}", present=("Edema",)) for i in range(2)]
    write_mimic(tmp_path, [*studies, Study(patient="10000003", study="50000003", split="validate", present=None)])
    settings = dataclasses.replace(config(tmp_path), loss=cfg.Loss(positives="findings"))
    pairs, held_out, _ = open_pairs(settings, tmp_path / "run")
    assert ([pairs.labels(0), pairs.labels(1)], held_out.labels(0)) == (["edema", "edema"], None)


def test_uncertain_labels_are_no_findings(tmp_path):
    write_mimic(tmp_path, [
        Study(patient="10000001", study="50000001", present=("Pneumonia",), uncertain=("Edema",)),
        Study(patient="10000002", study="50000002", present=(), uncertain=("Edema",)),
    ])  # fmt: skip
    records = list(open_mimic(cfg.Radiographs(images=str(tmp_path)), dicom=False).records())
    assert [record.labels for record in records] == [("pneumonia",), None]


def test_the_newest_tables_are_taken_and_recorded(tmp_path):
    write_mimic(tmp_path, [Study(patient="10000001", study="50000001")], version="2.1.0")
    (tmp_path / "mimic-cxr-2.0.0-split.csv").write_text("dicom_id,study_id,subject_id,split\n")
    source = open_mimic(cfg.Radiographs(images=str(tmp_path)), dicom=False)
    assert source.origin["split"].endswith("mimic-cxr-2.1.0-split.csv.gz")
    assert source.origin["labels"].endswith("mimic-cxr-2.1.0-chexpert.csv.gz")
    assert [record.split for record in source.records()] == ["train"]


def test_reports_may_lie_in_a_folder_of_their_own(tmp_path):
    write_mimic(tmp_path / "jpg", [Study(patient="10000001", study="50000001")])
    report = "files/p10/p10000001/s50000001.txt"
    moved = tmp_path / "cxr/mimic-cxr-reports" / report
    moved.parent.mkdir(parents=True)
    (tmp_path / "jpg" / report).rename(moved)
    for reports in ("cxr", "cxr/mimic-cxr-reports"):
        told = cfg.Radiographs(images=str(tmp_path / "jpg"), reports=str(tmp_path / reports))
        assert [record.report for record in open_mimic(told, dicom=False).records()] == [moved]
    with pytest.raises(ConfigError, match=r"unpack mimic-cxr-reports\.zip"):
        open_mimic(cfg.Radiographs(images=str(tmp_path / "jpg"), reports=str(tmp_path)), dicom=False)


def test_what_is_missing_is_said_before_anything_is_read(tree, tmp_path):
    with pytest.raises(ConfigError, match="expected the folder that holds files/p10"):
        open_mimic(cfg.Radiographs(images=str(tmp_path / "nowhere")), dicom=False)
    with pytest.raises(ConfigError, match=r"holds no mimic-cxr-2\.\*-metadata\.csv"):
        open_mimic(cfg.Radiographs(images=str(tmp_path)), dicom=False)
    with pytest.raises(ConfigError, match=r"holds no cxr-record-list\.csv: it belongs to MIMIC-CXR"):
        open_mimic(cfg.Radiographs(images=str(tree[0])), dicom=True)


def test_a_table_that_is_cut_is_refused(tree, tmp_path):
    root, _ = tree
    whole = (root / "mimic-cxr-2.0.0-metadata.csv.gz").read_bytes()
    for path in root.glob("*.csv.gz"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(whole[: len(whole) // 2])
    source = open_mimic(cfg.Radiographs(images=str(root), table=str(tmp_path)), dicom=False)
    with pytest.raises(ConfigError, match=r"metadata\.csv\.gz"):
        list(source.records())


def test_a_label_of_another_kind_is_refused(tmp_path):
    write_mimic(tmp_path, [Study(patient="10000001", study="50000001")], labels=False)
    (tmp_path / "mimic-cxr-2.0.0-negbio.csv").write_text("subject_id,study_id,Edema\n10000001,50000001,maybe\n")
    with pytest.raises(ConfigError, match=r"row 2 has Edema = 'maybe', expected 1\.0, 0\.0, -1\.0 or a blank"):
        list(open_mimic(cfg.Radiographs(images=str(tmp_path)), dicom=False).records())
