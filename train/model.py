"""The MCR dual encoder: one masked pass through two towers feeds both the contrastive and the reconstruction task.

    patches [N, V, P*P] + positions [N, V] -> image tower -> map each token -> [N, V, D] -> aggregate -> [N, D] --+
                                                  |                                  \\                           contrast
    tokens [N, T], some [MASK]             -> text tower  -> map each token -> [N, T, D] \\-> aggregate -> [N, D] --+
                                                  |                                       \\
                    image decoder -> hidden patches;      report decoder (also sees the mapped patches) -> hidden words

The dual stream, the framework that MCR is measured against, contrasts whole inputs in a second pass through the same
towers. `encode_image` and `encode_text` are what inference runs and export traces; standardisation and the L2 norm are
inside.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from transformers import BertConfig

from train import config as cfg
from train.data import Batch
from train.decoders import ImageDecoder, ReportDecoder
from train.space import TokenMap, aggregators
from train.towers import ImageEncoder, TextEncoder


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
    """[N, M, S*S] hidden patches, normalised one by one"""
    words: Tensor | None
    """[W, V] logits of the hidden tokens, in the order of `word_mask`"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One modality after its tower and in the common space: R = N rows of images, R >= N of reports."""

    tokens: Tensor
    """[R, K, W]"""
    local: Tensor
    """[R, K, D], mapped one by one"""
    present: Tensor
    """bool [R, K], False = padding"""
    embedding: Tensor
    """[N, D], unit"""


class MCR(nn.Module):
    """Masked Contrastive Reconstruction: two towers, Mapping before Aggregation, two decoders."""

    def __init__(self, config: cfg.Config, *, fill: bool = True, text_settings: BertConfig | None = None) -> None:
        """Build the model; `fill` and `text_settings` as the towers take them, for weights that a checkpoint has."""
        super().__init__()
        space, decoders = config.model.space, config.model.decoders
        self.image_tower = ImageEncoder(config.model.image, fill=fill)
        self.text_tower = TextEncoder(config.model.text, settings=text_settings)
        widths = {"image": self.image_tower.width, "text": self.text_tower.width}
        cfg.check_report_heads(decoders, widths["text"])  # a pretrained tower brings a width of its own
        self.maps = nn.ModuleDict({name: TokenMap(width, space) for name, width in widths.items()})
        self.before = space.mapping == "before"
        pooled = dict.fromkeys(widths, space.embedding_dim) if self.before else widths
        self.aggregators = nn.ModuleDict(aggregators(pooled, space))
        self.image_decoder = ImageDecoder(widths["image"], config.model.image, decoders)
        self.drops_words = config.masking.text_mode == "drop"
        vocabulary = self.text_tower.bert.config.vocab_size
        self.report_decoder = ReportDecoder(
            widths["text"], space.embedding_dim, vocabulary, decoders, asks=self.drops_words
        )
        self.length_groups = config.run.length_groups
        self.dual_stream = config.framework == "dual_stream"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1.0 / config.loss.temperature)))
        self.max_logit_scale = math.log(config.loss.max_logit_scale)

    def encode_image(self, patches: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed visible patches [N, K, P*P] at positions [N, K]: unit embedding [N, D], local [N, K, D], weights [N, K]."""
        tokens = self.image_tower(patches, positions)
        return self._enter_space("image", tokens, torch.ones_like(positions, dtype=torch.bool))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed tokens [N, T]: unit embedding [N, D], local [N, T, D], weights [N, T] with 0 at padding."""
        tokens = self.text_tower(input_ids, attention_mask)
        return self._enter_space("text", tokens, attention_mask > 0)

    def encode_visible(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed what a batch leaves visible of images and reports: unit embeddings [N, D] each."""
        return self._see(batch).embedding, self._read(batch).embedding

    def forward(self, batch: Batch) -> Output:
        """Run the one masked pass: both embeddings and both reconstructions come from the same visible tokens."""
        image, text = self._see(batch), self._read(batch)
        patches = words = None
        if batch.hidden.shape[1]:
            patches = self.image_decoder(image.tokens, batch.visible, batch.hidden)
        if batch.word_mask.any():
            words = self._recall_words(batch, image, text)
        contrasted = (image.embedding, text.embedding)
        if self.dual_stream and (patches is not None or words is not None):
            contrasted = self._contrast_whole(batch)
        return Output(image=contrasted[0], text=contrasted[1], scale=self.scale(), patches=patches, words=words)

    def use_plain_attention(self) -> None:
        """Compute attention in the towers and the image decoder as two products and a softmax, not by a fused kernel."""
        self.text_tower.bert.set_attn_implementation("eager")
        for module in self.modules():
            if isinstance(module, Attention):
                module.fused_attn = False

    def use_gradient_checkpointing(self) -> None:
        """Keep only what enters each block of the towers, and compute the block again in the backward pass."""
        self.image_tower.vit.set_grad_checkpointing()
        self.text_tower.bert.activation_checkpointing_enable({"use_reentrant": False})

    def scale(self) -> Tensor:
        """Return the inverse temperature, clamped from above (CLIP, arXiv 2103.00020, section 2.5)."""
        return self.logit_scale.clamp(max=self.max_logit_scale).exp()

    def _see(self, batch: Batch) -> Encoded:
        """Encode the visible patches."""
        patches = batch.patches.gather(1, batch.visible[:, :, None].expand(-1, -1, batch.patches.shape[2]))
        tokens = self.image_tower(patches, batch.visible)
        present = torch.ones_like(batch.visible, dtype=torch.bool)
        embedding, local, _ = self._enter_space("image", tokens, present)
        return Encoded(tokens=tokens, local=local, present=present, embedding=embedding)

    def _read(self, batch: Batch) -> Encoded:
        """Encode the reports with their hidden words masked or dropped."""
        if self.drops_words:
            kept = (batch.attention_mask > 0) & ~batch.word_mask
            # Kept tokens move to the front, in their order; the rest is padding.
            order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(kept.sum(dim=1).max())]
            ids, present, positions = batch.input_ids.gather(1, order), kept.gather(1, order), order
        else:
            ids, present, positions = batch.masked_ids, batch.attention_mask > 0, None
        tokens = self.text_tower.by_length(ids, present, positions, groups=self.length_groups)
        vectors, local, _ = self._enter_space("text", tokens, present)
        return Encoded(tokens=tokens, local=local, present=present, embedding=_of_reports(vectors, batch))

    def _recall_words(self, batch: Batch, image: Encoded, text: Encoded) -> Tensor:
        """Predict the hidden words: from their [MASK] tokens and the image, or from image and kept words alone."""
        # Hidden words move to the front, in their order: nothing else needs to ask.
        places = (~batch.word_mask).to(torch.uint8).argsort(dim=1, stable=True)
        places = places[:, : int(batch.word_mask.sum(dim=1).max())]
        asking = batch.word_mask.gather(1, places)
        seen, there = image.local, image.present
        if len(asking) > len(seen):
            seen, there = seen[batch.pair_of], there[batch.pair_of]
        embeddings = self.text_tower.bert.embeddings
        if self.drops_words:
            asked = self.report_decoder.ask(embeddings.position_embeddings(places))
            memory = torch.cat((seen, text.local), dim=1)
            absent = ~torch.cat((there, text.present), dim=1)
        else:
            asked = text.tokens.gather(1, places[:, :, None].expand(-1, -1, text.tokens.shape[2]))
            memory, absent = seen, None
        return self.report_decoder(asked, memory, absent, asking, embeddings.word_embeddings.weight)

    def _contrast_whole(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Embed whole images and whole reports: the second stream."""
        positions = torch.arange(batch.patches.shape[1], device=batch.patches.device).expand(batch.patches.shape[:2])
        image, _, _ = self.encode_image(batch.patches, positions)
        present = batch.attention_mask > 0
        tokens = self.text_tower.by_length(batch.input_ids, present, None, groups=self.length_groups)
        text, _, _ = self._enter_space("text", tokens, present)
        return image, _of_reports(text, batch)

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


def _of_reports(vectors: Tensor, batch: Batch) -> Tensor:
    """Return the unit embeddings of whole reports [N, D] from those of their rows [R, D], as inference does: their mean."""
    if len(vectors) == len(batch.keys):
        return vectors
    sums = vectors.new_zeros(len(batch.keys), vectors.shape[1]).index_add(0, batch.pair_of, vectors)
    return F.normalize(sums, dim=-1)
