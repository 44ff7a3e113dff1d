"""Q/DQ graphs in eight bits for TensorRT: calibrated on phantoms, measured as they stand, admitted or refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from conftest import run_cli
from export import calibration, quantize
from export.calibration import histograms, largest, magnitudes, samples
from export.int8 import quantisable, with_node_names
from export.qdq import FP8, INT8, SMALLEST_SCALE, Format, activation_scale, to_qdq
from export.quantize import RECIPES, add_precision
from mcr_infer.errors import BackendError, BundleError, ConfigError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.verify import rows_limit, verify
from tiny import tiny_bundle

PHANTOMS = 20
FORMATS = {"int8-qdq": INT8, "fp8": FP8}
DEQUANTISED_TYPES = {"int8-qdq": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}


@pytest.fixture(scope="module")
def bundle(small_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with every precision, admitted within the limits."""
    folder = tmp_path_factory.mktemp("eight") / "small"
    shutil.copytree(small_bundle.path, folder)
    shutil.rmtree(folder / "engines")
    for precision in RECIPES:
        arguments = [str(folder), "--precision", precision, "--phantoms", str(PHANTOMS)]
        assert quantize.main([*arguments, "--calibration-phantoms", "16"]) == 0
    return Bundle.open(folder)


def as_it_stands(bundle: Bundle, side: str, precision: str) -> OnnxTower:
    """Open a graph for TensorRT on the CPU, as export measures it."""
    return OnnxTower(bundle.verified_tower(side, precision), purpose="one_shot")


@pytest.mark.parametrize("precision", FORMATS)
def test_each_has_its_tables_its_limits_and_its_calibration_in_the_manifest(bundle: Bundle, precision: str):
    found = bundle.manifest["precisions"][precision]
    assert len(found["parity"]) == 18
    cosines = [row["mean_cosine"] for row in found["parity"]]
    assert 0.99 <= min(cosines) <= max(cosines) < 1
    assert 1e-4 < max(row["max_abs"] for row in found["parity"]) < 0.2
    # The ranges are fixed: nothing in the graph spans the batch.
    assert min(row["rows_min_cosine"] for row in found["parity"]) >= 0.99999
    assert found["retrieval"]["phantoms"] == PHANTOMS
    assert set(found["retrieval"]["recall_loss"]) == set(found["retrieval"]["recall_fp32"])
    assert found["limits"] == {
        "mean_cosine": 0.99, "rows_min_cosine": 0.99, "recall_loss": 0.01, "top10_agreement": 0.9
    }  # fmt: skip
    assert found["calibration"] == {"phantoms": 16, "first_seed": 1_000_000}
    assert (found["accepted_loss"], found["broken_limits"]) == (False, [])
    variant = bundle.precisions[precision]
    assert (variant.runtimes, variant.one_item, variant.rows_min_cosine) == (("tensorrt",), False, 0.99)
    assert variant.tower_files == {side: f"{side}-{precision}.onnx" for side in ("image", "text")}
    assert "calibration" not in bundle.manifest["precisions"]["fp16"]


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize(("precision", "form"), FORMATS.items())
def test_every_product_of_the_blocks_takes_eight_bits_and_the_rest_is_half(
    bundle: Bundle, side: str, precision: str, form: Format
):
    plain = onnx.load(bundle.verified_tower(side))
    model = onnx.load(bundle.verified_tower(side, precision))
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)}
    made = {name: node for node in graph.node for name in node.output}
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = {one.name: numpy_helper.to_array(one) for one in plain.graph.initializer}
    named = {node.name: node for node in with_node_names(plain).graph.node}
    chosen = [node for node in graph.node if node.name in quantisable(with_node_names(plain))]
    # Four products a block of ViT, six a layer of BERT.
    assert len(chosen) == {"image": 2 * 4, "text": 6}[side]
    pairs = set()
    for node in chosen:
        activation, weight = (made[name] for name in node.input)
        pairs.add(activation.input[0])
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        assert types[activation.input[0]] == form.onnx_type
        assert {types[name] for name in node.input} == {types[node.output[0]]} == {TensorProto.FLOAT16}
        eight, scale, zero = (constants[name] for name in weight.input)
        full = weights[named[node.name].input[1]]
        assert scale.shape == ((full.shape[1],) if precision == "int8-qdq" else ())
        assert not zero.astype(np.float32).any()
        assert not constants[activation.input[2]].astype(np.float32).any()
        back = eight.astype(np.float32) * scale.astype(np.float32)
        # Half a step of an integer; half of the last of 4 bits of a float, or of its smallest step.
        step = scale.astype(np.float32) * (
            1 if precision == "int8-qdq" else np.maximum(np.abs(full) / scale / 8, 2**-9)
        )
        assert (np.abs(back - full) <= 0.51 * step).all()
    # Queries, keys and values of BERT share the pair of their input.
    assert len(pairs) == {"image": 8, "text": 4}[side]
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == len(pairs)
    norms = [node for node in graph.node if node.op_type in ("LayerNormalization", "Softmax")]
    assert {types[node.output[0]] for node in norms} == {TensorProto.FLOAT}
    assert all(types[one.name] == TensorProto.FLOAT for one in graph.output)
    # No weight of a product is left in more than eight bits.
    half = [one for one in graph.initializer if one.data_type == TensorProto.FLOAT16 and len(one.dims) == 2]
    assert not {f"{named[node.name].input[1]}_fp16_cast" for node in chosen} & {one.name for one in half}


def test_a_row_is_the_same_in_every_batch_and_near_fp32(bundle: Bundle):
    golden = bundle.golden()
    for precision in FORMATS:
        for side, names in (("image", ("patches", "positions")), ("text", ("input_ids", "attention_mask"))):
            inputs = {name: golden[f"{side}.{name}"] for name in names}
            tower = as_it_stands(bundle, side, precision)
            together = tower.run(inputs)["embedding"]
            alone = [tower.run({n: a[row : row + 1] for n, a in inputs.items()})["embedding"] for row in range(2)]
            assert np.abs(together[:2] - np.concatenate(alone)).max() < 1e-6
            strayed = 1 - (together * golden[f"{side}.embedding"]).sum(axis=1)
            assert 1e-7 < strayed.max() < 0.01


def test_they_are_made_for_tensorrt_and_on_the_cpu_only_verified(bundle: Bundle):
    for precision in FORMATS:
        with pytest.raises(BackendError, match=f"{precision} is not served on cpu; it is made for tensorrt"):
            open_tower(bundle, "image", device="cpu", precision=precision)
        done = run_cli("verify", bundle.path, "--precision", precision, "--device", "cpu", "--json")
        found = {one["name"]: one["detail"] for one in json.loads(done.stdout)["checks"]}
        assert found["golden image"].startswith(f"{precision} on cpu, the graph as it stands: max abs difference ")


def test_the_gate_of_engines_holds_rows_to_the_limit_of_the_precision(bundle: Bundle, tmp_path: Path):
    assert [rows_limit(bundle.variant(name)) for name in ("fp32", "int8", "fp16", "int8-qdq")] == [
        0.99999, 0.99999, 0.999, 0.99
    ]  # fmt: skip
    # A manifest that says nothing of rows holds them to what fp32 holds.
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["precisions"]["int8-qdq"]["limits"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert rows_limit(Bundle.open(tmp_path).variant("int8-qdq")) == 0.99999
    manifest["precisions"]["fp8"]["limits"]["rows_min_cosine"] = "much"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"precisions\.fp8\.limits\.rows_min_cosine must be a number, got 'much'"):
        Bundle.open(tmp_path)


def test_calibration_sees_every_length_of_training_seeds_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    seeds = []
    make = calibration.phantom.make
    monkeypatch.setattr(calibration.phantom, "make", lambda seed, *size: seeds.append(seed) or make(seed, *size))
    pictures, texts = (list(samples(bundle, side, 64)) for side in ("image", "text"))
    assert seeds == [*range(1_000_000, 1_000_064)] * 2
    counts = [batch["patches"].shape[1] for batch in pictures]
    assert counts[::2] == [16] * 8
    assert counts[1::2] == [1, 1, 2, 3, 5, 7, 11, 16]
    assert all(batch["patches"].shape[0] == 4 for batch in pictures)
    lengths = [batch["input_ids"].shape[1] for batch in texts]
    assert set(lengths) == set(range(3, 25))
    assert all(batch["attention_mask"].all() and batch["input_ids"][0, -1] == 3 for batch in texts)
    monkeypatch.undo()
    # What is read of a small phantom is what the large one says.
    assert [make(seed, 32).report.text for seed in seeds[:5]] == [make(seed).report.text for seed in seeds[:5]]
    # The pixels at the positions are those of the bundle's own preprocessing.
    whole, positions = bundle.preprocess.patches(make(1_000_004).radiograph().pixels)
    assert np.array_equal(pictures[1]["patches"][0], whole[pictures[1]["positions"][0]])
    assert np.array_equal(positions, np.arange(16))


def test_a_precision_that_needs_no_calibration_makes_no_samples(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(small_bundle.path, tmp_path / "small")

    def refuse(*_: object) -> None:
        raise RuntimeError("a sample was made")

    monkeypatch.setattr(calibration, "_pictures", generator := (lambda *_: (refuse() for _ in "x")))
    monkeypatch.setattr(calibration, "_texts", generator)
    assert sorted(add_precision(tmp_path / "small", "fp16", phantoms=PHANTOMS).precisions) == ["fp16"]
    with pytest.raises(RuntimeError, match="a sample was made"):
        add_precision(tmp_path / "small", "fp8", phantoms=PHANTOMS)


def test_a_histogram_knows_magnitudes_to_a_hundredth(small_bundle: Bundle):
    proto = onnx.load(small_bundle.verified_tower("image"))
    batches = list(samples(small_bundle, "image", 16))[:2]
    counts = histograms(proto, ["patches", "local"], batches)
    tower = OnnxTower(small_bundle.verified_tower("image"))
    for name, values in (
        ("patches", [batch["patches"] for batch in batches]),
        ("local", [tower.run(batch)["local"] for batch in batches]),
    ):
        assert counts[name].sum() == pytest.approx(len(batches))
        mean = np.mean([np.abs(each).mean() for each in values])
        assert (counts[name] * magnitudes()).sum() / len(batches) == pytest.approx(mean, rel=0.01)
        most = max(np.abs(each).max() for each in values)
        assert most < largest(counts[name]) <= 1.016 * most
    assert largest(np.zeros_like(counts["local"])) == 0
    batches[1]["patches"][0, 0, 0] = np.nan
    with pytest.raises(BundleError, match="values of local are not finite: the tower cannot be calibrated"):
        histograms(proto, ["local"], batches)


def test_integers_clip_what_is_rare_and_floats_keep_it():
    values = np.concatenate([np.linspace(0.01, 1, 1_000_000), [20.0]]).astype(np.float32)
    shares = np.bincount(values.view(np.uint32) >> 17, minlength=len(magnitudes())) / len(values)
    assert activation_scale(shares, FP8) == pytest.approx(20 / 448, rel=0.02)
    # With all of its range int8 would have 6 steps for what lies below 1.
    whole, chosen = 20 / 127, activation_scale(shares, INT8)
    # Least for a limit c: (20 - c)^2 / 10^6 + (c / 127)^2 / 12, at c = 3.24.
    assert chosen == pytest.approx(3.24 / 127, rel=0.05)

    def error(scale: float) -> float:
        back = np.clip(np.rint(values / scale), -127, 127) * scale
        return float(((values - back) ** 2).mean())

    assert error(chosen) < error(whole) / 3
    assert all(error(chosen) <= 1.05 * error(whole * share) for share in (0.8, 0.5, 0.3, 0.2, 0.15, 0.1, 0.06))
    assert activation_scale(np.zeros_like(shares), INT8) == SMALLEST_SCALE


def test_the_scales_are_those_that_half_precision_has():
    for scale in (
        activation_scale(np.bincount([8000], minlength=len(magnitudes())) * 1.0, form) for form in (INT8, FP8)
    ):
        assert np.float32(np.float16(scale)) == scale
    assert INT8.rounded(np.array([-200, -1.5, 0.5, 127.4], np.float32)).tolist() == [-127, -2, 0, 127]
    assert FP8.rounded(np.array([-900, 17, 19, 448], np.float32)).astype(float).tolist() == [-448, 16, 20, 448]
    assert FP8.rounded(np.zeros(1, np.float32)).dtype == ml_dtypes.float8_e4m3fn


def test_a_loss_beyond_the_limits_is_refused_or_recorded(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    shutil.copytree(small_bundle.path, tmp_path / "small")
    coarse = replace(INT8, largest=1.0)
    monkeypatch.setitem(
        RECIPES, "int8-qdq", replace(RECIPES["int8-qdq"], convert=lambda proto, seen: to_qdq(proto, seen, coarse))
    )
    arguments = [
        str(tmp_path / "small"), "--precision", "int8-qdq", "--phantoms", str(PHANTOMS), "--calibration-phantoms", "16"
    ]  # fmt: skip
    assert quantize.main(arguments) == 1
    told = capsys.readouterr().err
    assert "int8-qdq of the bundle small loses too much, nothing was written" in told
    assert "image tower, batch 1, length 16: mean_cosine" in told
    assert Bundle.open(tmp_path / "small").precisions == {}
    assert quantize.main([*arguments, "--accept-loss"]) == 0
    assert Bundle.open(tmp_path / "small").precisions["int8-qdq"].accepted_loss


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path, small_bundle: Bundle):
    with pytest.raises(BundleError, match="inside its blocks: fp8 would change nothing"):
        add_precision(tiny_bundle(tmp_path / "tiny").path, "fp8", phantoms=PHANTOMS)
    with pytest.raises(ConfigError, match="--calibration-phantoms must be from 16 to 100000, got 15"):
        add_precision(small_bundle.path, "int8-qdq", calibration_phantoms=15)


def test_one_flipped_bit_of_any_file_is_caught_and_named(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    graphs = [f"{side}{end}.onnx{data}" for side in ("image", "text") for end in ("", "-fp16", "-fp8", "-int8", "-int8-qdq")
              for data in ("", ".data")]  # fmt: skip
    assert names == sorted([*graphs, "SHA256SUMS", "golden.npz", "manifest.json", "tokenizer.json"])
    assert [check.name for check in verify(Bundle.open(folder)) if not check.ok] == []
    rng = np.random.default_rng(0)
    for path, name in zip(files, names, strict=True):
        good = path.read_bytes()
        # The manifest may become one that is not read at all, or one that says something else.
        places = {0, len(good) // 2, len(good) - 1, *rng.integers(0, len(good), 60 if name == "manifest.json" else 3)}
        for place in sorted(int(one) for one in places):
            damaged = bytearray(good)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            try:
                told = [f"{check.name} {check.detail}" for check in verify(Bundle.open(folder)) if not check.ok]
            except BundleError as error:
                assert name == "manifest.json"
                told = [str(error)]
            assert any(name in line for line in told), (name, place, told)
        path.write_bytes(good)
    path = folder / "text-int8-qdq.onnx.data"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert "text-int8-qdq.onnx.data is damaged" in run_cli("verify", folder, code=1).stdout
