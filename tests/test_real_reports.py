"""Reports as hospitals write them: the layouts of MIMIC-CXR, with invented words."""

import pytest

from mcr_infer.errors import ReportError
from mcr_infer.reports import select_text, split_report

RULE = " " + "_" * 78

LAYOUTS = {
    "headings with text beside and below them": (
        """\
                                 FINAL REPORT
 PORTABLE CHEST OF ___

 COMPARISON:  ___ radiograph.

 FINDINGS:  Cardiomediastinal contours are stable.  There is
 bibasilar atelectasis.

 IMPRESSION:

 No pneumonia.

""",
        "Cardiomediastinal contours are stable. There is bibasilar atelectasis.", "No pneumonia.",
    ),
    "the last paragraph is the finding": (
        """\
                                 FINAL REPORT
 INDICATION:  ___-year-old man with dyspnea.

 COMPARISON:  ___ and ___.

 AP portable upright chest radiograph obtained.  Midline sternotomy wires are
 again noted.  There is no effusion.
""",
        "AP portable upright chest radiograph obtained. Midline sternotomy wires are again noted. There is no effusion.",
        None,
    ),
    "several paragraphs without a heading": (
        """\
                                 FINAL REPORT
 REASON FOR EXAMINATION:  Hypotension.

 Portable AP radiograph of the chest was reviewed in comparison to ___.

 Heart size is stable.  Lungs are clear.
""",
        "Portable AP radiograph of the chest was reviewed in comparison to. Heart size is stable. Lungs are clear.", None,
    ),
    "views as the heading of the findings": (
        """\
                                 FINAL REPORT
 INDICATION:  ___-year-old woman with a history of congestive heart failure and
 shortness of breath.  Evaluate for pneumonia.  She had a fall.

 COMPARISONS:  Multiple prior radiographs most recently ___.

 PA AND LATERAL VIEWS OF THE CHEST:  The lungs are clear.

 IMPRESSION:  Cardiomegaly.
""",
        "PA AND LATERAL VIEWS OF THE CHEST: The lungs are clear.", "Cardiomegaly.",
    ),
    "a preliminary read above the final report": (
        f"""\
 WET READ: ___ ___ 8:54 PM
  ET tube 3 cm above the carina.
{RULE}
                                 FINAL REPORT
 SINGLE AP PORTABLE VIEW

 REASON FOR EXAM:  Intubated.

 Comparison is made with prior study, ___.

 ET tube is in standard position.
""",
        "Comparison is made with prior study. ET tube is in standard position.", None,
    ),
    "a preliminary read below it": (
        "FINDINGS:  Clear lungs.\n\n IMPRESSION:  No pneumonia.\n\n WET READ: ___ 8 pm\n Perhaps pneumonia.\n",
        "Clear lungs.", "No pneumonia.",
    ),
    "an addendum above the report": (
        f"""\
 FINAL ADDENDUM
 ADDENDUM  The findings were discussed with Dr. ___ on the telephone.

{RULE}
                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 FINDINGS: \n\n Right IJ line ends in the SVC.  No pneumothorax.

 IMPRESSION: \n\n Line in good position.
""",
        "Right IJ line ends in the SVC. No pneumothorax.", "Line in good position.",
    ),
    "an addendum below it": ("FINDINGS:  Little change.\n\n ADDENDUM:  There is a nodule.\n", "Little change.", None),
    "findings and impression under one heading": (
        " HISTORY:  Hypoxia.\n\n FINDINGS AND IMPRESSION:  Lungs are hyperinflated.  No effusion.\n",
        "Lungs are hyperinflated. No effusion.", "Lungs are hyperinflated. No effusion.",
    ),
    "the same with a stroke, text below": (
        " HISTORY:  Hypoxia.\n\n FINDINGS/IMPRESSION:\n \n Lungs are hyperinflated.  \n",
        "Lungs are hyperinflated.", "Lungs are hyperinflated.",
    ),
    "a conclusion": (
        " TYPE OF EXAMINATION:  Chest AP portable single view.\n\n FINDINGS:  The patient sits\n upright.\n\n"
        " CONCLUSION:  No evidence of pneumothorax.\n",
        "The patient sits upright.", "No evidence of pneumothorax.",
    ),
    "an impression alone, with what was compared": (
        "                                 FINAL REPORT\n AP CHEST, 5:17 A.M. ON ___\n\n HISTORY:  A ___-year-old man.\n\n"
        " IMPRESSION:  AP chest compared to ___:\n\n Mild pulmonary edema has improved.\n",
        None, "AP chest compared to: Mild pulmonary edema has improved.",
    ),
    "regions as headings inside the findings": (
        " FINDINGS:\n\n The heart is enlarged.\n\n CHEST:  The lungs are clear.\n\n IMPRESSION: \n \n 1.  No free air.\n\n"
        " 2.  Cardiomegaly.\n\n RECOMMENDATION(S):  CT.\n\n NOTIFICATION:   Entered by Dr. ___ at 11:40.\n",
        "The heart is enlarged. CHEST: The lungs are clear.", "No free air. Cardiomegaly.",
    ),
    "all of it in one line": (
        "FINAL REPORT INDICATION: Cough. COMPARISON: None. FINDINGS: Lungs clear. IMPRESSION: Normal.",
        "Lungs clear.", "Normal.",
    ),
    "a report that was copied into its own impression": (
        "FINDINGS: Patchy opacity.\nIMPRESSION: Infiltrate. IMPRESSION: Exam: CHEST 2V Comparison: XXXX "
        "FINDINGS: Patchy opacity. IMPRESSION: Infiltrate.",
        "Patchy opacity.", "Infiltrate.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_a_hospital_writes(layout):
    text, findings, impression = LAYOUTS[layout]
    sections = split_report(text)
    assert (sections.findings, sections.impression) == (findings, impression)


def test_the_longer_section_is_taken():
    text, findings, impression = LAYOUTS["headings with text beside and below them"]
    chosen = select_text(text, use="longest")
    assert (chosen.text, chosen.part) == (findings, "findings")
    text, _, impression = LAYOUTS["an impression alone, with what was compared"]
    assert select_text(text, use="longest").text == impression


def test_a_blank_leaves_no_mark_before_a_stop():
    assert select_text("FINDINGS: Seen on ___, ___.  Stable: ___.").text == "Seen on. Stable."
    assert select_text("FINDINGS: Broken 3rd-5XXXX XXXX, at XXXXPM.").text == "Broken 3rd-5, at PM."
    assert select_text("FINDINGS: 3 cm, e.g., here.").text == "3 cm, e.g., here."


def test_a_report_that_was_blanked_out_is_empty():
    with pytest.raises(ReportError) as caught:
        select_text("                                 FINAL REPORT\n FINDINGS: ___.\n\n IMPRESSION: ___ ___.\n")
    assert caught.value.reason == "no_section"
