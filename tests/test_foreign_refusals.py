"""Models from elsewhere that are not what they say, and what tells one from another."""

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BertConfig

import foreigners
from export import from_open_clip, from_transformers
from export.foreign import Foreign, export_foreign
from export.parity import gate_origin
from foreign_bundles import Made, load
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.tokenizer import ReportTokenizer

# ---- The gate against the original refuses -----------------------------------------------------------------------------


def judge(kind: str, foreign_bundle: Made, change: Callable[[Foreign], Foreign]) -> None:
    model, bundle = foreign_bundle(kind)
    foreign = change(load(kind, model))
    towers = {side: open_tower(bundle, side, device="cpu") for side in ("image", "text")}
    gate_origin(foreign.origin, towers, preprocess=foreign.preprocess, tokenizer=bundle.tokenizer())


def test_other_pictures_than_the_library_makes_are_refused(foreign_bundle: Made):
    judge("clip", foreign_bundle, lambda foreign: foreign)
    with pytest.raises(BundleError, match=r"the image tower does not give what the model gives .*max abs difference"):
        judge(
            "clip",
            foreign_bundle,
            lambda one: replace(one, preprocess=replace(one.preprocess, interpolation="bilinear")),
        )
    with pytest.raises(BundleError, match=r"the image tower does not give what the model gives"):
        judge("clip", foreign_bundle, lambda one: replace(one, preprocess=replace(one.preprocess, fit="stretch")))


@pytest.mark.slow
def test_other_texts_than_the_library_makes_are_refused(foreign_bundle: Made, tmp_path: Path):
    model, bundle = foreign_bundle("dual_encoder")
    foreign = load("dual_encoder", model)
    towers = {side: open_tower(bundle, side, device="cpu") for side in ("image", "text")}
    cased = json.loads(bundle.verified("tokenizer.json").read_text())
    cased["normalizer"]["lowercase"] = False
    (tmp_path / "cased.json").write_text(json.dumps(cased))
    wrong = ReportTokenizer.from_file(tmp_path / "cased.json", bundle.max_tokens, padding=bundle.padding)
    with pytest.raises(
        BundleError, match=r"the tokenizer of the bundle would give .* for 'Bilateral pleural effusion'"
    ):
        gate_origin(foreign.origin, towers, preprocess=foreign.preprocess, tokenizer=wrong)
    swapped = replace(foreign.origin, embed_texts=lambda texts: foreign.origin.embed_texts(texts)[::-1])
    with pytest.raises(BundleError, match="the text tower does not give what the model gives"):
        gate_origin(swapped, towers, preprocess=foreign.preprocess, tokenizer=bundle.tokenizer())


# ---- The fingerprint ---------------------------------------------------------------------------------------------------


@pytest.mark.nightly
def test_the_same_model_has_the_same_fingerprint_and_another_activation_has_not(foreign_bundle: Made, tmp_path: Path):
    folder, bundle = foreign_bundle("open_clip_vit")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    assert from_open_clip.main([str(other), "--out", str(tmp_path / "same")]) == 0
    assert Bundle.open(tmp_path / "same").fingerprint == bundle.fingerprint
    config = json.loads((other / "open_clip_config.json").read_text())
    config["model_cfg"]["quick_gelu"] = False
    (other / "open_clip_config.json").write_text(json.dumps(config))
    assert from_open_clip.main([str(other), "--out", str(tmp_path / "gelu")]) == 0
    # The weights are the same to the bit.
    assert Bundle.open(tmp_path / "gelu").fingerprint != bundle.fingerprint


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("image", "interpolation", "lanczos"),
        ("image", "fit", "pad"),
        ("image", "bits", None),
        ("text", "padding", {"token_id": 5, "seen": "later"}),
        ("text", "padding", {"token_id": 441, "seen": "all"}),
        ("text", "padding", None),
    ],
)
def test_whatever_decides_a_vector_is_fingerprinted(
    foreign_bundle: Made, tmp_path: Path, section: str, key: str, value: object
):
    _, bundle = foreign_bundle("clip")
    values = json.loads((bundle.path / "manifest.json").read_text())
    values[section][key] = value
    if value is None:
        del values[section][key]
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="fingerprint must be that of the weights, preprocessing and tokenizer"):
        Bundle.open(tmp_path)


# ---- What is refused ---------------------------------------------------------------------------------------------------


def test_models_of_other_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    BertConfig(**foreigners.TEXT, vocab_size=50).save_pretrained(tmp_path / "bert")
    assert from_transformers.main([str(tmp_path / "bert"), "--out", str(tmp_path / "out")]) == 1
    assert "is of type 'bert', supported are clip, siglip, vision-text-dual-encoder" in capsys.readouterr().err
    assert from_transformers.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert "cannot be loaded by transformers" in capsys.readouterr().err
    assert from_open_clip.main([str(tmp_path / "bert"), "--out", str(tmp_path / "out")]) == 1
    assert "cannot be loaded by open_clip" in capsys.readouterr().err
    assert from_open_clip.main(["ViT-Z-99", "--out", str(tmp_path / "out")]) == 1
    assert "open_clip knows no model 'ViT-Z-99'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_weights_is_refused(foreign_bundle: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, _ = foreign_bundle("open_clip_resnet")
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "open_clip_model.safetensors").unlink()
    assert from_open_clip.main([str(tmp_path / "bare"), "--out", str(tmp_path / "out")]) == 1
    assert "cannot be loaded by open_clip: Required pretrained weights" in capsys.readouterr().err


@pytest.mark.slow
def test_a_text_tower_that_lies_elsewhere_is_named(
    foreign_bundle: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, bundle = foreign_bundle("biomed_clip")
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    config = json.loads((moved / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = str(tmp_path / "gone")
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    given = [str(moved), "--out", str(tmp_path / "out")]
    assert from_open_clip.main(given) == 1
    assert "--text-model where there is no network" in capsys.readouterr().err
    assert from_open_clip.main([*given, "--text-model", str(moved / "bert")]) == 0
    assert Bundle.open(tmp_path / "out").fingerprint == bundle.fingerprint


def test_notices_and_licences_are_checked_before_anything_is_written(foreign_bundle: Made, tmp_path: Path):
    folder, _ = foreign_bundle("clip")
    plain = {"model": str(folder), "out": tmp_path / "out", "name": None, "notice": None, "licence": None,
             "licence_file": None, "model_card": None, "rendering": "voi"}  # fmt: skip
    foreign = load("clip", folder)
    with pytest.raises(BundleError, match="one line of at most 500 printable characters, got 613: "):
        export_foreign(foreign, argparse.Namespace(**{**plain, "licence": "x" * 500}))
    with pytest.raises(BundleError, match=r"nowhere\.txt cannot be read: the bundle carries it along"):
        export_foreign(foreign, argparse.Namespace(**{**plain, "licence_file": tmp_path / "nowhere.txt"}))
    assert not (tmp_path / "out").exists()
