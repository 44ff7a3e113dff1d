"""A checkpoint becomes a bundle: `python -m export.to_onnx RUN --out BUNDLE`.

    model.encode_image, model.encode_text -> one plain opset-20 graph each -> parity gate -> folder

Standardisation, Mapping before Aggregation and the L2 norm are inside the graphs. LayerNormalization and Gelu stay single
operators: taken apart, they overflow in half precision. The bundle appears whole, after the gate, or not at all.
"""

import argparse
import json
import os
import shutil
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors
from torch import Tensor, nn
from torch.export import Dim

from export.folder import IMAGE, TEXT, TOKENIZER, new_bundle, weights_digest, write_manifest
from export.parity import DualEncoder, Origin, gate, gate_origin, reference
from mcr_infer import phantom
from mcr_infer.cli import streams
from mcr_infer.errors import BundleError, McrError
from mcr_infer.inference.bundle import GOLDEN, TEXT_INPUTS, TOWER_OUTPUTS, WEIGHTS_SUFFIX, WORDS, Bundle
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import Padding, ReportTokenizer
from mcr_infer.inference.tower import Side
from train import checkpoint

OPSET = 20
KEPT_WHOLE = {"LayerNormalization": "layer_norm", "Gelu": "gelu"}
"""ONNX operators and the torch operators that must each become exactly one of them."""

LARGE_WEIGHT = 1024
"""Bytes from which a weight lies outside the graph; shape inference wants to see the small ones."""

GOLDEN_SEEDS = (0, 1)
"""Phantoms whose picture and report are the golden inputs."""

GOLDEN_SENTENCES = ("bilateral pleural effusion", "no acute cardiopulmonary abnormality")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An exported tower and the weights that it uses, by their names in the model."""

    proto: onnx.ModelProto
    weights: dict[str, NDArray[Any]]


class _Tower(nn.Module):
    """One of the two encoders as the forward pass of a module, which is what the exporter traces."""

    def __init__(self, model: nn.Module, side: Side) -> None:
        super().__init__()
        self.model = model
        self.encode = {"image": "encode_image", "text": "encode_text"}[side]

    def forward(self, first: Tensor, second: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        inputs = (first,) if second is None else (first, second)
        embedding, local, weights = getattr(self.model, self.encode)(*inputs)
        return embedding, local, weights


def export_tower(model: nn.Module, side: Side, *, preprocess: Preprocess, max_tokens: int) -> Graph:
    """Trace one tower into an ONNX graph with the axes batch and patches or tokens.

    Raises `BundleError` when a LayerNorm or GELU was taken apart.
    """
    # Traced at lengths that are no special case: an axis of length 1 would be taken for a constant.
    example: tuple[Tensor, ...]
    axes = {0: Dim("batch")}
    if side == "image":
        names = preprocess.input_names
        length = min(3, preprocess.patch_count)
        given = preprocess.tower_inputs(
            np.zeros((2, length, preprocess.patch_size**2), dtype=np.float32), np.arange(length)[None].repeat(2, axis=0)
        )
        example = tuple(torch.from_numpy(given[name]) for name in names)
        if preprocess.input == "patches":
            axes[1] = Dim("patches", max=preprocess.patch_count)
    else:
        names = TEXT_INPUTS
        example = (torch.full((2, 3), 5), torch.tensor([[1, 1, 1], [1, 1, 0]]))
        axes[1] = Dim("tokens", max=max_tokens)
    with warnings.catch_warnings():
        # Both inputs share their axes on purpose.
        warnings.filterwarnings("ignore", message="# The axis name")
        program = torch.onnx.export(
            _Tower(model, side).eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(axes,) * len(example),
            input_names=list(names),
            output_names=[f"{name}_output" for name in TOWER_OUTPUTS],
            verbose=False,
        )
    traced, proto = program.exported_program, program.model_proto
    # The exporter names values after torch operators: `embedding` may be one already, and a name stands for one value.
    _rename(proto.graph, {name: f"{name}_value" for name in TOWER_OUTPUTS})
    _rename(proto.graph, {f"{name}_output": name for name in TOWER_OUTPUTS})
    for operator, name in KEPT_WHOLE.items():
        wanted = sum(node.op == "call_function" and f"aten.{name}." in str(node.target) for node in traced.graph.nodes)
        found = sum(node.op_type == operator for node in proto.graph.node)
        if found != wanted:
            raise BundleError(f"the {side} graph has {found} {operator} operators for {wanted} of the model")
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return Graph(proto=proto, weights=_used_weights(model, traced))


def export_bundle(
    model: DualEncoder,
    out: Path,
    *,
    preprocess: Preprocess,
    tokenizer: Path,
    max_tokens: int,
    name: str,
    created: str,
    notice: str | None = None,
    training: Mapping[str, object] | None = None,
    extra_files: Mapping[str, Path] | None = None,
    padding: Padding | None = None,
    origin: Origin | None = None,
    architecture: Mapping[str, object] | None = None,
    extras: Mapping[str, object] | None = None,
) -> Bundle:
    """Export a model in eval mode, gate it and write its bundle to `out`, replacing a bundle that is there.

    `extra_files` are copied under the names given, `extras` stand in the manifest beside what every bundle has. `padding`,
    `origin` and `architecture`, which is fingerprinted with the weights, belong to models from elsewhere. Raises
    `BundleError` when a gate refuses the towers or `out` is something else than a bundle; nothing is written then.
    """
    reader = ReportTokenizer.from_file(tokenizer, max_tokens, padding=padding)
    extras = dict(extras or {})
    with new_bundle(out) as folder:
        shutil.copyfile(tokenizer, folder / TOKENIZER)
        weights: dict[str, NDArray[Any]] = {}
        if architecture is not None:
            # The same weights under another activation or another pooling are another space.
            text = json.dumps(architecture, sort_keys=True, default=str)
            weights["architecture"] = np.frombuffer(text.encode(), dtype=np.uint8)
        towers: dict[Side, OnnxTower] = {}
        for side, file in (("image", IMAGE), ("text", TEXT)):
            graph = export_tower(model, side, preprocess=preprocess, max_tokens=max_tokens)
            write_graph(graph.proto, folder / file)
            towers[side] = OnnxTower(folder / file, device="cpu")
            weights |= graph.weights
        parity = gate(model, towers, preprocess=preprocess, max_tokens=max_tokens, vocab_size=_vocab_size(tokenizer))
        if origin is not None:
            extras["origin_parity"] = gate_origin(origin, towers, preprocess=preprocess, tokenizer=reader)
        golden = golden_arrays(model, preprocess, reader)
        np.savez(folder / GOLDEN, **golden)
        for target, source in (extra_files or {}).items():
            shutil.copyfile(source, folder / target)
        write_manifest(
            folder,
            name=name,
            created=created,
            preprocess=preprocess,
            max_tokens=max_tokens,
            embedding_dim=golden["image.embedding"].shape[1],
            weights_sha256=weights_digest(weights),
            notice=notice,
            parity=parity,
            training=training or {},
            padding=padding,
            extras=extras,
        )
    return Bundle.open(out)


def write_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights beside it, where the runtime maps them instead of parsing them."""
    convert_model_to_external_data(proto, location=f"{path.name}{WEIGHTS_SUFFIX}", size_threshold=LARGE_WEIGHT)
    write_external_data_tensors(proto, str(path.parent))
    path.write_bytes(proto.SerializeToString(deterministic=True))
    # onnx makes the weights readable by their owner alone; a bundle is there to be shared.
    beside = path.with_name(f"{path.name}{WEIGHTS_SUFFIX}")
    if beside.exists():  # a graph may have small weights alone
        shutil.copymode(path, beside)


def golden_arrays(model: DualEncoder, preprocess: Preprocess, tokenizer: ReportTokenizer) -> dict[str, NDArray[Any]]:
    """Make the golden file: pictures and sentences, what becomes of them before the towers, and the model's outputs."""
    phantoms = [phantom.make(seed) for seed in GOLDEN_SEEDS]
    # Eight bits a pixel: small, and exactly the same after a division by 255.
    pixels = np.stack([np.round(one.radiograph().pixels * 255).astype(np.uint8) for one in phantoms])
    cut = [preprocess.patches(image.astype(np.float32) / np.float32(255)) for image in pixels]
    sentences = [*GOLDEN_SENTENCES, *(one.report.text for one in phantoms)]
    input_ids, attention_mask = tokenizer.encode(sentences)
    patches, positions = np.stack([one for one, _ in cut]), np.stack([one for _, one in cut])
    text = {"input_ids": input_ids, "attention_mask": attention_mask}
    # Patches for towers of whole pictures, too: one a picture.
    image = {"patches": patches, "positions": positions}
    outputs = {
        "image": image | reference(model, "image", preprocess.tower_inputs(patches, positions)),
        "text": text | reference(model, "text", text),
    }
    arrays: dict[str, NDArray[Any]] = {"image.pixels": pixels, "text.sentences": np.array(sentences)}
    for side, values in outputs.items():
        arrays |= {f"{side}.{key}": value for key, value in values.items()}
    return arrays


def _used_weights(model: nn.Module, traced: torch.export.ExportedProgram) -> dict[str, NDArray[Any]]:
    """Take the weights that a traced tower reads: a decoder or a temperature is no part of the embedding space."""
    known = model.state_dict()
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    names = [
        str(spec.target).removeprefix("model.")
        for spec, node in zip(traced.graph_signature.input_specs, inputs, strict=True)
        if node.users
    ]
    return {name: known[name].detach().cpu().numpy() for name in names if name in known}


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values of a graph without subgraphs wherever they are made and used."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in graph.output:
        value.name = names.get(value.name, value.name)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what tells of the machine that exported: stack traces with source paths, and the like in every corner."""
    graph = proto.graph
    del graph.value_info[:]
    for holder in (proto, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""


def _vocab_size(tokenizer: Path) -> int:
    return len(json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    parser = argparse.ArgumentParser(prog="python -m export.to_onnx", description="Export a training run as a bundle.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a training run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="folder to write; a bundle is replaced"
    )
    parser.add_argument("--name", help="name of the bundle; the name of its folder if not given")
    parser.add_argument("--notice", help="one line that every use of the bundle prints, such as what it was trained on")
    parser.add_argument("--model-card", type=Path, metavar="FILE", help="copied into the bundle as MODEL_CARD.md")
    options = parser.parse_args(arguments)
    try:
        bundle = _export_run(options)
    except McrError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    report(bundle)
    return 0


def today() -> str:
    """Return the day that a bundle is made on, YYYY-MM-DD.

    SOURCE_DATE_EPOCH is the convention of reproducible builds: https://reproducible-builds.org/specs/source-date-epoch/
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return (datetime.now(UTC) if epoch is None else datetime.fromtimestamp(int(epoch), UTC)).date().isoformat()


def report(bundle: Bundle) -> None:
    """Print what was written and how equal it is to the model."""
    size = sum(record.bytes for record in bundle.files.values())
    streams.say(f"{bundle.path}: {bundle.name}, {size / 1e6:.1f} MB, fingerprint {bundle.fingerprint}")
    for side in ("image", "text"):
        rows = [row for row in bundle.manifest["parity"] if row["tower"] == side]
        worst, cosine = max(row["max_abs"] for row in rows), min(row["min_cosine"] for row in rows)
        print(f"{side} tower: {len(rows)} parity cases, max abs difference {worst:.1e}, min cosine {cosine:.7f}")
    print(words_line(bundle))


def words_line(bundle: Bundle) -> str:
    """Say how unknown words of queries and reports will be recognized."""
    words = bundle.vocabulary().words
    if words is None:
        return (
            "words: no list of the training text, so unknown words are recognized by their spelling alone; python -m "
            f"export.words {bundle.path} adds one"
        )
    return f"words: {len(words)} of the training text"


def _export_run(options: argparse.Namespace) -> Bundle:
    model, config = checkpoint.load_model(options.run)
    extras = {"training.jsonl": options.run / checkpoint.METRICS}
    if options.model_card is not None:
        extras["MODEL_CARD.md"] = options.model_card
    missing = [str(path) for path in extras.values() if not path.is_file()]
    if missing:
        raise BundleError(f"{', '.join(missing)} cannot be read: the bundle carries it along")
    words = options.run / WORDS
    # Empty for a handful of reports: a list of nothing would make every word unknown.
    if words.is_file() and words.stat().st_size:
        extras[WORDS] = words
    training = tomllib.loads((options.run / checkpoint.CONFIG).read_text(encoding="utf-8"))
    # Paths of the machine that trained; they say nothing about the weights.
    training.get("data", {}).pop("cache", None)
    for name in ("images", "reports", "table"):
        training.get("data", {}).get("radiographs", {}).pop(name, None)
    return export_bundle(
        model,
        options.out,
        preprocess=config.model.preprocess,
        tokenizer=options.run / checkpoint.TOKENIZER,
        max_tokens=config.model.text.max_tokens,
        name=options.name or options.out.resolve().name,
        created=today(),
        notice=options.notice,
        training=training,
        extra_files=extras,
    )


if __name__ == "__main__":
    streams.run(main)
