"""The bundle inside the wheel: whole, small, honest about itself, and better than chance on phantoms it never saw."""

import json

import numpy as np
import pytest

from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.labels import evaluate_labels
from mcr_infer.phantom.findings import finding_set
from mcr_infer.verify import verify


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.open()


def test_every_check_passes(bundle: Bundle):
    checks = verify(bundle)
    assert len(checks) >= 8
    assert [check.name for check in checks if not check.ok] == []


def test_it_fits_into_a_wheel_and_says_what_it_is(bundle: Bundle):
    towers = [bundle.files[name].bytes for name in bundle.tower_files.values()]
    assert sum(towers) <= 30e6
    assert bundle.notice is not None
    assert "phantoms" in bundle.notice
    card = bundle.verified("MODEL_CARD.md").read_text()
    assert "synthetic phantoms only" in card
    log = [json.loads(line) for line in bundle.verified("training.jsonl").read_text().splitlines()]
    losses = [line["contrastive"] for line in log if line["kind"] == "train"]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_sentences_find_phantoms_it_never_saw(bundle: Bundle):
    made = [phantom.make(seed, 256) for seed in range(7000, 7120)]
    images = ImageEncoder(bundle).encode_radiographs([one.radiograph() for one in made])
    findings = [finding_set(one.findings) for one in made]
    figures = {each.label: each for each in evaluate_labels(images, findings, TextEncoder(bundle).encode, resamples=10)}
    for label in ("pleural effusion", "cardiomegaly", "pneumothorax", "pulmonary edema"):
        assert figures[label].auroc.value > 0.85
        assert figures[label].precision[5] >= max(0.6, 2 * figures[label].base_rate)
