"""The training loop, top to bottom: run folder, data, model, steps, end."""

import time
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mcr_infer.errors import ConfigError
from train import checkpoint
from train.config import Config
from train.data import Batch, Pairs, Schedule, collate, require_even_shares
from train.data.opening import open_pairs
from train.distributed import World, open_world
from train.held_out import embed_pairs, recall_figures
from train.model import MCR
from train.optim import Average, learning_rate, make_optimizers
from train.step import Learner, measure_gradients, train_step
from train.threads import advise_threads, compare_threads
from train.training_log import open_log, require_tensorboard


def train(
    config: Config, run: Path, *, console: Console, tensorboard: bool = False, check_threads: bool = False
) -> None:
    """Train until `optim.steps`, going on from the last checkpoint of the run folder where there is one.

    Started by torchrun, every process trains on its part of each batch, and the first one writes and talks. With
    `tensorboard` the log goes to RUN/tensorboard, too; with `check_threads` a single process on the CPU first measures
    whether one thread would be faster than torch's default, and says so.
    """
    if tensorboard:
        require_tensorboard()
    with open_world(config.run.device) as world:
        if world.leads:
            with checkpoint.open_run(run, config) as former:
                _train(config, run, world, console, former, tensorboard=tensorboard, check_threads=check_threads)
        else:
            _train(config, run, world, Console(quiet=True), None)


def _train(
    config: Config, run: Path, world: World, console: Console, former: Config | None, *,
    tensorboard: bool = False, check_threads: bool = False,
) -> None:  # fmt: skip
    # ---- Model and optimisers: first, so that a mistake in them does not wait for hours of decoding -----------------
    require_even_shares(config.optim.batch_size, size=world.size)
    starts = not (run / checkpoint.STATE).exists()
    model = None
    if not starts:
        model = checkpoint.bare_model(run, config)
    elif config.run.init_from is not None:
        model = checkpoint.start_model(Path(config.run.init_from), config)
    learner, average = make_learner(config, world, model=model)

    # ---- The pairs and the tokenizer: made by the first process, found by the others --------------------------------
    # The configuration is written once the pairs are known to be good: until then it may change as the survey advises.
    with world.leader_first():
        pairs, held_out, _ = open_pairs(
            config, run, console, begin=lambda: checkpoint.begin_run(run, config) if world.leads else None
        )

    # ---- Weights, optimisers and step as the run left them ----------------------------------------------------------
    first_step = checkpoint.load_state(run, learner, average)
    if not world.agree(first_step):
        raise ConfigError(
            f"the processes do not find the same checkpoint in {run} (this one: step {first_step}): put the run folder on "
            "storage that all nodes share"
        )
    if world.leads:
        if starts and config.run.init_from is not None:
            # The run depends on the other one no longer, whatever becomes of it.
            checkpoint.save_state(run, learner, average, 0)
        checkpoint.drop_metrics_after(run, first_step)
        for line in _resumption(config, former, first_step):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    schedule = Schedule(
        len(pairs), batch_size=config.optim.batch_size, seed=config.run.seed, first_step=first_step,
        steps=config.optim.steps, unmasked_steps=config.optim.unmasked_steps, rank=world.rank, size=world.size,
    )  # fmt: skip
    loader = DataLoader(
        pairs, batch_sampler=schedule, num_workers=config.run.workers, collate_fn=collate,
        pin_memory=config.run.device == "cuda",
    )  # fmt: skip

    # ---- Steps ------------------------------------------------------------------------------------------------------
    with open_log(run if world.leads else None, console, config, first_step, tensorboard=tensorboard) as log:
        batches, ready = iter(loader), time.perf_counter()
        for step in range(first_step, config.optim.steps):
            batch = next(batches)
            if step == first_step and check_threads and world.size == 1 and not config.run.compile:
                advice = _compare_threads(learner, batch, config, step)
                if advice is not None:
                    console.print(f"note: {advice}", highlight=False, markup=False, soft_wrap=True)
                ready = time.perf_counter()
            started = time.perf_counter()
            facts = train_step(learner, batch.to(world.device), config, step)
            done, last = step + 1, step + 1 == config.optim.steps
            if average is not None:
                average.update(learner.model, done)
            log.step(done, facts | {"waited": started - ready, "seconds": time.perf_counter() - started})
            if world.leads and (done % config.run.evaluate_every == 0 or last):
                log.evaluation(done, evaluate(learner, average, held_out, config))
            if world.leads and (done % config.run.checkpoint_every == 0 or last):
                checkpoint.save_state(run, learner, average, done)
            ready = time.perf_counter()
    world.wait()


def _resumption(config: Config, former: Config | None, first_step: int) -> list[str]:
    """Say with which weights a run goes on, and what more steps do to its schedule."""
    steps, lines = config.optim.steps, []
    if first_step == 0:
        return [f"starting from the weights of {config.run.init_from}"] if config.run.init_from is not None else []
    if first_step == steps:
        return [f"finished at step {steps}: raise optim.steps to train on"]
    lines.append(f"resumed at step {first_step} of {steps}")
    if former is not None and former.optim.steps < steps:
        rates = [f"{learning_rate(first_step, each.optim):.3g}" for each in (former, config)]
        lines.append(
            f"optim.steps raised from {former.optim.steps} to {steps}: learning rate and unmasked steps follow the schedule "
            f"of {steps} steps from here on; the learning rate goes from {rates[0]} to {rates[1]}"
        )
    return lines


def _compare_threads(learner: Learner, batch: Batch, config: Config, step: int) -> str | None:
    """Measure on a batch whether one thread would be faster; the weights stay as they are."""
    if learner.world.device.type != "cpu":
        return None
    return advise_threads(compare_threads(lambda: measure_gradients(learner, batch, config, step)))


def make_learner(config: Config, world: World, *, model: MCR | None = None) -> tuple[Learner, Average | None]:
    """Make all that trains a model; without one, the untrained model of the configuration, too."""
    torch.manual_seed(config.run.seed)
    model = (MCR(config) if model is None else model).to(world.device)
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
