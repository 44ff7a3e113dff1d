import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import ConfigError
from mcr_infer.evaluation.pairs import Pair
from mcr_infer.evaluation.protocols import evaluate_pairs


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def pairs_of(reports: list[str], findings: list[str] | None = None, patients: list[str] | None = None) -> list[Pair]:
    return [
        Pair(
            image=Path(f"{row}.dcm"),
            report=report,
            findings=None if findings is None else findings[row],
            patient=None if patients is None else patients[row],
        )
        for row, report in enumerate(reports)
    ]


def values(direction) -> list[float]:
    return [figure.value for figure in direction.recall.values()]


def test_protocols_by_hand():
    # Images 0 and 1 have the same report; image 2 lies where report 3 does and the other way round.
    axes = np.eye(4, dtype=np.float32)
    images, reports = axes[[0, 1, 2, 3]], axes[[1, 0, 3, 3]]
    pairs = pairs_of(["Clear  lungs.", "clear lungs.", "x", "y"], ["", "", "edema", "edema"], ["p", "p", "q", "r"])
    result = evaluate_pairs(images, reports, pairs, ks=(1, 2, 3), resamples=50)
    assert [one.name for one in result.protocols] == ["diagonal", "reports", "finding sets", "deduplicated"]
    assert (result.pairs, result.patients) == (4, 3)

    # Image 0 scores 0 1 0 0: its own report ties with two others behind report 1 (rank 4). Image 3 scores 0 0 1 1: rank 2.
    diagonal = result.protocol("diagonal")
    assert values(diagonal.image_to_report) == [0.0, 0.25, 0.25]
    assert diagonal.image_to_report.median_rank == 4
    # Report 2 sits on image 3, report 3 on its own image.
    assert values(diagonal.report_to_image) == [0.25, 0.25, 0.25]

    # Equal words answer each other: images 0 and 1 hit at rank 1, image 2 stays at rank 4, image 3 at rank 2.
    same = result.protocol("reports")
    assert (same.classes, values(same.image_to_report)) == (3, [0.5, 0.75, 0.75])
    assert same.image_to_report.median_rank == 1

    # Normal: both hit. Edema: image 2 scores all zero, its two answers tie with two rivals (rank 3); image 3 hits.
    sets = result.protocol("finding sets")
    assert (sets.average, sets.classes) == ("macro", 2)
    assert values(sets.image_to_report) == [0.75, 0.75, 1.0]
    assert sets.image_to_report.recall[1].chance == pytest.approx(0.5)
    assert sets.rsum == pytest.approx(100 * (0.75 + 0.75 + 1.0 + 3.0))

    # Pairs 0, 2, 3 are left. Report 0 lies on image 1, which is out: image 0 and image 2 score all zero (rank 3), image 3
    # ties with report 2 (rank 2); report 0 scores all zero, report 2 finds image 3 first, report 3 its own.
    once = result.protocol("deduplicated")
    assert (once.classes, once.image_to_report.gallery, once.report_to_image.queries) == (3, 3, 3)
    assert values(once.image_to_report) == pytest.approx([0, 1 / 3, 1])
    assert values(once.report_to_image) == pytest.approx([1 / 3, 1 / 3, 1])
    assert once.rsum == pytest.approx(300.0)
    assert once.chance_rsum == pytest.approx(2 * 100 * (1 / 3 + 2 / 3 + 1))
    with pytest.raises(ConfigError, match="no protocol 'x'"):
        result.protocol("x")


def test_a_model_that_maps_everything_to_one_point_is_worst_everywhere():
    rng = np.random.default_rng(0)
    point = rng.standard_normal((1, 64)).astype(np.float32)
    same = np.repeat(point / np.linalg.norm(point), 300, axis=0)
    result = evaluate_pairs(same, same, pairs_of([str(row) for row in range(300)]), resamples=20)
    diagonal = result.protocol("diagonal")
    assert values(diagonal.image_to_report) == [0.0, 0.0, 0.0]
    assert diagonal.image_to_report.median_rank == 300


def test_chance_stands_beside_each_figure_and_random_vectors_reach_it():
    rng = np.random.default_rng(3)
    images, reports = (unit(rng.standard_normal((600, 16)).tolist()) for _ in range(2))
    findings = [("edema", "left pneumothorax", "")[row % 3] for row in range(600)]
    result = evaluate_pairs(images, reports, pairs_of([str(row) for row in range(600)], findings), resamples=200)
    ten = result.protocol("diagonal").image_to_report.recall[10]
    assert ten.chance == pytest.approx(10 / 600)
    assert ten.low <= ten.value <= ten.high
    assert abs(ten.value - ten.chance) < 0.015
    one = result.protocol("finding sets").report_to_image.recall[1]
    assert one.chance == pytest.approx(1 / 3)
    assert one.low < one.chance < one.high
    assert abs(result.protocol("diagonal").report_to_image.median_rank - 300) < 40


def test_macro_average_counts_each_finding_set_once():
    # Nine normal pairs that find each other, one effusion that does not.
    images, reports = unit([[1, 0]] * 9 + [[1, 0]]), unit([[1, 0]] * 9 + [[0, 1]])
    findings = [""] * 9 + ["left pleural effusion"]
    result = evaluate_pairs(images, reports, pairs_of([str(i) for i in range(10)], findings), resamples=20)
    sets = result.protocol("finding sets")
    assert values(sets.image_to_report) == pytest.approx([0.5, 0.5, 1.0])
    chance_rare, chance_normal = 5 / 10, 1.0
    assert sets.image_to_report.recall[5].chance == pytest.approx((chance_rare + chance_normal) / 2)


def test_what_the_pairs_do_not_allow_is_left_out():
    vectors = np.eye(3, dtype=np.float32)
    result = evaluate_pairs(vectors, vectors, pairs_of(["a", "b", "c"]), resamples=10)
    assert [one.name for one in result.protocols] == ["diagonal", "reports", "deduplicated"]
    assert (result.labels, result.mean_average_precision, result.classes) == ((), None, None)
    equal = evaluate_pairs(vectors, vectors, pairs_of(["a", "a", "a"]), resamples=10)
    assert [one.name for one in equal.protocols] == ["diagonal", "reports"]


def test_results_become_json_and_markdown():
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((20, 4)).tolist())
    findings = [("pulmonary edema", "")[row % 2] for row in range(20)]
    result = evaluate_pairs(
        vectors, vectors, pairs_of([str(row) for row in range(20)], findings), resamples=20,
        encode_text=lambda texts: vectors[: len(texts)],
    )  # fmt: skip
    parsed = json.loads(json.dumps(result.to_dict()))
    assert parsed["protocols"][0]["image_to_report"]["recall"]["1"]["value"] == 1.0
    assert parsed["protocols"][0]["rsum"] == pytest.approx(600.0)
    assert parsed["protocols"][0]["chance_rsum"] == pytest.approx(2 * 100 * 16 / 20)
    assert parsed["labels"][0]["label"] == "pulmonary edema"
    assert parsed["classes"] is None
    table = result.markdown()
    assert "| diagonal (20, micro) | image → report | 20 | 100.0 [100.0, 100.0] (5.0) |" in table
    assert " 1 (10) | 600.0 (160.0) |" in table
    assert "| pulmonary edema | 10 of 20 | 50.0 |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("| dia")}) == 1


def test_precision_among_exclusive_classes_is_reported_where_there_are_enough():
    rng = np.random.default_rng(1)
    kinds = ("atelectasis", "cardiomegaly", "consolidation", "pulmonary edema", "left pleural effusion")
    findings = [kinds[row % 5] for row in range(30)] + ["", "cardiomegaly;pulmonary edema"]
    vectors = unit(rng.standard_normal((32, 16)).tolist())
    result = evaluate_pairs(vectors, vectors, pairs_of([str(row) for row in range(32)], findings), resamples=20)
    assert result.classes is not None
    assert (result.classes.per_class, result.classes.gallery, list(result.classes.image_to_report)) == (6, 30, [5])
    table = result.markdown()
    assert "| 5 x 6 | gallery | P@5 % [95 %] (chance) |" in table
    assert "| image → report | 30 | " in table
    assert "prompt → image" not in table
    assert json.loads(json.dumps(result.to_dict()))["classes"]["image_to_report"]["5"]["chance"] == pytest.approx(0.2)


def test_wrong_vectors_are_refused():
    vectors = np.eye(3, dtype=np.float32)
    with pytest.raises(ConfigError, match="one vector a pair"):
        evaluate_pairs(vectors, vectors[:2], pairs_of(["a", "b", "c"]))
    with pytest.raises(ConfigError, match="must have length 1"):
        evaluate_pairs(vectors, 2 * vectors, pairs_of(["a", "b", "c"]))
    broken = vectors.copy()
    broken[0, 0] = np.nan
    with pytest.raises(ConfigError, match="must have length 1"):
        evaluate_pairs(broken, vectors, pairs_of(["a", "b", "c"]))
    with pytest.raises(ConfigError, match="at least 2 pairs"):
        evaluate_pairs(vectors[:1], vectors[:1], pairs_of(["a"]))


def test_pairs_that_nobody_labelled_leave_the_figures_of_the_others_alone():
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(2, 12, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    labels = ["a", "b", "a;b", "", "a", "b"] * 2
    pairs = [Pair(image=Path(f"{i}.png"), report=f"report {i}", patient=None, findings=labels[i]) for i in range(12)]
    some = [dataclasses.replace(pair, findings=None) if i >= 9 else pair for i, pair in enumerate(pairs)]
    mixed = evaluate_pairs(vectors[0], vectors[1], some, resamples=20)
    alone = evaluate_pairs(vectors[0][:9], vectors[1][:9], pairs[:9], resamples=20)
    assert (mixed.pairs, mixed.labelled) == (12, 9)
    assert mixed.protocol("finding sets").to_dict() == alone.protocol("finding sets").to_dict()
    assert mixed.protocol("diagonal").image_to_report.gallery == 12
    assert "12 pairs, 9 of them with known findings" in mixed.markdown()
