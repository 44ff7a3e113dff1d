import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mcr_infer.errors import ConfigError
from train import checkpoint
from train import config as cfg
from train.__main__ import main
from train.data import Draw, collate
from train.data.phantoms import PhantomPairs, open_store
from train.loop import (
    NonFiniteLossError,
    learning_rate,
    make_optimizer,
    recall_figures,
    train,
    train_step,
)


def tiny(folder, **optim):
    return cfg.Config(
        model=cfg.Model(
            image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=1, heads=2),
            text=cfg.TextTower(vocab_size=400, max_tokens=48, width=32, depth=1, heads=2, dropout=0.1),
            space=cfg.CommonSpace(embedding_dim=16),
            decoders=cfg.Decoders(image_width=16, image_heads=2, report_heads=2),
        ),
        optim=cfg.Optim(**{"steps": 6, "batch_size": 8, "warmup_steps": 2, "unmasked_steps": 2} | optim),
        data=cfg.Data(cache=str(folder), phantom_size=48, train_count=50, validation_count=50),
        run=cfg.Run(workers=0, log_every=1, evaluate_every=3, checkpoint_every=3),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def console():
    with Path("/dev/null").open("w") as sink:
        yield Console(file=sink)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    with Path("/dev/null").open("w") as sink:
        train(tiny(cache), run, console=Console(file=sink))
    return run


def read_metrics(run):
    return [json.loads(line) for line in (run / checkpoint.METRICS).read_text().splitlines()]


class Killed(BaseException):
    pass


def test_a_killed_run_goes_on_bit_for_bit(cache, finished, tmp_path, console, monkeypatch):
    run, real = tmp_path / "killed", checkpoint.save_state

    def save_and_die(run, model, optimizer, step):
        real(run, model, optimizer, step)
        raise Killed

    run.mkdir()
    (run / checkpoint.TOKENIZER).write_bytes((finished / checkpoint.TOKENIZER).read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(tiny(cache), run, console=console)
    # As a kill in the middle of a write would leave it, after a step that was not saved.
    with (run / checkpoint.METRICS).open("a") as metrics:
        metrics.write('{"kind": "train", "step": 4, "loss": 1.0}\n{"kind": "tra')
    assert load_file(run / checkpoint.STATE).keys() >= {"model/logit_scale", "exp_avg/logit_scale", "step/logit_scale"}
    train(tiny(cache), run, console=console)

    straight, resumed = (load_file(path / checkpoint.STATE) for path in (finished, run))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    lines = [read_metrics(path) for path in (finished, run)]
    for one, other in zip(*lines, strict=True):
        assert [(k, v) for k, v in one.items() if k not in ("seconds", "waited")] == [
            (k, v) for k, v in other.items() if k not in ("seconds", "waited")
        ]


def test_the_run_folder_holds_what_was_promised(cache, finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.toml", "tokenizer.json", "state.safetensors", "model.safetensors", "metrics.jsonl"}
    lines = read_metrics(finished)
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert ["image" in line for line in steps] == [True] * 4 + [False] * 2
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    model, config = checkpoint.load_model(finished)
    assert config == tiny(cache)
    assert not model.training
    weights = load_file(finished / checkpoint.MODEL)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in checkpoint.tower_state(model).items())


def test_a_finished_run_does_nothing_more(cache, finished, console):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    train(tiny(cache), finished, console=console)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_another_configuration_is_refused(cache, finished, console):
    with pytest.raises(ConfigError, match=r"optim\.steps: 6 -> 9.*give another --out"):
        train(tiny(cache, steps=9), finished, console=console)


def test_a_damaged_checkpoint_is_named(cache, finished, tmp_path, console):
    run = tmp_path / "run"
    run.mkdir()
    for path in finished.iterdir():
        (run / path.name).write_bytes(path.read_bytes())
    (run / checkpoint.STATE).write_bytes((finished / checkpoint.STATE).read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"state\.safetensors is damaged"):
        train(tiny(cache), run, console=console)
    (run / checkpoint.MODEL).unlink()
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        checkpoint.load_model(run)


@pytest.fixture(scope="module")
def pairs(cache, finished):
    from mcr_infer.reports import ReportTokenizer

    store = open_store(cache, first_seed=1_000_000, count=50, size=48, workers=0, progress=lambda *_: None)
    return PhantomPairs(tiny(cache), store, ReportTokenizer.from_file(finished / checkpoint.TOKENIZER, 48))


def test_a_few_pairs_are_learnt_by_heart(cache, pairs):
    config = tiny(cache, steps=60, warmup_steps=5, learning_rate=5e-3, unmasked_steps=0)
    torch.manual_seed(0)
    model = checkpoint.make_model(config)
    optimizer = make_optimizer(model, config.optim)
    batch = collate([pairs[Draw(index, 0, True)] for index in range(8)])
    figures = [train_step(model, optimizer, batch, config, step) for step in range(60)]
    assert figures[0]["contrastive"] > 1.5
    assert figures[-1]["contrastive"] < 0.5
    assert figures[-1]["report"] < 0.5 * figures[0]["report"]
    assert figures[-1]["image"] < 0.9 * figures[0]["image"]


def test_a_non_finite_loss_stops_before_the_weights_change(cache, pairs):
    config = tiny(cache)
    model = checkpoint.make_model(config)
    optimizer = make_optimizer(model, config.optim)
    batch = collate([pairs[Draw(index, 0, True)] for index in range(8)])
    broken = dataclasses.replace(batch, patches=batch.patches * float("inf"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 4: loss nan.*1000000, 1000001"):
        train_step(model, optimizer, broken, config, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_norms_biases_and_embeddings_do_not_decay(cache):
    model = checkpoint.make_model(tiny(cache))
    decay, rest = make_optimizer(model, cfg.Optim(weight_decay=0.1)).param_groups
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {names[id(parameter)] for parameter in decay["params"]}
    assert len(decay["params"]) + len(rest["params"]) == len(names)
    assert {
        "image_tower.vit.patch_embed.proj.weight", "image_tower.vit.blocks.0.attn.qkv.weight", "maps.text.0.weight",
        "text_tower.bert.encoder.layer.0.output.dense.weight",
    } <= decayed  # fmt: skip
    assert not decayed & {
        "image_tower.vit.pos_embed", "text_tower.bert.embeddings.word_embeddings.weight", "logit_scale",
        "image_decoder.positions", "image_decoder.mask_token", "image_tower.vit.norm.weight", "maps.image.0.bias",
    }  # fmt: skip


def test_the_learning_rate_warms_up_and_falls():
    config = cfg.Optim(steps=100, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.001)


def test_recall_weighs_finding_sets_evenly():
    images = np.eye(4, dtype=np.float32)
    texts = np.eye(4, dtype=np.float32)[[1, 0, 2, 3]]
    # Items 0 and 1 are swapped, and carry one label: their partner counts as a hit.
    figures = recall_figures(images, texts, ["a", "a", "b", "c"])
    assert figures["image_to_report_r1"] == figures["report_to_image_r1"] == 1.0
    figures = recall_figures(images, texts, ["a", "b", "c", "c"])
    assert figures["image_to_report_r1"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["image_to_report_r5"] == 1.0


def test_the_command_names_a_typo(tmp_path, capsys, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("[optim]\nstep = 3\n")
    monkeypatch.setattr("sys.argv", ["train", "--config", str(config), "--out", str(tmp_path / "run")])
    assert main() == 1
    assert "unknown key optim.step; the nearest known one is optim.steps" in capsys.readouterr().err
