"""A dual encoder of the size that people use, with random weights: what start-up and sessions cost does not depend on them.

bundle/                  text tower of BERT-base's size (12 x 768, 30,522 words), small image tower; no hub, no training
index/                   10,000 random unit vectors, put in through the index's own interface
sentence_transformers/   the same text tower with mean pooling, as that library saves it
open_clip/               a text tower of that size (12 x 768, CLIP's own words), as that library saves it
shipped-sized/           both towers of the sizes of the bundle that ships
vectors-512.npy, ...     10,000 random unit vectors for those two
"""

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index import Index, Row
from mcr_infer.inference.bundle import Bundle

WORDS = 30_522
ROWS = 10_000
WIDTH, DEPTH, HEADS, TOKENS = 768, 12, 12, 128
DIM = 512
QUESTION = "bilateral pleural effusion"

Sizes = Mapping[str, Mapping[str, Any]]
"""Settings of a model, as its configuration has them."""

MODEL: Sizes = {
    "image": {"image_size": 160, "patch_size": 16, "width": 192, "depth": 4, "heads": 3},
    "text": {"vocab_size": WORDS, "max_tokens": TOKENS, "width": WIDTH, "depth": DEPTH, "heads": HEADS},
    "space": {"embedding_dim": DIM},
    "decoders": {"image_width": 96, "image_heads": 3, "report_heads": HEADS},
}

VIT: Sizes = {
    "image": {"image_size": 224, "patch_size": 16, "width": 768, "depth": 12, "heads": 12},
    "text": {"vocab_size": 1500, "max_tokens": 96, "width": 128, "depth": 2, "heads": 2},
    "space": {"embedding_dim": DIM},
    "decoders": {"image_width": 96, "image_heads": 3, "report_heads": 2},
}
"""An image tower of ViT-B/16's size beside a small text tower."""


def make_bundle(out: Path) -> Bundle:
    """Export an untrained MCR model of BERT-base's size, through the parity gate as any other; one that is there is kept."""
    return exported(out, MODEL, name="large", words=WORDS)


def make_vit(out: Path, *, phantoms: int = 20) -> Bundle:
    """Export an untrained MCR model of ViT-B/16's size, in fp32 and int8, two to three minutes; one that is there is kept.

    What int8 costs a model that retrieves by chance is measured on few phantoms and says nothing.
    """
    if not out.exists():
        from export.quantize import add_precision

        exported(out, VIT, name="vitb16", words=VIT["text"]["vocab_size"])
        add_precision(out, "int8", phantoms=phantoms, accept_loss=True)
    return Bundle.open(out)


def shipped_sizes() -> Sizes:
    """Return the settings of the towers of the bundle that ships."""
    sizes: Sizes = Bundle.open().manifest["training"]["model"]
    return sizes


def make_shipped_sized(out: Path) -> Bundle:
    """Export an untrained MCR model of the sizes of the bundle that ships; one that is there is kept."""
    sizes = shipped_sizes()
    return exported(out, sizes, name="shipped-sized", words=int(sizes["text"]["vocab_size"]))


def exported(out: Path, model: Sizes, *, name: str, words: int) -> Bundle:
    """Export an untrained MCR model of some sizes, drawn with seed 0; one that is there is kept."""
    if out.exists():
        return Bundle.open(out)
    import torch

    from export.to_onnx import export_bundle
    from train.config import Config
    from train.model import MCR
    from train.settings import parse

    config = parse(Config, {"model": model})
    torch.manual_seed(0)
    out.parent.mkdir(parents=True, exist_ok=True)
    tokenizer = out.parent / "tokenizer.json"
    tokenizer.write_text(_many_words(words))
    return export_bundle(
        MCR(config).eval(),
        out,
        preprocess=config.model.preprocess,
        tokenizer=tokenizer,
        max_tokens=int(model["text"]["max_tokens"]),
        name=name,
        created=date.today().isoformat(),
    )


def make_index(folder: Path, bundle: Bundle) -> None:
    """Fill an index with random vectors of a bundle's space; one that is there is kept."""
    if folder.exists():
        return
    vectors = unit_vectors(bundle.embedding_dim)
    with Index.open_or_create(
        folder,
        fingerprint=bundle.fingerprint,
        embedding_dim=bundle.embedding_dim,
        bundle=bundle.name,
        bundle_path=str(bundle.path.resolve()),
    ) as index:
        for start in range(0, ROWS, 1000):
            index.add([
                Row(
                    id=f"1.2.826.0.1.{number}",
                    kind="image",
                    path=f"archive/{number:06d}.dcm",
                    metadata={"view": "PA", "study_year": 2020},
                    vector=vectors[number],
                )
                for number in range(start, start + 1000)
            ])  # fmt: skip
        index.save_snapshots()


def make_sentence_transformers(folder: Path, bundle: Bundle, sizes: Sizes = MODEL) -> None:
    """Save a BERT of random weights with mean pooling, and a bundle's words, as sentence-transformers loads it."""
    if folder.exists():
        return
    from sentence_transformers import SentenceTransformer, models
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    bert = folder.with_suffix(".bert")
    text = sizes["text"]
    config = BertConfig(
        vocab_size=text["vocab_size"], hidden_size=text["width"], num_hidden_layers=text["depth"],
        num_attention_heads=text["heads"], intermediate_size=4 * text["width"],
    )  # fmt: skip
    BertModel(config).save_pretrained(bert)
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    special = {f"{name}_token": token for name, token in names.items()}
    words = str(bundle.verified(bundle.tokenizer_file))
    PreTrainedTokenizerFast(tokenizer_file=words, **special).save_pretrained(bert)
    tower = models.Transformer(str(bert), max_seq_length=text["max_tokens"])
    pooling = models.Pooling(tower.get_embedding_dimension())
    SentenceTransformer(modules=[tower, pooling], device="cpu").save(str(folder))
    np.save(folder.parent / f"vectors-{text['width']}.npy", unit_vectors(text["width"]))


def make_open_clip(folder: Path, bundle: Bundle, sizes: Sizes = MODEL) -> None:
    """Save a CLIP of random weights, with CLIP's own words, as open_clip loads it."""
    if folder.exists():
        return
    import open_clip
    import torch
    from safetensors.torch import save_file

    image, text = sizes["image"], sizes["text"]
    config = {
        "embed_dim": bundle.embedding_dim,
        "vision_cfg": {
            "image_size": image["image_size"],
            "patch_size": image["patch_size"],
            "width": image["width"],
            "layers": image["depth"],
            "head_width": int(image["width"]) // int(image["heads"]),
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": text["width"],
            "heads": text["heads"],
            "layers": text["depth"],
        },
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(
        {name: one.contiguous() for name, one in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    np.save(folder.parent / f"vectors-{bundle.embedding_dim}.npy", unit_vectors(bundle.embedding_dim))


def unit_vectors(dim: int) -> NDArray[np.float32]:
    """Draw 10,000 directions [N, D]."""
    vectors = np.random.default_rng(0).standard_normal((ROWS, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _many_words(count: int) -> str:
    """Fill the vocabulary of the bundle that ships up to a size, so that loading it costs what that costs."""
    shipped = Bundle.open()
    content = json.loads(shipped.verified(shipped.tokenizer_file).read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), count):
        vocabulary[f"word{number:05d}"] = number
    return json.dumps(content)
