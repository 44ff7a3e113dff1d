import json

import pytest

from benchmarks.report_sections import LAYOUTS, ROOT, kept_and_lost, measure

STUDIES = [
    {
        "INDICATION": "Dyspnea in a wheelchair.", "COMPARISON": "Tomography of XXXX.",
        "FINDINGS": "There is a left effusion. The heart is enlarged. No pneumothorax.", "IMPRESSION": "Large effusion.",
    },
    {"INDICATION": "Dizziness.", "FINDINGS": "Lungs are clear.", "IMPRESSION": "1. No effusion. 2. Rib fracture."},
    {"IMPRESSION": "No acute disease is seen. There is a nodule."},
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_made_up_reports_is_read(layout):
    assert measure(STUDIES)[layout] == {"sentences": 9, "kept": 1.0, "context": 0.0, "refused": 0}


def test_a_sentence_counts_with_its_words_in_order():
    report = {"FINDINGS": "Clear lungs. A nodule XXXX here.", "IMPRESSION": "1. Edema."}
    assert kept_and_lost(report, "lungs clear. A nodule here. Edema") == (
        ["A nodule XXXX here.", "1. Edema."],
        ["Clear lungs."],
    )


def test_the_committed_result_lost_no_layout():
    result = json.loads((ROOT / "benchmarks/results/report_sections.json").read_text())
    assert result["reports"] == 3955
    assert list(result["now"]) == list(result["before"]) == list(LAYOUTS)
    for layout, now in result["now"].items():
        assert now["sentences"] == result["before"][layout]["sentences"] == 22662
        assert now["kept"] >= max(result["before"][layout]["kept"], 0.9996)
        assert now["context"] < 0.003
        assert now["refused"] <= 1
