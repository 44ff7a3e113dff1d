"""The bundle inside the wheel: whole, small, honest about itself, and better than chance on phantoms it never saw."""

import json

import numpy as np
import pytest

from benchmarks import language
from mcr_infer import Bundle, ImageEncoder, TextEncoder
from mcr_infer.evaluation.zero_shot import evaluate_labels
from mcr_infer.inference.long_text import DEFAULT
from mcr_infer.inference.verify import verify
from mcr_infer.phantom.findings import DEVICES


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def test_every_check_passes(bundle: Bundle):
    checks = verify(bundle)
    assert len(checks) >= 8
    assert [check.name for check in checks if not check.ok] == []


def test_it_fits_into_a_wheel_and_says_what_it_is(bundle: Bundle):
    assert sum(record.bytes for name, record in bundle.files.items() if ".onnx" in name) <= 30e6
    assert bundle.notice is not None
    assert "phantoms" in bundle.notice
    card = bundle.verified("MODEL_CARD.md").read_text()
    assert "synthetic phantoms only" in card
    assert f"takes at most {bundle.max_tokens} tokens" in card
    assert f"The strategy for longer texts is `{DEFAULT}`" in card
    log = [json.loads(line) for line in bundle.verified("training.jsonl").read_text().splitlines()]
    losses = [line["contrastive"] for line in log if line["kind"] == "train"]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


@pytest.fixture(scope="module")
def gallery(bundle: Bundle) -> tuple[np.ndarray, list[str]]:
    """Phantoms that no training saw: unit vectors [N, D] and what they show."""
    return language.embed_phantoms(ImageEncoder(bundle), 300, 256)


def test_sentences_find_phantoms_it_never_saw(bundle: Bundle, gallery: tuple[np.ndarray, list[str]]):
    images, findings = gallery
    figures = {each.label: each for each in evaluate_labels(images, findings, TextEncoder(bundle).encode, resamples=10)}
    for label in ("pleural effusion", "cardiomegaly", "pneumothorax", "pulmonary edema"):
        assert figures[label].auroc.value > 0.95
        assert figures[label].precision[5] >= max(0.8, 2 * figures[label].base_rate)


def test_who_asks_for_a_device_gets_devices(bundle: Bundle, gallery: tuple[np.ndarray, list[str]]):
    images, findings = gallery
    encode = TextEncoder(bundle).encode
    figures = {each.label: each for each in evaluate_labels(images, findings, encode, resamples=10)}
    for label in ("pacemaker", "endotracheal tube"):
        assert figures[label].auroc.value > 0.95
        # One device is taken for another more often than for none.
        assert figures[label].precision[5] >= 4 * figures[label].base_rate
        first = np.argsort(-(images @ encode([f"There is {label}."])[0]))[:5]
        assert sum(any(device in findings[row] for device in DEVICES) for row in first) >= 4


def test_other_words_find_nearly_as_much_as_those_of_the_training(
    bundle: Bundle, gallery: tuple[np.ndarray, list[str]]
):
    judged = language.judge(*gallery, language.read_paraphrases(), TextEncoder(bundle).encode)
    means = language.mean_figures(judged, resamples=10)["mean_over_sentences"]
    assert means["paraphrase"] >= means["generated"] - 0.10
    assert means["generated"] >= 0.5
    assert means["base_rate"] < 0.2


def test_a_denial_does_not_bring_what_it_denies(bundle: Bundle, gallery: tuple[np.ndarray, list[str]]):
    denials = language.denial_figures(*gallery, TextEncoder(bundle).encode)
    # A model that does not know a finding avoids it by chance: only kinds that it finds when asked for say anything.
    known = {kind: each for kind, each in denials.items() if each["shown_when_asked"] >= 0.8}
    assert {"pleural effusion", "pneumothorax", "cardiomegaly", "pulmonary edema"} <= known.keys()
    assert all(each["shown_when_denied"] <= 0.5 * each["base_rate"] for each in known.values())
