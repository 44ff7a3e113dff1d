import csv
import importlib.metadata
import re
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from mcr_infer.errors import ConfigError
from mcr_infer.images import read_image
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from mcr_infer.reports import embed_text, split_report
from train import config as cfg
from train.data.open_i import mesh_labels, open_open_i
from train.data.radiographs import open_records
from train.data.records import split_by_hash
from trees import write_open_i, write_png

ONE = ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")
FINDINGS, IMPRESSION = "The heart is XXXX in size. No effusion.", "Normal chest x-XXXX."


@pytest.fixture
def folder(tmp_path):
    """Reports of five studies: with two images, one image, no image, an impression alone, no text."""
    reports = tmp_path / "ecgen-radiology"
    reports.mkdir()
    write_open_i(reports / "1.xml", 1, findings=FINDINGS, impression=IMPRESSION, images=ONE, mesh=["normal"])
    write_open_i(
        reports / "2.xml", 2, findings="Edema.", images=["CXR2_IM-0652-1001"],
        mesh=["Cardiomegaly/mild", "Lung/hypoinflation", "Opacity/lung/base/left", "Cardiomegaly/borderline"],
    )  # fmt: skip
    write_open_i(reports / "3.xml", 3, findings="No picture.", mesh=["normal"])
    write_open_i(reports / "4.xml", 4, impression="Effusion.", images=["CXR4_IM-2050-1001"], mesh=["No Indexing"])
    write_open_i(reports / "5.xml", 5, images=["CXR5_IM-2117-1003002"])
    images = tmp_path / "images"
    images.mkdir()
    for seed, name in enumerate((*ONE, "CXR2_IM-0652-1001", "CXR4_IM-2050-1001", "CXR5_IM-2117-1003002")):
        write_png(images / f"{name}.png", seed)
    return tmp_path


def told(folder, **more):
    paths = {"images": str(folder / "images"), "reports": str(folder / "ecgen-radiology"), "views": ()}
    return cfg.Radiographs(**(paths | more))


def packed(folder):
    path = folder / "NLMCXR_reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "ecgen-radiology", "ecgen-radiology")
    return path


def test_reports_become_records_from_a_folder_and_from_the_archive(folder):
    records = list(open_open_i(told(folder)).records())
    key = {record.name: record for record in open_open_i(told(folder, reports=str(packed(folder)))).records()}
    assert {record.name: record for record in records} == key
    assert [record.name for record in records] == [
        *ONE, "CXR2_IM-0652-1001", "CXR3", "CXR4_IM-2050-1001", "CXR5_IM-2117-1003002",
    ]  # fmt: skip
    first = records[0]
    assert first.image == folder / "images" / f"{ONE[0]}.png"
    assert first.report == f"FINDINGS: {FINDINGS}\nIMPRESSION: {IMPRESSION}"
    assert embed_text(first.report) == "The heart is in size. No effusion. Normal chest x-."
    assert (first.patient, first.study, first.view) == ("CXR1", "CXR1", None)
    assert records[3].image is None
    assert records[5].report == ""
    assert [record.labels for record in records[1:]] == [
        ("normal",), ("cardiomegaly", "lung/hypoinflation", "opacity"), ("normal",), None, None,
    ]  # fmt: skip


def test_the_split_is_by_study_and_stays(folder):
    for share in (0.1, 0.5, 0.9):
        for record in open_open_i(told(folder, validation_share=share)).records():
            assert record.split == ("validate" if split_by_hash(record.study, share) else "train")
    held_out = sum(split_by_hash(f"CXR{number}", 0.1) for number in range(1, 4000))
    assert 340 <= held_out <= 460


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (("imageid", "View Position"), [(ONE[0], "PA"), (ONE[1], "LATERAL"), ("CXR2_IM-0652-1001", "")]),
        (("filename", "projection"), [("1_IM-0001-3001.dcm.png", "pa"), ("1_IM-0001-4001.dcm.png", "Lateral")]),
        (("filename", "view"), [("./1_IM-0001-3001.dcm", "PA"), ("x/1_IM-0001-4001.dcm", "lateral")]),
    ],
)
def test_views_come_from_a_table(header, rows, folder):
    table = folder / "views.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    columns = {"image_column": header[0], "view_column": header[1], "views": ("PA",), "table": str(table)}
    records = list(open_open_i(told(folder, **columns)).records())
    assert [record.view for record in records] == ["PA", "LATERAL", None, None, None, None]


def test_what_open_i_does_not_say_is_asked_for(folder):
    with pytest.raises(ConfigError, match=r"does not say which view an image is: set data\.radiographs\.table"):
        open_open_i(told(folder, views=("PA",)))
    with pytest.raises(ConfigError, match=r"expected NLMCXR_reports\.tgz"):
        open_open_i(told(folder, reports=""))
    with pytest.raises(ConfigError, match="expected the folder of the Open-I PNG files"):
        open_open_i(told(folder, images=str(folder / "nowhere")))
    table = folder / "views.csv"
    table.write_text("image,view\nsomething,PA\n")
    with pytest.raises(ConfigError, match="row 2: column 'image' names no image of Open-I"):
        list(open_open_i(told(folder, table=str(table))).records())


def test_damaged_reports_are_refused(folder):
    whole = packed(folder).read_bytes()
    cut = folder / "cut.tgz"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"cut\.tgz is not a whole \.tgz"):
        list(open_open_i(told(folder, reports=str(cut))).records())
    (folder / "ecgen-radiology/2.xml").write_text("<eCitation>")
    with pytest.raises(ConfigError, match=r"2\.xml is not XML"):
        list(open_open_i(told(folder)).records())
    (folder / "ecgen-radiology/2.xml").write_text("<other/>")
    with pytest.raises(ConfigError, match=r"2\.xml has no <uId id=\.\.\.>"):
        list(open_open_i(told(folder)).records())


def test_open_i_is_opened_as_pairs(folder):
    settings = cfg.Config(
        model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
        data=cfg.Data(
            source="open_i", cache=str(folder / "cache"), radiographs=told(folder, cached_side=64, validation_share=0.5)
        ),
        optim=cfg.Optim(batch_size=2),
        run=cfg.Run(workers=0),
    )
    training, validation = open_records(settings, folder / "run", Console(quiet=True))
    stores = {store.name(index): (store, index) for store in (training, validation) for index in range(len(store))}
    assert sorted(stores) == sorted([*ONE, "CXR2_IM-0652-1001", "CXR4_IM-2050-1001"])
    for name, (store, index) in stores.items():
        assert np.array_equal(store.pixels(index), read_image(folder / "images" / f"{name}.png").pixels)
    store, index = stores[ONE[1]]
    assert store.text(index).text == "The heart is in size. No effusion. Normal chest x-."
    assert (store.text(index).part, store.text(index).conclusion) == ("both", "Normal chest x-.")


# ---- The collection itself, where a package that carries its reports is installed -----------------------------------


def real_reports() -> Path | None:
    """Find the reports in the files of the distribution torchxrayvision, without importing it."""
    try:
        files = importlib.metadata.files("torchxrayvision") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "NLMCXR_reports.tgz"]
    return next((path for path in found if path.is_file()), None)


@pytest.fixture(scope="module")
def real():
    path = real_reports()
    if path is None:
        pytest.skip("needs the 3955 reports of Open-I: pip install --no-deps torchxrayvision")
    settings = cfg.Radiographs(images=str(path.parent), reports=str(path), views=())
    studies = {record.study: record for record in open_open_i(settings).records()}
    images = [record for record in open_open_i(settings).records() if record.image is not None]
    return studies, images


def test_the_real_collection_is_read_whole(real):
    studies, images = real
    assert (len(studies), len(images)) == (3955, 7470)
    assert len({record.image for record in images}) == 7470
    assert sum(record.image is None for record in studies.values()) == 104
    described = [split_report(record.report) for record in studies.values()]
    assert sum(sections.findings is not None for sections in described) == 3425
    assert sum(sections.impression is not None for sections in described) == 3921
    assert sum(record.report == "" for record in studies.values()) == 28
    held_out = sum(record.split == "validate" for record in studies.values())
    assert 340 <= held_out <= 450
    assert sum(record.labels is None for record in studies.values()) < 150


def test_real_texts_hold_no_headings_and_no_blanks(real):
    texts = [embed_text(record.report) for record in real[0].values() if record.report]
    heading = re.compile(r"\b(findings?|impressions?|comparison|indication|technique|exam|history) ?:", re.IGNORECASE)
    # One radiologist began a paragraph of the impression with "Chest Comparison:".
    assert [text[:17] for text in texts if heading.search(text)] == ["Chest Comparison:"]
    assert not any("XXX" in text for text in texts)
    assert not any("\n" in text or "  " in text or text != text.strip() for text in texts)
    # Nothing between the headers is lost but what was blanked out.
    for record in real[0].values():
        report = record.report.replace("XXXX", " ").lower()
        kept = set(re.findall("[a-z]{4,}", embed_text(record.report).lower())) if report else set()
        lost = set(re.findall("[a-z]{4,}", report)) - kept - {"findings", "impression"}
        copied = report.count("impression:") > 1  # one report stands in its own impression, with its headers
        assert len(lost) == (9 if copied else 0), record.name


def test_a_tokenizer_trained_on_real_reports_covers_them(real, tmp_path):
    texts = [embed_text(record.report) for record in real[0].values() if record.report]
    train_tokenizer(texts[:3000], 3000).save(str(tmp_path / "tokenizer.json"))
    tokenizer = ReportTokenizer.from_file(tmp_path / "tokenizer.json", 128)
    lengths = tokenizer.lengths(texts)
    assert np.mean(lengths > 128) < 0.02
    ids, mask = tokenizer.encode(texts[3000:])
    unknown = 1
    assert int((ids == unknown).sum()) / int(mask.sum()) < 1e-4
    words = sum(len(re.findall(r"\w+|[^\w\s]", text)) for text in texts)
    assert (lengths.sum() - 2 * len(texts)) / words < 1.15


def test_mesh_headings_of_the_real_collection(real):
    labels = {label for record in real[0].values() for label in record.labels or ()}
    assert {"normal", "cardiomegaly", "lung/hypoinflation", "pleural effusion", "pneumothorax"} <= labels
    assert len(labels) < 300
    assert mesh_labels(ElementTree.fromstring("<a><MeSH><major>No Indexing</major></MeSH></a>")) is None
