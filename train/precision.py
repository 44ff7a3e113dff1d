"""The precision in which towers and decoders run; losses and weights stay in float32."""

import torch

from train.config import Config

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, config: Config) -> torch.autocast:
    """Return the context of a run's precision on a device."""
    return torch.autocast(device.type, _DTYPES[config.run.precision], enabled=config.run.precision != "fp32")
