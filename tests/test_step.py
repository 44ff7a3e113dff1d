import dataclasses
import weakref

import pytest
import torch

from batches import ALONE, make_batch, make_tiny_learner, tiny_config, tiny_model
from train import config as cfg
from train.loop import make_learner
from train.optim import Average, learning_rate, make_optimizers, set_learning_rate
from train.step import NonFiniteLossError, train_step

BATCH = {"count": 8, "keys": [0, 1, 2, 0, 4, 5, 6, 1]}


def weights_after(config, steps=2, batch=None):
    learner = make_tiny_learner(config)
    figures = [train_step(learner, batch or make_batch(**BATCH), config, step) for step in range(steps)]
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}, figures


def gradients_of(config, batch):
    learner = make_tiny_learner(config)
    figures = train_step(learner, batch, dataclasses.replace(config, optim=config.optim), 0)
    return {name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None}, figures


@pytest.mark.parametrize("rows", [None, [1, 3, 1, 1, 2, 1, 1, 4]])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_cached_gradients_are_those_of_the_whole_batch(size, rows):
    config = tiny_config(optim={"clip_norm": 1e9})
    split = tiny_config(optim={"clip_norm": 1e9, "micro_batch": size})
    batch = make_batch(**BATCH, rows=rows)
    assert [len(part.sources) for part in batch.split(3)] == [3, 3, 2]
    (whole, told), (cached, retold) = gradients_of(config, batch), gradients_of(split, batch)
    assert whole.keys() == cached.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, cached[name], atol=2e-6, rtol=1e-4), name
    for name in ("loss", "contrastive", "image", "report", "word_accuracy", "scale", "norm"):
        assert told[name] == pytest.approx(retold[name], abs=1e-5), name


def test_cached_gradients_hold_under_dropout():
    # Both passes of a micro-batch drop the same units: the embeddings that were contrasted are those that are learnt.
    text = dataclasses.replace(tiny_model().text, dropout=0.5)
    model = dataclasses.replace(tiny_model(), text=text)
    config = tiny_config(model=model, optim={"clip_norm": 1e9, "micro_batch": 8})
    split = tiny_config(model=model, optim={"clip_norm": 1e9, "micro_batch": 4})
    batch = make_batch(**BATCH)
    first, _ = gradients_of(split, batch)
    again, _ = gradients_of(split, batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    whole, _ = gradients_of(config, batch)
    assert not torch.allclose(first["maps.text.0.weight"], whole["maps.text.0.weight"], rtol=1e-3)


def test_gradient_checkpointing_changes_no_gradient():
    plain, _ = gradients_of(tiny_config(), make_batch(**BATCH))
    recomputed, _ = gradients_of(tiny_config(run=cfg.Run(gradient_checkpointing=True)), make_batch(**BATCH))
    assert plain.keys() == recomputed.keys()
    assert all(torch.allclose(plain[name], recomputed[name], atol=1e-7) for name in plain)


def test_gradient_checkpointing_keeps_fewer_activations():
    kept = {}
    for checkpointing in (False, True):
        config = tiny_config(run=cfg.Run(gradient_checkpointing=checkpointing))
        learner, saved = make_tiny_learner(config), []
        learner.model.train()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, saved=saved: saved.append(tensor) or tensor, lambda t: t
        ):
            learner.model(make_batch(**BATCH))
        kept[checkpointing] = sum(tensor.numel() for tensor in saved)
    assert kept[True] < 0.7 * kept[False]


@pytest.mark.parametrize("framework", ["mcr", "dual_stream"])
@pytest.mark.parametrize("text_mode", ["mask", "drop"])
def test_both_frameworks_learn_a_few_pairs_by_heart(framework, text_mode):
    config = tiny_config(
        framework=framework, masking=cfg.Masking(text_mode=text_mode), optim={"steps": 80, "learning_rate": 5e-3}
    )
    _, figures = weights_after(config, steps=80)
    assert figures[-1]["contrastive"] < 0.5 * figures[0]["contrastive"]
    assert figures[-1]["report"] < 0.5 * figures[0]["report"]
    assert figures[-1]["image"] < figures[0]["image"]


def test_compiled_and_plain_models_take_the_same_step():
    plain, figures = weights_after(tiny_config())
    compiled, refigured = weights_after(tiny_config(run=cfg.Run(compile=True)))
    assert figures[-1]["loss"] == pytest.approx(refigured[-1]["loss"], abs=1e-4)
    assert all(torch.allclose(plain[name], compiled[name], atol=1e-4) for name in plain)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_near_full_precision(precision):
    _, full = weights_after(tiny_config())
    _, low = weights_after(tiny_config(run=cfg.Run(precision=precision)))
    # The first fp16 steps only find the scale of the loss; the loss itself is that of the untrained model.
    assert low[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.02)


def test_fp16_leaves_out_steps_that_overflow_and_then_learns():
    config = tiny_config(run=cfg.Run(precision="fp16"), optim={"steps": 40, "learning_rate": 5e-3})
    learner = make_tiny_learner(config)
    learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 2.0**40})
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    batch = make_batch(**BATCH)
    first = train_step(learner, batch, config, 0)
    assert first["norm"] == float("inf") or first["norm"] != first["norm"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    figures = [train_step(learner, batch, config, step) for step in range(1, 60)]
    assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]
    assert learner.scaler.get_scale() < 2.0**40


def test_an_overflow_under_one_optimiser_leaves_the_other_alone():
    config = tiny_config(run=cfg.Run(precision="fp16"), optim={"optimizer": "muon"})
    learner, batch = make_tiny_learner(config), make_batch(**BATCH)
    hook = learner.model.logit_scale.register_hook(lambda gradient: gradient * float("nan"))  # AdamW's
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    scale = learner.scaler.get_scale()
    train_step(learner, batch, config, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())
    assert learner.scaler.get_scale() == scale / 2
    hook.remove()
    learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": 1.0})
    train_step(learner, batch, config, 1)
    after = learner.model.state_dict()
    assert not torch.equal(
        after["image_tower.vit.blocks.0.attn.qkv.weight"], before["image_tower.vit.blocks.0.attn.qkv.weight"]
    )
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


def test_a_gradient_that_stays_broken_stops_an_fp16_run():
    config = tiny_config(run=cfg.Run(precision="fp16"))
    learner, batch = make_tiny_learner(config), make_batch(**BATCH)
    learner.model.logit_scale.register_hook(lambda gradient: gradient * float("nan"))

    def run():
        for step in range(60):  # the scale is lowered many times before it is no longer to blame
            train_step(learner, batch, config, step)

    with pytest.raises(NonFiniteLossError, match=r"step 2\d: loss \d.*gradient norm nan"):
        run()


def test_the_first_pass_of_a_cached_step_keeps_the_embeddings_alone():
    # Reconstructions of all micro-batches together are what a batch larger than memory cannot keep.
    config = tiny_config(optim={"micro_batch": 2})
    learner, alive = make_tiny_learner(config), []
    made = []

    def look(_module, _given, output):
        made.append(weakref.ref(output.patches))
        alive.append(sum(one() is not None for one in made))

    learner.model.register_forward_hook(look)
    train_step(learner, make_batch(**BATCH), config, 0)
    assert len(alive) == 2 * 4
    assert max(alive) <= 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_non_finite_loss_stops_before_the_weights_change(precision):
    config = tiny_config(run=cfg.Run(precision=precision))
    learner, batch = make_tiny_learner(config), make_batch(**BATCH)
    broken = dataclasses.replace(batch, patches=batch.patches * float("inf"))
    before = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}

    # In fp16, too: its scale can be to blame for a gradient, not for the loss.
    with pytest.raises(NonFiniteLossError, match=r"step 0: loss nan.*pair 0.*the last checkpoint is intact"):
        train_step(learner, broken, config, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.state_dict().items())


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else():
    config = tiny_config(optim={"optimizer": "muon"})
    learner = make_tiny_learner(config)
    adamw, muon = learner.optimizers
    names = learner.names
    taken = {names[p] for group in muon.param_groups for p in group["params"]}
    assert len(taken) == 2 * 4 + 2 * 6 + 4  # image blocks, text layers, one decoder block
    assert all(".blocks." in name or ".encoder.layer." in name for name in taken)
    rest = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert rest | taken == set(names.values())
    assert not rest & taken
    _, figures = weights_after(tiny_config(optim={"optimizer": "muon", "steps": 80, "learning_rate": 5e-3}), steps=60)
    assert figures[-1]["contrastive"] < 0.5 * figures[0]["contrastive"]


def test_norms_biases_and_embeddings_do_not_decay():
    learner = make_tiny_learner(tiny_config(optim={"weight_decay": 0.1}))
    names, (adamw,) = learner.names, learner.optimizers
    decayed = {names[p] for group in adamw.param_groups if group["weight_decay"] == 0.1 for p in group["params"]}
    rest = {names[p] for group in adamw.param_groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decayed | rest == set(names.values())
    assert {
        "image_tower.vit.patch_embed.proj.weight", "image_tower.vit.blocks.0.attn.qkv.weight", "maps.text.0.weight",
        "text_tower.bert.encoder.layer.0.output.dense.weight",
    } <= decayed  # fmt: skip
    assert {
        "image_tower.vit.pos_embed", "text_tower.bert.embeddings.word_embeddings.weight", "logit_scale",
        "image_decoder.positions", "image_decoder.mask_token", "image_tower.vit.norm.weight", "maps.image.0.bias",
    } <= rest  # fmt: skip


def test_layer_decay_slows_the_lower_layers():
    learner = make_tiny_learner(tiny_config(optim={"layer_decay": 0.5}))
    set_learning_rate(learner.optimizers, 1.0)
    names = learner.names
    rates = {names[p]: group["lr"] for o in learner.optimizers for group in o.param_groups for p in group["params"]}
    assert rates["logit_scale"] == rates["maps.image.0.weight"] == rates["image_tower.vit.norm.weight"] == 1.0
    assert rates["image_tower.vit.blocks.1.attn.qkv.weight"] == 0.5
    assert rates["image_tower.vit.blocks.0.attn.qkv.weight"] == 0.25
    assert rates["image_tower.vit.pos_embed"] == rates["image_tower.vit.patch_embed.proj.weight"] == 0.125
    assert rates["text_tower.bert.encoder.layer.1.output.dense.bias"] == 0.5
    assert rates["text_tower.bert.embeddings.word_embeddings.weight"] == 0.125
    assert rates["image_decoder.blocks.0.attn.qkv.weight"] == 1.0


def test_the_average_follows_the_weights():
    config = tiny_config(optim={"ema_decay": 0.5})
    learner, average = make_learner(config, ALONE)
    assert isinstance(average, Average)
    start = {name: tensor.clone() for name, tensor in average.weights.items()}
    with torch.no_grad():
        learner.model.logit_scale.add_(1.0)
    average.update(learner.model, 1000)
    assert float(average.weights["logit_scale"] - start["logit_scale"]) == pytest.approx(0.5)
    average.update(learner.model, 0)  # early on the average is mostly the newest weights: decay 1/10
    assert float(average.weights["logit_scale"] - start["logit_scale"]) == pytest.approx(0.95)


def test_the_learning_rate_warms_up_and_falls():
    config = cfg.Optim(steps=100, warmup_steps=10, learning_rate=1.0, final_fraction=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[99] == pytest.approx(0.1, abs=0.001)


def test_super_resolution_asks_for_finer_patches():
    config = tiny_config(model=tiny_model(decoders={"super_resolution": 2}))
    learner, batch = make_tiny_learner(config), make_batch(**BATCH, finer=2)
    assert learner.model(batch).patches.shape == (8, 8, 256)
    assert train_step(learner, batch, config, 0)["image"] > 0.5


def test_optimizers_cover_a_pretrained_sized_model_once():
    learner = make_tiny_learner(tiny_config())
    optimizers = make_optimizers(learner.model, cfg.Optim(optimizer="muon", layer_decay=0.7))
    counted = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(counted) == len({id(p) for p in counted}) == len(list(learner.model.parameters()))
