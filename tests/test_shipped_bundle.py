"""The bundle inside the wheel: whole, small, honest about itself, and better than chance on phantoms it never saw."""

import json

import numpy as np
import pytest

from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.metrics import auroc
from mcr_infer.pairs import finding_labels_match
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


@pytest.mark.parametrize("label", ["pleural effusion", "cardiomegaly", "pneumothorax", "pulmonary edema"])
def test_sentences_rank_phantoms_it_never_saw(bundle: Bundle, label: str, unseen: tuple[np.ndarray, list[str]]):
    images, findings = unseen
    query = TextEncoder(bundle).encode([label])[0]
    shown = np.array([finding_labels_match(label, each) for each in findings])
    assert 10 <= shown.sum() <= 70
    assert auroc((images @ query).astype(float), shown)[0] > 0.8


@pytest.fixture(scope="module")
def unseen(bundle: Bundle) -> tuple[np.ndarray, list[str]]:
    """Embeddings [120, D] and finding sets of phantoms below the seeds of the training."""
    made = [phantom.make(seed, 256) for seed in range(7000, 7120)]
    images = ImageEncoder(bundle).encode_radiographs([one.radiograph() for one in made])
    return images, [finding_set(one.findings) for one in made]
