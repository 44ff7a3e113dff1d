import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.language import (
    DENIALS,
    WORDINGS,
    Judged,
    Sentence,
    capped_precision,
    denial_figures,
    finding_of,
    generate,
    judge,
    kind_of,
    mean_figures,
    read_paraphrases,
)
from mcr_infer.errors import ConfigError
from mcr_infer.evaluation.finding_labels import finding_labels_match
from mcr_infer.phantom.findings import KINDS
from tiny import tiny_bundle


def sentence(shown: str = "", absent: str = "", text: str = "x") -> Sentence:
    split = [tuple(filter(None, labels.split(";"))) for labels in (shown, absent)]
    return Sentence(text=text, shown=split[0], absent=split[1])


@pytest.mark.parametrize(
    ("shown", "absent", "findings", "right"),
    [
        ("left consolidation", "", "left lower lobe consolidation", True),
        ("left lower lobe consolidation", "", "left upper lobe consolidation", False),
        ("left pleural effusion", "", "bilateral pleural effusion", True),
        ("bilateral pleural effusion", "", "left pleural effusion", False),
        ("cardiomegaly;pulmonary edema", "", "cardiomegaly", False),
        ("cardiomegaly;pulmonary edema", "", "cardiomegaly;pacemaker;pulmonary edema", True),
        ("cardiomegaly", "pulmonary edema", "cardiomegaly", True),
        ("cardiomegaly", "pulmonary edema", "cardiomegaly;pulmonary edema", False),
        ("cardiomegaly", "pulmonary edema", "", False),
        ("left pleural effusion", "right pleural effusion", "bilateral pleural effusion", False),
        ("", "pneumothorax", "", True),
        ("", "pneumothorax", "cardiomegaly", True),
        ("", "pneumothorax", "left pneumothorax", False),
        ("", "", "", True),
        ("", "", "pacemaker", False),
    ],
)
def test_what_answers_a_sentence(shown: str, absent: str, findings: str, right: bool):
    assert sentence(shown, absent).answered_by(findings) is right


def test_the_sentences_are_read_with_their_labels():
    sentences = {one.text: one for one in read_paraphrases()}
    assert len(sentences) == 159
    assert sentences["big heart but no lung oedema"].shown == ("cardiomegaly",)
    assert sentences["big heart but no lung oedema"].absent == ("pulmonary edema",)
    assert sentences["healthy chest"].groups == ("normal",)
    assert sentences["pleural spaces free of fluid"].groups == ("absence alone",)
    assert sentences["COPD with a pneumothorax on the right"].groups == ("hyperinflation", "pneumothorax")
    assert {name for one in sentences.values() for name in one.groups} == {*KINDS, "normal", "absence alone"}


def test_a_label_without_a_kind_is_refused(tmp_path: Path):
    table = tmp_path / "sentences.csv"
    table.write_text("text,findings\nsomething odd,left scoliosis\n")
    with pytest.raises(ConfigError, match="'left scoliosis' names no kind of finding"):
        read_paraphrases(table)


def test_generated_findings_are_what_the_labels_say():
    for row, one in enumerate(read_paraphrases()):
        for label in one.shown:
            drawn = finding_of(label, np.random.default_rng(row))
            assert finding_labels_match(label, drawn.label)
            assert drawn.kind == kind_of(label)
    open_side = {finding_of("pneumothorax", np.random.default_rng(seed)).side for seed in range(20)}
    assert open_side == {"left", "right"}
    with pytest.raises(ConfigError, match="no phantom shows"):
        finding_of("left middle lobe consolidation", np.random.default_rng(0))


def test_generated_wordings():
    rng = np.random.default_rng(0)
    assert generate(sentence(absent="pneumothorax"), rng) == "no pneumothorax"
    assert generate(sentence("cardiomegaly", "pulmonary edema"), rng).endswith(", no pulmonary edema")
    texts = {generate(sentence("left pneumothorax"), np.random.default_rng(seed)) for seed in range(20)}
    assert len(texts) > 10
    assert generate(sentence(), np.random.default_rng(1)) == generate(sentence(), np.random.default_rng(1))


def test_capped_precision_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]] * 4)
    relevant = np.array([[1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    # One answer, found first; three answers, the first two places hold one; two answers, one of them found; none.
    assert capped_precision(scores, relevant, 2) == pytest.approx([1.0, 0.5, 0.5, np.nan], nan_ok=True)
    assert capped_precision(scores, relevant, 10) == pytest.approx([1.0, 2 / 3, 0.5, np.nan], nan_ok=True)
    # Everything ties: the wrong ones come first.
    even = np.ones((2, 4))
    assert capped_precision(even, relevant[:2], 10) == pytest.approx([0.0, 2 / 3])


def axis(number: int, count: int = 3) -> list[float]:
    return [1.0 if place == number else 0.0 for place in range(count)]


def test_a_paraphrase_is_judged_beside_generated_wordings():
    # Twelve effusions on axis 0, three nodules on axis 1, five normal ones on axis 2.
    images = np.array([axis(0)] * 12 + [axis(1)] * 3 + [axis(2)] * 5, dtype=np.float32)
    findings = ["left pleural effusion"] * 12 + ["left lower lobe lung nodule"] * 3 + [""] * 5
    sentences = [
        sentence("pleural effusion", text="fluid"),
        sentence("lung nodule", text="coin"),
        sentence("pacemaker", text="box"),
        sentence(absent="pleural effusion", text="dry"),
    ]

    def encode(texts: list[str]) -> np.ndarray:
        # The paraphrases: fluid is understood, coin is taken for an effusion, dry for an effusion, too.
        known = {"fluid": axis(0), "coin": axis(0), "box": axis(2), "dry": axis(0), "no pleural effusion": axis(2)}
        nodule = ("nodul", "mass", "lesion", "opacity", "tumo", "neoplasm", "carcinoma", "shadow", "spot", "cancer")
        return np.array(
            [known.get(text, axis(1) if any(word in text.lower() for word in nodule) else axis(0)) for text in texts],
            dtype=np.float32,
        )

    fluid, coin, dry = judge(images, findings, sentences, encode)
    assert (fluid.matching, fluid.base_rate, fluid.paraphrase) == (12, 12 / 20, 1.0)
    # Nodules tie with normal ones behind the effusions: none among the first three.
    assert (coin.matching, coin.base_rate, coin.paraphrase) == (3, 3 / 20, 0.0)
    assert coin.generated == 1.0
    # Asked for no effusion, it shows ten effusions; `no pleural effusion` gives five normal ones, then ties: effusions.
    assert (dry.matching, dry.paraphrase, dry.generated) == (8, 0.0, 5 / 8)


def test_means_over_sentences_and_groups():
    def judged(one: Sentence, paraphrase: float, generated: float, base_rate: float) -> Judged:
        return Judged(sentence=one, matching=5, base_rate=base_rate, paraphrase=paraphrase, generated=generated)

    result = mean_figures(
        [
            judged(sentence("left pleural effusion"), 1.0, 1.0, 0.2),
            judged(sentence("pleural effusion"), 0.5, 0.9, 0.3),
            judged(sentence("cardiomegaly;pleural effusion"), 0.0, 0.8, 0.1),
            judged(sentence(), 0.9, 0.9, 0.2),
        ],
        resamples=200,
    )
    assert result["sentences"] == 4
    over = result["mean_over_sentences"]
    assert (over["paraphrase"], over["generated"], over["base_rate"]) == pytest.approx((0.6, 0.9, 0.2))
    low, high = over["intervals"]["paraphrase"]
    assert 0.0 <= low < 0.6 < high <= 1.0
    assert result["groups"] == {
        "pleural effusion": {"sentences": 3, "paraphrase": 0.5, "generated": 0.9, "base_rate": 0.2},
        "cardiomegaly": {"sentences": 1, "paraphrase": 0.0, "generated": 0.8, "base_rate": 0.1},
        "normal": {"sentences": 1, "paraphrase": 0.9, "generated": 0.9, "base_rate": 0.2},
    }
    assert result["mean_over_groups"]["paraphrase"] == pytest.approx((0.5 + 0.0 + 0.9) / 3, abs=1e-4)


def test_denials_by_hand():
    # Four effusions on axis 0, sixteen normal ones on axis 1.
    images = np.array([axis(0)] * 4 + [axis(1)] * 16, dtype=np.float32)
    findings = ["left pleural effusion"] * 4 + [""] * 16
    asked = []

    def deaf(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([axis(0)] * len(texts), dtype=np.float32)

    # One that hears `no` shows none; one that does not shows all four, and so does one whose scores all tie.
    heard = denial_figures(images, findings, lambda texts: np.array([axis("no " in text) for text in texts]))
    assert heard == {"pleural effusion": {"shown_when_denied": 0.0, "shown_when_asked": 0.4, "base_rate": 0.2}}
    assert denial_figures(images, findings, deaf)["pleural effusion"]["shown_when_denied"] == 0.4
    assert denial_figures(images, findings, deaf)["pleural effusion"]["shown_when_asked"] == 0.4
    even = denial_figures(images, findings, lambda texts: np.array([axis(2)] * len(texts)))
    assert even["pleural effusion"] == {"shown_when_denied": 0.4, "shown_when_asked": 0.0, "base_rate": 0.2}
    assert asked[: len(DENIALS) + 1] == [
        "no pleural effusion", "there is no pleural effusion", "no evidence of pleural effusion", "pleural effusion",
    ]  # fmt: skip


def test_the_whole_benchmark_runs_on_any_bundle(tmp_path: Path):
    bundle, out = tiny_bundle(tmp_path / "tiny"), tmp_path / "language.json"
    command = [sys.executable, "-m", "benchmarks.language", "--bundle", str(bundle.path), "--phantoms", "24"]
    done = subprocess.run(
        [*command, "--size", "64", "--out", str(out)], capture_output=True, text=True, check=False, timeout=600,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["benchmark"], last["bundle"], last["phantoms"], last["first_seed"]) == (
        "language",
        "tiny",
        24,
        100_000,
    )
    assert last["sentences"] + last["not_judged"] == 159
    assert "| mean over sentences |" in done.stdout
    written = json.loads(out.read_text())
    assert len(written["each"]) == last["sentences"]
    assert all(0 <= one["paraphrase"] <= 1 and 0 < one["base_rate"] <= 1 for one in written["each"])
    assert WORDINGS == 5
