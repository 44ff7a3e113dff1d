"""Two real processes over gloo, started as a user starts them, against this process with the same global batch."""

import json
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mcr_infer.errors import ConfigError
from mcr_infer.inference.bundle import WORDS
from runs import CLOCKED
from train import checkpoint
from train.config import load_config
from train.distributed import open_world
from train.loop import train

CONFIG = """
[model.image]
image_size = 32
patch_size = 8
width = 32
depth = 1
heads = 2
[model.text]
vocab_size = 400
max_tokens = 48
width = 32
depth = 1
heads = 2
dropout = 0.0
[model.space]
embedding_dim = 16
[model.decoders]
image_width = 16
image_heads = 2
report_heads = 2
[optim]
steps = 4
batch_size = 8
warmup_steps = 1
unmasked_steps = 1
clip_norm = 1e9
[data]
cache = "{cache}"
[data.phantoms]
size = 48
train_count = 50
validation_count = 50
[run]
workers = 0
log_every = 1
evaluate_every = 4
checkpoint_every = 4
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    path = folder / "config.toml"
    path.write_text(CONFIG.format(cache=folder / "cache"))
    return path


def with_tokenizer_of(finished, run):
    """Make a run folder with the tokenizer of another run, which takes longer to train than all steps of a run."""
    run.mkdir()
    for name in (checkpoint.TOKENIZER, WORDS):
        (run / name).write_bytes((finished / name).read_bytes())
    return run


def train_in_two(config, run, *, overrides=()):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "train", "--config", str(config), "--out", str(run), "--threads", "1"]
    sets = [part for override in overrides for part in ("--set", override)]
    done = subprocess.run([*command, *arguments, *sets], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return outcome(run)


def outcome(run):
    lines = [json.loads(line) for line in (run / checkpoint.METRICS).read_text().splitlines()]
    return lines, load_file(run / checkpoint.MODEL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "alone"


@pytest.fixture(scope="module")
def alone(config, finished):
    train(load_config(config), finished, console=Console(quiet=True))
    return outcome(finished)


@pytest.mark.parametrize("overrides", [(), ("optim.micro_batch=3",)], ids=["whole", "cached"])
def test_two_processes_train_as_one_with_the_same_global_batch(config, finished, alone, overrides, tmp_path):
    run = tmp_path / "pair"
    if overrides:
        with_tokenizer_of(finished, run)
    lines, weights = train_in_two(config, run, overrides=overrides)
    for one, two in zip(alone[0], lines, strict=True):
        for name in set(one) - {"kind"} - CLOCKED:
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), (one["step"], name)
    assert sum(line["kind"] == "evaluation" for line in lines) == 1
    for name, tensor in alone[1].items():
        # AdamW turns a gradient of nearly nothing into a full step of either sign: a few weights may differ by that.
        assert float((weights[name] - tensor).abs().mean()) < 2e-5, name


class Killed(BaseException):
    pass


def test_a_run_goes_on_with_another_number_of_processes(config, finished, alone, tmp_path, monkeypatch):
    run, real, often = with_tokenizer_of(finished, tmp_path / "run"), checkpoint.save_state, ["run.checkpoint_every=2"]

    def save_and_die(*arguments):
        real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(load_config(config, often), run, console=Console(quiet=True))
    lines, _ = train_in_two(config, run, overrides=often)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4]
    for one, two in zip(alone[0], lines, strict=True):
        for name in set(one) - {"kind"} - CLOCKED:
            assert two[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4), (one["step"], name)


def test_a_batch_that_processes_cannot_share_is_refused(config, tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train",
        "--config", str(config), "--out", str(tmp_path / "run"), "--set", "optim.batch_size=9", "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode != 0
    assert "optim.batch_size 9 cannot be shared evenly by 2 processes" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"wants GPU 0, but 0 are visible"), open_world("cuda"):
        pass


def test_one_process_gathers_nothing():
    rows = torch.arange(6.0).reshape(3, 2)
    with open_world("cpu") as world:
        assert world.leads
        assert world.gather(rows) is rows
        assert world.total(rows) is rows
