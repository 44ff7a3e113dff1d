"""What an image tower can learn to see, text aside: it is trained by the findings themselves, and judged finding by finding.

    python -m train.probe                                          # the tower of configs/phantom.toml
    python -m train.probe --set model.image.frequency_gain=0.0     # reading pixels as they are

Whole phantoms, one attention pooling and one linear score a kind of finding, binary cross-entropy. Phantoms that show
thin or small things come more often, because a few hundred steps are too few for what one phantom in twenty-five shows. The
figure is the area under the ROC curve among held-out phantoms; the last line of stdout is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.layers import Attention
from torch import Tensor, nn

from mcr_infer.evaluation.metrics import auroc
from mcr_infer.phantom import render_stored
from mcr_infer.phantom.findings import CENTRAL_LINE, ENDOTRACHEAL_TUBE, KINDS, NODULE, RIB_FRACTURE
from train.augment import augment
from train.config import Config, load_config
from train.data.phantoms import PhantomStore, open_store
from train.optim import learning_rate
from train.precision import autocast
from train.towers import ImageEncoder

CONFIG = Path(__file__).parent / "configs" / "phantom.toml"
OFTEN = {ENDOTRACHEAL_TUBE: 12.0, CENTRAL_LINE: 8.0, RIB_FRACTURE: 4.0, NODULE: 4.0}
"""How much more often, beside 1, a phantom with such a finding is drawn."""


class Probe(nn.Module):
    """An image tower with a score for each kind of finding."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tower = ImageEncoder(config.model.image)
        width = self.tower.width
        self.attention = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, len(KINDS), bias=False))
        self.weight = nn.Parameter(torch.zeros(len(KINDS), width))
        self.bias = nn.Parameter(torch.full((len(KINDS),), -2.0))

    def forward(self, patches: Tensor) -> Tensor:
        """Score whole images of patches [N, K, P*P]: [N, 12]."""
        positions = torch.arange(patches.shape[1], device=patches.device).expand(patches.shape[:2])
        tokens = self.tower(patches, positions)
        attention = self.attention(tokens).float().softmax(dim=1)
        pooled = torch.einsum("nkf,nkw->nfw", attention, tokens.float())
        return (pooled * self.weight).sum(dim=2) + self.bias


def main() -> int:
    """Train, judge, print a table and one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m train.probe", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="TOML file of python -m train (default: phantom.toml)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, as in python -m train"
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", type=int, default=8000, help="phantoms to learn from (default: 8000)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    length = (f"optim.steps={options.steps}", "optim.warmup_steps=50", "optim.unmasked_steps=0")
    config = load_config(options.config, [*options.set, *length])
    probe = train(config, _store(config, config.data.phantoms.train_seed, options.train), options.batch)
    held_out = _store(config, config.data.phantoms.validation_seed, config.data.phantoms.validation_count)
    figures = judge(probe, config, held_out)
    print("| finding | AUROC |\n|---|---|")
    for kind, value in figures.items():
        print(f"| {kind} | {value:.3f} |")
    gain = config.model.image.frequency_gain
    print(json.dumps({"frequency_gain": gain, "steps": options.steps, "phantoms": options.train, "auroc": figures}))
    return 0


def train(config: Config, store: PhantomStore, batch: int) -> Probe:
    """Train a probe for `optim.steps`; what it sees is augmented as in training."""
    torch.manual_seed(config.run.seed)
    rng = np.random.default_rng(config.run.seed)
    probe = Probe(config)
    if config.run.attention == "plain":
        for module in probe.modules():
            if isinstance(module, Attention):
                module.fused_attn = False
    blocks = [parameter for name, parameter in probe.named_parameters() if ".blocks." in name and parameter.ndim == 2]
    inside = {id(parameter) for parameter in blocks}
    others = [parameter for parameter in probe.parameters() if id(parameter) not in inside]
    optimizers = (
        torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=config.optim.weight_decay),
        torch.optim.Muon(blocks, lr=0.0, weight_decay=config.optim.weight_decay, adjust_lr_fn="match_rms_adamw"),
    )
    shown = _shown(store)
    often = 1.0 + shown @ np.array([OFTEN.get(kind, 0.0) for kind in KINDS])
    for step in range(config.optim.steps):
        rate = learning_rate(step, config.optim)
        for optimizer in optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate
        chosen = rng.choice(len(store), batch, p=often / often.sum())
        pixels = [augment(render_stored(store[int(index)].pixels), config.augment, rng) for index in chosen]
        with autocast(torch.device("cpu"), config):
            scores = probe(_patches(config, pixels))
        loss = F.binary_cross_entropy_with_logits(scores.float(), torch.from_numpy(shown[chosen]).float())
        loss.backward()
        nn.utils.clip_grad_norm_(probe.parameters(), config.optim.clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}", file=sys.stderr)
    return probe


@torch.no_grad()
def judge(probe: Probe, config: Config, store: PhantomStore) -> dict[str, float]:
    """Return the area under the ROC curve of each kind among held-out phantoms, as they are."""
    probe.eval()
    scores = []
    for start in range(0, len(store), 64):
        rows = range(start, min(start + 64, len(store)))
        scores.append(probe(_patches(config, [render_stored(store[row].pixels) for row in rows])).numpy())
    found, shown = np.concatenate(scores), _shown(store)
    return {kind: round(float(auroc(found[:, place], shown[:, place])[0]), 3) for place, kind in enumerate(KINDS)}


def _patches(config: Config, pictures: list[NDArray[np.float32]]) -> Tensor:
    return torch.from_numpy(np.stack([config.model.preprocess.patches(pixels)[0] for pixels in pictures]))


def _shown(store: PhantomStore) -> NDArray[np.bool_]:
    """Tell which kinds each phantom shows [N, 12]."""
    kinds = [{finding.kind for finding in store[row].findings} for row in range(len(store))]
    return np.array([[kind in some for kind in KINDS] for some in kinds])


def _tell(done: int, total: int) -> None:
    print(f"{done} of {total} phantoms", file=sys.stderr)


def _store(config: Config, first_seed: int, count: int) -> PhantomStore:
    return open_store(
        Path(config.data.cache), first_seed=first_seed, count=count, size=config.data.phantoms.size,
        workers=config.run.workers, progress=_tell,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
