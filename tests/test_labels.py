import numpy as np
import pytest

from mcr_infer.evaluation.zero_shot import class_lines, evaluate_classes, evaluate_labels, exclusive_rows, label_lines


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_labels_by_hand():
    # Axis 0 is edema, axis 1 is left pneumothorax; the negations point the other way.
    images = unit([[1, 0.1], [0.9, 0], [0.1, 1], [-1, -1]])
    findings = ["pulmonary edema", "pulmonary edema", "left pneumothorax", ""]
    asked = []

    def encode(texts):
        asked.extend(texts)
        sign = np.array([-1.0 if text.startswith("No ") else 1.0 for text in texts])
        axis = np.array([[1.0, 0.0] if "edema" in text else [0.0, 1.0] for text in texts])
        return (sign[:, None] * axis).astype(np.float32)

    figures = evaluate_labels(images, findings, encode, ks=(1, 2, 3), resamples=50)
    assert [one.label for one in figures] == ["left pneumothorax", "pneumothorax", "pulmonary edema"]
    edema = figures[2]
    assert (edema.positives, edema.count, edema.base_rate) == (2, 4, 0.5)
    assert edema.auroc.value == 1.0
    assert edema.precision == pytest.approx({1: 1.0, 2: 1.0, 3: 2 / 3})
    assert edema.average_precision == pytest.approx(1.0)
    # Of the six places of two among four: 1, 5/6, 3/4, 7/12, 1/2, 5/12.
    assert edema.chance_average_precision == pytest.approx((1 + 5 / 6 + 3 / 4 + 7 / 12 + 1 / 2 + 5 / 12) / 6)
    assert "There is pulmonary edema." in asked
    assert "No pulmonary edema." in asked


def test_a_tie_costs_precision_and_is_half_a_win_for_auroc():
    # All images are one point: every score is the same.
    images = unit([[1, 0]] * 4)
    figures = evaluate_labels(
        images, ["edema", "edema", "", ""], lambda texts: unit([[1, 0]] * len(texts)), ks=(1, 2, 3), resamples=10
    )
    (edema,) = figures
    assert edema.auroc.value == 0.5
    assert edema.precision == pytest.approx({1: 0.0, 2: 0.0, 3: 1 / 3})
    assert edema.average_precision == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert label_lines(figures)[2].startswith("| edema | 2 of 4 | 50.0 | 0.500 [too few] | 0 | 0 | 33 | 41.7 (68.1) |")


@pytest.mark.parametrize(
    ("positives", "patients", "interval"),
    [(4, 12, False), (5, 12, True), (7, 12, True), (8, 12, False), (6, 3, False)],
)
def test_auroc_of_few_patients_has_no_interval(positives: int, patients: int, interval: bool):
    rng = np.random.default_rng(0)
    images = unit(rng.standard_normal((12, 2)).tolist())
    findings = ["edema"] * positives + [""] * (12 - positives)
    (edema,) = figures = evaluate_labels(
        images,
        findings,
        lambda texts: unit([[-1, 0] if text.startswith("No ") else [1, 0] for text in texts]),
        groups=np.arange(12) % patients,
        resamples=20,
    )
    facts = edema.to_dict()
    assert (edema.auroc.low is not None, edema.auroc.high is not None) == (interval, interval)
    assert facts["auroc_interval"] == (
        "bootstrap by patient"
        if interval
        else "no interval, since fewer than 5 patients have the finding, or fewer lack it"
    )
    assert facts["auroc"]["low"] == edema.auroc.low
    table = "\n".join(label_lines(figures))
    assert ("[too few]: no interval, since fewer than 5 patients" in table) is not interval
    assert (f"{edema.auroc.value:.3f} [too few]" in table) is not interval


def test_exclusive_rows_hold_one_class_and_as_many_of_each():
    findings = [
        "left pleural effusion;right pleural effusion",  # one class twice
        "pulmonary edema",
        "cardiomegaly;pulmonary edema",  # two
        "",
        "pulmonary edema;pacemaker",  # a class and something else
        "right pleural effusion",
        "Pulmonary  Edema",
        "edema",
    ]
    rows, labels = exclusive_rows(findings, ("edema", "pleural effusion"), 200)
    assert rows.tolist() == [1, 6, 0, 5]
    assert labels.tolist() == [0, 0, 1, 1]
    assert exclusive_rows(findings, ("edema", "pleural effusion"), 1)[0].tolist() == [1, 0]
    assert len(exclusive_rows(findings, ("edema", "consolidation"), 200)[0]) == 0


def test_precision_among_classes_by_hand():
    # Edema images 0, 1, 2 and effusion images 3, 4, 5; image 2 lies among the effusions. Reports lie where they should.
    images = unit([[1, 0], [1, 0.1], [0, 1], [0, 1], [0.1, 1], [0.2, 1]])
    reports = unit([[1, 0], [1, 0.01], [1, 0.02], [0, 1], [0.01, 1], [0.02, 1]])
    findings = ["edema"] * 3 + ["left pleural effusion"] * 3

    def encode(texts):
        assert list(texts) == ["There is edema.", "There is pleural effusion."]
        return unit([[1, 0], [0, 1]])

    figures = evaluate_classes(
        images, reports, findings, encode_text=encode, classes=("edema", "pleural effusion"), ks=(1, 2, 3), resamples=50
    )
    assert figures is not None
    assert (figures.per_class, figures.gallery) == (3, 6)
    # k = 3 is left out: without the query two of its class remain. Image 2 gets effusion reports only.
    assert {k: one.value for k, one in figures.image_to_report.items()} == pytest.approx({1: 5 / 6, 2: 5 / 6})
    assert figures.image_to_report[1].chance == 0.5
    # By image: 0 -> 1, 5; 1 -> 0, 5; 2 -> 3, 4; 3 -> 2, 4 (2 ties with nothing: it is equal to the query); 4 -> 5 and then
    # 2 and 3, equally far, the wrong one first; 5 -> 4, and then the same tie.
    assert figures.image_to_image[1].value == pytest.approx((1 + 1 + 0 + 0 + 1 + 1) / 6)
    assert figures.image_to_image[2].value == pytest.approx((0.5 + 0.5 + 0 + 0.5 + 0.5 + 0.5) / 6)
    assert figures.image_to_image[1].chance == pytest.approx(2 / 5)
    # Edema: 0, 1; effusion: 2 and 3 tie, the wrong one first.
    assert figures.prompt_to_image == pytest.approx({1: 0.5, 2: 0.75})
    assert class_lines(figures)[-1] == "| prompt → image | 6 | 50.0 (50.0) | 75.0 (50.0) |"


def test_images_of_the_same_patient_do_not_answer_each_other():
    images = unit([[1, 0], [1, 0], [1, 0.1], [0, 1], [0, 1], [0.1, 1]])
    findings = ["edema"] * 3 + ["consolidation"] * 3
    groups = np.array([7, 7, 3, 0, 1, 2])
    figures = evaluate_classes(
        images, images, findings, groups=groups, classes=("edema", "consolidation"), ks=(1, 2), resamples=20
    )
    assert figures is not None
    assert figures.prompt_to_image is None
    # Images 0 and 1 find image 2 alone of their class; each other they must not find.
    assert figures.image_to_image[1].value == 1.0
    assert figures.image_to_image[2].value == pytest.approx((0.5 + 0.5 + 1 + 1 + 1 + 1) / 6)
    assert figures.image_to_image[1].chance == pytest.approx((2 * (1 / 4) + 4 * (2 / 5)) / 6)


def test_too_few_of_a_class_is_no_figure():
    images = unit([[1, 0], [0, 1], [1, 1]])
    findings = ["edema", "edema", "consolidation"]
    assert evaluate_classes(images, images, findings, classes=("edema", "consolidation"), resamples=5) is None
