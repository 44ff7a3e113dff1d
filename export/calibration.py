"""Calibration: the range in which the activations of a tower lie, measured on what the bundle will really be given.

    phantoms of training seeds -> the bundle's preprocessing and tokenizer -> the tower in fp32 -> a histogram a value

A range that is found at one length is wrong at another, so pictures come with all their patches and with every share of
them, and texts with every number of tokens that the tower takes. No torch here.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.to_onnx import write_graph
from mcr_infer import phantom
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tower import Side
from mcr_infer.phantom import FIRST_TRAINING_SEED
from mcr_infer.reports import embed_text

Arrays = dict[str, NDArray[Any]]

PHANTOMS = 128
FEWEST_PHANTOMS, MOST_PHANTOMS = 16, 100_000
FIRST_SEED = FIRST_TRAINING_SEED
"""Calibration sees what training may see, never what the cost is measured on."""

_BATCH = 4
"""The activations of a whole batch are in memory at once."""

_SMALL = 32
"""Pixels a side of a phantom of which only the report is read; the report does not depend on it."""

_JOINED = 3
"""Reports that together fill the longest text."""

_DROPPED_BITS = 17
"""Of the 31 below the sign: the exponent and 6 bits of the mantissa stay, 64 bins an octave, each below 1.6 % wide."""

_INFINITE = 0x7F800000 >> _DROPPED_BITS
"""The bin of infinity; NaN lies above it, finite values below."""

_BINS = _INFINITE + 1

_FEWEST_TOKENS = 3
"""[CLS], a word, [SEP], or their like."""


def samples(bundle: Bundle, side: Side, phantoms: int = PHANTOMS) -> Iterator[Arrays]:
    """Give the inputs of a tower: every patch and every share of them, every length of text; no padding.

    Every second picture comes with all its patches, which is what is usually served.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + phantoms)
    return _pictures(bundle, seeds) if side == "image" else _texts(bundle, seeds)


def facts(phantoms: int) -> dict[str, object]:
    """Return what the manifest says of a calibration."""
    return {"phantoms": phantoms, "first_seed": FIRST_SEED}


def _pictures(bundle: Bundle, seeds: Sequence[int]) -> Iterator[Arrays]:
    rng = np.random.default_rng(0)
    every, rendering = bundle.preprocess.patch_count, bundle.preprocess.rendering
    parts = len(seeds) // _BATCH // 2
    # Few patches change what a value is more than many do: as many steps from 1 to 10 as from 10 to 100.
    shares = iter(np.geomspace(1, every, max(parts, 1)).round().astype(int))
    for number, start in enumerate(range(0, len(seeds), _BATCH)):
        made = [phantom.make(seed) for seed in seeds[start : start + _BATCH]]
        patches = np.stack([bundle.preprocess.patches(one.radiograph(rendering=rendering).pixels)[0] for one in made])
        length = every if number % 2 == 0 else int(next(shares, every))
        chosen = np.stack([np.sort(rng.permutation(every)[:length]) for _ in made]).astype(np.int64)
        yield bundle.preprocess.tower_inputs(np.take_along_axis(patches, chosen[:, :, None], axis=1), chosen)


def _texts(bundle: Bundle, seeds: Sequence[int]) -> Iterator[Arrays]:
    tokenizer = bundle.tokenizer()
    reports = [embed_text(phantom.make(seed, _SMALL).report.text) for seed in seeds]
    lengths = np.linspace(min(_FEWEST_TOKENS, bundle.max_tokens), bundle.max_tokens, len(seeds)).round().astype(int)
    for row, length in enumerate(lengths):
        text = " ".join(reports[(row + step) % len(reports)] for step in range(_JOINED))
        input_ids, _ = tokenizer.encode([text])
        # As the tokenizer cuts a text that is too long: its beginning and the last token, [SEP] or its like.
        input_ids = np.concatenate([input_ids[:, : length - 1], input_ids[:, -1:]], axis=1)
        yield {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}


def histograms(
    proto: onnx.ModelProto, names: Iterable[str], batches: Iterable[Arrays]
) -> dict[str, NDArray[np.float64]]:
    """Run a tower and measure how often the named values have which magnitude: shares [bins] of each.

    Each batch counts the same: those of few patches or tokens have few values, and what is rare in all of them together
    may be usual there. `magnitudes` names the bins.
    Raises `BundleError` where a value is not finite.
    """
    names = sorted(set(names))
    counts = {name: np.zeros(_BINS) for name in names}
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    known = {one.name for one in (*probe.graph.input, *probe.graph.output)}
    for name in names:
        if name not in known:
            probe.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    inside = [name for name in names if name not in {one.name for one in probe.graph.input}]
    with tempfile.TemporaryDirectory(prefix="mcr-calibration-") as folder:
        path = Path(folder) / "tower.onnx"
        write_graph(probe, path)
        tower = OnnxTower(path, device="cpu")
        for batch in batches:
            values: Mapping[str, NDArray[Any]] = {**batch, **tower.run(batch, inside)}
            for name in names:
                counts[name] += _counted(values[name])
    broken = [name for name in names if counts[name][_INFINITE]]
    if broken:
        raise BundleError(f"values of {', '.join(broken[:5])} are not finite: the tower cannot be calibrated")
    return {name: values[:_INFINITE] for name, values in counts.items()}


def magnitudes() -> NDArray[np.float64]:
    """Return the middle of each bin of finite values [bins]."""
    low = np.arange(_INFINITE, dtype=np.uint32) << _DROPPED_BITS
    return (low | (1 << (_DROPPED_BITS - 1))).view(np.float32).astype(np.float64)


def largest(counts: NDArray[np.float64]) -> float:
    """Return the upper edge of the last bin that is not empty; 0 where all are, or nothing but zeros was counted."""
    filled = np.flatnonzero(counts)
    if not filled.size or filled[-1] == 0:
        return 0.0
    return float((np.array(filled[-1] + 1, dtype=np.uint32) << _DROPPED_BITS).view(np.float32))


def _counted(values: NDArray[Any]) -> NDArray[np.float64]:
    bits = np.ascontiguousarray(values, dtype=np.float32).reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return np.bincount(np.minimum(bits >> _DROPPED_BITS, _INFINITE), minlength=_BINS) / bits.size
