"""A bundle small enough to make in milliseconds, whose towers can be computed by hand; no torch in it."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.parser import parse_model

from export.folder import IMAGE, TEXT, TOKENIZER, new_bundle, weights_digest, write_manifest
from mcr_infer.inference.bundle import GOLDEN, TEXT_INPUTS, Bundle
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer

PREPROCESS = Preprocess(image_size=16, patch_size=4)
DIM, MAX_TOKENS, VOCAB = 8, 24, 120
SENTENCES = (
    "bilateral pleural effusion",
    "no acute cardiopulmonary abnormality",
    "there is a large left pneumothorax",
    "the heart is enlarged and there is pulmonary edema with small bilateral pleural effusions",
)

_HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
_TAIL = """
    axes = Constant <value_ints = [-1]> ()
    column = Unsqueeze (weights, axes)
    weighted = Mul (local, column)
    second = Constant <value_ints = [1]> ()
    pooled = ReduceSum <keepdims = 0> (weighted, second)
    norm = ReduceL2 <keepdims = 1> (pooled, axes)
    embedding = Div (pooled, norm)
}"""

IMAGE_GRAPH = (
    _HEAD
    + f"""image (float[batch, patches, 16] patches, int64[batch, patches] positions)
    => (float[batch, {DIM}] embedding, float[batch, patches, {DIM}] local, float[batch, patches] weights)
{{
    mapped = MatMul (patches, map)
    placed = Gather (places, positions)
    local = Add (mapped, placed)
    scores = Cast <to = 1> (positions)
    zero = Constant <value_float = 0.0> ()
    even = Mul (scores, zero)
    weights = Softmax <axis = 1> (even)"""
    + _TAIL
)
TEXT_GRAPH = (
    _HEAD
    + f"""text (int64[batch, tokens] input_ids, int64[batch, tokens] attention_mask)
    => (float[batch, {DIM}] embedding, float[batch, tokens, {DIM}] local, float[batch, tokens] weights)
{{
    local = Gather (words, input_ids)
    there = Cast <to = 1> (attention_mask)
    last = Constant <value_ints = [1]> ()
    count = ReduceSum <keepdims = 1> (there, last)
    weights = Div (there, count)"""
    + _TAIL
)


def tiny_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "map": rng.standard_normal((16, DIM)).astype(np.float32),
        "places": rng.standard_normal((PREPROCESS.patch_count, DIM)).astype(np.float32),
        "words": rng.standard_normal((VOCAB, DIM)).astype(np.float32),
    }


def texts(batch: int, tokens: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw inputs of the text tower, without padding."""
    ids = np.random.default_rng(seed).integers(0, 100, (batch, tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def patches(batch: int, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw inputs of the image tower: some patches at as many positions."""
    rng = np.random.default_rng(seed)
    positions = np.stack([rng.permutation(PREPROCESS.patch_count)[:count] for _ in range(batch)])
    return {"patches": rng.standard_normal((batch, count, 16), dtype=np.float32), "positions": positions}


def graph(text: str, weights: dict[str, np.ndarray]) -> bytes:
    """Make the bytes of an ONNX file from its text and the weights that it names."""
    model = parse_model(text)
    for name, array in weights.items():
        if any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_bundle(out: Path, *, notice: str | None = None, text_graph: str = TEXT_GRAPH) -> Bundle:
    """Write the tiny bundle with golden outputs of its own towers."""
    weights = tiny_weights()
    with new_bundle(out) as folder:
        train_tokenizer(SENTENCES, VOCAB).save(str(folder / TOKENIZER))
        (folder / IMAGE).write_bytes(graph(IMAGE_GRAPH, weights))
        (folder / TEXT).write_bytes(graph(text_graph, weights))
        pixels = np.random.default_rng(3).integers(0, 256, (2, 20, 12), dtype=np.uint8)
        cut = [PREPROCESS.patches(one.astype(np.float32) / np.float32(255)) for one in pixels]
        ids, mask = ReportTokenizer.from_file(folder / TOKENIZER, MAX_TOKENS).encode(SENTENCES)
        given = {
            "image": dict(zip(PREPROCESS.input_names, map(np.stack, zip(*cut, strict=True)), strict=True)),
            "text": dict(zip(TEXT_INPUTS, (ids, mask), strict=True)),
        }
        golden = {"image.pixels": pixels, "text.sentences": np.array(SENTENCES)}
        for side, file in (("image", IMAGE), ("text", TEXT)):
            outputs = OnnxTower(folder / file).run(given[side])
            golden |= {f"{side}.{name}": array for name, array in (given[side] | outputs).items()}
        np.savez(folder / GOLDEN, **golden)
        write_manifest(
            folder, name="tiny", created="2026-11-23", preprocess=PREPROCESS, max_tokens=MAX_TOKENS, embedding_dim=DIM,
            weights_sha256=weights_digest(weights), notice=notice, parity=[], training={},
        )  # fmt: skip
    return Bundle.open(out)
