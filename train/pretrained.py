"""Weights that others trained: a timm or MAE checkpoint for the image tower, a BERT for the text tower.

What fits is adapted (grey input, positions interpolated, patch projection resampled, class token left out); a weight that
is missing or that nobody can place is an error, never a silent start from noise.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv, create_model
from timm.models import load_state_dict as read_checkpoint
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import AutoConfig, AutoModel, BertModel

from mcr_infer.errors import ConfigError
from train import config as cfg

_LEFT_BEHIND = ("cls_token", "reg_token", "mask_token", "head.", "fc_norm.", "attn_pool.", "decoder_", "pre_logits.")
"""Parts of a ViT or an MAE checkpoint that a tower of patch tokens has no use for."""


@contextlib.contextmanager
def reading(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever reading others' weights raises into a `ConfigError` that says what to do.

    What hubs, pickles, safetensors and tokenizers raise over a lost connection or a damaged file has no base in common but
    Exception (seen: EOFError, KeyError, RuntimeError, SafetensorError, and a bare Exception).
    """
    try:
        yield
    except Exception as exc:
        why = " ".join(f"{type(exc).__name__}: {exc}".split())[:300]
        raise ConfigError(f"{what} cannot be read ({why}): {remedy}") from exc


def load_vit(vit: VisionTransformer, config: cfg.ImageTower) -> None:
    """Fill a ViT over grey patches from `config.pretrained`; raises `ConfigError` where that fails."""
    where = str(config.pretrained)
    if where == "hub":
        offline = (
            "without a network, or for a ViT of which timm has no weights, give a file (.safetensors or .pth) instead"
        )
        with reading(f"model.image.pretrained 'hub' of {config.vit!r}", offline):
            weights = create_model(config.vit, pretrained=True, num_classes=0).state_dict()
    elif Path(where).is_file():
        damaged = "it is cut, damaged or no checkpoint of weights; fetch it again, or save its state_dict alone"
        with reading(f"model.image.pretrained {where!r}", damaged):
            weights = read_checkpoint(where, device="cpu", weights_only=True)
            if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
                raise TypeError("it names something else than tensors")
    else:
        raise ConfigError(f"model.image.pretrained must be 'hub' or a file, got {where!r}, which is neither")
    wanted = vit.state_dict()
    found = {name: tensor for name, tensor in weights.items() if not name.startswith(_LEFT_BEHIND)}
    unknown, missing = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    if unknown or missing:
        raise ConfigError(
            f"{where} does not fit {config.vit}: {len(missing)} weights are missing {missing[:3]}, "
            f"{len(unknown)} are unknown {unknown[:3]}"
        )
    kernel, positions = found["patch_embed.proj.weight"], found["pos_embed"]
    if kernel.ndim != 4 or kernel.shape[1] not in (1, 3) or positions.ndim != 3:
        raise ConfigError(
            f"{where} does not fit {config.vit}: patch_embed.proj.weight has shape {tuple(kernel.shape)}, expected "
            f"(width, 1 or 3 colours, P, P); pos_embed has shape {tuple(positions.shape)}, expected (1, patches, width)"
        )
    kernel = resample_patch_embed(kernel.float(), [config.patch_size, config.patch_size])
    found["patch_embed.proj.weight"] = adapt_input_conv(1, kernel)
    found["pos_embed"] = _positions(positions, vit.patch_embed.grid_size)
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise ConfigError(
                f"{where} does not fit {config.vit}: {name} has shape {tuple(tensor.shape)}, "
                f"the tower's is {tuple(wanted[name].shape)}"
            )
    vit.load_state_dict(found)


def _positions(embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring position embeddings [1, prefix + G*G, W] to a grid [1, grid, W], those of class and register tokens left out."""
    side = int(embedding.shape[1] ** 0.5)
    patches = embedding[:, embedding.shape[1] - side * side :]
    return resample_abs_pos_embed(patches.float(), new_size=list(grid), num_prefix_tokens=0)


def load_bert(config: cfg.TextTower) -> BertModel:
    """Load a BERT from a hub name or a folder, with the dropout of the configuration; raises `ConfigError`."""
    where = str(config.pretrained)
    with reading(f"model.text.pretrained {where!r}", remedy_for(where)):
        settings = AutoConfig.from_pretrained(where)
    if settings.model_type != "bert":
        raise ConfigError(f"model.text.pretrained must be a BERT, {where!r} is of type {settings.model_type!r}")
    if settings.max_position_embeddings < config.max_tokens:
        raise ConfigError(
            f"model.text.max_tokens {config.max_tokens} is more than the {settings.max_position_embeddings} positions "
            f"of {where}"
        )
    settings.hidden_dropout_prob = settings.attention_probs_dropout_prob = config.dropout
    with reading(f"the weights of model.text.pretrained {where!r}", remedy_for(where)):
        bert, told = AutoModel.from_pretrained(
            where, config=settings, add_pooling_layer=False, dtype=torch.float32, output_loading_info=True
        )
    assert isinstance(bert, BertModel)
    # transformers fills these with noise and goes on.
    if missing := sorted(told["missing_keys"]):
        raise ConfigError(
            f"model.text.pretrained {where!r} lacks {len(missing)} weights of its tower {missing[:3]}: take a complete "
            "checkpoint, saved as a BERT"
        )
    return bert


def remedy_for(where: str) -> str:
    """Say what to do about a pretrained text tower that cannot be read."""
    if Path(where).exists():
        return (
            "it must be a folder with config.json, the weights and the vocabulary; fetch again what is cut or damaged"
        )
    return (
        "it is no local folder, so it was sought on the hub; without a network, give a folder with config.json, the weights "
        "and the vocabulary"
    )
