import pytest
import timm
import torch
from rich.console import Console
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from transformers import BertConfig, BertModel

from batches import make_batch, make_tiny_learner, tiny_config, tiny_model
from mcr_infer.errors import ConfigError
from train import checkpoint
from train import config as cfg
from train.data import Draw
from train.data.opening import open_pairs
from train.towers import ImageEncoder, TextEncoder

SIZES = {"embed_dim": 32, "depth": 2, "num_heads": 2}


def tower(pretrained, image_size=32, patch_size=8):
    config = cfg.ImageTower(
        image_size=image_size, patch_size=patch_size, width=32, depth=2, heads=2, pretrained=str(pretrained),
        pixel_mean=0.0, pixel_std=1.0,
    )  # fmt: skip
    return ImageEncoder(config).eval()


@pytest.fixture
def source():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=5, **SIZES).eval()


def positions(count, patches):
    return torch.arange(patches).repeat(count, 1)


def cut(picture, size):
    """[N, H, W] -> [N, K, P*P]"""
    return torch.nn.functional.unfold(picture[:, None], size, stride=size).transpose(1, 2)


def test_a_timm_checkpoint_fills_the_tower(source, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(source.state_dict(), path)
    image = tower(path)
    for name, tensor in source.blocks.state_dict().items():
        assert torch.equal(image.vit.blocks.state_dict()[name], tensor)
    # Three colours of one grey picture and one grey channel give the same patch tokens; the class token is left out.
    picture = torch.rand(2, 32, 32)
    colours = source.patch_embed(picture[:, None].expand(-1, 3, -1, -1)) + source.pos_embed[:, 1:]
    expected = source.norm(source.blocks(source.norm_pre(colours)))
    assert torch.allclose(image(cut(picture, 8), positions(2, 16)), expected, atol=1e-4)


def test_positions_and_patches_of_another_size_are_interpolated(source, tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(source.state_dict(), path)
    larger = tower(path, image_size=48, patch_size=8)
    expected = resample_abs_pos_embed(source.pos_embed, [6, 6], num_prefix_tokens=1)[:, 1:]
    assert torch.allclose(larger.vit.pos_embed, expected, atol=1e-6)
    coarser = tower(path, image_size=64, patch_size=16)
    assert coarser.vit.patch_embed.proj.weight.shape == (32, 1, 16, 16)
    # A smooth picture twice as large means nearly the same to patches twice as large.
    ramp = torch.linspace(0, 1, 32)[None, :, None].expand(1, 32, 32).contiguous()
    twice = torch.nn.functional.interpolate(ramp[None], scale_factor=2, mode="bicubic")[0]
    small, large = tower(path)(cut(ramp, 8), positions(1, 16)), coarser(cut(twice, 16), positions(1, 16))
    assert float(torch.nn.functional.cosine_similarity(small, large, dim=-1).min().detach()) > 0.99


def test_a_masked_autoencoder_checkpoint_fills_the_tower(source, tmp_path):
    weights = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("head.")}
    decoder = {
        "mask_token": torch.zeros(1, 1, 16),
        "decoder_pred.weight": torch.zeros(4, 4),
        "decoder_pos_embed": torch.zeros(3),
    }
    path = tmp_path / "mae.pth"
    torch.save({"model": weights | decoder, "epoch": torch.tensor(1)}, path)
    assert torch.equal(tower(path).vit.norm.weight, source.norm.weight)


def test_what_does_not_fit_is_named(source, tmp_path):
    weights = source.state_dict()
    torch.save({k: v for k, v in weights.items() if k != "blocks.1.mlp.fc1.bias"}, tmp_path / "short.pth")
    with pytest.raises(ConfigError, match=r"1 weights are missing \['blocks.1.mlp.fc1.bias'\], 0 are unknown"):
        tower(tmp_path / "short.pth")
    torch.save(weights | {"adapter.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(ConfigError, match=r"1 are unknown \['adapter.weight'\]"):
        tower(tmp_path / "more.pth")
    wide = weights | {"norm.weight": torch.zeros(64)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(ConfigError, match=r"norm.weight has shape \(64,\), the tower's is \(32,\)"):
        tower(tmp_path / "wide.pth")
    with pytest.raises(ConfigError, match="must be 'hub' or a file"):
        tower(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("cut.pth", lambda whole: whole[: len(whole) // 2], "RuntimeError: PytorchStreamReader failed"),
        ("empty.pth", lambda _: b"", "EOFError"),
        ("text.pth", lambda _: b"hello world", "KeyError"),
        ("page.pth", lambda _: b"<html>not found</html>", "RuntimeError: weights_only=True blocked"),
        ("cut.safetensors", lambda whole: whole[: len(whole) // 2], "SafetensorError"),
    ],
)
def test_a_checkpoint_that_is_damaged_is_named_with_what_to_do(source, tmp_path, name, damage, why):
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(source.state_dict(), path)
    else:
        save_file(source.state_dict(), path)
    tower(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=rf"image\.pretrained '.*{name}' cannot be read \({why}.*fetch it again"):
        tower(path)


def test_what_is_no_checkpoint_of_weights_is_refused(source, tmp_path):
    weights, path = source.state_dict(), tmp_path / "vit.pth"
    for content, why in (
        (torch.zeros(3), "cannot be read .AttributeError"),
        (source, "cannot be read .RuntimeError.*save its state_dict alone"),
        (weights | {"norm.weight": 5}, "TypeError: it names something else than tensors"),
        (
            weights | {"patch_embed.proj.weight": torch.zeros(32, 192)},
            r"has shape \(32, 192\), expected \(width, 1 or 3",
        ),
        (weights | {"pos_embed": torch.zeros(3)}, r"pos_embed has shape \(3,\), expected \(1, patches, width\)"),
    ):
        torch.save(content, path)
        with pytest.raises(ConfigError, match=why):
            tower(path)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def test_without_a_network_the_hub_is_named_with_the_way_around_it(no_network):
    config = cfg.ImageTower(
        vit="vit_small_patch16_224", image_size=224, patch_size=16, width=None, depth=None, heads=None, pretrained="hub"
    )
    with pytest.raises(
        ConfigError, match=r"'hub' of 'vit_small_patch16_224' cannot be read .*without a network.*\.pth"
    ):
        ImageEncoder(config)
    with pytest.raises(ConfigError, match=r"'somebody/a-bert' cannot be read .*no local folder, .*give a folder"):
        TextEncoder(cfg.TextTower(pretrained="somebody/a-bert"))


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, type_vocab_size=2,
    )  # fmt: skip
    model = BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    return model, tmp_path / "bert"


def test_a_pretrained_bert_is_the_text_tower(bert):
    model, folder = bert
    text = TextEncoder(cfg.TextTower(pretrained=str(folder), max_tokens=16, dropout=0.0)).eval()
    assert text.width == 24
    batch = make_batch()
    expected = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    there = batch.attention_mask > 0
    assert torch.allclose(text(batch.input_ids, batch.attention_mask)[there], expected[there], atol=1e-5)


def test_a_model_takes_its_sizes_from_the_pretrained_tower(bert):
    from train.model import MCR

    model = tiny_model()
    changed = cfg.Model(
        image=model.image, space=model.space, decoders=model.decoders,
        text=cfg.TextTower(pretrained=str(bert[1]), max_tokens=16),
    )  # fmt: skip
    output = MCR(tiny_config(model=changed))(make_batch())
    assert output.words.shape[1] == 50


def test_a_checkpoint_needs_nothing_of_what_it_was_pretrained_on(bert, source, tmp_path):
    vit = tmp_path / "vit.pth"
    torch.save(source.state_dict(), vit)
    model = tiny_model()
    changed = cfg.Model(
        image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=2, heads=2, pretrained=str(vit)),
        text=cfg.TextTower(pretrained=str(bert[1]), max_tokens=16), space=model.space, decoders=model.decoders,
    )  # fmt: skip
    config = tiny_config(model=changed)
    learner, run = make_tiny_learner(config), tmp_path / "run"
    with checkpoint.open_run(run, config):
        checkpoint.begin_run(run, config)
        checkpoint.save_state(run, learner, None, 1)
    vit.unlink()
    (bert[1] / "config.json").unlink()
    loaded, _ = checkpoint.load_model(run)
    batch = make_batch()
    for one, other in zip(loaded.encode_visible(batch), learner.model.eval().encode_visible(batch), strict=True):
        assert torch.equal(one, other)


def test_a_bert_that_does_not_fit_is_named(bert, tmp_path):
    with pytest.raises(ConfigError, match="max_tokens 64 is more than the 32 positions"):
        TextEncoder(cfg.TextTower(pretrained=str(bert[1]), max_tokens=64))
    with pytest.raises(ConfigError, match="cannot be read"):
        TextEncoder(cfg.TextTower(pretrained=str(tmp_path / "absent")))


def test_weights_of_a_bert_that_are_damaged_or_missing_are_named(bert):
    model, folder = bert
    path, text = folder / "model.safetensors", cfg.TextTower(pretrained=str(folder), max_tokens=16)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"the weights of model\.text\.pretrained '.*SafetensorError.*fetch again"):
        TextEncoder(text)
    path.unlink()
    with pytest.raises(ConfigError, match=r"the weights of model\.text\.pretrained '.*OSError"):
        TextEncoder(text)
    lost = "encoder.layer.1.output.dense.weight"
    kept = {name: tensor for name, tensor in model.state_dict().items() if name != lost}
    save_file(kept, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=rf"lacks 1 weights of its tower \['{lost}'\]"):
        TextEncoder(text)
    (folder / "config.json").write_text("{")
    with pytest.raises(
        ConfigError, match=r"model\.text\.pretrained '.*' cannot be read \(OSError.*valid JSON.*fetch again"
    ):
        TextEncoder(text)


@pytest.mark.parametrize(
    ("name", "content"), [("vocab.txt", b"\xff\xfe\x00"), ("tokenizer.json", b"{"), ("tokenizer.json", b"{}")]
)
def test_a_vocabulary_that_is_damaged_is_named(bert, tmp_path, name, content):
    (bert[1] / name).write_bytes(content)
    model = cfg.Model(image=tiny_model().image, text=cfg.TextTower(pretrained=str(bert[1]), max_tokens=16))
    with pytest.raises(
        ConfigError, match=r"the tokenizer of model\.text\.pretrained '.*' cannot be read \(.*fetch again"
    ):
        open_pairs(tiny_config(model=model), tmp_path / "run", Console(quiet=True))


def test_a_damaged_checkpoint_of_a_run_is_named(tmp_path):
    config, run = tiny_config(), tmp_path / "run"
    with checkpoint.open_run(run, config):
        checkpoint.begin_run(run, config)
        checkpoint.save_state(run, make_tiny_learner(config), None, 1)
    path = run / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"the checkpoint in .*run is damaged \(SafetensorError.*from a copy"):
        checkpoint.load_model(run)


def test_the_heads_of_the_report_decoder_are_judged_by_the_pretrained_width(bert):
    text = cfg.TextTower(pretrained=str(bert[1]), max_tokens=16, width=192)
    fits = tiny_model()
    changed = cfg.Model(image=fits.image, space=fits.space, text=text, decoders=cfg.Decoders(report_heads=5))
    with pytest.raises(ConfigError, match="report_heads must be a divisor of the text tower's width 24, got 5"):
        make_tiny_learner(tiny_config(model=changed))


@pytest.mark.usefixtures("few_texts")
def test_a_pretrained_tower_brings_its_vocabulary_or_is_refused(bert, tmp_path):
    config = tiny_config(
        model=cfg.Model(image=tiny_model().image, text=cfg.TextTower(pretrained=str(bert[1]), max_tokens=16)),
        data=cfg.Data(cache=str(tmp_path / "cache"), phantoms=cfg.Phantoms(size=48, train_count=50, validation_count=50)),
        run=cfg.Run(workers=0),
    )  # fmt: skip
    run, console = tmp_path / "run", Console(quiet=True)
    run.mkdir()
    # Weights alone: transformers makes a tokenizer to which every word is unknown.
    with pytest.raises(ConfigError, match="has 5 tokens, its tower embeddings for 50"):
        open_pairs(config, run, console)
    words = [f"word{number}" for number in range(60)]
    for count, fits in ((60, False), (40, True)):
        vocabulary = ["[PAD]", *words[:4], "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words[4 : count - 5]]
        (bert[1] / "vocab.txt").write_text("\n".join(vocabulary))
        if not fits:
            with pytest.raises(ConfigError, match="has 60 tokens, its tower embeddings for 50"):
                open_pairs(config, run, console)
    assert not (tmp_path / "cache").exists()
    pairs, _, tokenizer = open_pairs(config, run, console)
    # Its special tokens have other numbers than ours: [MASK] is 8, [CLS] 6 and [SEP] 7.
    sample = pairs[Draw(0, 0, True)]
    assert tokenizer.mask_id == 8
    assert (sample.input_ids[0, 0], sample.input_ids[0, -1]) == (6, 7)
    assert ((sample.masked_ids == 8) == sample.word_mask).all()
    assert sample.word_mask.any()
