import csv
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from mcr_infer.errors import ConfigError
from mcr_infer.reports import SelectedText
from train import config as cfg
from train.data import tables
from train.data.radiographs import open_records
from train.data.records import split_by_hash
from train.data.tables import open_table, read_rows
from trees import write_png

HEADER = ("image", "report", "patient", "split", "view", "findings")
ROWS = [
    ("a/0.png", "FINDINGS: Edema.\nIMPRESSION: Failure, acute.", "p1", "train", "pa", "Edema; cardiomegaly"),
    ("1.png", "Normal chest.", "p2", "validate", "AP", ""),
    ("2.png", "Normal chest.", "", "", "", "['pleural effusion', 'Nodule']"),
    ("", "No image.", "p3", "train", "PA", "[]"),
]


def write_csv(path, rows, header=HEADER, opener=open):
    with opener(path, "wt", encoding="utf-8-sig", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def write_parquet(path, rows, header=HEADER):
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    pq.write_table(pa.table(columns | {"ignored": [b"\xff"] * len(rows)}), path)
    return path


def told(path, **more):
    return cfg.Radiographs(**({"table": str(path), "images": str(path.parent / "images")} | more))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_a_table_becomes_records(kind, tmp_path):
    path = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        write_parquet(path, ROWS)
    else:
        write_csv(path, ROWS, opener=gzip.open if kind == "csv.gz" else open)
    records = list(open_table(told(path)).records())
    assert [record.name for record in records] == [f"pairs.{kind}:{row}" for row in (2, 3, 4, 5)]
    images = tmp_path / "images"
    assert [record.image for record in records] == [images / "a/0.png", images / "1.png", images / "2.png", None]
    assert records[0].report == "FINDINGS: Edema.\nIMPRESSION: Failure, acute."
    assert [record.patient for record in records] == ["p1", "p2", None, "p3"]
    assert [record.split for record in records] == ["train", "validate", None, "train"]
    assert [record.view for record in records] == ["PA", "AP", None, "PA"]
    assert [record.labels for record in records] == [
        ("cardiomegaly", "edema"), None, ("nodule", "pleural effusion"), (),
    ]  # fmt: skip


def test_lists_and_numbers_of_a_parquet_file(tmp_path):
    path = tmp_path / "pairs.parquet"
    pq.write_table(
        pa.table(
            {"image": ["0.png", "1.png"], "report": ["A.", None], "patient": [7, None], "findings": [["B", "a"], []]}
        ),
        path,
    )
    records = list(open_table(told(path)).records())
    assert [record.patient for record in records] == ["7", None]
    assert [record.report for record in records] == ["A.", ""]
    assert [record.labels for record in records] == [("a", "b"), ()]


def test_parquet_is_read_some_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_PARQUET_ROWS", 4)
    path = write_parquet(tmp_path / "pairs.parquet", [(f"{i}.png", "A.", "p", "train", "PA", "") for i in range(10)])
    rows = list(read_rows(path, ["image"]))
    assert rows == [(i + 2, {"image": f"{i}.png"}) for i in range(10)]


def test_columns_have_the_names_that_the_configuration_says(tmp_path):
    path = write_csv(
        tmp_path / "padchest.csv", [("x.png", "sin hallazg .", "99", "L", "['normal']")],
        header=("ImageID", "Report", "PatientID", "Projection", "Labels"),
    )  # fmt: skip
    names = {
        "image_column": "ImageID", "report_column": "Report", "patient_column": "PatientID",
        "view_column": "Projection", "findings_column": "Labels",
    }  # fmt: skip
    (record,) = open_table(told(path, **names)).records()
    assert (record.report, record.patient, record.view, record.labels) == ("sin hallazg .", "99", "L", ())
    with pytest.raises(
        ConfigError, match=r"no column 'image' or 'file': name it with data\.radiographs\.image_column; .*'ImageID'"
    ):
        open_table(told(path))


def test_without_a_split_patients_are_split_by_a_hash(tmp_path):
    rows = [(f"{i}.png", "A.", f"patient {i // 2}") for i in range(2000)]
    path = write_csv(tmp_path / "pairs.csv", rows, header=HEADER[:3])
    records = list(open_table(told(path, validation_share=0.2)).records())
    by_patient = {}
    for record in records:
        by_patient.setdefault(record.patient, set()).add(record.split)
    assert all(len(splits) == 1 for splits in by_patient.values())
    held_out = sum(splits == {"validate"} for splits in by_patient.values())
    assert 160 <= held_out <= 240  # 200 expected of 1000, with a deviation of 13
    # Fixed for all time: a run that goes on must find the same split.
    assert [i for i in range(12) if split_by_hash(f"patient {i}", 0.2)] == [2]
    assert {p for p, s in by_patient.items() if s == {"validate"}} == {
        f"patient {i}" for i in range(1000) if split_by_hash(f"patient {i}", 0.2)
    }
    more = sum(split_by_hash(f"patient {i}", 0.4) for i in range(1000) if split_by_hash(f"patient {i}", 0.2))
    assert more == held_out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,report\na.png,A.\nb.png\n", "row 3 has 1 columns, the header has 2"),
        (b"image,report\na.png,\xff\n", r"is not a CSV file in UTF-8 \(UnicodeDecodeError"),
        (b"image,report\n" + b"a.png,A.\n" * 5000 + b"a.png,\xff\n", r"row \d+ cannot be read \(UnicodeDecodeError"),
        (b'image,report\na.png,"A\n', r"row 2 cannot be read \(Error"),
        (b"\xff\xfei\0m\0", "is not a CSV file in UTF-8"),
        (b"", "has no column 'image'"),
    ],
)
def test_a_damaged_table_is_refused(content, message, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(open_table(told(path)).records())


def test_a_table_that_is_not_there_or_no_parquet(tmp_path):
    with pytest.raises(ConfigError, match="expected a CSV or Parquet file of pairs"):
        open_table(cfg.Radiographs())
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(ConfigError, match="is not a Parquet file"):
        open_table(told(path))
    write_parquet(path, ROWS)
    with pytest.raises(ConfigError, match="has no column 'nothing'"):
        list(read_rows(path, ["nothing"]))


def test_a_table_is_opened_as_pairs(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        write_png(tmp_path / f"images/{number}.png", number)
    rows = [
        (f"{i}.png", f"FINDINGS: Lungs.\nIMPRESSION: Text {i}.", f"p{i}", "train" if i < 3 else "validate", "PA", "a")
        for i in range(4)
    ]
    path = write_parquet(tmp_path / "pairs.parquet", rows)
    settings = cfg.Config(
        model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
        data=cfg.Data(source="table", cache=str(tmp_path / "cache"), radiographs=told(path, cached_side=40)),
        optim=cfg.Optim(batch_size=2),
        run=cfg.Run(workers=0),
    )
    training, validation = open_records(settings, tmp_path / "run", Console(quiet=True))
    assert [training.text(index) for index in range(3)] == [
        SelectedText(text=f"Lungs. Text {index}.", part="both", conclusion=f"Text {index}.") for index in range(3)
    ]
    assert (len(validation), validation.patient(0), validation.labels(0)) == (1, "p3", "a")
    assert training.pixels(0).shape == (40, 40)


def test_labels_are_read_as_evaluate_reads_them(tmp_path):
    for separator in ("|", ", ", ";"):
        sets = [("Edema", "Effusion"), ("No Finding",), ("Pleural_Thickening",), ("Effusion, left",)]
        rows = [
            (f"{i}.png", "A.", separator.join(labels)) for i, labels in enumerate(sets[: 3 if "," in separator else 4])
        ]
        path = write_csv(tmp_path / "pairs.csv", [*rows, ("9.png", "A.", " ")], header=("File", "Report", "Findings"))
        found = [record.labels for record in open_table(told(path)).records()]
        assert found[:3] == [("edema", "effusion"), (), ("pleural thickening",)]
        assert found[3:] == ([None] if "," in separator else [("left effusion",), None])
    path = write_csv(
        tmp_path / "pairs.csv", [("0.png", "A.", "stripe, dot"), ("1.png", "A.", "dot/ring")],
        header=("image", "report", "findings"),
    )  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"column 'findings': row 2 holds 'stripe, dot'.*data.radiographs.label_separator"
    ):
        open_table(told(path))
    records = open_table(told(path, label_separator=",")).records()
    assert [record.labels for record in records] == [("dot", "stripe"), ("dot/ring",)]


@pytest.mark.parametrize("role", ["image", "report", "patient", "findings", "split", "view"])
def test_named_column_that_is_absent_is_refused(role, tmp_path):
    path = write_csv(tmp_path / "pairs.csv", ROWS)
    with pytest.raises(ConfigError, match=f"no column 'Typo': name it with data.radiographs.{role}_column"):
        open_table(told(path, **{f"{role}_column": "Typo"}))
    twice = write_csv(tmp_path / "twice.csv", [(*row, "") for row in ROWS], header=(*HEADER, role.upper()))
    with pytest.raises(ConfigError, match=f"the columns '{role}', '{role.upper()}' where one '{role}' is expected"):
        open_table(told(twice))


@pytest.mark.parametrize(
    ("names", "more", "found", "notes"),
    [
        (("TRAIN", "Validate", "test"), {}, ["train", "validate", "test"], "'TRAIN' is train, 'Validate' is validate"),
        (("training", "valid", ""), {}, ["train", "validate", None], "'training' is train, 'valid' is validate"),
        (("train", "dev", "holdout"), {}, ["train", "validate", "holdout"], "'dev' is validate"),
        (("train", "validate", "dev"), {}, ["train", "validate", "dev"], None),
        (
            ("fit", "dev", "val"),
            {"train_split": "Fit", "validation_split": "dev"},
            ["Fit", "dev", "val"],
            "'fit' is Fit",
        ),
    ],
)
def test_usual_names_of_splits_are_known(names, more, found, notes, tmp_path):
    rows = [(f"{i}.png", "A.", name) for i, name in enumerate(names)]
    source = open_table(told(write_csv(tmp_path / "pairs.csv", rows, header=("image", "report", "split")), **more))
    assert [record.split for record in source.records()] == found
    assert source.notes == (() if notes is None else (f"splits of pairs.csv: {notes}",))


def test_columns_of_one_finding_each_are_noted(tmp_path):
    path = write_csv(tmp_path / "pairs.csv", [("0.png", "A.", "1", "0")], header=("image", "report", "Edema", "Mass"))
    (note,) = open_table(told(path)).notes
    assert note.startswith("pairs.csv: the columns Edema, Mass look like one finding each and are not read")


def test_two_names_for_one_split_are_refused(tmp_path):
    rows = [("0.png", "A.", "train"), ("1.png", "A.", "val"), ("2.png", "A.", "DEV")]
    path = write_csv(tmp_path / "pairs.csv", rows, header=("image", "report", "split"))
    with pytest.raises(
        ConfigError,
        match=r"several splits that could be 'validate' \(train 1, val 1, DEV 1\): name one .*validation_split",
    ):
        open_table(told(path))
    assert [record.split for record in open_table(told(path, validation_split="dev")).records()] == [
        "train",
        "val",
        "dev",
    ]


def test_splits_that_are_not_there_are_listed(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(3):
        write_png(tmp_path / f"images/{number}.png", number)
    rows = [(f"{i}.png", "A.", split) for i, split in enumerate(("train", "train", "holdout"))]
    path = write_csv(tmp_path / "pairs.csv", rows, header=("image", "report", "split"))
    settings = cfg.Config(
        model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
        data=cfg.Data(source="table", cache=str(tmp_path / "cache"), radiographs=told(path, cached_side=40, views=())),
        optim=cfg.Optim(batch_size=2),
    )
    with pytest.raises(
        ConfigError, match=r"no pair of split 'validate' is left of 3 records; the splits are train 2, holdout 1"
    ):
        open_records(settings, tmp_path / "run", Console(quiet=True))
