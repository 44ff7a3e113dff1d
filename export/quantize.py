"""A bundle gets a lower precision: `python -m export.quantize BUNDLE --precision fp16|int8|int8-qdq|fp8`.

    fp32 graphs -> half.py, int8.py or qdq.py -> parity table, retrieval cost against fp32 -> the bundle and two towers more

The fingerprint stays: a precision is another way to the same embedding space, and how far it strays from it is measured
here, written into the manifest, and refused beyond the limits below. The new folder takes the bundle's place as a whole.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from export import calibration, qdq
from export.calibration import Arrays
from export.folder import changed_bundle, write_precision
from export.half import to_fp16
from export.int8 import to_int8
from export.retrieval import HeldOut, Towers, cost, embed, held_out
from export.to_onnx import write_graph
from mcr_infer.cli import streams
from mcr_infer.errors import BundleError, ConfigError, McrError
from mcr_infer.inference.bundle import TOWER_OUTPUTS, Bundle
from mcr_infer.inference.checked_tower import OneItemTower
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tower import Side, Tower
from mcr_infer.inference.verify import compare, golden_inputs, invariance, parity
from mcr_infer.phantom import FIRST_TRAINING_SEED

SIDES: tuple[Side, ...] = ("image", "text")
BATCHES = (1, 2, 5)
SHORT_TEXTS = (3, 17)
"""Token counts beside the longest that the tower takes."""

PHANTOMS = 1000
FEWEST_PHANTOMS = 20
"""With fewer, the first ten are most of what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a precision must hold against fp32, or nothing is written. Shares are from 0 to 1."""

    mean_cosine: float
    """Of embeddings with those in fp32, in each case of the parity table."""

    rows_min_cosine: float
    """Between a row in its batch and the same row alone, here and on the machine that serves."""

    recall_loss: float
    """Of recall@10 of finding sets, each way: one point is about what chance does with 1000 phantoms."""

    top10_agreement: float
    """Each way: nine of the first ten hits stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a precision is made, who serves it and what it must hold."""

    convert: Callable[[onnx.ModelProto, Iterable[Arrays]], onnx.ModelProto]
    """Takes the tower in fp32 and the inputs that calibrate it."""

    calibrated: bool
    """False where those inputs are not looked at, and not made."""

    runtimes: tuple[str, ...]
    one_item: bool
    limits: Limits


def _eight_bits(form: qdq.Format) -> Recipe:
    """Return the recipe of Q/DQ graphs for TensorRT."""
    return Recipe(
        convert=lambda proto, batches: qdq.to_qdq(proto, batches, form),
        calibrated=True,
        runtimes=("tensorrt",),
        one_item=False,
        # Kernels for other batches round otherwise in half precision, and 8 bits make whole steps of it: on a GPU a row
        # may move in its batch as far as it may stray from fp32.
        limits=Limits(mean_cosine=0.99, rows_min_cosine=0.99, recall_loss=0.01, top10_agreement=0.9),
    )


RECIPES = {
    "fp16": Recipe(
        convert=lambda proto, _: to_fp16(proto),
        calibrated=False,
        runtimes=("cuda", "tensorrt"),
        one_item=False,
        limits=Limits(mean_cosine=0.999, rows_min_cosine=0.999, recall_loss=0.01, top10_agreement=0.9),
    ),
    "int8": Recipe(
        convert=lambda proto, _: to_int8(proto),
        calibrated=False,
        runtimes=("cpu",),
        one_item=True,
        limits=Limits(mean_cosine=0.99, rows_min_cosine=0.99999, recall_loss=0.01, top10_agreement=0.9),
    ),
    "int8-qdq": _eight_bits(qdq.INT8),
    "fp8": _eight_bits(qdq.FP8),
}
"""The two of int8 are different graphs: dynamic for the CPU, Q/DQ for TensorRT, and neither runtime takes the other's."""


def add_precision(
    path: Path,
    precision: str,
    *,
    phantoms: int = PHANTOMS,
    calibration_phantoms: int = calibration.PHANTOMS,
    accept_loss: bool = False,
) -> Bundle:
    """Make the towers of a bundle in a precision, measure them and put them into the bundle.

    `phantoms` measure the retrieval cost; `calibration_phantoms` others calibrate the precisions that need it.
    `accept_loss` writes them though they break limits, and says so in the manifest. Raises `BundleError` with every limit
    that was broken, or with what is wrong with the bundle; it stays as it was then.
    """
    recipe = RECIPES[precision]
    if not FEWEST_PHANTOMS <= phantoms <= FIRST_TRAINING_SEED // 2:
        raise ConfigError(f"--phantoms must be from {FEWEST_PHANTOMS} to {FIRST_TRAINING_SEED // 2}, got {phantoms}")
    if not calibration.FEWEST_PHANTOMS <= calibration_phantoms <= calibration.MOST_PHANTOMS:
        raise ConfigError(
            f"--calibration-phantoms must be from {calibration.FEWEST_PHANTOMS} to {calibration.MOST_PHANTOMS}, got "
            f"{calibration_phantoms}"
        )
    bundle = Bundle.open(path)
    with changed_bundle(bundle) as folder:
        full: dict[Side, Tower] = {}
        lower: dict[Side, Tower] = {}
        names: dict[str, str] = {}
        for side in SIDES:
            names[side] = f"{side}-{precision}.onnx"
            batches = calibration.samples(bundle, side, calibration_phantoms)
            write_graph(recipe.convert(onnx.load(bundle.verified_tower(side)), batches), folder / names[side])
            # A graph that is not optimised rounds wherever it says so; optimising would take casts away.
            tower = OnnxTower(folder / names[side], device="cpu", purpose="bulk" if recipe.one_item else "proof")
            lower[side] = OneItemTower(tower) if recipe.one_item else tower
            full[side] = OnnxTower(bundle.verified_tower(side), device="cpu")
        items = held_out(bundle, phantoms)
        table = [_measure(full[side], lower[side], side, given) for side, given in _cases(bundle, items)]
        retrieval = cost(items, embed(full, items), embed(lower, items))
        broken = _broken(recipe.limits, table, retrieval)
        if broken and not accept_loss:
            raise BundleError(
                f"{precision} of the bundle {bundle.name} loses too much, nothing was written (--accept-loss takes it all "
                "the same):\n" + "\n".join(broken)
            )
        record = {
            **names,
            "runtimes": list(recipe.runtimes),
            "one_item": recipe.one_item,
            "tolerance": _tolerance(bundle, lower),
            "parity": table,
            "retrieval": retrieval,
            "limits": asdict(recipe.limits),
            **({"calibration": calibration.facts(calibration_phantoms)} if recipe.calibrated else {}),
            "accepted_loss": bool(broken),
            "broken_limits": broken,
        }
        write_precision(folder, precision, record)
    return Bundle.open(path)


def _cases(bundle: Bundle, items: HeldOut) -> Iterator[tuple[Side, Arrays]]:
    """Give batches of pictures, whole and in part, and of texts of several lengths, padded and not."""
    rng = np.random.default_rng(0)
    every = bundle.preprocess.patch_count
    # Three reports together fill the longest text that the tower takes.
    long = [" ".join(items.texts[row : row + 3]) for row in range(max(BATCHES))]
    for batch in BATCHES:
        for length in sorted({1, max(1, every // 2), every}):
            chosen = np.stack([np.sort(rng.permutation(every)[:length]) for _ in range(batch)])
            patches = np.take_along_axis(items.patches[:batch], chosen[:, :, None], axis=1)
            yield "image", bundle.preprocess.tower_inputs(patches, chosen.astype(np.int64))
        for length in sorted({min(length, bundle.max_tokens) for length in (*SHORT_TEXTS, bundle.max_tokens)}):
            input_ids = np.zeros((batch, length), dtype=np.int64)
            attention_mask = np.zeros_like(input_ids)
            for row in range(batch):
                end = max(3, length - row * max(1, length // 4))
                ids, there = bundle.tokenizer(end).encode([long[row]])
                input_ids[row, : ids.shape[1]], attention_mask[row, : ids.shape[1]] = ids[0], there[0]
            longest = int(attention_mask.sum(axis=1).max())
            yield "text", {"input_ids": input_ids[:, :longest], "attention_mask": attention_mask[:, :longest]}


def _measure(full: Tower, lower: Tower, side: Side, inputs: Arrays) -> dict[str, object]:
    """Compare the towers on one batch; the row of the table, with the digits that mean something."""
    expected, got = full.run(inputs), lower.run(inputs)
    found = parity(got, expected, inputs.get("attention_mask"))
    cosines = [
        compare(got["embedding"][row : row + 1], expected["embedding"][row : row + 1])[1]
        for row in range(len(got["embedding"]))
    ]
    return {
        "tower": side,
        "batch": got["weights"].shape[0],
        "length": got["weights"].shape[1],
        "min_cosine": round(found.min_cosine, 7),
        "mean_cosine": round(float(np.mean(cosines)), 7),
        "max_abs": _short(found.max_abs),
        "local_max_abs": _short(found.local_max_abs),
        "weights_max_abs": _short(found.weights_max_abs),
        "rows_min_cosine": round(invariance(lower, inputs), 7),
    }


def _broken(limits: Limits, table: Sequence[Mapping[str, Any]], retrieval: Mapping[str, Any]) -> list[str]:
    """Name the limits that are broken, in words; NaN breaks every one."""
    found = []
    for row in table:
        where = f"{row['tower']} tower, batch {row['batch']}, length {row['length']}"
        for name in ("mean_cosine", "rows_min_cosine"):
            if not row[name] >= getattr(limits, name):
                found.append(f"{where}: {name} {row[name]}, limit {getattr(limits, name)}")
    for name, loss in retrieval["recall_loss"].items():
        if name.endswith("_r10") and not loss <= limits.recall_loss:
            found.append(f"{name}: {100 * loss:.2f} points lost, limit {100 * limits.recall_loss:g}")
    for name, share in retrieval["top10_agreement"].items():
        if not share >= limits.top10_agreement:
            found.append(f"agreement of the first ten, {name}: {share}, limit {limits.top10_agreement}")
    return found


def _tolerance(bundle: Bundle, towers: Towers) -> dict[str, dict[str, float]]:
    """Measure against the golden outputs: another machine may stray twice as far, and a little."""
    golden = bundle.golden()
    limits = {}
    for side in SIDES:
        inputs = golden_inputs(bundle, golden, side)
        expected = {name: golden[f"{side}.{name}"] for name in TOWER_OUTPUTS}
        found = parity(towers[side].run(inputs), expected, inputs.get("attention_mask"))
        limits[side] = {
            "max_abs": _short(2 * found.max_abs + 1e-4),
            "min_cosine": round(1 - 2 * (1 - found.min_cosine) - 1e-5, 7),
            "local_max_abs": _short(2 * found.local_max_abs + 1e-4),
            "weights_max_abs": _short(2 * found.weights_max_abs + 1e-4),
        }
    return limits


def _short(value: float) -> float:
    return float(f"{value:.1e}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    parser = argparse.ArgumentParser(prog="python -m export.quantize", description="Add a lower precision to a bundle.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle; it is replaced as a whole")
    parser.add_argument(
        "--precision",
        required=True,
        choices=list(RECIPES),
        help="fp16 for CUDA and TensorRT, int8 for the CPU, int8-qdq and fp8 for TensorRT",
    )
    parser.add_argument("--accept-loss", action="store_true", help="write it though it breaks limits, and record that")
    parser.add_argument(
        "--phantoms", type=int, default=PHANTOMS, metavar="N", help=f"for the retrieval cost; {PHANTOMS} if not given"
    )
    parser.add_argument(
        "--calibration-phantoms", type=int, default=calibration.PHANTOMS, metavar="N",
        help=f"that set the ranges of int8-qdq and fp8; {calibration.PHANTOMS} if not given",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        bundle = add_precision(
            options.bundle, options.precision, phantoms=options.phantoms,
            calibration_phantoms=options.calibration_phantoms, accept_loss=options.accept_loss,
        )  # fmt: skip
    except McrError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    _report(bundle, options.precision)
    return 0


def _report(bundle: Bundle, precision: str) -> None:
    record = cast(Mapping[str, Any], bundle.manifest["precisions"])[precision]
    streams.say(f"{bundle.path}: {bundle.name} has {precision} now, fingerprint {bundle.fingerprint}")
    for side in SIDES:
        rows = [row for row in record["parity"] if row["tower"] == side]
        sizes = [
            sum(one.bytes for name, one in bundle.files.items() if name in (file, f"{file}.data"))
            for file in (bundle.tower_files[side], record[side])
        ]
        print(
            f"{side} tower: {len(rows)} cases, cosine min {min(row['min_cosine'] for row in rows):.6f}, "
            f"mean {np.mean([row['mean_cosine'] for row in rows]):.6f}, max abs difference "
            f"{max(row['max_abs'] for row in rows):.1e}; {sizes[0] / 1e6:.1f} MB become {sizes[1] / 1e6:.1f}"
        )
    costs = record["retrieval"]
    for name, value in costs["recall"].items():
        print(f"{name}: {100 * value:.1f} %, fp32 {100 * costs['recall_fp32'][name]:.1f} %")
    for name, share in costs["top10_agreement"].items():
        print(f"first ten the same, {name}: {100 * share:.1f} %")
    for line in record["broken_limits"]:
        print(f"accepted: {line}")


if __name__ == "__main__":
    streams.run(main)
