"""The MCR dual encoder: one masked pass through two towers feeds both the contrastive and the reconstruction task.

    patches [N, V, P*P] + positions [N, V] -> image tower -> map each token -> [N, V, D] -> aggregate -> [N, D] --+
                                                  |                                  \\                           contrast
    tokens [N, T], some [MASK]             -> text tower  -> map each token -> [N, T, D] \\-> aggregate -> [N, D] --+
                                                  |                                       \\
                    image decoder -> hidden patches;      report decoder (also sees the mapped patches) -> hidden words

`encode_image` and `encode_text` are what inference runs and export traces; standardisation and the L2 norm are inside.
"""

import math
from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from mcr_infer.errors import ConfigError
from train import config as cfg
from train.data import Batch

MASK_TOKEN = 4
"""Id of [MASK] in every tokenizer of the project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one training pass gives; the reconstructions are None where nothing was hidden."""

    image: Tensor
    """[N, D] unit embeddings"""
    text: Tensor
    """[N, D] unit embeddings"""
    scale: Tensor
    """Inverse temperature"""
    patches: Tensor | None
    """[N, M, P*P] hidden patches, normalised one by one"""
    words: Tensor | None
    """[W, V] logits of the hidden tokens, in the order of `word_mask`"""


class ImageEncoder(nn.Module):
    """A timm ViT that takes visible patches and their positions instead of a picture."""

    def __init__(self, config: cfg.ImageTower) -> None:
        super().__init__()
        overrides = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads}
        self.vit = timm.create_model(
            config.vit, img_size=config.image_size, patch_size=config.patch_size, in_chans=1, num_classes=0,
            class_token=False, global_pool="", **{key: value for key, value in overrides.items() if value is not None},
        )  # fmt: skip
        self.width: int = self.vit.embed_dim
        # Buffers, not numbers: they change what an embedding means, so they belong to the weights that are fingerprinted.
        self.register_buffer("mean", torch.tensor(config.pixel_mean))
        self.register_buffer("std", torch.tensor(config.pixel_std))

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Encode visible patches [N, K, P*P] at positions [N, K] to tokens [N, K, W]."""
        projection = self.vit.patch_embed.proj
        # The patch projection is a convolution whose stride is its size: over cut patches it is a matrix product.
        tokens = F.linear((patches - self.mean) / self.std, projection.weight.flatten(1), projection.bias)
        tokens = tokens + F.embedding(positions, self.vit.pos_embed[0])
        return self.vit.norm(self.vit.blocks(self.vit.norm_pre(tokens)))


class TextEncoder(nn.Module):
    """A transformers BERT without its pooler."""

    def __init__(self, config: cfg.TextTower) -> None:
        super().__init__()
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
        self.width = config.width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens [N, T] to [N, T, W]; positions whose attention_mask [N, T] is 0 are seen by no other."""
        # Four axes, so that transformers takes the mask as it is: its own preparation branches on the values.
        # Added to the scores; BERT's own -10000 keeps exp at 0 and survives half precision.
        hidden = -10_000.0 * (attention_mask == 0).float()[:, None, None, :]
        return self.bert(input_ids=input_ids, attention_mask=hidden).last_hidden_state


class TokenMap(nn.Sequential):
    """The map of one token into the common space: linear or MLP, with or without a LayerNorm at its end."""

    def __init__(self, width: int, config: cfg.CommonSpace) -> None:
        layers: list[nn.Module] = [nn.Linear(width, config.embedding_dim)]
        if config.map == "mlp":
            layers = [nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.embedding_dim)]
        if config.map_norm:
            layers.append(nn.LayerNorm(config.embedding_dim))
        super().__init__(*layers)


class Aggregator(nn.Module):
    """Many tokens become one vector; every kind also says how much each token contributed.

    attention  softmax of a small scorer; the weights are those of the sum
    mean       1/n each
    max        the largest value in each dimension; weight = share of the dimensions that a token wins, ties split
    gem        generalised mean of the positive part with a learnt power; weight = share of the powered sum, averaged
               over dimensions (Radenovic et al., arXiv 1711.02512)
    """

    def __init__(self, width: int, config: cfg.CommonSpace) -> None:
        super().__init__()
        self.kind = config.aggregation
        if self.kind == "attention":
            hidden = config.scorer_width
            # The last layer has no bias: a softmax over tokens would not feel it.
            self.scorer = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        elif self.kind == "gem":
            self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate tokens [N, K, C] where `present` [N, K] is True to [N, C] and weights [N, K] that sum to 1."""
        tokens, there = tokens.float(), present[:, :, None]
        count = there.float().sum(dim=1)
        if self.kind == "attention":
            scores = self.scorer(tokens).float().masked_fill(~there, -torch.inf)
            weights = scores.softmax(dim=1)
            return (weights * tokens).sum(dim=1), weights[:, :, 0]
        if self.kind == "mean":
            weights = there.float() / count[:, None, :]
            return (weights * tokens).sum(dim=1), weights[:, :, 0]
        if self.kind == "max":
            masked = tokens.masked_fill(~there, -torch.inf)
            largest = masked.amax(dim=1)
            wins = (masked == largest[:, None, :]).float()
            return largest, (wins / wins.sum(dim=1, keepdim=True)).mean(dim=2)
        power = self.power.clamp(1.0, 10.0)
        powered = tokens.clamp(min=1e-4) ** power * there.float()
        total = powered.sum(dim=1)
        return (total / count) ** (1.0 / power), (powered / total[:, None, :]).mean(dim=2)


class ImageDecoder(nn.Module):
    """MAE-style: visible tokens and mask tokens with their positions through light ViT blocks to hidden patches."""

    def __init__(self, width: int, image: cfg.ImageTower, config: cfg.Decoders) -> None:
        super().__init__()
        patches = (image.image_size // image.patch_size) ** 2
        self.enter = nn.Linear(width, config.image_width)
        self.mask_token = nn.Parameter(torch.randn(config.image_width) * 0.02)
        self.positions = nn.Parameter(torch.randn(patches, config.image_width) * 0.02)
        self.blocks = nn.Sequential(
            *(Block(config.image_width, config.image_heads, qkv_bias=True) for _ in range(config.image_depth))
        )
        self.norm = nn.LayerNorm(config.image_width)
        self.leave = nn.Linear(config.image_width, image.patch_size**2)

    def forward(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict patches [N, M, P*P] at `hidden` [N, M] from tokens [N, V, W] at `visible` [N, V]."""
        seen = self.enter(tokens) + F.embedding(visible, self.positions)
        asked = self.mask_token + F.embedding(hidden, self.positions)
        out = self.blocks(torch.cat((seen, asked.to(seen.dtype)), dim=1))
        return self.leave(self.norm(out[:, visible.shape[1] :]))


class ReportDecoder(nn.Module):
    """Text tokens ask the mapped visible patches what stood at the hidden words; the word embeddings are the tower's."""

    def __init__(self, width: int, space_dim: int, vocab_size: int, config: cfg.Decoders) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, config.report_heads, kdim=space_dim, vdim=space_dim, batch_first=True)
        self.norm_mid = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm_out = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, tokens: Tensor, image: Tensor, word_mask: Tensor, words: Tensor) -> Tensor:
        """Predict logits [H, V] of the H hidden tokens from tokens [N, T, W], image [N, K, D] and embeddings [V, W]."""
        found, _ = self.cross(self.norm_in(tokens), image, image, need_weights=False)
        asked = (tokens + found)[word_mask]
        asked = self.norm_out(asked + self.mlp(self.norm_mid(asked)))
        return F.linear(asked, words, self.bias)


class MCR(nn.Module):
    """Masked Contrastive Reconstruction: two towers, Mapping before Aggregation, two decoders."""

    def __init__(self, config: cfg.Model, *, temperature: float = 0.07, max_logit_scale: float = 100.0) -> None:
        super().__init__()
        space = config.space
        self.image_tower = ImageEncoder(config.image)
        self.text_tower = TextEncoder(config.text)
        widths = {"image": self.image_tower.width, "text": self.text_tower.width}
        self.maps = nn.ModuleDict({name: TokenMap(width, space) for name, width in widths.items()})
        self.before = space.mapping == "before"
        pooled = dict.fromkeys(widths, space.embedding_dim) if self.before else widths
        self.aggregators = nn.ModuleDict(aggregators(pooled, space))
        self.image_decoder = ImageDecoder(widths["image"], config.image, config.decoders)
        self.report_decoder = ReportDecoder(
            widths["text"], space.embedding_dim, config.text.vocab_size, config.decoders
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / temperature)))
        self.max_logit_scale = math.log(max_logit_scale)

    def encode_image(self, patches: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed visible patches [N, K, P*P] at positions [N, K]: unit embedding [N, D], local [N, K, D], weights [N, K]."""
        tokens = self.image_tower(patches, positions)
        return self._enter_space("image", tokens, torch.ones_like(positions, dtype=torch.bool))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed tokens [N, T]: unit embedding [N, D], local [N, T, D], weights [N, T] with 0 at padding."""
        tokens = self.text_tower(input_ids, attention_mask)
        return self._enter_space("text", tokens, attention_mask > 0)

    def forward(self, batch: Batch) -> Output:
        """Run the one masked pass: both embeddings and both reconstructions come from the same visible tokens."""
        visible = batch.patches.gather(1, batch.visible[:, :, None].expand(-1, -1, batch.patches.shape[2]))
        image_tokens = self.image_tower(visible, batch.visible)
        image, image_local, _ = self._enter_space(
            "image", image_tokens, torch.ones_like(batch.visible, dtype=torch.bool)
        )
        text_tokens = self.text_tower(batch.input_ids.masked_fill(batch.word_mask, MASK_TOKEN), batch.attention_mask)
        text, _, _ = self._enter_space("text", text_tokens, batch.attention_mask > 0)
        patches = words = None
        if batch.hidden.shape[1]:
            patches = self.image_decoder(image_tokens, batch.visible, batch.hidden)
        if batch.word_mask.any():
            embeddings = self.text_tower.bert.embeddings.word_embeddings.weight
            words = self.report_decoder(text_tokens, image_local, batch.word_mask, embeddings)
        return Output(image=image, text=text, scale=self.scale(), patches=patches, words=words)

    def use_plain_attention(self) -> None:
        """Compute attention in the towers and the image decoder as two products and a softmax, not by a fused kernel."""
        self.text_tower.bert.set_attn_implementation("eager")
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused_attn = False

    def scale(self) -> Tensor:
        """Return the inverse temperature, clamped from above (CLIP, arXiv 2103.00020, section 2.5)."""
        return self.logit_scale.clamp(max=self.max_logit_scale).exp()

    def _enter_space(self, name: str, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map and aggregate tower tokens [N, K, W] in the configured order."""
        local = self.maps[name](tokens).float()
        aggregate = self.aggregators[name if name in self.aggregators else "shared"]
        if self.before:
            pooled, weights = aggregate(local, present)
        else:
            pooled, weights = aggregate(tokens, present)
            pooled = self.maps[name](pooled).float()
        return F.normalize(pooled, dim=-1), local, weights


def aggregators(widths: dict[str, int], space: cfg.CommonSpace) -> dict[str, Aggregator]:
    """Make one aggregator for both modalities, under the name `shared`, or one each."""
    if not space.shared_aggregator:
        return {name: Aggregator(width, space) for name, width in widths.items()}
    if len(set(widths.values())) > 1 and space.aggregation == "attention":
        raise ConfigError(
            f"a shared attention aggregator needs tokens of one width, got {widths}: set model.space.mapping to "
            "'before', give both towers the same width, or set model.space.shared_aggregator to false"
        )
    return {"shared": Aggregator(next(iter(widths.values())), space)}
