"""A tower in fp32 becomes one for the CPU whose products run in int8, activations scaled when it runs. No torch here."""

import logging
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from mcr_infer.errors import BundleError


def to_int8(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the tower with the products of its blocks in int8; inputs and outputs stay float32.

    Weights are symmetric, one scale a channel, in 7 of the 8 bits: a pair of products of unsigned and signed bytes then
    fits 16 bits, so the integers are the same on CPUs with and without VNNI (onnxruntime documentation, quantization,
    "reduce range"). Raises `BundleError` where the tower has nothing to quantise.
    """
    copy = with_node_names(proto)
    products = quantisable(copy)
    if not products:
        raise BundleError(
            "the tower has no products with constant weights inside its blocks: int8 would change nothing"
        )
    known = logging.root.manager.disable
    # The tool wishes that the graph had been optimised first; we want it plain.
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="mcr-int8-") as folder:
            path = Path(folder) / "tower.onnx"
            quantize_dynamic(
                copy, path, op_types_to_quantize=["MatMul"], nodes_to_quantize=products, per_channel=True,
                reduce_range=True, weight_type=QuantType.QInt8, extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
            return onnx.load(path)
    finally:
        logging.disable(known)


def with_node_names(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every node has a name: products are chosen by name, and not every exporter gives one."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for number, node in enumerate(copy.graph.node):
        node.name = node.name or f"node_{number}"
    return copy


def quantisable(proto: onnx.ModelProto) -> list[str]:
    """Name the MatMul nodes with constant weights that lie between two LayerNormalizations with more such products after.

    The maps into the common space and the aggregation scorer are left out: they are few of many products, and nothing
    after them evens out their error. With them in fp32 the error of the embedding falls to a half or less. So is what reads
    the pixels: the detail in them is finer than the steps of eight bits over their range.
    """
    graph = proto.graph
    constants = {one.name for one in graph.initializer}
    outputs = {one.name for one in graph.output}
    products = {node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in constants}
    normed: set[str] = set()
    """Values that depend on a norm."""
    for node in graph.node:
        if node.op_type == "LayerNormalization" or normed.intersection(node.input):
            normed.update(node.output)
    before_product: set[str] = set()
    before_norm: set[str] = set()
    """Values that a product depends on, and values that a norm with a product after it depends on."""
    chosen: list[str] = []
    for node in reversed(graph.node):
        # What depends on an output is aggregation, no part of the tower.
        made = {name for name in node.output if name not in outputs}
        product, norm = bool(made & before_product), bool(made & before_norm)
        if node.name in products:
            product = True
            if norm and node.input[0] in normed:
                chosen.append(node.name)
        norm |= node.op_type == "LayerNormalization" and product
        if product:
            before_product.update(node.input)
        if norm:
            before_norm.update(node.input)
    return chosen[::-1]
