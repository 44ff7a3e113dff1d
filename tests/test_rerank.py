import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mcr_infer import phantom
from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.token_embeddings import TokenEmbeddings
from mcr_infer.retrieval.late_interaction import TAU, check_comparable, late_interaction
from tiny import tiny_bundle


def local(count: int, dim: int = 6, seed: int = 0) -> TokenEmbeddings:
    rng = np.random.default_rng([seed, count])
    return TokenEmbeddings(
        vectors=(5 * rng.standard_normal((count, dim))).astype(np.float32),
        weights=rng.dirichlet(np.ones(count)).astype(np.float32),
    )


def by_hand(words: TokenEmbeddings, picture: TokenEmbeddings, tau: float) -> float:
    """Score as the formula of the module says, one number at a time."""
    total = 0.0
    for word, weight in zip(words.vectors.astype(float), words.weights, strict=True):
        inner = 0.0
        for patch, share in zip(picture.vectors.astype(float), picture.weights, strict=True):
            cosine = word @ patch / np.linalg.norm(word) / np.linalg.norm(patch)
            inner += share * np.exp(cosine / tau)
        total += weight * tau * np.log(inner)
    return total


@pytest.mark.parametrize("tau", [0.05, TAU, 0.5])
def test_scores_are_those_of_the_formula_for_pictures_of_any_number_of_patches(tau: float):
    words, pictures = local(4), [local(count, seed=9) for count in (1, 7, 3)]
    got = late_interaction(words, pictures, tau=tau)
    assert got == pytest.approx([by_hand(words, one, tau) for one in pictures], abs=2e-6)
    assert np.abs(got).max() <= 1.0
    alone = [float(late_interaction(words, [one], tau=tau)[0]) for one in pictures]
    assert got.tolist() == alone


def test_it_lies_between_the_mean_and_the_best_patch():
    words, picture = local(3), local(8, seed=1)
    cosines = words.vectors @ picture.vectors.T
    cosines /= np.linalg.norm(words.vectors, axis=1)[:, None] * np.linalg.norm(picture.vectors, axis=1)
    mean, best = words.weights @ (cosines @ picture.weights), words.weights @ cosines.max(axis=1)
    assert late_interaction(words, [picture], tau=1e3)[0] == pytest.approx(mean, abs=1e-3)
    assert late_interaction(words, [picture], tau=0.012)[0] == pytest.approx(best, abs=0.06)
    assert mean < late_interaction(words, [picture])[0] < best


def test_what_has_no_weight_and_how_long_a_vector_is_play_no_part():
    words, picture = local(3), local(5, seed=2)
    padded = TokenEmbeddings(
        vectors=np.concatenate([picture.vectors, 40 * words.vectors]),
        weights=np.concatenate([picture.weights, np.zeros(3, dtype=np.float32)]),
    )
    longer = dataclasses.replace(picture, vectors=picture.vectors * np.float32(3.0))
    zero = TokenEmbeddings(vectors=np.zeros((2, 6), dtype=np.float32), weights=np.full(2, 0.5, dtype=np.float32))
    expected = late_interaction(words, [picture])[0]
    assert late_interaction(words, [padded, longer, zero]) == pytest.approx([expected, expected, 0.0], abs=1e-6)


def test_no_pictures_and_pictures_of_another_space():
    assert late_interaction(local(3), []).shape == (0,)
    with pytest.raises(ConfigError, match=r"vectors of one space, got \[6, 8\] dimensions"):
        late_interaction(local(3), [local(2), local(2, dim=8)])


def test_a_second_look_by_the_bundle_that_ships_keeps_left_from_right_in_8_bits():
    bundle = Bundle.open()
    check_comparable(bundle)
    images, texts = ImageEncoder(bundle), TextEncoder(bundle)
    preprocess = images.preprocess
    findings = [(phantom.findings.Finding(kind="pneumothorax", side=side, size=0.8),) for side in ("left", "right")]
    made = [phantom.make(seed, findings=shown) for seed in range(4) for shown in findings]
    _, patches = images.encode_with_locals([preprocess.patches(one.radiograph().pixels) for one in made])
    _, (left, right) = texts.encode_with_locals(["left pneumothorax", "right pneumothorax"])
    packed = [TokenEmbeddings.from_bytes(one.to_bytes()) for one in patches]
    assert [len(one.to_bytes()) for one in patches] == [13_608] * 8
    by_left, by_right = late_interaction(left, packed), late_interaction(right, packed)
    assert (by_left[0::2] > by_left[1::2] + 0.1).all()
    assert (by_right[1::2] > by_right[0::2] + 0.1).all()
    assert np.abs(by_left - late_interaction(left, patches)).max() < 0.002


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"origin": {"model": "clip"}}, "a model from elsewhere, which was trained to compare pooled vectors"),
        ({"training": {"model": {"space": {"mapping": "after"}}}}, "trained to aggregate before mapping"),
    ],
)
def test_towers_whose_patches_and_words_never_met_are_refused(tmp_path: Path, manifest: dict, message: str):
    bundle = tiny_bundle(tmp_path / "tiny")
    check_comparable(bundle)
    with pytest.raises(BundleError, match=f"the bundle tiny cannot re-rank: .*{message}"):
        check_comparable(dataclasses.replace(bundle, manifest={**bundle.manifest, **manifest}))
    whole = dataclasses.replace(bundle.preprocess, input="pixels", patch_size=bundle.preprocess.image_size)
    with pytest.raises(BundleError, match="takes whole pictures and has no patches"):
        check_comparable(dataclasses.replace(bundle, preprocess=whole))
