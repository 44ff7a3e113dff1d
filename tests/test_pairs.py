from pathlib import Path

import pytest

from mcr_infer.errors import ConfigError, ReportError
from mcr_infer.pairs import finding_labels_match, finding_set_key, query_labels, read_pairs


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
    one, two = read_pairs(path)
    assert one.image == tmp_path / "a.png"
    assert one.report == 'FINDINGS: clear, "quiet".\nIMPRESSION: none.'
    assert (one.patient, one.findings) == ("p1", "")
    assert (two.patient, two.findings) == (None, "edema")


def test_optional_columns_may_be_absent(tmp_path: Path):
    pairs = read_pairs(write(tmp_path, "image,report,other\na.png,x,1\nb.png,y,2\n"))
    assert [(pair.patient, pair.findings) for pair in pairs] == [(None, None), (None, None)]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", ConfigError, "must have the columns image"),
        ("image,text\na.png,x\n", ConfigError, r"its header is \['image', 'text'\]"),
        ("image,report,report\na.png,x,y\n", ConfigError, "once each"),
        ("image,report\na.png,x\n", ConfigError, "has 1 pairs: retrieval needs at least 2"),
        ("image,report\na.png,x\nb.png,y,z\n", ConfigError, "row 3 has 3 columns, the header has 2"),
        ("image,report\na.png,x\n,y\n", ConfigError, "row 3 names no image"),
        ("image,report\na.png,x\n\nb.png, \n", ReportError, "row 4 has an empty report"),
        ("image,report\na.png,x\n\nc.png,y\n", ConfigError, "1 of 2 images are not there, the first in row 4"),
        ('image,report\na.png,"x\n', ConfigError, "not a CSV file"),
    ],
)
def test_a_wrong_file_is_refused_by_row(tmp_path: Path, text: str, kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        read_pairs(write(tmp_path, text))


def test_what_is_no_text_is_refused(tmp_path: Path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(b"image,report\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="not a CSV file in UTF-8"):
        read_pairs(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pairs(tmp_path)


@pytest.mark.parametrize(
    ("query", "findings", "answered"),
    [
        ("pleural effusion", "left pleural effusion;cardiomegaly", True),
        ("left pleural effusion", "left pleural effusion;cardiomegaly", True),
        ("right pleural effusion", "left pleural effusion;cardiomegaly", False),
        ("left pleural effusion", "bilateral pleural effusion", True),
        ("right pleural effusion", "bilateral pleural effusion", True),
        ("bilateral pleural effusion", "left pleural effusion", False),
        ("bilateral pleural effusion", "bilateral pleural effusion", True),
        ("right consolidation", "right upper lobe consolidation", True),
        ("right upper lobe consolidation", "right lower lobe consolidation", False),
        ("left consolidation", "right upper lobe consolidation;left pneumothorax", False),
        ("cardiomegaly;pulmonary edema", "cardiomegaly;left pneumothorax;pulmonary edema", True),
        ("cardiomegaly;pulmonary edema", "cardiomegaly", False),
        ("Left  Pneumothorax", "left pneumothorax", True),
        ("", "", True),
        ("", "pacemaker", False),
        ("pneumothorax", "", False),
    ],
)
def test_which_findings_answer_which_query(query: str, findings: str, answered: bool):
    assert finding_labels_match(query, findings) is answered


def test_a_finding_set_is_named_by_kind_and_side():
    assert finding_set_key("Right upper lobe consolidation; cardiomegaly") == "cardiomegaly;right consolidation"
    assert finding_set_key("right lower lobe consolidation;right upper lobe consolidation") == "right consolidation"
    assert finding_set_key("") == ""


def test_query_labels_are_kinds_and_sided_kinds():
    assert query_labels(["left upper lobe lung nodule;cardiomegaly", "", "bilateral pleural effusion"]) == [
        "bilateral pleural effusion", "cardiomegaly", "left lung nodule", "lung nodule", "pleural effusion",
    ]  # fmt: skip
