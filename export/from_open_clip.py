"""A model of open_clip becomes a bundle: `python -m export.from_open_clip MODEL --out BUNDLE`.

BiomedCLIP and any other pair of an image tower and a text tower that open_clip builds. Plain ViTs, its own and timm's, take
patches; every other image tower is taken whole and takes pixels.
"""

import argparse
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.hf_model import HFTextEncoder
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import TextTransformer, VisionTransformer
from PIL import Image
from timm.layers import AttentionPoolLatent
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn
from transformers import BertModel, RobertaModel

from export.foreign import CONFIG_REMARKS, Foreign, Towers, channels, parser, run, side_of
from export.foreign_tokenizer import from_open_clip as fast_tokenizer
from export.parity import Origin
from export.patch_towers import AttentionHead, PatchProjection, PatchTower, PixelTower, PooledHead
from export.text_towers import BertEncoder, Pooling, TextTower, TokenEncoder
from mcr_infer.cli import streams
from mcr_infer.errors import BundleError
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import Padding

_FITS = {"shortest": "crop", "longest": "pad", "squash": "stretch"}
_POOLINGS: dict[str, Pooling] = {"argmax": "end", "eos": "end", "first": "first", "last": "last"}


def load(options: argparse.Namespace) -> Foreign:
    """Read a model and its tokenizer from a folder, the hub or open_clip's own list; raises `BundleError`."""
    name = model_name(options.model)
    try:
        model_cfg = open_clip.get_model_config(name)
        if model_cfg is None:
            raise BundleError(f"open_clip knows no model {options.model!r}, and no folder has that name")
        text_cfg = dict(model_cfg["text_cfg"])
        if options.text_model is not None:
            text_cfg["hf_model_name"] = str(options.text_model)
        # Its weights come with the others; only its configuration is read.
        text_cfg["hf_model_pretrained"] = False
        model = open_clip.create_model(
            name, pretrained=options.pretrained, require_pretrained=True, text_cfg=text_cfg
        ).eval()
        tokenizer = open_clip.get_tokenizer(name)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, pickle.UnpicklingError) as exc:
        raise BundleError(
            f"{options.model} cannot be loaded by open_clip: {exc or type(exc).__name__}; a folder needs "
            "open_clip_config.json and weights, a name of its list --pretrained, and a text tower of transformers that is "
            "named by the hub --text-model where there is no network"
        ) from exc
    if type(model) not in (open_clip.CLIP, open_clip.CustomTextCLIP):
        raise BundleError(f"models of open_clip's class {type(model).__name__} are not supported")
    cfg = PreprocessCfg(**model.visual.preprocess_cfg)
    mean, std = channels(cfg.mean, "mean"), channels(cfg.std, "std")
    image = image_tower(model.visual, mean=mean, std=std)
    text, padding = text_tower(model, tokenizer)
    transform = image_transform_v2(cfg, is_train=False)

    def embed_pictures(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        pixels = torch.stack([transform(Image.fromarray(one)) for one in pictures])
        with torch.inference_mode():
            return np.asarray(model.encode_image(pixels))

    def embed_texts(texts: Sequence[str]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model.encode_text(tokenizer(list(texts))))

    return Foreign(
        towers=Towers(image, text),
        preprocess=read_preprocess(cfg, image),
        tokenizer=fast_tokenizer(tokenizer),
        padding=padding,
        max_tokens=text.max_tokens,
        origin=Origin(
            embed_pictures=embed_pictures,
            embed_texts=embed_texts,
            token_ids=lambda texts: np.asarray(tokenizer(list(texts))),
        ),
        facts={
            "library": "open_clip",
            "class": type(model).__name__,
            "pretrained": None if options.pretrained is None else Path(options.pretrained).name,
            "image_mean": mean.tolist(),
            "image_std": std.tolist(),
        },
        architecture=_architecture(model_cfg, model),
    )


def _architecture(model_cfg: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return the configuration of a model without where its parts were once fetched from."""
    dropped = ("hf_model_name", "hf_tokenizer_name", "hf_model_pretrained", "timm_model_pretrained")
    values = {
        key: {name: one for name, one in value.items() if name not in dropped} if isinstance(value, dict) else value
        for key, value in model_cfg.items()
    }
    config = getattr(getattr(model, "text", None), "config", None)
    if config is not None:
        found = config.to_diff_dict()
        values["text_tower"] = {key: found[key] for key in found if key not in CONFIG_REMARKS}
    return values


def model_name(model: str) -> str:
    """Name a model as open_clip does: a folder, a name on the hub (with a slash in it) or one of its own list."""
    if model.startswith(("local-dir:", "hf-hub:")):
        return model
    if Path(model).is_dir():
        return f"local-dir:{model}"
    return f"hf-hub:{model}" if "/" in model else model


def read_preprocess(cfg: PreprocessCfg, tower: PatchTower | PixelTower) -> Preprocess:
    """Turn open_clip's preprocessing into a preset; raises `BundleError` for what is not square or does not fit."""
    size = side_of(cfg.size, "size")
    if cfg.resize_mode == "longest" and cfg.fill_color != 0:
        raise BundleError(f"fill_color {cfg.fill_color} is not supported: a bundle fills up with black")
    patch = int(tower.projection.weight.shape[1] ** 0.5) if isinstance(tower, PatchTower) else size
    if isinstance(tower, PatchTower) and len(tower.positions) != (size // patch) ** 2:
        raise BundleError(
            f"the image tower has {len(tower.positions)} positions, pictures of {size} pixels a side have "
            f"{(size // patch) ** 2} patches: give the model the size that its positions are made for"
        )
    return Preprocess(
        image_size=size,
        patch_size=patch,
        input="patches" if isinstance(tower, PatchTower) else "pixels",
        fit=_FITS[cfg.resize_mode],
        # At inference open_clip takes `random` for bicubic.
        interpolation="bilinear" if cfg.interpolation == "bilinear" else "bicubic",
        bits=8,
    )


def image_tower(visual: Any, *, mean: Tensor, std: Tensor) -> PatchTower | PixelTower:
    """Take a plain ViT apart, and any other image tower whole."""
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type in ("tok", "avg"):
        side_of(visual.patch_size, "patch_size")
        mean_pooled = visual.pool_type == "avg"
        norm_last = visual.final_ln_after_pool or not mean_pooled
        return PatchTower(
            projection=PatchProjection(visual.conv1, mean=mean, std=std),
            prefix=visual.class_embedding[None] + visual.positional_embedding[:1],
            positions=visual.positional_embedding[1:],
            before=visual.ln_pre,
            blocks=visual.transformer if norm_last else nn.Sequential(visual.transformer, visual.ln_post),
            head=PooledHead(
                nn.Sequential(visual.ln_post if norm_last else nn.Identity(), _projection(visual.proj)),
                mean=mean_pooled,
            ),
        )
    trunk = getattr(visual, "trunk", None)
    head = _timm_head(visual) if isinstance(visual, TimmModel) and _is_plain(trunk) else None
    if head is None:
        return PixelTower(visual, mean=mean, std=std)
    tokens = [one[0] for one in (trunk.cls_token, trunk.reg_token) if one is not None]
    prefix = torch.cat(tokens) if tokens else trunk.pos_embed[0, :0]
    positions = trunk.pos_embed[0]
    if not trunk.no_embed_class:
        prefix, positions = prefix + positions[: len(prefix)], positions[len(prefix) :]
    return PatchTower(
        projection=PatchProjection(trunk.patch_embed.proj, mean=mean, std=std),
        prefix=prefix,
        positions=positions,
        before=trunk.norm_pre,
        blocks=trunk.blocks if isinstance(head, AttentionHead) else nn.Sequential(trunk.blocks, trunk.norm),
        head=head,
    )


def _is_plain(trunk: Any) -> bool:
    """True for a timm ViT whose patches are cut by one convolution and placed by one table of positions."""
    if type(trunk) is not TimmViT or trunk.pos_embed is None or trunk.pool_include_prefix:
        return False
    convolution = getattr(trunk.patch_embed, "proj", None)
    return (
        isinstance(convolution, nn.Conv2d)
        and isinstance(trunk.patch_embed.norm, nn.Identity)
        and convolution.kernel_size == convolution.stride
        and convolution.kernel_size[0] == convolution.kernel_size[1]
    )


def _timm_head(visual: Any) -> PooledHead | AttentionHead | None:
    """Take the head of a timm ViT; None for a pooling that is taken whole."""
    trunk = visual.trunk
    finish = nn.Sequential(trunk.fc_norm, trunk.head, visual.head)
    if trunk.attn_pool is None:
        known = trunk.global_pool in ("token", "avg")
        return PooledHead(finish, mean=trunk.global_pool == "avg") if known else None
    pool = trunk.attn_pool
    if type(pool) is not AttentionPoolLatent or pool.latent_len != 1 or pool.pos_embed is not None or pool.mlp is None:
        return None
    linears = []
    for half in range(2):
        linear = nn.Linear(pool.kv.in_features, pool.kv.out_features // 2, bias=pool.kv.bias is not None)
        linear.weight = nn.Parameter(pool.kv.weight.detach().chunk(2)[half].clone())
        if pool.kv.bias is not None:
            linear.bias = nn.Parameter(pool.kv.bias.detach().chunk(2)[half].clone())
        linears.append(linear)
    key, value = linears
    query = pool.q(pool.latent[0, 0]).unflatten(0, (pool.num_heads, -1))
    return AttentionHead(
        norm=trunk.norm,
        query=pool.q_norm(query),
        key=key,
        key_norm=pool.k_norm,
        value=value,
        out=pool.proj,
        mlp_norm=pool.norm,
        mlp=pool.mlp,
        finish=finish,
    )


def text_tower(model: Any, tokenizer: Any) -> tuple[TextTower, Padding]:
    """Take the text tower apart; raises `BundleError` for one of another kind."""
    text = getattr(model, "text", None)
    most = int(tokenizer.context_length)
    if isinstance(text, HFTextEncoder):
        return _transformers_tower(text, most)
    if text is not None and (not isinstance(text, TextTransformer) or text.cls_emb is not None or text.use_pad_mask):
        raise BundleError(
            f"text towers of open_clip's class {type(text).__name__} with these settings are not supported"
        )
    whole = model if text is None else text
    kind = model.text_pool_type if text is None else text.pool_type
    if kind not in _POOLINGS:
        raise BundleError(f"text pooling {kind!r} is not supported, only {', '.join(_POOLINGS)}")
    causal = whole.attn_mask is not None
    pad = getattr(tokenizer, "tokenizer", None)
    # What stands after the end of a text changes nothing before it, if no word sees the next.
    seen = "later" if causal and kind != "last" else "all"
    padding = Padding(token_id=0 if pad is None else int(pad.pad_token_id), seen=seen)
    words = TokenEncoder(
        tokens=whole.token_embedding,
        positions=whole.positional_embedding,
        blocks=whole.transformer,
        norm=whole.ln_final,
        causal=causal,
    )
    finish = _projection(whole.text_projection)
    return TextTower(words, finish, pooling=_POOLINGS[kind], padding=padding, max_tokens=most), padding


def _transformers_tower(text: Any, most: int) -> tuple[TextTower, Padding]:
    """Take a text tower apart that open_clip has from transformers."""
    if type(text.transformer) not in (BertModel, RobertaModel):
        raise BundleError(f"text towers of class {type(text.transformer).__name__} are not supported")
    pooler, pooling = type(text.pooler).__name__, "mean"
    finish = text.proj
    if pooler in ("ClsPooler", "ClsLastHiddenStatePooler"):
        pooling = "first"
        if pooler == "ClsPooler" and text.pooler.use_pooler_output and text.transformer.pooler is not None:
            finish = nn.Sequential(text.transformer.pooler.dense, text.transformer.pooler.activation, text.proj)
    elif pooler != "MeanPooler":
        raise BundleError(f"open_clip's {pooler} is not supported")
    padding = Padding(token_id=int(text.config.pad_token_id), seen="none")
    words = BertEncoder(text.transformer)
    return TextTower(words, finish, pooling=pooling, padding=padding, max_tokens=most), padding


def _projection(matrix: Any) -> nn.Module:
    """Return a projection as a module: a matrix [W, D], a linear layer, or none at all."""
    if matrix is None:
        return nn.Identity()
    if isinstance(matrix, nn.Module):
        return matrix
    linear = nn.Linear(matrix.shape[0], matrix.shape[1], bias=False)
    linear.weight = nn.Parameter(matrix.detach().T.contiguous().clone())
    return linear


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    made = parser("from_open_clip", "Make a bundle of BiomedCLIP or another model of open_clip.")
    made.add_argument(
        "--pretrained", metavar="TAG|FILE", help="the weights, where MODEL is a name of open_clip's own list"
    )
    made.add_argument(
        "--text-model",
        type=Path,
        metavar="DIR",
        help="folder with the config.json of the text tower, where the model names one of the hub",
    )
    return run(made.parse_args(arguments), load)


if __name__ == "__main__":
    streams.run(main)
