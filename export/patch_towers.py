"""Image towers of models from elsewhere, in the shape that a bundle serves: grey, cut into patches, L2-normalised.

    patches [N, K, P*P], positions [N, K] -> projection -> prefix tokens before them -> blocks -> head
                                                              -> embedding [N, D], local [N, K, D], weights [N, K]

The weights are theirs; what changes is how a picture enters. The convolution that cuts patches is a matrix product over
patches that are cut already, three equal channels are one, and their standardisation is part of the product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchProjection(nn.Module):
    """An RGB patch convolution, folded to grey patches with the standardisation of its input.

    With g a grey value, W a weight of the convolution and c a channel: sum_c W_c (g - mean_c) / std_c + bias
    = (sum_c W_c / std_c) g + (bias - sum_c W_c mean_c / std_c), computed in float64.
    """

    def __init__(self, convolution: nn.Conv2d, *, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        kernel = convolution.weight.detach().double()  # [W, 3, P, P]
        scaled = kernel / std.double()[:, None, None]
        bias = -(scaled * mean.double()[:, None, None]).sum(dim=(1, 2, 3))
        if convolution.bias is not None:
            bias = bias + convolution.bias.detach().double()
        self.weight = nn.Parameter(scaled.sum(dim=1).flatten(1).float())
        self.bias = nn.Parameter(bias.float())

    def forward(self, patches: Tensor) -> Tensor:
        """Project patches [N, K, P*P] in [0, 1] to [N, K, W]."""
        return F.linear(patches, self.weight, self.bias)


class PooledHead(nn.Module):
    """A head whose embedding is one token, or the mean of all, normed and projected.

    `local` is each patch's last token through the same norm and projection, as if it were the pooled one. The weights are
    1/K: exactly so for the mean; a class token does not say what it took from where.
    """

    LOCAL = "the last token of each patch through the norm and the projection of the pooled token"
    WEIGHTS = "uniform"

    def __init__(self, finish: nn.Module, *, mean: bool = False) -> None:
        super().__init__()
        self.finish, self.mean = finish, mean

    def forward(self, tokens: Tensor, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pool tokens [N, R + K, W], R of them before the patches: [N, D], [N, K, D], [N, K]."""
        patches = tokens[:, prefix:]
        pooled = patches.mean(dim=1) if self.mean else tokens[:, 0]
        weights = torch.ones_like(patches[:, :, 0]) / patches.shape[1]
        return self.finish(pooled), self.finish(patches), weights


class AttentionHead(nn.Module):
    """Attention pooling by one learnt query (arXiv 2303.15343 takes it from arXiv 2106.04560), then a residual MLP.

    `local` is what the head makes of a patch if it attends to that patch alone; the weights are those of the pooling, mean
    of its heads.
    """

    LOCAL = "what the pooling head makes of each patch alone"
    WEIGHTS = "attention of the pooling head, mean of its heads"

    def __init__(
        self,
        *,
        norm: nn.Module,
        query: Tensor,
        key: nn.Module,
        key_norm: nn.Module,
        value: nn.Module,
        out: nn.Module,
        mlp_norm: nn.Module,
        mlp: nn.Module,
        finish: nn.Module,
    ) -> None:
        """Take over the parts of a head; `query` [H, d] is projected, not yet scaled."""
        super().__init__()
        self.heads = len(query)
        self.query = nn.Parameter(query.detach().clone() * query.shape[1] ** -0.5)
        self.norm, self.key, self.key_norm, self.value, self.out = norm, key, key_norm, value, out
        self.mlp_norm, self.mlp, self.finish = mlp_norm, mlp, finish

    def forward(self, tokens: Tensor, prefix: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pool tokens [N, R + K, W], R of them before the patches and not pooled: [N, D], [N, K, D], [N, K]."""
        patches = self.norm(tokens)[:, prefix:]
        keys = self.key_norm(self.key(patches).unflatten(2, (self.heads, -1)))  # [N, K, H, d]
        values = self.value(patches)
        weights = torch.einsum("nkhd,hd->nhk", keys, self.query).softmax(dim=2)
        mixed = torch.einsum("nhk,nkhd->nhd", weights, values.unflatten(2, (self.heads, -1)))
        return self._ended(mixed.flatten(1)), self._ended(values), weights.mean(dim=1)

    def _ended(self, values: Tensor) -> Tensor:
        """Bring attended values [..., W] to [..., D]."""
        out = self.out(values)
        return self.finish(out + self.mlp(self.mlp_norm(out)))


class PatchTower(nn.Module):
    """A plain ViT that takes visible patches and their positions instead of a picture."""

    def __init__(
        self,
        *,
        projection: PatchProjection,
        prefix: Tensor,
        positions: Tensor,
        before: nn.Module,
        blocks: nn.Module,
        head: PooledHead | AttentionHead,
    ) -> None:
        """Take over the parts; `prefix` [R, W]: class and register tokens with their positions added, `positions` [K, W]."""
        super().__init__()
        self.projection, self.before, self.blocks, self.head = projection, before, blocks, head
        self.prefix = nn.Parameter(prefix.detach().clone())
        self.positions = nn.Parameter(positions.detach().clone())

    def forward(self, patches: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed patches [N, K, P*P] at positions [N, K]: unit embedding [N, D], local [N, K, D], weights [N, K]."""
        tokens = self.projection(patches) + F.embedding(positions, self.positions)
        count = self.prefix.shape[0]
        if count:
            tokens = torch.cat((self.prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        embedding, local, weights = self.head(self.blocks(self.before(tokens)), count)
        return F.normalize(embedding, dim=-1), local, weights


class PixelTower(nn.Module):
    """Any image tower, taken whole: pixels [N, S, S] become three equal channels, standardised as it was trained.

    It has no parts that a graph of ours could take out, so there is one, the whole picture: `local` is the embedding and
    its weight is 1.
    """

    LOCAL = "the embedding: the tower is taken whole and has no patches"
    WEIGHTS = "1"

    def __init__(self, tower: nn.Module, *, mean: Tensor, std: Tensor) -> None:
        """Take over a tower of RGB pictures [N, 3, S, S] -> [N, D]."""
        super().__init__()
        self.tower = tower
        # Buffers, not numbers: they change what an embedding means, so they belong to the weights that are fingerprinted.
        self.register_buffer("mean", mean.float()[:, None, None])
        self.register_buffer("std", std.float()[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed pixels [N, S, S] in [0, 1]: unit embedding [N, D], local [N, 1, D], weights [N, 1]."""
        embedding = self.tower((pixels[:, None].expand(-1, 3, -1, -1) - self.mean) / self.std)
        embedding = F.normalize(embedding, dim=-1)
        return embedding, embedding[:, None], torch.ones_like(embedding[:, :1])
