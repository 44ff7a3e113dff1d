"""Optimisers and their learning rates: AdamW for all weights, or Muon for the matrices inside the blocks beside it."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from train.config import Optim
from train.model import MCR

_BLOCK = re.compile(r"^(image_tower\.vit\.blocks|text_tower\.bert\.encoder\.layer|image_decoder\.blocks)\.(\d+)\.")
_TOWERS = ("image_tower.", "text_tower.")


def make_optimizers(model: MCR, config: Optim) -> tuple[Optimizer, ...]:
    """Make the optimisers of a model; norms, biases, embeddings and single values do not decay."""
    depths = {"image_tower": len(model.image_tower.vit.blocks), "text_tower": len(model.text_tower.bert.encoder.layer)}
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        embedding = ("embed" in name and "proj" not in name) or name.endswith(("positions", "mask_token"))
        decay = 0.0 if parameter.ndim < 2 or embedding else config.weight_decay
        scale = config.layer_decay ** _layers_above(name, depths)
        muon = config.optimizer == "muon" and parameter.ndim == 2 and _BLOCK.match(name) is not None
        groups[muon, decay, scale].append(parameter)

    def parameters(muon: bool) -> list[dict[str, object]]:
        return [
            {"params": members, "weight_decay": decay, "rate_scale": scale}
            for (kind, decay, scale), members in groups.items()
            if kind == muon
        ]

    optimizers: list[Optimizer] = [
        torch.optim.AdamW(parameters(False), lr=0.0, betas=(config.beta1, config.beta2), fused=True)
    ]
    if config.optimizer == "muon":
        # Updates of the size of AdamW's, so that one learning rate and one decay serve both (arXiv 2502.16982, section 2.2).
        optimizers.append(torch.optim.Muon(parameters(True), lr=0.0, adjust_lr_fn="match_rms_adamw"))
    return tuple(optimizers)


def set_learning_rate(optimizers: Sequence[Optimizer], rate: float) -> None:
    """Set the learning rate of a step, scaled as each group's depth asks."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]


def learning_rate(step: int, config: Optim) -> float:
    """Return the learning rate of a step: a linear warm-up, then half a cosine down to `final_fraction` of the peak."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return config.learning_rate * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


def _layers_above(name: str, depths: dict[str, int]) -> int:
    """Count the layers between a weight and the end of its tower; what is no tower's lies above both."""
    if not name.startswith(_TOWERS):
        return 0
    depth = depths[name.partition(".")[0]]
    block = _BLOCK.match(name)
    if block is not None:
        return depth - int(block[2])
    return 0 if name.startswith("image_tower.vit.norm.") else depth + 1


class Average:
    """An exponential moving average of weights (EMA), kept in float32 beside a model."""

    def __init__(self, model: MCR, decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: MCR, step: int) -> None:
        """Take in the weights after `step`; early steps weigh more, so that the untrained start is soon forgotten."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, tensor in self._float_state(model):
            self.weights[name].lerp_(tensor, 1.0 - decay)

    @staticmethod
    def _float_state(model: MCR) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, tensor) for name, tensor in model.state_dict().items() if tensor.is_floating_point())
