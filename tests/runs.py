"""Training runs small enough for tests, and what is compared of them."""

import io
import json

import torch
from rich.console import Console
from safetensors.torch import load_file

from train import checkpoint
from train import config as cfg
from train.loop import train

CLOCKED = {"time", "seconds", "waited", "pairs_per_second", "seconds_left"}
"""What lines of a log have from the clock."""


def tiny(folder, **optim):
    return cfg.Config(
        model=cfg.Model(
            image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=1, heads=2),
            text=cfg.TextTower(vocab_size=400, max_tokens=48, width=32, depth=1, heads=2, dropout=0.1),
            space=cfg.CommonSpace(embedding_dim=16),
            decoders=cfg.Decoders(image_width=16, image_heads=2, report_heads=2),
        ),
        optim=cfg.Optim(**{"steps": 6, "batch_size": 8, "warmup_steps": 2, "unmasked_steps": 2} | optim),
        data=cfg.Data(cache=str(folder), phantoms=cfg.Phantoms(size=48, train_count=50, validation_count=50)),
        run=cfg.Run(workers=0, log_every=1, evaluate_every=3, checkpoint_every=3),
    )


def resumed(config, run, **options):
    """Train, and return what was printed."""
    told = io.StringIO()
    train(config, run, console=Console(file=told, width=200), **options)
    return told.getvalue()


def read_metrics(run):
    return [json.loads(line) for line in (run / checkpoint.METRICS).read_text().splitlines()]


def untimed(run):
    """The lines of a log without what the clock says."""
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in read_metrics(run)]


def same_state(one, other):
    states = [load_file(run / checkpoint.STATE) for run in (one, other)]
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def copied(run, folder):
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


class Killed(BaseException):
    """Ends a run as a kill would: nothing catches it."""
