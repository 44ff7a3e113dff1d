"""The training loop, top to bottom: run folder, data, model, steps, end."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mcr_infer.errors import ConfigError
from train import checkpoint
from train.config import Config
from train.data import Pairs, Schedule, collate, require_even_shares
from train.data.opening import open_pairs
from train.distributed import World, open_world
from train.held_out import embed_pairs, recall_figures
from train.model import MCR
from train.optim import Average, make_optimizers
from train.progress import progress_bar
from train.step import Learner, train_step


def train(config: Config, run: Path, *, console: Console) -> None:
    """Train until `optim.steps`, going on from the last checkpoint of the run folder where there is one.

    Started by torchrun, every process trains on its part of each batch, and the first one writes and talks.
    """
    with open_world(config.run.device) as world:
        if world.leads:
            with checkpoint.open_run(run, config):
                _train(config, run, world, console)
        else:
            _train(config, run, world, Console(quiet=True))


def _train(config: Config, run: Path, world: World, console: Console) -> None:
    # ---- Model and optimisers: first, so that a mistake in them does not wait for hours of decoding -----------------
    require_even_shares(config.optim.batch_size, size=world.size)
    learner, average = make_learner(config, world)

    # ---- The pairs and the tokenizer: made by the first process, found by the others --------------------------------
    with world.leader_first():
        pairs, held_out, _ = open_pairs(config, run, console)

    # ---- Weights, optimisers and step as the run left them ----------------------------------------------------------
    first_step = checkpoint.load_state(run, learner, average)
    if not world.agree(first_step):
        raise ConfigError(
            f"the processes do not find the same checkpoint in {run} (this one: step {first_step}): put the run folder on "
            "storage that all nodes share"
        )
    if world.leads:
        checkpoint.drop_metrics_after(run, first_step)
    schedule = Schedule(
        len(pairs), batch_size=config.optim.batch_size, seed=config.run.seed, first_step=first_step,
        steps=config.optim.steps, unmasked_steps=config.optim.unmasked_steps, rank=world.rank, size=world.size,
    )  # fmt: skip
    loader = DataLoader(
        pairs, batch_sampler=schedule, num_workers=config.run.workers, collate_fn=collate,
        pin_memory=config.run.device == "cuda",
    )  # fmt: skip

    # ---- Steps ------------------------------------------------------------------------------------------------------
    with _tell(run if world.leads else None, console, config, first_step) as story:
        batches, ready = iter(loader), time.perf_counter()
        for step in range(first_step, config.optim.steps):
            batch = next(batches)
            started = time.perf_counter()
            facts = train_step(learner, batch.to(world.device), config, step)
            done, last = step + 1, step + 1 == config.optim.steps
            if average is not None:
                average.update(learner.model, done)
            story.step(done, facts | {"waited": started - ready, "seconds": time.perf_counter() - started})
            if world.leads and (done % config.run.evaluate_every == 0 or last):
                story.tell("evaluation", done, evaluate(learner, average, held_out, config))
            if world.leads and (done % config.run.checkpoint_every == 0 or last):
                checkpoint.save_state(run, learner, average, done)
            ready = time.perf_counter()
    world.wait()


def make_learner(config: Config, world: World) -> tuple[Learner, Average | None]:
    """Make the untrained model of a configuration with all that trains it."""
    torch.manual_seed(config.run.seed)
    model = MCR(config).to(world.device)
    if config.run.attention == "plain":
        model.use_plain_attention()
    if config.run.gradient_checkpointing:
        model.use_gradient_checkpointing()
    if config.run.compile:
        # The towers alone: what surrounds them gathers by masks, whose sizes only a batch knows.
        model.image_tower.compile()
        model.text_tower.compile()
    called: nn.Module = model
    if world.size > 1:
        # Some steps leave the decoders out: the unmasked phase, and a micro-batch that hides no word.
        masking, optim = config.masking, config.optim
        always = min(masking.image_ratio, masking.text_ratio) > 0 and not (optim.unmasked_steps or optim.micro_batch)
        called = DistributedDataParallel(
            model, device_ids=[world.device] if world.device.type == "cuda" else None, find_unused_parameters=not always
        )
    learner = Learner(
        model=model, called=called, optimizers=make_optimizers(model, config.optim),
        scaler=GradScaler(config.run.device, enabled=config.run.precision == "fp16"), world=world,
        pretrained_text=config.model.text.pretrained is not None,
    )  # fmt: skip
    return learner, Average(model, config.optim.ema_decay) if config.optim.ema_decay else None


def evaluate(learner: Learner, average: Average | None, held_out: Pairs, config: Config) -> dict[str, float]:
    """Retrieve among the held-out pairs, whole inputs, both ways, with the weights that would be exported."""
    model = learner.model.eval()
    if average is None:
        return recall_figures(embed_pairs(model, held_out, config))
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(average.weights)
    figures = recall_figures(embed_pairs(model, held_out, config))
    model.load_state_dict(own)
    return figures


class _Story:
    """What the run tells: metrics.jsonl for machines, a bar on a terminal, plain lines elsewhere."""

    def __init__(self, metrics: TextIO, console: Console, progress: Progress, config: Config, first_step: int) -> None:
        self._metrics, self._console, self._progress = metrics, console, progress
        self._every, self._steps = config.run.log_every, config.optim.steps
        self._bar = progress.add_task("training", total=self._steps, completed=first_step)

    def step(self, done: int, facts: dict[str, float]) -> None:
        """Count a step, and tell its figures where it is due."""
        self._progress.update(self._bar, completed=done)
        if done % self._every == 0 or done == self._steps:
            self.tell("train", done, facts)

    def tell(self, kind: str, done: int, facts: dict[str, float]) -> None:
        """Write the figures of a step to the metrics and show them."""
        rounded = {name: float(f"{value:.5g}") for name, value in facts.items()}
        self._metrics.write(json.dumps({"kind": kind, "step": done, **rounded}) + "\n")
        words = " ".join(f"{name} {value:.4g}" for name, value in rounded.items())
        if self._console.is_terminal:
            short = f"loss {rounded['loss']:.3f}" if "loss" in rounded else words
            self._progress.update(self._bar, description=short)
        else:
            self._console.print(f"step {done}: {words}", highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _tell(run: Path | None, console: Console, config: Config, first_step: int) -> Iterator[_Story]:
    """Open the metrics of a run folder and a bar; without a folder (a process that does not lead) nothing is kept."""
    path = Path(os.devnull) if run is None else run / checkpoint.METRICS
    with path.open("a", encoding="utf-8", buffering=1) as metrics, progress_bar(console) as progress:
        yield _Story(metrics, console, progress, config, first_step)
