"""A dual encoder of transformers becomes a bundle: `python -m export.from_transformers MODEL --out BUNDLE`.

CLIPModel, SiglipModel (MedSigLIP) and VisionTextDualEncoderModel with a CLIP or ViT and a BERT or RoBERTa. All of their
image towers are plain ViTs and take patches.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    BertModel,
    CLIPModel,
    CLIPVisionModel,
    RobertaModel,
    SiglipModel,
    VisionTextDualEncoderModel,
    ViTModel,
)

from export.foreign import CONFIG_REMARKS, Foreign, Towers, channels, parser, run, side_of
from export.foreign_tokenizer import from_transformers as fast_tokenizer
from export.parity import Origin
from export.patch_towers import AttentionHead, PatchProjection, PatchTower, PooledHead
from export.text_towers import BertEncoder, TextTower, TokenEncoder
from mcr_infer.cli import streams
from mcr_infer.errors import BundleError
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import Padding

_CLASSES = {"clip": CLIPModel, "siglip": SiglipModel, "vision-text-dual-encoder": VisionTextDualEncoderModel}
_FILTERS = {
    Image.Resampling.BILINEAR: "bilinear",
    Image.Resampling.BICUBIC: "bicubic",
    Image.Resampling.LANCZOS: "lanczos",
}


class _Blocks(nn.Module):
    """Blocks of transformers, one after the other; a mask [T, T] is added to their scores."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, tokens: Tensor, seen: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, attention_mask=None if seen is None else seen[None, None])
        return tokens


def load(options: argparse.Namespace) -> Foreign:
    """Read model, processor and tokenizer from a folder or the hub; raises `BundleError` for what is not supported."""
    try:
        kind = AutoConfig.from_pretrained(options.model).model_type
        if kind not in _CLASSES:
            raise BundleError(
                f"{options.model} is of type {kind!r}, supported are {', '.join(_CLASSES)}; if open_clip knows the model, "
                "python -m export.from_open_clip takes it"
            )
        model = AutoModel.from_pretrained(options.model, dtype=torch.float32).eval()
        # The one whose resizing is Pillow's, to the bit: the other resizes tensors.
        processor = AutoImageProcessor.from_pretrained(options.model, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    except (OSError, ValueError, ImportError) as exc:
        raise BundleError(f"{options.model} cannot be loaded by transformers: {exc}") from exc
    preprocess, mean, std = read_preprocess(processor, model)
    image = image_tower(model, mean=mean, std=std)
    text = text_tower(model, tokenizer)
    fast = fast_tokenizer(tokenizer)

    def tokens(texts: Sequence[str]) -> Any:
        return tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=text.max_tokens, return_tensors="pt"
        )

    def embed_pictures(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        given = [Image.fromarray(one).convert("RGB") for one in pictures]
        pixels = processor(images=given, return_tensors="pt").pixel_values
        with torch.inference_mode():
            return np.asarray(model.get_image_features(pixel_values=pixels).pooler_output)

    def embed_texts(texts: Sequence[str]) -> NDArray[np.float32]:
        given = tokens(texts)
        # SigLIP was trained without an attention mask; its processor gives none.
        mask = {} if kind == "siglip" else {"attention_mask": given["attention_mask"]}
        with torch.inference_mode():
            return np.asarray(model.get_text_features(input_ids=given["input_ids"], **mask).pooler_output)

    return Foreign(
        towers=Towers(image, text),
        preprocess=preprocess,
        tokenizer=fast,
        padding=Padding(
            token_id=int(text.pad), seen="all" if kind == "siglip" else "later" if kind == "clip" else "none"
        ),
        max_tokens=text.max_tokens,
        origin=Origin(
            embed_pictures=embed_pictures,
            embed_texts=embed_texts,
            token_ids=lambda texts: np.asarray(tokens(texts)["input_ids"]),
        ),
        facts={
            "library": "transformers",
            "class": type(model).__name__,
            "image_mean": mean.tolist(),
            "image_std": std.tolist(),
        },
        architecture=_architecture(model),
    )


def _architecture(model: nn.Module) -> dict[str, Any]:
    """Return the configuration of a model without what says nothing about its vectors."""
    parts = {"model": model.config, "image": model.config.vision_config, "text": model.config.text_config}
    values = {name: one.to_diff_dict() for name, one in parts.items()}
    for name in ("vision_config", "text_config"):
        values["model"].pop(name, None)
    return {
        name: {key: value for key, value in one.items() if key not in CONFIG_REMARKS} for name, one in values.items()
    }


def read_preprocess(processor: Any, model: nn.Module) -> tuple[Preprocess, Tensor, Tensor]:
    """Turn an image processor into a preset, mean [3] and standard deviation [3]; raises `BundleError`."""
    config = model.config.vision_config
    size, patch = side_of(config.image_size, "image_size"), side_of(config.patch_size, "patch_size")
    if not processor.do_resize or not processor.do_rescale or not np.isclose(processor.rescale_factor, 1 / 255):
        raise BundleError("the image processor must resize and divide by 255, as those of CLIP and SigLIP do")
    if processor.resample not in _FILTERS:
        raise BundleError(f"resample {processor.resample!r} is not supported, only {', '.join(_FILTERS.values())}")
    target = {name: value for name, value in dict(processor.size).items() if value is not None}
    crop: dict[str, int] = {}
    if getattr(processor, "do_center_crop", None):
        crop = {name: value for name, value in dict(processor.crop_size).items() if value is not None}
    geometry: dict[str, Any]
    if set(target) == {"height", "width"} and not crop:
        geometry, seen = {"fit": "stretch"}, side_of(list(target.values()), "size")
    elif set(target) == {"shortest_edge"} and set(crop) == {"height", "width"}:
        seen, short = side_of(list(crop.values()), "crop_size"), int(target["shortest_edge"])
        geometry = {"fit": "crop_floor", "resize": None if short == seen else short}
    else:
        raise BundleError(f"the image processor resizes to {target} and crops to {crop or 'nothing'}: not supported")
    if seen != size:
        raise BundleError(f"the image processor gives {seen} pixels a side, the image tower takes {size}")
    normalises = processor.do_normalize
    mean = channels(processor.image_mean if normalises else 0.0, "image_mean")
    std = channels(processor.image_std if normalises else 1.0, "image_std")
    filter_name = _FILTERS[Image.Resampling(processor.resample)]
    return Preprocess(image_size=size, patch_size=patch, interpolation=filter_name, bits=8, **geometry), mean, std


def image_tower(model: nn.Module, *, mean: Tensor, std: Tensor) -> PatchTower:
    """Take the image tower of a model apart; raises `BundleError` for one that is no plain ViT of those named above."""
    vision = model.vision_model
    if isinstance(vision, CLIPVisionModel):
        embeddings = vision.embeddings
        first, *others = embeddings.position_embedding.weight.split([1, embeddings.num_patches])
        return PatchTower(
            projection=PatchProjection(embeddings.patch_embedding, mean=mean, std=std),
            prefix=embeddings.class_embedding[None] + first,
            positions=others[0],
            before=vision.pre_layrnorm,
            blocks=_Blocks(vision.encoder.layers),
            head=PooledHead(nn.Sequential(vision.post_layernorm, model.visual_projection)),
        )
    if isinstance(vision, ViTModel) and vision.pooler is not None:
        embeddings = vision.embeddings
        projection = embeddings.patch_embeddings.projection
        positions = embeddings.position_embeddings[0]
        pooler = vision.pooler
        return PatchTower(
            projection=PatchProjection(projection, mean=mean, std=std),
            prefix=embeddings.cls_token[0] + positions[:1],
            positions=positions[1:],
            before=nn.Identity(),
            blocks=_Blocks(vision.layers),
            head=PooledHead(nn.Sequential(vision.layernorm, pooler.dense, pooler.activation, model.visual_projection)),
        )
    if type(model) is SiglipModel and vision.use_head:
        embeddings, head = vision.embeddings, vision.head
        return PatchTower(
            projection=PatchProjection(embeddings.patch_embedding, mean=mean, std=std),
            prefix=embeddings.position_embedding.weight[:0],
            positions=embeddings.position_embedding.weight,
            before=nn.Identity(),
            blocks=_Blocks(vision.encoder.layers),
            head=_attention_head(head, vision.post_layernorm),
        )
    raise BundleError(f"image towers of class {type(vision).__name__} are not supported")


def _attention_head(head: Any, norm: nn.Module) -> AttentionHead:
    """Take apart the pooling head of SigLIP, whose attention keeps the weights of queries, keys and values in one."""
    attention = head.attention
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    linears = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight, linear.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())
        linears.append(linear)
    query, key, value = linears
    return AttentionHead(
        norm=norm,
        query=query(head.probe[0, 0]).unflatten(0, (attention.num_heads, -1)),
        key=key,
        key_norm=nn.Identity(),
        value=value,
        out=attention.out_proj,
        mlp_norm=head.layernorm,
        mlp=head.mlp,
        finish=nn.Identity(),
    )


def text_tower(model: nn.Module, tokenizer: Any) -> TextTower:
    """Take the text tower of a model apart; raises `BundleError` for one of another class."""
    text = model.text_model
    pad = tokenizer.pad_token_id
    if pad is None:
        raise BundleError("the tokenizer names no token that fills up shorter texts (pad_token)")
    positions = text.config.max_position_embeddings
    if type(model) in (CLIPModel, SiglipModel):
        causal = type(model) is CLIPModel
        words = TokenEncoder(
            tokens=text.embeddings.token_embedding,
            positions=text.embeddings.position_embedding.weight,
            blocks=_Blocks(text.encoder.layers),
            norm=text.final_layer_norm,
            causal=causal,
        )
        finish = model.text_projection if causal else text.head
        padding = Padding(token_id=pad, seen="later" if causal else "all")
        return TextTower(words, finish, pooling="end" if causal else "last", padding=padding, max_tokens=positions)
    if type(text) in (BertModel, RobertaModel) and text.pooler is not None:
        # RoBERTa counts positions from the one after its padding token.
        longest = positions - (pad + 1 if type(text) is RobertaModel else 0)
        finish = nn.Sequential(text.pooler.dense, text.pooler.activation, model.text_projection)
        most = min(longest, tokenizer.model_max_length)
        padding = Padding(token_id=pad, seen="none")
        return TextTower(BertEncoder(text), finish, pooling="first", padding=padding, max_tokens=most)
    raise BundleError(f"text towers of class {type(text).__name__} are not supported")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    made = parser("from_transformers", "Make a bundle of a CLIP, SigLIP or vision-text dual encoder of transformers.")
    return run(made.parse_args(arguments), load)


if __name__ == "__main__":
    streams.run(main)
