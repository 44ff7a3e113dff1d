"""Text towers of models from elsewhere, in the shape that a bundle serves.

    input_ids, attention_mask [N, T] -> words [N, T, W] -> pooled and projected -> embedding [N, D], local [N, T, D],
                                                                                   weights [N, T]

What fills a text up is decided here, in the graph, and not by whoever feeds it: each tower sees the filling that it saw in
training, whatever stands under an attention mask of 0.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcr_infer.inference.tokenizer import Padding

Pooling = Literal["first", "end", "last", "mean"]


class TextTower(nn.Module):
    """Words of one of the encoders below, pooled and projected."""

    LOCAL = "each word's last token through the projection of the pooled one"
    WEIGHTS = "uniform"

    def __init__(
        self, words: nn.Module, finish: nn.Module, *, pooling: Pooling, padding: Padding, max_tokens: int
    ) -> None:
        """Take over the parts.

        `words` brings input_ids and attention_mask [N, T] to [N, T, W]; `finish` brings a pooled token [..., W] to
        [..., D]; `pooling` takes the first token, the token that ends the text, the last one of all with the filling, or
        the mean of the words.
        """
        super().__init__()
        self.words, self.finish, self.pooling, self.max_tokens = words, finish, pooling, max_tokens
        self.fills = padding.seen == "all"
        self.register_buffer("pad", torch.tensor(padding.token_id))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed tokens [N, T]: unit embedding [N, D], local [N, T, D], weights [N, T] with 0 at padding."""
        length, there = input_ids.shape[1], attention_mask > 0
        ids = torch.where(there, input_ids, self.pad)
        mask = attention_mask
        if self.fills:
            # Shapes that do not depend on T: the places beyond it repeat its last token, and are then filled.
            places = torch.arange(self.max_tokens, device=ids.device)
            inside = places.clamp(max=length - 1)
            mask = attention_mask[:, inside] * (places < length)
            ids = torch.where(mask > 0, ids[:, inside], self.pad)
        hidden = self.words(ids, mask)
        count = attention_mask.sum(dim=1, keepdim=True)
        weights = there.float() / count
        if self.pooling == "mean":
            pooled = (hidden[:, :length] * weights[:, :, None]).sum(dim=1)
        elif self.pooling == "end":
            pooled = hidden.gather(1, (count - 1)[:, :, None].expand(-1, -1, hidden.shape[2]))[:, 0]
        else:
            pooled = hidden[:, 0 if self.pooling == "first" else -1]
        return F.normalize(self.finish(pooled), dim=-1), self.finish(hidden[:, :length]), weights


class TokenEncoder(nn.Module):
    """Token and position embeddings, blocks and a norm: the text encoder of CLIP (causal) and of SigLIP (not causal)."""

    def __init__(
        self, *, tokens: nn.Module, positions: Tensor, blocks: nn.Module, norm: nn.Module, causal: bool
    ) -> None:
        """Take over the parts: `positions` [T, W]; `blocks` is called with tokens [N, T, W] and a mask or None."""
        super().__init__()
        self.tokens, self.blocks, self.norm, self.causal = tokens, blocks, norm, causal
        self.positions = nn.Parameter(positions.detach().clone())

    def forward(self, ids: Tensor, _mask: Tensor) -> Tensor:
        """Encode tokens [N, T] to [N, T, W]; the attention mask plays no part."""
        length = ids.shape[1]
        seen = None
        if self.causal:
            places = torch.arange(length, device=ids.device)
            later = places[None, :] > places[:, None]
            # Added to the scores: exp of it is 0, and half precision can hold it.
            seen = torch.zeros(length, length, device=ids.device).masked_fill(later, -10_000.0)
        return self.norm(self.blocks(self.tokens(ids) + self.positions[:length], seen))


class BertEncoder(nn.Module):
    """A transformers BERT or RoBERTa: the attention mask hides the filling."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode tokens [N, T] to [N, T, W]; those whose mask [N, T] is 0 are seen by no other."""
        # Four axes, so that transformers takes it as it is: its own preparation branches on the values.
        hidden = -10_000.0 * (mask == 0).float()[:, None, None, :]
        return self.bert(input_ids=ids, attention_mask=hidden).last_hidden_state
