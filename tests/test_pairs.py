from pathlib import Path

import pytest

from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.evaluation.pairs import read_pairs


def write(folder: Path, text: str, images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for name in images:
        (folder / name).write_bytes(b"")
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_pairs_are_read_with_paths_relative_to_their_file(tmp_path: Path):
    path = write(
        tmp_path,
        '\ufeffFile,Report,patient,findings\na.png,"FINDINGS: clear, ""quiet"".\nIMPRESSION: none.",p1,\n\nb.png,x,,edema\n',
    )
    (one, two), notes = read_pairs(path)
    assert one.image == tmp_path / "a.png"
    assert one.report == 'FINDINGS: clear, "quiet".\nIMPRESSION: none.'
    assert (one.patient, one.findings) == ("p1", "")
    assert (two.patient, two.findings) == (None, "edema")
    assert notes == ["pairs.csv: 1 blank cells of findings are radiographs without findings"]


def test_optional_columns_may_be_absent(tmp_path: Path):
    pairs, notes = read_pairs(write(tmp_path, "image,report,other\na.png,x,1\nb.png,y,2\n"))
    assert notes == []
    assert [(pair.patient, pair.findings) for pair in pairs] == [(None, None), (None, None)]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", ConfigError, "no column 'image' or 'file': name it with --image-column"),
        ("image,text\na.png,x\n", ConfigError, r"--report-column; its header is \['image', 'text'\]"),
        (
            "image,report,report\na.png,x,y\n",
            ConfigError,
            "the columns 'report', 'report' where one 'report' is expected",
        ),
        ("image,report,Findings,findings \na.png,x,,\n", ConfigError, "the columns 'Findings', 'findings' where one"),
        ("image;text\na.png;x\n", ConfigError, r"no column 'report'.* its header is \['image', 'text'\]"),
        ("image^report\na.png^x\n", ConfigError, r"its header is \['image\^report'\]"),
        ("image,report\na.png,x\n", ConfigError, "has 1 pairs: retrieval needs at least 2"),
        ("image,report\na.png,x\nb.png,y,z\n", ReportError, "row 3: has 3 columns, the header has 2"),
        (
            'image;report\na.png;"x\ny"\nb.png\nc.png\n',
            ReportError,
            r"row 3 \(line 4\): has 1 .*\(2 rows cannot be read\)",
        ),
        ("image,report\na.png,x\n,y\n", ConfigError, "row 3 names no image"),
        ("image,report\na.png,x\n\nb.png, \n", ReportError, "row 4 has an empty report"),
        ("image,report\na.png,x\n\nc.png,y\n", ConfigError, "1 of 2 images are not there, the first in row 4"),
        ('image,report\na.png,"x\n', ReportError, "row 2: not CSV"),
        ('image,report\na.png,x\nb.png,"y\nc.png,z\n', ReportError, "row 3: a quote opens in line 3 and is not closed"),
        ('image,"report\na.png,x\n', ReportError, "row 1 is not CSV"),
        ("image,report\na.png,x\nb.png,y\0\n", ReportError, "row 3: not valid UTF-8, or with NUL in it"),
        ("image,report,patient\na.png,x,\0\nb.png,y,\n", ReportError, "row 2: not valid UTF-8, or with NUL in it"),
        ("image,report\na.png,x\nb.png," + "y" * 140_000 + "\n", ReportError, "row 3: not CSV: field larger"),
    ],
)
def test_a_wrong_file_is_refused_by_row(tmp_path: Path, text: str, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        read_pairs(write(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    for data, message in (
        (b"image,report\na.png,\xff\xfe\n", "row 2: not valid UTF-8"),
        (b"image,report,\xff\na.png,x,y\n", "neither UTF-8 nor UTF-16"),
        ("image,report\na.png,x\nb.png,y".encode("utf-16")[:-1], "is cut or damaged after row 2"),
    ):
        path.write_bytes(data)
        with pytest.raises(ReportError, match=message) as caught:
            read_pairs(path)
        assert caught.value.reason == "encoding"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pairs(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_header_decides_the_delimiter(tmp_path: Path, delimiter: str, encoding: str):
    path = write(tmp_path, "")
    rows = (["Image", "Report", "Labels"], ["a.png", '"Größe, normal; clear.\nEnd."', "edema"], ["b.png", "x", ""])
    path.write_text("\n".join(map(delimiter.join, rows)), encoding=encoding)
    pairs, _ = read_pairs(path, columns={"findings": "labels"})
    assert [pair.report for pair in pairs] == ["Größe, normal; clear.\nEnd.", "x"]
    assert [pair.findings for pair in pairs] == ["edema", ""]


def test_named_columns_decide_the_delimiter(tmp_path: Path):
    path = write(tmp_path, "a,b;Bild;Befund\n1,2;a.png;x\n3,4;b.png;y\n")
    pairs, _ = read_pairs(path, columns={"image": "Bild", "report": "Befund"})
    assert [(pair.image.name, pair.report) for pair in pairs] == [("a.png", "x"), ("b.png", "y")]


def test_columns_may_have_other_names(tmp_path: Path):
    path = write(tmp_path, "Image Index,Text,Pid,Labels,Part,image\na.png,x,p1,Edema,test,\nb.png,y,p1,Mass,TEST,\n")
    names = {"image": "image index", "report": "text", "patient": "Pid", "findings": "labels", "split": "part"}
    pairs, notes = read_pairs(path, columns=names)
    assert [(pair.image.name, pair.report, pair.patient, pair.findings) for pair in pairs] == [
        ("a.png", "x", "p1", "edema"), ("b.png", "y", "p1", "mass"),
    ]  # fmt: skip
    assert notes == ["pairs.csv has several splits (test 1, TEST 1): all rows are evaluated; --split takes one of them"]


@pytest.mark.parametrize("role", ["image", "report", "patient", "findings", "split"])
def test_named_column_that_is_absent_is_refused(tmp_path: Path, role: str):
    path = write(tmp_path, "image,report\na.png,x\nb.png,y\n")
    with pytest.raises(ConfigError, match=f"no column 'Lables': name it with --{role}-column"):
        read_pairs(path, columns={role: "Lables"})


def test_one_split_is_taken_in_any_case(tmp_path: Path):
    path = write(
        tmp_path,
        "image,report,split\na.png,x,Test\nb.png,y,test\nc.png,z,train\n",
        ("a.png", "b.png"),
    )
    pairs, notes = read_pairs(path, split="TEST")
    assert ([pair.report for pair in pairs], notes) == (["x", "y"], [])
    with pytest.raises(ConfigError, match="no row of split 'dev'; its splits are Test 1, test 1, train 1"):
        read_pairs(path, split="dev")
    with pytest.raises(ConfigError, match="no column 'split' to choose 'dev' from"):
        read_pairs(write(tmp_path, "image,report\na.png,x\nb.png,y\n"), split="dev")


def test_blank_is_unlabelled_beside_no_finding(tmp_path: Path):
    pairs, notes = read_pairs(write(tmp_path, "image,report,findings\na.png,x,No Finding\nb.png,y,\n"))
    assert [pair.findings for pair in pairs] == ["", None]
    assert notes == ["pairs.csv: 1 blank cells of findings are not labelled, since others say that there is no finding"]


def test_columns_of_one_finding_each_are_noted(tmp_path: Path):
    path = write(tmp_path, "image,report,Edema,Pleural Effusion,No Finding\na.png,x,1,0,\nb.png,y,-1,1,\n")
    _, (note,) = read_pairs(path)
    assert note.startswith("pairs.csv: the columns Edema, Pleural Effusion look like one finding each and are not read")
