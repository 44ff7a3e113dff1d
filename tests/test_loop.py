import dataclasses
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mcr_infer.errors import ConfigError
from mcr_infer.inference.bundle import WORDS
from runs import Killed, copied, read_metrics, same_state, tiny, untimed
from train import checkpoint
from train import config as cfg
from train.__main__ import main
from train.loop import train
from train.settings import dump_toml
from trees import small_mimic

pytestmark = pytest.mark.usefixtures("few_texts")


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


@pytest.mark.parametrize("extra", [{}, {"optimizer": "muon", "ema_decay": 0.9, "micro_batch": 3}], ids=["adamw", "all"])
def test_a_killed_run_goes_on_bit_for_bit(cache, finished, extra, tmp_path, console, monkeypatch):
    if extra:
        straight = tmp_path / "straight"
        train(tiny(cache, **extra), straight, console=console)
        finished = straight
    run, real = tmp_path / "killed", checkpoint.save_state

    def save_and_die(*arguments):
        real(*arguments)
        raise Killed

    run.mkdir()
    for name in (checkpoint.TOKENIZER, WORDS):
        (run / name).write_bytes((finished / name).read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(tiny(cache, **extra), run, console=console)
    # As a kill in the middle of a write would leave it, after a step that was not saved.
    with (run / checkpoint.METRICS).open("a") as metrics:
        metrics.write('{"kind": "train", "step": 4, "loss": 1.0}\n{"kind": "tra')
    assert load_file(run / checkpoint.STATE).keys() >= {"model/logit_scale", "exp_avg/logit_scale", "step/logit_scale"}
    train(tiny(cache, **extra), run, console=console)

    assert same_state(finished, run)
    assert untimed(finished) == untimed(run)


def test_the_run_folder_holds_what_was_promised(cache, finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.toml", "tokenizer.json", "words.txt", "state.safetensors", "model.safetensors", "metrics.jsonl",
    }  # fmt: skip
    words = (finished / WORDS).read_text().splitlines()
    assert words == sorted(set(words))
    assert len(words) > 500
    assert {"cardiomegaly", "effusion", "left", "mm"} <= set(words)
    assert not {"a", "12", ".", "banana"} & set(words)
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


def test_a_kill_between_the_files_of_a_checkpoint_loses_no_model(cache, finished, tmp_path, console, monkeypatch):
    run, real = tmp_path / "run", checkpoint.atomic_write

    def write_and_die(path, content):
        real(path, content)
        if path.name in (checkpoint.MODEL, checkpoint.STATE) and len(content) > 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomic_write", write_and_die)
        with pytest.raises(Killed):
            train(tiny(cache), run, console=console)
    assert (run / checkpoint.MODEL).exists()
    train(tiny(cache), run, console=console)
    for name in (checkpoint.MODEL, checkpoint.STATE):
        one, other = load_file(finished / name), load_file(run / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_configuration_is_refused(cache, finished, console):
    with pytest.raises(ConfigError, match=r"optim\.steps: 6 -> 5.*give another --out"):
        train(tiny(cache, steps=5), finished, console=console)
    with pytest.raises(ConfigError, match=r"started with another configuration \(optim\.warmup_steps: 2 -> 1\)"):
        train(tiny(cache, steps=9, warmup_steps=1), finished, console=console)


def test_two_processes_cannot_train_into_one_folder(cache, finished, console, monkeypatch):
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    with (
        checkpoint.open_run(finished, tiny(cache)),
        pytest.raises(ConfigError, match="another process is training into"),
    ):
        train(tiny(cache), finished, console=console)


def test_a_damaged_checkpoint_is_named(cache, finished, tmp_path, console):
    run = copied(finished, tmp_path / "run")
    (run / checkpoint.STATE).write_bytes((finished / checkpoint.STATE).read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"state\.safetensors is damaged"):
        train(tiny(cache), run, console=console)
    (run / checkpoint.MODEL).unlink()
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        checkpoint.load_model(run)


def test_the_command_names_a_typo(tmp_path, capsys, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("[optim]\nstep = 3\n")
    monkeypatch.setattr("sys.argv", ["train", "--config", str(config), "--out", str(tmp_path / "run")])
    assert main() == 1
    assert "unknown key optim.step; the nearest known one is optim.steps" in capsys.readouterr().err


def test_the_advice_of_the_survey_can_be_followed(tmp_path, capsys, monkeypatch):
    studies = small_mimic(tmp_path / "data", training=9, validation=2)
    (tmp_path / "data" / f"{studies[0].folder}.txt").unlink()
    config = dataclasses.replace(
        tiny(tmp_path / "cache", steps=1, unmasked_steps=0),
        data=cfg.Data(
            source="mimic_cxr_jpg", cache=str(tmp_path / "cache"),
            radiographs=cfg.Radiographs(images=str(tmp_path / "data"), cached_side=40),
        ),
    )  # fmt: skip
    (tmp_path / "config.toml").write_text(dump_toml(config))
    command = ["train", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 1
    advice = 'data.radiographs.missing_files = "skip"'
    assert f"leave these pairs out with {advice}" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.setattr("sys.argv", [*command, "--set", advice, "--threads", "1"])
    assert main() == 0
    assert 'missing_files = "skip"' in (tmp_path / "run" / "config.toml").read_text()
    assert json.loads((tmp_path / "run" / "data.json").read_text())["training"]["pairs"] == 8
