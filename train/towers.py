"""The two towers: visible patches and kept words become tokens; each tower can start from pretrained weights."""

import torch
import torch.nn.functional as F
from timm.models import create_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertModel

from mcr_infer.errors import ConfigError
from train import config as cfg
from train.pretrained import load_bert, load_vit


class ImageEncoder(nn.Module):
    """A timm ViT that takes visible patches and their positions instead of a picture."""

    def __init__(self, config: cfg.ImageTower, *, fill: bool = True) -> None:
        """Build the tower; `fill` False leaves pretrained weights out, where a checkpoint will replace them."""
        super().__init__()
        overrides = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads}
        try:
            self.vit = create_model(
                config.vit, img_size=config.image_size, patch_size=config.patch_size, in_chans=1, num_classes=0,
                class_token=False, reg_tokens=0, global_pool="",
                **{key: value for key, value in overrides.items() if value is not None},
            )  # fmt: skip
        except (AssertionError, RuntimeError, TypeError) as exc:
            why = str(exc) or "its stem does not take these sizes"
            raise ConfigError(f"timm cannot build model.image.vit {config.vit!r} as a plain ViT: {why}") from exc
        if type(self.vit) is not VisionTransformer or not isinstance(self.vit.patch_embed.proj, nn.Conv2d):
            raise ConfigError(
                f"model.image.vit {config.vit!r} is no plain ViT (timm builds {type(self.vit).__name__}): the tower takes "
                "cut patches with learnt positions; name another, such as vit_base_patch16_224"
            )
        self.width: int = self.vit.embed_dim
        if fill and config.pretrained is not None:
            load_vit(self.vit, config)
        # Buffers, not numbers: they change what an embedding means, so they belong to the weights that are fingerprinted.
        self.register_buffer("mean", torch.tensor(config.pixel_mean))
        self.register_buffer("std", torch.tensor(config.pixel_std))
        raised = frequency_basis(config.patch_size, config.frequency_gain) if config.frequency_gain else None
        self.register_buffer("basis", raised)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Encode visible patches [N, K, P*P] at positions [N, K] to tokens [N, K, W]."""
        projection = self.vit.patch_embed.proj
        pixels = (patches - self.mean) / self.std
        if self.basis is not None:
            # In full precision: what is raised here is smaller than the rounding of half precision beside the mean.
            with torch.autocast(patches.device.type, enabled=False):
                pixels = pixels @ self.basis
        # A convolution whose stride is its size: over cut patches it is a matrix product.
        tokens = F.linear(pixels, projection.weight.flatten(1), projection.bias)
        tokens = self.vit.norm_pre(tokens + F.embedding(positions, self.vit.pos_embed[0]))
        for block in self.vit.blocks:
            recompute = self.vit.grad_checkpointing and self.training
            tokens = checkpoint(block, tokens, use_reentrant=False) if recompute else block(tokens)
        return self.vit.norm(tokens)


def frequency_basis(side: int, gain: float) -> Tensor:
    """Return the matrix [P*P, P*P] that takes the pixels of a patch to its cosine transform (DCT-II), fine detail raised.

    The variance of radiographs falls by orders of magnitude from one frequency to the next, and a linear projection learns
    directions of little variance last: catheters and tubes among them. Raising them helps as whitening does (compare
    arXiv 2404.00498), without statistics of a data set.
    """
    order = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(torch.pi * (order[None, :] + 0.5) * order[:, None] / side) * (2.0 / side) ** 0.5
    waves[0] /= 2.0**0.5
    gains = 1.0 + gain * (order[:, None] ** 2 + order[None, :] ** 2)
    return (torch.kron(waves, waves) * gains.reshape(-1, 1)).T.float().contiguous()


class TextEncoder(nn.Module):
    """A transformers BERT without its pooler."""

    def __init__(self, config: cfg.TextTower, *, settings: BertConfig | None = None) -> None:
        """Build the tower; with the `settings` of a pretrained one only its shape, where a checkpoint has the weights."""
        super().__init__()
        if settings is not None:
            self.bert = BertModel(settings, add_pooling_layer=False)
        elif config.pretrained is not None:
            self.bert = load_bert(config)
        else:
            self.bert = BertModel(
                BertConfig(
                    vocab_size=config.vocab_size,
                    hidden_size=config.width,
                    num_hidden_layers=config.depth,
                    num_attention_heads=config.heads,
                    intermediate_size=4 * config.width,
                    max_position_embeddings=config.max_tokens,
                    type_vocab_size=1,
                    hidden_dropout_prob=config.dropout,
                    attention_probs_dropout_prob=config.dropout,
                    pad_token_id=0,
                    attn_implementation="sdpa",
                ),
                add_pooling_layer=False,
            )
        self.width: int = self.bert.config.hidden_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Encode tokens [N, T] to [N, T, W]; those whose attention_mask [N, T] is 0 are seen by no other.

        `positions` [N, T] say where in the report the tokens stood, where some were dropped; None = 0 to T - 1.
        """
        # Four axes, so that transformers takes the mask as it is: its own preparation branches on the values.
        # Added to the scores; BERT's own -10000 keeps exp at 0 and survives half precision.
        hidden = -10_000.0 * (attention_mask == 0).float()[:, None, None, :]
        return self.bert(input_ids=input_ids, attention_mask=hidden, position_ids=positions).last_hidden_state

    def by_length(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None, *, groups: int) -> Tensor:
        """Do as `forward`, in groups of reports of like length: short ones are not padded to the longest of the batch.

        What comes out at padding means nothing. Worth it on a CPU, where padding costs as much as words do.
        """
        lengths = attention_mask.sum(dim=1)
        order = lengths.argsort()
        encoded = []
        for rows in order.chunk(groups):
            end = int(lengths[rows].max())
            where = None if positions is None else positions[rows, :end]
            tokens = self(input_ids[rows, :end], attention_mask[rows, :end], where)
            encoded.append(F.pad(tokens, (0, 0, 0, input_ids.shape[1] - end)))
        return torch.cat(encoded)[order.argsort()]
