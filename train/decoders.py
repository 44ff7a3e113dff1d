"""The two reconstruction decoders: what was hidden from the towers is asked of their tokens. Left behind at export."""

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from train import config as cfg


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
        self.leave = nn.Linear(config.image_width, (config.super_resolution * image.patch_size) ** 2)

    def forward(self, tokens: Tensor, visible: Tensor, hidden: Tensor) -> Tensor:
        """Predict patches [N, M, S*S] at `hidden` [N, M] from tokens [N, V, W] at `visible` [N, V]."""
        seen = self.enter(tokens) + F.embedding(visible, self.positions)
        asked = self.mask_token + F.embedding(hidden, self.positions)
        out = self.blocks(torch.cat((seen, asked.to(seen.dtype)), dim=1))
        return self.leave(self.norm(out[:, visible.shape[1] :]))


class ReportDecoder(nn.Module):
    """Tokens at the hidden words ask a memory of mapped tokens what stood there; the word embeddings are the tower's."""

    def __init__(self, width: int, space_dim: int, vocab_size: int, config: cfg.Decoders, *, asks: bool) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02) if asks else None
        self.norm_in = nn.LayerNorm(width)
        self.cross = nn.MultiheadAttention(width, config.report_heads, kdim=space_dim, vdim=space_dim, batch_first=True)
        self.norm_mid = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norm_out = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def ask(self, positions: Tensor) -> Tensor:
        """Make the tokens that ask for words the tower never saw, from position embeddings [N, T, W]."""
        return self.mask_token + positions

    def forward(self, asked: Tensor, memory: Tensor, absent: Tensor | None, asking: Tensor, words: Tensor) -> Tensor:
        """Predict logits [H, V] of the H tokens of `asked` [N, T, W] that `asking` [N, T] marks, row by row.

        From a memory [N, K, D] of which `absent` [N, K] does not count (None: all does), and word embeddings [V, W].
        """
        found, _ = self.cross(self.norm_in(asked), memory, memory, key_padding_mask=absent, need_weights=False)
        answers = (asked + found)[asking]
        answers = self.norm_out(answers + self.mlp(self.norm_mid(answers)))
        return F.linear(answers, words, self.bias)
