import math

import pytest
import torch
import torch.nn.functional as F

from train.losses import accuracy, info_nce, normalise_patches, patch_loss, positive_targets, word_loss


def test_info_nce_against_a_value_worked_out_by_hand():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # Scale 2: logits [[2, 1.2], [0, 1.6]]; the softmax of the right pair, by rows and by columns.
    rows = -math.log(math.exp(2) / (math.exp(2) + math.exp(1.2))) - math.log(math.exp(1.6) / (1 + math.exp(1.6)))
    columns = -math.log(math.exp(2) / (math.exp(2) + 1)) - math.log(math.exp(1.6) / (math.exp(1.2) + math.exp(1.6)))
    loss = info_nce(image, text, torch.tensor(2.0), torch.tensor([7, 8]))
    assert float(loss) == pytest.approx((rows + columns) / 4, abs=1e-6)


def test_equal_keys_share_the_target():
    keys = torch.tensor([5, 6, 5])
    targets = positive_targets(keys, keys)
    assert targets.tolist() == [[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]]


def test_the_mean_over_parts_is_the_loss_of_the_whole_batch():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 4, generator=generator), dim=1).requires_grad_() for _ in range(2))
    keys, scale = torch.tensor([0, 1, 2, 0, 4, 1]), torch.tensor(9.0)
    whole = info_nce(image, text, scale, keys)
    parts = [
        info_nce(image[rows], text[rows], scale, keys[rows], all_images=image, all_texts=text, all_keys=keys)
        for rows in (slice(0, 3), slice(3, 6))
    ]
    assert float(sum(parts).detach() / 2) == pytest.approx(float(whole.detach()), abs=1e-6)
    expected = torch.autograd.grad(whole, (image, text))
    found = torch.autograd.grad(sum(parts) / 2, (image, text))
    assert all(torch.allclose(one, other, atol=1e-7) for one, other in zip(expected, found, strict=True))


def test_a_duplicate_report_is_no_negative():
    image = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]]), dim=1)
    text = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    scale = torch.tensor(50.0)
    assert info_nce(image, text, scale, torch.tensor([1, 1, 2])) == pytest.approx(
        # Both rows of the duplicate meet two equal scores: log 2 each, and the third pair costs nothing.
        2 / 3 * math.log(2), abs=0.02,
    )  # fmt: skip
    # With targets [1/2, 1/2] the loss is at its floor: no gradient pulls the twins apart.
    leaf = text.clone().requires_grad_()
    info_nce(text, leaf, scale, torch.tensor([1, 1, 2])).backward()
    assert float(leaf.grad.abs().max()) < 1e-6


def test_patches_are_normalised_one_by_one():
    patches = torch.rand(2, 3, 64) * torch.tensor([0.1, 1.0, 5.0])[None, :, None] + 3
    normal = normalise_patches(patches)
    assert torch.allclose(normal.mean(-1), torch.zeros(2, 3), atol=1e-4)
    assert torch.allclose(normal.std(-1, correction=0), torch.ones(2, 3), atol=1e-2)
    assert float(normalise_patches(torch.full((1, 1, 4), 0.3)).abs().max()) == 0.0
    assert float(patch_loss(normal, patches)) == 0.0


def test_word_loss_and_accuracy():
    logits = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0]])
    words = torch.tensor([1, 2])
    expected = -(2 - math.log(2 + math.exp(2))) + math.log(2 + math.exp(3))
    assert float(word_loss(logits, words)) == pytest.approx(expected / 2, abs=1e-6)
    assert float(accuracy(logits, words)) == 0.5
    nothing = torch.zeros(0, 3, requires_grad=True)
    assert float(word_loss(nothing, words[:0]).detach()) == 0.0
    assert float(accuracy(nothing, words[:0])) == 0.0
