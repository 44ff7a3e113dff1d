import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from train import config as cfg
from train.data.phantoms import PhantomPairs, open_store
from train.evaluate import main
from train.held_out import Embeddings, embed_pairs, recall_figures
from train.model import MCR
from train.settings import dump_toml

COUNT = 50


def tiny(folder: Path, **changes) -> cfg.Config:
    return cfg.Config(
        model=cfg.Model(
            image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=1, heads=2),
            text=cfg.TextTower(vocab_size=300, max_tokens=48, width=32, depth=1, heads=2),
            space=cfg.CommonSpace(embedding_dim=16),
            decoders=cfg.Decoders(image_width=16, image_heads=2, report_heads=2),
        ),
        optim=cfg.Optim(batch_size=16),
        data=cfg.Data(
            cache=str(folder), phantoms=cfg.Phantoms(size=48, train_count=50, validation_count=COUNT)
        ),
        run=cfg.Run(workers=0),
        **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> cfg.Config:
    return tiny(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def run(config: cfg.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint has learnt nothing."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    folder.mkdir()
    (folder / "config.toml").write_text(dump_toml(config))
    texts = ["small left pleural effusion", "no acute cardiopulmonary abnormality", "the heart is enlarged. edema."]
    train_tokenizer(texts * 3, 300).save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    save_file(
        {name: value.contiguous() for name, value in MCR(config).state_dict().items()}, folder / "model.safetensors"
    )
    return folder


@pytest.fixture(scope="module")
def tokenizer(run: Path) -> ReportTokenizer:
    return ReportTokenizer.from_file(run / "tokenizer.json", 48)


@pytest.fixture(scope="module")
def pairs(config: cfg.Config, tokenizer: ReportTokenizer) -> PhantomPairs:
    data = config.data.phantoms
    store = open_store(
        Path(config.data.cache),
        first_seed=data.validation_seed,
        count=COUNT,
        size=data.size,
        workers=0,
        progress=lambda *_: None,
    )
    return PhantomPairs(config, store, tokenizer)


@pytest.fixture
def model(config: cfg.Config) -> MCR:
    torch.manual_seed(0)
    return MCR(config)


def test_pairs_are_embedded_as_inference_would_one_by_one(config, pairs, model):
    embedded = embed_pairs(model, pairs, config)
    assert embedded.images.shape == embedded.texts.shape == (COUNT, 16)
    assert np.linalg.norm(embedded.images, axis=1) == pytest.approx(np.ones(COUNT), abs=1e-5)
    assert not model.training
    # 50 pairs in batches of 16: the last one has 2, and each batch its own padding.
    windows = [row for row in range(COUNT) if len(pairs.held_out(row).input_ids) > 1]
    for row in (0, 15, 16, 49, *windows[:3]):
        sample = pairs.held_out(row)
        with torch.inference_mode():
            image, _, _ = model.encode_image(
                torch.from_numpy(sample.patches[None]), torch.from_numpy(sample.visible[None])
            )
            ids = torch.from_numpy(sample.input_ids)
            text, _, _ = model.encode_text(ids, torch.ones_like(ids))
        assert float(image[0] @ torch.from_numpy(embedded.images[row])) == pytest.approx(1.0, abs=1e-5)
        mean = torch.nn.functional.normalize(text.sum(dim=0), dim=0)
        assert float(mean @ torch.from_numpy(embedded.texts[row])) == pytest.approx(1.0, abs=1e-5)
        assert embedded.pairs[row].findings == pairs.labels(row)
        assert embedded.pairs[row].image == Path(f"phantom {900_000 + row}")
        assert embedded.pairs[row].patient is None


def test_masks_hide_something_and_are_the_same_every_time(config, pairs, model):
    whole, masked = (embed_pairs(model, pairs, config, masked=each, count=20) for each in (False, True))
    again = embed_pairs(model, pairs, config, masked=True, count=20)
    assert len(whole.images) == 20
    assert np.array_equal(masked.images, again.images)
    assert np.array_equal(masked.texts, again.texts)
    assert (np.sum(whole.images * masked.images, axis=1) < 0.9999).all()
    assert (np.sum(whole.texts * masked.texts, axis=1) < 0.9999).sum() >= 18
    assert masked.pairs == whole.pairs


def test_dropped_words_and_lower_precision_keep_their_meaning(config, pairs, model):
    whole = embed_pairs(model, pairs, config, count=20)
    low = embed_pairs(model, pairs, dataclasses.replace(config, run=cfg.Run(precision="bf16")), count=20)
    assert low.images.dtype == np.float32
    assert (np.sum(whole.images * low.images, axis=1) > 0.99).all()
    assert (np.sum(whole.texts * low.texts, axis=1) > 0.99).all()

    torch.manual_seed(0)
    dropping = MCR(dataclasses.replace(config, masking=cfg.Masking(text_mode="drop")))
    dropping.load_state_dict(model.state_dict(), strict=False)
    dropped = embed_pairs(dropping, pairs, config, masked=True, count=20)
    masked = embed_pairs(model, pairs, config, masked=True, count=20)
    assert np.allclose(dropped.images, masked.images, atol=1e-5)
    assert (np.sum(dropped.texts * masked.texts, axis=1) < 0.9999).sum() >= 18


def test_recall_weighs_finding_sets_evenly(model, pairs, config):
    known = embed_pairs(model, pairs, config, count=4).pairs
    images = np.eye(4, dtype=np.float32)
    texts = np.eye(4, dtype=np.float32)[[1, 0, 2, 3]]

    def figures(labels):
        named = tuple(dataclasses.replace(pair, findings=label) for pair, label in zip(known, labels, strict=True))
        return recall_figures(Embeddings(images=images, texts=texts, pairs=named))

    # Items 0 and 1 are swapped, and carry one label: their partner counts as a hit.
    assert figures("aabc")["image_to_report_r1"] == figures("aabc")["report_to_image_r1"] == 1.0
    assert figures("abcc")["image_to_report_r1"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures("abcc")["image_to_report_r5"] == 1.0


@pytest.mark.parametrize("inputs", ["whole", "masked"])
def test_the_command_prints_and_writes_the_report(run, inputs, tmp_path, capsys):
    out = tmp_path / "figures.json"
    masked = ["--masked"] if inputs == "masked" else []
    assert main([str(run), *masked, "--count", "24", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"held-out pairs of phantoms, {inputs} inputs" in printed
    assert "24 pairs, 24 of them with known findings, 24 patients" in printed
    assert "| diagonal (24, micro) | image → report | 24 | " in printed
    facts = json.loads(out.read_text())
    assert (facts["run"], facts["source"], facts["inputs"], facts["pairs"]) == ("untrained", "phantoms", inputs, 24)
    recall = facts["protocols"][0]["image_to_report"]["recall"]["10"]
    assert recall["chance"] == pytest.approx(10 / 24)
    assert recall["low"] <= recall["value"] <= recall["high"]


def test_masked_inputs_of_a_dual_stream_are_refused(run, config, tmp_path, capsys):
    folder = tmp_path / "dual"
    folder.mkdir()
    for name in ("tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    (folder / "config.toml").write_text(dump_toml(dataclasses.replace(config, framework="dual_stream")))
    assert main([str(folder), "--masked", "--count", "24"]) == 1
    assert "is a dual stream, which contrasts whole inputs" in " ".join(capsys.readouterr().err.split())


def test_an_empty_run_is_an_error_in_one_line(run, tmp_path, capsys):
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "config.toml").write_text((run / "config.toml").read_text())
    assert main([str(folder)]) == 1
    assert "the run has not saved a checkpoint yet" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([str(run), "--count", "0"])
