import dataclasses

import numpy as np
import pytest
import torch

from batches import ALONE, PATCHES, make_batch, tiny_config, tiny_model
from mcr_infer.errors import ConfigError
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.phantom import make as make_phantom
from mcr_infer.phantom import render_stored
from train import config as cfg
from train.checkpoint import tower_state
from train.loop import make_learner
from train.model import MCR
from train.space import Aggregator, TokenMap
from train.step import train_step
from train.towers import frequency_basis


def make(framework="mcr", text_mode="mask", **space) -> MCR:
    torch.manual_seed(0)
    masking = cfg.Masking(text_mode=text_mode)
    return MCR(tiny_config(model=tiny_model(**space), framework=framework, masking=masking)).eval()


def positions(count: int) -> torch.Tensor:
    return torch.arange(PATCHES).repeat(count, 1)


KINDS = ("attention", "mean", "max", "gem")


@pytest.mark.parametrize("mapping", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_unit_and_weights_sum_to_one(kind, mapping):
    model, batch = make(aggregation=kind, mapping=mapping), make_batch()
    for embedding, local, weights, tokens in (
        (*model.encode_image(batch.patches, positions(5)), PATCHES),
        (*model.encode_text(batch.input_ids, batch.attention_mask), batch.input_ids.shape[1]),
    ):
        assert embedding.shape == (5, 16)
        assert local.shape == (5, tokens, 16)
        assert weights.shape == (5, tokens)
        assert torch.allclose(embedding.norm(dim=1), torch.ones(5), atol=1e-5)
        assert torch.allclose(weights.sum(dim=1), torch.ones(5), atol=1e-5)
        assert float(weights.detach().min()) >= 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_padding_never_leaks(kind):
    model, batch = make(aggregation=kind), make_batch()
    row = int(batch.attention_mask.sum(dim=1).argmin())
    length = int(batch.attention_mask[row].sum())
    assert length < batch.input_ids.shape[1]
    garbage = torch.where(batch.attention_mask == 1, batch.input_ids, torch.randint(5, 40, batch.input_ids.shape))
    padded = model.encode_text(garbage, batch.attention_mask)
    alone = model.encode_text(batch.input_ids[row : row + 1, :length], torch.ones(1, length, dtype=torch.int64))
    assert torch.allclose(padded[0][row], alone[0][0], atol=1e-5)
    assert torch.allclose(padded[1][row, :length], alone[1][0], atol=1e-5)
    assert torch.allclose(padded[2][row, :length], alone[2][0], atol=1e-5)
    assert float(padded[2][row, length:].detach().abs().max()) == 0.0


def test_a_batch_equals_its_rows_one_by_one():
    model, batch = make(), make_batch()
    together = model.encode_image(batch.patches, positions(5))[0]
    alone = torch.cat([model.encode_image(batch.patches[i : i + 1], positions(1))[0] for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_order_of_patches_does_not_matter_when_positions_move_along():
    model, batch = make(), make_batch()
    order = torch.randperm(PATCHES)
    plain, _, weights = model.encode_image(batch.patches, positions(5))
    moved, _, moved_weights = model.encode_image(batch.patches[:, order], positions(5)[:, order])
    assert torch.allclose(plain, moved, atol=1e-5)
    assert torch.allclose(weights[:, order], moved_weights, atol=1e-5)
    stayed, _, _ = model.encode_image(batch.patches[:, order], positions(5))
    assert float((plain - stayed).detach().abs().max()) > 1e-4


def test_the_training_pass_without_masks_is_inference():
    model, batch = make(), make_batch(masked=False)
    output = model(batch)
    assert output.patches is None
    assert output.words is None
    assert torch.allclose(output.image, model.encode_image(batch.patches, positions(5))[0], atol=1e-6)
    assert torch.allclose(output.text, model.encode_text(batch.input_ids, batch.attention_mask)[0], atol=1e-6)


ROWS = [1, 3, 1, 2, 1]


@pytest.mark.parametrize("text_mode", ["mask", "drop"])
@pytest.mark.parametrize("framework", ["mcr", "dual_stream"])
def test_a_report_of_several_windows_is_their_mean(framework, text_mode):
    masked = framework == "dual_stream"
    model, batch = make(framework, text_mode), make_batch(masked=masked, rows=ROWS)
    assert batch.input_ids.shape[0] == sum(ROWS)
    vectors, _, _ = model.encode_text(batch.input_ids, batch.attention_mask)
    sums = torch.stack([part.sum(dim=0) for part in vectors.split(ROWS)])
    expected = sums / sums.norm(dim=1, keepdim=True)
    assert torch.allclose(model(batch).text, expected, atol=1e-6)
    assert torch.allclose(model.encode_visible(batch)[1], expected, atol=1e-6) != masked


@pytest.mark.parametrize("text_mode", ["mask", "drop"])
def test_words_of_each_window_ask_their_own_image(text_mode):
    model, batch = make(text_mode=text_mode), make_batch(rows=ROWS)
    of = batch.pair_of
    apart = dataclasses.replace(
        batch, patches=batch.patches[of], visible=batch.visible[of], hidden=batch.hidden[of], targets=batch.targets[of],
        keys=torch.arange(len(of)), pair_of=torch.arange(len(of)), sources=tuple(map(str, of.tolist())),
    )  # fmt: skip
    together = model(batch)
    assert together.patches.shape[0] == len(ROWS)
    assert together.words.shape == (int(batch.word_mask.sum()), 40)
    assert torch.allclose(together.words, model(apart).words, atol=1e-5)


def test_the_patch_projection_is_that_of_the_vit():
    model = make()
    patches = torch.rand(2, PATCHES, 64)
    picture = patches.reshape(2, 4, 4, 8, 8).permute(0, 1, 3, 2, 4).reshape(2, 1, 32, 32)
    tower = model.image_tower
    expected = tower.vit.forward_features((picture - tower.mean) / tower.std)
    assert torch.allclose(tower(patches, positions(2)), expected, atol=1e-5)


def test_coefficients_are_those_of_a_cosine_transform_raised_by_their_frequency():
    basis = frequency_basis(8, 0.5)
    assert torch.allclose(torch.ones(64) @ basis, 8.0 * torch.eye(64)[0], atol=1e-5)
    slope = torch.cos(torch.pi * (torch.arange(8) + 0.5) / 8).repeat(8)
    # 8 rows of 1/sqrt(8) times the sum 4 of squared cosines times sqrt(2/8), raised by 1 + 0.5
    assert torch.allclose(slope @ basis, 6.0 * 2.0**0.5 * torch.eye(64)[1], atol=1e-5)
    assert torch.allclose(frequency_basis(8, 0.0) @ frequency_basis(8, 0.0).T, torch.eye(64), atol=1e-6)


def test_raised_frequencies_are_another_basis_of_the_same_projection():
    raised, plain = make(), make()
    raised.image_tower.basis = frequency_basis(8, 0.06)
    weight = plain.image_tower.vit.patch_embed.proj.weight
    with torch.no_grad():
        weight.copy_((weight.flatten(1) @ raised.image_tower.basis.T).reshape(weight.shape))
    patches = torch.rand(2, PATCHES, 64)
    assert torch.allclose(
        raised.image_tower(patches, positions(2)), plain.image_tower(patches, positions(2)), atol=1e-5
    )


def test_raised_frequencies_vary_alike_in_radiographs():
    preprocess = Preprocess(image_size=160, patch_size=16)
    patches = np.concatenate(
        [preprocess.patches(render_stored(make_phantom(seed, 160).stored))[0] for seed in range(8)]
    )
    pixels = torch.from_numpy(patches[patches.std(axis=1) > 0])
    spread = {gain: (pixels @ frequency_basis(16, gain)).std(dim=0) for gain in (0.0, 1.0)}
    assert (spread[0.0].max() / spread[0.0].min()).item() > 300
    assert (spread[1.0].max() / spread[1.0].min()).item() < 30


def test_half_precision_does_not_round_raised_frequencies_away():
    tower = make().image_tower
    tower.basis = frequency_basis(8, 0.06)
    projection = tower.vit.patch_embed.proj
    faint = 0.9 + 0.001 * torch.rand(1, PATCHES, 64)
    with torch.no_grad():
        # The projection shows one coefficient that bfloat16 pixels, 1/128 apart near 0.9 / 0.34, could not hold.
        projection.weight.copy_(torch.eye(64)[35].reshape(1, 1, 8, 8).expand_as(projection.weight))
        projection.bias.zero_()
        tower.vit.pos_embed.zero_()
    seen = []
    tower.vit.norm_pre.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(faint, positions(1))
    with torch.autocast("cpu", torch.bfloat16):
        tower(faint, positions(1))
    assert torch.corrcoef(torch.stack([each.float()[0, :, 0] for each in seen]))[0, 1].item() > 0.999


def test_hidden_patches_change_nothing_but_the_target():
    model, batch = make(), make_batch()
    patches = batch.patches.clone()
    patches.scatter_(1, batch.hidden[:, :, None].expand(-1, -1, 64), 9.0)
    before, after = model(batch), model(dataclasses.replace(batch, patches=patches))
    assert before.patches.shape == (5, 8, 64)
    for name in ("image", "text", "patches", "words"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_hidden_words_change_nothing_but_the_target():
    model, batch = make(), make_batch()
    other = torch.where(batch.word_mask, (batch.input_ids + 7) % 35 + 5, batch.input_ids)
    assert not torch.equal(other, batch.input_ids)
    before, after = model(batch), model(dataclasses.replace(batch, input_ids=other))
    assert torch.equal(batch.masked_ids == 4, batch.word_mask)
    assert before.words.shape == (int(batch.word_mask.sum()), 40)
    for name in ("image", "text", "patches", "words"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.equal(before.text, model.encode_text(batch.masked_ids, batch.attention_mask)[0])


def test_word_reconstruction_sees_the_image():
    model, batch = make(), make_batch()
    other = dataclasses.replace(batch, patches=batch.patches.flip(0))
    assert float((model(batch).words - model(other).words).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("text_mode", ["mask", "drop"])
@pytest.mark.parametrize("framework", ["mcr", "dual_stream"])
@pytest.mark.parametrize("mapping", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind, mapping, framework, text_mode):
    config = tiny_config(
        model=tiny_model(aggregation=kind, mapping=mapping), framework=framework,
        masking=cfg.Masking(text_mode=text_mode), optim={"learning_rate": 0.0, "clip_norm": 1e9},
    )  # fmt: skip
    learner, _ = make_learner(config, ALONE)
    train_step(learner, make_batch(), config, 0)
    named = learner.model.named_parameters()
    silent = [name for name, p in named if p.grad is None or not float(p.grad.abs().max()) > 0]
    # Bias of the keys: softmax over keys does not feel it, whatever rounding leaves there.
    assert [name for name in silent if not name.endswith("key.bias")] == []


def test_the_dual_stream_contrasts_whole_inputs_and_reconstructs_as_mcr_does():
    mcr, dual, batch = make(), make(framework="dual_stream"), make_batch()
    dual.load_state_dict(mcr.state_dict())
    one, two = mcr(batch), dual(batch)
    assert torch.equal(one.patches, two.patches)
    assert torch.equal(one.words, two.words)
    assert torch.allclose(two.image, dual.encode_image(batch.patches, positions(5))[0], atol=1e-6)
    assert torch.allclose(two.text, dual.encode_text(batch.input_ids, batch.attention_mask)[0], atol=1e-6)
    assert float((one.image - two.image).detach().abs().max()) > 1e-4
    # Where nothing is hidden one pass is enough, and the frameworks are the same.
    whole = make_batch(masked=False)
    assert torch.equal(mcr(whole).image, dual(whole).image)


def test_dropped_words_never_enter_the_tower():
    model, batch, seen = make(text_mode="drop"), make_batch(), []
    model.text_tower.bert.embeddings.word_embeddings.register_forward_hook(lambda _, ids, __: seen.append(ids[0]))
    output = model(batch)
    kept = (batch.attention_mask > 0) & ~batch.word_mask
    assert seen[0].shape[1] == int(kept.sum(dim=1).max()) < batch.input_ids.shape[1]
    assert output.words.shape == (int(batch.word_mask.sum()), 40)
    # The kept words know where they stood: the embedding is that of the report with its gaps, by hand.
    row = 2
    places = kept[row].nonzero()[:, 0]
    tokens = model.text_tower(batch.input_ids[row, places][None], torch.ones(1, len(places)), places[None])
    expected = model._enter_space("text", tokens, torch.ones(1, len(places), dtype=torch.bool))[0]
    assert torch.allclose(output.text[row], expected[0], atol=1e-5)
    other = torch.where(batch.word_mask, (batch.input_ids + 7) % 35 + 5, batch.input_ids)
    assert torch.equal(output.words, model(dataclasses.replace(batch, input_ids=other)).words)


def test_dropped_words_are_recalled_from_kept_words_and_the_image():
    model, batch = make(text_mode="drop"), make_batch()
    base = model(batch).words
    elsewhere = dataclasses.replace(batch, patches=batch.patches.flip(0))
    assert float((base - model(elsewhere).words).detach().abs().max()) > 1e-4
    kept = torch.where(batch.word_mask, batch.input_ids, (batch.input_ids + 7) % 35 + 5)
    assert float((base - model(dataclasses.replace(batch, input_ids=kept)).words).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("groups", [2, 4, 9])
def test_reports_read_in_groups_by_length_are_the_same(groups):
    model, batch = make(), make_batch(count=7)
    plain = model.text_tower(batch.input_ids, batch.attention_mask)
    grouped = model.text_tower.by_length(batch.input_ids, batch.attention_mask, None, groups=groups)
    there = batch.attention_mask > 0
    assert torch.allclose(plain[there], grouped[there], atol=1e-5)


@pytest.mark.parametrize(
    ("vit", "message"),
    [
        ("vit_relpos_small_patch16_224", "cannot build .* as a plain ViT"),
        ("vit_small_r26_s32_224", "its stem does not take these sizes"),
        ("vitamin_small_224", "cannot build|is no plain ViT"),
        ("vit_enormous", "cannot build .*vit_enormous"),
    ],
)
def test_only_a_plain_vit_can_be_the_image_tower(vit, message):
    image = cfg.ImageTower(vit=vit, image_size=32, patch_size=16)
    with pytest.raises(ConfigError, match=message):
        MCR(tiny_config(model=dataclasses.replace(tiny_model(), image=image)))


@pytest.mark.parametrize(("kind", "map_kind", "same"), [
    ("mean", "linear", True), ("mean", "mlp", False), ("attention", "linear", False), ("max", "linear", False),
    ("gem", "linear", False),
])  # fmt: skip
def test_mapping_before_aggregation_is_aggregate_then_map_only_when_both_are_linear(kind, map_kind, same):
    torch.manual_seed(0)
    width = 16  # of tokens and of the space, so that one aggregator fits on both sides
    config = cfg.CommonSpace(embedding_dim=width, map=map_kind, map_norm=False, aggregation=kind, scorer_width=8)
    mapper, aggregate = TokenMap(width, config), Aggregator(width, config)
    tokens, present = torch.randn(3, 9, width), torch.rand(3, 9) < 0.7
    present[:, 0] = True
    before = aggregate(mapper(tokens), present)[0]
    after = mapper(aggregate(tokens, present)[0])
    difference = float((before - after).detach().abs().max())
    assert difference < 1e-6 if same else difference > 1e-2


def test_aggregators_against_numbers_worked_out_by_hand():
    tokens = torch.tensor([[[1.0, 4.0], [3.0, 2.0], [50.0, 60.0]]])
    present = torch.tensor([[True, True, False]])

    def run(kind):
        return [part[0].tolist() for part in Aggregator(2, cfg.CommonSpace(aggregation=kind))(tokens, present)]

    assert run("mean") == [[2.0, 3.0], [0.5, 0.5, 0.0]]
    assert run("max") == [[3.0, 4.0], [0.5, 0.5, 0.0]]
    pooled, weights = run("gem")
    assert pooled == pytest.approx([14 ** (1 / 3), 36 ** (1 / 3)], abs=1e-4)
    assert weights == pytest.approx([(1 / 28 + 64 / 72) / 2, (27 / 28 + 8 / 72) / 2, 0.0], abs=1e-5)


def test_one_aggregator_for_both_modalities_or_one_each():
    shared, own = make(shared_aggregator=True), make()
    assert list(shared.aggregators) == ["shared"]
    assert list(own.aggregators) == ["image", "text"]
    with pytest.raises(ConfigError, match="needs tokens of one width"):
        make(shared_aggregator=True, mapping="after")


def test_the_temperature_is_clamped():
    model = make()
    assert float(model.scale().detach()) == pytest.approx(1 / 0.07, rel=1e-5)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    assert float(model.scale().detach()) == pytest.approx(100.0, rel=1e-5)


def test_plain_attention_gives_the_same_numbers():
    fused, plain, batch = make(), make(), make_batch()
    plain.use_plain_attention()
    a, b = fused(batch), plain(batch)
    for name in ("image", "text", "patches", "words"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5)


def test_the_tower_state_is_what_encoding_uses():
    model, batch = make(), make_batch()
    names = set(tower_state(model))
    (model.encode_image(batch.patches, positions(5))[0].sum() + 0).backward()
    model.encode_text(batch.input_ids, batch.attention_mask)[0].sum().backward()
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert used == names & {name for name, _ in model.named_parameters()}
    assert not any("decoder" in name or "logit" in name for name in names)


def test_towers_export_with_dynamic_axes():
    model, batch = make(), make_batch()
    count, items = torch.export.Dim("batch"), torch.export.Dim("items", max=16)

    class Image(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, patches, where):
            return self.model.encode_image(patches, where)

    class Text(Image):
        def forward(self, input_ids, attention_mask):
            return self.model.encode_text(input_ids, attention_mask)

    shapes = ({0: count, 1: items}, {0: count, 1: items})
    image = torch.export.export(Image(), (batch.patches, positions(5)), dynamic_shapes=shapes).module()
    some = (batch.patches[:2, 3:7], positions(2)[:, 3:7])
    assert torch.allclose(image(*some)[0], model.encode_image(*some)[0], atol=1e-6)
    text = torch.export.export(Text(), (batch.input_ids, batch.attention_mask), dynamic_shapes=shapes).module()
    some = (batch.input_ids[:3, :4], batch.attention_mask[:3, :4])
    assert torch.allclose(text(*some)[0], model.encode_text(*some)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"frequency_gain": -0.1}, "at least 0"), ({"frequency_gain": 1.0, "pretrained": "hub"}, "which read pixels")],
)
def test_a_gain_that_fits_nothing_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        cfg.ImageTower(**values)
