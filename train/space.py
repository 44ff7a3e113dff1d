"""The common space: every token is mapped into it, and many tokens become one vector."""

import torch
from torch import Tensor, nn

from mcr_infer.errors import ConfigError
from train import config as cfg


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
