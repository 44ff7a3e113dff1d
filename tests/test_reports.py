import csv
import json
from pathlib import Path

import pytest

from mcr_infer.errors import ReportError
from mcr_infer.phantom.demo import write_demo
from mcr_infer.reports import (
    ReportFailure,
    ReportRecord,
    embed_text,
    read_reports,
    select_text,
    split_report,
)  # fmt: skip

HOSPITAL = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // rule out pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  Radiograph from ___ at 10:40 a.m.

 FINDINGS:

 There is a small left effusion, which has not been seen
 on ___.  The heart is
 mildly enlarged.

 IMPRESSION:

 1.  Small left pleural effusion.
 2.  Mild cardiomegaly, measuring 0.55.

 NOTIFICATION:   The findings were telephoned to Dr. ___ by ___ at 3:10 p.m.

 RECOMMENDATION(S):  Follow-up in six weeks.
"""

WET = """\
 WET READ: ___ ___ ___ 6:12 PM
  IMPRESSION: Maybe a right pneumothorax.
 WET READ VERSION #1
 ______________________________________________________________________________
                                 FINAL REPORT
 AP CHEST, 7:52 A.M., ___

 HISTORY:  Fall from a ladder.

 IMPRESSION:  AP chest shows fractured left ribs. No pneumothorax.
"""

LAYOUTS = {
    "headers in lower case on lines of their own": (
        "findings\nThe lungs are clear.\nimpression\nNormal chest.", "The lungs are clear.", "Normal chest.",
    ),
    "one line, as a spreadsheet flattens it": (
        "EXAM: Chest. INDICATION: Cough. FINDINGS: Heart size is normal. IMPRESSION: Normal.",
        "Heart size is normal.", "Normal.",
    ),
    "flattened without stops": ("INDICATION: cough FINDINGS: Edema seen IMPRESSION: Edema", "Edema seen", "Edema"),
    "title case in one line": (
        "Comparison: None. Findings: Clear lungs. Impression: Normal study.", "Clear lungs.", "Normal study.",
    ),
    "conclusion": ("Findings: Edema.\nConclusion: Failure.", "Edema.", "Failure."),
    "blank line after the header": ("FINDINGS:\n\n\n  Edema.\n\n\nIMPRESSION:\n\n  Failure.\n", "Edema.", "Failure."),
    "both under one header": (
        "FINDINGS AND IMPRESSION:\nLeft effusion. No pneumothorax.", "Left effusion. No pneumothorax.",
        "Left effusion. No pneumothorax.",
    ),
    "impression before findings": ("IMPRESSION: Normal.\nFINDINGS: Clear lungs.", "Clear lungs.", "Normal."),
    "numbers and bullets": (
        "FINDINGS:\n- Clear lungs.\n- Normal heart.\nIMPRESSION:\n1) Normal.\n(2) No 2. rib fracture.",
        "Clear lungs. Normal heart.", "Normal. No 2. rib fracture.",
    ),
    "numbers in one line": ("IMPRESSION: 1. Edema. 2. Effusion; 3. Pacemaker.", None, "Edema. Effusion; Pacemaker."),
    "subheadings stay": (
        "FINDINGS:\nLUNGS: Clear.\nHEART: Normal size.\nIMPRESSION: Normal.", "LUNGS: Clear. HEART: Normal size.", "Normal.",
    ),
    "prose without a header above the impression": (
        "FINAL REPORT\nTHREE VIEWS OF THE CHEST\n\nHISTORY: Cough.\n\nThe lungs are hyperinflated.\nNo effusion.\n\n"
        "IMPRESSION: COPD.",
        "The lungs are hyperinflated. No effusion.", "COPD.",
    ),
    "prose below the study headers alone": (
        "CHEST, TWO VIEWS\n\nINDICATION: Cough and\nfever.\n\nCOMPARISON: None.\n\nThe lungs are clear. Heart is normal.",
        "The lungs are clear. Heart is normal.", None,
    ),
    "prose above the first header": ("The lungs are clear.\n\nIMPRESSION: Normal.", "The lungs are clear.", "Normal."),
    "an empty section": ("FINDINGS:\nIMPRESSION: Normal.", None, "Normal."),
    "a section of blanks": ("FINDINGS: ___ .\nIMPRESSION: Stable XXXX with clear lungs.", None, "Stable with clear lungs."),
    "signed": ("IMPRESSION: Normal.\n\nElectronically signed by A. Nobody\non a Monday", None, "Normal."),
    "signed with a header": ("IMPRESSION: Normal.\nDictated by: A. Nobody\nRadiologist: A. Nobody", None, "Normal."),
    "addendum": ("FINDINGS: Edema.\nADDENDUM: The patient was moved.\nIMPRESSION: Failure.", "Edema.", "Failure."),
    "repeated": ("FINDINGS: Edema.\nIMPRESSION: A.\nFINDINGS: Effusion.", "Edema. Effusion.", "A."),
    "other line ends": ("FINDINGS:\r\n\tEdema\u00a0seen.\r\nIMPRESSION:\tFailure.\r\n", "Edema seen.", "Failure."),
    "marked up": ("**FINDINGS:** Edema.\n## Impression ##\nFailure.", "Edema.", "Failure."),
    "the words within a sentence": (
        "FINDINGS: The impression of the apex is normal. These findings: edema.\nIMPRESSION: Findings suggest failure.",
        "The impression of the apex is normal. These findings: edema.", "Findings suggest failure.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sections_are_found_in_any_layout(layout):
    text, findings, impression = LAYOUTS[layout]
    sections = split_report(text)
    assert (sections.findings, sections.impression) == (findings, impression)


def test_a_hospital_report():
    sections = split_report(HOSPITAL)
    assert (
        sections.findings == "There is a small left effusion, which has not been seen on. The heart is mildly enlarged."
    )
    assert sections.impression == "Small left pleural effusion. Mild cardiomegaly, measuring 0.55."


def test_a_preliminary_read_is_not_the_report():
    sections = split_report(WET)
    assert sections.findings is None
    assert sections.impression == "AP chest shows fractured left ribs. No pneumothorax."
    alone = split_report("WET READ: Maybe a pneumothorax.\n\nFINDINGS: Clear.")
    assert (alone.findings, alone.impression) == ("Clear.", None)


def test_which_text_is_embedded():
    text = "FINDINGS: Left effusion and edema.\nIMPRESSION: Failure."
    assert embed_text(text) == "Left effusion and edema. Failure."
    assert embed_text(text, use="findings") == "Left effusion and edema."
    assert embed_text(text, use="impression") == "Failure."
    assert embed_text(text, use="longest") == "Left effusion and edema."
    assert embed_text("FINDINGS: A b.\nIMPRESSION: A longer one.", use="longest") == "A longer one."
    assert [select_text(text, use=use).part for use in ("both", "findings", "impression", "longest")] == [
        "both", "findings", "impression", "findings",
    ]  # fmt: skip


def test_one_section_is_enough_unless_the_other_is_asked_for():
    for use in ("both", "impression", "longest"):
        chosen = select_text("IMPRESSION: Failure.", use=use)
        assert (chosen.text, chosen.part) == ("Failure.", "impression")
    with pytest.raises(ReportError, match="no text under a header for findings") as caught:
        embed_text("IMPRESSION: Failure.", use="findings")
    assert caught.value.reason == "no_section"


def test_a_common_section_is_embedded_once():
    chosen = select_text("FINDINGS AND IMPRESSION: Left effusion.")
    assert (chosen.text, chosen.part) == ("Left effusion.", "both")


def test_a_text_without_headers_is_taken_whole_and_says_so():
    chosen = select_text("  bilateral\n pleural effusion ")
    assert (chosen.text, chosen.part) == ("bilateral pleural effusion", "whole")
    assert embed_text("bilateral pleural effusion", use="longest") == "bilateral pleural effusion"
    for use in ("findings", "impression"):
        with pytest.raises(ReportError) as caught:
            embed_text("bilateral pleural effusion", use=use)
        assert caught.value.reason == "no_section"


def test_a_report_about_nothing_but_the_study_is_refused():
    with pytest.raises(ReportError, match="findings or impression") as caught:
        embed_text("EXAM: Chest\nINDICATION: Cough.\nCOMPARISON: None.")
    assert caught.value.reason == "no_section"


@pytest.mark.parametrize("text", ["", "  \n ", "___", "1.", "____ . ___"])
def test_an_empty_report_is_refused(text):
    with pytest.raises(ReportError) as caught:
        embed_text(text)
    assert caught.value.reason == "empty"


def test_a_long_report_is_read_in_no_time():
    text = "IMPRESSION: " + " 1. edema\n\n" * 20_000 + "FINDINGS " * 20_000 + "_" * 100_000 + " \t" * 50_000
    assert embed_text(text).startswith("edema edema")


# ---- Files ----------------------------------------------------------------------------------------------------------


def write_table(path: Path, *rows: tuple[str, ...], encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as table:
        csv.writer(table).writerows(rows)
    return path


def test_csv_with_every_column(tmp_path):
    path = write_table(
        tmp_path / "reports.CSV",
        ("ID", " Report ", "study_uid", "path", "mood"),
        ("a", "FINDINGS: Edema.\nIMPRESSION: Failure, ältere.", "1.2.3", "files/a.txt", "good"),
        ("7", "Normal chest.", "", "", "bad"),
        encoding="utf-8-sig",
    )
    text = "FINDINGS: Edema.\nIMPRESSION: Failure, ältere."
    assert list(read_reports(path)) == [
        ReportRecord(id="a", text=text, path="files/a.txt", study_uid="1.2.3"),
        ReportRecord(id="7", text="Normal chest.", path=f"{path}:3"),
    ]


def test_the_labels_of_a_demo_are_not_its_reports(tmp_path):
    for _ in write_demo(tmp_path, count=3, seed=40, size=64):
        pass
    records = list(read_reports(tmp_path / "truth.csv"))
    assert len(records) == 3
    assert all(record.text.startswith("FINDINGS: ") and "\n\nIMPRESSION: " in record.text for record in records)


def test_a_bad_row_stops_nothing_and_is_named(tmp_path):
    path = tmp_path / "r.csv"
    path.write_bytes(
        b'id,report\n1,Clear lungs.\n2, \n3,one,too many\n\n4,Caf\xe9 au lait.\n5,"Un"quoted\n6,Edema.\n7,"never closed\n'
    )
    read = list(read_reports(path))
    assert [record.id for record in read if isinstance(record, ReportRecord)] == ["1", "6"]
    failures = [(one.path, one.reason) for one in read if isinstance(one, ReportFailure)]
    assert failures == [
        (f"{path}:3", "empty"), (f"{path}:4", "format"), (f"{path}:6", "encoding"), (f"{path}:7", "format"),
        (f"{path}:9", "format"),
    ]  # fmt: skip
    assert all(one.error.startswith("row ") for one in read if isinstance(one, ReportFailure))
    assert not any("lait" in one.error or "never" in one.error for one in read if isinstance(one, ReportFailure))


def test_jsonl(tmp_path):
    path = tmp_path / "r.jsonl"
    lines = [
        json.dumps({"id": 12, "text": "Edema."}), "", json.dumps({"report": "Normal.", "study_id": 50}), "{oops",
        json.dumps(["Edema."]), json.dumps({"text": 5}), json.dumps({"id": 1}), json.dumps({"text": "a \ud800"}),
        "[" * 100_000,
    ]  # fmt: skip
    path.write_text("\n".join(lines), encoding="utf-8")
    read = list(read_reports(path))
    assert read[0] == ReportRecord(id="12", text="Edema.", path=f"{path}:1")
    assert (read[1].text, read[1].study_uid, read[1].path) == ("Normal.", "50", f"{path}:3")
    assert [(one.path.rpartition(":")[2], one.reason) for one in read[2:]] == [
        ("4", "format"), ("5", "format"), ("6", "empty"), ("7", "empty"), ("8", "encoding"), ("9", "format"),
    ]  # fmt: skip


def test_a_source_that_is_none_is_refused_at_once(tmp_path):
    columns = write_table(tmp_path / "r.csv", ("id", "findings", "impression"), ("1", "Edema.", "Failure."))
    with pytest.raises(ReportError, match=r"column `report` or `text`.*\['id', 'findings', 'impression'\]") as caught:
        read_reports(columns)
    assert caught.value.reason == "columns"
    (tmp_path / "wide.csv").write_bytes("report\nEdema.\n".encode("utf-16-le"))  # without a byte order mark
    (tmp_path / "empty.csv").touch()
    (tmp_path / "r.xlsx").touch()
    for name, reason in {
        "wide.csv": "encoding", "empty.csv": "columns", "r.xlsx": "format", "nowhere.csv": "missing",
    }.items():  # fmt: skip
        with pytest.raises(ReportError, match=name) as caught:
            read_reports(tmp_path / name)
        assert caught.value.reason == reason
