"""The training loop, top to bottom: run folder, tokenizer, data, model, steps, end."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mcr_infer.errors import McrError
from mcr_infer.metrics import label_ranks, macro_weights
from mcr_infer.reports import ReportTokenizer, train_tokenizer
from train import checkpoint, losses
from train.config import Config, Loss, Optim
from train.data import Batch, Schedule, collate
from train.data.phantoms import PhantomPairs, PhantomStore, open_store, write_text
from train.model import MCR, Output

TOKENIZER_TEXTS = 20_000
"""Texts that the tokenizer is trained on; the vocabulary of the phantoms' language is exhausted long before."""


class NonFiniteLossError(McrError):
    """A loss or a gradient became infinite or not a number; nothing was learnt from that step."""


def train(config: Config, run: Path, *, console: Console) -> None:
    """Train until `optim.steps`, going on from the last checkpoint of the run folder where there is one."""
    # ---- The run folder ---------------------------------------------------------------------------------------------
    checkpoint.open_run(run, config)
    device = torch.device(config.run.device)

    # ---- Data: stored phantoms, and the tokenizer of their language -------------------------------------------------
    data = config.data
    training = _open_phantoms(config, data.train_seed, data.train_count, console)
    validation = _open_phantoms(config, data.validation_seed, data.validation_count, console)
    tokenizer = _open_tokenizer(run, config, training)
    pairs, held_out = PhantomPairs(config, training, tokenizer), PhantomPairs(config, validation, tokenizer)

    # ---- Model and optimiser, new or as the run left them -----------------------------------------------------------
    torch.manual_seed(config.run.seed)
    model = checkpoint.make_model(config).to(device)
    if config.run.attention == "plain":
        model.use_plain_attention()
    optimizer = make_optimizer(model, config.optim)
    first_step = checkpoint.load_state(run, model, optimizer)
    checkpoint.drop_metrics_after(run, first_step)
    schedule = Schedule(
        len(pairs), batch_size=config.optim.batch_size, seed=config.run.seed, first_step=first_step,
        steps=config.optim.steps, unmasked_steps=config.optim.unmasked_steps,
    )  # fmt: skip
    loader = DataLoader(pairs, batch_sampler=schedule, num_workers=config.run.workers, collate_fn=collate)

    # ---- Steps ------------------------------------------------------------------------------------------------------
    with (run / checkpoint.METRICS).open("a", encoding="utf-8", buffering=1) as metrics, _progress(console) as progress:
        bar = progress.add_task("training", total=config.optim.steps, completed=first_step)
        batches, ready = iter(loader), time.perf_counter()
        for step in range(first_step, config.optim.steps):
            batch = next(batches)
            started = time.perf_counter()
            facts = train_step(model, optimizer, batch.to(device), config, step)
            done = step + 1
            if done % config.run.log_every == 0 or done == config.optim.steps:
                ended = time.perf_counter()
                facts |= {"waited": round(started - ready, 4), "seconds": round(ended - started, 4)}
                metrics.write(json.dumps({"kind": "train", "step": done, **facts}) + "\n")
                _say(console, progress, bar, done, facts)
            if done % config.run.evaluate_every == 0 or done == config.optim.steps:
                recall = evaluate(model, held_out, config, device)
                metrics.write(json.dumps({"kind": "evaluation", "step": done, **recall}) + "\n")
                _say(console, progress, bar, done, recall)
            if done % config.run.checkpoint_every == 0 or done == config.optim.steps:
                checkpoint.save_state(run, model, optimizer, done)
            progress.update(bar, completed=done)
            ready = time.perf_counter()


def train_step(
    model: MCR, optimizer: torch.optim.Optimizer, batch: Batch, config: Config, step: int
) -> dict[str, float]:
    """Take one step and return its figures; raises `NonFiniteLossError` before the weights are touched."""
    # Seeded by step: what dropout draws does not depend on where a run was interrupted.
    torch.manual_seed((config.run.seed << 32) + step)
    model.train()
    rate = learning_rate(step, config.optim)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with _autocast(config):
        output = model(batch)
    parts = compute_losses(output, batch, config.loss)
    loss = parts["loss"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
    if not (torch.isfinite(loss) and torch.isfinite(norm)):
        raise NonFiniteLossError(
            f"step {step}: loss {float(loss.detach())}, gradient norm {float(norm)}; the batch holds {batch.sources}. "
            "Lower optim.learning_rate, or train with run.precision = 'fp32'; the last checkpoint is intact"
        )
    optimizer.step()
    figures = {name: round(float(value.detach()), 5) for name, value in parts.items()}
    return figures | {"scale": round(float(output.scale.detach()), 3), "norm": round(float(norm), 4), "rate": rate}


def compute_losses(output: Output, batch: Batch, config: Loss) -> dict[str, Tensor]:
    """Return `loss`, the weighted sum, and its parts; a part that the pass did not make is left out."""
    parts = {"contrastive": losses.info_nce(output.image, output.text, output.scale, batch.keys)}
    loss = config.contrastive_weight * parts["contrastive"]
    if output.patches is not None:
        hidden = batch.patches.gather(1, batch.hidden[:, :, None].expand(-1, -1, batch.patches.shape[2]))
        parts["image"] = losses.patch_loss(output.patches, hidden)
        loss = loss + config.image_weight * parts["image"]
    if output.words is not None:
        words = batch.input_ids[batch.word_mask]
        parts["report"] = losses.word_loss(output.words, words)
        parts["word_accuracy"] = losses.accuracy(output.words, words)
        loss = loss + config.report_weight * parts["report"]
    return {"loss": loss, **parts}


def make_optimizer(model: MCR, config: Optim) -> torch.optim.AdamW:
    """Make AdamW; norms, biases, embeddings and single values do not decay."""
    decay, rest = [], []
    for name, parameter in model.named_parameters():
        embedding = ("embed" in name and "proj" not in name) or name.endswith(("positions", "mask_token"))
        (rest if parameter.ndim < 2 or embedding else decay).append(parameter)
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(step: int, config: Optim) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to `final_fraction` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


@torch.inference_mode()
def evaluate(model: MCR, pairs: PhantomPairs, config: Config, device: torch.device) -> dict[str, float]:
    """Retrieve among the held-out pairs, whole inputs, both ways: macro recall@k by finding set (kinds with sides)."""
    model.eval()
    images, texts = [], []
    for start in range(0, len(pairs), config.optim.batch_size):
        samples = [pairs.held_out(index) for index in range(start, min(start + config.optim.batch_size, len(pairs)))]
        image, text = embed(model, collate(samples).to(device), config)
        images.append(image)
        texts.append(text)
    labels = [pairs.labels(index) for index in range(len(pairs))]
    return recall_figures(np.concatenate(images), np.concatenate(texts), labels)


def embed(model: MCR, batch: Batch, config: Config) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed whole images and reports of a batch to [N, D] each."""
    with _autocast(config):
        image, _, _ = model.encode_image(batch.patches, batch.visible)
        text, _, _ = model.encode_text(batch.input_ids, batch.attention_mask)
    return image.float().cpu().numpy(), text.float().cpu().numpy()


def recall_figures(images: NDArray[np.float32], texts: NDArray[np.float32], labels: Sequence[str]) -> dict[str, float]:
    """Return recall@1, 5 and 10 both ways for unit embeddings [N, D]: a hit shares the label; labels weigh the same."""
    _, codes = np.unique(np.asarray(labels), return_inverse=True)
    weights = macro_weights(codes)
    figures = {}
    for name, queries, gallery in (("image_to_report", images, texts), ("report_to_image", texts, images)):
        ranks = label_ranks(queries, gallery, codes, codes)
        for k in (1, 5, 10):
            figures[f"{name}_r{k}"] = round(float(np.average(ranks <= k, weights=weights)), 4)
    return figures


def _autocast(config: Config) -> torch.autocast:
    return torch.autocast(config.run.device, torch.bfloat16, enabled=config.run.precision == "bf16")


def _open_phantoms(config: Config, first_seed: int, count: int, console: Console) -> PhantomStore:
    """Open stored phantoms, reporting progress where some have to be made."""
    with _progress(console) as progress:
        bar = progress.add_task("making phantoms", total=None, visible=False)

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, visible=True)
            if not console.is_terminal and (done % 1000 == 0 or done == total):
                console.print(f"{done} of {total} phantoms made", highlight=False)

        return open_store(
            Path(config.data.cache), first_seed=first_seed, count=count, size=config.data.phantom_size,
            workers=config.run.workers, progress=tell,
        )  # fmt: skip


def _open_tokenizer(run: Path, config: Config, store: PhantomStore) -> ReportTokenizer:
    """Load the tokenizer of the run, or train it on texts as the training set will write them."""
    path = run / checkpoint.TOKENIZER
    if not path.exists():
        rng = np.random.default_rng([config.run.seed, 0])
        texts = (write_text(store[i % len(store)], config.data.shares, rng) for i in range(TOKENIZER_TEXTS))
        trained = train_tokenizer(texts, config.model.text.vocab_size)
        checkpoint.replace_file(path, trained.to_str(pretty=True).encode())
    return ReportTokenizer.from_file(path, config.model.text.max_tokens)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """Show a bar on a terminal; elsewhere nothing moves and `_say` prints lines."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress


def _say(console: Console, progress: Progress, bar: Any, step: int, facts: dict[str, float]) -> None:
    """Tell the figures of a step: in the bar on a terminal, as a plain line elsewhere."""
    words = " ".join(f"{name} {value:.4g}" for name, value in facts.items())
    if console.is_terminal:
        progress.update(bar, description=f"loss {facts['loss']:.3f}" if "loss" in facts else words)
    else:
        console.print(f"step {step}: {words}", highlight=False, soft_wrap=True)
