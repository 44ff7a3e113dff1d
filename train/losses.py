"""The three losses: contrast of the two embeddings, hidden patches, hidden words.

Each is a mean over what it judges, in float32, so that its weight means the same at every batch size and mask ratio.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def positive_targets(keys: Tensor, all_keys: Tensor) -> Tensor:
    """Turn keys [N] among all keys [M] into contrastive targets [N, M]: equal keys share the row evenly."""
    equal = (keys[:, None] == all_keys[None, :]).float()
    return equal / equal.sum(dim=1, keepdim=True)


def info_nce(
    image: Tensor, text: Tensor, scale: Tensor, keys: Tensor, *,
    all_images: Tensor | None = None, all_texts: Tensor | None = None, all_keys: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Symmetric InfoNCE between unit embeddings [N, D] and [N, D] with inverse temperature `scale`.

    `keys` [N] say which pairs are positives of each other: a duplicate of a report is no negative of its image. Where the
    pairs are part of a larger batch, `all_images` [M, D], `all_texts` [M, D] and `all_keys` [M] are what they are
    contrasted with; the mean of the losses of all parts is then the loss of the whole batch.
    """
    all_images, all_texts = image if all_images is None else all_images, text if all_texts is None else all_texts
    targets = positive_targets(keys, keys if all_keys is None else all_keys)
    forth = F.cross_entropy(scale.float() * image.float() @ all_texts.float().T, targets)
    back = F.cross_entropy(scale.float() * text.float() @ all_images.float().T, targets)
    return 0.5 * (forth + back)


def normalise_patches(patches: Tensor) -> Tensor:
    """Give each patch of [..., P*P] mean 0 and deviation 1 (MAE, arXiv 2111.06377, section 4.1); a flat one becomes 0."""
    centred = patches - patches.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def patch_loss(predicted: Tensor, patches: Tensor) -> Tensor:
    """Mean squared error between predicted hidden patches [N, M, P*P] and the true ones, normalised one by one."""
    return F.mse_loss(predicted.float(), normalise_patches(patches.float()))


def word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of the logits [W, V] of the hidden tokens against what stood there [W]; 0 when none is hidden."""
    if not len(words):
        return logits.sum() * 0.0
    return F.cross_entropy(logits.float(), words)


def accuracy(logits: Tensor, words: Tensor) -> Tensor:
    """Share of hidden tokens [W] that the logits [W, V] name right; 0 when none is hidden."""
    return (logits.argmax(dim=-1) == words).float().mean() if len(words) else torch.zeros(())
