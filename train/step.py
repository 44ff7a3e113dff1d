"""One step of training: the forward pass, three losses, gradients, weights.

The contrast always spans the whole batch: over all processes, whose embeddings are gathered with gradients, and over all
micro-batches, whose embeddings are made first without gradients and again with them (gradient caching, arXiv 2101.06983).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mcr_infer.errors import McrError
from train import losses
from train.config import Config
from train.data import Batch
from train.distributed import World
from train.model import MCR, Output
from train.optim import learning_rate, set_learning_rate
from train.precision import autocast

LEAST_LOSS_SCALE = 2.0**-8
"""An fp16 loss scale below this means that the gradients themselves, not their scale, are broken."""


class NonFiniteLossError(McrError):
    """A loss or a gradient became infinite or not a number; nothing was learnt from that step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What a step changes, and where: the model, bare and as it is called, its optimisers and the scale of its loss."""

    model: MCR
    called: nn.Module
    """The model itself, or compiled, or wrapped for several processes."""
    optimizers: tuple[Optimizer, ...]
    scaler: GradScaler
    world: World
    pretrained_text: bool
    """Whether the text tower began with the weights, and the shape, of another."""

    @property
    def names(self) -> dict[nn.Parameter, str]:
        """The name of each parameter of the model."""
        return {parameter: name for name, parameter in self.model.named_parameters()}


def train_step(learner: Learner, batch: Batch, config: Config, step: int) -> dict[str, float]:
    """Take one step and return its figures; raises `NonFiniteLossError` before the weights are touched."""
    rate = learning_rate(step, config.optim)
    set_learning_rate(learner.optimizers, rate)
    parts = measure_gradients(learner, batch, config, step)
    for optimizer in learner.optimizers:
        learner.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(learner.model.parameters(), config.optim.clip_norm)
    _check(learner, batch, parts, norm, step)
    # All optimisers or none: a scaler judges each by its own gradients, and the clipping has spread what is not finite.
    if bool(torch.isfinite(norm)):
        for optimizer in learner.optimizers:
            learner.scaler.step(optimizer)
    learner.scaler.update()
    return {name: float(value) for name, value in parts.items()} | {"norm": float(norm), "rate": rate}


def measure_gradients(learner: Learner, batch: Batch, config: Config, step: int) -> dict[str, Tensor]:
    """Leave the gradients of a batch beside the weights, which stay as they are, and return the losses."""
    learner.model.train()
    for optimizer in learner.optimizers:
        optimizer.zero_grad(set_to_none=True)
    chunks = batch.split(config.optim.micro_batch or len(batch.keys))
    return _one_pass(learner, batch, config, step) if len(chunks) == 1 else _cached(learner, chunks, config, step)


def _one_pass(learner: Learner, batch: Batch, config: Config, step: int) -> dict[str, Tensor]:
    """Run the whole batch of this process at once and return the losses."""
    output = _forward(learner, batch, config, step, 0)
    contrast = _contrast(learner, output.image, output.text, output.scale, batch.keys)
    parts = _reconstruction(output, batch, _share(learner, batch))
    learner.scaler.scale(_weighted({"contrastive": contrast, **parts}, config)).backward()
    return _figures(learner, {"contrastive": contrast, **parts}, output.scale, config)


def _cached(learner: Learner, chunks: Sequence[Batch], config: Config, step: int) -> dict[str, Tensor]:
    """Run a batch micro-batch by micro-batch: the gradients are those of `_one_pass` over the whole."""
    images, texts = [], []
    with torch.no_grad():
        for place, chunk in enumerate(chunks):
            # The embeddings alone are kept: the reconstructions of a whole batch are what memory does not hold.
            output = _forward(learner, chunk, config, step, place)
            images.append(output.image)
            texts.append(output.text)
    image, text = torch.cat(images).requires_grad_(), torch.cat(texts).requires_grad_()
    scale = learner.model.scale().detach().requires_grad_()
    keys = torch.cat([chunk.keys for chunk in chunks])
    contrast = _contrast(learner, image, text, scale, keys)
    gradients = torch.autograd.grad(contrast, (image, text, scale))
    share = _share(learner, *chunks)
    total: dict[str, Tensor] = {"contrastive": contrast}
    start = 0
    for place, chunk in enumerate(chunks):
        end = start + len(chunk.keys)
        last = place == len(chunks) - 1
        with _synchronised(learner.called, last):
            output = _forward(learner, chunk, config, step, place)
            parts = _reconstruction(output, chunk, share)
            # Its gradient is that of the contrast: a product with what the contrast sent back to these rows.
            proxy = (output.image * gradients[0][start:end]).sum() + (output.text * gradients[1][start:end]).sum()
            proxy = proxy + output.scale * gradients[2] / len(chunks)
            learner.scaler.scale(_weighted({"contrastive": proxy, **parts}, config)).backward()
        for name, value in parts.items():
            total[name] = total.get(name, torch.zeros_like(value)) + value.detach()
        start = end
    return _figures(learner, total, scale, config)


def _forward(learner: Learner, batch: Batch, config: Config, step: int, place: int) -> Output:
    """Run the model; seeded by step, process and micro-batch, so that dropout is the same in both passes of a cached step
    and does not depend on where a run was interrupted."""
    seed = (step * learner.world.size + learner.world.rank) * 4096 + place
    torch.manual_seed((config.run.seed << 48) + seed)
    with autocast(learner.world.device, config):
        output: Output = learner.called(batch)
    return output


def _contrast(learner: Learner, image: Tensor, text: Tensor, scale: Tensor, keys: Tensor) -> Tensor:
    """Contrast the pairs of this process with those of all."""
    gather = learner.world.gather
    return losses.info_nce(
        image, text, scale, keys, all_images=gather(image), all_texts=gather(text), all_keys=gather(keys)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What a mean over the whole batch divides by, as this process counts: its gradients are averaged with the others'."""

    pairs: float
    words: float


def _share(learner: Learner, *chunks: Batch) -> _Share:
    words = torch.stack([chunk.word_mask.sum() for chunk in chunks]).sum()
    size = learner.world.size
    return _Share(
        pairs=float(sum(len(chunk.keys) for chunk in chunks)),
        words=max(1.0, float(learner.world.total(words))) / size,
    )


def _reconstruction(output: Output, batch: Batch, share: _Share) -> dict[str, Tensor]:
    """Return the reconstruction losses of some pairs, each its part of the mean over the whole batch."""
    parts = {}
    if output.patches is not None:
        parts["image"] = losses.patch_loss(output.patches, batch.targets) * (len(batch.keys) / share.pairs)
    if output.words is not None:
        words = batch.input_ids[batch.word_mask]
        parts["report"] = losses.word_loss(output.words, words) * (len(words) / share.words)
        parts["word_accuracy"] = losses.accuracy(output.words, words) * (len(words) / share.words)
    return parts


def _weighted(parts: dict[str, Tensor], config: Config) -> Tensor:
    """Add the losses up by their weights."""
    weights = {
        "contrastive": config.loss.contrastive_weight,
        "image": config.loss.image_weight,
        "report": config.loss.report_weight,
    }
    return torch.stack([weight * parts[name] for name, weight in weights.items() if name in parts]).sum()


def _figures(learner: Learner, parts: dict[str, Tensor], scale: Tensor, config: Config) -> dict[str, Tensor]:
    """Return the losses of the whole batch, over all processes, in the order in which they are told."""
    values = {"loss": _weighted(parts, config), **parts}
    means = {name: learner.world.total(value.detach().float()) / learner.world.size for name, value in values.items()}
    return {**means, "scale": scale.detach()}


def _synchronised(called: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Let only the last micro-batch exchange gradients with the other processes."""
    if last or not isinstance(called, DistributedDataParallel):
        return contextlib.nullcontext()
    return called.no_sync()


def _check(learner: Learner, batch: Batch, parts: dict[str, Tensor], norm: Tensor, step: int) -> None:
    """Stop where loss or gradients are not finite; an fp16 scale that was too large is lowered and the step left out."""
    scale = learner.scaler.get_scale() if learner.scaler.is_enabled() else 0.0
    # The scale multiplies the loss after it is made: it can be to blame for a gradient, never for the loss.
    if bool(torch.isfinite(parts["loss"])) and (bool(torch.isfinite(norm)) or scale > LEAST_LOSS_SCALE):
        return
    raise NonFiniteLossError(
        f"step {step}: loss {float(parts['loss'])}, gradient norm {float(norm)}; the batch holds {batch.sources}. "
        "Lower optim.learning_rate, or train with run.precision = 'fp32'; the last checkpoint is intact"
    )
