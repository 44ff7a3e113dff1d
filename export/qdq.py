"""A tower in fp32 becomes one whose products TensorRT runs in int8 or fp8: pairs of QuantizeLinear and DequantizeLinear.

    fp32 graph -> half.py -> in front of each product of the blocks: activation -> Q -> DQ, integer weight -> DQ

The ranges are fixed when the graph is made (`calibration.py`): nothing in it spans the batch, as dynamic int8 does.
Everything else is in half precision, as half.py leaves it. The graph stays plain opset 20. No torch here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.calibration import Arrays, histograms, largest, magnitudes
from export.half import to_fp16
from export.int8 import quantisable, with_node_names
from mcr_infer.errors import BundleError

SMALLEST_SCALE = 2.0**-14
"""Smallest normal number of half precision: below it a scale loses digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """Numbers of eight bits."""

    name: str
    onnx_type: int
    largest: float
    """Largest magnitude; the smallest is its negative, so that 0 is at 0 (TensorRT takes no other zero point)."""

    even: bool
    """True for integers: their steps are even, so a channel of small weights wants a scale of its own, and clipping what
    is rare makes all steps finer. The steps of a float grow with its magnitude: one scale does as well, nothing is
    clipped."""

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        """Round values that have been divided by their scale, ties to even."""
        clipped = np.clip(values, -self.largest, self.largest)
        return np.rint(clipped).astype(np.int8) if self.even else clipped.astype(ml_dtypes.float8_e4m3fn)


INT8 = Format(name="int8", onnx_type=TensorProto.INT8, largest=127.0, even=True)
FP8 = Format(name="fp8", onnx_type=TensorProto.FLOAT8E4M3FN, largest=448.0, even=False)


def to_qdq(proto: onnx.ModelProto, batches: Iterable[Arrays], form: Format) -> onnx.ModelProto:
    """Return the tower with the products of its blocks in `form` and the rest in half precision; its boundary is float32.

    Activations have one scale a value; int8 weights one a channel, fp8 weights one a matrix. Raises `BundleError` where
    the tower has nothing to quantise.
    """
    named = with_node_names(proto)
    chosen = set(quantisable(named))
    if not chosen:
        raise BundleError(
            f"the tower has no products with constant weights inside its blocks: {form.name} would change nothing"
        )
    products = {node.name: node for node in named.graph.node if node.name in chosen}
    counts = histograms(named, (node.input[0] for node in products.values()), batches)
    scales = {name: activation_scale(values, form) for name, values in counts.items()}
    weights = {one.name: one for one in named.graph.initializer}
    return _insert(
        to_fp16(named),
        form,
        scales={name: scales[node.input[0]] for name, node in products.items()},
        weights={name: numpy_helper.to_array(weights[node.input[1]]) for name, node in products.items()},
    )


def activation_scale(counts: NDArray[np.float64], form: Format) -> float:
    """Choose the scale of a value from the histogram of its magnitudes.

    For integers the one with the least mean square error, of what is rounded and of what is clipped; a float keeps all.
    """
    most = largest(counts)
    if not form.even:
        return _scale(most, form)
    values = magnitudes()
    filled = np.flatnonzero(counts)
    x, weight = values[filled], counts[filled]
    best, least = most, np.inf
    for limit in most * np.geomspace(1.0, 1 / 64, 97):
        step = limit / form.largest
        inside = np.minimum(x**2, step**2 / 12)
        error = float((weight * np.where(x > limit, (x - limit) ** 2, inside)).sum())
        if error < least:
            best, least = limit, error
    return _scale(best, form)


def _scale(limit: float, form: Format) -> float:
    """Return the scale of a range as half precision has it."""
    return float(np.float16(max(limit / form.largest, SMALLEST_SCALE)))


def _insert(
    proto: onnx.ModelProto, form: Format, *, scales: Mapping[str, float], weights: Mapping[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    """Put the pairs in front of the products, which `scales` and `weights` have by name of node; `proto` is changed."""
    graph = proto.graph
    nodes: list[onnx.NodeProto] = []
    made: dict[str, onnx.TensorProto] = {}
    paired: dict[tuple[str, float], str] = {}
    """Products that share an activation, such as queries, keys and values, share its pair."""
    for node in graph.node:
        if node.name in scales:
            activation, scale = node.input[0], scales[node.name]
            if (activation, scale) not in paired:
                nodes += _pair(activation, np.float16(scale), form, made)
                paired[activation, scale] = nodes[-1].output[0]
            nodes.append(_weight(node.input[1], weights[node.name], form, made))
            node.input[:] = [paired[activation, scale], nodes[-1].output[0]]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *made.values()])
    return proto


def _pair(
    name: str, scale: np.float16, form: Format, made: dict[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    constants = [f"{name}_scale", f"{name}_zero"]
    made[constants[0]] = numpy_helper.from_array(np.array(scale), constants[0])
    made[constants[1]] = _tensor(np.zeros((), dtype=np.float32), form, constants[1])
    return (
        helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_{form.name}"], name=f"quantise_{name}"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_{form.name}", *constants], [f"{name}_back"], name=f"dequantise_{name}"
        ),
    )


def _weight(name: str, values: NDArray[np.float32], form: Format, made: dict[str, onnx.TensorProto]) -> onnx.NodeProto:
    """Make the weights [K, N] of a product in the form, with one scale a channel [N] or one for all."""
    limits = np.abs(values).max(axis=0 if form.even else None)
    scales = np.maximum(limits / form.largest, SMALLEST_SCALE).astype(np.float16)
    constants = [f"{name}_{form.name}", f"{name}_scale", f"{name}_zero"]
    made[constants[0]] = _tensor(values / scales.astype(np.float32), form, constants[0])
    made[constants[1]] = numpy_helper.from_array(scales, constants[1])
    made[constants[2]] = _tensor(np.zeros(scales.shape, dtype=np.float32), form, constants[2])
    # The channels of [K, N] are on axis 1, which is also what the operator takes where nothing is said.
    return helper.make_node("DequantizeLinear", constants, [f"{name}_back"], name=f"dequantise_{name}", axis=1)


def _tensor(values: NDArray[np.float32], form: Format, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(form.rounded(values), name)
