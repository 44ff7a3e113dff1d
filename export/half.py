"""A tower in fp32 becomes one in half precision, its sensitive parts and its boundary left in fp32. No torch here.

Norms and softmax stay in fp32, and so does everything after the mapped tokens: aggregation and the L2 norm. Casts stand
where the two meet. The graph stays plain and in order, so that a strongly typed runtime takes it as it is.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mcr_infer.errors import BundleError

KEPT = ("LayerNormalization", "Softmax", "ReduceL2", "ReduceSum", "ReduceMean", "Pow", "Reciprocal")
"""Operators that add many values up or divide by what may be small."""

SOURCES = ("Constant", "ConstantOfShape", "Range")
"""Operators whose type is in their attributes; what they make is cast where it is used."""

FINAL = "local"
"""The output after which only aggregation and the L2 norm follow where mapping comes before it."""

LARGEST, SMALLEST = 65504.0, 2.0**-24
"""Largest and smallest positive number of half precision (IEEE 754 binary16)."""


def to_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the tower in half precision; inputs and outputs stay float32.

    Raises `BundleError` where the graph has subgraphs, which no exporter of ours makes.
    """
    return _Conversion(proto).convert()


def rounded(array: NDArray[np.generic]) -> NDArray[np.float16]:
    """Round weights to half precision: no finite value becomes infinite and none but 0 becomes 0."""
    values = np.asarray(array, dtype=np.float32)
    finite = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    tiny = (finite != 0) & (np.abs(finite) < SMALLEST)
    half: NDArray[np.float16] = np.where(tiny, np.copysign(SMALLEST, finite), finite).astype(np.float16)
    return half


class _Conversion:
    """One walk over the nodes of a graph, in their order."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = onnx.ModelProto()
        self._proto.CopyFrom(proto)
        self._graph = self._proto.graph
        self._weights = {one.name: one for one in self._graph.initializer}
        self._floats = _float_values(proto)
        self._half: set[str] = set()
        """Values that are in half precision by now."""
        self._nodes: list[onnx.NodeProto] = []
        self._cast: dict[tuple[str, int], str] = {}
        self._made: dict[str, onnx.TensorProto] = {}

    def convert(self) -> onnx.ModelProto:
        kept = _after_final(self._graph.node)
        outputs = {one.name for one in self._graph.output}
        for number, node in enumerate(self._graph.node):
            if any(
                attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
                for attribute in node.attribute
            ):
                raise BundleError(
                    f"the node {node.name} ({node.op_type}) holds a graph of its own: fp16 is not made of it"
                )
            stays = node.op_type in KEPT or node.op_type in SOURCES or number in kept
            wanted = TensorProto.FLOAT if stays else TensorProto.FLOAT16
            node.input[:] = [self._as(name, wanted) for name in node.input]
            self._nodes.append(node)
            if stays:
                continue
            if node.op_type == "Cast":
                for attribute in node.attribute:
                    if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                        attribute.i = TensorProto.FLOAT16
            for place, name in enumerate(node.output):
                if name in self._floats and name in outputs:
                    node.output[place] = f"{name}_fp16"
                    self._nodes.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
                elif name in self._floats:
                    self._half.add(name)
        used = {name for node in self._nodes for name in node.input}
        weights = [one for name, one in {**self._weights, **self._made}.items() if name in used]
        del self._graph.node[:], self._graph.initializer[:], self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend(weights)
        return self._proto

    def _as(self, name: str, wanted: int) -> str:
        """Name a value in the wanted float type; make the cast, or the rounded weight, where there is none yet."""
        if name not in self._floats or (name in self._half) == (wanted == TensorProto.FLOAT16):
            return name
        if (name, wanted) not in self._cast:
            other = f"{name}_{'fp16' if wanted == TensorProto.FLOAT16 else 'fp32'}_cast"
            if name in self._weights:
                self._made[other] = numpy_helper.from_array(rounded(numpy_helper.to_array(self._weights[name])), other)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [other], name=f"cast_{other}", to=wanted))
            self._cast[name, wanted] = other
        return self._cast[name, wanted]


def _float_values(proto: onnx.ModelProto) -> set[str]:
    """Name the values and weights that are float32."""
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
    values: Mapping[str, int] = {
        one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)
    } | {one.name: one.data_type for one in graph.initializer}
    unknown = [name for node in graph.node for name in node.output if name not in values]
    if unknown:
        raise BundleError(f"the types of {', '.join(unknown[:5])} in the graph are unknown: fp16 is not made of it")
    return {name for name, kind in values.items() if kind == TensorProto.FLOAT}


def _after_final(nodes: Iterable[onnx.NodeProto]) -> set[int]:
    """Number the nodes that depend on the mapped tokens; not every node has a name."""
    reached, numbers = {FINAL}, set()
    for number, node in enumerate(nodes):
        if reached & set(node.input):
            reached.update(node.output)
            numbers.add(number)
    return numbers
