"""Lower precisions of a small MCR: made once for the whole file, measured, refused, accepted, served."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from conftest import run_cli
from export import quantize
from export.half import LARGEST, SMALLEST, rounded, to_fp16
from export.int8 import quantisable
from export.quantize import RECIPES, add_precision
from export.retrieval import agreement
from mcr_infer.errors import BackendError, BundleError, ConfigError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.verify import verify
from tiny import SENTENCES, tiny_bundle

PHANTOMS = 20
LENGTHS = {"image": (1, 8, 16), "text": (3, 17, 24)}


@pytest.fixture(scope="module")
def plain(small_bundle: Bundle) -> Bundle:
    """The small bundle in fp32 alone."""
    return small_bundle


@pytest.fixture(scope="module")
def bundle(plain: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small bundle with both precisions, admitted within the limits."""
    folder = tmp_path_factory.mktemp("lower") / "small"
    shutil.copytree(plain.path, folder)
    for precision in ("fp16", "int8"):
        arguments = [str(folder), "--precision", precision, "--phantoms", str(PHANTOMS)]
        assert quantize.main(arguments) == 0
    return Bundle.open(folder)


def record(bundle: Bundle, precision: str) -> dict:
    return bundle.manifest["precisions"][precision]


def items(count: int, patches: int = 16, size: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [(rng.random((patches, size), dtype=np.float32), np.arange(patches)) for _ in range(count)]


def test_the_bundle_has_more_towers_in_the_same_space(plain: Bundle, bundle: Bundle):
    assert sorted(bundle.precisions) == ["fp16", "int8"]
    assert plain.precisions == {}
    assert bundle.fingerprint == plain.fingerprint
    assert set(bundle.files) - set(plain.files) == {
        f"{tower}{end}"
        for tower in ("image-fp16.onnx", "text-fp16.onnx", "image-int8.onnx", "text-int8.onnx")
        for end in ("", ".data")
    }
    assert all(bundle.files[name] == known for name, known in plain.files.items())
    assert (bundle.path / "engines" / "image-fp32-sm86.engine").read_bytes() == b"engine"
    half, dynamic = bundle.precisions["fp16"], bundle.precisions["int8"]
    assert (half.runtimes, half.one_item) == (("cuda", "tensorrt"), False)
    assert (dynamic.runtimes, dynamic.one_item) == (("cpu",), True)
    listed = (bundle.path / "SHA256SUMS").read_text()
    assert "  image-int8.onnx.data\n" in listed
    assert "engines" not in listed


@pytest.mark.parametrize(("precision", "cosine", "largest"), [("fp16", 0.99999, 5e-3), ("int8", 0.99, 0.2)])
def test_the_tables_of_parity_and_retrieval_stand_in_the_manifest(
    bundle: Bundle, precision: str, cosine: float, largest: float
):
    found = record(bundle, precision)
    rows = found["parity"]
    assert {(row["tower"], row["batch"], row["length"]) for row in rows} == {
        (tower, batch, length) for tower in LENGTHS for batch in (1, 2, 5) for length in LENGTHS[tower]
    }
    assert all(cosine <= row["mean_cosine"] <= 1 and row["min_cosine"] <= row["mean_cosine"] for row in rows)
    assert 0 < max(row["max_abs"] for row in rows) < largest
    assert all(row["rows_min_cosine"] >= RECIPES[precision].limits.rows_min_cosine for row in rows)
    costs = found["retrieval"]
    names = {"image_to_report_r1", "image_to_report_r10", "report_to_image_r1", "report_to_image_r10"}
    assert set(costs["recall"]) == set(costs["recall_fp32"]) == set(costs["recall_loss"]) == names
    for name in names:
        assert costs["recall_fp32"][name] - costs["recall"][name] == pytest.approx(costs["recall_loss"][name], abs=2e-5)
    assert (costs["phantoms"], costs["first_seed"]) == (PHANTOMS, 100_000)
    assert set(costs["top10_agreement"]) == {"text_to_image", "image_to_report"}
    assert min(costs["top10_agreement"].values()) >= 0.9
    assert found["limits"]["top10_agreement"] == 0.9
    assert (found["accepted_loss"], found["broken_limits"]) == (False, [])


def test_int8_gives_a_row_the_same_vector_in_every_batch(bundle: Bundle):
    images = ImageEncoder(bundle, device="cpu", precision="int8", threads=1)
    batch = items(7)
    alone = np.concatenate([images.encode([one]) for one in batch])
    assert np.array_equal(images.encode(batch), alone)
    texts = TextEncoder(bundle, precision="int8", threads=1)
    assert np.array_equal(texts.encode(SENTENCES), np.concatenate([texts.encode([one]) for one in SENTENCES]))
    assert (images.precision, texts.precision, texts.device) == ("int8", "int8", "cpu")
    # Not so without it: the scale of the activations spans the batch.
    raw = OnnxTower(bundle.verified_tower("image", "int8"), threads=1)
    patches, positions = (np.stack(part) for part in zip(*batch, strict=True))
    together = raw.run({"patches": patches, "positions": positions}, ["embedding"])["embedding"]
    assert not np.array_equal(together, alone)
    full = ImageEncoder(bundle, threads=1)
    assert full.precision == "fp32"
    assert 0.99 < (full.encode(batch) * alone).sum(axis=1).min() < 1 - 1e-7


def test_outputs_of_single_items_are_put_together_with_nothing_at_the_padding(bundle: Bundle):
    tower = open_tower(bundle, "text", precision="int8")
    ids = np.array([[2, 7, 8, 9, 3], [2, 9, 3, 0, 0]])
    mask = (ids > 0).astype(np.int64)
    got = tower.run({"input_ids": ids, "attention_mask": mask})
    short = tower.run({"input_ids": ids[1:, :3], "attention_mask": mask[1:, :3]})
    assert np.array_equal(got["local"][1, :3], short["local"][0])
    assert not got["local"][1, 3:].any()
    assert got["weights"][1].tolist() == [*short["weights"][0].tolist(), 0, 0]
    with pytest.raises(BackendError, match="attention_mask must be 1 for the words"):
        tower.run({"input_ids": ids, "attention_mask": mask[:, ::-1].copy()})
    with pytest.raises(BackendError, match=r"have \[1, 2\] rows"):
        tower.run({"input_ids": ids, "attention_mask": mask[:1]})
    with pytest.raises(BackendError, match="not empty"):
        tower.run({"input_ids": ids[:0], "attention_mask": mask[:0]})


def test_int8_weights_are_seven_bits_a_channel_and_leave_the_maps_alone(bundle: Bundle):
    for side, products in (("image", 2 * 4), ("text", 6)):
        model = onnx.load(bundle.verified_tower(side, "int8"))
        quantised = [one for one in model.graph.initializer if one.data_type == TensorProto.INT8 and len(one.dims) == 2]
        scales = [one for one in model.graph.initializer if one.name.endswith("_scale")]
        nodes = [node.op_type for node in model.graph.node]
        # Four products a block of ViT, six a layer of BERT. The patch projection, map and scorer stay.
        assert nodes.count("MatMulInteger") == len(quantised) == products
        assert len(quantisable(onnx.load(bundle.verified_tower(side)))) == products
        assert max(int(np.abs(numpy_helper.to_array(one).astype(int)).max()) for one in quantised) <= 64
        assert all(len(one.dims) == 1 and one.dims[0] >= 12 for one in scales)


def test_fp16_keeps_norms_softmax_and_aggregation_in_fp32(bundle: Bundle):
    for side in ("image", "text"):
        model = onnx.load(bundle.verified_tower(side, "fp16"))
        onnx.checker.check_model(model, full_check=True)
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
        types = {one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)}
        by_operator = {}
        for node in graph.node:
            by_operator.setdefault(node.op_type, set()).add(types[node.output[0]])
        assert by_operator["LayerNormalization"] == by_operator["Softmax"] == {TensorProto.FLOAT}
        assert by_operator["Gelu"] == {TensorProto.FLOAT16}
        assert TensorProto.FLOAT16 in by_operator["MatMul"]
        assert all(types[one.name] == TensorProto.FLOAT for one in graph.output)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
        halves = [one for one in graph.initializer if one.data_type == TensorProto.FLOAT16]
        assert len(halves) > 10


def test_rounding_to_half_precision_loses_no_number():
    values = np.array([0.0, 1e-30, -1e-30, -3.4e38, 1e5, -np.inf, 0.1], dtype=np.float32)
    expected = [0.0, SMALLEST, -SMALLEST, -LARGEST, LARGEST, -np.inf, np.float16(0.1)]
    assert rounded(values).tolist() == [float(one) for one in expected]


def test_a_precision_is_served_where_it_makes_sense_or_refused(plain: Bundle, bundle: Bundle):
    with pytest.raises(BundleError, match=r"no towers in int8, only in fp32: .*export\.quantize \S+ --precision int8"):
        open_tower(plain, "text", precision="int8")
    with pytest.raises(BackendError, match="fp16 is not served on cpu: the CPU would cast it to fp32"):
        ImageEncoder(bundle, device="cpu", precision="fp16")
    with pytest.raises(BackendError, match="int8 is not served on cuda: this int8 was measured on the CPU alone"):
        ImageEncoder(bundle, device="cuda", precision="int8")
    with pytest.raises(BackendError, match="CUDA was asked for"):
        ImageEncoder(bundle, precision="fp16")


def test_verify_holds_a_precision_to_what_was_recorded(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    done = run_cli("verify", folder, "--precision", "int8", "--json")
    told = json.loads(done.stdout)
    assert told["ok"]
    assert [one["ok"] for one in told["checks"] if one["name"] == "golden image"] == [True]
    limit = bundle.precisions["int8"].tolerance["image"]
    strict = replace(limit, max_abs=limit.max_abs / 100)
    held = replace(bundle.precisions["int8"], tolerance={**bundle.precisions["int8"].tolerance, "image": strict})
    stricter = replace(bundle, precisions={**bundle.precisions, "int8": held})
    failed = {one.name for one in verify(stricter, precision="int8") if not one.ok}
    assert failed == {"golden image"}
    failed = {one.name: one.detail for one in verify(plain_of(bundle), precision="int8") if not one.ok}
    assert set(failed) == {"golden image", "golden text"}
    # One flipped byte of the weights of one precision is found, whichever precision is verified.
    damaged = folder / "text-int8.onnx.data"
    content = bytearray(damaged.read_bytes())
    content[10] ^= 1
    damaged.write_bytes(content)
    assert "text-int8.onnx.data is damaged" in run_cli("verify", folder, code=1).stdout
    with pytest.raises(BundleError, match=r"text-int8\.onnx\.data is damaged"):
        TextEncoder(Bundle.open(folder), precision="int8")
    assert TextEncoder(Bundle.open(folder)).encode(["left pneumothorax"]).shape == (1, 12)


def plain_of(bundle: Bundle) -> Bundle:
    return replace(bundle, precisions={})


def test_a_loss_beyond_the_limits_is_refused_or_recorded(
    plain: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "small"
    shutil.copytree(plain.path, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    coarse = replace(RECIPES["int8"], convert=half_the_bits)
    monkeypatch.setitem(RECIPES, "int8", coarse)
    arguments = [str(folder), "--precision", "int8", "--phantoms", str(PHANTOMS)]
    assert quantize.main(arguments) == 1
    told = capsys.readouterr().err
    assert "int8 of the bundle small loses too much, nothing was written" in told
    assert "image tower, batch 1, length 16: mean_cosine" in told
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert quantize.main([*arguments, "--accept-loss"]) == 0
    found = Bundle.open(folder)
    assert found.precisions["int8"].accepted_loss
    assert any("mean_cosine" in line for line in record(found, "int8")["broken_limits"])
    assert all(one.ok for one in verify(found, precision="int8"))


def half_the_bits(proto: onnx.ModelProto, _: object) -> onnx.ModelProto:
    """Ruin the weights: two bits are left of each."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            step = np.abs(values).max() / 1.5
            tensor.CopyFrom(numpy_helper.from_array((np.round(values / step) * step).astype(np.float32), tensor.name))
    return copy


def test_what_cannot_be_made_is_refused_and_the_bundle_stays(tmp_path: Path, plain: Bundle):
    bundle = tiny_bundle(tmp_path / "tiny")
    with pytest.raises(BundleError, match="no products with constant weights inside its blocks"):
        add_precision(bundle.path, "int8", phantoms=PHANTOMS)
    with pytest.raises(ConfigError, match="--phantoms must be from 20 to 500000, got 3"):
        add_precision(bundle.path, "fp16", phantoms=3)
    (bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"would be lost: notes\.txt"):
        add_precision(bundle.path, "fp16", phantoms=PHANTOMS)
    with pytest.raises(BundleError, match="is not a folder"):
        add_precision(tmp_path / "nothing", "fp16", phantoms=PHANTOMS)


def test_a_value_made_of_half_precision_leaves_the_graph_in_fp32(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    model = to_fp16(onnx.load(bundle.verified_tower("image")))
    onnx.checker.check_model(model, full_check=True)
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    assert (made["local"], made["local_fp16"]) == ("Cast", "Add")


def test_agreement_is_the_share_of_the_first_hits_that_stay():
    gallery = np.eye(20, dtype=np.float32)
    queries = np.linspace(1, 0, 20, dtype=np.float32)[None]
    assert agreement((queries, gallery), (queries, gallery)) == 1.0
    moved = np.roll(queries, 4, axis=1)
    assert agreement((queries, gallery), (moved, gallery)) == 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtimes": []}, "precisions.int8.runtimes must be a list of words"),
        ({"image": "../image.onnx"}, "precisions.int8.image must be a name among files"),
        ({"one_item": 1}, "precisions.int8.one_item must be true or false"),
        ({"tolerance": {"image": {"max_abs": "much"}, "text": {}}}, "tolerance.image.max_abs must be a number"),
    ],
)
def test_a_record_that_makes_no_sense_is_named(bundle: Bundle, tmp_path: Path, change: dict, message: str):
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["precisions"]["int8"] |= change
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message.replace(".", r"\.")):
        Bundle.open(tmp_path)


def test_the_wheel_serves_int8_without_onnx(bundle: Bundle, phantom_folder: Path, tmp_path: Path):
    index = tmp_path / "index"
    first = sorted(phantom_folder.glob("*.dcm"))[:3]
    summary = json.loads(
        run_cli(
            "embed-images", *first, "--index", index, "--bundle", bundle.path, "--precision", "int8", "--json"
        ).stdout
    )
    assert summary["embedded"] == 3
    code = (
        "import sys\nfrom mcr_infer.cli.app import app\n"
        f"try: app(['query', 'no', '--json', '--precision', 'int8', '--index', {str(index)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'onnx', 'timm', 'transformers', 'onnxscript'} & {one.split('.')[0] for one in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "note" not in done.stderr
    mixed = run_cli("query", "no", "--index", index)
    assert "the query was embedded in fp32, the image rows in int8" in mixed.stderr
    refused = run_cli("query", "no", "--index", index, "--precision", "fp16", "--device", "cpu", code=1)
    assert "fp16 is not served on cpu" in refused.stderr
