"""Small models of public classes with random weights, saved to folders as their authors would have."""

import json
from pathlib import Path

import open_clip
import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipTokenizer,
    T5Tokenizer,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessorPil,
)

from mcr_infer import phantom
from mcr_infer.inference.tokenizer import train_tokenizer

VISION = {
    "image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 40,
}  # fmt: skip
TEXT = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 36}
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def reports() -> list[str]:
    """Text that tokenizers are trained on."""
    return [phantom.make(seed).report.text for seed in range(5000, 5020)]


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Move every weight, so that none is a zero or a one under which a mistake would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def save(kind: type[PreTrainedModel], config: PreTrainedConfig, folder: Path) -> None:
    torch.manual_seed(0)
    shaken(kind(config)).save_pretrained(folder)


def byte_pairs(size: int = 400) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train the byte-pair encoding of CLIP on reports: vocabulary and merges."""
    made = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator((text.lower() for text in reports()), trainer)
    values = json.loads(made.to_str())["model"]
    vocab = dict(values["vocab"])
    for letter in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(f"{letter}</w>", len(vocab))
    return vocab, [tuple(pair) for pair in values["merges"]]


def clip(folder: Path) -> Path:
    """A CLIPModel with its tokenizer and image processor."""
    vocab, merges = byte_pairs()
    start, end = len(vocab), len(vocab) + 1
    vocab |= {"<|startoftext|>": start, "<|endoftext|>": end}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=30).save_pretrained(folder)
    size = {
        "image_mean": MEAN,
        "image_std": STD,
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    config = CLIPConfig(
        text_config={
            **TEXT, "vocab_size": len(vocab), "max_position_embeddings": 30, "bos_token_id": start, "eos_token_id": end,
            "pad_token_id": end, "projection_dim": 16,
        },
        vision_config={**VISION, "projection_dim": 16}, projection_dim=16,
    )  # fmt: skip
    save(CLIPModel, config, folder)
    return folder


def pieces(folder: Path, size: int = 300) -> Path:
    """Train sentencepiece unigrams on reports, with the ids that SigLIP has: <pad> 0, </s> 1, <unk> 2."""
    path = folder / "spiece.model"
    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(reports()), model_writer=stream, vocab_size=size, model_type="unigram", pad_id=0,
            eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
        )  # fmt: skip
    return path


def siglip(folder: Path) -> Path:
    """A SiglipModel with its sentencepiece tokenizer and image processor: the kind of MedSigLIP."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = SiglipTokenizer(str(pieces(folder)), model_max_length=24)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    text = {**TEXT, "vocab_size": tokenizer.vocab_size, "max_position_embeddings": 24, "projection_size": 24}
    config = SiglipConfig(text_config=text, vision_config={**VISION, "hidden_act": "gelu_pytorch_tanh"})
    save(SiglipModel, config, folder)
    return folder


def dual_encoder(folder: Path, vision: type = ViTConfig, text: type = BertConfig) -> Path:
    """A VisionTextDualEncoderModel, of a ViT and a BERT if nothing else is named."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = train_tokenizer(reports(), 300).get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=40).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    words = text(**TEXT, vocab_size=len(vocabulary), max_position_embeddings=41, pad_token_id=0)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision(**VISION), words, projection_dim=16)
    save(VisionTextDualEncoderModel, config, folder)
    return folder


OPEN_CLIP_TEXT = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
WHITENING = {"mean": MEAN, "std": STD}


def open_clip_model(folder: Path, model_cfg: dict, preprocess_cfg: dict | None = None) -> Path:
    """A model of open_clip with random weights, in a folder as it pushes one to the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model_cfg, "preprocess_cfg": {**WHITENING, **(preprocess_cfg or {})}}
    custom = model_cfg.get("custom_text") or "hf_model_name" in model_cfg["text_cfg"]
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    values = {key: value for key, value in json.loads(json.dumps(model_cfg)).items() if key != "custom_text"}
    if "hf_model_name" in values["text_cfg"]:
        values["text_cfg"]["hf_model_pretrained"] = False
    torch.manual_seed(0)
    model = shaken(kind(**values))
    pooling = getattr(model.visual, "attnpool", None)
    if pooling is not None:
        # A random ResNet is nearly blind beside what its pooling adds: that must not drown the picture.
        with torch.no_grad():
            pooling.positional_embedding.mul_(0.01)
            pooling.v_proj.bias.zero_()
            pooling.c_proj.bias.zero_()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return folder


def open_clip_vit(folder: Path, **vision: object) -> Path:
    """CLIP as open_clip builds it."""
    tower = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 12, **vision}
    return open_clip_model(
        folder, {"embed_dim": 16, "vision_cfg": tower, "text_cfg": OPEN_CLIP_TEXT, "quick_gelu": True}
    )


def open_clip_resnet(folder: Path) -> Path:
    """CLIP with a convolutional image tower."""
    tower = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    return open_clip_model(folder, {"embed_dim": 16, "vision_cfg": tower, "text_cfg": OPEN_CLIP_TEXT})


def biomed_clip(folder: Path, pooler: str = "cls_last_hidden_state_pooler") -> Path:
    """The kind of BiomedCLIP: a timm ViT, a BERT of transformers with an MLP, a tokenizer of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    bert = folder / "bert"
    bert.mkdir()
    vocabulary = train_tokenizer(reports(), 300).get_vocab()
    (bert / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    BertTokenizer(vocab=str(bert / "vocab.txt")).save_pretrained(folder)
    BertConfig(**TEXT, vocab_size=len(vocabulary), max_position_embeddings=40).save_pretrained(bert)
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    text = {
        "hf_model_name": str(bert), "hf_tokenizer_name": str(bert), "hf_proj_type": "mlp",
        "hf_pooler_type": pooler, "context_length": 32,
    }  # fmt: skip
    return open_clip_model(folder, {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text})


def open_clip_siglip(folder: Path) -> Path:
    """SigLIP as open_clip builds it: attention pooling by timm, words that see all and the filling too."""
    folder.mkdir(parents=True, exist_ok=True)
    model = sentencepiece.SentencePieceProcessor(model_file=str(pieces(folder)))
    vocabulary = [(model.id_to_piece(row), model.get_score(row)) for row in range(len(model))]
    T5Tokenizer(vocab=vocabulary, extra_ids=0, pad_token="</s>").save_pretrained(folder)
    vision = {"timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    text = {
        "context_length": 24, "vocab_size": 300, "hf_tokenizer_name": "here", "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 16, "heads": 2, "layers": 2, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
    }  # fmt: skip
    return open_clip_model(
        folder,
        {"embed_dim": 64, "custom_text": True, "vision_cfg": vision, "text_cfg": text},
        {"resize_mode": "squash"},
    )
